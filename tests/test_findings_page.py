"""The scripts of results/findings.md print what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "results" / "findings.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 2


@pytest.mark.parametrize(("script", "printed"), SCRIPTS)
def test_a_script_prints_what_the_page_says(script: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert re.sub(r"\de-(0\d|1\d)", r"?e-\1", done.stdout) == re.sub(r"\de-(0\d|1\d)", r"?e-\1", printed)
