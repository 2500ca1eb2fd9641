import io
import logging
import subprocess
import sys

import pytest

import csr_hf
from csr_hf.plumbing.logs import progress_bar, shows_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restored():
    csr_hf.enable_progress_bars()
    yield
    csr_hf.enable_progress_bars()
    logging.getLogger("csr_hf").setLevel(logging.NOTSET)


def test_bars_are_drawn_on_terminals_alone(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not shows_progress()
    assert shows_progress(True)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert shows_progress()
    assert not shows_progress(False)
    monkeypatch.setenv("RANK", "1")
    assert not shows_progress()
    assert shows_progress(True)
    monkeypatch.setenv("RANK", "0")
    assert shows_progress()
    csr_hf.disable_progress_bars()
    assert not shows_progress()
    assert shows_progress(True)


def test_a_bar_counts_and_writes_only_where_it_is_shown(monkeypatch):
    for terminal, is_drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(progress_bar(range(3), desc="counting", unit="number")) == [0, 1, 2]
        assert ("counting" in terminal.getvalue()) is is_drawn


def test_the_library_warns_alone_until_it_is_asked_to_speak():
    script = (
        "import csr_hf, logging, sys\n"
        "log = logging.getLogger('csr_hf.runs')\n"
        "log.info('never')\n"
        "log.warning('first')\n"
        "csr_hf.set_verbosity_info()\n"
        "log.info('second')\n"
        "csr_hf.set_verbosity_error()\n"
        "log.warning('third')\n"
        "log.error('fourth')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "first\nsecond\nfourth\n")
