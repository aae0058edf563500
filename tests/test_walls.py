"""Who may import whom: `harness/` and `methods/` as DESIGN has them, read from the source of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "methods").rglob("*.py")])

# Rooms of the harness that each of its rooms may import; a module at the top of the harness is a room of its own.
ALLOWED = {
    "__main__": {"analysis", "compare", "config", "plan", "record", "report", "run", "sweep"},
    "plugins": {"sweep"},
    "sweep": {"compare", "config", "plan", "record", "run"},
    "run_folder": {"analysis", "compare", "config", "record", "report"},
    "plan": {"compare", "config", "job"},
    "job": {"config", "record"},
    "config": set(),
    "run": {"job", "measure", "problems", "record", "run", "truth"},
    "measure": {"job", "measure", "record"},
    "truth": {"job", "measure", "problems", "truth"},
    "problems": {"job", "problems"},
    "record": {"record"},
    "text": {"record"},
    "analysis": {"analysis", "findings", "record", "text"},
    "report": {"analysis", "record", "report", "text"},
    "compare": {"analysis", "compare", "config", "job", "record", "run", "text"},
    "advise": {"__main__", "advise", "job", "plan", "record", "reproduce", "run", "text"},
    "findings": {"record"},
    "reproduce": {"problems", "record"},
}
# Outside packages, and the rooms that may import them.
RESERVED = {
    "hydra": {"__main__", "advise", "plugins", "run_folder", "sweep"},
    "omegaconf": {"__main__", "advise", "plan", "plugins", "run_folder", "sweep"},
    "torch": {"run", "measure", "problems", "truth"},
    "pandas": {"analysis", "compare", "record", "report", "text"},
    "seaborn": {"report"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "rich": {"compare", "report", "run"},
}


# Modules of methods/ that hold no method, but what a problem and a method must agree on.
SHARED = {"calls", "ravel"}
# Modules of methods/peers that import another package than the one they are named for.
PEERS = {"aten_to_jax": "jax"}


def imported(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    """The module or folder of harness/ that a file belongs to: its one word."""
    return path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    names = imported(path)
    if path.is_relative_to(ROOT / "methods"):
        outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        peers = {PEERS.get(path.stem, path.stem)} if path.parent.name == "peers" else set()
        assert outside <= {"torch", "methods", *peers}
        return
    assert {name.removeprefix("methods.").split(".")[0] for name in names if name.split(".")[0] == "methods"} <= SHARED
    own = {name.split(".")[1] for name in names if name.startswith("harness.")}
    assert own <= ALLOWED.get(room(path), set())
    for package, users in RESERVED.items():
        if any(name.split(".")[0] == package for name in names):
            assert room(path) in users, f"{path} imports {package}"


def test_the_entry_point_starts_without_the_heavy_packages() -> None:
    heavy = "torch", "pandas", "numpy", "seaborn", "matplotlib", "rich"
    program = f"import sys, harness.__main__; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"
