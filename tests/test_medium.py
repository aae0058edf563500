"""Figures for a paper and for a talk: as wide as was asked, with text that can be read and that nothing covers."""

import argparse
import itertools
import json
import re

import pytest
from matplotlib.text import Text

from harness.analysis.table import Analysis
from harness.report.command import main
from harness.report.figures import style as style_of
from harness.report.figures.canvas import save
from harness.report.figures.curves import time_against_size
from harness.report.figures.page_size import chosen, inches
from harness.report.files import write
from tests.drawing import drawn
from tests.test_report import METHODS, WIDTHS, cell, failed, frame_of, run, stored, sweep  # noqa: F401  a fixture

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
    "scaling": (),
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
    if name == "performance_profile":
        records += [entry | {"seed": 1} for entry in records]  # it wants five cells
    figure = drawn(name, frame_of(records), medium, *CURVES.get(name, ()))
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == medium.width_in
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    sizes = [text.get_fontsize() for text in texts]
    assert max(sizes) < 8.01 if style != "talk" else min(sizes) > (9 if name in MAPS else 10)
    axes = figure.axes[0].get_window_extent()
    beside = [Text.get_window_extent(text) for text in figure.axes[0].texts if name in CURVES]
    boxes = [
        *(box for box in beside if box.x0 > axes.x1),
        axes,
        *(text.get_window_extent() for text in figure.texts if "EPYC" in text.get_text()),
    ]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert figure.axes[0].get_window_extent().height > (0.15 if name in MAPS else 1.2) * figure.dpi


NAMES = ["a" * 60, "_" * 60, "W" * 60, "$x^{2}$ {0} \\frac", "a name of several words that goes on " * 2]


@pytest.mark.parametrize("count", [1, 9, 26, 60])
@pytest.mark.parametrize(("style", "width_in"), [(None, None), ("paper", inches("8.5cm"))])
def test_names_of_any_length_and_number_have_their_place(frame_of, style, width_in, count):  # noqa: F811
    names = [*NAMES, *(f"method_{number}" for number in range(60))][:count]
    records = [
        cell(name, width, times_s=[0.01 * (1 + place)], status="wrong" if place % 9 == 5 else "ok")
        if (place + width) % 7
        else failed("oom", name, width)
        for place, name in enumerate(names)
        for width in WIDTHS
    ]
    for name in ("time_against_size", "scaling", "time_against_memory"):
        figure = drawn(name, frame_of(records), chosen(style, width_in))
        figure.draw_without_rendering()
        texts = [text for ax in figure.axes for text in ax.texts if text.get_text()]
        boxes = [Text.get_window_extent(text).padded(-1) for text in texts if text.get_fontsize() >= 5.5]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
        if name != "time_against_memory":  # which writes at its points
            assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_panels_wrap_where_they_would_be_too_narrow(frame_of):  # noqa: F811
    frame = frame_of(
        [cell(width=width, problem=name) for name in ("first", "second", "third", "fourth") for width in WIDTHS]
    )
    for medium, columns in ((chosen(None, None), 2), (chosen("paper", 5.5), 2), (chosen("paper", 2.5), 1)):
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
    _, pdf, svg = save(figure, tmp_path / "figure")  # and no text: its caption is drawn
    assert re.search(rb"/MediaBox \[ ?0 0 252 ", pdf.read_bytes())
    assert 'width="252pt"' in svg.read_text()


def test_a_caption_can_be_written_beside_the_figure(frame_of, tmp_path):  # noqa: F811
    figure = time_against_size(Analysis(frame_of(sweep())), chosen(None, None, captioned=False))
    assert figure.get_supxlabel() == ""
    *_, text = save(figure, tmp_path / "figure")
    assert text.name == "figure.txt"
    assert "EPYC" in text.read_text(encoding="utf-8")


def test_a_paper_has_rings_only_where_they_are_asked_for(frame_of):  # noqa: F811
    frame = frame_of([cell(width=width, sampling_wall_s=1.0, sampling_cpu_s=0.5) for width in WIDTHS])
    ringed = {
        (style, rings): sum(
            line.get_markeredgecolor() == style_of.CONTENDED["markeredgecolor"]
            for line in time_against_size(Analysis(frame), chosen(style, None, rings=rings)).axes[0].lines
            if len(line.get_xdata())
        )
        for style in (None, "paper", "talk")
        for rings in (False, True)
    }
    assert ringed == {
        (None, False): 1,
        (None, True): 1,
        ("paper", False): 0,
        ("paper", True): 1,
        ("talk", False): 1,
        ("talk", True): 1,
    }


def test_a_paper_has_a_file_for_each_dtype(frame_of, tmp_path):  # noqa: F811
    records = [cell(width=width, dtype=dtype) for width in WIDTHS for dtype in ("float32", "float64")]
    written = {path.stem for path in write(Analysis(frame_of(records)), tmp_path / "paper", chosen("paper", None))}
    assert {"time_against_size_float32", "time_against_size_float64", "time_against_memory_float64"} <= written
    assert "time_against_size" not in written
    assert {"scaling_mlp_hessian_float32", "scaling_mlp_hessian_float64"} <= written
    written = {path.stem for path in write(Analysis(frame_of(records)), tmp_path / "screen")}
    assert "time_against_size" in written
    assert "time_against_size_float32" not in written


def test_two_sizes_are_no_curve(frame_of, tmp_path):  # noqa: F811
    written = {path.stem for path in write(Analysis(frame_of([cell(width=4), cell(width=8)])), tmp_path / "out")}
    assert not {"time_against_size", "memory_against_size", "error_against_size", "scaling"} & written
    assert "time_against_memory" in written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--highlight", "nothing"], "nothing is no method of these records"),
        ([word for number in range(9) for word in ("--highlight", f"m{number}")], "colours for 8"),
    ],
)
def test_what_cannot_be_highlighted_is_two(tmp_path, capsys, options, words):
    folder = stored(tmp_path / "run", [cell(f"m{number}") for number in range(9)])
    assert main([str(folder), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_options_of_the_figures_are_in_the_report(tmp_path, capsys):
    folder = stored(tmp_path / "run", sweep())
    given = ["--style", "paper", "--no-caption", "--rings", "--highlight", "vmap_hvp", "--highlight", "naive_loop"]
    assert main([str(folder), "--out", str(tmp_path / "out"), *given]) == 0
    command = json.loads((tmp_path / "out" / "report.json").read_text())["command"]
    assert "--no-caption --rings" in command
    assert "--highlight vmap_hvp --highlight naive_loop" in command
    assert "scaling.txt" in capsys.readouterr().out
