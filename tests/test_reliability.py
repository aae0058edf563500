"""The faults of `tests.reliability`: the whole table is slow; tests of single faults are with what they are about."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import tests.reliability

KINDS = [
    module.name
    for module in pkgutil.iter_modules(tests.reliability.__path__)
    if module.name not in ("__main__", "cases")
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_was_tried_holds(kind: str, tmp_path: Path) -> None:
    for name, case in importlib.import_module(f"tests.reliability.{kind}").CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        case(folder)
