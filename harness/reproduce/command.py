"""The command line of `python -m harness.reproduce`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import record, trust
from harness.record.names import CUSTOM, problem_name
from harness.reproduce.script import script
from harness.reproduce.source import ReproduceError


def _names(seen: Mapping[str, Any]) -> list[str | None]:
    """The names that select a record's problem; of a custom problem the path of its function comes first."""
    problem, target = seen["problem"], seen["problem_target"]
    return [target, problem_name(problem, target), problem] if problem == CUSTOM else [problem, target]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script for one record; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reproduce",
        description="Print a script that shows what a record found, without the harness.",
    )
    parser.add_argument("record", metavar="RECORD", help="a record.json, or a run folder or baseline with --of")
    which = (
        "which record of many; PROBLEM is the name of a file in conf/problem, or the name or path of the function of a "
        "custom problem"
    )
    parser.add_argument("--of", nargs=2, metavar=("PROBLEM", "METHOD"), help=which)
    parser.add_argument(trust.OPTION, action="store_true", help=trust.HELP)
    options = parser.parse_args(arguments)
    try:
        records = record.records(Path(options.record))
        if options.of:
            problem, method = options.of
            records = [seen for seen in records if seen["method"] == method and problem in _names(seen)]
        if len(records) != 1:
            some = "; ".join(sorted({shlex.join([str(_names(seen)[0]), str(seen["method"])]) for seen in records})[:5])
            raise ReproduceError(f"{len(records)} records match; name one with --of PROBLEM METHOD ({some or 'none'})")
        print(script(records[0], options.trust), end="")
    except (record.RecordError, ReproduceError, OSError) as error:
        print(f"harness.reproduce: {error}", file=sys.stderr)
        return 2
    return 0
