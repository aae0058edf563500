"""Every figure by its name, drawn from a frame of records, and what is seen in a figure."""

from matplotlib.colors import to_rgb
from matplotlib.text import Annotation

from harness.analysis.curves import panels
from harness.analysis.profiles import profile
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.report.figures import curves
from harness.report.figures.coverage import coverage
from harness.report.figures.disagreement import disagreement
from harness.report.figures.fronts import time_against_memory
from harness.report.figures.page_size import SCREEN
from harness.report.figures.profile import performance_profile
from harness.report.figures.scaling import scalable, scaling
from harness.report.figures.speedup import speedup_against_size
from harness.report.figures.style import styles

AGAINST = ("time_against_size", "memory_against_size", "error_against_size", "time_against_memory")


def drawn(name, frame, medium=SCREEN, baseline="base"):
    """The figure of that name."""
    analysis = Analysis(frame)
    if name == "performance_profile":
        return performance_profile(profile(analysis), analysis, medium)
    if name == "speedup_against_size":
        return speedup_against_size(speedups(analysis, baseline), analysis, baseline, medium)
    if name == "scaling":
        return scaling(analysis, scalable(panels(analysis))[0], medium)
    others = {"coverage": coverage, "disagreement": disagreement, "time_against_memory": time_against_memory}
    figure = others.get(name) or getattr(curves, name)
    return figure(analysis, medium)


def lines_of(figure, frame, panel=0):
    """Label -> (x, y) of its line in a panel, found by its colour and marker; of methods in colour."""
    known = styles(Analysis(frame)).items()
    looks = {(to_rgb(look.colour), look.marker): label for label, look in known if look.emphasised}
    found = {}
    for line in figure.axes[panel].lines:
        key = (to_rgb(line.get_color()), line.get_marker())
        if key in looks and line.get_clip_on():
            found[looks[key]] = (line.get_xdata(), line.get_ydata())
    return found


def names(figure, panel=0):
    """The texts beside a panel's lines."""
    return [text.get_text() for text in figure.axes[panel].texts if isinstance(text, Annotation)]


def above(figure, panel=0):
    """The texts of what failed in a panel."""
    return [text.get_text() for text in figure.axes[panel].texts if not isinstance(text, Annotation)]


def caption_of(figure):
    """The small text below a figure, in one line."""
    return figure.get_supxlabel().replace("\n", " ")
