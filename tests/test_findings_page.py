"""The scripts of results/findings.md print what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "results" / "findings.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)


WITH_TABLE = re.compile(r"```python\n((?:(?!```).)*)```\n\n\| torch \| prints \|\n\|---\|---\|\n(.*?)\n\n", re.DOTALL)
BY_VERSION = WITH_TABLE.findall((ROOT / "results" / "versions.md").read_text(encoding="utf-8"))
COMPILED = WITH_TABLE.findall((ROOT / "results" / "modes.md").read_text(encoding="utf-8"))


def test_there_are_scripts_with_a_result_for_each_version() -> None:
    versions = [re.findall(r"^\| ([\d.]+) \|", table, re.MULTILINE) for _, table in [*BY_VERSION, *COMPILED]]
    assert all(seen == ["2.11.0", "2.13.0", "2.14.1", "2.15.0"] for seen in versions)
    assert (len(SCRIPTS), len(BY_VERSION), len(COMPILED)) == (3, 6, 3)


@pytest.mark.parametrize(
    ("script", "table"), [*BY_VERSION, *(pytest.param(*case, marks=pytest.mark.slow) for case in COMPILED)]
)
def test_a_script_prints_what_its_table_says_of_this_torch(script: str, table: str) -> None:
    rows = dict(re.findall(r"^\| ([\d.]+) \| (.*) \|$", table, re.MULTILINE))
    version = torch.__version__.split("+")[0]
    if version not in rows:
        pytest.skip(f"the table has no row for torch {version}")
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == rows[version], done.stderr


@pytest.mark.parametrize(("script", "printed"), SCRIPTS)
def test_a_script_prints_what_the_page_says(script: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert re.sub(r"\de-(0\d|1\d)", r"?e-\1", done.stdout) == re.sub(r"\de-(0\d|1\d)", r"?e-\1", printed)


def test_the_costs_are_those_of_the_committed_table() -> None:
    table = (ROOT / "results" / "baselines" / "methods" / "table.md").read_text(encoding="utf-8")
    rows = [[entry.strip() for entry in line.split("|")] for line in table.splitlines()]
    (heading,) = (row for row in rows if "dtype" in row)  # of the table of cells, behind the leaderboard
    named = [dict(zip(heading, row, strict=False)) for row in rows if len(row) == len(heading)]
    told = re.findall(r"^\| .* \| (\w+) \| (ok|wrong) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(told) == 9
    for method, status, time, peak, error in told:
        (row,) = [
            row
            for row in named
            if (row["problem"], row["dtype"], row["method"]) == ("transformer_2000", "float64", method)
        ]
        assert (row["status"], row["time"].removesuffix(" \\*"), row["peak MiB"], row["error"]) == (
            status,
            time,
            peak,
            error,
        )
