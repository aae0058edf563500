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
from tests.test_report import cell, run, stored, sweep

BAD = {
    "corrupt": b"\x89PNG\xff\x00\xfe{",
    "truncated": b'{"schema_version": 5, "status": "ok", "tim',
    "older": b'{"schema_version": 1, "status": "ok"}',
    "foreign": b'{"name": "left-pad", "version": "1.3.0"}',
}


@pytest.fixture
def run_folder(tmp_path):
    sketched = [cell(method, sketch=[1.0] * 32) for method in ("one", "other")]
    return stored(tmp_path / "run", [*sweep(), *sketched])


def spoil(folder):
    for name, content in BAD.items():
        (folder / name).mkdir()
        (folder / name / "record.json").write_bytes(content)


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
    assert record.main([str(run_folder)]) == 0
    baseline = tmp_path / "base line:1.jsonl"
    baseline.write_text(capsys.readouterr().out)
    single = run_folder / "cell000" / "record.json"
    assert report.main([str(baseline), str(single), "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["inputs"] == {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (baseline, single)}  # fmt: skip
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
    assert report.main([str(run_folder)]) == 0
    spoil(run_folder)
    capsys.readouterr()
    assert report.main([str(run_folder), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == len(BAD)
    assert all(sum(f"/{name}/record.json" in line for line in lines) == 1 for name in BAD)
    assert "vmap_hvp_reverse" in said.out
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]) == len(BAD)


def test_bad_files_alone_are_two(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    spoil(tmp_path / "run")
    assert report.main([str(tmp_path / "run")]) == 2
    assert report.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().out == ""


def test_help_tells_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    assert "Exit status: 0; 1 where" in capsys.readouterr().out
