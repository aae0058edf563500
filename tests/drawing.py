"""Every figure by its name, drawn from a frame of records."""

from harness.analysis.profiles import profile
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.report.figures import curves
from harness.report.figures.coverage import coverage
from harness.report.figures.disagreement import disagreement
from harness.report.figures.page_size import SCREEN
from harness.report.figures.profile import performance_profile
from harness.report.figures.speedup import speedup_against_size

AGAINST = ("time_against_size", "memory_against_size", "error_against_size", "time_against_memory")


def drawn(name, frame, medium=SCREEN, baseline="base"):
    """The figure of that name."""
    analysis = Analysis(frame)
    if name == "performance_profile":
        return performance_profile(profile(analysis), analysis, medium)
    if name == "speedup_against_size":
        return speedup_against_size(speedups(analysis, baseline), analysis, baseline, medium)
    figure = {"coverage": coverage, "disagreement": disagreement}.get(name) or getattr(curves, name)
    return figure(analysis, medium)
