import bz2
import gzip

import pytest
import zstandard

from csr_hf.data.text_files import open_text, read_lines

LINES = ["first", "", "page\x0cbreak", "a\u2028b", "c\u0085d", "e\x1cf", "nul\0", "\U0001f600 end"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_end_at_line_breaks_alone(tmp_path, end, encoding):
    path = tmp_path / "lines.txt"
    path.write_bytes(end.join(LINES).encode(encoding))
    assert list(read_lines(path)) == LINES
    path.write_bytes((end.join(LINES) + end).encode(encoding))
    assert list(read_lines(path)) == LINES


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)]
)
def test_compressed_files_are_read_whole(tmp_path, ending, compress):
    path = tmp_path / f"lines.txt{ending}"
    content = "".join(f"line {number}\n" for number in range(5000)).encode()
    path.write_bytes(compress(content[:30_000]) + compress(content[30_000:]))
    assert list(read_lines(path)) == content.decode().splitlines()
    path.write_bytes(compress(content)[:-9])
    with pytest.raises(OSError):
        list(read_lines(path))


def test_the_first_line_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "my docs.csv"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(["plain"] * 30_000 + ["caf\xe9", "more", "caf\xe9"]).encode("latin1"))
        with pytest.raises(ValueError) as error, open_text(path) as file:
            file.read()
        next_step = "iconv -f latin1 -t utf-8 'my docs.csv' > 'my docs.utf8.csv'"
        assert str(error.value) == f"line 30001 is not UTF-8 (byte 0xe9). Convert it: {next_step}"
    compressed = tmp_path / "docs.csv.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"line 30001 .* Decompress and convert it: .* docs\.csv > docs\.utf8\.csv$"):
        list(read_lines(compressed))


def test_utf16_without_a_mark_is_named(tmp_path):
    path = tmp_path / "docs.csv"
    for encoding in ("utf-16le", "utf-16be"):
        path.write_bytes("text\nhello\n".encode(encoding))
        with pytest.raises(ValueError, match=rf"^it is UTF-16 without .*: iconv -f {encoding} -t utf-8 docs\.csv > "):
            list(read_lines(path))
    path.write_bytes(b"\xff\xfea\0b")
    with pytest.raises(ValueError, match=r"^it begins as UTF-16, but is not\. Save it again as UTF-8\.$"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("ending", "begin"), [(".gz", b"\x1f\x8b"), (".bz2", b"BZh91AY&SY"), (".zst", b"\x28\xb5\x2f\xfd")]
)
def test_a_compressed_file_without_its_ending_is_named(tmp_path, ending, begin):
    (tmp_path / "faq.csv").write_bytes(begin + bytes(range(128, 200)))
    with pytest.raises(ValueError, match=rf"it is compressed\. Give it the ending that says so: faq\.csv\{ending}"):
        list(read_lines(tmp_path / "faq.csv"))
    (tmp_path / "faq.csv").write_text("BZhang wrote this\n")
    assert list(read_lines(tmp_path / "faq.csv")) == ["BZhang wrote this"]
