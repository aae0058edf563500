"""A function of torch at a point where it is smooth, though a formula for its derivative may not be."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def function(
    *, seed: int = 0, name: str, arguments: Mapping[str, Any] | None = None, shape: Sequence[int], point: str = "normal"
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """sum_k cos(k) y_k + y_k^2 / 2 over the entries of y = `name`(x, **arguments), at a `point` of `POINTS`.

    A matrix at a symmetric point stays symmetric: the function is given (x + x^T) / 2.
    """
    called, given = pkgutil.resolve_name(name), dict(arguments or {})
    x = POINTS[point](torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    symmetric = point in ("symmetric", "positive_definite", "identity")

    def objective(x: Tensor) -> Tensor:
        y = called((x + x.mT) / 2 if symmetric else x, **given)
        outputs = y if isinstance(y, tuple) else (y,)
        real = [torch.view_as_real(output) if output.is_complex() else output for output in outputs]
        entries = torch.cat([output.flatten() for output in real])
        weights = torch.arange(len(entries), dtype=x.dtype, device=x.device).cos()
        return weights @ entries + entries @ entries / 2

    return objective, x


def _with_zero(x: Tensor) -> Tensor:
    return x.flatten().index_fill(0, torch.tensor([1]), 0.0).view_as(x)


# Points made from a normal draw.
POINTS = {
    "normal": lambda x: x,
    "positive": lambda x: x.abs() + 0.5,
    "within_one": lambda x: 0.8 * x.tanh(),
    "symmetric": lambda x: x + x.mT,
    "positive_definite": lambda x: x @ x.mT + torch.eye(len(x), dtype=x.dtype),
    "identity": lambda x: torch.eye(len(x), dtype=x.dtype),
    "singular": lambda x: x - x.mean(-1, keepdim=True),
    "zeros": torch.zeros_like,
    "with_zero": _with_zero,
    "above_zero_or_zero": lambda x: _with_zero(x.abs() + 0.5),
}


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 through the norm, whose gradient is not defined at 0; the Hessian is 2 I."""
    return x.norm() ** 2


def sqrt_squared(x: Tensor) -> Tensor:
    """sqrt(x^4) = x^2, whose square root has no finite derivative at 0."""
    return (x**4).sqrt()


def guarded_sqrt(x: Tensor) -> Tensor:
    """The square root where it is defined, else 0: the branch that is not taken is NaN."""
    return torch.where(x > 0, x.sqrt(), torch.zeros_like(x))


def fourth_power_of_abs(x: Tensor) -> Tensor:
    """|x|^4, smooth at 0."""
    return x.abs() ** 4


def fourth_power_of_clamp(x: Tensor) -> Tensor:
    """max(x, 0)^4, three times differentiable at 0."""
    return x.clamp(min=0) ** 4


def squared_distances(x: Tensor) -> Tensor:
    """Squared distances of the rows through torch.cdist, those of a row from itself among them."""
    return torch.cdist(x, x) ** 2


def cubed_eigenvalues(x: Tensor) -> Tensor:
    """Sum of the cubed eigenvalues of a symmetric matrix, smooth where they coincide."""
    return torch.linalg.eigvalsh(x).pow(3).sum()


def projector(x: Tensor) -> Tensor:
    """The projector on the eigenvectors of the two least eigenvalues."""
    vectors = torch.linalg.eigh(x)[1][:, :2]
    return vectors @ vectors.mT


def polar(x: Tensor) -> Tensor:
    """The orthogonal factor U V^T of the polar decomposition."""
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


def solved(x: Tensor) -> Tensor:
    """x^-1 b for a fixed b."""
    return torch.linalg.solve(x, torch.arange(1.0, len(x) + 1, dtype=x.dtype, device=x.device))


def qr_diagonal(x: Tensor) -> Tensor:
    """The diagonal of R of the QR decomposition."""
    return torch.linalg.qr(x)[1].diagonal()


def indexed(x: Tensor) -> Tensor:
    """Entries taken by index, some of them twice, and scattered back."""
    index = torch.tensor([0, 2, 2, 1], device=x.device)
    return torch.zeros_like(x).index_add(0, index, x[index].sin())


def spectrum(x: Tensor) -> Tensor:
    """The squared absolute values of the discrete Fourier transform."""
    return torch.fft.rfft(x).abs() ** 2


def normalized(x: Tensor) -> Tensor:
    """x / |x|, as torch.nn.functional.normalize."""
    return torch.nn.functional.normalize(x, dim=-1)


def self_power(x: Tensor) -> Tensor:
    """x^x, entry by entry."""
    return x**x


def contracted(x: Tensor) -> Tensor:
    """A contraction of three factors by torch.einsum."""
    return torch.einsum("ij,jk,ki->i", x, x.sin(), x)
