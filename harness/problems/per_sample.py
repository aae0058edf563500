"""A network's problem with derivatives of each sample's own loss, in its input or in the parameters.

The loss of one sample is that of a batch with this sample alone. All samples' points, one after another, are theta, and
the sum of the samples' losses is the loss. Its Hessian is block-diagonal, and the blocks are each sample's own. So
whatever the harness does with a problem works with this one too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from harness.job import Job
from harness.problems.errors import ProblemError, blamed
from harness.problems.method_helpers import calls, ravel, samples
from harness.problems.problem import Problem

QUANTITIES = ("hessian", "diagonal", "trace", "hvp")  # that each sample may have of its own
SAME = 1e-9  # relative difference of two right sums in float64
MIXES = 1e-6  # the same of a batch's loss, where its samples depend on each other

Loss = Callable[[Tensor], Tensor]  # (N D,) -> ()


def require_possible(job: Job) -> None:
    """Raise ProblemError where a job asks for what samples cannot have of their own."""
    asked = f"wrt={job.wrt} per_sample=true"
    if job.quantity not in QUANTITIES:
        raise ProblemError(
            f"{asked} quantity={job.quantity}: each sample can have its own {', '.join(QUANTITIES)}; choose one of "
            "these, or per_sample=false with wrt=parameters"
        )
    kept_out: dict[str, Any] = {
        "subset": job.subset,
        "problem.batches": job.batches,
        "processes": job.processes if job.processes > 1 else None,
        "parameters": ",".join(job.parameters) if job.parameters and job.wrt == "inputs" else None,  # all are fixed
    }
    for key, value in kept_out.items():
        if value is not None:
            raise ProblemError(f"{asked} {key}={value}: these do not go together; leave {key} out")


def per_sample(problem: Problem, wrt: str) -> Problem:
    """The problem of each sample's own loss, in its input (`wrt="inputs"`) or in the parameters.

    `points` (N, D) are the flattened inputs, or the parameters N times. `samples` is a tuple of the other tensors
    (N, ...) that a loss needs: targets, and inputs where the derivatives are in the parameters. `sample_loss(point,
    sample)` is the loss () of one of them. theta (N D,) shares the memory of `points`.

    Raises ProblemError for a function, for inputs that are no single floating tensor where derivatives are in them, for
    tensors whose samples are not known, and for samples that depend on each other.
    """
    exact = _each(problem.to("cpu", torch.float64), wrt)
    with blamed("the loss"):
        _require_independent(exact)
        _require_finite(exact)
        form = _fastest(exact.forms(), exact.points.reshape(-1))
    return _made(problem, wrt, form)


def _made(problem: Problem, wrt: str, form: str) -> Problem:
    each = _each(problem, wrt)
    theta = each.points.reshape(-1)
    closed_form = problem.input_hessian
    made = replace(
        problem,
        loss=each.forms()[form],
        theta=theta,
        sizes=(each.points.shape[1],) * each.count,
        to=lambda device, dtype: _made(problem.to(device, dtype), wrt, form),
        outputs=None,
        batch_sizes=None,
        hessian=None,
        input_hessian=None,
        leaves=(),
        plain=None,
        sample_loss=each.sample_loss,
        points=theta.view_as(each.points),
        samples=each.samples,
    )
    if wrt == "parameters":
        return made
    data = (problem.model, problem.criterion)
    return replace(made, model=None, criterion=None, data=data, hessian=closed_form)


@dataclass(frozen=True)
class _Each:
    """The losses of a network's samples."""

    points: Tensor  # (N, D)
    samples: tuple[Tensor, ...]  # (N, ...) each
    sample_loss: Callable[[Tensor, Any], Tensor]  # (D,), sample -> ()
    batch_loss: Callable[[Any, Any], Tensor]  # inputs, targets -> the loss of a batch at the given parameters
    given: tuple[Any, Any]  # inputs and targets of all samples
    together: Loss | None  # the loss of the whole batch in its inputs, where the points are these

    @property
    def count(self) -> int:
        """N."""
        return len(self.points)

    def forms(self) -> dict[str, Loss]:
        """Functions that give the sum of the samples' losses, where they can be called; the last one always can."""

        def by_vmap(theta: Tensor) -> Tensor:
            return torch.func.vmap(self.sample_loss)(theta.view_as(self.points), self.samples).sum()

        def in_turn(theta: Tensor) -> Tensor:
            parts = zip(theta.view_as(self.points), *self.samples, strict=True)
            return torch.stack([self.sample_loss(point, sample) for point, *sample in parts]).sum()

        forms = {"vmap": by_vmap, "loop": in_turn}
        together = self.together
        if together is None:
            return forms
        return {"sum": together, "mean": lambda theta: self.count * together(theta)} | forms


def _each(problem: Problem, wrt: str) -> _Each:
    model, criterion, inputs, targets = problem.model, problem.criterion, problem.inputs, problem.targets
    if model is None or criterion is None:
        raise ProblemError(
            f"wrt={wrt} per_sample=true: the problem is a function, without samples; take a network, made by "
            "from_network(model, criterion, inputs, targets)"
        )
    evaluate = calls.evaluator(model, lambda inputs, targets: _loss_of_batch(model, criterion, inputs, targets))
    theta, unravel = ravel.ravel(model)
    fixed = {name: p.detach() for name, p in model.named_parameters()}
    try:
        count = samples.count(inputs)
        others, batch_of_one = _split(targets if wrt == "inputs" else (inputs, targets), count)
    except ValueError as error:
        raise ProblemError(f"wrt={wrt} per_sample=true: {error}") from error
    if not count:
        raise ProblemError(f"wrt={wrt} per_sample=true: there are no samples, the first dimension of the inputs is 0")

    def batch_loss(inputs: Any, targets: Any) -> Tensor:
        return evaluate(fixed, inputs, targets)

    if wrt == "parameters":

        def of_parameters(point: Tensor, sample: Any) -> Tensor:
            return _number(evaluate(unravel(point), *batch_of_one(sample)))

        points = theta.repeat(count, 1)
        return _Each(points, others, of_parameters, batch_loss, (inputs, targets), None)

    shape = _input_shape(inputs)

    def of_input(point: Tensor, sample: Any) -> Tensor:
        return _number(batch_loss(point.view(1, *shape), batch_of_one(sample)))

    points = inputs.detach().reshape(count, -1).clone()
    return _Each(
        points,
        others,
        of_input,
        batch_loss,
        (inputs.detach(), targets),
        lambda theta: batch_loss(theta.view(count, *shape), targets).sum(),
    )


def _loss_of_batch(model: torch.nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Tensor:
    """The loss, or the output of a model without a criterion, which may hold a number for each sample."""
    positional, named = calls.arguments(model, inputs)
    outputs = model(*positional, **named)
    if criterion is calls.own_loss and isinstance(outputs, Tensor):
        return outputs
    return criterion(outputs, targets)


def _number(value: Tensor) -> Tensor:
    """The loss () of a batch of one sample."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ProblemError(
            f"the loss of a batch of one sample must be a single number, found {found}: give a criterion that makes a "
            "number of the model's outputs"
        )
    return value.reshape(())


def _input_shape(inputs: Any) -> tuple[int, ...]:
    """The shape of one sample's input; raises ProblemError unless the inputs are one floating tensor."""
    if not isinstance(inputs, Tensor):
        raise ProblemError(
            f"wrt=inputs: the inputs are {type(inputs).__name__}, and must be one tensor (N, ...) of real numbers: "
            "make what is not differentiated an attribute of the model, or part of the targets"
        )
    if not inputs.is_floating_point():
        remedy = (
            "give torch.view_as_real(inputs), and call torch.view_as_complex in the model"
            if inputs.is_complex()
            else "of tokens take the embeddings as inputs, and the rest of the network as the model"
        )
        raise ProblemError(f"wrt=inputs: the inputs are {inputs.dtype}, and must be real floating numbers; {remedy}")
    return tuple(inputs.shape[1:])


def _split(data: Any, count: int) -> tuple[tuple[Tensor, ...], Callable[[Any], Any]]:
    """The tensors (N, ...) in some data, and the function that makes a batch of one of a sample's own tensors.

    Raises ValueError for tensors whose samples are not known.
    """
    samples.taken(data, slice(0, count), count)
    leaves, structure = tree_flatten(data)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dim()]

    def batch_of_one(sample: Any) -> Any:
        filled = list(leaves)
        for place, own in zip(places, sample, strict=True):
            filled[place] = own[None]
        return tree_unflatten(filled, structure)

    return tuple(leaves[place].detach() for place in places), batch_of_one


def _require_finite(each: _Each) -> None:
    """Raise ProblemError where a sample alone has no finite loss."""
    for place in range(each.count):
        value = float(each.sample_loss(*_sample(each, place)).detach())
        if not math.isfinite(value):
            raise ProblemError(
                f"the loss of sample {place} alone is {value}, which has no derivatives; if a mean divides by zero, as "
                "where all targets of a sample are ignored, leave such samples out, or take a sum"
            )


def _require_independent(each: _Each) -> None:
    """Raise ProblemError where the loss of a batch is random, or no sum over its samples, as under batch statistics.

    In the first half of the samples, the second, and both, the inputs are replaced by those of the sample before. In a
    sum over samples the changes add up, with any weights of the samples.
    """
    inputs, targets = each.given
    whole, again = (each.batch_loss(inputs, targets) for _ in range(2))
    if isinstance(whole, Tensor) and float((again - whole).detach().norm()) > MIXES * float(whole.detach().norm()):
        raise ProblemError(
            "the loss is not deterministic: it has another value when it is called again with the same inputs; call "
            "model.eval(), or remove dropout and other random draws"
        )
    if each.count == 1 or not isinstance(whole, Tensor):
        return
    if whole.numel() == 1:
        halves = torch.arange(each.count) < each.count // 2
        changed = [each.batch_loss(_replaced(inputs, which), targets) for which in (halves, ~halves, halves | True)]
        mixed = whole - changed[0] - changed[1] + changed[2]
        size = max(float(value.detach().abs()) for value in (whole, *changed))
    elif whole.numel() == each.count:
        mixed = whole.flatten() - torch.stack([each.sample_loss(*_sample(each, place)) for place in range(each.count)])
        size = float(whole.detach().norm())
    else:
        return  # what `_number` refuses
    off = float(mixed.detach().norm())
    if off > MIXES * size:
        raise ProblemError(
            f"samples depend on each other: what each adds to the loss of the batch is another number (by {off:.1e} of "
            f"{size:.1e}) where others change, as under batch statistics; call model.eval(), or take a loss that is a "
            "sum or a mean over samples"
        )


def _sample(each: _Each, place: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    return each.points[place], tuple(part[place] for part in each.samples)


def _replaced(inputs: Any, which: Tensor) -> Any:
    """The inputs with some samples (N,) replaced by those before them."""

    def part(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.dim()):
            return leaf
        return torch.where(which.view(-1, *[1] * (leaf.dim() - 1)), leaf.roll(1, 0), leaf)

    return tree_map(part, inputs)


def _fastest(forms: dict[str, Loss], theta: Tensor) -> str:
    """The name of the first form whose value and gradient are those of the last one, the sum over samples in turn."""
    *others, last = forms
    value, gradient = _value_and_gradient(forms[last], theta)
    for name in others:
        try:
            found, slope = _value_and_gradient(forms[name], theta)
        except Exception:  # of any kind: vmap has no rules for some of the user's operations
            continue
        same_value = abs(found - value) <= SAME * max(abs(value), float(gradient.norm()) * float(theta.norm()))
        if same_value and float((slope - gradient).norm()) <= SAME * float(gradient.norm()):
            return name
    return last


def _value_and_gradient(loss: Loss, theta: Tensor) -> tuple[float, Tensor]:
    point = theta.detach().clone().requires_grad_()
    value = loss(point)
    (gradient,) = torch.autograd.grad(value, point, materialize_grads=True)
    return float(value.detach()), gradient
