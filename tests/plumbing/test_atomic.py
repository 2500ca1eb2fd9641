import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from csr_hf.plumbing import atomic
from csr_hf.plumbing.atomic import check_space, check_writable, restore, write_whole


def content(folder):
    return {path.name: path.read_text() if path.is_file() else content(path) for path in folder.iterdir()}


def write_folder(path, text):
    path.mkdir()
    (path / "part").write_text(text)


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """Both ways to replace a folder: in one step, and where the system has none."""
    if request.param == "renames":
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    elif atomic._renameat2() is None:
        pytest.skip("this system cannot exchange two names")
    return request.param


def test_file_and_folder_appear_when_complete(tmp_path):
    with write_whole(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "deep" / "file").exists()
    with write_whole(tmp_path / "deep" / "folder", folder=True) as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"deep": {"file": "new", "folder": {"part": "new"}}}


def test_older_ones_are_replaced(tmp_path, way):
    (tmp_path / "file").write_text("old")
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "folder" / "only in the old one").write_text("old")
    with write_whole(tmp_path / "file") as temporary:
        temporary.write_text("new")
    with write_whole(tmp_path / "folder", folder=True) as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"file": "new", "folder": {"part": "new"}}


@pytest.mark.parametrize("path", ["folder", "folder/", "link"])
def test_a_file_never_takes_the_place_of_a_folder(tmp_path, way, path):
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    before = content(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"is a folder. Give the name of a file"):
        with write_whole(f"{tmp_path}/{path}"):
            pytest.fail("nothing is to be written")
    assert content(tmp_path) == before
    # Nor of one that was made meanwhile.
    with pytest.raises(IsADirectoryError):
        with write_whole(tmp_path / "late") as temporary:
            temporary.write_text("new")
            write_folder(tmp_path / "late", "old")
    assert content(tmp_path) == {**before, "late": {"part": "old"}}


def test_a_link_to_a_folder_is_replaced_and_its_target_stays(tmp_path, way):
    write_folder(tmp_path / "target", "old")
    (tmp_path / "folder").symlink_to(tmp_path / "target")
    with write_whole(tmp_path / "folder", folder=True) as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"folder": {"part": "new"}, "target": {"part": "old"}}


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()])
def test_failure_leaves_the_old_and_nothing_else(tmp_path, error):
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")
    before = content(tmp_path)
    with pytest.raises(type(error)), write_whole(tmp_path / "folder", folder=True) as temporary:
        write_folder(temporary, "half")
        raise error
    with pytest.raises(type(error)), write_whole(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert content(tmp_path) == before


def test_old_folder_stays_when_the_new_one_cannot_be_renamed(tmp_path, way):
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "folder", folder=True):
        pass  # Nothing was written, so there is nothing to rename.
    assert content(tmp_path) == {"folder": {"part": "old"}}


def kill_a_writer(path, seconds):
    """Kill a process that writes a folder again and again."""
    child = os.fork()
    if child == 0:
        for number in itertools.count():
            with write_whole(path, folder=True) as temporary:
                temporary.mkdir()
                for part in "ab":
                    (temporary / part).write_text(str(number))
    while not path.is_dir():
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_killed_writer_always_leaves_a_whole_folder(tmp_path, way):
    rng = np.random.default_rng(0)
    folder = tmp_path / "folder"
    for seconds in rng.uniform(0, 0.02, 20):
        kill_a_writer(folder, seconds)
        restore(folder)
        assert (folder / "a").read_text() == (folder / "b").read_text()
        assert set(content(folder)) == {"a", "b"}
    with write_whole(folder, folder=True) as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"folder": {"part": "new"}}


def test_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    """Where folders cannot be exchanged: the old one is put back by whoever reads or writes next."""
    write_folder(tmp_path / "folder", "old")
    child = os.fork()
    if child == 0:
        replace = os.replace

        def killed_after(*paths):
            replace(*paths)
            os.kill(os.getpid(), signal.SIGKILL)

        atomic._renameat2, os.replace = lambda: None, killed_after
        with write_whole(tmp_path / "folder", folder=True) as temporary:
            write_folder(temporary, "new")
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    restore(tmp_path / "folder")
    assert content(tmp_path / "folder") == {"part": "old"}
    with write_whole(tmp_path / "folder", folder=True) as temporary:
        write_folder(temporary, "newer")
    assert content(tmp_path) == {"folder": {"part": "newer"}}


def test_nothing_of_a_process_that_lives_is_removed(tmp_path):
    machine, ended = atomic._machine(), subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "ended": f".file.{machine}.{ended.pid}.1",
        "living": f".file.{machine}.{os.getppid()}.1",
        "elsewhere": f".file.{machine + 1}.{ended.pid}.1",
        "forgotten": f".file.{machine + 1}.{ended.pid}.2",
        "of another file": f".other.{machine}.{ended.pid}.1",
        "of a person": ".file.1.2",
    }
    for name in names.values():
        (tmp_path / name).write_text("")
    os.utime(tmp_path / names["forgotten"], (0, 0))
    with write_whole(tmp_path / "file") as temporary:
        # Another write of this process, in another thread.
        with write_whole(tmp_path / "." / "else") as other:
            other.write_text("")
        temporary.write_text("")
    left = {name for name, file in names.items() if (tmp_path / file).exists()}
    assert left == {"living", "elsewhere", "of another file", "of a person"}


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("1" * 2000), lambda path: save_file({"a": torch.zeros(2000)}, path)],
    ids=["text", "safetensors"],
)
def test_a_full_disk_is_named_with_what_to_do(tmp_path, write):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        # The limit on the size of a file stands for a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with write_whole(tmp_path / "file") as temporary:
                write(temporary)
        except OSError as error:
            os.write(theirs, f"{error.errno} {error}".encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        assert pipe.read() == (
            f"{errno.EFBIG} cannot write {tmp_path / 'file'}: File too large. Free some space in {tmp_path}, or "
            "choose another folder; what was finished is kept."
        )
    assert content(tmp_path) == {}


def test_a_full_disk_behind_the_error_of_a_library_is_found(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*file: No space left") as caught, write_whole(tmp_path / "file"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 576 vs 534")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="a bug"), write_whole(tmp_path / "file"):
        raise RuntimeError("a bug")


def test_what_does_not_fit_is_refused(tmp_path):
    check_space(tmp_path / "file", 1000)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device\. Free some space in "):
        check_space(tmp_path / "file", 2**62)


def test_torch_says_that_the_disk_is_full_through_an_open_file(tmp_path):
    """What checkpoints rely on: torch hides the error of a path that it opens itself."""

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"), write_whole(tmp_path / "file"):
        torch.save({"a": torch.zeros(100)}, Full())


def test_writable_folders_pass_and_stay_untouched(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/run: .*Choose another folder"):
        check_writable(tmp_path / "file" / "run")
