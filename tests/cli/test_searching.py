"""What `csr-hf search` shows of documents, to readers and to programs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from csr_hf.cli.main import main
from csr_hf.cli.output import print_tables, shorten
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.foreign import one_line
from tests.conftest import make_head

ANSWERS = [
    "Take the manual from the box, read its first two pages, and press the green button until the lamp is on.",
    "Open the lid. Close the lid.",
    "Nobody knows.",
]


@pytest.fixture(scope="module")
def faq(tiny_folder, tmp_path_factory):
    """A folder of questions and answers, indexed with a head of random weights."""
    folder = tmp_path_factory.mktemp("faq")
    make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("router"))).save_pretrained(folder / "head")
    rows = zip(["How do I start?", "How do I clean it?", "What is it for?"], ANSWERS, strict=True)
    lines = [
        json.dumps({"question": question, "answer": answer, "page": f"0{number}", "score": f"a[:x:{number}]"})
        for number, (question, answer) in enumerate(rows)
    ]
    (folder / "faq.jsonl").write_text("\n".join(lines))
    words = ["index", "--data.source", str(folder / "faq.jsonl"), "--head", str(folder / "head"), "--device", "cpu"]
    columns = ["--data.columns", "{anchor: question, positive: answer}", "--data.keep", "[page, score]"]
    assert main([*words, *columns, "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


def search(faq, *words):
    return main(["search", str(faq), *words, "--device", "cpu"])


def test_pairs_show_question_and_answer(faq, capsys):
    capsys.readouterr()
    assert search(faq, "press the green button", "--top-k", "3") == 0
    said = capsys.readouterr().out
    assert "     question: How do I start?\n" in said
    # At the width of no terminal, 80 columns, and at the end of a word.
    assert "     answer: Take the manual from the box, read its first two pages, and ...\n" in said


def test_fields_are_shown_where_they_are_asked_for(faq, capsys):
    capsys.readouterr()
    assert search(faq, "lid", "--show", "question", "--top-k", "3") == 0
    said = capsys.readouterr().out
    assert "     How do I clean it?\n" in said
    assert "lid. Close" not in said


def test_programs_get_whole_texts_and_nothing_else(faq, capsys):
    capsys.readouterr()
    assert search(faq, "lid", "box", "--json", "--top-k", "3", "--show", "question,page") == 0
    found = json.loads(capsys.readouterr().out)
    assert [answer["question"] for answer in found["answers"]] == ["lid", "box"]
    first = {hit["id"]: hit for hit in found["answers"][0]["hits"]}
    assert first.keys() == {"0", "1", "2"}
    assert (first["0"]["text"], first["1"]["metadata"]["question"]) == (ANSWERS[0], "How do I clean it?")
    assert first["2"]["metadata"] == {"question": "What is it for?", "page": "02"}
    assert found["answers"][1]["hits"][0].keys() == first["0"].keys()
    assert found["answers"][0]["milliseconds"] > 0


def test_fields_may_have_the_names_of_what_every_hit_has(faq, capsys):
    capsys.readouterr()
    assert search(faq, "lid", "--json", "--top-k", "3") == 0
    hits = {hit["id"]: hit for hit in json.loads(capsys.readouterr().out)["answers"][0]["hits"]}
    assert all(-1 <= hit["score"] <= 1 for hit in hits.values())
    assert hits["1"]["metadata"] == {"anchor": "How do I clean it?", "page": "01", "score": "a[:x:1]"}


def test_what_looks_like_markup_is_shown_as_it_is(faq, capsys):
    capsys.readouterr()
    assert search(faq, "lid", "--show", "score", "--top-k", "3") == 0
    # Of a terminal's library these are an emoji and a style.
    assert "     a[:x:2]\n" in capsys.readouterr().out
    table = Row("docs[old].csv", "nDCG@10", "CSR", 8, 36, 0.5, 0.9)
    print_tables(Results([table]))
    assert "docs[old].csv " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lid", "--show", "qestion"], "'qestion' is no field of the documents. Did you mean `question`?"),
        (["lid", " "], "a question is empty. Ask in words"),
    ],
)
def test_what_cannot_be_shown_or_asked_is_refused(faq, words, message, capsys):
    capsys.readouterr()
    assert search(faq, *words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("url", "client"),
    [
        ("qdrant://localhost:1", "qdrant_client"),
        ("milvus://localhost:1", "pymilvus"),
        ("postgresql://localhost:1/db", "psycopg"),
        ("elasticsearch://localhost:1", "elasticsearch"),
        ("opensearch://localhost:1", "opensearchpy"),
    ],
)
def test_an_engine_that_is_down_gives_one_line(faq, url, client, capfd):
    pytest.importorskip(client)
    capfd.readouterr()
    assert search(faq, "lid", "--backend", url) == 2
    shown = capfd.readouterr()
    assert "Check that the server runs" in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@given(st.text(max_size=60), st.integers(6, 40))
def test_shortened_texts_fit_and_begin_as_the_text_does(text, width):
    line, short = one_line(text), shorten(text, width)
    assert cell_len(short) <= width
    assert short == line or line.startswith(short.removesuffix(" ..."))


def test_texts_end_at_words():
    assert shorten("one two three four", 14) == "one two ..."
    assert shorten("one two three four", 17) == "one two three ..."
    assert shorten("one\ntwo", 7) == "one two"
    assert shorten("a" * 30, 14) == "a" * 10 + " ..."
    assert shorten("\u4e2d" * 30, 14) == "\u4e2d" * 5 + " ..."


@pytest.fixture
def shop(faq, tiny_folder, tmp_path):
    """A folder of goods with prices and names, indexed with the head of `faq`."""
    (tmp_path / "shop.csv").write_text(
        "sku,text,price,lang\na17,a warm jacket,89.90,en\nb02,eine warme Jacke,79,de\n0003,a cold drink,2.50,en\n"
    )
    words = ["index", "--corpus", str(tmp_path / "shop.csv"), "--head", str(faq.parent / "head"), "--device", "cpu"]
    assert main([*words, "--id-column", "sku", "--keep", "price,lang", "--output-dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def found(capsys, run, *words):
    capsys.readouterr()
    assert main(["search", str(run), "jacket", "--json", "--device", "cpu", *words]) == 0
    return [hit["id"] for hit in json.loads(capsys.readouterr().out)["answers"][0]["hits"]]


def test_documents_are_found_by_what_is_kept_of_them(shop, capsys):
    assert sorted(found(capsys, shop)) == ["0003", "a17", "b02"]
    assert sorted(found(capsys, shop, "--where", 'price < 80 and lang in ["en", "de"]')) == ["0003", "b02"]
    assert found(capsys, shop, "--where", 'lang == "en" and not (price < 80)') == ["a17"]
    assert found(capsys, shop, "--where", "price > 1000") == []
    everything = found(capsys, shop)
    for words in (["--exact"], ["--nprobe", "all"], ["--nprobe", "auto", "--candidates", "7"], ["--rerank", "codes"]):
        assert sorted(found(capsys, shop, *words)) == sorted(everything)
    assert main(["search", str(shop), "jacket", "--where", "prise < 3", "--device", "cpu"]) == 2
    assert "there is no column 'prise'. Did you mean `price`?" in capsys.readouterr().err


def test_documents_are_added_and_deleted(shop, capsys, tmp_path):
    more = tmp_path / "more.csv"
    more.write_text("sku,text,price,lang\nc1,a red coat,99,en\na17,a warm coat,90,en\n")
    assert main(["add", str(shop), str(more), "--device", "cpu"]) == 2
    assert "'a17' is in use. Delete it first, or pass --replace." in capsys.readouterr().err
    assert len(found(capsys, shop)) == 3
    assert main(["add", str(shop), str(more), "--replace", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(shop), "added": 2, "documents": 4}
    assert sorted(found(capsys, shop, "--where", "price >= 90")) == ["a17", "c1"]
    assert main(["delete", str(shop), "--where", 'lang == "de"']) == 0
    assert "1 documents deleted" in capsys.readouterr().out
    assert main(["delete", str(shop), "--ids", "a17,nothing"]) == 2
    assert "no document 'nothing'. Pass --missing-ok to pass over it." in capsys.readouterr().err
    assert main(["delete", str(shop), "--ids", "a17,nothing", "--missing-ok", "--compact"]) == 0
    assert sorted(found(capsys, shop)) == ["0003", "c1"]
    for command in (["delete", str(tmp_path / "none"), "--ids", "x"], ["add", str(tmp_path / "none"), str(more)]):
        assert main([*command, "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert "none" in said and "InvertedIndex" not in said
    assert main(["delete", str(shop)]) == 2
    assert "either --ids a,b or --where" in capsys.readouterr().err


def test_rows_without_ids_get_the_next_numbers(faq, capsys, tmp_path):
    import shutil

    shutil.copytree(faq, tmp_path / "run")
    (tmp_path / "more.jsonl").write_text(json.dumps({"answer": "Read the last page.", "page": "9"}))
    words = ["--text-column", "answer", "--device", "cpu"]
    assert main(["add", str(tmp_path / "run"), str(tmp_path / "more.jsonl"), *words]) == 2
    assert "no such column" in capsys.readouterr().err
    (tmp_path / "more.jsonl").write_text(json.dumps({"answer": "Read the last page.", "page": "9", "score": "1"}))
    assert main(["add", str(tmp_path / "run"), str(tmp_path / "more.jsonl"), *words]) == 0
    assert found(capsys, tmp_path / "run", "--where", "page == 9") == ["3"]


def test_numbers_that_the_data_gives_are_ids(faq, capsys, tmp_path):
    """Numbers from 0 on are what rows without ids have, too."""
    import shutil

    shutil.copytree(faq, tmp_path / "run")
    more = tmp_path / "more.jsonl"
    rows = [{"nr": nr, "answer": f"Read page {nr}.", "page": nr, "score": "1"} for nr in ("0", "1")]
    more.write_text("\n".join(map(json.dumps, rows)))
    words = ["add", str(tmp_path / "run"), str(more), "--text-column", "answer", "--device", "cpu"]
    assert main([*words, "--id-column", "nr"]) == 2
    assert "'0' is in use" in capsys.readouterr().err
    assert main([*words, "--id-column", "nr", "--replace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 3
    # A row that is left out takes its number along.
    rows = [{"answer": text, "page": "77", "score": "1"} for text in ("Sit down.", "", "Stand up.")]
    more.write_text("\n".join(map(json.dumps, rows)))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(tmp_path / "run"), "added": 2, "documents": 5}
    assert sorted(found(capsys, tmp_path / "run", "--where", "page == 77")) == ["3", "4"]


def test_a_backend_filters_by_what_is_kept(shop, faq, tmp_path, capfd):
    pytest.importorskip("milvus_lite", reason='pip install "csr_hf[milvus]"')
    engine = ["--backend", f"milvus-lite:{tmp_path / 'shop.db'}", "--device", "cpu"]
    words = ["index", "--corpus", str(tmp_path / "shop.csv"), "--head", str(faq.parent / "head"), *engine]
    assert main([*words, "--id-column", "sku", "--keep", "price,lang", "--output-dir", str(tmp_path / "there")]) == 0
    for condition in (
        "price < 80",
        'price < 80 and lang == "en"',
        'lang != "en"',
        "price == None",
        "not (price > 79)",
    ):
        found = []
        for run, where in ((shop, ["--device", "cpu"]), (tmp_path / "there", engine)):
            capfd.readouterr()
            assert main(["search", str(run), "a warm", "--where", condition, "--json", *where]) == 0
            shown = capfd.readouterr()
            # The bar of `datasets`, which another test imported before the command could turn it off.
            assert not [line for line in shown.err.splitlines() if line and not line.startswith("Generating")]
            (answer,) = json.loads(shown.out)["answers"]
            found.append(sorted(hit["id"] for hit in answer["hits"]))
        # A document that shares no latent with the question is no hit in an engine.
        assert set(found[1]) <= set(found[0]), condition
        assert found[1] or not found[0], condition
    assert main(["search", str(tmp_path / "there"), "a warm", "--where", "prize < 80", *engine]) == 2
    shown = capfd.readouterr()
    assert "there is no column 'prize'. Did you mean `price`?" in shown.err and shown.err.count("\n") == 1
