"""What a warm cell costs beside building the problem and measuring: `python -m tests.overhead`.

Twenty cells of a method that does nothing on a problem of two parameters, one sample each, so that next to nothing is
built or measured; their median time, fork, set-up, collection and record of all four passes included.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from harness.launch import Launcher
from tests.conftest import JOB

CELLS = 20


def main() -> None:
    """Print the median over the cells, and the time that the first, cold one took."""
    job = dataclasses.replace(
        JOB,
        problem_target="tests.faulty.linear_loss",
        problem_options={},
        target="tests.faulty.no_operation",
        measure=dataclasses.replace(JOB.measure, budget_s=0.0, min_samples=1, max_samples=1),
    )
    times = []
    with tempfile.TemporaryDirectory() as folder, Launcher() as launcher:
        for _ in range(CELLS + 1):
            start = time.perf_counter()
            launcher.run(job, Path(folder))
            times.append(time.perf_counter() - start)
    print(f"a no-op cell: {statistics.median(times[1:]) * 1e3:.0f} ms (median of {CELLS}); the first: {times[0]:.1f} s")


if __name__ == "__main__":
    main()
