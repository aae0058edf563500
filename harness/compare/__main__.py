"""A verdict a cell, from records. Exit status: 0 fine, 1 a regression, 2 nothing comparable, 3 an error."""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from pandas import DataFrame

from harness import record
from harness.compare import output
from harness.compare.confirm import confirm
from harness.compare.verdicts import GUARD, compare, side
from harness.run.client import LaunchError
from harness.run.launcher import Launcher


class _Parser(argparse.ArgumentParser):
    """Ends with 3 where the arguments are at fault: 2 means that nothing can be compared."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that what was started is ended
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    parser = _Parser(prog="python -m harness.compare", description=__doc__)
    parser.add_argument("base", type=Path, metavar="BASE", nargs="?", help="a run folder or baseline file (*.jsonl)")
    parser.add_argument("candidate", type=Path, metavar="CANDIDATE", nargs="?", help="what is judged")
    parser.add_argument(
        "--slower", type=ratio, default=GUARD, metavar="RATIO", help="slowdown that matters (default: %(default)s)"
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
        help="time for more processes of undecided cells, added to both run folders",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the verdicts as Markdown")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write them as JUnit XML")
    parser.add_argument(
        "--selftest",
        type=int,
        nargs="?",
        const=20,
        metavar="RUNS",
        help="measure the verdict's own false alarms and misses here (20 runs), on the cells of "
        "BASE or else of +sweep=nightly",
    )
    parser.add_argument(
        "--load",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="of the selftest: another process keeps one core busy this part of the time",
    )
    options = parser.parse_args(arguments)
    if options.selftest is not None:
        if options.candidate or options.selftest < 1:
            parser.error("--selftest takes at least 1 run, and at most one run folder, whose cells are measured anew")
        return _selftest(options)
    if options.candidate is None:
        parser.error("BASE and CANDIDATE are needed: two run folders or baseline files")
    try:
        options.base, options.candidate = side(options.base), side(options.candidate)
        verdicts = compare(record.load(options.base), record.load(options.candidate), options.slower, options.allow)
        confirmed = _confirmed(options) if options.confirm else verdicts
        verdicts = verdicts if confirmed is None else confirmed
        output.terminal(verdicts)
        for file, text in ((options.markdown, output.markdown), (options.junit, output.junit)):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text(verdicts), encoding="utf-8")
    except (record.RecordError, OSError) as error:
        print(f"harness.compare: {error}", file=sys.stderr)
        return 3
    return output.status(verdicts) or (3 if confirmed is None else 0)


def _confirmed(options: argparse.Namespace) -> DataFrame | None:
    """The verdicts after more processes; None, and why, where these cannot be had."""
    sides = options.base, options.candidate
    try:
        with Launcher() as launcher:
            return confirm(sides, launcher, options.confirm, options.slower, options.allow)
    except (record.RecordError, LaunchError, OSError) as error:
        print(f"harness.compare: undecided cells were not run again: {error}", file=sys.stderr)
        return None


def _selftest(options: argparse.Namespace) -> int:
    from harness.compare.selftest import selftest

    try:
        return selftest(options.selftest, options.load, options.base)
    except (record.RecordError, LaunchError, OSError, subprocess.CalledProcessError) as error:
        print(f"harness.compare: {error}", file=sys.stderr)
        return 3


def ratio(text: str) -> float:
    """A slowdown, as 1.10 for 10 %."""
    if not 1 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a ratio above 1, as 1.10 for 10 %")
    return float(text)


def seconds(text: str) -> float:
    """A time."""
    if not float(text) >= 0:
        raise argparse.ArgumentTypeError(f"{text} must be a time in seconds of at least 0")
    return float(text)


def share(text: str) -> float:
    """A part of a whole."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return float(text)


def counters(text: str) -> tuple[str, ...]:
    """Names of counters, with commas."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in record.COUNTERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is no counter; they are {', '.join(record.COUNTERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
