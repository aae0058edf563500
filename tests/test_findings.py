"""What is learned from an atlas, and whom it warns."""

import json

import pytest

from harness import findings, record
from harness.analysis.table import Analysis
from harness.report.csv import csv
from harness.report.markdown import markdown
from harness.report.readable import readable


def seen(
    status,
    operators,
    target="methods.func_hessian.hessian",
    problem="zoo/case",
    error=0.1,
    torch="2.13.0+cpu",
    **options,
):
    return dict.fromkeys(record.NAMES) | {
        "status": status,
        "operators": ", ".join(operators),
        "target": target,
        "problem": problem,
        "torch": torch,
        "method_options": json.dumps(options),
        "relative_error": error,
    }


def test_suspected_are_the_operators_of_no_case_that_is_right() -> None:
    records = [seen("ok", ["A 1", "B 1"]), seen("wrong", ["A 1", "C 1"], problem="zoo/c")]
    records += [seen("wrong", ["A 1", "B 1", "C 1", "D 1"], problem="zoo/larger"), seen("unsupported", ["E 1"])]
    (finding,) = findings.learn(records)
    assert (finding["operators"], finding["case"], finding["relative_error"]) == (["C 1"], "zoo/c", 0.1)


def test_where_all_operators_are_right_elsewhere_they_are_suspected_together() -> None:
    records = [seen("ok", ["A 1"]), seen("ok", ["B 1"]), seen("wrong", ["A 1", "B 1"])]
    (finding,) = findings.learn(records)
    assert finding["operators"] == ["A 1", "B 1"]


def test_one_way_s_success_does_not_clear_another() -> None:
    records = [seen("ok", ["A 1"]), seen("wrong", ["A 1"], composition="x"), seen("ok", ["A 1"], composition="y")]
    (finding,) = findings.learn(records)
    assert finding["options"] == {"composition": "x"}


@pytest.fixture
def known(monkeypatch):
    atlas = [seen("wrong", ["A 1"], composition="x", chunk_size=64)]
    monkeypatch.setattr(findings, "_known", lambda: findings.learn(atlas))


def test_a_row_that_meets_the_operators_is_warned_of(known) -> None:
    row = seen(
        "ok", ["A 1", "Z 1"], target="methods.func_hessian.hvp", composition="x", chunk_size="auto", compile=True
    )
    assert "wrong by 10 % on zoo/case (torch 2.13.0+cpu), whose A 1" in findings.warning(row)


@pytest.mark.parametrize(
    "row",
    [
        seen("ok", ["Z 1"], composition="x"),
        seen("ok", ["A 11"], composition="x"),
        seen("ok", ["A 1"], composition="y"),
        seen("wrong", ["A 1"], composition="x"),
        seen("ok", ["A 1"], target="methods.other.hessian", composition="x"),
        dict.fromkeys(record.NAMES) | {"status": "ok"},
    ],
)
def test_other_rows_are_not(known, row) -> None:
    assert findings.warning(row) is None


@pytest.mark.parametrize(
    ("torch", "end"),
    [
        ("2.13.0+cpu", "this network has too"),
        ("2.13.1+cu130", "this network has too"),
        ("2.12.0", "; torch 2.12 was not tried"),
        ("2.14.0.dev20261101+cpu", "; torch 2.14 was not tried"),
        (None, "; torch of unknown version was not tried"),
    ],
)
def test_a_warning_says_whether_the_release_of_torch_was_tried(known, torch, end) -> None:
    assert findings.warning(seen("ok", ["A 1"], composition="x", torch=torch)).endswith(end)


def test_what_was_wrong_with_another_release_is_no_warning_where_this_one_was_tried_too(monkeypatch) -> None:
    atlas = [seen("wrong", ["A 1"]), seen("wrong", ["B 1"], torch="2.14.0"), seen("ok", ["A 1"], torch="2.14.0")]
    monkeypatch.setattr(findings, "_known", lambda: findings.learn(atlas))
    assert findings.warning(seen("ok", ["A 1"], torch="2.14.1")) is None
    assert "torch 2.14.0" in findings.warning(seen("ok", ["A 1", "B 1"], torch="2.14.1"))
    assert "torch 2.13.0" in findings.warning(seen("ok", ["A 1", "B 1"], torch="2.13.1"))


def test_the_table_says_so(known, tmp_path) -> None:

    record.write(seen("ok", ["A 1"], composition="x") | {"method": "m"}, tmp_path / "record.json")
    frame = readable(Analysis(record.load(tmp_path)))
    assert frame["status"].tolist() == ["ok, unsafe"]
    assert frame["message"].iloc[0].startswith("unsafe: this method was wrong")
    assert "unsafe" in markdown(Analysis(record.load(tmp_path)))
    assert "unsafe" in csv(Analysis(record.load(tmp_path)))
