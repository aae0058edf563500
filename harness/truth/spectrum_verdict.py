"""The verdict on a spectral density: its moments are the true ones, and where it is exact, so are its nodes."""

from __future__ import annotations

from typing import Any

import torch
from scipy import stats
from torch import Tensor

from harness.truth.estimates import STANDARD_ERRORS
from harness.truth.kinds import Spectrum
from harness.truth.spectral import Answer
from harness.truth.verdict import Fields, ok, within, wrong

ROUNDED = 1e-5  # times the root of the number of nodes: what rounding makes of the sum of weights
CONSISTENT = 1e-3  # relative distance of the stated moments from those of the nodes that rounding explains
POWERED = 10  # times the tolerance of eigenvalues, up to which an exact moment may be off: rounding of a fourth power


def judge(spectrum: Spectrum, answer: Answer, tolerance: float, size: float) -> Fields:
    """The verdict on a spectrum; errors are relative to `size`, the mean |eigenvalue|."""
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
        return fields | wrong(fault)
    text = f"distance {distance:.1e} from the true spectrum (Wasserstein-1), relative to the mean |eigenvalue|"
    if exact and bool((off > POWERED * tolerance * scale).any()):
        return fields | wrong(f"{text}; the moments have no standard errors, and are not exact")
    if exact:
        return fields | within(distance, tolerance, "Wasserstein-1 distance over the mean |eigenvalue|")
    if bool((errors < 0).any()):
        return fields | wrong(f"{text}; a standard error is negative")
    if bool((off > STANDARD_ERRORS * errors + tolerance * scale).any()):
        power = int((off - STANDARD_ERRORS * errors - tolerance * scale).argmax()) + 1
        return fields | wrong(f"{text}; moment {power} is more than {STANDARD_ERRORS} standard errors off")
    nearer_zero = float(spectrum.moments[1]) < powers[1] and distance >= 1 - tolerance
    if bool((errors > 2 * scale).any()) or nearer_zero:
        return fields | wrong(
            f"{text}; with standard errors this large it says nothing, and could as well be all zeros; take more probes"
        )
    return fields | ok(text)


def _positive(weights: Tensor) -> Any:
    """Weights that scipy takes: none below 0, and not all 0."""
    kept = weights.clamp(min=0)
    return (kept if float(kept.sum()) > 0 else torch.ones_like(weights)).numpy()


def _not_a_density(spectrum: Spectrum, scale: Tensor) -> str | None:
    """Why the nodes and weights are no density, or not the one whose moments are stated; None where they are."""
    nodes, weights = spectrum.nodes, spectrum.weights
    if bool((nodes.diff() < 0).any()):
        return "the nodes of the spectrum are not in ascending order"
    if bool((weights < -ROUNDED).any()) or abs(float(weights.sum()) - 1) > ROUNDED * len(nodes) ** 0.5:
        return f"the weights of the spectrum have the sum {float(weights.sum()):.6g}, and none may be negative; it is 1"
    own = torch.stack([(weights * nodes.pow(power)).sum() for power in range(1, 5)])
    if bool(((own - spectrum.moments).abs() > CONSISTENT * scale).any()):
        return "the moments that are stated are not those of the nodes and weights"
    return None
