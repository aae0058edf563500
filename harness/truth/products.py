"""Products of the true matrix with vectors: one at a time, or many at once with a check that they are the same."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from harness.problems import Problem, ProblemError
from harness.truth.detached_values import held, observe
from harness.truth.differences import rms_or_one

CHUNK = 64  # vectors at once
AT_ONCE_UP_TO = 10**5  # parameters; beyond, many vectors take too much memory
SAME = 1e-9  # relative distance of a batched product from a single one that rounding explains

Apply = Callable[[Tensor], Tensor]  # v -> R v, (P,) -> (P,)


class Products:
    """V -> R V, (P, k) -> (P, k), for a symmetric matrix R.

    `apply(vectors, batched)` gives R v for one vector (P,), or, batched, for each row of (k, P) by torch's vmap. vmap
    is silently wrong for some operators, so each batch is compared with a single product in one random combination of
    its vectors, which sees an error in any of them. After the first batch that differs or raises, vectors are
    multiplied one by one.
    """

    def __init__(self, apply: Callable[[Tensor, bool], Tensor], params: int, batched: bool = True) -> None:
        self.params = params
        self._apply = apply
        self._batched = batched and params <= AT_ONCE_UP_TO

    def one(self, vector: Tensor) -> Tensor:
        """R v, (P,) -> (P,)."""
        return self._apply(vector, False)

    def __call__(self, vectors: Tensor) -> Tensor:
        """R V, (P, k) -> (P, k)."""
        if not vectors.shape[1]:
            return vectors
        return torch.cat([self._chunk(chunk) for chunk in vectors.split(CHUNK, dim=1)], dim=1)

    def columns(self, indices: Tensor) -> Tensor:
        """Columns (P, k) of R by their indices (k,)."""
        units = torch.zeros(self.params, len(indices), dtype=torch.float64)
        units[indices, torch.arange(len(indices))] = 1.0
        return self(units)

    def _chunk(self, vectors: Tensor) -> Tensor:
        if self._batched and vectors.shape[1] > 1 and vectors.dtype == torch.float64:
            found = self._at_once(vectors)
            if found is not None:
                return found
            self._batched = False
        return torch.stack([self.one(vector) for vector in vectors.unbind(1)], dim=1)

    def _at_once(self, vectors: Tensor) -> Tensor | None:
        """The products, or None where they cannot be batched or are wrong then."""
        weights = torch.randn(vectors.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about operators that vmap runs in a loop
                found = self._apply(vectors.T, True).T
        except (RuntimeError, NotImplementedError):
            return None
        single = self.one(vectors @ weights)
        same = (found @ weights - single).norm() <= SAME * float((found.norm(dim=0) * weights.abs()).norm())
        return found if bool(same) else None


def of_matrix(matrix: Tensor) -> Products:
    """Products with a symmetric matrix (P, P)."""
    return Products(lambda vectors, batched: vectors @ matrix, len(matrix))


def of_blocks(blocks: Tensor) -> Products:
    """Products with the block-diagonal matrix of N symmetric blocks (N, D, D)."""
    count, size, _ = blocks.shape

    def apply(vectors: Tensor, batched: bool) -> Tensor:
        parts = vectors.view(-1, count, size)
        return torch.einsum("nij,knj->kni", blocks, parts).reshape(vectors.shape)

    return Products(apply, count * size)


def of_vectors(apply: Apply, params: int) -> Products:
    """Products by a function of one vector."""
    return Products(lambda vector, batched: apply(vector), params, batched=False)


def of_hessian(problem: Problem) -> tuple[Products, Callable[[float], Apply]]:
    """Products with the Hessian through one gradient's graph; the same by central differences of a given step."""
    theta = problem.theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta, create_graph=True)

    def apply(vectors: Tensor, batched: bool) -> Tensor:
        return _backward(gradient, theta, vectors, batched)

    slope = _gradient(problem.loss)

    def differences(step: float) -> Apply:
        return lambda vector: _difference(slope, problem.theta, vector, step * rms_or_one(problem.theta))

    return Products(apply, len(theta)), differences


def of_ggn(problem: Problem, kinds: Collection[str] = ()) -> tuple[Products, Callable[[float], Apply]]:
    """Products with J^T L J: J by reverse mode twice (the double-backward trick), L through the criterion's gradient.

    The products by central differences take those of the outputs for J, and of the criterion's gradient for L. Several
    outputs, in a tuple, dict or dataclass, count as one vector. Detached values of these `kinds`
    (`harness.truth.detached_values`) are held constant.
    """
    outputs_of, join = _one_vector(problem)
    if kinds:
        outputs_of = held(outputs_of, observe(outputs_of, problem.theta), kinds)
    theta = problem.theta.detach().requires_grad_()
    outputs = outputs_of(theta)
    if kinds:
        join = held(join, observe(join, outputs.detach()), kinds)
    dummy = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, theta, dummy, create_graph=True)
    predicted = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(join(predicted), predicted, create_graph=True)

    def pull(cotangents: Tensor, batched: bool = False) -> Tensor:
        return _backward(outputs, theta, cotangents, batched)

    def apply(vectors: Tensor, batched: bool) -> Tensor:
        return pull(_backward(slope, predicted, _backward(pulled, dummy, vectors, batched), batched), batched)

    def differences(step: float) -> Apply:
        def by_steps(vector: Tensor) -> Tensor:
            pushed = _difference(_detached(outputs_of), problem.theta, vector, step * rms_or_one(problem.theta))
            size = rms_or_one(pushed)
            at, step_there = predicted.detach(), step * rms_or_one(predicted)
            return size * pull(_difference(_gradient(join), at, pushed / size, step_there))

        return by_steps

    return Products(apply, len(theta)), differences


def _one_vector(problem: Problem) -> tuple[Apply, Apply]:
    """The outputs' real numbers as one vector (M,) of theta, and the criterion as a function of such a vector."""
    outputs_of, criterion = problem.outputs, problem.criterion
    assert outputs_of is not None
    assert criterion is not None
    structure = outputs_of(problem.theta.detach().requires_grad_())
    parts = list(_tensors(structure))
    if not parts:
        raise ProblemError(
            f"quantity=ggn needs outputs that are real tensors, alone or in tuples, dicts and dataclasses; the model "
            f"returned {type(structure).__name__}"
        )

    def vector(theta: Tensor) -> Tensor:
        return torch.cat([part.reshape(-1) for part in _tensors(outputs_of(theta))])

    def join(vector: Tensor) -> Tensor:
        pieces = vector.split([part.numel() for part in parts])
        shaped = (piece.view(part.shape).to(part.dtype) for piece, part in zip(pieces, parts, strict=True))
        return criterion(_with_tensors(structure, shaped), problem.targets)

    return vector, join


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in nested outputs."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point():
                yield leaf
        elif dataclasses.is_dataclass(leaf):
            for entry in dataclasses.fields(leaf):
                yield from _tensors(getattr(leaf, entry.name))


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Nested outputs with these `tensors` in place of their tensors of real numbers."""

    def put(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return next(tensors) if leaf.is_floating_point() else leaf
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        names = [entry.name for entry in dataclasses.fields(leaf)]
        return dataclasses.replace(leaf, **{name: _with_tensors(getattr(leaf, name), tensors) for name in names})

    return tree_map(put, value)


def _detached(function: Apply) -> Apply:
    """The values of a function that may itself ask for gradients."""
    return lambda point: function(point.detach().requires_grad_()).detach()


def _gradient(function: Apply) -> Apply:
    """The gradient of a scalar function, as a function of the point."""

    def gradient(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        return torch.autograd.grad(function(point), point)[0]

    return gradient


def _backward(of: Tensor, in_: Tensor, vectors: Tensor, batched: bool) -> Tensor:
    """The derivative of `of . vector` in `in_`, or of each row of `vectors`; zero where `of` is constant."""
    found = None
    if of.requires_grad:
        (found,) = torch.autograd.grad(of, in_, vectors, retain_graph=True, allow_unused=True, is_grads_batched=batched)
    return vectors.new_zeros(*vectors.shape[:-1], len(in_)) if found is None else found


def _difference(function: Apply, point: Tensor, vector: Tensor, step: float) -> Tensor:
    """Derivative along `vector` by central differences of two steps, extrapolated (Richardson; error step^4)."""

    def central(step: float) -> Tensor:
        return (function(point + step * vector) - function(point - step * vector)) / (2 * step)

    return (4 * central(step / 2) - central(step)) / 3
