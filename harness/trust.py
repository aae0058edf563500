"""Which functions a record may name: those that the files of conf name. All others need --trust."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from harness.config import CONF
from harness.job import QUANTITIES

OPTION = "--trust"  # of the commands that import and call what a record names
HELP = "import and run what the record names outside the harness: only for records that you made or trust"


def foreign(
    problem_target: str, problem_options: Mapping[str, Any], target: str, method_options: Mapping[str, Any]
) -> list[str]:
    """The names in a record, of its problem, its method and their options, that no file of conf has.

    A builder of conf/problem may be given only a `name` that a file gives it, such as `torch.linalg.det`. All other
    texts in options are plain words: a text with a dot or a colon is taken for the name of a function. Nothing is
    imported.
    """
    names = [name for builder, name in _problems() if builder == problem_target]
    name = problem_options.get("name")
    others = {key: value for key, value in problem_options.items() if key != "name"}
    found = [problem_target] if not names else [] if name in names else [f"name={name}"]
    found += [] if target in _methods() else [target]
    found += [text for text in (*_texts(others), *_texts(method_options)) if "." in text or ":" in text]
    return list(dict.fromkeys(found))


def advice(where: str, named: list[str]) -> str:
    """The message that refuses foreign names."""
    shown = ", ".join(f"{name:.60}" for name in named[:3]) + (", ..." if len(named) > 3 else "")
    return (
        f"{where} names {shown}, which is not part of the harness; pass {OPTION} to import and run it: only do so for "
        "records that you made or trust"
    )


@functools.cache
def _problems() -> frozenset[tuple[str, str | None]]:
    """The builders that the files of conf/problem name, each with an option `name`, or None where it has none."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "problem").rglob("*.yaml")]
    return frozenset((entry["_target_"], entry.get("name")) for entry in files if "_target_" in entry)


@functools.cache
def _methods() -> frozenset[str]:
    """The functions that the files of conf/method name, for every quantity."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "method").rglob("*.yaml")]
    targets = {entry["_target_"] for entry in files}
    return frozenset(target.replace("${quantity}", quantity) for target in targets for quantity in QUANTITIES)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, at whatever depth, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)
