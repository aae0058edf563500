"""`python -m harness.reproduce RECORD`: a script that shows what a record found, without the harness.

The script holds the source of the problem's builder and of the method, as far as they are used, and compares the
method's Hessian with central differences of the gradient.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import record
from harness.record.names import CUSTOM, problem_name

OURS = ("harness", "methods")  # packages whose source is copied; all others are imported


# What stands in a script for the functions that make a problem: only what they are given is used there.
STUBS = {
    "harness.problems.problem.Problem": "Problem = tuple",
    "harness.problems.problem.from_network": """def from_network(model, criterion, inputs, targets=None, hessian=None):
    return model, criterion, inputs, targets""",
    "harness.problems.problem.from_function": """def from_function(objective, parameters, data=(), hessian=None):
    return objective, parameters, data""",
}


class ReproduceError(ValueError):
    """No script can be written for a record."""


def script(seen: Mapping[str, Any]) -> str:
    """The script for one record of a Hessian; it computes in float64, whatever the record's dtype.

    Raises ReproduceError for a record of another quantity or of a `subset`, of a cell that was never composed, or whose
    sources are not at hand.
    """
    if seen["quantity"] != "hessian" or not seen["problem_target"] or not seen["target"]:
        raise ReproduceError(
            f"the record of {seen['problem']} by {seen['method']} is of quantity={seen['quantity']} and was built by "
            f"{seen['problem_target']}; scripts are written for a Hessian whose problem and method are known"
        )
    if seen["subset"]:
        raise ReproduceError(
            f"the record is of subset={seen['subset']} parameters; scripts are written for all of them"
        )
    source = _Source()
    builder = source.add(seen["problem_target"])
    method = source.add(seen["target"])
    options = json.loads(seen["problem_options"])
    options.pop("stop_gradient", None)  # what is meant by the loss, and no option of its builder
    if "seed" in _parameters(builder):
        options.setdefault("seed", seen["seed"])
    built = _built(seen["problem_target"], options)
    called = f"{builder.name}({', '.join(f'{key}={_argument(value, source)}' for key, value in options.items())})"
    if seen["problem_target"].split(".")[0] not in OURS:  # ours are drawn in float64
        source.add("harness.problems.problem.double")
        called = f"torch.utils._pytree.tree_map(double, {called})"
    setup = _of_network(built, called, source) if _is_network(built) else _of_function(built, called)
    source.add("methods.ravel.ravel")
    if seen.get("attention"):
        source.add("harness.problems.attention.use_math")
        setup = f"use_math()\n{setup}"
    offered = ("loss", "theta", "model", "criterion", "inputs", "targets")
    given = [f"{name}={name}" for name in _parameters(method) if name in offered]
    given += [f"{key}={value!r}" for key, value in json.loads(seen["method_options"]).items()]
    return f'''"""{seen["method"]} on {seen["problem"]}: {seen["status"]} with torch {seen["torch"]}{_error(seen)}."""

{source.text()}

{setup}

def gradient(theta):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


found = {method.name}({", ".join(given)})
step = 1e-4
true = torch.stack([(gradient(theta + step * unit) - gradient(theta - step * unit)) / (2 * step)
                    for unit in torch.eye(len(theta), dtype=theta.dtype)])
print("torch", torch.__version__)
print(f"relative distance from central differences: {{float((found - true).norm() / true.norm()):.1e}}")
print(f"asymmetry: {{float((found - found.T).norm() / found.norm()):.1e}}")
'''


def _built(target: str, options: Mapping[str, Any]) -> Any:
    """What a builder returns: only that tells whether it is a network, a function or a problem."""
    from harness.problems.problem import returned  # which imports torch

    try:
        return returned(target, options)
    except Exception as error:  # of whatever kind: it is the user's own code
        raise ReproduceError(f"{target} was called with {dict(options)} and raised {error}") from error


def _is_network(built: Any) -> bool:
    from harness.problems.problem import is_network  # which imports torch

    return is_network(built) if isinstance(built, tuple) else built.model is not None


def _of_network(built: Any, called: str, source: _Source) -> str:
    """The lines that define loss and theta, for a builder of a network."""
    source.add("methods.calls.loss_of")
    criterion, *targets = built[1:2] + built[3:] if isinstance(built, tuple) else (built.criterion, built.targets)
    completed = ""
    if criterion is None or targets in ([], [None]):
        source.add("methods.calls.completed")
        completed = "criterion = completed(criterion, targets)\n"
    return f"""model, criterion, inputs, *targets = {called}
targets = targets[0] if targets else None
{completed}theta, unravel = ravel(model)
whole = loss_of(model, criterion, inputs, targets)


def loss(theta):
    return whole(unravel(theta))
"""


def _of_function(built: Any, called: str) -> str:
    """The lines that define loss and theta, for a builder of a function."""
    given = built[2] if isinstance(built, tuple) and len(built) == 3 else ()
    data = "data[0]" if not isinstance(given, tuple | list) else "*(data[0] if data else ())"
    return f"""objective, parameters, *data = {called}
theta, unravel = ravel(parameters)


def loss(theta):
    return objective(unravel(theta), {data})
"""


def _argument(value: Any, source: _Source) -> str:
    """An option as source; the path of something of ours becomes that of the same in the script."""
    if isinstance(value, str) and value.split(".")[0] in OURS:
        return f'f"{{__name__}}.{source.add(value).name}"'
    return repr(value)


def parameters(path: str) -> list[str]:
    """Names of the parameters of the function at a dotted path, read from its source, without importing it.

    Raises ReproduceError where that does not tell: where it is not defined there by a plain `def`.
    """
    module, _, name = path.rpartition(".")
    node, _ = _tops(module).get(name, (None, ""))
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        raise ReproduceError(f"{path} is not defined in the source of {module} by a plain def")
    return _parameters(node)


def lacks(path: str) -> bool:
    """Whether the source of a dotted path's module does not define its name; False where there is no source."""
    module, _, name = path.rpartition(".")
    try:
        return name not in _tops(module)
    except ReproduceError:
        return False


def _error(seen: Mapping[str, Any]) -> str:
    return "" if seen["relative_error"] is None else f", relative error {seen['relative_error']:.1e}"


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


class _Source:
    """Definitions, each after those that it uses, with the imports from elsewhere that they need."""

    def __init__(self) -> None:
        self._imports: dict[str, None] = {"import torch": None}
        self._definitions: dict[str, tuple[str, str]] = {}  # name -> (module, source)

    def add(self, path: str) -> Any:
        """Take in what a dotted path of ours names, with all that it uses; its syntax tree."""
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


def _tops(module: str) -> dict[str, tuple[ast.stmt, str]]:
    """Every name that a module defines or imports at its top, with its statement and source."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ReproduceError(f"the source of {module} is not to be found: {error}") from error
    if spec is None or spec.origin is None:
        raise ReproduceError(f"the source of {module} is not to be found; run this where it can be imported")
    text = Path(spec.origin).read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node in ast.parse(text).body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
        first = min([node.lineno, *(entry.lineno for entry in getattr(node, "decorator_list", []))])
        for name in names:
            found[name] = (node, "\n".join(lines[first - 1 : node.end_lineno]))
    return found


def _names(seen: Mapping[str, Any]) -> list[str | None]:
    """What a record's problem may be called, a custom one first by the path of its function."""
    problem, target = seen["problem"], seen["problem_target"]
    return [target, problem_name(problem, target), problem] if problem == CUSTOM else [problem, target]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script for one record; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reproduce",
        description="Print a script that shows what a record found, without the harness.",
    )
    parser.add_argument("record", metavar="RECORD", help="a record.json, or a run folder or baseline with --of")
    which = "which record of many; PROBLEM is a row of conf/problem, or the name or path of a custom one's function"
    parser.add_argument("--of", nargs=2, metavar=("PROBLEM", "METHOD"), help=which)
    options = parser.parse_args(arguments)
    try:
        records = record.records(Path(options.record))
        if options.of:
            problem, method = options.of
            records = [seen for seen in records if seen["method"] == method and problem in _names(seen)]
        if len(records) != 1:
            some = "; ".join(sorted({f"{_names(seen)[0]} {seen['method']}" for seen in records})[:5])
            raise ReproduceError(f"{len(records)} records match; name one with --of PROBLEM METHOD ({some or 'none'})")
        print(script(records[0]), end="")
    except (record.RecordError, ReproduceError, OSError) as error:
        print(f"harness.reproduce: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
