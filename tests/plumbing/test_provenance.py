import pytest

from csr_hf.plumbing.provenance import forget_flag, record_command, recorded_command


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("csr-hf run a.yaml --overwrite", "csr-hf run a.yaml"),
        ("csr-hf run --overwrite a.yaml --k 4", "csr-hf run a.yaml --k 4"),
        ("csr-hf card runs/a --overwrite-card", "csr-hf card runs/a --overwrite-card"),
        ("", ""),
    ],
)
def test_a_flag_that_is_done_leaves_the_recorded_command(before, after):
    record_command(before)
    forget_flag("--overwrite")
    try:
        assert recorded_command() == after
    finally:
        record_command("")
