"""Compare a candidate with a baseline, both from records: a verdict on each benchmark cell.

Exit status: 0 no regression, 1 a regression, 2 nothing comparable, 3 an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from pandas import DataFrame

from harness import program, record, trust
from harness.compare import output
from harness.compare.baseline import SECONDS, SLOWDOWN
from harness.compare.confirm import confirm
from harness.compare.verdicts import GUARD, candidate_folder, compare
from harness.config import Check, number
from harness.run.client import LaunchError
from harness.run.launcher import Launcher

SHARE = number("a share between 0 and 1", lambda share: 0 <= share <= 1)


class _Parser(argparse.ArgumentParser):
    """Ends with 3 where the arguments are at fault: 2 means that nothing can be compared."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Compare, write, print; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.selftest is not None:
        if options.candidate or options.selftest < 1:
            parser.error("--selftest takes at least 1 run, and at most one run folder, whose cells are measured anew")
        return _selftest(options)
    if options.candidate is None:
        parser.error("BASE and CANDIDATE are needed: two run folders or baseline files")
    try:
        options.base, options.candidate = candidate_folder(options.base), candidate_folder(options.candidate)
        verdicts = compare(record.load(options.base), record.load(options.candidate), options.slower, options.allow)
        confirmed = _confirmed(options) if options.confirm else verdicts
        verdicts = verdicts if confirmed is None else confirmed
        try:
            for file, text in ((options.markdown, output.markdown), (options.junit, output.junit)):
                if file is not None:
                    record.write_text(text(verdicts), file)
        finally:
            output.terminal(verdicts)
    except (record.RecordError, OSError) as error:
        print(f"harness.compare: {error}", file=sys.stderr)
        return 3
    return output.status(verdicts) or (3 if confirmed is None else 0)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m harness.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "base", type=Path, metavar="BASE", nargs="?", help="the baseline: a run folder or baseline file (*.jsonl)"
    )
    parser.add_argument(
        "candidate", type=Path, metavar="CANDIDATE", nargs="?", help="what is judged: a run folder or baseline file"
    )
    parser.add_argument(
        "--slower",
        type=ratio,
        default=GUARD,
        metavar="RATIO",
        help="ratio of times from which a slowdown matters (default: %(default)s)",
    )
    parser.add_argument(
        "--allow",
        type=counters,
        default=(),
        metavar="COUNTERS",
        help=f"counters that may change, with commas: {', '.join(record.COUNTERS)}",
    )
    parser.add_argument(
        "--confirm",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="time for more processes of undecided cells; their records are added to both run folders",
    )
    parser.add_argument(trust.OPTION, action="store_true", help=f"with --confirm or --selftest: {trust.HELP}")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the verdicts as Markdown")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    parser.add_argument(
        "--selftest",
        type=int,
        nargs="?",
        const=20,
        metavar="RUNS",
        help="measure how often the verdict is wrong on this machine, in RUNS runs (default: 20) of the cells of BASE, "
        "or of +sweep=nightly without BASE",
    )
    parser.add_argument(
        "--load",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="with --selftest: keep one core busy for this share of the time, by another process",
    )
    return parser


def _confirmed(options: argparse.Namespace) -> DataFrame | None:
    """The verdicts after more processes; None, and why, where these cannot be had."""
    folders = options.base, options.candidate
    try:
        with Launcher() as launcher:
            return confirm(folders, launcher, options.confirm, options.slower, options.allow, options.trust)
    except (record.RecordError, LaunchError, OSError) as error:
        print(f"harness.compare: undecided cells were not run again: {error}", file=sys.stderr)
        return None


def _selftest(options: argparse.Namespace) -> int:
    """Measure how often the verdict is wrong; the exit status."""
    from harness.compare.selftest import selftest

    try:
        return selftest(options.selftest, options.load, options.base, options.trust)
    except (record.RecordError, LaunchError, OSError, subprocess.CalledProcessError) as error:
        print(f"harness.compare: {error}", file=sys.stderr)
        return 3


def ratio(text: str) -> float:
    """A slowdown, as 1.10 for 10 %."""
    return _checked(text, SLOWDOWN)


def seconds(text: str) -> float:
    """A time."""
    return _checked(text, SECONDS)


def share(text: str) -> float:
    """A part of a whole."""
    return _checked(text, SHARE)


def _checked(text: str, check: Check) -> float:
    """A number that passes a check; raises ArgumentTypeError with the check's words."""
    if not check.allows(float(text)):
        raise argparse.ArgumentTypeError(f"{text} {check.must}")
    return float(text)


def counters(text: str) -> tuple[str, ...]:
    """Names of counters, with commas."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in record.COUNTERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is no counter; they are {', '.join(record.COUNTERS)}")
    return names


if __name__ == "__main__":
    program.run(main, failed=3)
