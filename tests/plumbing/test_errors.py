import errno
import os

import pytest

from csr_hf.plumbing.errors import explain


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, "a.csv: permission denied. Check who may read and write it: `ls -l`."),
        (errno.EISDIR, "a.csv: is a directory. Give a file."),
        (errno.ENOENT, "a.csv: no such file or directory. Check how it is spelled."),
        (errno.ENOSPC, "a.csv: no space left on device. Free some space there, then give the same command again."),
        (errno.EIO, "a.csv: input/output error"),
    ],
)
def test_refusals_of_the_system_name_the_file_and_the_next_step(number, expected):
    assert explain(OSError(number, os.strerror(number), "a.csv")) == expected


def test_other_messages_stay_on_one_line():
    assert explain(ValueError("first\n  second")) == "first second"
    assert explain(MemoryError()) == "MemoryError"
    assert explain(OSError(errno.ENOSPC, "cannot write a head. Choose another folder.")) == (
        "cannot write a head. Choose another folder."
    )
    assert explain(OSError("cannot write head: disk full")) == "cannot write head: disk full"
