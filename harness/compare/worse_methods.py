"""Copies of the methods, each call of which is made worse by a known amount."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

from harness.job import QUANTITIES, Job

METHODS = "methods"  # the package that is copied
# Ratio of the times of the calls that are slowed down, and one in how many calls that is.
SLOWER = {
    "5 % slower": (1.05, 1),
    "10 % slower": (1.10, 1),
    "20 % slower": (1.20, 1),
    "every fifth call twice as slow": (2.0, 5),
}
# The operator of torch that is called once more on every result, and the counter that must show it.
EXACT = {"one more copy": ("clone", "allocations"), "one more operator call": ("detach", "operations")}
UNCHANGED = "same"  # folder of the copy that is not made worse
# What is added to each module of a copy.
TAIL = """

def _planted(function):
    import functools
    import itertools
    import time

    import torch
    from torch.utils._pytree import tree_map

    def clock():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    calls = itertools.count()

    @functools.wraps(function)
    def worse(*args, **kwargs):
        began = clock()
        result = function(*args, **kwargs)
        ratio = {ratio} if next(calls) % {every} == {every} - 1 else 1.0
        until = began + ratio * (clock() - began)
        while time.perf_counter() < until:
            pass
        return {result}

    return worse


for _name in {names}:
    if _name in globals():
        globals()[_name] = _planted(globals()[_name])
"""


def copy_methods(root: Path) -> None:
    """Write all copies below `root`, each into a folder of its own."""
    _copy(root / UNCHANGED / METHODS)
    for name, (ratio, every) in SLOWER.items():
        _append(_copy(root / _folder(name) / METHODS), ratio, every)
    for name, (operator, _) in EXACT.items():
        _append(_copy(root / _folder(name) / METHODS), 1.0, operator=operator)


def unchanged(job: Job, root: Path) -> Job:
    """The job by the copy that is not made worse."""
    return replace(job, code=str(root / UNCHANGED))


def made_worse(job: Job, name: str, root: Path) -> Job:
    """The job by a copy that is made worse; `name` is of SLOWER or EXACT."""
    return replace(job, code=str(root / _folder(name)))


def _folder(name: str) -> str:
    return re.sub("[^0-9a-z]+", "_", name)


def _copy(package: Path) -> Path:
    """Copy the methods to a folder."""
    found = importlib.util.find_spec(METHODS)
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def _append(package: Path, ratio: float, every: int = 1, operator: str = "") -> None:
    """Make calls of a copy slower by a ratio, one in `every`, and call an operator of torch on each result."""
    result = f"tree_map(torch.{operator}, result)" if operator else "result"
    for file in package.rglob("*.py"):
        with file.open("a") as stream:
            stream.write(TAIL.format(ratio=ratio, every=every, result=result, names=QUANTITIES))
