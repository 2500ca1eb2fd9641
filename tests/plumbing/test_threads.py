"""Tasks on several threads: results in order, errors raised, a fork survived."""

import os
import subprocess
import sys

import pytest

from csr_hf.cli.main import main
from csr_hf.plumbing.threads import run

FORK = """
import os
from csr_hf.plumbing.threads import run
run(pow, [(i, 2) for i in range(9)], 3)
child = os.fork()
if child == 0:
    os._exit(0 if run(pow, [(i, 2) for i in range(9)], 3)[8] == 64 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(threads):
    assert run(pow, [(i, 2) for i in range(50)], threads) == [i * i for i in range(50)]
    assert run(pow, [], threads) == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_error_reaches_the_caller_and_later_calls_work(threads):
    for bad in (0, 7, 49):
        with pytest.raises(ZeroDivisionError):
            run(divmod, [(1, abs(i - bad)) for i in range(50)], threads)
    assert run(divmod, [(7, 2)] * 3, threads) == [(3, 1)] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_can_run_tasks():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_search_needs_neither_torch_nor_transformers():
    code = "import sys, csr_hf.search.index as i; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_commands_keep_torch_from_spinning_unless_told_otherwise(given, expected, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Set first, so that what the command sets is taken back at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main(["info", "nowhere"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected
