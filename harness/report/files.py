"""The files of a report: which there are, and in which order they are written."""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from harness import record
from harness.analysis.accuracy import accuracies
from harness.analysis.curves import Panel, panels
from harness.analysis.distances import comparable
from harness.analysis.history import kept
from harness.analysis.profiles import profile
from harness.analysis.ranking import FEW_SIZES, main_rankings
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.analysis.trend import trend
from harness.report import accuracy, coverage_table, csv, efficiency, markdown, provenance, versions
from harness.report import speedups as speedup_tables
from harness.report import trend as trend_text
from harness.report.figures import accuracy as accuracy_figures
from harness.report.figures import curves
from harness.report.figures.canvas import save
from harness.report.figures.coverage import coverage
from harness.report.figures.disagreement import PANELS, disagreement
from harness.report.figures.fronts import time_against_memory
from harness.report.figures.page_size import SCREEN, Medium
from harness.report.figures.profile import performance_profile
from harness.report.figures.ranking import ranking, sheets
from harness.report.figures.scaling import most, scalable, scaling
from harness.report.figures.speedup import speedup_against_size
from harness.report.figures.style import Style, styles
from harness.report.figures.trend import figure as trend_figure
from harness.report.growth import growth
from harness.report.latex.cells import cell_tables
from harness.report.latex.document import document
from harness.report.web.page import page
from harness.report.web.trend import html

TITLE_LETTERS = 60  # of a title in the name of a file


@contextmanager
def _records_uncollected() -> Iterator[None]:
    """In which the garbage collector leaves alone what is there already: one search of 10,000 records takes 0.4 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_records_uncollected()
def write(
    analysis: Analysis,
    out: Path,
    medium: Medium = SCREEN,
    baseline: str | None = None,
    memory_gb: float | None = None,
    two_column: bool = False,
    highlight: Sequence[str] = (),
) -> list[Path]:
    """Write index.html, the tables, the figures as PNG, PDF and SVG, and report.json into `out`; the files written.

    Of what there is too little to show, there is no file. report.json is written last: where it is missing, the report
    is not complete. Every file is drawn in a folder within `out` first: where that fails, what was in `out` is kept.

    Raises ValueError for a baseline or a highlighted method that no record has, and StorageError where `out` cannot be
    written, as on a full disk.
    """
    looks = styles(analysis, baseline, highlight)
    faster = None if baseline is None else speedups(analysis, baseline)
    texts = _texts(analysis, baseline, faster, memory_gb, two_column)
    drawn = _figures(analysis, looks, medium, baseline, faster)
    with record.storing(out):
        out.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".report-", dir=out)
    with folder as drafted:
        try:
            drafts = _drafts(analysis, texts, drawn, Path(drafted), baseline, looks)
        except record.StorageError as error:
            raise record.StorageError(error.errno, error.strerror, str(out)) from error
        with record.storing(out):
            (out / "report.json").unlink(missing_ok=True)
            written = [draft.replace(out / draft.name) for draft in drafts]
    options = [*medium.arguments]
    options += ["--baseline", baseline] if baseline else []
    options += [word for name in highlight for word in ("--highlight", name)]
    options += ["--memory_gb", repr(memory_gb)] if memory_gb else []
    options += ["--two-column"] if two_column else []
    frame = analysis.frame
    parts = {"disagreement": frame[frame["sketch"].notna()], "trend": kept(analysis)}
    record.write_json(provenance.provenance(frame, out, written, parts, options), out / "report.json")
    return [*written, out / "report.json"]


def _drafts(
    analysis: Analysis,
    texts: Mapping[str, str],
    drawn: Mapping[str, Figure],
    folder: Path,
    baseline: str | None,
    looks: Mapping[str, Style],
) -> list[Path]:
    """Write every file of a report but report.json into a folder; the files written."""
    written = []
    for name, text in texts.items():
        record.write_text(text, folder / name)
        written.append(folder / name)
    for name, figure in drawn.items():
        written += save(figure, folder / name)
    pictures = {name: (folder / f"{name}.svg").read_text(encoding="utf-8") for name in drawn}
    skipped = analysis.frame.attrs.get("skipped", ())
    record.write_text(page(analysis, pictures, skipped, baseline, looks), folder / "index.html")
    return [*written, folder / "index.html", *write_trend(analysis, folder)]


def write_trend(analysis: Analysis, out: Path) -> list[Path]:
    """Write trend.md, trend.html and the figure trend into `out`; the files written, none without enough nights."""
    seen = trend(analysis)
    if seen is None:
        return []
    for name, text in (("trend.md", trend_text.markdown(seen)), ("trend.html", html(seen))):
        record.write_text(text, out / name)
    return [out / "trend.md", out / "trend.html", *save(trend_figure(seen), out / "trend")]


def _texts(
    analysis: Analysis, baseline: str | None, faster: DataFrame | None, memory_gb: float | None, two_column: bool
) -> dict[str, str]:
    """File names and what is in them; `faster` has the speed-ups over the baseline where one was asked for."""
    texts = {
        "table.csv": csv.csv(analysis),
        "table.md": markdown.markdown(analysis, baseline),
        "table.tex": document(cell_tables(analysis), two_column),
    }
    if _problems(analysis) > 1:
        texts["coverage.md"] = coverage_table.markdown(analysis)
    over_versions = versions.markdown(analysis)
    if over_versions is not None:
        texts["versions.md"] = over_versions
    grown = growth(analysis, memory_gb)
    if grown:
        texts |= {"growth.md": grown.markdown(), "growth.tex": document(grown.tables(), two_column)}
    of_processes = efficiency.markdown(analysis)
    if of_processes is not None:
        texts["processes.md"] = of_processes
    estimated = accuracies(analysis)
    if estimated:
        texts["accuracy.md"] = accuracy.markdown(estimated, analysis)
        texts["accuracy.tex"] = document(accuracy.tables(estimated, analysis), two_column)
    if baseline is not None and faster is not None:
        texts["speedups.md"] = speedup_tables.markdown(faster, analysis, baseline)
        texts["speedups.tex"] = document([speedup_tables.speedup_table(faster, analysis, baseline)], two_column)
    return texts


def _figures(
    analysis: Analysis,
    looks: Mapping[str, Style],
    medium: Medium,
    baseline: str | None,
    faster: DataFrame | None,
) -> Mapping[str, Figure]:
    """Figures by name: of time where any was asked for, of memory where any is known, and so on."""
    drawn: dict[str, Figure] = {}
    passes = analysis.frame["passes"]
    timed = (passes.isna() | passes.fillna("").str.contains("time")).any()
    sized = analysis.frame["tensor_peak_bytes"].notna().any()
    if timed:
        found = main_rankings(analysis, baseline)
        drawn |= {name: ranking(shown, analysis, medium, len(found)) for name, shown in sheets(found).items()}
    every = panels(analysis)
    lines = [panel for panel in every if panel.sizes >= FEW_SIZES]
    if timed and lines:
        drawn |= _by_dtype("time_against_size", curves.time_against_size, lines, analysis, looks, medium)
    if timed and sized and lines:
        drawn |= _by_dtype("memory_against_size", curves.memory_against_size, lines, analysis, looks, medium)
    if timed and lines:
        drawn |= _by_dtype("error_against_size", curves.error_against_size, lines, analysis, looks, medium)
    if timed and sized:
        drawn |= _by_dtype("time_against_memory", time_against_memory, every, analysis, looks, medium)
    if timed:
        suited = scalable(lines)
        shown = suited[: most(len(suited))]
        names = _names("scaling", [panel.title for panel in shown])
        drawn |= {
            name: scaling(analysis, panel, medium, looks, len(suited)) for name, panel in zip(names, shown, strict=True)
        }
    drawn |= accuracy_figures.figures(accuracies(analysis), analysis, medium)
    if _problems(analysis) > 1:
        drawn["coverage"] = coverage(analysis, medium)
    shares = profile(analysis)
    if shares is not None:
        drawn["performance_profile"] = performance_profile(shares, analysis, medium, looks)
    if baseline is not None and faster is not None:
        drawn["speedup_against_size"] = speedup_against_size(faster, analysis, baseline, medium, looks)
    if _problems(analysis) <= PANELS and comparable(analysis):
        drawn["disagreement"] = disagreement(analysis, medium)
    return drawn


def _by_dtype(
    name: str,
    draw: Callable[[Analysis, Medium, Mapping[str, Style], Sequence[Panel]], Figure],
    shown: Sequence[Panel],
    analysis: Analysis,
    looks: Mapping[str, Style],
    medium: Medium,
) -> dict[str, Figure]:
    """A figure of these panels; for a paper one for each dtype, which its name ends with, where the panels differ."""
    dtypes = sorted({panel.dtype for panel in shown})
    if medium.style != "paper" or len(dtypes) < 2:
        return {name: draw(analysis, medium, looks, shown)}
    names = _names(name, dtypes)
    parts = [[panel for panel in shown if panel.dtype == dtype] for dtype in dtypes]
    return {own: draw(analysis, medium, looks, part) for own, part in zip(names, parts, strict=True)}


def _names(stem: str, titles: Sequence[str]) -> list[str]:
    """File names of figures of one kind: the stem alone for a single one, else with its title in plain letters."""
    if len(titles) == 1:
        return [stem]
    found: list[str] = []
    for title in titles:
        name = f"{stem}_{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')[:TITLE_LETTERS]}"
        found.append(name if name not in found else f"{name}_{len(found)}")
    return found


def _problems(analysis: Analysis) -> int:
    return analysis.frame["problem_name"].nunique()
