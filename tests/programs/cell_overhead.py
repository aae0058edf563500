"""What a warm cell costs beside building the problem and measuring: `python -m tests.programs.cell_overhead`.

Twenty cells of a method that does nothing on a problem of two parameters. Overhead is the whole cell less what its four
passes spent on building the problem and measuring: forks, set-up, collection and the record.
"""

import dataclasses
import statistics
import tempfile
from pathlib import Path

from harness import record
from harness.run.launcher import Launcher
from tests.conftest import JOB

CELLS = 20


def main() -> None:
    """Print the medians over the cells."""
    job = dataclasses.replace(
        JOB,
        problem_target="tests.faulty.linear_loss",
        problem_options={},
        target="tests.faulty.no_operation",
        measure=dataclasses.replace(JOB.measure, budget_s=0.0, min_samples=1, max_samples=1),
    )
    with tempfile.TemporaryDirectory() as folder, Launcher() as launcher:
        cells = [record.read(launcher.run(job, Path(folder))) for _ in range(CELLS + 1)][
            1:
        ]  # the first starts a server
    whole = statistics.median(cell["cell_s"] for cell in cells)
    overhead = statistics.median(cell["cell_s"] - cell["worked_s"] for cell in cells)
    print(f"overhead {overhead * 1e3:.0f} ms of {whole * 1e3:.0f} ms a no-op cell (median of {CELLS})")


if __name__ == "__main__":
    main()
