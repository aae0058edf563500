"""What `methods.factored` makes of a random network, judged by differences of the plain gradient."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from methods import factored
from methods.factoring.certificate import FallbackError, FallbackWarning
from methods.factoring.plan import PRODUCTS
from tests.random_layers import LOWERED, SEVERAL, UNSUPPORTED
from tests.random_networks import Case, Spec, build

RIGHT = {torch.float64: 1e-7, torch.float32: 1e-5}  # relative Frobenius distance, or ROUNDING times that of rows
ROUNDING = 10
STEPS = (3e-5, 3e-6, 3e-7)  # of the differences: smaller ones where a kink is nearby
RANDOM = {"dropout", "noisy_slope"}
MIXING = {"entropy_of_batch", "margin", "squares_broadcast", "correlation", "constant"}
UNUSED = {"spare", "branch"}  # blocks with parameters that enter nothing; with a penalty on them they take rows
SUPPORTED_INPUTS = {"vector", "raw", "with_gradient", "pair", "dict", "sequence", "tokens", "padded", "image"}
FEWER = ("no fewer than", "rows are zero", "rows cost less")  # in the reasons of rows that are faster


@dataclass(frozen=True)
class Outcome:
    """Of one quantity: `how` is "products", "rows", "both", "warned", "refused" or, where it failed, "FAILED"."""

    quantity: str
    how: str
    text: str = ""


@dataclass(frozen=True)
class Truth:
    """The Hessian (P, P), what its entries are relative to, and the relative distance that rounding errors explain."""

    hessian: Tensor
    scale: float
    tolerance: float


def gradient(case: Case, **options: bool) -> Tensor:
    """The plain gradient (P,)."""
    loss = case.loss()
    if not loss.requires_grad:
        return torch.zeros(sum(p.numel() for p in case.params), dtype=loss.dtype)
    slopes = torch.autograd.grad(loss, case.params, materialize_grads=True, **options)
    return torch.cat([slope.flatten() for slope in slopes])


def by_rows(case: Case) -> Tensor:
    """The Hessian (P, P) by double backward, one row after another."""
    slope = gradient(case, create_graph=True)
    rows = torch.zeros(len(slope), len(slope), dtype=slope.dtype)
    for index, entry in enumerate(slope if slope.requires_grad else ()):
        row = torch.autograd.grad(entry, case.params, retain_graph=True, materialize_grads=True)
        rows[index] = torch.cat([part.flatten() for part in row])
    return rows


def by_differences(case: Case, vectors: Tensor) -> Tensor | None:
    """The Hessian of an exact case times vectors (P, k), by central differences of its gradient, extrapolated.

    None beside a kink: there a difference over half the step is another number, by more than its rounding errors,
    which are some 1e-10 of the gradient.
    """
    theta = torch.cat([p.detach().flatten() for p in case.params])
    size = float(gradient(case).norm())

    def slope_at(point: Tensor) -> Tensor:
        with torch.no_grad():
            for p, part in zip(case.params, point.split([p.numel() for p in case.params]), strict=True):
                p.copy_(part.view_as(p))
        return gradient(case)

    def product(vector: Tensor) -> Tensor | None:
        for step in STEPS:
            one, half = (
                (slope_at(theta + h * vector) - slope_at(theta - h * vector)) / (2 * h) for h in (step, step / 2)
            )
            if float((one - half).norm()) <= 1e-6 * (float(half.norm()) + size):
                return (4 * half - one) / 3
        return None

    products = [product(vector) for vector in vectors.unbind(1)]
    slope_at(theta)
    return None if any(found is None for found in products) else torch.stack(products, dim=1)


def truth(spec: Spec) -> Truth | None:
    """The truth of a spec; None where a kink is too close for one.

    Double backward in float64, if differences along three random vectors confirm it; where they do not, as for
    weight_norm, differences along every parameter. Raises NotImplementedError where torch has no second derivative.
    """
    exact = build(spec, torch.float64, exact=True)
    slope, rows = gradient(exact), by_rows(exact)
    vectors = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = by_differences(exact, vectors)
    if products is None:
        return None
    scale = float((products.norm() / 3**0.5) + 1e-3 * slope.norm()) or 1.0
    hessian: Tensor | None = rows
    if float((rows @ vectors - products).norm()) > RIGHT[torch.float64] * scale:
        hessian = by_differences(exact, torch.eye(len(rows), dtype=torch.float64))
    rounding = float((by_rows(build(spec)).double() - rows).norm()) / scale
    return None if hessian is None else Truth(hessian, scale, max(RIGHT[spec.dtype], ROUNDING * rounding))


@contextlib.contextmanager
def unchanged(case: Case) -> Iterator[None]:
    """Raises AssertionError unless a call leaves all that it was given, and torch's settings, as they were."""
    for p in case.params[::2]:
        p.grad = torch.ones_like(p)
    tensors = [*case.model.parameters(), *case.model.buffers(), *tree_leaves((case.inputs, case.targets))]

    def seen() -> list[Any]:
        settings = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
        flags = [(id(x), x.requires_grad, x.grad_fn, id(x.grad)) for x in tensors]
        return [settings, torch.is_grad_enabled(), flags, [id(x) for x in case.model.buffers()]]

    def numbers() -> list[Tensor]:
        grads = [p.grad for p in case.params if p.grad is not None]
        return [x.detach().clone() for x in (*tensors, *grads, torch.get_rng_state())]

    before, values = seen(), numbers()
    yield
    assert seen() == before, "what was given, or a setting of torch, was changed"
    assert all(torch.equal(x, y) for x, y in zip(numbers(), values, strict=True)), "numbers of the network were changed"


def called(function: Callable[..., Any], case: Case, *arguments: Any, **options: Any) -> tuple[Any, bool]:
    """What a function of the factored method returns, or the exception, and whether it gave a FallbackWarning."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            result = function(case.model, case.criterion, case.inputs, case.targets, *arguments, **options)
        except Exception as error:
            result = error
    return result, any(issubclass(warning.category, FallbackWarning) for warning in seen)


def expected(spec: Spec, error: Exception, derivable: bool) -> bool:
    """Whether this network is to be refused in these words."""
    said, meant = str(error), []
    if spec.dtype not in RIGHT:
        meant.append("the parameters are torch.")
    if RANDOM & set(spec.blocks):
        meant += ["not deterministic", "differs from call to call", "is not symmetric"]
    if spec.criterion == "constant":
        meant.append("does not depend on the model")
    if not derivable:
        meant.append("derivative")
    if {"gradient_hook", "masked"} & set(spec.blocks):
        meant.append("hooks on parameters, modules or activations change the gradient")
    return any(words in said for words in meant)


def outcomes(spec: Spec) -> list[Outcome]:
    """Of all quantities of one network, and of what else is promised."""
    case, derivable, true = build(spec), True, None
    if spec.dtype in RIGHT and not RANDOM & set(spec.blocks):
        try:
            true = truth(spec)
        except NotImplementedError:
            derivable = False
        else:
            if true is None:
                return [Outcome(quantity, "kink") for quantity in ("hessian", "diagonal", "hvp")]
    size = sum(p.numel() for p in case.params)
    vectors = torch.randn(size, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors[:, 1:] = 0
    vectors[size // 2, 1] = 1
    vectors, out = vectors.to(spec.dtype), torch.full((size, size), torch.nan, dtype=spec.dtype)

    def judged(quantity: str, called: tuple[Any, bool], right: Callable[[Tensor], Tensor]) -> Outcome:
        found, warned = called
        if isinstance(found, Exception):
            text = f"{type(found).__name__}: {str(found)[:200]}"
            return Outcome(quantity, "refused" if expected(spec, found, derivable) else "FAILED", text)
        if true is None:  # of random numbers nothing may be left, as of a lone sample that is centred
            return Outcome(quantity, "FAILED" if found.any() else "right", "returned a result where there is none")
        distance = float((found.double() - right(true.hessian)).norm()) / true.scale
        if not distance <= true.tolerance or found.requires_grad or found.dtype != spec.dtype:
            return Outcome(quantity, "FAILED", f"off by {distance:.1e}{' with a warning' if warned else ''}")
        return Outcome(quantity, "warned" if warned else "right", f"off by {distance:.1e} of {true.tolerance:.1e}")

    found = []
    guard = contextlib.nullcontext() if RANDOM & set(spec.blocks) else unchanged(case)  # drawing moves the generator
    with guard:
        for quantity, right, options in (("hessian", lambda h: h, {"out": out}), ("diagonal", Tensor.diagonal, {})):
            function = getattr(factored, quantity)
            plain = judged(quantity, called(function, case, **options), right)
            found += [explained := _explained(plain, case, spec), _strict(explained, case)]
        for some in (vectors, vectors[:, :1]):
            products = called(factored.hvp, case, some)
            found.append(judged(f"hvp of {some.shape[1]}", products, lambda h, v=some: h @ v.double()))
    return found


def supported(spec: Spec, quantity: str) -> bool:
    """Whether all parameters of this network enter affine maps alone, of which the samples do not mix.

    For the diagonal each enters one only.
    """
    others = UNSUPPORTED.keys() | LOWERED | (SEVERAL if quantity == "diagonal" else set())
    return (
        not others & set(spec.blocks)
        and spec.inputs in SUPPORTED_INPUTS
        and spec.head in ("logits", "each", "column", "flat", "tuple", "dict", "dataclass")
        and spec.criterion not in MIXING
        and (
            spec.penalty == "none" or (spec.penalty in ("squares_of_all", "millions") and not UNUSED & set(spec.blocks))
        )
    )


def _explained(outcome: Outcome, case: Case, spec: Spec) -> Outcome:
    """The outcome, "right" replaced by how `explain` says it is computed; rows on a supported network are a failure."""
    if outcome.how == "warned" and supported(spec, outcome.quantity):
        return Outcome(outcome.quantity, "FAILED", "a false alarm")
    if outcome.how != "right":
        return outcome
    reasons, _ = called(factored.explain, case, outcome.quantity)
    slow = {reason for reason in reasons.values() if reason != PRODUCTS and not any(few in reason for few in FEWER)}
    if slow and supported(spec, outcome.quantity):
        return Outcome(outcome.quantity, "FAILED", f"takes rows: {slow}")
    by_products = {reason == PRODUCTS for reason in reasons.values()}
    if len(by_products) == 2:
        how = "both"
    elif by_products == {True}:
        how = "products"
    else:
        how = "rows" if slow else "fewer rows"
    return Outcome(outcome.quantity, how, "; ".join(slow))


def _strict(outcome: Outcome, case: Case) -> Outcome:
    """Whether fallback="error" raises when, and only when, rows are taken though they are not faster."""
    name = f"strict {outcome.quantity}"
    if outcome.how in ("refused", "FAILED"):
        return Outcome(name, "refused")
    result, _ = called(getattr(factored, outcome.quantity), case, fallback="error")
    right = isinstance(result, FallbackError if outcome.how == "warned" or outcome.text else Tensor)
    return Outcome(name, "right" if right else "FAILED", f"{outcome}, but {str(result)[:200]}")
