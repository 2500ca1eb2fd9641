import io
import json
from pathlib import Path

import numpy as np

from csr_hf.cli.output import print_line
from csr_hf.cli.report import Report, results_data, to_json
from csr_hf.evaluation.results import Results, Row


def test_values_become_json():
    given = {
        "path": Path("a/b"),
        "scores": np.array([0.5, np.nan], np.float32),
        "count": np.int64(3),
        "share": float("inf"),
        "nested": ({"text": "caf\xe9 \ud800"}, [True, None]),
    }
    assert to_json(given) == {
        "path": "a/b",
        "scores": [0.5, None],
        "count": 3,
        "share": None,
        "nested": [{"text": "caf\xe9 \ud800"}, [True, None]],
    }


def test_a_report_is_one_document_of_ascii():
    stream = io.StringIO()
    Report({"text": "caf\xe9 \ud800 \u4e2d"}).write_json(stream)
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue()) == {"text": "caf\xe9 \ud800 \u4e2d"}


def test_quiet_leaves_out_the_advice(capsys):
    report = Report({}, lambda: print_line("result"), ["Go on with this."])
    report.print()
    assert capsys.readouterr().out == "result\nGo on with this.\n"
    report.print(quiet=True)
    assert capsys.readouterr().out == "result\n"


def test_results_keep_how_they_were_measured():
    row = Row("task", "nDCG@10", "CSR", 8, 36, 0.5, 0.9)
    data = results_data(Results([row], {"command": "csr-hf run"}))
    assert data["command"] == "csr-hf run"
    assert data["rows"][0] | {"k": 8, "score": 0.5} == data["rows"][0]
    assert results_data(None) is None
