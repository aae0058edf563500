"""The harness's own copies of two modules of `methods`, which it calls networks and flattens parameters with.

They are loaded from beside the harness under names of their own: the package `methods` may be another version of it,
from a folder `code`, and is what is measured.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING


def _loaded(name: str) -> ModuleType:
    own = f"{__package__}.own_{name}"
    file = Path(__file__).parents[2] / "methods" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(own, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from methods import calls, ravel
else:
    calls, ravel = _loaded("calls"), _loaded("ravel")
