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
        if _value(seen, name) != value:
            return False
    return True


def _value(seen: Mapping[str, Any], name: str) -> str:
    return "null" if seen[name] is None else canonical(name, seen[name])


def _choice(records: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> str:
    """How to choose one of several records, or that none matches and which there are."""
    some = sorted({shlex.join([str(_names(seen)[0]), str(seen["method"])]) for seen in records or every})
    if len(some) != 1 or not records:
        return f"{len(records)} records match; name one with --of PROBLEM METHOD, such as {'; '.join(some[:5])}"
    names = [name for name in (*CELL, "round") if name in records[0]]
    known = {name: sorted({_value(seen, name) for seen in records}) for name in names}
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
        every = records = record.records(Path(options.record))
        if options.of:
            problem, method = options.of
            every = [seen for seen in every if problem in _names(seen)] or every
            records = [seen for seen in every if seen["method"] == method and problem in _names(seen)]
        records = [seen for seen in records if _is_chosen(seen, options.where)]
        if len(records) != 1:
            raise ReproduceError(_choice(records, every))
        print(script(records[0], options.trust), end="")
    except (record.RecordError, ReproduceError, OSError) as error:
        print(f"harness.reproduce: {error}", file=sys.stderr)
        return 2
    return 0
