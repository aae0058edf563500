"""How good the advice is: what `harness.advise` expects of a method, beside what a run of the whole then takes.

`python -m tests.programs.advice_quality` prints a line for each method of each problem, and the share of them within
2x in time and 1.25x in tensor peak.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import record
from harness.advise.command import jobs
from harness.advise.survey import survey
from harness.run.launcher import Launcher

METHODS = (
    "create_graph_rows,batched_rows,autograd_functional_vectorized,func_hessian,jacfwd_grad,vmap_hvp,vmap_hvp_reverse"
)
PROBLEMS = [
    ["problem=mlp_2000", f"method={METHODS}"],
    ["problem=mlp_5000", f"method={METHODS}"],
    ["problem=cnn_2000", f"method={METHODS}"],
    ["problem=transformer_2000", f"method={METHODS},curvlinops"],
    ["problem=mlp_5000", "quantity=diagonal", "method=create_graph_rows,vmap_hvp,batched_rows"],
    ["problem=mlp_5000", "quantity=hvp", "method=create_graph_rows,vmap_hvp"],
]
SETTINGS = ["threads=2", "allocator=tuned", "limit_s=60", "measure.budget_s=0.3"]
TIME, PEAK = 2.0, 1.25  # factors within which the advice counts as good


def ratios(overrides: Sequence[str], folder: Path) -> Iterator[tuple[float, float]]:
    """What was expected over what was seen, in time and in tensor peak, of each method that was timed."""
    chosen = jobs([*SETTINGS, *overrides])
    found = survey(chosen, folder / "advice")
    with Launcher() as launcher:
        for advice in found.advice:
            name = f"{overrides[0]} {advice.job.quantity} {advice.method}"
            if advice.time_s is None:
                print(f"{name}: {advice.status}, {advice.message}")
                continue
            whole = dataclasses.replace(advice.job, passes=("time", "exact"))
            seen = record.load(launcher.run(whole, folder / "whole")).iloc[0]
            time = advice.time_s / seen["median_s"]
            peak = (advice.peak_bytes or 0.0) / seen["tensor_peak_bytes"]
            print(
                f"{name}: expected over seen {time:.2f} in time ({seen['median_s']:.3g} s), {peak:.2f} in tensor peak",
                flush=True,
            )
            yield time, peak


def main() -> None:
    """Survey every problem, and compare."""
    found: list[tuple[float, float]] = []
    for overrides in PROBLEMS:
        with tempfile.TemporaryDirectory() as folder:
            found += ratios(overrides, Path(folder))
    good = sum(1 / TIME <= time <= TIME and 1 / PEAK <= peak <= PEAK for time, peak in found)
    print(f"{len(found)} methods: {good / len(found):.0%} within {TIME:g}x in time and {PEAK:g}x in tensor peak")


if __name__ == "__main__":
    main()
