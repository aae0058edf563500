"""Figures for a paper and for a talk: as wide as was asked, with text that can be read and that nothing covers."""

import argparse
import itertools
import re

import pytest
from matplotlib.text import Text

from harness.analysis.table import Analysis
from harness.report.figures.canvas import save
from harness.report.figures.curves import time_against_size
from harness.report.figures.page_size import chosen, inches
from tests.drawing import drawn
from tests.test_report import METHODS, WIDTHS, cell, frame_of, run, stored, sweep  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")

MEDIA = [("paper", None), ("paper", inches("8.5cm")), (None, inches("5in")), ("talk", None), ("talk", inches("33 cm"))]


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("3.3in", 3.3),
        ("8.5cm", 8.5 / 2.54),
        ("85mm", 8.5 / 2.54),
        ("237.13594pt", 3.28125),
        ("5 in", 5),
        ("2.5in", 2.5),
    ],
)
def test_a_width_has_a_unit(text, width):
    assert inches(text) == pytest.approx(width, rel=1e-5)


@pytest.mark.parametrize(
    "text", ["", "8", "cm", "8.5 km", "8,5cm", "-8cm", "1e1cm", "nancm", "0in", "1in", "99in", "٣in", "3in\n"]
)
def test_what_is_no_width_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 8"):
        inches(text)


@pytest.mark.parametrize("options", [["--width", "8"], ["--style", "poster"]])
def test_a_bad_option_is_two(tmp_path, options):
    done = run(stored(tmp_path / "run", [cell()]), "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert options[1] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


CURVES = {
    "time_against_size": (),
    "memory_against_size": (),
    "error_against_size": (),
    "time_against_memory": (),
    "performance_profile": (),
    "speedup_against_size": ("func_hessian",),
}
MAPS = ("coverage", "disagreement")


@pytest.mark.parametrize(("style", "width_in"), MEDIA)
@pytest.mark.parametrize("name", [*CURVES, *MAPS])
def test_text_has_its_size_and_its_place(frame_of, name, style, width_in):  # noqa: F811
    medium = chosen(style, width_in)
    records = [entry | {"sketch": [1.0] * 32} for entry in sweep() if name not in MAPS or entry["method"] != METHODS[0]]
    figure = drawn(name, frame_of(records), medium, *CURVES.get(name, ()))
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == medium.width_in
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    sizes = [text.get_fontsize() for text in texts]
    assert max(sizes) < 8.01 if style != "talk" else min(sizes) > (9 if name in MAPS else 10)
    boxes = [
        *(legend.get_window_extent() for legend in figure.legends),
        figure.axes[0].get_tightbbox(),
        next(text for text in figure.texts if "EPYC" in text.get_text()).get_window_extent(),
    ]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert figure.axes[0].get_window_extent().height > (0.15 if name in MAPS else 1.2) * figure.dpi


def test_panels_wrap_where_they_would_be_too_narrow(frame_of):  # noqa: F811
    frame = frame_of([cell(width=width, problem=f"problem_{number}") for number in range(4) for width in WIDTHS])
    for medium, columns in ((chosen(None, None), 2), (chosen("paper", 3.3), 2), (chosen("paper", 2.5), 1)):
        figure = time_against_size(Analysis(frame), medium)
        figure.draw_without_rendering()
        assert figure.axes[0].get_gridspec().ncols == columns
        labels = [text.get_window_extent() for text in figure.axes[-1].get_xticklabels() if text.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(labels))


def test_lines_are_thicker_in_a_talk(frame_of):  # noqa: F811
    frame = frame_of(sweep())
    widths = [
        time_against_size(Analysis(frame), chosen(style, None)).axes[0].lines[0].get_linewidth()
        for style in (None, "paper", "talk")
    ]
    assert widths[0] == widths[1] < widths[2]


def test_files_have_the_width(frame_of, tmp_path):  # noqa: F811
    figure = time_against_size(Analysis(frame_of(sweep())), chosen("paper", 3.5))
    _, pdf, svg = save(figure, tmp_path / "figure")
    assert re.search(rb"/MediaBox \[ ?0 0 252 ", pdf.read_bytes())
    assert 'width="252pt"' in svg.read_text()
