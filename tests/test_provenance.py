"""report.json: what it tells is so, and its command builds every file again; and the exit status."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import record, report
from harness.record import plain
from harness.record.__main__ import main as print_records
from harness.report.command import main
from tests.test_report import cell, run, stored, sweep

START = b'{"schema_version": 5, "status": "ok", '
DIGITS = b"1" + 400 * b"0"
BAD = {
    "empty": b"",
    "corrupt": b"\x89PNG\xff\x00\xfe{",
    "truncated": START + b'"tim',
    "older": b'{"schema_version": 1, "status": "ok"}',
    "foreign": b'{"name": "left-pad", "version": "1.3.0"}',
    "version": b'{"schema_version": 5.0, "status": "ok"}',
    "nested": START + b'"message": ' + 100_000 * b"[",
    "nested whole": START + b'"message": ' + 100_000 * b"[" + 100_000 * b"]" + b"}",
    "nested field": START + b'"message": ' + 500 * b"[" + 500 * b"]" + b"}",
    "nested options": START + b'"method_options": "{\\"a\\": ' + 500 * b"[" + 500 * b"]" + b'}"}',
    "digits": START + b'"params": ' + 5000 * b"1" + b"}",
    "digits of options": START + b'"method_options": "{\\"a\\": ' + 5000 * b"1" + b'}"}',
    "wide int": START + b'"params": ' + DIGITS + b"}",
    "int of 64 bits": START + b'"operations": 4611686018427387904}',
    "negative int": START + b'"operations": -4611686018427387905}',
    "wide float": START + b'"first_s": ' + DIGITS + b"}",
    "wide times": START + b'"times_s": [' + DIGITS + b"]}",
    "infinite": START + b'"first_s": 1e999}',
    "infinite times": START + b'"times_s": [1e999]}',
    "Infinity": START + b'"first_s": Infinity}',
    "NaN": START + b'"times_s": [NaN]}',
    "Latin-1": START + '"message": "naïve"}'.encode("latin-1"),
    "short sketch": START + b'"sketch": [' + 30 * b"1, " + b"1]}",
    "sketch of nulls": START + b'"sketch": [' + 31 * b"null, " + b"null]}",
    "\x1b[31m\nred\u202e": b"",
}


@pytest.fixture
def run_folder(tmp_path):
    sketched = [cell(method, sketch=[1.0] * 32) for method in ("one", "other")]
    return stored(tmp_path / "run", [*sweep(), *sketched])


def spoil(folder):
    """Put all into a run folder that are no records, in folders called what they are."""
    for name, content in BAD.items():
        (folder / name).mkdir()
        (folder / name / "record.json").write_bytes(content)
    (folder / "a folder" / "record.json").mkdir(parents=True)
    (folder / "a loop").mkdir()
    (folder / "a loop" / "record.json").symlink_to("record.json")
    return [plain(name) for name in (*BAD, "a folder", "a loop")]


def test_the_command_builds_the_same_bytes_again(run_folder, tmp_path):
    spoil(run_folder)
    first = run(run_folder, "--out", tmp_path / "out", "--width", "8.5cm")
    assert first.returncode == 1, first.stderr
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    python, *arguments = shlex.split(json.loads(before["report.json"])["command"])
    assert python == "python"
    here = os.environ | {"PYTHONPATH": str(Path(report.__file__).parents[2])}
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert subprocess.run([sys.executable, *arguments], env=here, capture_output=True).returncode == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_every_file_has_its_records_and_every_input_its_hash(run_folder, tmp_path, capsys):
    assert print_records([str(run_folder)]) == 0
    baseline = tmp_path / "base line:1.jsonl"
    baseline.write_text(capsys.readouterr().out)
    single = run_folder / "cell000" / "record.json"
    record.write(record.read(single) | {"attempt": 2}, single)  # no copy of what the baseline holds
    assert main([str(baseline), str(single), "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["inputs"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (baseline, single)}
    files = [name for group in told["written"] for name in group["files"]]
    assert sorted([*files, "report.json"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    records = {name: group["records"] for group in told["written"] for name in group["files"]}
    assert records["table.csv"] == [*(f"{baseline}:{line}" for line in range(1, 23)), str(single)]
    assert records["disagreement.svg"] == [f"{baseline}:{line}" for line in (21, 22)]
    root = Path(report.__file__).parents[2]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    assert told["commit"] == (head or None)
    assert told["torch"] == ["2.13.0"]
    assert told["versions"].keys() >= {"python", "pandas", "matplotlib"}


def test_bad_files_beside_good_ones_are_one(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--out", str(tmp_path / "good")]) == 0
    table = capsys.readouterr().out.partition("\n/")[0]
    bad = spoil(run_folder)
    assert main([str(run_folder), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == len(bad)
    assert all(sum(f"/{name}/record.json" in line for line in lines) == 1 for name in bad)
    assert all(line.isprintable() and len(line) < 300 for line in lines)
    assert said.out.partition("\n/")[0] == table
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]) == len(bad)
    good = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == good.keys()
    for name in ("table.csv", "table.md", "table.tex", "time_against_size.svg"):
        assert (tmp_path / "out" / name).read_bytes() == good[name]


def test_bad_lines_beside_good_ones_are_one(run_folder, tmp_path, capsys):
    assert print_records([str(run_folder)]) == 0
    good = capsys.readouterr().out.encode().splitlines()
    bad = [content for content in BAD.values() if content]
    baseline = tmp_path / "base.jsonl"
    baseline.write_bytes(b"\n".join([*bad, *good]))
    assert main([str(baseline), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad)
    assert all(f"{baseline}:{number} " in line for number, line in enumerate(lines, 1))
    table = (tmp_path / "out" / "table.csv").read_text()
    assert len(table.splitlines()) == 1 + len(good)


def test_bad_files_alone_are_two(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    spoil(tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 2
    assert main([str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 2


@pytest.mark.slow
def test_the_latest_run_is_told_by_its_own_name(run_folder, tmp_path, monkeypatch):
    """Tomorrow LAST is another run: what is written today leads to today's."""
    (tmp_path / "LAST").symlink_to(run_folder.name)
    monkeypatch.chdir(tmp_path)
    for given, expected in (("LAST", "run"), (str(tmp_path / "LAST"), str(run_folder))):
        assert main([given, "--out", "out"]) == 0
        files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert not any(b"LAST" in content for content in files.values())
        told = json.loads(files["report.json"])
        assert shlex.split(told["command"])[3] == expected
        assert min(told["inputs"]) == f"{expected}/cell000/record.json"
        assert main(shlex.split(told["command"])[3:]) == 0
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_help_tells_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit status: 0; 1 where" in capsys.readouterr().out
