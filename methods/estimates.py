"""What a method returns beside plain tensors: results that state their own error, densities, and approximations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A random estimate with its standard error.

    `probes` is the number of independent samples behind the standard error, `products` that of all Hessian-vector
    products; None where it is `probes`.
    """

    value: Tensor  # (), (P,) or as the quantity
    standard_error: Tensor  # of value's shape
    probes: int
    products: int | None = None


class Bounded(NamedTuple):
    """A result that is computed to a finite precision, and states it.

    `error` is, for each quantity:

    - eigenvalues: |H v - lambda v| of each one's unit vector v, within which there is an eigenvalue of H;
    - ihvp: |(H + damping I) x - v| / |v| of each vector v, a residual;
    - hvp: an estimate of the norm of each product's error; of all other quantities: of every entry's.
    """

    value: Tensor  # of the quantity's shape
    error: Tensor  # (k + 1,) for eigenvalues, (k,) for ihvp and hvp, else of value's shape
    products: int  # Hessian-vector products that were spent, or gradients where these replace them


class Spectrum(NamedTuple):
    """A spectral density as a discrete measure, with its first moments."""

    nodes: Tensor  # (m,), ascending
    weights: Tensor  # (m,), of sum 1
    moments: Tensor  # (4,): means of the eigenvalues' powers 1 to 4
    moment_errors: Tensor  # (4,): their standard errors; zeros where the spectrum is exact
    products: int | None = None  # Hessian-vector products that were spent; None where it is exact


class Approximation(NamedTuple):
    """A matrix that approximates the one that was asked for, by design: its error is no fault."""

    value: Tensor  # (P, P)
