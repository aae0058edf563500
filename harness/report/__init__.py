"""Tables and figures from records: for the terminal, for a notebook and for a paper.

`terminal` prints, `write` makes files, and each figure is a function from a frame of `harness.record.load` to a
matplotlib Figure: `time_against_size`, `memory_against_size`, `error_against_size`, `time_against_memory`, `coverage`,
`disagreement`, `performance_profile`, `speedup_against_size`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from harness import record
from harness.analysis.table import plain
from harness.report.figures.page_size import SCREEN, STYLES, Medium, chosen, inches
from harness.report.tables import csv, markdown, readable, terminal

if TYPE_CHECKING:
    from harness.report.figures.coverage import coverage
    from harness.report.figures.curves import (
        error_against_size,
        memory_against_size,
        time_against_memory,
        time_against_size,
    )
    from harness.report.figures.disagreement import disagreement
    from harness.report.figures.profile import performance_profile
    from harness.report.speedups import speedup_against_size

__all__ = [
    "coverage",
    "disagreement",
    "error_against_size",
    "main",
    "memory_against_size",
    "performance_profile",
    "readable",
    "speedup_against_size",
    "terminal",
    "time_against_memory",
    "time_against_size",
    "write",
]

FIGURES = ("time_against_size", "memory_against_size", "error_against_size", "time_against_memory")
STATUS = """Exit status: 0; 1 where a file is no record that can be read, which is named, and the rest is reported; 2
where no record can be read, nothing can be written or an argument is wrong."""


def __getattr__(name: str) -> Any:
    """A figure's function; seaborn, which takes a second or two to import, is only imported for one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.report import speedups
    from harness.report.figures import coverage, curves, disagreement, profile

    elsewhere = {
        "coverage": coverage,
        "disagreement": disagreement,
        "performance_profile": profile,
        "speedup_against_size": speedups,
    }
    return getattr(elsewhere.get(name, curves), name)


def write(
    frame: DataFrame, out: Path, medium: Medium = SCREEN, baseline: str | None = None, memory_gb: float | None = None
) -> list[Path]:
    """Write index.html, table.csv, .md and .tex, the figures as PNG, PDF and SVG, and report.json; the files written.

    The figures of time where any was asked for, and of memory where any is known; coverage.md and its figure where
    there are several problems, and where these are few the distances between results; growth.md and .tex, and the
    performance profile, where there are sizes and cells enough; speedups.md, .tex and their figure over a method
    `baseline`; where there are many nights, their trend. Raises ValueError for a baseline that no row has, before
    anything is written. report.json is the last file: where it is not there, the report is not whole.
    """
    from harness.analysis import history
    from harness.analysis.coverage import table as coverage_table
    from harness.report import growth, latex, provenance, speedups, trend
    from harness.report.figures import coverage, curves, disagreement, profile
    from harness.report.web import page

    texts = {"table.csv": csv(frame), "table.md": markdown(frame), "table.tex": latex.latex(frame)}
    timed = frame["passes"].isna() | frame["passes"].fillna("").str.contains("time")
    sized = frame["tensor_peak_bytes"].notna().any()
    drawn = {
        name: getattr(curves, name)(frame, medium)
        for name in FIGURES
        if timed.any() and (sized or "memory" not in name)
    }
    if frame["problem_name"].nunique() > 1:
        texts["coverage.md"] = coverage_table(frame)
        drawn["coverage"] = coverage.coverage(frame, medium)
    if grown := growth.growth(frame, memory_gb):
        texts |= {"growth.md": grown.markdown(), "growth.tex": grown.latex()}
    if profile.enough(frame):
        drawn["performance_profile"] = profile.performance_profile(frame, medium)
    if baseline is not None:
        found = speedups.speedups(frame, baseline)
        texts |= {
            "speedups.md": speedups.markdown(found, frame, baseline),
            "speedups.tex": speedups.tables(found, frame, baseline),
        }
        drawn["speedup_against_size"] = speedups.speedup_against_size(frame, baseline, medium)
    if frame["problem_name"].nunique() <= disagreement.PANELS and disagreement.comparable(frame):
        drawn["disagreement"] = disagreement.disagreement(frame, medium)

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").unlink(missing_ok=True)
    written = []
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        written.append(out / name)
    for name, figure in drawn.items():
        written += curves.save(figure, out / name)
    pictures = {name: (out / f"{name}.svg").read_text(encoding="utf-8") for name in drawn}
    (out / "index.html").write_text(page.page(frame, pictures, frame.attrs.get("skipped", ())), encoding="utf-8")
    written += [out / "index.html", *trend.write(frame, out)]
    asked = [
        *medium.arguments,
        *(["--baseline", baseline] if baseline else []),
        *(["--memory_gb", repr(memory_gb)] if memory_gb else []),
    ]
    parts = {"disagreement": frame[frame["sketch"].notna()], "trend": history.kept(frame)}
    record.write_json(provenance.provenance(frame, out, written, parts, asked), out / "report.json")
    return [*written, out / "report.json"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of the named runs and, with --out, write the report; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Tables and figures from records.", epilog=STATUS
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, a record.json or a baseline (*.jsonl)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report here")
    parser.add_argument("--style", choices=STYLES, help="of the figures: text and lines for a paper or a talk")
    parser.add_argument("--width", type=inches, help="of the figures, such as 8.5cm or 3.3in (alone: of a paper's)")
    parser.add_argument("--baseline", metavar="METHOD", help="tell the speed-up of all others over this method")
    parser.add_argument("--memory_gb", type=gigabytes, metavar="GB", help="tell the largest P that fits into so much")
    options = parser.parse_args(arguments)
    if not all(options.runs) or options.out == Path():
        parser.error("RUN and DIR are paths; an empty one was given (the current directory is .)")
    if options.out is None and (options.baseline or options.memory_gb or options.style or options.width):
        parser.error("--baseline, --memory_gb, --style and --width are of the files that --out DIR writes; give it too")
    try:
        frame = record.load(*options.runs)
        for skipped in frame.attrs["skipped"]:
            print(f"harness.report: skipped {plain(skipped)}", file=sys.stderr)
        terminal(frame)
        medium = chosen(options.style, options.width)
        asked = options.baseline, options.memory_gb
        for path in write(frame, options.out, medium, *asked) if options.out else []:
            print(path)
    except (record.RecordError, OSError, ValueError) as error:
        print(f"harness.report: {plain(error)}", file=sys.stderr)
        return 2
    return 1 if frame.attrs["skipped"] else 0


def gigabytes(text: str) -> float:
    """A size of memory."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a size in GB above 0")
    return float(text)
