"""The exact Hessian of a network by matrix products over its affine maps, instead of a pass for every row.

Let a parameter enter through z_l = W_l a_l + b_l, for each sample n at each position s (a token, a pixel). Add a shift
e_l to z_l and let, at e = 0, g_l = d loss / d e_l, M_lk = d^2 loss / d e_l d e_k and J_kl = d a_k / d e_l. Then, for l
before or equal to k, exactly

    H[(l,i,j),(k,p,q)] = sum_{n,s,t} a_l[n,s,j] (M_lk[n,(s,i),(t,p)] a_k[n,t,q] + g_k[n,t,p] J_kl[n,(t,q),(s,i)])

Samples do not mix, so one unit shift (s, i), given to all of them at once, yields M and J of all. A layer takes as many
forward-over-reverse passes as it has outputs, not parameters. The sums over n are matrix products.

A map with at least as many positions as inputs, and one without a plain matrix (a scale, a grouped convolution), is
shifted in the entries of its parameter for each sample: S = 1, a = 1, and the outputs e are these entries.

A backward pass for each row is taken by parameters that enter in another form than through an affine map of the
samples, by those whose samples do mix, as under batch statistics, and by all of a network so small that rows cost less
(`factoring.costs`).

Bishop, "Exact calculation of the Hessian matrix for the multilayer perceptron", Neural Computation 4 (1992).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods import dense
from methods.chunks import empty, output
from methods.estimates import Spectrum
from methods.factoring.certificate import Certificate, FallbackWarning
from methods.factoring.costs import cheap_rows
from methods.factoring.diagonal import write_diagonal
from methods.factoring.fallback import Fallback, check_fallback, check_rows_allowed, report_failed
from methods.factoring.hessian import check_hessian
from methods.factoring.network import Network
from methods.factoring.numerics import drawn
from methods.factoring.plan import PRODUCTS, Plan, check_deterministic, planned
from methods.factoring.precision import full_precision
from methods.factoring.rows import ROWS, products_of, rows_of
from methods.factoring.sequential import write_sequential
from methods.factoring.shard import Rows
from methods.factoring.sums import MEMORY, Batch, Criterion, write_sum
from methods.ravel import Patterns, only, ravel

USUAL = PRODUCTS  # what `explain` reports of a parameter that takes no rows; the harness reads it


def hessian(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    *,
    out: Tensor | None = None,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
    parameters: Patterns = None,
) -> Tensor:
    """Hessian (P, P) of `criterion(model(inputs), targets)` in the trainable parameters, in `named_parameters()` order.

    `parameters` chooses some by their names, as `methods.ravel` does: the result is their block of the whole Hessian.
    The samples are the first dimension of the first input. `criterion` is None for a model that computes its own loss,
    as Hugging Face's do from labels. The result is written into `out`, if given, which may be a memory-mapped file.

    Beside the result about `memory_mb` MiB are used (by default 512, or half of the result if that is more). At least
    the memory for the shifts of one output of a layer is used, and for 64 backward passes where parameters need rows.

    Before the result is returned, its product with a random vector is compared with double backward through the plain
    loss; `methods.factoring.certificate` says which errors that catches, and with which probability. Where they differ,
    the rows of the parameters concerned are computed again by double backward, one after another, with a
    FallbackWarning. `explain` reports which parameters take rows from the start, and why. `fallback="error"` raises
    FallbackError instead of taking rows, unless rows cost less.

    Raises ValueError for an `out` of another shape, dtype or device, a `memory_mb` below zero, another `fallback`, and
    a loss that is no scalar, is not deterministic or does not depend on the parameters; NotImplementedError for
    parameters of float16 or bfloat16 and for hooks that change gradients; CertificateError where rows do not agree with
    double backward either, or nothing can be checked.
    """
    return hessian_over_batches(
        model, [(criterion, inputs, targets)], out=out, memory_mb=memory_mb, fallback=fallback, parameters=parameters
    )


def hessian_over_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    out: Tensor | None = None,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
    parameters: Patterns = None,
) -> Tensor:
    """Hessian (P, P) of the sum over `batches` of `criterion(model(inputs), targets)`; all else as in `hessian`.

    A batch is (criterion, inputs, targets). Two of them are in memory at most, and one matrix (P, P). The batches are
    gone through again where parameters take rows, and must then be the same. The check is one of the whole sum. Raises
    ValueError where there are no batches. `methods.batches.hessian` makes them from a data set and a mean.
    """
    with only(model, parameters):
        theta, _ = ravel(model)
        out = output(theta, out)
        write_sum(model, batches, Rows(out, 0), memory_mb, fallback)
    return out


def hessian_rows(
    model: nn.Module,
    batches: Iterable[Batch],
    rows: slice,
    *,
    memory_mb: float | None = None,
    fallback: Fallback = "rows",
    parameters: Patterns = None,
) -> Tensor:
    """Consecutive rows (c, P) of the Hessian that `hessian_over_batches` gives.

    Derivatives along shifts are those of the whole Hessian. Of the matrix products, only those of the rows are
    computed, and all rows of parameters that take backward passes where there are rows of others too. The check is that
    of these rows.
    """
    with only(model, parameters):
        theta, _ = ravel(model)
        entries = empty(theta, rows.stop - rows.start, len(theta))
        if len(entries):
            write_sum(model, batches, Rows(entries, rows.start), memory_mb, fallback)
    return entries


def diagonal(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    *,
    fallback: Fallback = "rows",
    parameters: Patterns = None,
) -> Tensor:
    """Diagonal (P,) of the Hessian that `hessian` gives.

    Of the block between a layer's own parameters, only sum_{n,s,t} a[s,j] M[(s,i),(t,i)] a[t,j] is needed, which is
    read from the curvature M of the layer's outputs.

    A chain of affine maps and elementwise functions without positions is gone through backwards in one step for each
    map (`factoring.sequential`). Other networks take more passes.

    The product of each block with a random vector follows from the same M. It is compared with double backward through
    the plain loss, layer by layer. That catches an error in any block on the diagonal with the probability that
    `methods.factoring.certificate` gives. Blocks between layers are neither computed nor checked. Rows where the
    products differ, `fallback` and the errors raised are as in `hessian`.
    """
    check_fallback(fallback)
    with only(model, parameters), full_precision():
        network = Network(model, criterion, inputs, targets)
        certificate = Certificate(network)
        vector = certificate.vector
        result, product = torch.zeros_like(vector), torch.zeros_like(vector)
        if _written_as_chain(network, certificate, result, product):
            return result
        result.zero_()
        product.zero_()
        plan = planned(
            network, certificate, lambda plan: write_diagonal(network, plan, certificate, result, product), {}
        )
        check_rows_allowed(plan, fallback)
        for name, penalty in plan.added().items():
            span = network.span[name]
            result[span] += penalty
            product[span] += penalty * vector[span]

        def take_rows(names: Iterable[str], at_once: int) -> None:
            for span, rows in rows_of(network, names, at_once):
                result[span], product[span] = rows[:, span].diagonal(), rows @ vector

        take_rows(plan.reasons, ROWS)
        blocks = plan.blocks
        in_turn: set[str] = set()
        while failed := certificate.failing(product, partial(_blocks_product, network, certificate, blocks)):
            report_failed(failed, in_turn, fallback, stacklevel=3)
            in_turn |= failed.keys()
            # All parameters of a block take rows together, since each contributes to the products of the others.
            doubted = [names for names in blocks if names & failed.keys()]
            blocks = [names for names in blocks if not names & failed.keys()]
            take_rows(frozenset(failed).union(*doubted), at_once=1)
    return result


def hvp(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    vectors: Tensor,
    *,
    parameters: Patterns = None,
) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k): a backward pass through the plain gradient's graph for each.

    The passes are batched where torch has the rules. Two more passes check them:

    - One computes the product with a random combination w of the vectors. It catches an error of batching with the
      probability that `methods.factoring.certificate` gives. Each product is then computed by a pass of its own, with a
      FallbackWarning.
    - One computes the product with a random vector u, since u . H w = w . H u. It catches, with a similar probability,
      an error that makes the second derivative asymmetric. A symmetric error of double backward is not noticed.

    Raises CertificateError where the second derivative is not symmetric; ValueError for vectors of another shape, dtype
    or device, and for entries that are not finite; other errors as `hessian`.
    """
    with only(model, parameters), full_precision():
        network = Network(model, criterion, inputs, targets)
        _check_vectors(vectors, network.theta)
        vectors = vectors.detach()
        count = vectors.shape[1]
        if count == 0:
            return torch.zeros_like(vectors)
        certificate = Certificate(network)
        check_deterministic(network, certificate)
        weights = drawn(vectors[0])  # (k,)
        combined = vectors @ weights  # w (P,)
        result = products_of(certificate.gradient, network, vectors.T).T
        if count == 1:  # a single product is not batched
            true = result @ weights
        else:
            true = certificate.product(combined)
            if certificate.comparison.differing(result @ weights, combined, true, certificate.product):
                warnings.warn("batched products are not those of single passes; each takes a pass", FallbackWarning, 2)
                result = torch.stack([certificate.product(vector) for vector in vectors.unbind(1)], dim=1)
        certificate.check_symmetry(combined, true)
    return result


def trace(model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, *, fallback: Fallback = "rows") -> Tensor:
    """Trace () of that Hessian: the sum of `diagonal`, with its check, `fallback` and errors."""
    return diagonal(model, criterion, inputs, targets, fallback=fallback).sum()


def eigenvalues(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, k: int, *, fallback: Fallback = "rows"
) -> Tensor:
    """Its `k` eigenvalues of largest magnitude, then the lowest one (k + 1,), of `hessian`.

    Raises ValueError for more of them than parameters, and other errors as `hessian`.
    """
    return dense.eigenvalues(hessian(model, criterion, inputs, targets, fallback=fallback), k)


def spectrum(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, *, fallback: Fallback = "rows"
) -> Spectrum:
    """All its eigenvalues, of `hessian`; errors are as there."""
    return dense.spectrum(hessian(model, criterion, inputs, targets, fallback=fallback))


def ihvp(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    vectors: Tensor,
    damping: float,
    *,
    fallback: Fallback = "rows",
) -> Tensor:
    """(H + damping I)^-1 V, (P, m) -> (P, m), by `hessian`, for which errors are as there.

    Raises ArithmeticError where H + damping I is singular.
    """
    return dense.ihvp(hessian(model, criterion, inputs, targets, fallback=fallback), vectors, damping)


def explain(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    quantity: str = "hessian",
    *,
    parameters: Patterns = None,
) -> dict[str, str]:
    """How each parameter is computed, by name: "matrix products", or the reason why it takes rows.

    `quantity` is "hessian" or "diagonal". The cost is that of the result without the products and the rows themselves.
    A FallbackWarning of the later check cannot be foreseen. Raises ValueError for another quantity, and other errors as
    `hessian`.
    """
    if quantity not in ("hessian", "diagonal"):
        raise ValueError(f"quantity={quantity!r} must be 'hessian' or 'diagonal'")
    with only(model, parameters), full_precision():
        network = Network(model, criterion, inputs, targets, by_entries=quantity == "hessian")
        certificate = Certificate(network)
        cheap = cheap_rows(certificate.gradients, network.samples) if quantity == "hessian" else None
        if cheap is not None:
            check_deterministic(network, certificate)
            return dict.fromkeys(network.params, cheap.reason)
        result, product = torch.zeros_like(network.theta), torch.zeros_like(network.theta)
        if quantity == "diagonal" and _written_as_chain(network, certificate, result, product):
            return dict.fromkeys(network.params, PRODUCTS)

        def refuse(plan: Plan) -> None:
            if quantity == "hessian":
                check_hessian(network, plan, certificate, MEMORY)
            else:
                write_diagonal(network, plan, certificate, result, product)

        plan = planned(network, certificate, refuse, {})
    return {name: plan.reasons.get(name, PRODUCTS) for name in network.params}


def _written_as_chain(network: Network, certificate: Certificate, result: Tensor, product: Tensor) -> bool:
    """Whether the network is a chain by `factoring.sequential`, whose diagonal is then in `result` (P,).

    Both tensors hold zeros before, and anything where it is no chain.
    """
    blocks = write_sequential(network, certificate, result, product)
    return bool(blocks) and not certificate.failing(product, partial(_blocks_product, network, certificate, blocks))


def _blocks_product(
    network: Network, certificate: Certificate, blocks: Iterable[frozenset[str]], vector: Tensor
) -> Tensor:
    """H times a vector (P,), restricted to the block for parameters of a block; other parameters have whole rows."""
    by_rows = frozenset(network.params).difference(*blocks)
    products = [(names, certificate.product(vector, names)) for names in blocks]
    if by_rows:
        products.append((by_rows, certificate.product(vector)))
    result = torch.zeros_like(vector)
    for names, product in products:
        for name in names:
            result[network.span[name]] = product[network.span[name]]
    return result


def _check_vectors(vectors: Tensor, theta: Tensor) -> None:
    if vectors.dim() != 2 or len(vectors) != len(theta):
        raise ValueError(f"vectors are {tuple(vectors.shape)}; they must be ({len(theta)}, k), one a column")
    if vectors.dtype != theta.dtype or vectors.device != theta.device or not vectors.isfinite().all():
        raise ValueError(
            f"vectors are {vectors.dtype} on {vectors.device}; they must be finite numbers of {theta.dtype} on "
            f"{theta.device}, as the parameters are"
        )
