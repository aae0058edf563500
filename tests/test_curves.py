"""Which methods are in colour, what a panel against P shows, and where the names go; against cases worked by hand."""

import itertools
import json

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.analysis.curves import failures, panels, points
from harness.analysis.emphasis import emphasised
from harness.analysis.table import Analysis
from harness.report.figures.labels import folded, spread
from harness.report.figures.scaling import scalable, scaling
from harness.report.figures.style import BLACK, GREY, styles
from tests.drawing import caption_of
from tests.test_report import WIDTHS, cell, failed, frame_of  # noqa: F401  a fixture


def timed(times, width=8, **changes):
    """A record a method with that time."""
    return [cell(method, width, times_s=[seconds], **changes) for method, seconds in times.items()]


def test_the_fastest_right_methods_are_in_colour(frame_of):  # noqa: F811
    times = {f"m{number}": 1.0 + number for number in range(12)}
    wrong = cell("wrong", 8, times_s=[1e-3], status="wrong")
    frame = frame_of([*timed(times), wrong, failed("oom", "lost", 8)])
    assert emphasised(Analysis(frame)) == [f"m{number}" for number in range(8)]
    chosen = emphasised(Analysis(frame), baseline="m11", highlight=["wrong", "m10"])
    assert chosen == ["wrong", "m10", "m11", "m0", "m1", "m2", "m3", "m4"]
    looks = styles(Analysis(frame), "m11", ["wrong", "m10"])
    assert looks["m11"].colour == BLACK
    assert {label for label, look in looks.items() if look.colour == GREY} == set(looks) - set(chosen)


def test_func_hessian_is_the_baseline_where_it_was_run(frame_of):  # noqa: F811
    frame = frame_of(timed({f"m{number}": 1.0 + number for number in range(12)} | {"func_hessian": 99.0}))
    assert "func_hessian" in emphasised(Analysis(frame))
    assert styles(Analysis(frame))["func_hessian"].dashes
    with pytest.raises(ValueError, match="highlight m99 is no method of these records"):
        emphasised(Analysis(frame), highlight=["m99"])


def test_few_methods_are_all_in_colour(frame_of):  # noqa: F811
    frame = frame_of([failed(), cell("a"), cell("b", status="wrong")])
    assert all(look.emphasised for look in styles(Analysis(frame)).values())


def test_a_family_is_one_panel_that_names_what_differs(frame_of):  # noqa: F811
    def options(width, batch):
        return json.dumps({"width": width, "batch": batch, "norm": None})

    records = [
        cell(width=width, problem=f"mlp_{width}", problem_target="x.mlp", problem_options=options(width, batch))
        for width, batch in ((4, 256), (8, 256), (16, 64))
    ]
    (panel,) = panels(Analysis(frame_of(records)))
    assert (panel.title, panel.sizes) == ("mlp, hessian", 3)
    assert panel.varying == "batch 64 to 256, width 4 to 16"
    (panel,) = panels(Analysis(frame_of([cell(width=width) for width in WIDTHS])))
    assert panel.varying == "", "the one option that differs is the size"
    (panel,) = panels(Analysis(frame_of([cell(), failed(params=None)])))
    assert panel.sizes == 1


def test_a_scaling_figure_counts_the_panels_without_one(frame_of):  # noqa: F811
    analysis = Analysis(frame_of([cell(width=width) for width in WIDTHS]))
    (panel,) = scalable(panels(analysis))
    assert "Panels without such a figure: 34 (values: table.csv)." in caption_of(scaling(analysis, panel, of=40))
    assert "without such" not in caption_of(scaling(analysis, panel, of=6))
    assert "figure: 999 (" in caption_of(scaling(analysis, panel, of=1000)), "of so many, one is drawn"


def test_points_are_medians_with_what_failed_apart(frame_of):  # noqa: F811
    rounds = [cell(round=number, times_s=[seconds]) for number, seconds in enumerate((3.0, 1.0, 2.0))]
    records = [
        *rounds,
        cell(width=16, status="wrong"),
        failed("oom", "other", 8),
        failed("crashed", "vmap_hvp", 8, round=3),
    ]
    (panel,) = panels(Analysis(frame_of(records)))
    found = points(panel.cells, "median_s").set_index(["label", "params"])
    assert found.loc[("vmap_hvp", 133), ["value", "low", "high", "status"]].tolist() == [2.0, 1.0, 3.0, "crashed"]
    memory = points(panel.cells, "tensor_peak_bytes")
    assert memory[["low", "high"]].isna().all(axis=None)
    lost = failures(points(panel.cells, "median_s"))
    assert sorted(lost[["label", "params", "status"]].values.tolist()) == [
        ["other", 133.0, "oom"],
        ["vmap_hvp", 133.0, "crashed"],
    ]


@given(some.lists(some.tuples(some.floats(0, 100), some.floats(1, 12)), min_size=1, max_size=30))
def test_spread_boxes_never_overlap_and_stay_inside(boxes):
    wanted, heights = (list(column) for column in zip(*boxes, strict=True))
    room = max(100.0, sum(heights))
    placed = spread(wanted, heights, room)
    order = numpy.argsort(placed)
    edges = [(placed[place] - heights[place] / 2, placed[place] + heights[place] / 2) for place in order]
    assert edges[0][0] > -1e-6
    assert edges[-1][1] < room + 1e-6
    assert all(below[1] <= above[0] + 1e-6 for below, above in itertools.pairwise(edges))


def test_boxes_with_room_stay_where_they_want_and_equal_ones_keep_their_order():
    assert spread([10, 50, 90], [8, 8, 8], 100) == pytest.approx([10, 50, 90])
    assert spread([50, 50, 50], [10, 10, 10], 100) == pytest.approx([60, 50, 40])
    assert spread([100, 100], [10, 10], 100) == pytest.approx([95, 85])
    assert spread([50, 50], [10, 10], 10) == pytest.approx([7.5, 2.5]), "they share a room that is too small"


def test_names_fold_after_underscores():
    assert folded("autograd_functional_vectorized", 22) == "autograd_functional_\nvectorized"
    assert folded("vmap_hvp", 22) == "vmap_hvp"
    assert folded("$x$", 22) == r"\$x\$"
    assert folded("", 22) == "?"
    assert max(map(len, folded("a" * 60, 22).split("\n"))) == 22
