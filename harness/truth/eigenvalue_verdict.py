"""The verdict on eigenvalues: each is a true one, and none of the largest was missed."""

from __future__ import annotations

import torch
from scipy import optimize
from torch import Tensor

from harness.truth.spectral import Answer
from harness.truth.verdict import Fields, ok, within, wrong


def judge(value: Tensor, stated: Tensor | None, answer: Answer, tolerance: float, size: float) -> Fields:
    """The verdict on eigenvalues (k + 1,), the last of which is to be the lowest, with residuals (k + 1,) if stated.

    All numbers are relative to `size`. Where residuals are stated, the result is right if all of these hold up to the
    tolerance:

    - Each of the k numbers lies within its residual of a true eigenvalue, and no two of them share one. Nearly equal
      eigenvalues are told apart by an assignment that favours no number.
    - The i-th largest |number| + residual is at least the i-th largest true magnitude. Else an eigenvalue was missed.
      An eigenvalue that a large residual covers was not.
    - The lowest true eigenvalue lies within the residual of the last number.
    - No number comes before one that is certainly larger in magnitude.
    """
    assert answer.eigenvalues is not None
    value, true, known = value / size, answer.value / size, answer.eigenvalues / size
    rest = None if answer.rest is None else answer.rest / size
    error = _largest_error(value, true, known, rest)
    fields: Fields = {"relative_error": error, "worst_error": error}
    bounds = torch.zeros_like(value) if stated is None else stated / size
    if bool((bounds < 0).any()):
        return fields | {"covered": False} | wrong("a residual is negative")
    fault = _far(value, bounds, known, rest, tolerance) or _missed(value, bounds, true, tolerance, size)
    if stated is None:
        seen = within(error, tolerance)
        explained = "; ".join(filter(None, [seen["message"], fault or _disorder(value, bounds, tolerance)]))
        return fields | (seen if seen["status"] == "ok" else wrong(explained))
    largest = float(bounds.max())
    fields |= {"stated_error": largest, "covered": fault is None, "tolerance": max(tolerance, largest)}
    text = f"largest error {error:.1e} and residual {largest:.1e}, of the largest |eigenvalue|"
    fault = fault or _disorder(value, bounds, tolerance)
    if fault is None and largest >= 1:
        fault = "a residual as large as the largest eigenvalue says nothing"
    return fields | (ok(text) if fault is None else wrong(f"{text}; {fault}"))


def _largest_error(value: Tensor, true: Tensor, known: Tensor, rest: Tensor | None) -> float:
    """The largest distance from the true eigenvalue of the same place, in magnitude, or from all true ones."""
    misplaced = (value.abs() - true.abs()).abs()
    misplaced[-1] = (value[-1] - true[-1]).abs()
    return max(float(misplaced.max()), float(_assigned(_distances(value[:-1], known, rest)).max()))


def _distances(value: Tensor, known: Tensor, rest: Tensor | None) -> Tensor:
    """Distances of numbers (k,) from the known eigenvalues (c,), and from the interval of the unknown ones: (k, n)."""
    distances = (value[:, None] - known).abs()
    if rest is None:
        return distances
    unknown = (value - value.clamp(*rest.tolist())).abs()
    return torch.cat([distances, unknown[:, None].expand(-1, len(value))], dim=1)


def _assigned(costs: Tensor) -> Tensor:
    """The costs (k,) of the assignment of each row to a column of its own that has the least sum: (k, n), k <= n."""
    rows, columns = optimize.linear_sum_assignment(costs.numpy())
    return costs[torch.from_numpy(rows), torch.from_numpy(columns)]


def _far(value: Tensor, bounds: Tensor, known: Tensor, rest: Tensor | None, tolerance: float) -> str | None:
    """Which number is farther from every true eigenvalue than it states."""
    allowed = bounds + tolerance
    excess = _assigned((_distances(value[:-1], known, rest) - allowed[:-1, None]).clamp(min=0))
    last = _distances(value[-1:], known, rest).min() - allowed[-1]
    excess = torch.cat([excess, last[None]])
    place = int(excess.argmax())
    if float(excess[place]) <= 0:
        return None
    far = float(excess[place] + allowed[place])
    return (
        f"number {place + 1} is {far:.1e} from every true one for which no other number stands, and states "
        f"{float(bounds[place]):.1e}"
    )


def _missed(value: Tensor, bounds: Tensor, true: Tensor, tolerance: float, size: float) -> str | None:
    """Which true eigenvalue was missed."""
    reached = (value[:-1].abs() + bounds[:-1]).sort(descending=True).values + tolerance
    lacking = true[:-1].abs() - reached
    place = int(lacking.argmax())
    if float(lacking[place]) > 0:
        name = f"number {place + 1} by magnitude"
    elif float((value[-1] - true[-1]).abs() - bounds[-1]) > tolerance:
        name, place = "the lowest eigenvalue", len(value) - 1
    else:
        return None
    return f"an eigenvalue was missed: {name} is {float(true[place]) * size:.6g}, not {float(value[place]) * size:.6g}"


def _disorder(value: Tensor, bounds: Tensor, tolerance: float) -> str | None:
    """Which number comes before one that is larger in magnitude, whatever their residuals."""
    lowest, highest = value[:-1].abs() - bounds[:-1], value[:-1].abs() + bounds[:-1]
    after = (lowest[1:] > highest[:-1] + 2 * tolerance).nonzero()
    if not len(after):
        return None
    place = int(after[0]) + 1
    return f"they are not in descending order of magnitude: number {place} is less than number {place + 1}"
