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

from harness import program, record
from harness.job import METHOD_ARGUMENTS
from harness.record.names import CUSTOM, problem_name

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
    """No script can be written for a record."""


def script(seen: Mapping[str, Any]) -> str:
    """The script for one record of a Hessian; it computes in float64, whatever the record's dtype.

    Raises ReproduceError for a record of another quantity or of a `subset`, for a benchmark cell that was never
    composed, and where the sources are not at hand.
    """
    _require_whole_hessian(seen)
    source = _Source()
    setup = _problem(seen, source)
    method = source.add(seen["target"])
    source.add("methods.ravel.ravel")
    if seen.get("attention"):
        source.add("harness.problems.attention.use_math")
        setup = f"use_math()\n{setup}"
    arguments = _method_arguments(seen, method)
    return f'''"""{seen["method"]} on {seen["problem"]}: {seen["status"]} with torch {seen["torch"]}{_error(seen)}."""

{source.text()}

{setup}

def gradient(theta):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


found = {method.name}({arguments})
step = 1e-4
true = torch.stack([(gradient(theta + step * unit) - gradient(theta - step * unit)) / (2 * step)
                    for unit in torch.eye(len(theta), dtype=theta.dtype)])
print("torch", torch.__version__)
print(f"relative distance from central differences: {{float((found - true).norm() / true.norm()):.1e}}")
print(f"asymmetry: {{float((found - found.T).norm() / found.norm()):.1e}}")
'''


def _require_whole_hessian(seen: Mapping[str, Any]) -> None:
    """Raise ReproduceError unless the record is of a Hessian in all parameters, with its problem and method."""
    if seen["quantity"] != "hessian" or not seen["problem_target"] or not seen["target"]:
        raise ReproduceError(
            f"the record of {seen['problem']} by {seen['method']} is of quantity={seen['quantity']} and was built by "
            f"{seen['problem_target']}; scripts are written for a Hessian whose problem and method are known"
        )
    if seen["subset"]:
        raise ReproduceError(
            f"the record is of subset={seen['subset']} parameters; scripts are written for all of them"
        )


def _problem(seen: Mapping[str, Any], source: _Source) -> str:
    """The lines that define loss and theta of a record's problem."""
    target = seen["problem_target"]
    builder = source.add(target)
    options = json.loads(seen["problem_options"])
    options.pop("stop_gradient", None)  # it describes the loss, and is no option of the builder
    if "seed" in _parameters(builder):
        options.setdefault("seed", seen["seed"])
    built = _built(target, options)
    arguments = ", ".join(f"{key}={_argument(value, source)}" for key, value in options.items())
    called = f"{builder.name}({arguments})"
    if target.split(".")[0] not in OURS:  # our builders draw in float64
        source.add("harness.problems.builders.double")
        called = f"torch.utils._pytree.tree_map(double, {called})"
    return _of_network(built, called, source) if _is_network(built) else _of_function(built, called)


def _method_arguments(seen: Mapping[str, Any], method: ast.FunctionDef) -> str:
    """The arguments of the method's call, as source."""
    asked = [f"{name}={name}" for name in _parameters(method) if name in METHOD_ARGUMENTS]
    options = [f"{key}={value!r}" for key, value in json.loads(seen["method_options"]).items()]
    return ", ".join([*asked, *options])


def _built(target: str, options: Mapping[str, Any]) -> Any:
    """What a builder returns: a network, a function or a problem, which its source alone does not show."""
    from harness.problems.builders import returned  # which imports torch

    try:
        return returned(target, options)
    except Exception as error:  # the user's own code may raise anything
        raise ReproduceError(f"{target} was called with {dict(options)} and raised {error}") from error


def _is_network(built: Any) -> bool:
    from harness.problems.builders import is_network  # which imports torch

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
    """An option as source; the path of a definition that is copied becomes its path in the script."""
    if isinstance(value, str) and value.split(".")[0] in OURS:
        return f'f"{{__name__}}.{source.add(value).name}"'
    return repr(value)


def parameters(path: str) -> list[str]:
    """Names of the parameters of the function at a dotted path, read from its source, without importing it.

    Raises ReproduceError where the source does not show them: where no plain `def` defines the function.
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


def _names(seen: Mapping[str, Any]) -> list[str | None]:
    """The names that select a record's problem; of a custom problem the path of its function comes first."""
    problem, target = seen["problem"], seen["problem_target"]
    return [target, problem_name(problem, target), problem] if problem == CUSTOM else [problem, target]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script for one record; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reproduce",
        description="Print a script that shows what a record found, without the harness.",
    )
    parser.add_argument("record", metavar="RECORD", help="a record.json, or a run folder or baseline with --of")
    which = (
        "which record of many; PROBLEM is the name of a file in conf/problem, or the name or path of the function of a "
        "custom problem"
    )
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
    program.run(main, failed=2)
