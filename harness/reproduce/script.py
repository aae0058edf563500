"""The script of a record: all of its text is written as literals, and all code comes from sources at hand."""

from __future__ import annotations

import ast
import math
from collections.abc import Collection, Mapping
from keyword import iskeyword
from typing import Any

from harness import trust
from harness.job import METHOD_ARGUMENTS, STATED
from harness.record.checks import options
from harness.reproduce.source import OURS, ReproduceError, Source, parameters_of


def script(seen: Mapping[str, Any], trusted: bool = False) -> str:
    """The script for one record of a Hessian; it computes in float64, whatever the record's dtype.

    The problem is built to see its kind. Unless the record is trusted, its problem and method must be of conf.

    Raises ReproduceError for a record of another quantity or of a `subset`, for a benchmark cell that was never
    composed, where the sources are not at hand, and for a record that is not trusted and names other functions.
    """
    _require_whole_hessian(seen)
    problem_options, method_options = (options(seen[name]) for name in ("problem_options", "method_options"))
    named = trust.foreign(seen["problem_target"], problem_options, seen["target"], method_options)
    if named and not trusted:
        raise ReproduceError(trust.advice("the record", named))
    source = Source()
    setup = _problem(seen["problem_target"], problem_options, seen["seed"], seen["parameters"], source)
    method = _function(seen["target"], source)
    if "mesh" in parameters_of(method):
        raise ReproduceError(f"{seen['target']} asks for a mesh of processes; scripts are written for one process")
    source.add("methods.ravel.ravel")
    if seen.get("attention"):
        source.add("harness.problems.attention.use_math")
        setup = f"use_math()\n{setup}"
    title = f"{seen['method']} on {seen['problem']}: {seen['status']} with torch {seen['torch']}{_error(seen)}."
    return f"""{_docstring(title)}

{source.text()}

{setup}

def gradient(theta):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


{_call(method.name, _method_arguments(method, method_options), seen["mode"])}
step = 1e-4
true = torch.stack([(gradient(theta + step * unit) - gradient(theta - step * unit)) / (2 * step)
                    for unit in torch.eye(len(theta), dtype=theta.dtype)])
print("torch", torch.__version__)
print(f"relative distance from central differences: {{float((found - true).norm() / true.norm()):.1e}}")
print(f"asymmetry: {{float((found - found.T).norm() / found.norm()):.1e}}")
"""


def _call(name: str, arguments: str, mode: str | None) -> str:
    """The lines that compute the Hessian, in the record's mode."""
    if mode == "deterministic":
        return f"torch.use_deterministic_algorithms(True)\nfound = {name}({arguments})"
    return f"found = {f'torch.compile({name})' if mode == 'compiled' else name}({arguments})"


def _require_whole_hessian(seen: Mapping[str, Any]) -> None:
    """Raise ReproduceError unless the record is of a Hessian in all parameters, with its problem and method."""
    if seen["quantity"] != "hessian" or not seen["problem_target"] or not seen["target"]:
        raise ReproduceError(
            f"the record of {seen['problem']} by {seen['method']} is of quantity={seen['quantity']} and was built by "
            f"{seen['problem_target']}; scripts are written for a Hessian whose problem and method are known"
        )
    if seen["per_sample"]:
        raise ReproduceError(
            f"the record is of wrt={seen['wrt']} per_sample=true; scripts are written for the Hessian of the whole loss"
        )
    if any(seen.get(name) is not None for name in ("stated_error", "standard_error")):  # older records lack the first
        raise ReproduceError("the record is of a result that states its error; scripts are written for exact ones")
    if seen["mode"] == "autocast":
        raise ReproduceError("the record is of mode=autocast; scripts compute in float64, which autocast leaves alone")
    if "batches" in options(seen["problem_options"]):
        raise ReproduceError("the record is of a loss in batches; scripts are written for a loss of one batch")
    if options(seen["problem_options"]).get("train_steps"):
        raise ReproduceError("the record is of a trained network; scripts are written for networks as they are built")
    if seen["subset"]:
        raise ReproduceError(
            f"the record is of subset={seen['subset']} parameters; scripts are written for all of them"
        )


def _problem(target: str, recorded: Mapping[str, Any], seed: int, parameters: str | None, source: Source) -> str:
    """The lines that define loss and theta of a record's problem, which was built with the options `recorded`.

    `parameters` are the patterns of the record, by whose names some were taken.
    """
    builder = _function(target, source)
    given = {key: value for key, value in recorded.items() if key not in STATED}
    if "seed" in parameters_of(builder):
        given.setdefault("seed", seed)
    built = _built(target, given)
    arguments = [f"{_keyword(key, builder)}={_argument(value, source)}" for key, value in given.items()]
    called = f"{builder.name}({', '.join(arguments)})"
    if target.split(".")[0] not in OURS:  # our builders draw in float64
        source.add("harness.problems.builders.double")
        called = f"torch.utils._pytree.tree_map(double, {called})"
    return _of_network(built, called, parameters, source) if _is_network(built) else _of_function(built, called)


def _method_arguments(method: ast.FunctionDef, given: Mapping[str, Any]) -> str:
    """The arguments of the method's call, as source."""
    asked = [f"{name}={name}" for name in parameters_of(method) if name in METHOD_ARGUMENTS]
    others = [f"{_keyword(key, method, METHOD_ARGUMENTS)}={_literal(value)}" for key, value in given.items()]
    return ", ".join([*asked, *others])


def _function(path: str, source: Source) -> ast.FunctionDef:
    """Copy the function at a dotted path; its syntax tree. Raises ReproduceError where no plain `def` defines it."""
    node = source.add(path)
    if not isinstance(node, ast.FunctionDef):
        raise ReproduceError(f"{path} is not defined by a plain def; scripts call functions")
    return node


def _built(target: str, given: Mapping[str, Any]) -> Any:
    """What a builder returns: a network, a function or a problem, which its source alone does not show."""
    from harness.problems.builders import returned  # which imports torch

    try:
        built = returned(target, given)
    except Exception as error:  # the user's own code may raise anything
        raise ReproduceError(f"{target} was called with {dict(given)!s:.300} and raised {error}") from error
    if not isinstance(built, tuple) and not hasattr(built, "model"):
        raise ReproduceError(f"{target} returned {type(built).__name__}; scripts are written for a tuple or a Problem")
    return built


def _is_network(built: Any) -> bool:
    from harness.problems.builders import is_network  # which imports torch

    return is_network(built) if isinstance(built, tuple) else built.model is not None


def _of_network(built: Any, called: str, parameters: str | None, source: Source) -> str:
    """The lines that define loss and theta, for a builder of a network."""
    source.add("methods.calls.loss_of")
    criterion, *targets = built[1:2] + built[3:] if isinstance(built, tuple) else (built.criterion, built.targets)
    completed = ""
    if criterion is None or targets in ([], [None]):
        source.add("methods.calls.completed")
        completed = "criterion = completed(criterion, targets)\n"
    frozen = ""
    if parameters is not None:
        source.add("methods.ravel.trainable")
        frozen = f"""kept = {{id(parameter) for parameter in trainable(model, {parameters.split(", ")!a}).values()}}
for parameter in model.parameters():
    parameter.requires_grad_(id(parameter) in kept)
"""
    return f"""model, criterion, inputs, *targets = {called}
targets = targets[0] if targets else None
{completed}{frozen}theta, unravel = ravel(model)
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


def _argument(value: Any, source: Source) -> str:
    """An option as source; the path of a definition that is copied becomes its path in the script."""
    if isinstance(value, str) and value.split(".")[0] in OURS:
        return f'f"{{__name__}}.{source.add(value).name}"'
    return _literal(value)


def _keyword(key: str, function: ast.FunctionDef, taken: Collection[str] = ()) -> str:
    """The name of an option, once it is sure to be one of the function's; the script itself gives those `taken`."""
    known = [name for name in parameters_of(function) if name not in taken]
    word = key.isascii() and key.isidentifier() and not iskeyword(key) and not key.startswith("__")
    anything = function.args.kwarg is not None and key not in taken and word
    if key not in known and not anything:
        raise ReproduceError(f"{function.name} has no option {key!r:.60}; its options are {', '.join(known) or 'none'}")
    return key


def _literal(value: Any) -> str:
    """A value of JSON as source, in ASCII."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!a}: {_literal(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return ascii(value)


def _docstring(text: str) -> str:
    """A docstring of one line, in ASCII, that no text can end."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', r"\"")
    return f'"""{escaped}"""'


def _error(seen: Mapping[str, Any]) -> str:
    return "" if seen["relative_error"] is None else f", relative error {seen['relative_error']:.1e}"
