"""Source of functions at dotted paths: read, and copied with all that it uses."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

from harness.record import plain

OURS = ("harness", "methods")  # packages whose source is copied; all others are imported

# Replacements, in a script, of the functions that make a problem: a script only uses their arguments.
STUBS = {
    "harness.problems.problem.Problem": "Problem = tuple",
    "harness.problems.construction.from_network": """def from_network(
    model, criterion, inputs, targets=None, hessian=None
):
    return model, criterion, inputs, targets""",
    "harness.problems.construction.from_function": """def from_function(objective, parameters, data=(), hessian=None):
    return objective, parameters, data""",
}


class ReproduceError(ValueError):
    """No script can be written for a record; its text is one line that can be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text))


def parameters(path: str) -> list[str]:
    """Names of the parameters of the function at a dotted path, read from its source, without importing it.

    Raises ReproduceError where the source does not show them: where no plain `def` defines the function.
    """
    module, _, name = path.rpartition(".")
    node, _ = _tops(module).get(name, (None, ""))
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        raise ReproduceError(f"{path} is not defined in the source of {module} by a plain def")
    return parameters_of(node)


def returns(path: str) -> str | None:
    """The annotation of what the function at a dotted path returns, read from its source; None where it has none."""
    module, _, name = path.rpartition(".")
    try:
        node, _ = _tops(module).get(name, (None, ""))
    except ReproduceError:
        return None
    return ast.unparse(node.returns) if isinstance(node, ast.FunctionDef) and node.returns is not None else None


def lacks(path: str) -> bool:
    """Whether the source of a dotted path's module does not define its name; False where there is no source."""
    module, _, name = path.rpartition(".")
    try:
        return name not in _tops(module)
    except ReproduceError:
        return False


def parameters_of(function: ast.FunctionDef) -> list[str]:
    """Names of the parameters of a function."""
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


class Source:
    """Definitions, each after those that it uses, with the imports from elsewhere that they need."""

    def __init__(self) -> None:
        self._imports: dict[str, None] = {"import torch": None}
        self._definitions: dict[str, tuple[str, str]] = {}  # name -> (module, source)

    def add(self, path: str) -> Any:
        """Copy the definition at a dotted path of our packages, with all that it uses; its syntax tree."""
        module, _, name = path.rpartition(".")
        if path in STUBS:
            self._definitions[name] = (module, STUBS[path])
            return ast.parse(STUBS[path]).body[0]
        tops = _tops(module)
        if name not in tops:
            raise ReproduceError(f"{path} is not defined in the source of {module}; scripts copy what is")
        node, text = tops[name]
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS:
            return self.add(f"{node.module}.{name}")
        if name in self._definitions:
            if self._definitions[name][0] != module:
                raise ReproduceError(f"both {module} and {self._definitions[name][0]} define {name}")
            return node
        self._definitions[name] = (module, "")  # a recursive function finds itself
        if isinstance(node, ast.Import | ast.ImportFrom):
            raise ReproduceError(f"{path} is imported there, not defined; name the module that defines it")
        for used in sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)} & set(tops)):
            self._use(module, tops[used][0], used)
        del self._definitions[name]  # to come after what it uses
        self._definitions[name] = (module, text)
        return node

    def _use(self, module: str, node: ast.stmt, name: str) -> None:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            self.add(f"{module}.{name}")
            return
        alias = next(alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) == name)
        origin = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
        if origin.split(".")[0] in OURS:
            if alias.asname is not None or isinstance(node, ast.Import):
                raise ReproduceError(f"{module} imports {origin} under another name; scripts copy plain names")
            self.add(f"{origin}.{alias.name}")
            return
        renamed = "" if alias.asname is None else f" as {alias.asname}"
        start = f"from {origin} import" if isinstance(node, ast.ImportFrom) else "import"
        self._imports[f"{start} {alias.name}{renamed}"] = None

    def text(self) -> str:
        """The imports and definitions."""
        imports = sorted(self._imports, key=lambda line: (line.startswith("from"), line))
        return (
            "\n".join(["from __future__ import annotations", "", *imports])
            + "\n\n\n"
            + "\n\n\n".join(text for _, text in self._definitions.values())
        )


@functools.cache
def _tops(module: str) -> dict[str, tuple[ast.stmt, str]]:
    """Every name that a module defines or imports at its top, with its statement and source."""
    try:
        spec = importlib.util.find_spec(module)  # which imports the packages that hold the module
        origin = None if spec is None else spec.origin
        text = None if origin is None else Path(origin).read_text(encoding="utf-8")
        statements = [] if text is None else ast.parse(text).body
    except Exception as error:  # the user's own code may raise anything
        raise ReproduceError(f"the source of {module} is not to be found: {error}") from error
    if text is None:
        raise ReproduceError(f"the source of {module} is not to be found; run this where it can be imported")
    lines = text.split("\n")  # as ast counts them
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node in statements:
        source = "\n".join(lines[_first_line(node) - 1 : node.end_lineno])
        for name in _defined(node):
            found[name] = (node, source)
    return found


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines or imports."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def _first_line(node: ast.stmt) -> int:
    """The number of the first line of a statement, its decorators included."""
    return min([node.lineno, *(entry.lineno for entry in getattr(node, "decorator_list", []))])
