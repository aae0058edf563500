"""How good the advice is: what `harness.advise` expects of a way, beside what the whole cell then takes.

`python -m tests.advised` prints a line a case and the shares within 2x in time and 1.25x in tensor peak.
"""

import dataclasses
import tempfile
from pathlib import Path

from harness import advise, record
from harness.run.launcher import Launcher

WAYS = (
    "create_graph_rows,batched_rows,autograd_functional_vectorized,func_hessian,jacfwd_grad,vmap_hvp,vmap_hvp_reverse"
)
ASKED = [
    ["problem=mlp_2000", f"method={WAYS}"],
    ["problem=mlp_5000", f"method={WAYS}"],
    ["problem=cnn_2000", f"method={WAYS}"],
    ["problem=transformer_2000", f"method={WAYS},curvlinops"],
    ["problem=mlp_5000", "quantity=diagonal", "method=create_graph_rows,vmap_hvp,batched_rows"],
    ["problem=mlp_5000", "quantity=hvp", "method=create_graph_rows,vmap_hvp"],
]
SETTINGS = ["threads=2", "allocator=tuned", "limit_s=60", "measure.budget_s=0.3"]


def main() -> None:
    """Ask, run, compare."""
    times, peaks = [], []
    for overrides in ASKED:
        with tempfile.TemporaryDirectory() as folder:
            ways = {way.method: way for way in advise.advise([*SETTINGS, *overrides], Path(folder) / "advice")}
            with Launcher() as launcher:
                for job in advise.jobs([*SETTINGS, *overrides]):
                    way = ways[job.method]
                    if way.time_s is None:
                        print(f"{overrides[0]} {job.quantity} {job.method}: {way.status}, {way.message}")
                        continue
                    whole = dataclasses.replace(job, passes=("time", "exact"))
                    seen = record.load(launcher.run(whole, Path(folder) / "whole")).iloc[0]
                    time, peak = way.time_s / seen["median_s"], (way.peak_bytes or 0.0) / seen["tensor_peak_bytes"]
                    times.append(max(time, 1 / time))
                    peaks.append(max(peak, 1 / peak))
                    print(
                        f"{overrides[0]} {job.quantity} {job.method}: expected over seen {time:.2f} in time "
                        f"({seen['median_s']:.3g} s), {peak:.2f} in tensor peak",
                        flush=True,
                    )
    both = sum(time <= 2 and peak <= 1.25 for time, peak in zip(times, peaks, strict=True))
    print(f"{len(times)} cases: {both / len(times):.0%} within 2x in time and 1.25x in tensor peak")


if __name__ == "__main__":
    main()
