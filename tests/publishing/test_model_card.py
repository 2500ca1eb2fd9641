"""The model card is made from the files of a run, and from nothing else."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from csr_hf.cli.main import main
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.redaction import shareable, without_secrets
from csr_hf.publishing.backbone_facts import BackboneFacts, find_backbone_facts
from csr_hf.publishing.export import write_card_folder
from csr_hf.publishing.model_card import is_generated, write_card
from csr_hf.publishing.model_card_metadata import CardOptions
from csr_hf.publishing.model_card_sections import list_limits, summarize
from tests.conftest import MINILM
from tests.publishing.conftest import change_json, make_head, make_results, write_run

ROOT = Path(__file__).parents[2]
FIRST = ROOT / "model_cards" / "csr-all-MiniLM-L6-v2-python-docs"


@pytest.fixture
def card(run_folder, tmp_path):
    write_card_folder(run_folder, tmp_path / "card", card=CardOptions(repo_id="user/minilm-csr"))
    return tmp_path / "card"


def test_front_matter(card):
    data = ModelCard.load(card / "README.md").data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "base_model": MINILM,
        "base_model_relation": "adapter",
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "license": "apache-2.0",
        "language": "en",
        "tags": ["sentence-transformers", "sparse-encoder", "sparse", "csr", "csr_hf"],
    }
    metrics = {
        (entry["dataset"]["name"], m["name"]): m["value"] for entry in index[0]["results"] for m in entry["metrics"]
    }
    assert metrics == {
        ("faq, 50 held-out pairs", "nDCG@10, k=16, 64 bytes (CSR)"): 0.7,
        ("faq, 50 held-out pairs", "nDCG@10, k=16, 68 bytes (CSR, decoded)"): 0.76,
        ("SciFact", "nDCG@10, k=16, 64 bytes (CSR)"): 0.5,
    }
    assert {m["type"] for entry in index[0]["results"] for m in entry["metrics"]} == {"ndcg_at_10"}


def test_results_of_tasks_on_the_hub_are_in_the_new_format_too(card):
    files = list((card / ".eval_results").iterdir())
    assert [file.name for file in files] == ["SciFact.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[0].read_text()))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("mteb/scifact", "SciFact", "0228b52")
    assert (entry.value, entry.notes) == (0.5, "nDCG@10, k=16, 64 bytes a document (CSR)")


def test_body_says_what_the_files_say(card):
    text = (card / "README.md").read_text()
    assert "# minilm-csr\n" in text
    # Headline, snippet and table speak of one method.
    assert "takes 64 bytes instead of 1,536 and keeps 87.5% of the dense nDCG@10 (CSR; faq" in text
    assert "That is the method CSR of the tables below." in text
    assert "| CSR | 16 | 64 | 0.7000 | 0.875 |" in text.splitlines()
    for start in ("- **Good for** many texts", "- **It costs** one pass", "- **Take something else** where"):
        assert len([line for line in text.splitlines() if line.startswith(start)]) == 1
    snippet = text.partition("### With csr_hf")[2].partition("```python\n")[2].partition("```")[0]
    assert len([line for line in snippet.splitlines() if line]) == 4
    assert "](results/retention.png)" in text
    assert make_results().to_markdown().split("\n\nCommand")[0] in text
    for line in (
        "| data | `faq.csv`, at most 500 rows, 10% of them held out |",
        "| head | 384 -> 256 latents, k 16, tied decoder |",
        "| explained variance of rows trained on | 0.853 |",
        "| dead latents | 1.0% |",
        "| postings a document and query | 2.28 |",
        "| training time | 53 s |",
        "- By size alone it is not the best: 48 bytes of binary keep 97.5%.",
    ):
        assert line in text.splitlines(), line
    assert "@inproceedings{wen2025beyond," in text
    assert text.count("```") % 2 == 0
    for link in ("results/results.json", "results/retention.png"):
        assert (card / link).is_file()


def test_figures_of_mteb_join_those_of_the_run(run_folder, tmp_path):
    (run_folder / "evaluation").mkdir()
    rows = [Row("STSBenchmark", "cosine_spearman", "dense", None, 1536, 0.82, 1.0)]
    rows += [Row("STSBenchmark", "cosine_spearman", "CSR, decoded", 16, 68, 0.81, 0.9878)]
    details = {
        "datasets": {"STSBenchmark": {"id": "mteb/stsbenchmark-sts", "task_id": "STSBenchmark"}},
        "task_types": {"STSBenchmark": "STS"},
        "head": make_head().fingerprint,
    }
    Results(rows, details).save(run_folder / "evaluation")
    (run_folder / "evaluation" / "retention.png").write_bytes(b"another plot")
    write_card_folder(run_folder, tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    # Called like its run.
    assert 'CSREncoder.from_pretrained("user/run")' in text and "# run\n" in text
    assert "| CSR, decoded | 16 | 68 | 0.8100 | 0.988 |" in text.splitlines()
    assert text.index("results/mteb.png") < text.index("results/retention.png")
    assert {path.name for path in (tmp_path / "card" / ".eval_results").iterdir()} == {
        "SciFact.yaml",
        "STSBenchmark.yaml",
    }
    index = ModelCard.load(tmp_path / "card" / "README.md").data.to_dict()["model-index"][0]["results"]
    assert {entry["dataset"]["name"]: entry["task"]["type"] for entry in index} == {
        "faq, 50 held-out pairs": "retrieval",
        "SciFact": "retrieval",
        "STSBenchmark": "sts",
    }
    write_card_folder(tmp_path / "card", tmp_path / "again", card=CardOptions(repo_id="user/run"))
    assert (tmp_path / "again" / "README.md").read_text() == text


def test_card_without_figures_says_so(tmp_path):
    write_run(tmp_path / "run", make_head(base_model_name_or_path=None))
    (tmp_path / "run" / "recipe.yaml").unlink()
    notes = write_card_folder(tmp_path / "run", tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    assert len(notes) == 2
    assert "Not evaluated yet." in text
    assert "## Training" not in text
    assert "base_model" not in text.partition("\n# ")[0]


def test_card_in_a_used_folder_quotes_nothing_of_the_head_before(run_folder, tmp_path):
    (run_folder / "evaluation").mkdir()
    of_mteb = make_results()
    of_mteb.details["head"] = make_head().fingerprint
    of_mteb.save(run_folder / "evaluation")
    write_run(tmp_path / "second", make_head(1))
    for target in ("used", "fresh"):
        if target == "used":
            write_card_folder(run_folder, tmp_path / target)
            assert (tmp_path / target / ".eval_results" / "SciFact.yaml").is_file()
        assert "the card has no figures: the run was not evaluated" in write_card_folder(
            tmp_path / "second", tmp_path / target
        )
    files = {
        target: {
            path.relative_to(tmp_path / target): path.read_bytes()
            for path in (tmp_path / target).rglob("*")
            if path.is_file()
        }
        for target in ("used", "fresh")
    }
    assert files["used"] == files["fresh"]


@pytest.mark.parametrize("named", [True, False])
def test_figures_of_another_head_are_left_out_and_it_is_said(run_folder, tmp_path, named):
    (run_folder / "evaluation").mkdir()
    other = make_results()
    other.details |= {"head": "0123456789abcdef"} if named else {}
    other.save(run_folder / "evaluation")
    (run_folder / "evaluation" / "retention.png").write_bytes(b"another plot")
    (note,) = write_card_folder(run_folder, tmp_path / "card")
    said = "of another head (0123456789abcdef)" if named else "of a head that they do not name"
    assert f"{run_folder / 'evaluation' / 'results.json'} holds figures {said}, not of this one" in note
    assert not list((tmp_path / "card" / "results").glob("mteb.*"))
    assert "results/mteb.png" not in (tmp_path / "card" / "README.md").read_text()
    # Trained again: all figures are of the head before.
    make_head(1).save_pretrained(run_folder / "model")
    notes = write_card_folder(run_folder, tmp_path / "card")
    assert len([note for note in notes if "holds figures" in note]) == 2
    assert "the card has no figures: the run was not evaluated" in notes
    assert [path.name for path in (tmp_path / "card" / "results").iterdir()] == ["recipe.yaml"]
    assert not list((tmp_path / "card" / ".eval_results").iterdir())
    text = (tmp_path / "card" / "README.md").read_text()
    assert "keeps" not in text.partition("## Limits")[0]
    assert "Not evaluated yet." in text


def test_same_files_give_the_same_card(card, tmp_path):
    write_card_folder(card, tmp_path / "again", card=CardOptions(repo_id="user/minilm-csr"))
    names = {path.relative_to(card) for path in card.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    }
    assert all((card / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_changes_of_a_person_are_noticed(card, run_folder, capsys):
    readme = card / "README.md"
    text = readme.read_text()
    assert is_generated(text)
    assert is_generated(text.replace("\n", "\r\n"))
    for changed in (
        text.replace("apache-2.0", "mit"),
        text + "more",
        text.replace("sha256 ", "sha256 0"),
        "",
        "# Mine",
    ):
        assert not is_generated(changed)
    readme.write_text(text.replace("adapter", "finetune"))
    call = ["card", str(run_folder), str(card), "--repo-id", "user/minilm-csr"]
    assert main(call) == 2
    assert "--overwrite-card" in capsys.readouterr().err
    assert main([*call, "--overwrite-card"]) == 0
    assert readme.read_text() == text


@pytest.mark.parametrize(
    ("license", "backbone", "warning"),
    [
        ("cc0-1.0", "apache-2.0", "the card's license is 'cc0-1.0' and the backbone's is 'apache-2.0'"),
        ("llama3", "gemma", "or use --license gemma"),
        ("Apache-2.0", "apache-2.0", None),
        (None, "apache-2.0", None),
        ("anything", None, None),
        (None, None, "the card names no license: that of the backbone is unknown"),
    ],
)
def test_a_license_that_is_not_the_backbones_is_warned_of(card, license, backbone, warning):
    notes = write_card(card, "full", CardOptions(license=license), BackboneFacts(license=backbone))
    assert [warning in note for note in notes] == ([True] if warning else [])
    assert ModelCard.load(card / "README.md").data.license == (license or backbone)


def test_a_license_of_ones_own_is_written_and_said(run_folder, tmp_path, capsys):
    assert main(["export", str(run_folder), str(tmp_path / "out"), "--layout", "head", "--license", "cc0-1.0"]) == 0
    assert "the card's license is 'cc0-1.0' and the backbone's is 'apache-2.0'" in capsys.readouterr().out
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "cc0-1.0"


def test_facts_of_a_backbone_on_the_hub(hub, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: gemma\nlicense_link: https://x\nlanguage: [de, en]\n---\n")
    for name, size in (("model.safetensors", 3000), ("pytorch_model.bin", 3010)):
        (tmp_path / name).write_bytes(b"0" * size)
    hub.add("user/backbone", tmp_path)
    facts = find_backbone_facts("user/backbone")
    assert facts == BackboneFacts("gemma", ["de", "en"], 3000, {"license_link": "https://x"})
    assert find_backbone_facts(str(tmp_path)) == facts
    assert find_backbone_facts("user/none") == BackboneFacts()


def test_best_figure_and_smaller_methods():
    rows = [
        Row("t", "m", "dense", None, 100, 0.5, 1.0),
        Row("t", "m", "CSR", 4, 16, 0.45, 0.9),
        Row("t", "m", "CSR", 8, 32, 0.6, 1.2),
        Row("t", "m", "binary", None, 12, 0.4, 0.8),
        Row("t", "m", "int8", None, 15, 0.46, 0.92),
    ]
    config = {"k": 4, "hidden_dim": 64}
    rows.append(Row("t", "m", "CSR + int8", 4, 116, 0.5, 1.0))
    assert "takes 16 bytes instead of 100 and keeps 90.0% of the dense m (CSR; t)." in summarize(
        config, None, Results(rows)
    )
    found = list_limits(config, {}, Results(rows))
    assert not [line for line in found if "held-out rows" in line]
    for source in ("data/t", "t"):
        rows[0] = Row("t, 5 held-out pairs", "m", "dense", None, 100, 0.5, 1.0)
        assert (
            "The figures of t are of held-out rows"
            in list_limits(config, {"data": {"source": source}}, Results(rows))[1]
        )
    assert [line for line in found if "size alone" in line] == [
        "By size alone it is not the best: 15 bytes of int8 keep 92.0%."
    ]


def test_the_headline_says_how_sure_it_is_and_names_a_recall_once():
    sure = {"n_queries": 759, "retention_interval": (0.68, 0.7)}
    rows = [Row("t", "dense top 10", "dense", None, 100, 1.0, 1.0), Row("t", "dense top 10", "CSR", 4, 16, 0.69, 0.69)]
    results = Results([rows[0], dataclasses.replace(rows[1], **sure)])
    text = summarize({"k": 4, "hidden_dim": 64}, None, results)
    assert "keeps 69.0% ± 1.0% of the dense top 10 on 759 queries (CSR; t)." in text


def test_secrets_and_folders_are_masked():
    said = {
        "csr-hf run /home/me/recipe.yaml": "csr-hf run recipe.yaml",
        "C:\\Users\\me\\faq.csv": "faq.csv",
        "~/data/faq.csv": "faq.csv",
        "https://me:secret@host.org/a/b": "https://***@host.org/a/b",
        "--token hf_abcdefghijklmn": "--token hf_***",
        "user/name and recipes/quickstart.yaml, 1/32": "user/name and recipes/quickstart.yaml, 1/32",
    }
    for text, masked in said.items():
        assert shareable({"a": [text]}) == {"a": [masked]}
    assert without_secrets("/home/me hf_abcdefghijklmn") == "/home/me hf_***"
    assert without_secrets("https://token@host/ hf_oauth_eyJabc.def-ghi x") == "https://***@host/ hf_*** x"
    paths = [
        "/home/jo hn/secret client/out",
        "../../home/me/out",
        "file:///home/me/out",
        "~me/acme/out",
        "C:\\A B\\out",
    ]
    for path in paths:
        assert shareable({"source": path}) == {"source": "out"}, path
        command = f"csr-hf run a.yaml --data.source '{path}' --output-dir='{path}'"
        assert shareable({"command": command}) == {"command": "csr-hf run a.yaml --data.source out --output-dir=out"}
    kept = "csr-hf run a/b.yaml --data.columns '{anchor: q, positive: a}'"
    assert shareable({"command": kept}) == {"command": kept}


def test_first_published_card_is_what_the_command_makes(tmp_path):
    """The command in model_cards/README.md."""
    call = "csr-hf card model_cards/csr-all-MiniLM-L6-v2-python-docs model_cards/csr-all-MiniLM-L6-v2-python-docs"
    call += " --repo-id csr-hf/csr-all-MiniLM-L6-v2-python-docs"
    assert call in " ".join((ROOT / "model_cards" / "README.md").read_text().replace("\\\n", " ").split())
    assert main(["card", str(FIRST), str(tmp_path / "card"), *call.split()[4:]]) == 0
    for path in (tmp_path / "card").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (FIRST / path.relative_to(tmp_path / "card")).read_bytes(), path
    assert is_generated((FIRST / "README.md").read_text())


def test_head_alone_is_listed_where_the_code_of_its_page_runs(run_folder, tmp_path):
    """Not as a model of sentence-transformers, whose classes need the backbone, nor for a pipeline."""
    write_card_folder(run_folder, tmp_path / "card", layout="head")
    data = ModelCard.load(tmp_path / "card" / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "sentence-similarity")
    assert data.tags == ["sparse", "csr", "csr_hf"]


EVIL = '"""\n```\n__import__("os").system("touch {trap}")\n```\n</div>{{{{ 1/0 }}}}\''


@pytest.mark.parametrize("layout", ["full", "head"])
def test_settings_of_the_backbone_are_quoted(tmp_path, layout):
    """A prompt that a stranger wrote is text in the card, whatever it holds."""
    evil = EVIL.format(trap=tmp_path / "trap")
    settings = {"prompts": {"query": evil}, "truncate_dim": 384, "dtype": "bfloat16", "max_seq_length": 64}
    write_run(tmp_path / "run", make_head(base_model_settings=settings), make_results())
    write_card_folder(tmp_path / "run", tmp_path / "card", layout=layout, card=CardOptions(repo_id="user/name"))
    text = (tmp_path / "card" / "README.md").read_text()
    recorded = text.partition("## Backbone\n")[2].partition("```json\n")[2].partition("\n```\n")[0]
    assert json.loads(recorded) == settings
    assert text.count("\n```") % 2 == 0
    assert len([line for line in text.splitlines() if "__import__" in line]) == (2 if layout == "head" else 1)
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        tree = ast.parse(snippet)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "__import__"]
    assert is_generated(text)


def test_settings_that_are_wrong_end_the_card(tmp_path):
    write_run(tmp_path / "run", make_head(), make_results())
    change_json(tmp_path / "run" / "model" / "config.json", base_model_settings={"truncate_dim": "x); evil("})
    with pytest.raises(ValueError, match="truncate_dim"):
        write_card_folder(tmp_path / "run", tmp_path / "card")
