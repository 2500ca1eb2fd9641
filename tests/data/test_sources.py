import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csr_hf.data.arguments import DataArguments, SourceArguments
from csr_hf.data.sources import Source, load_sources
from csr_hf.training.rows import TrainingRows

ROWS = [{"question": f"what is {n}", "answer": f"it is the number {n}", "n": n} for n in range(200)]
COLUMNS = {"anchor": "question", "positive": "answer"}


def write(kind, folder):
    dataset = Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    if kind == "csv":
        dataset.to_csv(path)
    elif kind == "tsv":
        dataset.to_csv(path, sep="\t")
    elif kind == "jsonl":
        dataset.to_json(path)
    elif kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "folder":
        dataset.save_to_disk(path)
    elif kind == "splits":
        DatasetDict(train=dataset, test=dataset.select(range(3))).save_to_disk(path)
    return str(path)


def test_columns_named_like_roles_need_no_mapping(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"d{n}", "text": f"text {n}"}) for n in range(5)))
    texts = load_sources(DataArguments(source=str(path)))[0]
    assert texts.roles == ("text",)
    assert texts.query_role is None
    assert list(texts.rows["id"]) == ["d0", "d1", "d2", "d3", "d4"]


def test_empty_rows_are_dropped_texts_cut_and_rows_limited(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = ["aaaa", "", None, "   ", "bb", "cccccc"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in rows))
    texts = load_sources(DataArguments(source=str(path), limit=5, max_characters=3))[0]
    assert list(texts.rows["text"]) == ["aaa", "bb"]
    assert list(texts.rows["id"]) == ["0", "4"]


def test_split_goes_by_document_and_never_moves(tmp_path):
    few = load_sources(DataArguments(source=write("csv", tmp_path), columns=COLUMNS, held_out=0.3, limit=100))[0]
    path = tmp_path / "more.jsonl"
    repeated = ROWS + [{"question": "again", "answer": row["answer"].upper(), "n": 0} for row in ROWS]
    path.write_text("\n".join(map(json.dumps, repeated)))
    more = load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3))[0]
    assert np.array_equal(more.held_out[:100], few.held_out)
    assert np.array_equal(more.held_out[:200], more.held_out[200:])
    assert 0.2 < more.held_out.mean() < 0.4
    other = load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3, seed=1))[0]
    assert not np.array_equal(other.held_out, more.held_out)
    assert not load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0))[0].held_out.any()


def test_missing_column_names_those_present(tmp_path):
    source = write("csv", tmp_path)
    with pytest.raises(ValueError, match=r"'frage'.*no such column.*question, answer, n"):
        load_sources(DataArguments(source=source, columns={"anchor": "frage", "positive": "answer"}))[0]
    with pytest.raises(ValueError, match=r"has none of the columns `text`.*question, answer, n"):
        load_sources(DataArguments(source=source))[0]


def test_column_of_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'n' holds int, not text, in row 0"):
        load_sources(DataArguments(source=write("parquet", tmp_path), columns={"text": "n"}))[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"held_out": 1.0}, r"^`held_out` \(1\.0\): should be less than 1\.$"),
        ({"limit": 0}, r"^`limit` \(0\): should be greater than or equal to 1\.$"),
        ({"columns": {"query": "q"}}, r"^`data\.columns` names the roles \['query'\]\. Give `anchor` and `positive` "),
        ({"weight": 0}, r"^`weight` \(0\.0\) of the data must be above 0\. Leave the source out\.$"),
    ],
)
def test_arguments_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**values)


def test_texts_of_a_list_are_joined(tmp_path):
    path = tmp_path / "lists.parquet"
    Dataset.from_dict({"text": [["a", "b"], [], ["c"]]}).to_parquet(path)
    assert list(load_sources(DataArguments(source=str(path), held_out=0))[0].rows["text"]) == ["a b", "c"]


def test_triplets_and_classes(tmp_path):
    path = tmp_path / "triplets.parquet"
    rows = [{"anchor": f"a{n}", "positive": f"p{n}", "negative": f"n{n}", "text": f"t{n}"} for n in range(6)]
    Dataset.from_list(
        [{**row, "label": label} for row, label in zip(rows, [3, 1, 3, None, -1, 1], strict=True)]
    ).to_parquet(path)
    (triplets,) = load_sources(DataArguments(source=str(path), held_out=0))
    assert triplets.roles == ("anchor", "positive", "negative")
    assert (triplets.document_role, triplets.query_role, triplets.labels) == ("positive", "anchor", None)
    assert list(triplets.rows["negative"])[:2] == ["n0", "n1"]
    columns = {"text": "text", "label": "label"}
    (labeled,) = load_sources(DataArguments(source=str(path), columns=columns, held_out=0))
    assert labeled.roles == ("text",)
    assert list(labeled.labels) == [1, 0, 1, -1, -1, 0]


def test_classes_may_be_names(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("text,label\none,b\ntwo,a\n,b\nthree,b\n")
    assert list(load_sources(DataArguments(source=str(path), held_out=0))[0].labels) == [1, 0, 1]


def test_several_sources_keep_their_columns_limits_and_weights(tmp_path):
    csv, folder = write("csv", tmp_path), write("folder", tmp_path)
    arguments = DataArguments(
        limit=50,
        sources=[
            SourceArguments(source=csv, columns=COLUMNS, weight=2.0),
            SourceArguments(source=folder, columns={"text": "answer"}, limit=20),
        ],
    )
    sources = load_sources(arguments)
    assert [len(source) for source in sources] == [50, 20]
    assert [source.roles for source in sources] == [("anchor", "positive"), ("text",)]
    assert [source.weight for source in sources] == [2.0, None]
    assert [source.name for source in sources] == ["rows.csv", "rows.folder"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "a.csv", "weight": -1},
            r"^`weight` \(-1\.0\) of a\.csv must be above 0\. Leave the source out\.$",
        ),
        ({"columns": {"anchor": "a", "label": "b"}}, r"names the roles \['anchor', 'label'\]"),
        ({"limit": 0}, r"`limit` \(0\): should be greater than or equal to 1"),
    ],
)
def test_sources_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SourceArguments(**settings)


def test_roles_are_kept_in_the_order_of_their_layout():
    anchors, positives, negatives = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    source = Source.from_arrays({"anchor": anchors, "negative": negatives, "positive": positives})
    assert source.roles == ("anchor", "positive", "negative")
    rows = TrainingRows([source], paired=True)
    np.testing.assert_array_equal(rows.positives(np.arange(6)), positives)
    np.testing.assert_array_equal(rows.negatives(np.arange(6)), negatives)
    assert Source.from_arrays({"text": anchors, "image": positives}).query_role == "text"


@pytest.mark.parametrize("roles", [("anchor", "negative"), ("text", "label"), ("query",)])
def test_roles_that_are_no_layout_are_refused(roles):
    with pytest.raises(
        ValueError, match=rf"^`roles` \({', '.join(roles)}\) of mine are no layout.*; anchor \+ positive;"
    ):
        Source("mine", roles, np.zeros(3, bool))


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet"])
@pytest.mark.parametrize("row", [37, 3])
def test_embeddings_that_are_no_numbers_are_named_by_file_and_row(tmp_path, kind, row):
    rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    path = tmp_path / f"nan.{kind}"
    # Half of the rows are held out, whichever these are.
    options = {"source": str(path), "held_out": 0.5}
    for value in (np.nan, 1.0):
        rows[row, 5] = value
        if kind == "npy":
            np.save(path, rows)
        elif kind == "npz":
            np.savez(path, embedding=rows)
        else:
            Dataset.from_dict({"embedding": list(rows)}).to_parquet(path)
        if np.isnan(value):
            with pytest.raises(ValueError, match=rf"nan.{kind}, row {row} holds NaN or infinity"):
                load_sources(DataArguments(**options))
    assert len(load_sources(DataArguments(**options))[0]) == 200


def test_classes_have_names_and_gaps(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,7\nb,0\nc,\nd,5\ne,7\n")
    with caplog.at_level("INFO", "csr_hf"):
        (source,) = load_sources(DataArguments(source=str(path), held_out=0))
    assert "a.csv: 1 of 5 rows have no class: 2" in caplog.messages
    assert source.class_names == ("0", "5", "7")
    assert source.labels.tolist() == [2, 0, -1, 1, 2]


def test_columns_to_show_are_beside_the_documents(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("id,question,answer,url\n1,q1,a1,007\n2,q2,a2,\n3,q3,,x\n")
    (source,) = load_sources(DataArguments(source=str(path), columns=COLUMNS, keep=["question", "url"]))
    assert source.show_documents()[:] == {
        "id": ["1", "2"],
        "text": ["a1", "a2"],
        "anchor": ["q1", "q2"],
        "question": ["q1", "q2"],
        "url": ["007", None],
    }
    path.write_text("anchor,positive\nq1,a1\n")
    (source,) = load_sources(DataArguments(source=str(path), keep=["anchor", "positive"]))
    assert source.show_documents()[:] == {"id": ["0"], "text": ["a1"], "anchor": ["q1"], "positive": ["a1"]}


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=1, max_size=30),
    more=st.lists(st.sampled_from(["a", "A ", " a", "b", "c", "x y", "X  Y"]), max_size=10),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_document_is_on_both_sides_and_more_rows_move_none(tmp_path, texts, more, share, seed):
    def load(rows):
        (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in rows]))
        (source,) = load_sources(DataArguments(source=str(tmp_path / "a.json"), held_out=share, seed=seed))
        return {name: bool(out) for name, out in zip(source.rows["id"], source.held_out, strict=True)}, source

    first, _ = load([*texts, "a"])
    second, source = load([*texts, "a", *more])
    assert first.items() <= second.items()
    sides = [
        {
            " ".join(text.lower().split())
            for text, out in zip(source.rows["text"], source.held_out, strict=True)
            if out == side
        }
        for side in (False, True)
    ]
    assert not sides[0] & sides[1]
