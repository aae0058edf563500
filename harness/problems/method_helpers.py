"""The helpers `calls`, `ravel` and `samples` of `methods`, with which problems call networks and take samples.

The harness loads its own copies of them, from the folder beside it, under other names. The imported package `methods`
may be another version, from a folder `code`, and is what is measured.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING


def _loaded(name: str) -> ModuleType:
    own_name = f"{__package__}.own_{name}"
    file = Path(__file__).parents[2] / "methods" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(own_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from methods import calls, ravel, samples
else:
    calls, ravel, samples = _loaded("calls"), _loaded("ravel"), _loaded("samples")
