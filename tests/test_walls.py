"""Who may import whom in `harness/` and `methods/`, read from the source of every module."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "methods").rglob("*.py")])

# Rooms of the harness that each of its rooms may import; a module at the top of the harness is a room of its own.
ALLOWED = {
    "__init__": {"program"},
    "program": set(),
    "__main__": {
        "analysis",
        "compare",
        "composition",
        "config",
        "plan",
        "program",
        "record",
        "report",
        "run",
        "run_folder",
        "sweep",
    },
    "plugins": {"sweep"},
    "sweep": {"cluster", "compare", "composition", "config", "plan", "program", "record", "run"},
    "cluster": {"cluster", "compare", "config", "job", "program", "record", "run"},
    "run_folder": {"analysis", "compare", "config", "program", "record", "report"},
    "plan": {"cluster", "compare", "composition", "config", "job"},
    "composition": {"config"},
    "job": {"config", "record"},
    "config": set(),
    "run": {"job", "measure", "problems", "record", "run", "truth"},
    "measure": {"job", "measure", "record"},
    "truth": {"job", "measure", "problems", "truth"},
    "problems": {"job", "problems"},
    "record": {"program", "record"},
    "text": {"record"},
    "analysis": {"analysis", "findings", "record", "text"},
    "report": {"analysis", "program", "record", "report", "text"},
    "compare": {"analysis", "compare", "config", "job", "program", "record", "run", "text", "trust"},
    "advise": {
        "__main__",
        "advise",
        "composition",
        "config",
        "job",
        "plan",
        "program",
        "record",
        "reproduce",
        "run",
        "text",
    },
    "findings": {"program", "record"},
    "reproduce": {"job", "problems", "program", "record", "reproduce", "trust"},
    "trust": {"config", "job"},
}
# Outside packages, and the rooms that may import them.
RESERVED = {
    "hydra": {"__main__", "advise", "plugins", "run_folder", "sweep"},
    "omegaconf": {"__main__", "advise", "composition", "plugins", "run_folder", "sweep"},
    "torch": {"run", "measure", "problems", "truth"},
    "pandas": {"analysis", "compare", "record", "report", "text"},
    "seaborn": {"report"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "scipy.stats": {"analysis", "compare", "measure", "truth"},  # report computes no statistics
    "rich": {"compare", "report", "run"},
    "submitit": {"cluster"},
}


# Modules of methods/ that hold no method, but what a problem and a method must agree on.
SHARED = {"calls", "ravel", "samples"}
# Modules of methods/peers that import another package than the one they are named for.
PEERS = {
    "aten_to_jax": "jax",
    "curvlinops_approximations": "curvlinops",
    "curvlinops_hessian": "curvlinops",
    "curvlinops_inverses": "curvlinops",
    "curvlinops_operators": "curvlinops",
    "curvlinops_spectra": "curvlinops",
    "curvlinops_traces": "curvlinops",
    "hessian_eigenthings_estimates": "hessian_eigenthings",
    "jax_per_sample": "jax",
    "laplace_approximations": "laplace",
    "laplace_fit": "laplace",
    "scipy_eigsh": "scipy",
    "scipy_krylov": "scipy",
    "scipy_operators": "scipy",
}


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


def dotted(path: Path) -> str:
    """The name by which a module or package is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    """The module or folder of harness/ that a file belongs to: its one word."""
    return path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    names = imported(path)
    if path.is_relative_to(ROOT / "methods"):
        outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        peers = {PEERS.get(path.stem, path.stem)} if path.parent.name == "peers" else set()
        formats = {"numpy"} if path.parent.name == "storage" else set()  # a stored matrix has NumPy's format
        assert outside <= {"torch", "methods", *peers, *formats}
        return
    assert {name.removeprefix("methods.").split(".")[0] for name in names if name.split(".")[0] == "methods"} <= SHARED
    own = {name.split(".")[1] for name in names if name.startswith("harness.")}
    assert own <= ALLOWED.get(room(path), set())
    for package, users in RESERVED.items():
        if any(f"{name}.".startswith(f"{package}.") for name in names):
            assert room(path) in users, f"{path} imports {package}"


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first also the last; none where there is no circle."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions and for type checking count too."""
    modules = {dotted(path): imported(path) for path in MODULES}
    imports = {
        name: {found if found in modules else found.rpartition(".")[0] for found in names} & modules.keys() - {name}
        for name, names in modules.items()
    }
    assert imports["harness.run.worker"] >= {"harness.job", "harness.problems.binding", "harness.problems"}
    assert circle(imports) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in (["a", "c", "b", "a"], ["a", "b", "c", "a"])
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_the_entry_point_starts_without_the_heavy_packages() -> None:
    heavy = "torch", "pandas", "numpy", "seaborn", "matplotlib", "rich"
    program = f"import sys, harness.__main__; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    assert listed == {".".join(folder.parts) for folder in folders} - {"harness.plugins"} | {"harness.conf"}
