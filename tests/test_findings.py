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
        "dtype": "float64",
        "torch": torch,
        "method_options": json.dumps(options),
        "relative_error": error,
    }


def test_suspected_are_the_operators_of_no_case_that_is_right() -> None:
    records = [seen("ok", ["A 1", "B 1"]), seen("wrong", ["A 1", "C 1"], problem="zoo/c")]
    records += [seen("wrong", ["A 1", "B 1", "C 1", "D 1"], problem="zoo/larger"), seen("unsupported", ["E 1"])]
    (finding,) = findings.learn(records)
    assert (finding["operators"], finding["case"], finding["wrong"]) == (["C 1"], "zoo/c", {"2.13.0": 0.1})


def test_where_all_operators_are_right_elsewhere_they_are_suspected_together() -> None:
    records = [seen("ok", ["A 1"]), seen("ok", ["B 1"]), seen("wrong", ["A 1", "B 1"])]
    (finding,) = findings.learn(records)
    assert finding["operators"] == ["A 1", "B 1"]


def test_one_way_s_success_does_not_clear_another() -> None:
    records = [seen("ok", ["A 1"]), seen("wrong", ["A 1"], composition="x"), seen("ok", ["A 1"], composition="y")]
    (finding,) = findings.learn(records)
    assert finding["options"] == {"composition": "x"}


def test_records_to_learn_nothing_from_are_counted(tmp_path, capsys) -> None:
    path = tmp_path / "atlas.jsonl"
    cells = [seen("wrong", ["A 1"]), seen("wrong", ["A 1"]) | {"mode": "compiled", "seed": 1}]
    others = [{"quantity": "trace", "seed": 2}, {"stated_error": 0.1, "seed": 3}]
    path.write_text("".join(json.dumps(cell | {"schema_version": 8}) + "\n" for cell in cells))
    assert findings.main([str(path)]) == 0
    assert "1 of 2 records are not read: mode=compiled" in capsys.readouterr().err
    estimates = [seen("wrong", ["B 1"]) | other for other in others]
    path.write_text("".join(json.dumps(cell | {"schema_version": 10}) + "\n" for cell in [*cells, *estimates]))
    assert findings.main([str(path)]) == 0
    printed = capsys.readouterr()
    assert "B 1" not in printed.out
    assert "1 of 4 records are not read: quantity=trace" in printed.err
    assert "1 of 4 records are not read: estimates" in printed.err
    path.write_text(json.dumps(cells[1] | {"schema_version": 8}) + "\n")
    assert findings.main([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 of 1 records are not read: mode=compiled" in printed.err
    assert "no method to be wrong" in printed.err


@pytest.fixture
def known(monkeypatch):
    atlas = [seen("wrong", ["A 1"], composition="x", chunk_size=64)]
    monkeypatch.setattr(findings, "_known", lambda: findings.learn(atlas))


def test_a_row_that_meets_the_operators_is_warned_of(known) -> None:
    row = seen(
        "ok", ["A 1", "Z 1"], target="methods.func_hessian.hvp", composition="x", chunk_size="auto", compile=True
    )
    assert findings.warning(row) == (
        "unsafe: this method was wrong by 10 % on zoo/case with torch 2.13.0; this network has the same operators: A 1"
    )


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
        ("2.13.0+cpu", "operators: A 1"),
        ("2.13.1+cu130", "operators: A 1"),
        ("2.12.0", "; torch 2.12 was not tried"),
        ("2.14.0.dev20261101+cpu", "; torch 2.14 was not tried"),
        (None, "; torch of unknown version was not tried"),
    ],
)
def test_a_warning_says_whether_the_release_of_torch_was_tried(known, torch, end) -> None:
    assert findings.warning(seen("ok", ["A 1"], composition="x", torch=torch)).endswith(end)


OLD, NEW = "2.13.0+cpu", "2.14.1+cu130"


def warned(monkeypatch, atlas, *operators, torch):
    """The warning of a record with these operators by a harness that knows the atlas."""
    monkeypatch.setattr(findings, "_known", lambda: findings.learn(atlas))
    return findings.warning(seen("ok", operators, torch=torch))


def test_a_finding_holds_what_was_seen_with_each_version_of_torch(monkeypatch) -> None:
    atlas = [seen("wrong", ["A 1"], torch="2.11.0"), seen("wrong", ["A 1"], torch=OLD, error=0.2)]
    atlas += [seen("ok", ["A 1"], torch=NEW), seen("unsupported", ["A 1"], torch="2.9.1")]
    atlas += [seen("ok", ["B 1"], torch="2.15.0", problem="zoo/other"), seen("wrong", ["A 1"], torch=None)]
    (finding,) = findings.learn(atlas)
    assert finding["wrong"] == {"2.11.0": 0.1, "2.13.0": 0.2}
    assert (finding["right"], finding["no_result"]) == (["2.14.1"], ["2.9.1"])
    known = "on zoo/case with torch 2.11.0, 2.13.0 (right with 2.14.1); this network has the same operators: A 1"
    assert warned(monkeypatch, atlas, "A 1", torch=OLD) == f"unsafe: this method was wrong by 20 % {known}"
    assert warned(monkeypatch, atlas, "A 1", torch="2.11.0") == f"unsafe: this method was wrong by 10 % {known}"
    assert warned(monkeypatch, atlas, "A 1", torch=NEW) is None
    assert warned(monkeypatch, atlas, "A 1", torch="2.15.0").endswith("A 1; torch 2.15 was not tried")
    assert warned(monkeypatch, atlas, "A 1", torch="2.9.0").endswith("A 1; torch 2.9 gave no result there")


def test_what_was_wrong_with_another_release_is_no_warning_where_this_one_was_right(monkeypatch) -> None:
    atlas = [seen("wrong", ["A 1"]), seen("wrong", ["B 1"], torch=NEW, problem="zoo/b"), seen("ok", ["A 1"], torch=NEW)]
    assert warned(monkeypatch, atlas, "A 1", torch="2.14.0") is None
    assert "zoo/b with torch 2.14.1" in warned(monkeypatch, atlas, "A 1", "B 1", torch=NEW)
    assert "zoo/case with torch 2.13.0" in warned(monkeypatch, atlas, "A 1", "B 1", torch="2.13.1")


def test_of_two_versions_of_a_release_the_very_one_counts(monkeypatch) -> None:
    atlas = [seen("wrong", ["A 1"], torch="2.14.0"), seen("ok", ["A 1"], torch="2.14.1")]
    assert warned(monkeypatch, atlas, "A 1", torch="2.14.1+cu130") is None
    assert "with torch 2.14.0 (right with 2.14.1)" in warned(monkeypatch, atlas, "A 1", torch="2.14.0")
    assert warned(monkeypatch, atlas, "A 1", torch="2.14.2") is not None  # of a release that was wrong once


STOPPED = [seen(status, ["A 1"], torch=NEW) for status in ("crashed", "timeout", "oom")]
ABSENT = seen("unsupported", ["A 1"], torch=NEW) | {"message": "a needs the package b, which is not installed: pip"}


@pytest.mark.parametrize("stopped", [*STOPPED, ABSENT])
def test_a_crash_a_limit_and_a_missing_package_are_no_try(monkeypatch, stopped) -> None:
    atlas = [seen("wrong", ["A 1"]), stopped]
    (finding,) = findings.learn(atlas)
    assert (finding["right"], finding["no_result"]) == ([], [])
    assert warned(monkeypatch, atlas, "A 1", torch=NEW).endswith("; torch 2.14 was not tried")


def test_the_worst_of_two_builds_counts() -> None:
    builds = [seen("ok", ["A 1"], torch="2.14.1+cpu"), seen("unsupported", ["A 1"], torch="2.14.1+cu130")]
    (finding,) = findings.learn([seen("wrong", ["A 1"]), *builds])
    assert (finding["right"], finding["no_result"]) == ([], ["2.14.1"])


def test_what_is_not_finite_is_wrong_without_an_error(monkeypatch) -> None:
    atlas = [seen("wrong", ["A 1"]), seen("nonfinite", ["A 1"], torch=NEW, error=None)]
    (finding,) = findings.learn(atlas)
    assert finding["wrong"] == {"2.13.0": 0.1, "2.14.1": None}
    assert "was wrong or not finite on zoo/case with torch 2.13.0, 2.14.1;" in warned(
        monkeypatch, atlas, "A 1", torch=NEW
    )
    assert "was wrong by 10 % on zoo/case" in warned(monkeypatch, atlas, "A 1", torch="2.15.0")


def test_a_pre_release_stands_for_its_release_only_where_nothing_else_was_tried(monkeypatch) -> None:
    early, final = "2.14.0.dev20260101+cpu", "2.14.0"
    atlas = [seen("wrong", ["A 1"], torch=early), seen("ok", ["A 1"], torch=final)]
    assert warned(monkeypatch, atlas, "A 1", torch="2.14.1") is None
    assert "with torch 2.14.0.dev20260101 (right with 2.14.0)" in warned(monkeypatch, atlas, "A 1", torch=early)
    assert "was not tried" not in warned(monkeypatch, atlas[:1], "A 1", torch="2.14.1")


@pytest.mark.parametrize(
    "change",
    [
        {"problem_hash": "2", "operators": "A 1, B 1"},
        {"problem_hash": "2", "params": 9},
        {"problem_hash": None, "params": 9},
        {"problem_options": '{"n": 2}'},
        {"dtype": "float32"},
    ],
)
def test_another_network_or_setting_says_nothing_about_a_version(change) -> None:
    same = {"problem_hash": "1", "params": 4, "problem_options": '{"n": 1}', "dtype": "float64"}
    (finding,) = findings.learn([seen("wrong", ["A 1"]) | same, seen("ok", ["A 1"], torch=NEW) | same | change])
    assert finding["right"] == []


@pytest.mark.parametrize("source", [None, "2"])
def test_another_or_a_missing_source_is_no_other_network(source) -> None:
    old = seen("wrong", ["A 1"]) | {"problem_hash": source}
    (finding,) = findings.learn([old, seen("ok", ["A 1"], torch=NEW) | {"problem_hash": "1"}])
    assert finding["right"] == ["2.14.1"]


def test_the_table_says_so(known, tmp_path) -> None:

    record.write(seen("ok", ["A 1"], composition="x") | {"method": "m"}, tmp_path / "record.json")
    frame = readable(Analysis(record.load(tmp_path)))
    assert frame["status"].tolist() == ["ok, unsafe"]
    assert frame["message"].iloc[0].startswith("unsafe: this method was wrong")
    assert "unsafe" in markdown(Analysis(record.load(tmp_path)))
    assert "unsafe" in csv(Analysis(record.load(tmp_path)))
