"""Hessian-vector products under vmap, by every composition of forward and reverse mode, a chunk of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, linearize, vjp

from methods import dense
from methods.blocks import restricted
from methods.chunks import Product, batched, matrix, matrix_diagonal, matrix_rows, matrix_times
from methods.estimates import Spectrum

Loss = Callable[[Tensor], Tensor]

COMPOSITIONS = (
    "forward_over_reverse",
    "forward_over_jacrev",
    "reverse_over_forward",
    "reverse_over_reverse",
    "linearize",
)


def hvp(
    loss: Loss,
    theta: Tensor,
    vectors: Tensor,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = None,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """Hessian of `loss` at `theta` (P,) times `vectors` ((P, k) -> (P, k)), `chunk_size` products at once.

    `composition` is one of
    - forward_over_reverse: the jvp of the gradient. Fails where torch has no rule for it, as for mse_loss ("ZeroTensors
      are immutable").
    - forward_over_jacrev: the jvp of jacrev, as in torch.func.hessian. Silently wrong under LayerNorm (torch 2.13).
    - reverse_over_forward: the gradient of a jvp. Silently wrong under LayerNorm (torch 2.13).
    - reverse_over_reverse: the vjp of the gradient, which is the product, since the Hessian is symmetric.
    - linearize: forward over reverse. The gradient is linearized once; its linear map is applied to every vector. Where
      the jvp of the gradient fails (mse_loss), torch 2.13 ends the process with a segmentation fault.

    `chunk_size` is a number, None for all at once, or "auto" for what fits `memory_budget_mb`, as in `methods.chunks`.
    `compile` compiles the product of a chunk by torch.compile; calls with the same loss share the compiled function.

    Raises ValueError for an unknown composition or another `chunk_size`.

    Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994); for the compositions,
    torch's tutorial "Jacobians, Hessians, hvp, vhp, and more: composing function transforms".
    """
    return matrix_times(vectors, product(loss, theta, composition, compile), theta, chunk_size, memory_budget_mb)


def product(loss: Loss, theta: Tensor, composition: str = "forward_over_reverse", compile: bool = False) -> Product:
    """The map of rows (c, P) to their products (c, P) with the Hessian of `loss` at `theta` (P,); options as for `hvp`.

    With reverse_over_reverse and linearize the gradient is computed once, and its graph is kept as long as the map. A
    product is then one backward pass, or one forward-mode pass. Other compositions compute the gradient each time.
    """
    if compile:
        return partial(_compiled(loss, composition), theta)
    return batched(_single(loss, theta, composition))


def hessian(
    loss: Loss,
    theta: Tensor,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)), `chunk_size` rows at once; options as for `hvp`.

    It is written into `out` if given, which may be a memory-mapped file. Beyond the result it takes the memory for the
    activations of one product, times `chunk_size`.
    """
    return matrix(product(loss, theta, composition, compile), theta, chunk_size, memory_budget_mb, out)


def hessian_rows(
    loss: Loss,
    theta: Tensor,
    rows: slice,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """Consecutive rows (c, P) of the Hessian of `loss` at `theta` (P,); options as for `hvp`."""
    return matrix_rows(product(loss, theta, composition, compile), theta, rows, chunk_size, memory_budget_mb)


def diagonal(
    loss: Loss,
    theta: Tensor,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """Diagonal of the Hessian ((P,) -> (P,)): one entry of each of its rows; options as for `hvp`."""
    return matrix_diagonal(product(loss, theta, composition, compile), theta, chunk_size, memory_budget_mb)


def block_diagonal(
    loss: Loss,
    theta: Tensor,
    sizes: Sequence[int],
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> tuple[Tensor, ...]:
    """Diagonal blocks (p, p) of the Hessian, one for each part of theta of `sizes`; options as for `hvp`.

    Raises NotImplementedError for `compile`, since each block's loss would be compiled again at every call.
    """
    if compile:
        raise NotImplementedError("compile=true is not offered for block_diagonal; set method.compile=false")
    options = composition, chunk_size, memory_budget_mb
    return tuple(hessian(of_part, part, *options) for of_part, part in restricted(loss, theta, sizes))


def trace(
    loss: Loss,
    theta: Tensor,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """Trace () of the Hessian: the sum of its diagonal; options as for `hvp`."""
    return diagonal(loss, theta, composition, chunk_size, memory_budget_mb, compile).sum()


def eigenvalues(
    loss: Loss,
    theta: Tensor,
    k: int,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """The `k` eigenvalues of largest magnitude, then the lowest one (k + 1,), by the whole Hessian (`methods.dense`).

    Options are as for `hvp`. Raises ValueError for more eigenvalues than parameters.
    """
    return dense.eigenvalues(hessian(loss, theta, composition, chunk_size, memory_budget_mb, compile), k)


def spectrum(
    loss: Loss,
    theta: Tensor,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Spectrum:
    """All eigenvalues, of the whole Hessian (`methods.dense`); options as for `hvp`."""
    return dense.spectrum(hessian(loss, theta, composition, chunk_size, memory_budget_mb, compile))


def ihvp(
    loss: Loss,
    theta: Tensor,
    vectors: Tensor,
    damping: float,
    composition: str = "forward_over_reverse",
    chunk_size: int | str | None = 64,
    memory_budget_mb: float | None = None,
    compile: bool = False,
) -> Tensor:
    """(H + damping I)^-1 V, (P, m) -> (P, m), by the whole Hessian (`methods.dense`); options as for `hvp`.

    Raises ArithmeticError where H + damping I is singular.
    """
    return dense.ihvp(hessian(loss, theta, composition, chunk_size, memory_budget_mb, compile), vectors, damping)


def _single(loss: Loss, theta: Tensor, composition: str) -> Callable[[Tensor], Tensor]:
    """The map v -> H v, (P,) -> (P,)."""
    if composition == "forward_over_reverse":
        return lambda v: jvp(grad(loss), (theta,), (v,))[1]
    if composition == "forward_over_jacrev":
        return lambda v: jvp(jacrev(loss), (theta,), (v,))[1]
    if composition == "reverse_over_forward":
        return lambda v: grad(lambda point: jvp(loss, (point,), (v,))[1])(theta)
    if composition == "reverse_over_reverse":
        pullback = vjp(grad(loss), theta)[1]
        return lambda v: pullback(v)[0]
    if composition == "linearize":
        return linearize(grad(loss), theta)[1]
    raise ValueError(f"composition must be one of {', '.join(COMPOSITIONS)}; found {composition}")


@lru_cache(maxsize=1)
def _compiled(loss: Loss, composition: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The compiled function of theta (P,) and rows of vectors (c, P) that gives rows of products (c, P)."""
    return torch.compile(lambda theta, vectors: batched(_single(loss, theta, composition))(vectors), dynamic=False)
