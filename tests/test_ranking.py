"""The ranking: its order and ratios against records made by hand, and a figure whose text can be read, of anything."""

import itertools
import math

import numpy
import pandas
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.text import Text

from harness.analysis.leaderboard import leaderboard
from harness.analysis.ranking import main_rankings, rankings
from harness.analysis.reasons import reason
from harness.analysis.table import Analysis
from harness.report.figures.fitting import cut, lines, room_pt, shortened, width_pt
from harness.report.figures.page_size import SCREEN, chosen, inches
from harness.report.figures.ranking import ranking, sheets
from harness.report.figures.ranking_panel import BEST, answer
from harness.report.figures.sheet import limits, ticks
from harness.report.figures.style import RED
from harness.report.files import write
from tests.test_report import HOSTILE, cell, failed, frame_of, misspelt  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")

MEDIA = [None, ("paper", inches("8.5cm")), ("paper", 2.5), ("talk", None)]


def timed(method, seconds, **changes):
    """A record with this median time."""
    return cell(method, times_s=[seconds] * 3, **changes)


def place():
    """One place with each kind of entry."""
    records = [
        timed("slow", 0.8),
        timed("fast", 0.1, tensor_peak_bytes=3 * 2**20, relative_error=2e-7),
        timed("func_hessian", 0.05, status="wrong", relative_error=0.042),
        timed("middle", 0.4, sampling_wall_s=1.0, sampling_cpu_s=0.5),
        timed("infinite", 0.2, status="nonfinite", relative_error=None, nonfinite=3),
        cell("untimed", times_s=None, first_s=None),
        failed("timeout", "late", 8, limit_s=25.0),
        failed("oom", "large", 8),
    ]
    return [entry | {"memory_limit_gb": 12.0} for entry in records]


def test_the_order_and_the_ratios(frame_of):  # noqa: F811
    (found,) = rankings(Analysis(frame_of(place())))
    names = [entry.method for entry in found.entries]
    assert names == ["func_hessian", "fast", "infinite", "middle", "slow", "untimed", "large", "late"]
    seen = {entry.method: entry for entry in found.entries}
    assert found.best is seen["fast"]
    assert found.baseline is seen["func_hessian"]
    over_best = [seen[name].over_best for name in ("fast", "middle", "slow", "func_hessian")]
    numpy.testing.assert_allclose(over_best, [1, 4, 8, 0.5])
    assert (seen["fast"].peak_bytes, seen["fast"].error) == (3 * 2**20, 2e-7)
    assert [entry.method for entry in found.entries if entry.contended] == ["middle"]
    assert [entry.method for entry in found.entries if entry.wrong] == ["func_hessian", "infinite"]
    reasons = {entry.method: entry.reason for entry in found.entries if entry.failed}
    assert reasons == {"large": "out of memory (limit 12 GB)", "late": "over the time limit of 25 s"}


def test_several_processes_give_a_median_and_an_interval(frame_of):  # noqa: F811
    records = [timed("a", seconds, round=number) for number, seconds in enumerate((0.3, 0.1, 0.2))]
    (found,) = rankings(Analysis(frame_of([*records, timed("b", 0.4)])), baseline="b")
    first, second = found.entries
    assert (first.low_s, first.median_s, first.high_s) == pytest.approx((0.1, 0.2, 0.3))
    assert found.baseline is second


def processes(method, *times):
    """Records of a process a time."""
    return [timed(method, seconds, round=number) for number, seconds in enumerate(times)]


def test_slower_is_claimed_of_what_is_slower_beyond_the_number_of_methods(frame_of):  # noqa: F811
    """By their own intervals b and c are slower than a; for three that might have led, only c is."""
    records = [*processes("a", 1.0, 1.0, 1.0), *processes("b", 1.08, 1.12, 1.18), *processes("c", 3.0, 3.01, 3.02)]
    (found,) = rankings(Analysis(frame_of(records)))
    assert {entry.method: entry.lead.order for entry in found.entries[1:]} == {"b": 1, "c": 1}
    assert {entry.method: entry.undecided for entry in found.entries} == {"a": False, "b": True, "c": False}


def test_the_best_is_the_leader_of_the_leaderboard(frame_of):  # noqa: F811
    """In four of five processes b takes 0.8 times as long, but in the one that is the median."""
    records = [*processes("a", 1.0, 2.0, 3.0, 4.0, 5.0), *processes("b", 0.8, 1.6, 3.05, 3.2, 4.0)]
    analysis = Analysis(frame_of(records))
    (found,) = rankings(analysis)
    (leader,) = leaderboard(analysis)
    assert found.best.method == leader.method == "b"
    assert found.entries[0].over_best == leader.lead.value == pytest.approx(1.25)


def test_one_wrong_seed_makes_a_method_wrong(frame_of):  # noqa: F811
    records = [timed("a", 0.1), timed("a", 0.3, seed=1, status="wrong", relative_error=0.5), timed("b", 0.4)]
    (found,) = rankings(Analysis(frame_of(records)))
    entry = found.entries[0]
    assert (entry.method, entry.wrong, entry.error) == ("a", True, 0.5)
    assert entry.median_s == pytest.approx(0.2)
    assert found.best is found.entries[1]


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        ("oom", "RuntimeError: can't allocate", "out of memory (limit 4 GB)"),
        ("timeout", "the time pass took longer", "over the time limit of 3 s"),
        (
            "unsupported",
            "methods.peers.asdl needs the package asdl, which is not installed: pip install '.[peers]'",
            "not installed: asdl",
        ),
        (
            "unsupported",
            "m.hessian asks for model, criterion, which problem=p does not have; use a network",
            "refuses: needs a network",
        ),
        ("unsupported", "NotImplementedError: no jvp for cdist -> use another", "refuses: no jvp for cdist"),
        ("unsupported", None, "refuses"),
        ("error", "torch.linalg.LinAlgError: singular\n matrix; look", "error: singular matrix"),
        (
            "crashed",
            "the agreement pass ended with signal SIGSEGV, without a result",
            "crashed: the agreement pass ended with signal SIGSEGV, without a result",
        ),
        ("crashed", math.nan, "crashed"),
    ],
)
def test_reasons_in_words(status, message, words):
    fields = {"status": status, "message": message, "memory_limit_gb": 4.0, "limit_s": 3.0, "median_s": math.nan}
    assert reason(pandas.Series(fields, dtype="object")) == words


def test_a_timeout_after_the_time_was_measured_says_so():
    fields = {"status": "timeout", "message": "", "limit_s": 25.0, "median_s": 22.5}
    assert reason(pandas.Series(fields, dtype="object")) == "over the time limit of 25 s while it was checked"


def test_only_few_sizes_or_many_methods_are_ranked(frame_of):  # noqa: F811
    few = [cell(method, width) for method in "ab" for width in (4, 8)]
    (found,) = main_rankings(Analysis(frame_of(few)))
    assert found.params == 16 * 8 + 5
    curve = [cell(method, width) for method in "ab" for width in (4, 8, 16)]
    assert main_rankings(Analysis(frame_of(curve))) == []
    crowd = [cell(method, width) for method in "abcdefghi" for width in (4, 8, 16)]
    (found,) = main_rankings(Analysis(frame_of(crowd)))
    assert (found.params, len(found.entries)) == (16 * 16 + 5, 9)


def test_a_size_at_which_nothing_is_right_is_left_for_one_at_which_something_is(frame_of):  # noqa: F811
    records = [cell("a", 4), failed("oom", "a", 8, params=133), cell("b", 4), cell("b", 8, status="wrong")]
    (found,) = main_rankings(Analysis(frame_of(records)))
    assert found.params == 16 * 4 + 5
    (found,) = main_rankings(Analysis(frame_of([failed("oom", "a", 8, params=133)])))
    assert (found.best, found.baseline) == (None, None)


def test_what_failed_before_its_size_was_known_makes_no_ranking_of_its_own(frame_of):  # noqa: F811
    assert main_rankings(Analysis(frame_of([failed(), misspelt()]))) == []
    (found,) = main_rankings(Analysis(frame_of([cell("a", 32), failed(), misspelt()])))
    assert [entry.method for entry in found.entries] == ["a", "naive_loop"]


def drawn(frame, medium=SCREEN, baseline=None):
    """All rankings of a frame in one figure."""
    analysis = Analysis(frame)
    return ranking(rankings(analysis, baseline), analysis, medium)


def shown(figure):
    """The visible texts of a figure."""
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_dots_are_the_records(frame_of):  # noqa: F811
    figure = drawn(frame_of(place()))
    times, peaks = figure.axes
    dots = [line for line in times.lines if line.get_marker() in ("o", "x")]
    places = [(line.get_xdata()[0], line.get_marker(), to_hex(line.get_color())) for line in dots]
    assert places[:3] == [(0.05, "x", RED), (0.1, "o", BEST), (0.2, "x", RED)]
    assert [x for x, *_ in places[3:]] == [0.4, 0.8]
    heights = [line.get_ydata()[0] for line in dots]
    assert heights == sorted(heights)
    assert times.get_ylim()[0] > times.get_ylim()[1]  # from above
    assert 3 in [line.get_xdata()[0] for line in peaks.lines]
    assert times.get_xscale() == peaks.get_xscale() == "log"
    texts = [text.get_text() for text in shown(figure)]
    for text in ("fast", "100 ms", "1.0×", "3", "2e-07", "4.2%", "NaN", "400 ms*", "~4.0×", "func_hessian (baseline)"):
        assert text in texts, text
    assert texts.count("wrong") == 2
    assert "out of memory (limit 12 GB)" in texts
    assert "Least time: fast, 100 ms; func_hessian is wrong by 4.2%." in texts


def test_what_is_wrong_is_struck_through(frame_of):  # noqa: F811
    figure = drawn(frame_of(place()))
    figure.draw_without_rendering()
    strokes = [artist.get_window_extent() for artist in figure.artists if isinstance(artist, Line2D)]
    struck = [
        text.get_text()
        for text in figure.texts
        if any(box.y0 > text.get_window_extent().y0 and box.y1 < text.get_window_extent().y1 for box in strokes)
        and text.get_ha() == "left"
    ]
    assert struck == ["func_hessian (baseline)", "infinite"]


def crowd(count):
    """So many methods of which some fail, with names of every length."""
    names = [
        f"{'method_with_a_long_name_of_' * 2}{number:06}" if number % 3 else f"m{number}" for number in range(count)
    ]
    whole = [timed(name, 10.0 ** (number / 7 - 5)) for number, name in enumerate(names)]
    return [failed("error", one["method"], 8) if number % 5 == 4 else one for number, one in enumerate(whole)]


RUNS = {
    "each kind": place(),
    "one": [cell()],
    "one failed": [failed()],
    "misspelt": [misspelt()],
    "all failed": [failed(status, method, 8) for status, method in (("oom", "a"), ("error", "b"), ("crashed", "c"))],
    "zeros": [timed("a", 0.0, relative_error=0.0, tensor_peak_bytes=0), timed("b", 0.0)],
    "alike": [timed("a", 0.1), timed("b", 0.1)],
    "sixty": crowd(60),
    "hostile": [cell(HOSTILE, problem=HOSTILE), failed("error", f"{HOSTILE} 2", problem=HOSTILE, message=HOSTILE)],
    "unbroken": [cell("x" * 60), cell("X" * 60, status="wrong"), failed("error", "W" * 60, message="M" * 400)],
    "no memory": [cell("a", tensor_peak_bytes=None), cell("b", tensor_peak_bytes=None)],
}


@pytest.mark.parametrize("medium", MEDIA, ids=str)
@pytest.mark.parametrize("name", RUNS)
def test_text_has_its_size_and_its_place(frame_of, name, medium):  # noqa: F811
    medium = chosen(*medium) if medium else SCREEN
    figure = drawn(frame_of(RUNS[name]), medium)
    figure.draw_without_rendering()
    texts = shown(figure)
    boxes = [text.get_window_extent() for text in texts]
    for one, box in zip(texts, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0, one
        assert box.x1 <= figure.bbox.x1 + 1, one
        assert figure.bbox.y0 <= box.y0, one
        assert box.y1 <= figure.bbox.y1, one
    shrunk = [box.padded(-0.1 * figure.dpi / 72 * medium.scale) for box in boxes]
    for (one, box), (other, second) in itertools.combinations(zip(texts, shrunk, strict=True), 2):
        assert not box.overlaps(second), (one, other)
    sizes = [text.get_fontsize() for text in texts]
    if medium.style == "talk":
        assert min(sizes) > 9
    elif medium.style == "paper":
        assert 5.4 < min(sizes) <= max(sizes) < 8.01
    assert all(ax.get_window_extent().width > 20 * medium.scale for ax in figure.axes)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [timed("a", 0.1), timed("func_hessian", 0.32)],
            "Least time: a, 100 ms; func_hessian took 3.2 times as long in a single process.",
        ),
        ([*processes("a", 0.1, 0.1), *processes("b", 0.2, 0.2)], "Least time: a, 100 ms; b takes 2.0 times as long."),
        ([*processes("a", 0.1, 0.1), *processes("b", 0.09, 0.2)], "Least time: a, 100 ms; b may be as fast."),
        ([timed("a", 0.1)], "Least time: a, 100 ms."),
        (
            [timed("func_hessian", 0.1), timed("b", 0.2)],
            "Least time: func_hessian, 100 ms; b took 2.0 times as long in a single process.",
        ),
        (
            [timed("a", 0.1), failed("oom", "func_hessian", 8)],
            "Least time: a, 100 ms; func_hessian: out of memory.",
        ),
        ([cell("a", times_s=None, first_s=None)], "No right method was timed."),
        ([failed("oom", "a", 8)], "No method is right."),
    ],
)
def test_the_answer(frame_of, records, words):  # noqa: F811
    (found,) = rankings(Analysis(frame_of(records)))
    assert answer(found) == words


def test_places_share_a_file_as_far_as_they_fit(frame_of):  # noqa: F811
    two = [cell(method, problem=problem) for method in "ab" for problem in "pq"]
    assert {name: len(found) for name, found in sheets(rankings(Analysis(frame_of(two)))).items()} == {"ranking": 2}
    crowded = [cell(f"m{number}", problem=problem) for number in range(20) for problem in ("p", "q/..", "Q")]
    found = sheets(rankings(Analysis(frame_of(crowded))))
    assert sorted(found) == ["ranking_p_133", "ranking_q_133", "ranking_q_133_2"]
    assert sheets([]) == {}
    assert list(sheets(rankings(Analysis(frame_of(crowd(60)))))) == ["ranking"]


def test_the_report_has_the_ranking(frame_of, tmp_path):  # noqa: F811
    written = write(Analysis(frame_of(place())), tmp_path / "out")
    assert {"ranking.png", "ranking.pdf", "ranking.svg"} <= {path.name for path in written}
    untimed = frame_of([cell(passes="agreement", times_s=None, first_s=None)])
    assert not [path for path in write(Analysis(untimed), tmp_path / "untimed") if path.name.startswith("ranking")]


def test_lines_break_behind_separators_and_are_cut_at_the_last():
    room = room_pt("autograd_functional_", 7)
    assert lines("autograd_functional_vectorized", room, 7, 3) == ["autograd_functional_", "vectorized"]
    first, second = lines("x" * 60, room, 7, 2)
    assert second.endswith("…")
    assert max(width_pt(first, 7), width_pt(second, 7)) <= room
    assert cut("short", room, 7) == "short"
    name = shortened("a_method_whose_name_has_its_number_at_the_end_17", room, 7)
    assert name.startswith("a_method")
    assert name.endswith("_17")
    assert width_pt(name, 7) <= room
    assert lines("", room, 7, 2) == [""]


@pytest.mark.parametrize("values", [[0.05, 70.0], [0.0], [], [5.2, 5.3], [1e-300, 1e300], [math.nan, 3.0]])
def test_an_axis_names_numbers_that_have_room(values):
    ends = limits(values)
    assert ends[1] >= 3.99 * ends[0] > 0
    named = ticks(ends, 100.0, str, 6.0)
    assert named == sorted(named)
    assert named or max(values) == 1e300
    assert all(ends[0] <= value <= ends[1] for value in named)
