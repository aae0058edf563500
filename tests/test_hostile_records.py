"""A few hostile records beside good ones; `tests.reliability.hostile_records` tries many."""

import os
import random
from pathlib import Path

import pytest

from harness import record
from harness.compare.__main__ import main as compare
from harness.record.identity import JSON
from harness.report.command import main as report
from harness.report.csv import harmless
from tests.reliability.hostile_records import CASES, NO_RECORDS, good, mixture, store, survives, without_pictures

QUICK = ("a FIFO", "a socket", "a device", "a loop of links", "a terabyte", "times that are null", "times of 1.7e308")


@pytest.mark.parametrize("name", QUICK)
def test_what_is_no_record_is_named(tmp_path: Path, name: str) -> None:
    assert name in NO_RECORDS
    CASES[name](tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_accepted_records_do_not_end_a_report(tmp_path: Path, monkeypatch, seed: int) -> None:
    monkeypatch.setattr("harness.report.files.save", _saved)  # the figures are made all the same
    survives(store(mixture(random.Random(seed)), tmp_path), tmp_path / "report")


@pytest.mark.parametrize("text", ["", "-"])
def test_names_may_be_empty(tmp_path: Path, text: str) -> None:
    names = [field.name for field in record.FIELDS if field.type == "str" and field.name not in ("status", "started")]
    texts = {name: text for name in names if name not in JSON}
    folders = store(
        [[good("rows", 8, 0) | {name: text}] for name in ("problem", "method", "quantity", "device")], tmp_path
    )
    folders += store([[good("rows", 8, 0) | texts]], tmp_path / "all")
    for folder in folders:
        assert report([str(folder)]) == 0
    with without_pictures():
        assert report([str(folders[-1]), "--out", str(tmp_path / "out")]) == 0
    assert compare([str(folders[0]), str(folders[-1])]) in (0, 2)


def _saved(_figure, stem: Path) -> list[Path]:
    """In place of the picture, which takes seconds, an empty one."""
    path = stem.with_name(f"{stem.name}.svg")
    path.write_text("<svg/>")
    return [path]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", " =1", "\n=1", "\uff1d1"])
def test_a_text_of_table_csv_is_no_formula(text: str) -> None:
    assert harmless(text) == f"'{text}"


def test_control_characters_are_escaped_in_table_csv() -> None:
    assert harmless("\t=\x1b[31m\u202e\ud800\r") == r"\t=\x1b[31m\u202e\ud800\r"
    assert [harmless(value) for value in (-1.5, None, "a-b\nc")] == [-1.5, None, "a-b\nc"]


def test_a_full_disk_keeps_the_report_that_was_there(tmp_path: Path, monkeypatch, capsys) -> None:
    from harness.report.command import main
    from tests.reliability.hostile_records import good

    monkeypatch.setattr("harness.report.files.save", _saved)
    folders = store([[good("good_rows", 8, 0)]], tmp_path)
    assert main([str(folders[0]), "--out", str(tmp_path / "out")]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()

    def full(_figure, stem):
        raise record.StorageError(28, os.strerror(28), str(stem))

    monkeypatch.setattr("harness.report.files.save", full)
    assert main([str(folders[0]), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "out") in line
    assert "free space there" in line
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
