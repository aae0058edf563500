"""The tests of other libraries' methods with the lowest and with the newest versions that pyproject.toml allows.

`python -m tests.programs.peers_over_versions [FOLDER]` makes a virtual environment for each of the two in FOLDER (a
temporary one if not given) and prints a row for each: the versions, and how many tests passed, failed and were skipped.
torch and all else is as in constraints.txt. Exit status 1 where a test failed or an installation did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
# Tests of the rows of conf/method that call other libraries.
TESTS = (*map(str, sorted(ROOT.glob("tests/test_peers*.py"))), "tests/test_approximations.py", "tests/test_methods.py")
ROWS = "peers or approximations or " + " or ".join(
    ("asdl", "backpack", "curvlinops", "hessian_eigenthings", "laplace", "nngeometry", "pyhessian")
)


def main(folder: Path) -> int:
    """Print the table; the exit status."""
    print("| versions | passed | failed | skipped |\n|---|---|---|---|", flush=True)
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["peers"]
    return max(_row("lowest", lowest(asked), folder), _row("newest", asked, folder))


def lowest(requirements: Sequence[str]) -> list[str]:
    """The lowest versions that requirements of the form `name>=1.2,<3` or `name==1.2` allow."""
    found = []
    for requirement in map(Requirement, requirements):
        (version,) = (part.version for part in requirement.specifier if part.operator in (">=", "=="))
        found.append(f"{requirement.name}=={version}")
    return found


def _row(name: str, requirements: Sequence[str], folder: Path) -> int:
    place = folder / name
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    names = {Requirement(text).name.lower() for text in requirements}
    others = place / "constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    others.write_text("\n".join(line for line in pinned if line.partition("==")[0].lower() not in names))
    installed = [python, "-m", "pip", "install", "-q", "-c", str(others), f"{ROOT}[test]", *requirements]
    if subprocess.run(installed, stdout=sys.stderr).returncode:
        print(f"{name}: {', '.join(requirements)} cannot be installed", file=sys.stderr, flush=True)
        return 1
    # The registry's torchvision is built for another torch; none of the libraries needs it here.
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True, stdout=sys.stderr)
    results = place / "results.xml"
    tested = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={results}", "-k", ROWS, *TESTS]
    status = subprocess.run(tested, cwd=ROOT, stdout=sys.stderr).returncode
    if not results.exists():
        print(f"{name}: pytest ended with {status}, without results", file=sys.stderr, flush=True)
        return 1
    (suite,) = ElementTree.parse(results).getroot().iter("testsuite")
    counts = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    shown = ", ".join(_versions(python, names))
    print(f"| {name}: {shown} | {passed} | {failed} | {counts['skipped']} |", flush=True)
    return int(status != 0)


def _versions(python: str, names: set[str]) -> list[str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    wanted = {*names, "torch"}
    lines = listed.stdout.splitlines()
    return [line.replace("==", " ") for line in lines if line.partition("==")[0].lower() in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.programs.peers_over_versions", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="where the environments are made")
    chosen = parser.parse_args().folder
    if chosen is not None:
        sys.exit(main(chosen))
    with tempfile.TemporaryDirectory() as made:
        sys.exit(main(Path(made)))
