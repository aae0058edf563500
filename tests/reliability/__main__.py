"""Try the faults of all modules, or of those that are named: a table of what was tried and what held.

`python -m tests.reliability [MODULE ...]`. Exit status 1 where something did not hold.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
import traceback
from pathlib import Path

import tests.reliability
from tests.reliability.cases import Case


def main(names: list[str]) -> int:
    """Print a line for each attempt that failed, then the table; the exit status."""
    known = [module.name for module in pkgutil.iter_modules(tests.reliability.__path__)]
    kinds = names or [name for name in known if name not in ("__main__", "cases")]
    rows, failed = [], 0
    for kind in kinds:
        cases: dict[str, Case] = importlib.import_module(f"tests.reliability.{kind}").CASES
        held = sum([_holds(kind, name, case) for name, case in cases.items()])
        rows.append(f"| {kind.replace('_', ' ')} | {len(cases)} | {held} |")
        failed += len(cases) - held
    print("\n".join(["| kind | tried | held |", "|---|---|---|", *rows]))
    return 1 if failed else 0


def _holds(kind: str, name: str, case: Case) -> bool:
    with tempfile.TemporaryDirectory(prefix="harness-reliability-") as folder:
        try:
            case(Path(folder))
        except Exception:
            print(f"{kind}, {name}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            return False
    print(f"{kind}, {name}: held", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
