"""Copies of the methods, each call of which is made worse by a known amount."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

from harness.job import QUANTITIES, Job

METHODS = "methods"  # the package that is copied
SLOWER = {"5 % slower": 1.05, "10 % slower": 1.10, "20 % slower": 1.20}  # ratio of times
# The operator of torch that is called once more on every result, and the counter that must show it.
EXACT = {"one more copy": ("clone", "allocations"), "one more operator call": ("detach", "operations")}
UNCHANGED = "same"  # folder of the copy that is not made worse
# What is added to each module of a copy.
TAIL = """

def _planted(function):
    import functools
    import time

    import torch
    from torch.utils._pytree import tree_map

    def clock():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    @functools.wraps(function)
    def worse(*args, **kwargs):
        began = clock()
        result = function(*args, **kwargs)
        until = began + {ratio} * (clock() - began)
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
    for name, ratio in SLOWER.items():
        _append(_copy(root / _folder(name) / METHODS), ratio)
    for name, (operator, _) in EXACT.items():
        _append(_copy(root / _folder(name) / METHODS), 1.0, operator)


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


def _append(package: Path, ratio: float, operator: str = "") -> None:
    """Make each call of a copy slower by a ratio, and call an operator of torch on its result."""
    result = f"tree_map(torch.{operator}, result)" if operator else "result"
    for file in package.rglob("*.py"):
        with file.open("a") as stream:
            stream.write(TAIL.format(ratio=ratio, result=result, names=QUANTITIES))
