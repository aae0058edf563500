"""Whether the timed calls computed their results: calls at points where the method has not been, after the samples.

A method may keep results: by the identity of its arguments, by a hash of them, in memory or on disk. So theta and the
network's parameters are moved together, in place (`harness.truth.moved_point`), and the method is called there.

- A result that is the same to the last bit, where the true one has changed, is stale: the method's result is wrong
  anywhere but where it was first called.
- A Hessian that does not follow the true one is wrong there. One number of it, s^T H t with random signs s and t, is
  compared with a product of double backward in float64 (`harness.truth.true_change`).
- Calls that take far longer than the timed ones, and far longer than a second call at the same point, show that the
  timed calls looked up what they returned.

Some caches are not found:

- results that are kept by the identity of theta alone, where the true ones are constant in theta;
- a cache that saves less than two thirds of a call or less than FLOOR_S;
- a cache that computes again only in a new process;
- any cache of a method whose calls take longer than LONGEST_S, or for which the time limit leaves no room.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from typing import Any

from harness.measure import clock
from harness.problems import torch_messages
from harness.problems.binding import BoundMethod
from harness.truth.moved_point import has_gradient, moved
from harness.truth.result_recorder import number
from harness.truth.results import is_estimate, plain
from harness.truth.timed_results import FRESH_CALL
from harness.truth.true_change import TrueForm, true_result_changed

CALLS = 3  # at as many points, of which the fastest counts
PAIRS = 7  # further points, at all of which a suspicion of the times must hold
RATIO = 3.0  # a call that takes this many times as long is far slower,
FLOOR_S = 1e-4  # if it is slower by this at least: less may be memory that the processor's caches have lost
LONGEST_S = 20.0  # calls that take longer are not made again
# What the launcher reads where the time limit strikes: was the method called, or did the harness work itself?
METHOD_RUNS, HARNESS_RUNS = {"running": FRESH_CALL}, {"running": None}

Fault = dict[str, Any]  # `status` and `message` of a record
# Yields METHOD_RUNS before each call of the method, HARNESS_RUNS after it.
Steps = Generator[dict[str, Any], None, Any]


def fault(bound: BoundMethod, times_s: list[float], last: float | None, left_s: float) -> Steps:
    """Return `status` and `message` where the timed calls are at fault, else None.

    - `times_s` are the samples.
    - `last` is the number of the last result (`ResultRecorder.last`).
    - `left_s` is what is left of the pass's time limit.

    At a point where the loss or its gradient is not finite the method is not called. The generator yields METHOD_RUNS
    and HARNESS_RUNS, so that only an unfinished call of the method speaks against it.
    """
    slowest = max(times_s)
    own_work_until = time.monotonic() + left_s / 2
    if last is None or slowest > LONGEST_S or slowest * 2 * CALLS > left_s:
        return None
    fresh: list[float] = []
    own_s = 0.0
    of_matrix = bound.job.quantity == "hessian" and bound.problem.points is None
    form = TrueForm(bound.problem) if of_matrix else None
    for _ in range(CALLS if slowest <= bound.job.measure.budget_s else 1):
        with moved(bound.problem) as move:
            began = time.monotonic()
            if not has_gradient(bound.problem):
                return None
            own_s = time.monotonic() - began
            if (slowest + own_s) * 2 * CALLS > left_s:
                return None
            yield METHOD_RUNS
            try:
                seen = clock.timed(bound.call, bound.device)
                value = number(plain(seen.result))
            except Exception as error:
                return _raised(bound, error)
            yield HARNESS_RUNS
            fresh.append(seen.wall_s)
            exact = not is_estimate(seen.result)
            del seen
            if value == last and true_result_changed(bound, move, own_work_until):
                return _stale(bound)
            if form is not None and exact and len(fresh) == 1 and form.was_left(last, value):
                return _right_at_one_point(bound)
            last = value
    usual = statistics.median(times_s)
    if not _far_slower(min(fresh), usual) or (min(fresh) + own_s) * 2 * PAIRS > left_s / 2:
        return None
    pairs = yield from _time_pairs(bound, usual)
    return None if pairs is None else _cached(bound, times_s, *pairs)


def _far_slower(time_s: float, usual_s: float) -> bool:
    return time_s > RATIO * usual_s + FLOOR_S


def _time_pairs(bound: BoundMethod, usual_s: float) -> Steps:
    """Return the least times of a first and a second call at fresh points; None unless every first is far slower.

    A first call must be far slower than the samples and than the fastest second call. Before both calls the harness
    does the same: it computes the loss and its gradient. So a machine under load would have to slow each of the first
    calls, but none of the second ones.
    """
    firsts, seconds = [], []
    for _ in range(PAIRS):
        with moved(bound.problem):
            for times in (firsts, seconds):
                if not has_gradient(bound.problem):
                    return None
                yield METHOD_RUNS
                times.append(clock.timed(bound.call, bound.device).wall_s)
                yield HARNESS_RUNS
        if not _far_slower(firsts[-1], usual_s):
            return None
    return (min(firsts), min(seconds)) if _far_slower(min(firsts), min(seconds)) else None


def _raised(bound: BoundMethod, error: Exception) -> Fault:
    message = (
        f"{bound.job.target} raised when theta and the model's parameters had moved a little, in place, where the loss "
        f"and its gradient are finite: {torch_messages.explain(error)[1]}"
    )
    return {"status": "error", "message": message}


def _stale(bound: BoundMethod) -> Fault:
    message = (
        f"{bound.job.target} returned the same result, to the last bit, when theta and the model's parameters had "
        "moved and the true result with them: what it returns is kept from an earlier call (a cache) or does not "
        "depend on its arguments, so neither its results nor its times can be used"
    )
    return {"status": "wrong", "message": message}


def _right_at_one_point(bound: BoundMethod) -> Fault:
    message = (
        f"{bound.job.target} is right where it was checked, but did not follow the true result when theta and the "
        "model's parameters had moved a little, in place: what it returns is kept from an earlier call (a cache) or is "
        "computed at one point alone, so neither its results nor its times can be used"
    )
    return {"status": "wrong", "message": message}


def _cached(bound: BoundMethod, times_s: list[float], first_s: float, second_s: float) -> Fault:
    message = (
        f"{bound.job.target} keeps its results (a cache): the timed calls took {statistics.median(times_s):.1e} s, but "
        f"{first_s:.1e} s at a point where it had not been, and {second_s:.1e} s when called there once more; so its "
        "times are not those of computing"
    )
    return {"status": "error", "message": message}
