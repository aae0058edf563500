"""The verdict on eigenvalues, a trace, a spectrum, or products with an inverse.

- Exact: right up to the tolerance, relative to the true answer's `size` (`harness.truth.spectral.Answer`).
- A random estimate of a trace: within what its standard error allows.
- Eigenvalues with residuals: each is within its residual of a true one, and none of the largest was missed.
- A solution with residuals: these are the true residuals.
- A spectrum: its moments are the true ones within their standard errors.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy import optimize, stats
from torch import Tensor

from harness.truth.estimates import STANDARD_ERRORS
from harness.truth.kinds import Bounded, Estimate, Spectrum
from harness.truth.reference import Reference
from harness.truth.spectral import Answer

UNITS = 100  # of rounding of the matrix that a right answer may show, times the answer's amplification
LEVEL = 0.95  # of an interval
STATED = 2.0  # times what is stated, up to which a residual is what it is said to be
EXACT, SKETCHED = 1.01, 1.5  # the same for `covered`: residuals from the whole matrix, or from random directions
ROUNDED = 1e-5  # times the root of the number of nodes: what rounding makes of the sum of weights
CONSISTENT = 1e-3  # relative distance of the stated moments from those of the nodes that rounding explains
# Largest relative error of an exact answer that is right, where rounding is not amplified.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}

Fields = dict[str, Any]  # of a record


def tolerance(answer: Answer, dtype: torch.dtype, of_matrix: float) -> float:
    """Largest relative error of an answer that is right; `of_matrix` is that of a right matrix, which is amplified."""
    return max(TOLERANCE[dtype], answer.amplification * max(UNITS * torch.finfo(dtype).eps, of_matrix))


def unjudged(answer: Answer, dtype: str) -> str:
    """Why no answer can be judged in this dtype, where rounding of the matrix is amplified too much."""
    cause, remedy = "the trace's terms cancel", "take another problem"
    if answer.vectors is not None:
        cause, remedy = "H + damping I is nearly singular", "set a larger damping"
    finer = "use float64, or " if dtype != "float64" else ""
    return f"{cause}: rounding in {dtype} is amplified {answer.amplification:.0e} times; {finer}{remedy}"


def judge(result: Any, truth: Reference, limit: float, dtype: torch.dtype) -> Fields:
    """The fields of a verdict on a plain, finite result on the CPU, in float64 but of this dtype originally."""
    answer = truth.answer
    assert answer is not None
    size = truth.size_of_errors(dtype) or answer.size or 1.0
    if isinstance(result, Spectrum):
        return _spectrum(result, answer, limit, size)
    if isinstance(result, Estimate):
        return _estimated_trace(result, answer, limit, size)
    value, stated = (result.value, result.error) if isinstance(result, Bounded) else (result, None)
    if answer.vectors is not None:
        return _inverse(value, stated, truth, limit, dtype)
    if answer.value.dim():
        return _eigenvalues(value, stated, answer, limit, size)
    error = abs(float(value - answer.value)) / size
    if stated is None:
        return {"relative_error": error} | _within(error, limit)
    return {"relative_error": error} | _bound(error, float(stated) / size, limit)


def _within(error: float, tolerance: float, what: str = "relative error") -> Fields:
    if error <= tolerance:
        return _ok()
    return _wrong(f"{what} {error:.1e}; {tolerance:.0e} is tolerated")


def _bound(error: float, stated: float, tolerance: float) -> Fields:
    """The verdict on a single number that states a bound of its error."""
    held = error <= stated + tolerance
    fields = {"stated_error": stated, "covered": held, "tolerance": max(tolerance, stated)}
    text = f"error {error:.1e}, stated {stated:.1e}"
    if not held:
        return fields | _wrong(f"{text}: the error is larger than stated")
    if stated >= 1:
        return fields | _wrong(f"{text}: an error as large as the value says nothing")
    return fields | _ok(text)


def _ok(message: str | None = None) -> Fields:
    return {"status": "ok", "message": message}


def _wrong(message: str) -> Fields:
    return {"status": "wrong", "message": message}


def _estimated_trace(estimate: Estimate, answer: Answer, tolerance: float, size: float) -> Fields:
    """A single random number, whose standard error is of few probes: Student's t says how far off it may be."""
    degrees = max(estimate.probes - 1, 1)
    error, expected = abs(float(estimate.value - answer.value)), float(estimate.standard_error)
    allowed = float(stats.t.isf(stats.norm.sf(STANDARD_ERRORS), degrees)) * expected
    half = float(stats.t.isf((1 - LEVEL) / 2, degrees)) * expected
    fields = {
        "relative_error": error / size,
        "standard_error": expected / size,
        "stated_error": half / size,
        "covered": error <= half + tolerance * size,
        "tolerance": max(tolerance, allowed / size),
    }
    text = f"an estimate from {estimate.probes} probes: error {error / size:.1e}, standard error {expected / size:.1e}"
    if expected < 0:
        return fields | _wrong(f"{text}; a standard error is negative")
    if error > max(allowed, tolerance * size):
        return fields | _wrong(f"{text}: off by more than chance allows")
    if STANDARD_ERRORS * expected > max(answer.terms, size):
        return fields | _wrong(
            f"{text}; with a standard error this large it says nothing, and could as well be zero; take more probes"
        )
    return fields | _ok(text)


def _eigenvalues(value: Tensor, stated: Tensor | None, answer: Answer, tolerance: float, size: float) -> Fields:
    """Eigenvalues (k + 1,), the last of which is to be the lowest."""
    assert answer.eigenvalues is not None
    nearest = _distances_to_known(value, answer.eigenvalues) / size
    misplaced = (value.abs() - answer.value.abs()).abs()
    misplaced[-1] = (value[-1] - answer.value[-1]).abs()
    misplaced = misplaced / size
    errors = torch.maximum(nearest, misplaced)
    fields = {"relative_error": float(errors.max()), "worst_error": float(errors.max())}
    if stated is None:
        return fields | _within(fields["relative_error"], tolerance)
    bounds = stated / size
    largest = float(bounds.max())
    held = bool((errors <= bounds + tolerance).all())
    fields |= {"stated_error": largest, "covered": held, "tolerance": max(tolerance, largest)}
    text = f"largest error {fields['relative_error']:.1e} and residual {largest:.1e}, of the largest |eigenvalue|"
    if bool((bounds < 0).any()):
        return fields | _wrong(f"{text}; a residual is negative")
    if bool((nearest > bounds + tolerance).any()):
        place = int((nearest - bounds).argmax())
        far, residual = float(nearest[place]), float(bounds[place])
        return fields | _wrong(
            f"{text}; number {place + 1} is {far:.1e} from every true one, and states {residual:.1e}"
        )
    if not held:
        place = int((misplaced - bounds).argmax())
        name = "the lowest eigenvalue" if place == len(value) - 1 else f"number {place + 1} by magnitude"
        true = float(answer.value[place])
        return fields | _wrong(f"{text}; an eigenvalue was missed: {name} is {true:.6g}, not {float(value[place]):.6g}")
    if largest >= 1:
        return fields | _wrong(f"{text}; a residual as large as the largest eigenvalue says nothing")
    return fields | _ok(text)


def _distances_to_known(value: Tensor, known: Tensor) -> Tensor:
    """Distances (k + 1,) from the known eigenvalues (c,), of which each is the nearest of one of the k at most."""
    gaps = (value[:, None] - known).abs()
    distances = gaps.min(1).values
    rows, columns = optimize.linear_sum_assignment(gaps[:-1].numpy())
    distances[torch.from_numpy(rows)] = gaps[rows, columns]
    return distances


def _inverse(value: Tensor, stated: Tensor | None, truth: Reference, tolerance: float, dtype: torch.dtype) -> Fields:
    """Products (P, m) with the inverse of H + damping I."""
    answer = truth.answer
    assert answer is not None
    assert answer.vectors is not None
    error = float((value - answer.value).norm()) / answer.size
    fields: Fields = {"relative_error": error}
    if stated is None:
        return fields | _within(error, tolerance)
    lengths = answer.vectors.norm(dim=0)
    residuals, exact = _residuals(value, truth)
    residuals = residuals / lengths
    # Rounding of H and of the solution, in the residual.
    size = (answer.norm + answer.damping) * value.norm(dim=0) / lengths + 1
    rounding = UNITS * torch.finfo(dtype).eps * truth.scale.slack_of(dtype) * size
    covered = residuals <= (EXACT if exact else SKETCHED) * stated + rounding
    fields |= {
        "stated_error": float(stated.max()),
        "covered": bool(covered.all()),
        "tolerance": max(tolerance, error),
    }
    text = f"relative error {error:.1e}; residual {float(residuals.max()):.1e}, stated {float(stated.max()):.1e}"
    if bool((stated < 0).any()):
        return fields | _wrong(f"{text}; a residual is negative")
    if bool((residuals > STATED * stated + rounding).any()) or bool((stated > STATED * residuals + rounding).any()):
        return fields | _wrong(f"{text}: what is stated is not the residual |(H + damping I) x - v| / |v|")
    if bool((stated >= 1).any()):
        return fields | _wrong(f"{text}; zeros have a residual of 1: take more products, or another method")
    return fields | _ok(text)


def _residuals(solution: Tensor, truth: Reference) -> tuple[Tensor, bool]:
    """The norms (m,) of (H + damping I) x - v, and whether they are exact; else they are from random directions."""
    answer = truth.answer
    assert answer is not None
    assert answer.vectors is not None
    if truth.directions is None:
        return (truth.values @ solution + answer.damping * solution - answer.vectors).norm(dim=0), True
    assert truth.products is not None
    seen = truth.products.T @ solution + truth.directions.T @ (answer.damping * solution - answer.vectors)
    return seen.square().mean(0).sqrt(), False


def _spectrum(spectrum: Spectrum, answer: Answer, tolerance: float, size: float) -> Fields:
    nodes, weights = spectrum.nodes, spectrum.weights
    powers = [float(answer.value.pow(power).mean()) for power in range(1, 5)]
    scales = [max(float(answer.value.abs().pow(power).mean()), size**power) for power in range(1, 5)]
    true, scale = torch.tensor(powers, dtype=torch.float64), torch.tensor(scales, dtype=torch.float64)
    errors, exact = spectrum.moment_errors, not bool(spectrum.moment_errors.any())
    off = (spectrum.moments - true).abs()
    norm = float(true.norm()) or float(scale.norm())
    distance = float(stats.wasserstein_distance(nodes.numpy(), answer.value.numpy(), _positive(weights))) / size
    fields: Fields = {"relative_error": distance}
    if not exact:
        fields["standard_error"] = float(errors.norm()) / norm
        fields["tolerance"] = max(tolerance, STANDARD_ERRORS * float(errors.norm()) / norm)
    fault = _not_a_density(spectrum, scale)
    if fault is not None:
        return fields | _wrong(fault)
    text = f"distance {distance:.1e} from the true spectrum (Wasserstein-1), relative to the mean |eigenvalue|"
    if exact:
        return fields | _within(distance, tolerance, "Wasserstein-1 distance over the mean |eigenvalue|")
    if bool((errors < 0).any()):
        return fields | _wrong(f"{text}; a standard error is negative")
    if bool((off > STANDARD_ERRORS * errors + tolerance * scale).any()):
        power = int((off - STANDARD_ERRORS * errors - tolerance * scale).argmax()) + 1
        return fields | _wrong(f"{text}; moment {power} is more than {STANDARD_ERRORS} standard errors off")
    if bool((errors > 2 * scale).any()):
        return fields | _wrong(f"{text}; with standard errors this large it says nothing; take more probes")
    return fields | _ok(text)


def _positive(weights: Tensor) -> Any:
    """Weights that scipy takes: none below 0, and not all 0."""
    kept = weights.clamp(min=0)
    return (kept if float(kept.sum()) > 0 else torch.ones_like(weights)).numpy()


def _not_a_density(spectrum: Spectrum, scale: Tensor) -> str | None:
    """Why the nodes and weights are no density, or not the one whose moments are stated; None where they are."""
    nodes, weights = spectrum.nodes, spectrum.weights
    if not len(nodes) or bool((nodes.diff() < 0).any()):
        return "the nodes of the spectrum are not in ascending order, or there are none"
    if bool((weights < -ROUNDED).any()) or abs(float(weights.sum()) - 1) > ROUNDED * len(nodes) ** 0.5:
        return f"the weights of the spectrum have the sum {float(weights.sum()):.6g}, and none may be negative; it is 1"
    own = torch.stack([(weights * nodes.pow(power)).sum() for power in range(1, 5)])
    if bool(((own - spectrum.moments).abs() > CONSISTENT * scale).any()):
        return "the moments that are stated are not those of the nodes and weights"
    return None
