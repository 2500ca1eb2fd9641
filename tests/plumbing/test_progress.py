import io
import logging
import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from csr_hf.plumbing import progress
from csr_hf.plumbing.progress import Bar, LoggedProgress, Pace


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_pace_is_that_after_the_warm_up(clock):
    pace = Pace()
    assert pace.rate(0) == 0
    # The first step compiles for 20 seconds, all others take a tenth of one.
    clock.now += 20
    pace.observe(1)
    assert pace.rate(1) == 0
    for done in range(2, 32):
        clock.now += 0.1
        pace.observe(done)
    assert pace.rate(31) == pytest.approx(10)


def test_a_bar_estimates_after_the_warm_up(clock):
    bar = Bar(total=1001, desc="training", unit="step", file=io.StringIO())
    clock.now += 20
    bar.update()
    assert "?" in str(bar).split("<")[1]
    for _ in range(100):
        clock.now += 0.125
        bar.update()
    assert "<01:52,  8.00step/s" in str(bar)
    bar.close()


def test_a_log_gets_a_line_every_ten_seconds(clock, caplog):
    caplog.set_level(logging.INFO, "csr_hf")
    bar = LoggedProgress(desc="embedding text", unit="input", total=50_000)
    with bar:
        for _ in range(30):
            clock.now += 1
            bar.update(1_000)
    assert caplog.messages == [
        "embedding text: 10,000 of 50,000 (20%), 00:40 left",
        "embedding text: 20,000 of 50,000 (40%), 00:30 left",
        "embedding text: 30,000 of 50,000 (60%), 00:20 left",
    ]


def test_short_steps_leave_nothing_in_a_log(caplog):
    caplog.set_level(logging.INFO, "csr_hf")
    assert list(LoggedProgress(range(3), desc="counting", unit="number")) == [0, 1, 2]
    assert caplog.messages == []


def test_what_has_no_length_is_counted(clock, caplog):
    caplog.set_level(logging.INFO, "csr_hf")
    lines = LoggedProgress(iter("abcd"), desc="reading", unit="row")
    for letter in lines:
        clock.now += 5
        if letter == "c":
            lines.set_description("reading on")
    assert caplog.messages == ["reading: 2 rows", "reading on: 4 rows"]


SCRIPT = """
import sys
from csr_hf.plumbing.logs import progress_bar, set_verbosity_info
set_verbosity_info()
for _ in progress_bar(range(3), desc="counting", unit="number"): pass
"""


def test_bars_are_for_terminals():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert done.stderr == b""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=end, check=True)
    os.close(end)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert re.search(r"counting: 100%.*3/3", shown)
