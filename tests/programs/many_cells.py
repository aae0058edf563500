"""What many short cells cost the process that runs a sweep: `python -m tests.programs.many_cells [CELLS...]`.

Sweeps of 10, 100 and 1,000 cells (by default) of a method that sleeps for 50 ms, called twice by each cell: 0.1 s of
measuring. Printed are, for each sweep, the median time from the end of one cell to the end of the next, less what the
cell's processes spent on building the problem and measuring, for all cells and for the last tenth of them; the time of
the report; and the resident memory of the sweep's main process (Linux): its peak until the last cell, and in all.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness import record

ROOT = Path(__file__).parent.parent.parent
SLEEP_S = 0.05
COUNTS = (10, 100, 1000)


def rest(loss: Any, theta: torch.Tensor) -> torch.Tensor:
    """A method that waits, and returns zeros (P, P)."""
    time.sleep(SLEEP_S)
    return theta.new_zeros(len(theta), len(theta))


def main(counts: list[int]) -> None:
    """Print a line for each sweep."""
    print("cells  overhead a cell (ms): median, of the last tenth  report (s)  main process (MiB): cells, report")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            print(_line(count, Path(folder) / "run"), flush=True)


def _line(count: int, output: Path) -> str:
    ends, peaks = [], [0.0]
    with subprocess.Popen(
        _command(count, output), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as sweep:
        assert sweep.stderr is not None
        for line in sweep.stderr:
            if line.partition(b"/")[0].isdigit():
                ends.append(time.monotonic())
                peaks.append(_peak_mib(sweep.pid) or peaks[-1])
            if len(ends) == count:
                break
        at_last_cell = peaks[-1]
        while sweep.poll() is None:
            peaks.append(_peak_mib(sweep.pid) or peaks[-1])
            time.sleep(0.05)
    report_s = time.monotonic() - ends[-1]
    worked_s = statistics.median(record.load(output)["worked_s"])
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    overhead, last = (1e3 * (statistics.median(part) - worked_s) for part in (gaps, gaps[-max(count // 10, 3) :]))
    return f"{count:5} {overhead:33.0f} {last:19.0f} {report_s:11.1f} {at_last_cell:26.0f} {peaks[-1]:7.0f}"


def _command(count: int, output: Path) -> list[str]:
    method = ["~method.compile", f"method._target_={__spec__.name}.rest", "problem=quadratic"]
    sampling = ["passes=[time]", "measure.budget_s=0", "measure.min_samples=1", "measure.max_samples=1"]
    return [sys.executable, "-m", "harness", "-m", *method, *sampling, f"seed=range({count})", f"output={output}"]


def _peak_mib(pid: int) -> float | None:
    """The peak of a process's resident memory; None once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peaks[0]) / 1024 if peaks else None


if __name__ == "__main__":
    main(list(map(int, sys.argv[1:])) or list(COUNTS))
