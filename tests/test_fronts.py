"""Time against memory: the front of each P, computed by hand, and chunk sizes in their order."""

import json

import numpy
import pytest
from matplotlib.colors import to_rgb

from harness.analysis.table import Analysis
from harness.report.figures import fronts
from harness.report.figures.fronts import time_against_memory
from tests.drawing import above, caption_of, names
from tests.test_report import cell, failed, frame_of  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")


def point(method, memory, time, params=133, **changes):
    """MiB and ms of one way."""
    return cell(
        method, params // 16, params=params, tensor_peak_bytes=memory * 2**20, times_s=[1e-3 * time] * 3, **changes
    )


def lines(figure, look, panel=0):
    """(x, y) of the lines of that look."""
    wanted = to_rgb(look["color"]), look["linewidth"]
    return [
        [*zip(line.get_xdata(), line.get_ydata(), strict=True)]
        for line in figure.axes[panel].lines
        if (to_rgb(line.get_color()), line.get_linewidth()) == wanted
    ]


def test_the_front_goes_round_what_nothing_beats(frame_of):  # noqa: F811
    records = [
        point("lean", 1, 90),
        point("mid", 4, 30),
        point("fast", 16, 10),
        point("beaten", 8, 60),
        point("wrong", 1, 1, status="wrong"),
        point("crashing", 2, 2),
        failed("crashed", "crashing", 8, round=1, params=133),
    ]
    figure = time_against_memory(Analysis(frame_of(records)))
    (drawn,) = lines(figure, fronts.FRONT)
    numpy.testing.assert_allclose(drawn, [(1, 90), (1, 90), (4, 90), (4, 30), (16, 30), (16, 10), (16, 10)])
    assert "the Pareto front" in caption_of(figure)


def test_only_cells_of_one_size_compete(frame_of):  # noqa: F811
    records = [
        point("a", 1, 10),
        point("b", 2, 5),
        point("a", 10, 100, 517),
        point("b", 20, 200, 517),
        point("a", 1, 1, 37),
    ]
    figure = time_against_memory(Analysis(frame_of(records)))
    near, far = lines(figure, fronts.FRONT)
    numpy.testing.assert_allclose(near, [(1, 10), (1, 10), (2, 10), (2, 5), (2, 5)])
    numpy.testing.assert_allclose(far, [(10, 200), (10, 100), (20, 100)])
    assert {"P = 133", "P = 517"} <= set(names(figure))


def test_chunk_sizes_are_joined_in_their_order(frame_of):  # noqa: F811
    def options(chunk, **rest):
        return json.dumps({"composition": "forward", "chunk_size": chunk} | rest)

    records = [
        point("vmap_hvp", memory, time, method_options=options(chunk))
        for chunk, memory, time in ((8, 1, 100), (128, 8, 10), (16, 2, 50), (None, 64, 5), ("auto", 32, 7))
    ]
    records += [point("vmap_hvp", 3, 60, method_options=options(8, compile=True)), point("other", 9, 9)]
    figure = time_against_memory(Analysis(frame_of(records)))
    (chain,) = lines(figure, fronts.CHAIN)
    numpy.testing.assert_allclose(chain, [(1, 100), (2, 50), (8, 10), (64, 5)])
    told = {text.get_text(): text.xy for text in figure.axes[0].texts if text.get_color() == "0.2"}
    assert told == {
        "8": pytest.approx((1, 100)),
        "16": pytest.approx((2, 50)),
        "128": pytest.approx((8, 10)),
        "all": pytest.approx((64, 5)),
        "auto": pytest.approx((32, 7)),
    }


def test_the_chunk_sizes_of_two_functions_are_not_joined(frame_of):  # noqa: F811
    records = [
        point("mine", memory, time, target=f"{module}.hessian", method_options=json.dumps({"chunk_size": chunk}))
        for module, factor in (("a", 1), ("b", 10))
        for chunk, memory, time in ((1, factor, 9 * factor), (2, 2 * factor, 4 * factor))
    ]
    chains = lines(time_against_memory(Analysis(frame_of(records))), fronts.CHAIN)
    assert sorted(len(chain) for chain in chains) == [2, 2]


def test_ways_that_failed_alike_share_a_line(frame_of):  # noqa: F811
    records = [
        point("right", 1, 1),
        *(failed("oom", f"method_{number}", params=133) for number in range(10)),
        failed("timeout", "slow", params=133),
    ]
    figure = time_against_memory(Analysis(frame_of(records)))
    second, first = above(figure)
    assert first == "timeout: slow"
    assert second.startswith("out of memory: method_0, method_1, ")
    assert second.endswith("..."), "cut where it has no room"
    figure.draw_without_rendering()


def test_a_figure_counts_the_panels_for_which_it_has_no_room(frame_of):  # noqa: F811
    figure = time_against_memory(Analysis(frame_of([point("a", 1, 1, problem=f"zoo/p{n}") for n in range(14)])))
    assert sum(ax.get_visible() for ax in figure.axes) == 12
    assert "Panels that are not drawn: 2 (values: table.csv)." in caption_of(figure)
