"""The test suite under several interpreters, each with a torch of its own.

`python -m tests.programs.suite_over_torch PYTHON [PYTHON ...]` prints a row for each interpreter. The tests that failed
are named on stderr. Exit status 1 where a test failed or pytest did not run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent.parent


def main(interpreters: list[str]) -> int:
    """Print the table, a row as soon as its suite has ended; the exit status."""
    print("| torch | passed | skipped | failed | minutes |\n|---|---|---|---|---|", flush=True)
    return max([_row(interpreter) for interpreter in interpreters], default=0)


def _row(interpreter: str) -> int:
    asked = [interpreter, "-c", "import pytest, torch; print(torch.__version__)"]
    try:
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        version = ""
    if not version:
        print(f"{interpreter} is no Python with torch and pytest", file=sys.stderr, flush=True)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        tested = [interpreter, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={results}"]
        status = subprocess.run(tested, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
        if not results.exists():
            print(f"torch {version}: pytest ended with {status}, without results", file=sys.stderr, flush=True)
            return 1
        (suite,) = ElementTree.parse(results).getroot().iter("testsuite")
    failed = [
        case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None
    ]
    for case in failed:
        print(f"torch {version}: {case.get('classname')}::{case.get('name')}", file=sys.stderr, flush=True)
    skipped = int(suite.attrib["skipped"])
    passed = int(suite.attrib["tests"]) - skipped - len(failed)
    print(f"| {version} | {passed} | {skipped} | {len(failed)} | {float(suite.attrib['time']) / 60:.0f} |", flush=True)
    return int(status != 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.programs.suite_over_torch", description=__doc__)
    parser.add_argument("interpreters", metavar="PYTHON", nargs="+", help="a Python with torch and the test extra")
    sys.exit(main(parser.parse_args().interpreters))
