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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.affine import Network, Refused
from methods.certificate import (
    Certificate,
    CertificateError,
    FallbackError,
    FallbackWarning,
    full_precision,
)
from methods.products import close, drawn, slices
from methods.shifts import PRODUCTS, Plan, refusals, write_blocks, write_diagonal

ROWS = 64  # backward passes of a row at once
USUAL = PRODUCTS  # what `explain` says of a parameter that needs no rows
DRAWS = 20  # evaluations of a loss that draws random numbers, before it counts as deterministic

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
        plan = _plan(network, certificate, lambda plan: write_blocks(network, plan, certificate, out, memory))
        _allowed(plan.reasons, fallback, plan.wide)
        for name in plan.penalty.keys() - plan.reasons.keys():
            out.diagonal()[network.span[name]] += plan.penalty[name]
        for span, rows in _rows(network, plan.reasons):
            out[span], out[:, span] = rows, rows.T
        alone: set[str] = set()  # parameters of which each row has taken a pass of its own
        while failed := certificate.failing(out @ certificate.vector, certificate.product):
            alone |= _distrusted(failed, alone, fallback)
            for span, rows in _rows(network, failed, at_once=1):
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
        plan = _plan(network, certificate, lambda plan: write_diagonal(network, plan, certificate, result, found))
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
            for span, rows in _rows(network, names, at_once):
                result[span], found[span] = rows[:, span].diagonal(), rows @ vector

        take_rows(plan.reasons, ROWS)
        alone: set[str] = set()
        while failed := certificate.failing(found, product):
            alone |= _distrusted(failed, alone, fallback)
            blocks = [names - alone for names in blocks]
            take_rows(failed, at_once=1)
    return result


def hvp(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, vectors: Tensor) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k): a backward pass through the plain gradient's graph for each.

    The passes are batched where torch has the rules. Two more check them: one, by itself, of a random combination w of
    the vectors, which catches an error of batching with the probability that `methods.certificate` gives; and one of a
    random vector u, since u . H w = w . H u: that catches, with the like probability, whatever makes the second
    derivative unsymmetric. An error of double backward that leaves it symmetric is not seen. Where batching was wrong
    each product takes a pass by itself, with a FallbackWarning. Raises CertificateError where the second derivative is
    not symmetric, ValueError for vectors of another shape, and otherwise as `hessian`.
    """
    network = Network(model, criterion, inputs, targets)
    if vectors.dim() != 2 or len(vectors) != len(network.theta):
        raise ValueError(f"vectors are {tuple(vectors.shape)}; they must be ({len(network.theta)}, k), one a column")
    with full_precision():
        certificate = Certificate(network)
        _check_deterministic(network, certificate)
        weights = drawn(vectors[0])
        combined = vectors @ weights  # (P,)
        result = _products(certificate.gradient, network, vectors.T).T
        true = certificate.product(combined)
        if certificate.differing(result @ weights, combined, true, certificate.product):
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
        plan = _plan(
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


def _check_deterministic(network: Network, certificate: Certificate) -> None:
    """Raise ValueError where another evaluation of the loss has another value.

    One that draws random numbers is evaluated `DRAWS` times: few units may be dropped alike twice.
    """
    before = _generator(network.theta)
    loss, _ = network.loss((), lambda place, z: z)
    draws = not torch.equal(_generator(network.theta), before)
    for _ in range(DRAWS if draws else not certificate.has_value(loss)):
        again = network.plain().detach()
        if not certificate.has_value(again):
            raise ValueError(
                f"the loss is not deterministic: {float(certificate.value)} and {float(again)} at the same parameters; "
                "call model.eval(), or fix what is drawn"
            )


def _generator(like: Tensor) -> Tensor:
    """The state of torch's random generator on a tensor's device."""
    return torch.cuda.get_rng_state(like.device) if like.is_cuda else torch.get_rng_state()


def _plan(network: Network, certificate: Certificate, write: Callable[[Plan], None]) -> Plan:
    """Which parameters are done by products; `write` does them, and leaves to rows what turns out not to fit."""
    _check_deterministic(network, certificate)
    try:
        plan = _entering(network, certificate)
    except Refused as refused:
        return Plan(reasons=dict.fromkeys(network.params, str(refused)))
    try:
        write(plan)
    except Refused as refused:
        plan.refuse(plan.fixed, str(refused))
        plan.blocks = []
    return plan


def _entering(network: Network, certificate: Certificate) -> Plan:
    """The parameters that only enter affine maps, and those of them whose rows are fewer than shifts of the outputs.

    A parameter that enters elsewhere too is taken if what that adds to its rows is diagonal, as with a penalty. Raises
    Refused.
    """
    with refusals():
        loss, calls, shifts = network.traced(network.params)
    if network.precision != network.theta.dtype:
        raise Refused(f"the loss computes in {network.precision} within")
    if not certificate.has_value(loss):
        raise Refused("the loss has another value when its operations are watched")
    affine, shifted, inputs = set(), Counter(), {}
    for call in calls:
        _, positions, width = call.features(call.input.detach()).shape
        for name in network.owners(call):
            affine.add(name)
            shifted[name] += positions
            inputs[name] = width
    wide = {
        name: f"{shifted[name]} positions, no fewer than its {inputs[name]} inputs"
        for name in affine
        if shifted[name] >= inputs[name]
    }
    elsewhere, diagonals = _elsewhere(network, loss, shifts)
    idle = network.params.keys() - affine - elsewhere - diagonals.keys()
    wide |= dict.fromkeys(idle, "the loss's slope in it is constant, so that its rows are zero")
    reasons = dict.fromkeys(
        network.params.keys() - affine - idle, "it enters no Linear, Conv1d, Conv2d or Embedding that can be shifted"
    )
    reasons |= dict.fromkeys(affine & elsewhere, "it also enters other than through its affine map")
    return Plan(affine - elsewhere, wide, diagonals, reasons)


def _elsewhere(network: Network, loss: Tensor, shifts: Sequence[Tensor]) -> tuple[set[str], dict[str, Tensor]]:
    """The parameters that a traced loss depends on beside its affine maps; those for which that adds a diagonal."""
    params = list(network.params.values())
    if not loss.requires_grad:
        return set(), {}
    slopes = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    elsewhere, diagonals = set(), {}
    for place, (name, slope) in enumerate(zip(network.params, slopes, strict=True)):
        if slope is None or not slope.requires_grad:
            continue
        probe = drawn(slope)
        one, along = (
            torch.autograd.grad(slope, [*params, *shifts], vector, retain_graph=True, materialize_grads=True)
            for vector in (torch.ones_like(slope), probe)
        )
        others = [part for tangents in (one, along) for at, part in enumerate(tangents) if at != place]
        alone = not any(bool(part.any()) for part in others)
        if alone and close(along[place] - one[place] * probe, along[place]):
            diagonals[name] = one[place].flatten()
        else:
            elsewhere.add(name)
    return elsewhere, diagonals


def _rows(network: Network, names: Iterable[str], at_once: int = ROWS) -> Iterator[tuple[slice, Tensor]]:
    """Places and rows (c, P) of some parameters, each by a backward pass through one gradient's graph."""
    names = set(names)
    if not names:
        return
    loss, _ = network.loss((), lambda place, z: z)
    slopes = torch.autograd.grad(loss, list(network.params.values()), create_graph=True, materialize_grads=True)
    for name, slope in zip(network.params, slopes, strict=True):
        span = network.span[name]
        for some in slices(span.start, span.stop, at_once) if name in names else ():
            index = torch.arange(some.start, some.stop, device=slope.device) - span.start
            units = functional.one_hot(index, slope.numel()).to(slope).view(-1, *slope.shape)
            yield some, _products(slope, network, units)


def _products(slope: Tensor, network: Network, vectors: Tensor) -> Tensor:
    """Slopes (c, P) of `slope . vector` in all parameters, for vectors (c, ...): at once, or in turn where it must."""
    params = list(network.params.values())
    if not slope.requires_grad:
        return slope.new_zeros(len(vectors), len(network.theta))

    def pulled(cotangents: Tensor, **options: bool) -> Sequence[Tensor | None]:
        return torch.autograd.grad(slope, params, cotangents, retain_graph=True, allow_unused=True, **options)

    parts = None
    if len(vectors) > 1:
        try:
            parts = pulled(vectors, is_grads_batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation without a rule to batch it, of which torch says this or that
            parts = None
    if parts is None:
        each = [pulled(vector) for vector in vectors]
        parts = [None if rows[0] is None else torch.stack(rows) for rows in zip(*each, strict=True)]
    zeros = [p.new_zeros(len(vectors), p.numel()) for p in params]
    return torch.cat(
        [zero if part is None else part.reshape(zero.shape) for part, zero in zip(parts, zeros, strict=True)], dim=1
    )
