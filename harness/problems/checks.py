"""Checks of a problem: is its loss a scalar function of its parameters alone, whose Hessian can be asked for?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from harness.problems.casting import same_tensor, tensors_of
from harness.problems.errors import CodeError, ProblemError, blamed
from harness.problems.loss_state import check_later, check_state, gpus_of, require_same, seeded
from harness.problems.problem import Problem

MOVES = (0.1, 1e-3)  # moves of the parameters, relative to their size; the first that leaves the loss finite counts
NO_TARGETS = "there are no targets: where the criterion needs them, return (model, criterion, inputs, targets)"
NUMPY = "inputs, targets and data must be tensors of torch, and there is an array of NumPy: torch.as_tensor(array)"
DRAWS = (
    "the loss draws random numbers, or seeds torch's generator, whenever it is called; that this generator moves is "
    "not held against a method"
)
ROUNDING = 64  # units in the last place by which two computations of the loss may differ


def check(problem: Problem) -> None:
    """Check that the loss is a finite, deterministic scalar of its parameters alone, without side effects.

    Raises ProblemError where it is not, and CodeError where the loss itself raises. Warns of a loss that moves torch's
    random number generator.
    """
    value_in_copy = check_state(problem)
    theta = problem.theta.detach().requires_grad_()
    first_call, second_call = _CallRecorder(), _CallRecorder()
    state = _generators(problem)
    value = _evaluated(problem, theta, first_call)
    if not all(map(torch.equal, state, _generators(problem))):
        warnings.warn(DRAWS, stacklevel=2)
    _require_scalar(value)
    buffers = {} if problem.model is None else dict(problem.model.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    (gradient,) = torch.autograd.grad(value, theta, allow_unused=True)
    if gradient is None:
        raise ProblemError("the loss does not depend on its parameters: its gradient in them is None")
    again = _evaluated(problem, theta, second_call)
    if not torch.allclose(value, again, rtol=1e-6):
        raise ProblemError(
            f"the loss is not deterministic: {value.item()} and {again.item()} at the same parameters; call "
            "model.eval(), remove dropout or fix its seed, and keep no state between calls"
        )
    if value_in_copy is not None:
        require_same(value_in_copy, again)
    changed = [name for name, buffer in buffers.items() if not same_tensor(buffer, before[name])]
    if changed:
        raise ProblemError(
            f"the loss changes the model's {', '.join(changed)} whenever it is called, in eval mode too; a loss "
            "must have no side effects"
        )
    _check_gradient_is_not_asked_for(problem, value)
    _check_no_other_network(problem, first_call, second_call)
    check_elsewhere(problem)
    check_later(problem, value)


def _require_scalar(value: Any) -> None:
    """Raise ProblemError unless a loss is a finite scalar with a gradient."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ProblemError(
            f"the loss must be a scalar (a tensor of shape ()), found {shape}; reduce it, say by .mean()"
        )
    if not value.requires_grad:
        raise ProblemError(
            "the loss does not depend on its parameters: no gradient leads back from it to them; compute it from the "
            "parameters it is given (no .detach(), .item(), torch.no_grad() or closed-over copies)"
        )
    if not torch.isfinite(value):
        raise ProblemError(f"the loss is {value.item()} at the given parameters; a Hessian there means nothing")


def _generators(problem: Problem) -> list[Tensor]:
    """The states of torch's random number generators: of the CPU, and of the GPUs that the problem is on."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus_of(problem))]


def _check_gradient_is_not_asked_for(problem: Problem, value: Tensor) -> None:
    """Raise ProblemError where the loss has another value at parameters that do not require a gradient."""
    try:
        held = problem.loss(problem.theta)
    except RuntimeError:  # the loss may take a gradient in its parameters itself
        return
    if not _close(held, value):
        raise ProblemError(
            f"the loss is {value.item()} where its parameters require a gradient, and {held.item()} where they do not, "
            "as within a transform of torch.func; do not ask for p.requires_grad or torch.is_grad_enabled() in it, "
            "leave out frozen parameters by name"
        )


def _check_no_other_network(problem: Problem, first: _CallRecorder, second: _CallRecorder) -> None:
    """Raise ProblemError where the loss uses parameters, the same in two calls, that the problem does not hold.

    Such parameters belong to a network that was not cast with the problem, perhaps to the one that it is a copy of.
    """
    lasting = [p for p in first.parameters.values() if id(p) in second.parameters]
    if not lasting or problem.plain is None:
        return
    held = {id(tensor) for tensor in tensors_of(problem.plain)}
    others = [f"{tuple(p.shape)} {p.dtype}" for p in lasting if id(p) not in held]
    if others:
        raise ProblemError(
            f"the loss uses parameters {', '.join(others)} of a network that is not found from the problem, and so was "
            "not cast with it, as one that a functools.cache or a class keeps; use the problem's own model, or give "
            "the other one as an attribute, through a closure or as data"
        )


def check_elsewhere(problem: Problem) -> None:
    """Raise ProblemError where the loss reads its parameters elsewhere than where the harness replaces them.

    The parameters' own tensors are moved in place. The loss as the user computes it must then be the problem's loss at
    the moved parameters. It is another where the criterion keeps a list of the parameters, or where something closes
    over a tensor that shares their memory. A loss that cannot be called, or is random, passes: `check` reports it. The
    tensors are put back bit by bit.
    """
    if problem.plain is None:
        return
    gpus = gpus_of(problem)
    for move in MOVES:
        try:
            with _parameters_moved(problem, move) as moved:
                plain = seeded(problem.plain, gpus)
            found, again = (seeded(lambda: problem.loss(moved.requires_grad_()), gpus) for _ in range(2))
        except Exception:  # of any kind: it is the user's own code
            return
        if not all(isinstance(value, Tensor) and value.numel() == 1 for value in (plain, found, again)):
            return
        if torch.isfinite(found) and torch.equal(found, again):
            break
    else:
        return
    if not _close(plain, found):
        with _parameters_moved(problem, move):
            later = seeded(problem.plain, gpus)
        require_same(plain, later)
        computed = "objective(parameters, *data)" if problem.model is None else "criterion(model(inputs), targets)"
        source = "its argument" if problem.model is None else "the model, as model.parameters() whenever it is called"
        raise ProblemError(
            f"the loss reads its parameters elsewhere too: with their tensors moved in place {computed} is "
            f"{plain.item()}, and {found.item()} where the moved values are given instead. Something holds the tensors "
            "themselves, or what shares their memory (a list of parameters, .data, a view made before); it must take "
            f"them from {source}"
        )


@contextmanager
def _parameters_moved(problem: Problem, move: float) -> Iterator[Tensor]:
    """Move the parameters' own tensors, in place, for this block; gives their moved values (P,)."""
    before = [leaf.detach().clone() for leaf in problem.leaves]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for leaf in problem.leaves:
                noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
                leaf.mul_(1 + move).add_(move * (leaf.square().mean().sqrt() or 1.0) * noise)
        yield torch.cat([leaf.detach().reshape(-1) for leaf in problem.leaves])
    finally:
        with torch.no_grad():
            for leaf, value in zip(problem.leaves, before, strict=True):
                leaf.copy_(value)


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = ROUNDING * torch.finfo(other.dtype).eps
    return bool(torch.isclose(one.detach().to(other), other.detach(), rtol=tolerance, atol=tolerance, equal_nan=True))


def _evaluated(problem: Problem, theta: Tensor, recorder: _CallRecorder) -> Any:
    """The value of the loss.

    Raises ProblemError where torch refuses a tensor whose dtype is not the parameters', and CodeError where the loss
    raises otherwise.
    """
    with _blaming_loss(problem):
        try:
            with recorder:
                return problem.loss(theta)
        except RuntimeError as error:
            others = [x for x in recorder.last if x.dtype != theta.dtype and x.is_floating_point()]
            if not others or not re.search("dtype|same type|scalar type|data type", str(error)):
                raise
            shown = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in others)
            raise ProblemError(
                f"in {recorder.name} the loss uses a tensor that is not in the parameters' {theta.dtype}: {shown} "
                f"({error}); it was not found when the problem was cast, since it is made while the loss is computed "
                "or belongs to a class: make it a buffer of the model, or data, or convert it there with .to(x.dtype)"
            ) from error


@contextmanager
def _blaming_loss(problem: Problem) -> Iterator[None]:
    """Raise CodeError for what the loss raises in this block, with what its arguments may lack."""
    try:
        with blamed("the loss"):
            yield
    except CodeError as error:
        given = tree_leaves((problem.inputs, problem.targets, problem.data))
        if any(isinstance(leaf, numpy.ndarray) for leaf in given):
            raise CodeError("the loss", error.error, NUMPY) from error.error
        if problem.model is not None and problem.targets is None and "NoneType" in str(error):
            raise CodeError("the loss", error.error, NO_TARGETS) from error.error
        raise


class _CallRecorder(TorchFunctionMode):
    """Remembers the last function of torch that was called, with its tensors, and all parameters that were used."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.last: list[Tensor] = []
        self.parameters: dict[int, torch.nn.Parameter] = {}  # by id, each kept alive

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = getattr(function, "__name__", "torch")
        self.last = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.parameters |= {id(x): x for x in self.last if isinstance(x, torch.nn.Parameter)}
        return function(*args, **(kwargs or {}))
