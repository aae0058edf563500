"""What is run of one method: a check in few parameters, times in more, and a check in all."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import record
from harness.advise import room
from harness.advise.advice import COARSE, ESTIMATE, SLOWER, Advice
from harness.advise.budgets import budgets, is_below
from harness.advise.expectation import FEWEST, expected, sizes
from harness.advise.room import OF_THE_WHOLE
from harness.advise.whole_truth import WholeTruth
from harness.job import METHOD_ARGUMENTS, Job
from harness.reproduce.source import ReproduceError, parameters
from harness.run.launcher import Launcher
from harness.text import duration

SCREEN = 0.25  # share of limit_s that a pass may take before a method is known to be fast
FAR = 20.0  # times the best: such a method is not measured further,
SLOW_S = 0.5  # if a call of it takes this long
WORTH = 5.0  # times the best: the time limit of a method that can only be run whole,
ENOUGH_S = 1.0  # expected time of a call from which on a method is not timed in more parameters
CHEAP_S = 0.5  # a call's time up to which a method of the network is checked whether or not it is among the best
LET_IN = "it estimates; precision=1e-2 lets estimates in that state an error of at most 1 %"
DIRECT_S = 1.5  # expected time of a pass up to which a method is timed in all parameters at once


class Trial:
    """Runs methods on one problem of `params` parameters (P), and remembers the fastest right one."""

    def __init__(
        self,
        launcher: Launcher,
        output: Path,
        params: int,
        memory_gb: float | None,
        has_reference: bool,
        precision: float | None = None,
    ) -> None:
        self.truth = WholeTruth(launcher, output / "problem")
        self._launcher = launcher
        self._output = output
        self._params = params
        self._memory_gb = memory_gb
        self._has_reference = has_reference  # in few parameters
        self._precision = precision  # relative error that an estimate may state
        self._best: dict[int, tuple[float, str]] = {}  # number of parameters -> least time, method
        self._cost_s: dict[str, float] = {}  # of the check in few parameters

    def asked(self, job: Job) -> Advice:
        """The advice with what the method asks for, or why that cannot be known."""
        with contextlib.suppress(ReproduceError):
            if job.code is None and job.interpreter is None:  # they would import another module of that name
                return self._new(job, parameters(job.target))
        seen = self._launcher.asks(job, self._output / "asked")
        if "asks" in seen:
            return self._new(job, seen["asks"])
        return replace(self._new(job, []), status=seen["status"], message=seen["message"])

    def cost(self, advice: Advice) -> float:
        """Seconds that the check in few parameters took, with the start of its process."""
        return self._cost_s.get(advice.method, 0.0)

    def checked(self, advice: Advice) -> Advice:
        """The advice after a check in few parameters."""
        if not self._has_reference:
            return advice
        size, limit_s = min(FEWEST, self._params), advice.job.limit_s * SCREEN
        seen = self._run(advice.job, size, "agreement", limit_s)
        self._cost_s[advice.method] = seen["worked_s"] or 0.0
        if seen["status"] == "timeout":
            return self._cut(advice, size, limit_s)
        return _judged(advice, seen, size)

    def extrapolated(self, advice: Advice) -> Advice:
        """The advice with time and peak, in all parameters or expected there."""
        job, limit_s = advice.job, advice.job.limit_s * SCREEN
        steps, times, cut_s = self._sizes(advice), [], None
        for size in steps:
            if len(times) > 1 and times[-1][1] * size / times[-1][0] > ENOUGH_S:
                break
            seen = self._run(job, size, "time", limit_s)
            if seen["status"] == "timeout":
                cut_s = limit_s
                break
            if seen["status"] != "ok":
                return _failed(advice, seen)
            if not seen["times_s"]:  # a first call may compile, which belongs to none of the others
                cut_s = limit_s
                break
            times.append((size, statistics.median(seen["times_s"])))
            slower = self._slower(advice, *times[-1])
            if slower is not None:
                return slower
            self._remember(advice, *times[-1])
        if not times:
            return self._cut(advice, steps[0], limit_s)
        time_s = expected(times, self._params)
        self._remember(advice, self._params, time_s)
        advice = replace(advice, time_s=time_s, timed=times[-1][0], cut_s=cut_s)
        return self._with_peak(advice, [size for size, _ in times[-2:]], limit_s)

    def whole(self, advice: Advice) -> Advice:
        """The advice on a method that is run in all parameters at once: timed, and checked if it is cheap."""
        job, params = advice.job, self._params
        refusal = room.refusal(job, params, self._memory_gb)
        if refusal is not None:
            return replace(advice, status="oom", message=refusal)
        best_s = self._best.get(params, (0.0, ""))[0]
        limit_s = min(job.limit_s, max(job.limit_s * SCREEN, WORTH * best_s))
        seen = self._run(job, params, "time", limit_s)
        if seen["status"] == "timeout":
            return self._cut(advice, params, limit_s)
        if seen["status"] != "ok":
            return _failed(advice, seen)
        if seen["times_s"]:
            time_s = statistics.median(seen["times_s"])
            slower = self._slower(advice, params, time_s)
            if slower is not None:
                return slower
            advice = replace(advice, time_s=time_s, timed=params)
        else:  # only the first call ended in time
            advice = replace(advice, time_s=seen["first_s"], timed=params, cut_s=limit_s)
        advice = self._with_peak(advice, [params], limit_s)
        if advice.time_s is not None and advice.time_s < CHEAP_S:
            advice = self.checked_whole(advice)
        if advice.time_s is not None and advice.whole:
            self._remember(advice, params, advice.time_s)
        return advice

    def estimated(self, advice: Advice) -> Advice:
        """The advice on an estimate, with the least budget whose stated error is within the precision.

        It is called with increasing budgets, then timed and checked with that one.
        """
        if self._precision is None:
            return replace(advice, status=ESTIMATE, message=LET_IN)
        job, reached = advice.job, ""
        for options in budgets(job.method_options, self._precision):
            tried = replace(job, method_options=options)
            seen = self._run(tried, self._params, "stated", job.limit_s)
            if seen["status"] == "timeout":
                message = f"not within precision={self._precision:g} after {job.limit_s:g} s{reached}"
                return replace(self._cut(advice, self._params, job.limit_s), message=message)
            if seen["status"] != "ok":
                if is_below(options, job.method_options):
                    continue
                return _failed(advice, seen)
            slower = self._slower(advice, self._params, seen["first_s"])
            if slower is not None:
                return replace(slower, message=f"{slower.message}{reached}")
            stated = seen["stated_error"]
            if stated is None or stated <= self._precision:
                return self.whole(replace(advice, job=tried, stated=stated, products=seen["products"]))
            reached = f"; it stated an error of {stated:.1e} with {seen['products']} products"
        return replace(advice, status=COARSE, message=f"above precision={self._precision:g}{reached}")

    def within(self, advice: Advice) -> Advice:
        """The advice, unless the result was seen to state an error above the precision, or one where none may be."""
        if advice.time_s is None or advice.stated is None:
            return advice
        refused = replace(advice, time_s=None, peak_bytes=None, cut_s=None)
        if self._precision is None:
            return replace(refused, status=ESTIMATE, message=LET_IN)
        if advice.stated > self._precision:
            message = f"states an error of {advice.stated:.1e}, above precision={self._precision:g}"
            return replace(refused, status=COARSE, message=message)
        return advice

    def checked_whole(self, advice: Advice) -> Advice:
        """The advice after a check in all parameters, where time and memory allow it; else, or at a timeout, as it is.

        The time limit counts for the reference too, so that a timeout says nothing against the method.
        """
        job = advice.job
        if advice.time_s is None or advice.time_s > job.limit_s or not room.fits(job, advice.peak_bytes):
            return advice
        if job.quantity in OF_THE_WHOLE and not self.truth.known(job):
            return advice
        seen = self._run(job, self._params, "agreement", job.limit_s)
        return advice if seen["status"] == "timeout" else _judged(advice, seen, self._params)

    def _new(self, job: Job, names: list[str]) -> Advice:
        asks = tuple(name for name in names if name in METHOD_ARGUMENTS)
        return Advice(job, asks, status="ok", message=None, params=self._params)

    def _run(self, job: Job, size: int, part: str, limit_s: float) -> dict[str, Any]:
        """The record of one pass in `size` parameters."""
        subset = job.subset if size == self._params else size
        return record.read(
            self._launcher.run(replace(job, subset=subset, passes=(part,), limit_s=limit_s), self._output)
        )

    def _sizes(self, advice: Advice) -> list[int]:
        """Numbers of parameters to time the method in: all at once, where the check was cheap."""
        steps = sizes(self._params)
        share = self._params / steps[0]
        known = advice.method in self._cost_s
        return steps[-1:] if known and self.cost(advice) * share < DIRECT_S else steps

    def _slower(self, advice: Advice, size: int, time_s: float) -> Advice | None:
        """The advice that a method is far slower than the best in as many or more parameters; None where it is not."""
        known = [best for parameters, best in self._best.items() if parameters >= size]
        if not known:
            return None
        best_s, best = min(known)
        if time_s <= max(SLOW_S, FAR * best_s):
            return None
        message = f"{duration(time_s)} for {size} parameters, {time_s / best_s:.0f} x {best}"
        return replace(advice, status=SLOWER, message=message, timed=size)

    def _remember(self, advice: Advice, size: int, time_s: float) -> None:
        """Keep the time of a right method, if it is the least in as many parameters."""
        self._best[size] = min(self._best.get(size, (math.inf, "")), (time_s, advice.method))

    def _with_peak(self, advice: Advice, at: list[int], limit_s: float) -> Advice:
        """The advice with the peak of tensor memory, measured in `at` parameters; the result's size apart."""
        peaks: list[tuple[int, float]] = []
        for size in at:
            seen = self._run(advice.job, size, "peak", limit_s)
            if seen["status"] != "ok":
                return _failed(advice, seen)
            if seen["tensor_peak_bytes"] is not None:
                peaks.append((size, seen["tensor_peak_bytes"] - room.output_bytes(advice.job, size)))
        if not peaks:
            return advice
        return replace(advice, peak_bytes=expected(peaks, self._params) + room.output_bytes(advice.job, self._params))

    def _cut(self, advice: Advice, size: int, limit_s: float) -> Advice:
        """The advice that a method was not finished within a time limit."""
        message = f"not finished within {limit_s:g} s for {size} of {self._params} parameters"
        return replace(advice, status="timeout", message=message, cut_s=limit_s)


def _failed(advice: Advice, seen: Mapping[str, Any]) -> Advice:
    return replace(advice, status=seen["status"], message=seen["message"], time_s=None, peak_bytes=None, cut_s=None)


def _judged(advice: Advice, seen: Mapping[str, Any], size: int) -> Advice:
    if seen["status"] != "ok":
        return replace(_failed(advice, seen), error=seen["relative_error"])
    stated = seen["standard_error"] if seen["stated_error"] is None else seen["stated_error"]
    if advice.stated is None and stated is not None:
        advice = replace(advice, stated=stated, products=seen["products"])
    return replace(advice, message=seen["message"], error=seen["relative_error"], checked=size)
