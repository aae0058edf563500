"""`python -m harness.advise problem=... quantity=hessian device=cpu memory_gb=8`: which method for this problem.

A method of loss and theta is measured on the problem itself, but in few of its parameters (`subset`): each column of
that small Hessian costs what one of the whole costs. Time and memory are extrapolated along a line to the problem's own
number of parameters; the output itself grows with its square. A method that asks for the network is run whole, within
limit_s: what it does depends on the layers, which a subset hides. The best of all are then run whole once more and
judged, where by their expected time and memory they can be: what fails there is not recommended.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from harness import sweep
from harness.__main__ import CONF, extend_hydra
from harness.advise.expectation import Advice, expect, judged_whole
from harness.job import Job
from harness.run.launcher import Launcher
from harness.text import duration, significant

TOP = 5  # methods of the list that are judged in all parameters
LIMIT_S, BUDGET_S = 20, 0.3  # of a pass and of its samples, where the overrides say nothing else


def advise(overrides: Sequence[str], output: Path, memory_gb: float | None = None) -> list[Advice]:
    """Measure the methods that the overrides choose, or all that are not compiled; the right ones first, by their time.

    Records are left in `output`. Raises JobError or Hydra's errors where the overrides cannot be composed.
    """
    return ranked(jobs(overrides), output, memory_gb)


def ranked(chosen: Sequence[Job], output: Path, memory_gb: float | None = None) -> list[Advice]:
    """The advice on each job, the best first, what does not fit after what does: measured, ranked, judged at the top.

    What fails in all parameters falls to the end, and the next one is judged, until the first TOP are those that could
    be, and were right, or cannot be afforded.
    """
    with Launcher() as launcher, Progress(console=Console(stderr=True), transient=True) as progress:
        found = [
            (expect(launcher, job, output, memory_gb), job) for job in progress.track(chosen, description="measuring")
        ]
        progress.add_task("judging the first of them whole", total=None)
        tried: set[int] = set()
        while True:
            order = sorted(range(len(found)), key=lambda place: _rank(found[place][0], memory_gb))
            left = [place for place in order[:TOP] if place not in tried and _is_candidate(found[place][0], memory_gb)]
            if not left:
                return [found[place][0] for place in order]
            tried.add(left[0])
            way, job = found[left[0]]
            found[left[0]] = judged_whole(launcher, way, job, output), job


def _rank(way: Advice, memory_gb: float | None) -> tuple[bool, bool, float]:
    return way.status != "ok", _too_large(way, memory_gb), math.inf if way.time_s is None else way.time_s


def _is_candidate(way: Advice, memory_gb: float | None) -> bool:
    return way.time_s is not None and not way.whole and not _too_large(way, memory_gb)


def jobs(overrides: Sequence[str]) -> list[Job]:
    """A job for each method that the overrides choose: `method=a,b`, or without one all that are not compiled."""
    extend_hydra()
    named = [entry.removeprefix("method=").split(",") for entry in overrides if entry.startswith("method=")]
    rest = [entry for entry in overrides if not entry.startswith("method=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = named[0] if named else GlobalHydra.instance().config_loader().get_group_options("method")
        configs = [compose("config", [*rest, f"method={name}"], return_hydra_config=True) for name in names]
        found = [sweep.cell_of(config).job for config in configs]
    return found if named else [job for job in found if not job.method_options.get("compile")]


def show(ways: Sequence[Advice], memory_gb: float | None, console: Console) -> None:
    """Print the methods, the best on top; those that do not fit into memory, or failed, below the table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "time", "peak MB", "error", "judged"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    table.add_column("code", overflow="fold")
    fits = [way for way in ways if way.time_s is not None and not _too_large(way, memory_gb)]
    for way in fits:
        table.add_row(
            way.method, duration(way.time_s or 0.0), _megabytes(way), _error(way), _judged(way), Text(way.call)
        )
    console.print(table)
    for way in ways:
        if way.time_s is not None and _too_large(way, memory_gb):
            console.print(Text(f"{way.method}: {_megabytes(way)} MB are more than memory_gb={memory_gb:g}"))
    for way in ways:
        if way.time_s is None:
            console.print(Text(f"{way.method}: {way.status}, {way.message}"), no_wrap=True, overflow="ellipsis")


def _too_large(way: Advice, memory_gb: float | None) -> bool:
    return memory_gb is not None and way.peak_bytes is not None and way.peak_bytes > memory_gb * 1e9


def _megabytes(way: Advice) -> str:
    return "?" if way.peak_bytes is None else significant(way.peak_bytes / 1e6)


def _judged(way: Advice) -> str:
    """In how many parameters."""
    return "whole" if way.whole else f"{way.judged} of {way.params}"


def _error(way: Advice) -> str:
    return "?" if way.error is None else f"{way.error:.0e}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what to expect of every method; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.advise", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="KEY=VALUE",
        help="as of python -m harness; memory_gb=N leaves out what does not fit",
    )
    given = list(parser.parse_args(arguments).overrides)
    limits = [entry.removeprefix("memory_gb=") for entry in given if entry.startswith("memory_gb=")]
    try:
        memory_gb = float(limits[-1]) if limits else None
        if memory_gb is not None and not memory_gb > 0:
            raise ValueError(f"memory_gb={limits[-1]} must be a positive number of gigabytes")
        overrides = [entry for entry in given if not entry.startswith("memory_gb=")]
        with tempfile.TemporaryDirectory() as output:
            ways = advise([f"limit_s={LIMIT_S}", f"measure.budget_s={BUDGET_S}", *overrides], Path(output), memory_gb)
    except ValueError as error:
        print(f"harness.advise: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"harness.advise: {error}", file=sys.stderr)
        return 2
    show(ways, memory_gb, Console())
    return 0 if any(way.time_s is not None and not _too_large(way, memory_gb) for way in ways) else 1
