"""The command line of `python -m harness.reproduce`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import record, trust
from harness.record.identity import CELL, canonical
from harness.record.names import CUSTOM, problem_name
from harness.reproduce.script import script
from harness.reproduce.source import ReproduceError


def _names(seen: Mapping[str, Any]) -> list[str | None]:
    """The names that select a record's problem; of a custom problem the path of its function comes first."""
    problem, target = seen["problem"], seen["problem_target"]
    return [target, problem_name(problem, target), problem] if problem == CUSTOM else [problem, target]


def _is_chosen(seen: Mapping[str, Any], where: Sequence[str]) -> bool:
    """Whether a record has the values of all these FIELD=VALUE; raises ReproduceError for what is no field."""
    for entry in where:
        name, equals, value = entry.partition("=")
        if not equals or name not in seen:
            raise ReproduceError(f"--where {entry}: write FIELD=VALUE, with a field of results/README.md")
        if canonical(name, seen[name]) != ("none" if value == "null" else value):
            return False
    return True


def _choice(records: Sequence[Mapping[str, Any]]) -> str:
    """How to choose one of several records, or that there is none."""
    some = sorted({shlex.join([str(_names(seen)[0]), str(seen["method"])]) for seen in records})
    if len(some) != 1:
        return f"{len(records)} records match; name one with --of PROBLEM METHOD ({'; '.join(some[:5]) or 'none'})"
    known = {
        name: sorted({canonical(name, seen[name]) for seen in records})
        for name in (*CELL, "round")
        if name in records[0]
    }
    differing = [f"{name}={'|'.join(values[:5])}" for name, values in known.items() if len(values) > 1]
    return f"{len(records)} records match; choose one with --where {' '.join(differing) or 'FIELD=VALUE'}"


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
    parser.add_argument(
        "--where",
        nargs="+",
        metavar="FIELD=VALUE",
        default=[],
        help="fields of the record, such as dtype=float64 or mode=null, where several records match",
    )
    parser.add_argument(trust.OPTION, action="store_true", help=trust.HELP)
    options = parser.parse_args(arguments)
    try:
        records = record.records(Path(options.record))
        if options.of:
            problem, method = options.of
            records = [seen for seen in records if seen["method"] == method and problem in _names(seen)]
        records = [seen for seen in records if _is_chosen(seen, options.where)]
        if len(records) != 1:
            raise ReproduceError(_choice(records))
        print(script(records[0], options.trust), end="")
    except (record.RecordError, ReproduceError, OSError) as error:
        print(f"harness.reproduce: {error}", file=sys.stderr)
        return 2
    return 0
