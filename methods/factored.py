"""The exact Hessian of a network by matrix products over its affine maps, instead of a pass for every row.

Let a parameter enter through z_l = W_l a_l + b_l, for each sample n at each position s (a token, a pixel). Add a shift
e_l to z_l and let, at e = 0, g_l = d loss / d e_l, M_lk = d^2 loss / d e_l d e_k and J_kl = d a_k / d e_l. Then, for l
before or equal to k, exactly

    H[(l,i,j),(k,p,q)] = sum_{n,s,t} a_l[n,s,j] (M_lk[n,(s,i),(t,p)] a_k[n,t,q] + g_k[n,t,p] J_kl[n,(t,q),(s,i)])

Samples do not mix, so one unit shift (s, i) given to all of them at once yields M and J of all: as many
forward-over-reverse passes as a layer has outputs, not parameters. The sums over n are matrix products.

A parameter that enters in another way, a layer with as many positions as inputs (whose shifts would be more than its
parameters), and one whose samples do mix, as under batch statistics, take a backward pass for each of their rows.

Bishop, "Exact calculation of the Hessian matrix for the multilayer perceptron", Neural Computation 4 (1992).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.affine import Network
from methods.certificate import (
    Certificate,
    CertificateError,
    FallbackError,
    FallbackWarning,
    full_precision,
)
from methods.plan import PRODUCTS, check_deterministic, planned
from methods.products import drawn
from methods.rows import ROWS, products_of, rows_of
from methods.shifts import write_blocks, write_diagonal

USUAL = PRODUCTS  # what `explain` says of a parameter that needs no rows

Criterion = Callable[..., Tensor]
Fallback = Literal["rows", "error"]


def hessian(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    *,
    out: Tensor | None = None,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
) -> Tensor:
    """Hessian (P, P) of `criterion(model(inputs), targets)` in the trainable parameters, in `named_parameters()` order.

    The samples are the first dimension of the first input. The result is written into `out`, if given, which may be a
    memory-mapped file. Beside it about `memory_mb` MiB are used (by default 256, or a tenth of the result), or what the
    shifts of one output of a layer take, or 64 backward passes for those parameters that need rows.

    Its product with a random vector is compared with double backward through the plain loss before it is returned
    (`methods.certificate` says what that catches, and with which probability). The rows of the parameters where they
    differ are taken from double backward, one after another, with a FallbackWarning; where that does not agree either,
    CertificateError is raised. `explain` tells which parameters take rows from the start, and why;
    `fallback="error"` raises FallbackError rather than take rows for another reason than that they are fewer.

    Raises ValueError for an `out` of another shape, dtype or device, a `memory_mb` below zero, another `fallback`, or a
    loss that is no scalar or not deterministic, and NotImplementedError for parameters of float16 or bfloat16.
    """
    _check(fallback)
    network = Network(model, criterion, inputs, targets)
    size = len(network.theta)
    out = network.theta.new_empty(size, size) if out is None else out
    found, asked = ((tuple(x.shape), x.dtype, x.device) for x in (out, network.theta.expand(size, size)))
    if found != asked:
        raise ValueError(f"out is {' '.join(map(str, found))}; the Hessian is {' '.join(map(str, asked))}")
    if memory_mb is not None and not memory_mb >= 0:
        raise ValueError(f"memory_mb={memory_mb} must be a number of MiB")
    memory = max(2**28, size**2 * out.element_size() / 10) if memory_mb is None else memory_mb * 2**20
    with full_precision():
        certificate = Certificate(network)
        plan = planned(network, certificate, lambda plan: write_blocks(network, plan, certificate, out, memory))
        _allowed(plan.reasons, fallback, plan.wide)
        for name in plan.penalty.keys() - plan.reasons.keys():
            out.diagonal()[network.span[name]] += plan.penalty[name]
        for span, rows in rows_of(network, plan.reasons):
            out[span], out[:, span] = rows, rows.T
        alone: set[str] = set()  # parameters of which each row has taken a pass of its own
        while failed := certificate.failing(out @ certificate.vector, certificate.product):
            alone |= _distrusted(failed, alone, fallback)
            for span, rows in rows_of(network, failed, at_once=1):
                out[span], out[:, span] = rows, rows.T
    return out


def diagonal(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, *, fallback: Fallback = "rows"
) -> Tensor:
    """Diagonal (P,) of that Hessian; of a layer's own block only sum_{n,s,t} a[s,j] M[(s,i),(t,i)] a[t,j] is needed.

    The diagonal is read from the curvature M of a layer's outputs. What the block between that layer's parameters makes
    of a random vector follows from the same M, and is compared with double backward through the plain loss, layer by
    layer: that catches an error in any block on the diagonal with the probability that `methods.certificate` gives. The
    blocks between layers are not computed, and so not looked at. Where the products differ, what is raised, and
    `fallback` are as in `hessian`.
    """
    _check(fallback)
    network = Network(model, criterion, inputs, targets)
    with full_precision():
        certificate = Certificate(network)
        vector = certificate.vector
        result, found = torch.zeros_like(vector), torch.zeros_like(vector)
        plan = planned(network, certificate, lambda plan: write_diagonal(network, plan, certificate, result, found))
        blocks = plan.blocks
        _allowed(plan.reasons, fallback, plan.wide)
        for name in plan.penalty.keys() - plan.reasons.keys():
            span, penalty = network.span[name], plan.penalty[name]
            result[span] += penalty
            found[span] += penalty * vector[span]

        def product(vector: Tensor) -> Tensor:
            """Of the blocks' parameters within their blocks, of all others with the whole Hessian."""
            of_blocks = [certificate.product(vector, names) for names in blocks]
            whole = torch.zeros_like(vector)
            if by_rows := network.params.keys() - frozenset().union(*blocks):
                every = certificate.product(vector)
                for name in by_rows:
                    whole[network.span[name]] = every[network.span[name]]
            return sum(of_blocks, whole)

        def take_rows(names: Iterable[str], at_once: int) -> None:
            for span, rows in rows_of(network, names, at_once):
                result[span], found[span] = rows[:, span].diagonal(), rows @ vector

        take_rows(plan.reasons, ROWS)
        alone: set[str] = set()
        while failed := certificate.failing(found, product):
            alone |= _distrusted(failed, alone, fallback)
            doubted = [names for names in blocks if names & failed.keys()]  # as a whole: each has a part in the others'
            blocks = [names for names in blocks if not names & failed.keys()]
            take_rows(frozenset(failed).union(*doubted), at_once=1)
    return result


def hvp(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, vectors: Tensor) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k): a backward pass through the plain gradient's graph for each.

    The passes are batched where torch has the rules. Two more check them: one, by itself, of a random combination w of
    the vectors, which catches an error of batching with the probability that `methods.certificate` gives; and one of a
    random vector u, since u . H w = w . H u: that catches, with the like probability, whatever makes the second
    derivative unsymmetric. An error of double backward that leaves it symmetric is not seen. Where batching was wrong
    each product takes a pass by itself, with a FallbackWarning. Raises CertificateError where the second derivative is
    not symmetric, ValueError for vectors of another shape, dtype or device, or that are not finite, and otherwise as
    `hessian`.
    """
    network = Network(model, criterion, inputs, targets)
    if vectors.dim() != 2 or len(vectors) != len(network.theta):
        raise ValueError(f"vectors are {tuple(vectors.shape)}; they must be ({len(network.theta)}, k), one a column")
    vectors, theta = vectors.detach(), network.theta
    if vectors.dtype != theta.dtype or vectors.device != theta.device or not vectors.isfinite().all():
        raise ValueError(
            f"vectors are {vectors.dtype} on {vectors.device}; they must be finite numbers of {theta.dtype} on "
            f"{theta.device}, as the parameters are"
        )
    if not vectors.shape[1]:
        return torch.zeros_like(vectors)
    with full_precision():
        certificate = Certificate(network)
        check_deterministic(network, certificate)
        weights = drawn(vectors[0])
        combined = vectors @ weights  # (P,)
        result = products_of(certificate.gradient, network, vectors.T).T
        one = vectors.shape[1] == 1  # not batched, so that nothing can be wrong with it
        true = result @ weights if one else certificate.product(combined)
        if not one and certificate.differing(result @ weights, combined, true, certificate.product):
            warnings.warn("batched products are not those of single passes; each takes a pass", FallbackWarning, 2)
            result = torch.stack([certificate.product(vector) for vector in vectors.unbind(1)], dim=1)
        certificate.check_symmetry(combined, true)
    return result


def explain(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, quantity: str = "hessian"
) -> dict[str, str]:
    """How each parameter would be done, for quantity "hessian" or "diagonal": by "matrix products", or by rows and why.

    Takes what the result takes, less the products and the rows themselves. What the check of a result finds is not
    known before it: that is told by a FallbackWarning. Raises ValueError for another quantity, and as `hessian`.
    """
    if quantity not in ("hessian", "diagonal"):
        raise ValueError(f"quantity={quantity!r} must be 'hessian' or 'diagonal'")
    network = Network(model, criterion, inputs, targets)
    with full_precision():
        certificate = Certificate(network)
        result, found = torch.zeros_like(certificate.vector), torch.zeros_like(certificate.vector)
        plan = planned(
            network,
            certificate,
            lambda plan: (
                write_blocks(network, plan, certificate, None, 2**28)
                if quantity == "hessian"
                else write_diagonal(network, plan, certificate, result, found)
            ),
        )
    return {name: plan.reasons.get(name, PRODUCTS) for name in network.params}


def _check(fallback: str) -> None:
    if fallback not in ("rows", "error"):
        raise ValueError(f"fallback={fallback!r} must be 'rows' or 'error'")


def _allowed(reasons: Mapping[str, str], fallback: str, fewer: Mapping[str, str]) -> None:
    """Raise FallbackError where rows are not wanted, and taken for another reason than that they cost less."""
    slow = {name: reason for name, reason in reasons.items() if fewer.get(name) != reason}
    if fallback == "error" and slow:
        told = "; ".join(f"{name}: {reason}" for name, reason in slow.items())
        raise FallbackError(f"fallback='error', and these would take a backward pass for each row: {told}")


def _distrusted(failed: Mapping[str, float], alone: set[str], fallback: str) -> set[str]:
    """The parameters that failed, of which a warning tells; raises where nothing is left to try, or to be tried."""
    told = ", ".join(f"{name} (off by {distance:.1e})" for name, distance in failed.items())
    if failed.keys() <= alone:
        raise CertificateError(
            f"rows by double backward do not agree with its product with a vector, in {told}: the loss differs from "
            "call to call, or its second derivative is not symmetric (a custom Function whose backward is another "
            "function's gradient, say)"
        )
    if fallback == "error":
        raise FallbackError(f"fallback='error', and matrix products are not what double backward gives, in {told}")
    warnings.warn(
        f"the factored result is not what double backward through the plain loss gives, in {told}; their rows are "
        "computed again, a backward pass for each. Does the loss depend on how it is differentiated (gradients within "
        "the forward pass, stored activations, no_grad)?",
        FallbackWarning,
        stacklevel=3,
    )
    return set(failed)
