import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from csr_hf.plumbing.foreign import inline, one_line, read_json, read_yaml, visible

EVIL = (
    "{{ 7*7 }}<script>alert(1)</script>\n\n# HEADING\n[click](javascript:alert(1)) ![i](http://h/x.png) `c` a|b &lt;"
)


def test_text_of_a_page_is_neither_html_nor_a_link_nor_a_heading():
    shown = inline(EVIL)
    assert "\n" not in shown and "<" not in shown and "`" not in shown
    assert "&lt;script&gt;" in shown
    assert r"\[click\](javascript" in shown and r"!\[i\](http" in shown and r"a\|b" in shown
    assert inline({"a": [EVIL, 1, None], EVIL: True}) == {"a": [shown, 1, None], shown: True}


def test_what_is_harmless_stays():
    for text in (
        "texts.parquet, 30 held-out texts",
        "CSR + int8",
        "user/name",
        "a_b*c",
        "± 1.0 % (95 %)",
        "Straße 中文",
    ):
        assert inline(text) == one_line(text) == visible(text) == text


@given(st.text())
def test_what_was_made_safe_stays_as_it_is(text):
    assert inline(inline(text)) == inline(text)


def test_nothing_steers_a_terminal():
    assert one_line("a\x1b[2J\x07b\r\nc\u202ed\x9b") == "a[2Jb cd"
    assert visible("a\nb\tc\x1b]0;x\x07") == "a\nb\tc]0;x"
    assert visible("👩\u200d👩") == "👩\u200d👩"


def test_yaml_of_a_run_is_read(tmp_path):
    content = {"training": {"reconstruction": {0.25: 1.0}}, "data": {"sources": [{"source": "a"}]}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert read_yaml(tmp_path / "r.yaml") == content
    (tmp_path / "r.yaml").write_text("")
    assert read_yaml(tmp_path / "r.yaml") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("[1, 2]", "no mapping"),
        ("a: !!python/object/apply:os.system ['touch x']", "could not determine a constructor"),
        ("a: b: c", "mapping values"),
        ("x" * 300_000, "262,144 bytes"),
        ("a: '\x00'", "special characters"),
    ],
)
def test_yaml_that_harms_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"r\.yaml cannot be read") as refused:
        read_yaml(tmp_path / "r.yaml")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[" * 200_000])
def test_json_that_harms_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"r\.json is (not JSON|nested too deeply)") as refused:
        read_json(tmp_path / "r.json")
    assert "\n" not in str(refused.value)
