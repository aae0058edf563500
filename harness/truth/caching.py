"""Whether the timed calls computed at all: calls at points where the method has not been, after the samples.

A method may keep results: by the identity of what it is given, by a hash of it, in memory or on disk. So theta and the
network's parameters are moved together, in place, and the method is called there.

- A result that is the same to the last bit, where the true one has changed, is stale: the method's result is wrong
  anywhere but where it was first called.
- A Hessian that does not follow the true one is wrong there: one number of it, s^T H t with random signs s and t, is
  compared with a product of double backward in float64.
- Calls that take far longer than those that were timed, and far longer than a second call at the same point, were not
  computed when they were timed.

Not found: results that are kept where the true ones are constant in theta, by the identity of theta alone; a cache
that saves less than two thirds of a call or less than FLOOR_S; one that computes again only in a new process; and
anything about a method whose calls take longer than LONGEST_S, or for which the time limit leaves no room.
"""

from __future__ import annotations

import math
import secrets
import statistics
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.measure import clock
from harness.problems import Problem, torch_messages
from harness.problems.binding import Cell
from harness.problems.own import ravel
from harness.truth import agreement
from harness.truth.products import of_ggn, of_hessian
from harness.truth.sketch import signs
from harness.truth.witness import number

STEP = 0.03  # of a move, times the root mean square of theta
CALLS = 3  # at as many points, of which the fastest counts
PAIRS = 7  # further points at which a suspicion of the times must hold, every time
RATIO = 3.0  # slower than this is far slower
FLOOR_S = 1e-4  # and by this at least: less may be memory that the processor's caches have lost
LONGEST_S = 20.0  # calls that take longer are not made again
CHANGED = 1e-3  # relative change of the true result that a right method shows,
ROUNDINGS = 16  # and as many units in the last place of theta's dtype
COORDINATES = 16  # vectors at most, in whose products a true change is looked for
DIFFERENCE = 1e-4  # step of central differences, times the root mean square of theta
MAGNIFIED = 1e-2  # a change by autograd that is a smaller part than this of that by differences is rounding
CALL, OWN = {"running": "fresh call"}, {"running": None}  # what the launcher reads where the time limit strikes

Fault = dict[str, Any]  # `status` and `message` of a record
Steps = Generator[dict[str, Any], None, Any]  # yields CALL before each call of the method, OWN after it


def fault(cell: Cell, times_s: list[float], last: float | None, left_s: float) -> Steps:
    """Return `status` and `message` where something is wrong with what was timed, else None.

    `times_s` are the samples, `last` the number of the last result (`Witness.last`), `left_s` what is left of the
    pass's time limit. At a point where the loss or its gradient is not finite nothing is asked of the method. Yields
    what is running, CALL or OWN, so that only a call of the method that does not end speaks against it.
    """
    slowest = max(times_s)
    until = time.monotonic() + left_s / 2  # for the harness's own work
    if last is None or slowest > LONGEST_S or slowest * 2 * CALLS > left_s:
        return None
    fresh: list[float] = []
    own_s, form = 0.0, _Form(cell) if cell.job.quantity == "hessian" else None
    for _ in range(CALLS if slowest <= cell.job.measure.budget_s else 1):
        with moved(cell.problem) as move:
            began = time.monotonic()
            if not _prepared(cell.problem):
                return None
            own_s = time.monotonic() - began
            if (slowest + own_s) * 2 * CALLS > left_s:
                return None
            yield CALL
            try:
                seen = clock.timed(cell.call, cell.device)
                value = number(agreement.plain(seen.result))
            except Exception as error:
                return _raised(cell, error)
            yield OWN
            fresh.append(seen.wall_s)
            exact = not agreement.is_estimate(seen.result)
            del seen
            if value == last and _truth_changed(cell, move, until):
                return _stale(cell)
            if form is not None and exact and len(fresh) == 1 and form.elsewhere(last, value):
                return _elsewhere(cell)
            last = value
    usual = statistics.median(times_s)
    if not _far(min(fresh), usual) or (min(fresh) + own_s) * 2 * PAIRS > left_s / 2:
        return None
    pairs = yield from _pairs(cell, usual)
    return _kept(cell, times_s, *pairs) if pairs is not None else None


def _far(time_s: float, usual_s: float) -> bool:
    return time_s > RATIO * usual_s + FLOOR_S


def _raised(cell: Cell, error: Exception) -> Fault:
    message = (
        f"{cell.job.target} raised when theta and the model's parameters had moved a little, in place, where the loss "
        f"and its gradient are finite: {torch_messages.explain(error)[1]}"
    )
    return {"status": "error", "message": message}


def _stale(cell: Cell) -> Fault:
    message = (
        f"{cell.job.target} returned the same result, to the last bit, when theta and the model's parameters had moved "
        "and the true result with them: what it returns is kept from an earlier call (a cache) or does not depend on "
        "its arguments, so neither its results nor its times can be used"
    )
    return {"status": "wrong", "message": message}


def _elsewhere(cell: Cell) -> Fault:
    message = (
        f"{cell.job.target} is right where it was checked, but did not follow the true result when theta and the "
        "model's parameters had moved a little, in place: what it returns is kept from an earlier call (a cache) or is "
        "computed at one point alone, so neither its results nor its times can be used"
    )
    return {"status": "wrong", "message": message}


class _Form:
    """The number s^T H t that `Witness` keeps of a Hessian, by double backward in float64."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._before = self._true()

    def elsewhere(self, before: float, now: float) -> bool:
        """Whether a result does not follow the true one from where it was checked to where theta is now.

        Only where the number of the checked result, `before`, is the true one to a tenth of the change is that asked:
        not where autograd is wrong, and not in half precision.
        """
        true = self._true()
        if self._before is None or true is None:
            return False
        change = abs(true - self._before)
        follows = abs(now - true) <= change / 2
        return abs(before - self._before) <= change / 10 and not follows

    def _true(self) -> float | None:
        theta = self._cell.problem.theta
        generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
        left, right = (signs((1, theta.numel()), generator, torch.float64, cpu)[0] for _ in range(2))
        try:
            exact = self._cell.problem.to(cpu, torch.float64)
            products, _ = of_hessian(replace(exact, theta=theta.detach().to(cpu, torch.float64)))
            return float(left @ products.one(right))
        except (RuntimeError, ValueError):  # no truth to be had there
            return None


def _kept(cell: Cell, times_s: list[float], first_s: float, second_s: float) -> Fault:
    message = (
        f"{cell.job.target} keeps its results (a cache): the timed calls took {statistics.median(times_s):.1e} s, but "
        f"{first_s:.1e} s at a point where it had not been, and {second_s:.1e} s when called there once more; so its "
        "times are not those of computing"
    )
    return {"status": "error", "message": message}


def _pairs(cell: Cell, usual_s: float) -> Steps:
    """Return the least times of a first and a second call at fresh points; None unless every first is far slower.

    Slower than the samples and than the fastest second call. Before both calls the same is done: the loss and its
    gradient. A machine under load would have to slow each of the first calls, but not each of the second ones.
    """
    firsts, seconds = [], []
    for _ in range(PAIRS):
        with moved(cell.problem):
            for times in (firsts, seconds):
                if not _prepared(cell.problem):
                    return None
                yield CALL
                times.append(clock.timed(cell.call, cell.device).wall_s)
                yield OWN
        if not _far(firsts[-1], usual_s):
            return None
    return (min(firsts), min(seconds)) if _far(min(firsts), min(seconds)) else None


def _prepared(problem: Problem) -> bool:
    """Whether the loss and its gradient can be had and are finite at theta."""
    try:
        theta = problem.theta.detach().clone().requires_grad_()
        value = problem.loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
    except RuntimeError:  # outside the loss's domain
        return False
    return math.isfinite(float(value.detach())) and bool(torch.isfinite(gradient).all())


@contextmanager
def moved(problem: Problem) -> Iterator[Tensor]:
    """Move theta and the model's parameters by random signs, and put them back bit by bit; gives the move (P,).

    The signs are not those of the job's seed, since a cache on disk would know the points of the process before.
    """
    theta, model = problem.theta, problem.model
    size = STEP * (float(theta.double().square().mean().sqrt()) or 1.0)
    anywhere = torch.Generator().manual_seed(secrets.randbelow(2**31))
    move = size * signs((theta.numel(),), anywhere, theta.dtype, theta.device)
    parameters = {} if model is None else {name: p for name, p in model.named_parameters() if p.requires_grad}
    saved, kept = theta.clone(), {name: p.detach().clone() for name, p in parameters.items()}
    try:
        with torch.no_grad():
            theta.add_(move)
            if model is not None:
                for name, value in ravel.ravel(model)[1](theta).items():
                    parameters[name].copy_(value)
        yield move
    finally:
        with torch.no_grad():
            theta.copy_(saved)
            for name, value in kept.items():
                parameters[name].copy_(value)


def _truth_changed(cell: Cell, move: Tensor, until: float) -> bool:
    """Whether what the method was asked for is another where theta has moved: true for no quadratic loss.

    Seen in a few products with the true matrix, those that can be had until `time.monotonic()` is `until`. Both
    autograd's and those of central differences must have changed: neither alone is right for every loss. Where the true
    values are zero, both are rounding, which differences magnify by one over their step.
    """
    exact, vectors = cell.problem.to("cpu", torch.float64), _looked_at(cell)
    points = [exact.theta - shift for shift in (move.double().cpu(), 0.0)]
    products_of = of_ggn if cell.job.quantity == "ggn" else of_hessian
    squares = torch.zeros(2, 2, dtype=torch.float64)  # of the change and of the products; by autograd, by differences
    try:
        ways = [products_of(replace(exact, theta=point)) for point in points]
        for vector in vectors.unbind(1):
            if time.monotonic() > until:
                break
            belongs = vector != 0 if cell.job.quantity in ("diagonal", "block_diagonal") else 1.0
            before, after = (
                torch.stack([products.one(vector), differences(DIFFERENCE)(vector)]) for products, differences in ways
            )
            squares += torch.stack([(belongs * (after - before)).square().sum(1), before.square().sum(1)])
    except (RuntimeError, ValueError):  # no truth to be had there
        return False
    enough = max(CHANGED, ROUNDINGS * torch.finfo(cell.problem.theta.dtype).eps)
    changes, sizes = squares.sqrt()
    return bool((changes > enough * sizes).all()) and bool(changes[0] > MAGNIFIED * changes[1])


def _looked_at(cell: Cell) -> Tensor:
    """Vectors (P, k) whose products show the quantity: a diagonal needs unit vectors, blocks one vector each."""
    count = cell.problem.theta.numel()
    if cell.vectors is not None:
        return cell.vectors[:, :COORDINATES].to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    if cell.job.quantity == "diagonal":
        chosen = torch.randperm(count, generator=generator)[:COORDINATES]
        units = torch.zeros(count, len(chosen), dtype=torch.float64)
        units[chosen, torch.arange(len(chosen))] = 1.0
        return units
    vector = signs((count,), generator, torch.float64, torch.device("cpu"))
    if cell.job.quantity == "block_diagonal":
        return torch.block_diag(*(part[:, None] for part in vector.split(list(cell.problem.sizes))))
    return vector[:, None]
