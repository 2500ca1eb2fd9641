import pytest

from csr_hf.plumbing.atomic import check_writable, write_whole


def content(folder):
    return {path.name: path.read_text() if path.is_file() else content(path) for path in folder.iterdir()}


def write_folder(path, text):
    path.mkdir()
    (path / "part").write_text(text)


def test_file_and_folder_appear_when_complete(tmp_path):
    with write_whole(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "deep" / "file").exists()
    with write_whole(tmp_path / "deep" / "folder") as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"deep": {"file": "new", "folder": {"part": "new"}}}


def test_older_ones_are_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "folder" / "only in the old one").write_text("old")
    with write_whole(tmp_path / "file") as temporary:
        temporary.write_text("new")
    with write_whole(tmp_path / "folder") as temporary:
        write_folder(temporary, "new")
    assert content(tmp_path) == {"file": "new", "folder": {"part": "new"}}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_leaves_the_old_and_nothing_else(tmp_path, error):
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")
    before = content(tmp_path)
    with pytest.raises(type(error)), write_whole(tmp_path / "folder") as temporary:
        write_folder(temporary, "half")
        raise error
    with pytest.raises(type(error)), write_whole(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert content(tmp_path) == before


def test_old_folder_comes_back_when_the_new_one_cannot_be_renamed(tmp_path):
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "folder"):
        pass  # Nothing was written, so there is nothing to rename.
    assert content(tmp_path) == {"folder": {"part": "old"}}


def test_writable_folders_pass_and_stay_untouched(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/run: .*Choose another folder"):
        check_writable(tmp_path / "file" / "run")
