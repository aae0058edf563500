"""Performance profiles and speed-ups, against records in which they were planted and against closed forms."""

import math

import numpy
import pytest
from scipy import stats

from harness import record
from harness.analysis import ratios
from harness.analysis.profiles import profile, times_over_best
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.report import speedups as speedup_tables
from harness.report.figures.profile import performance_profile
from harness.report.figures.speedup import speedup_against_size
from harness.report.latex.document import document
from tests.drawing import caption_of, names
from tests.grown import SIZES, grown, loaded
from tests.test_report import cell, failed

PROFILE = {"a": (1.0, 2.0, 4.0, None), "b": (2.0, 1.0, 1.0, 3.0), "c": (None, 1.5, "wrong", 1.5)}


def drawn_profile(frame):
    analysis = Analysis(frame)
    return performance_profile(profile(analysis), analysis)


def drawn_speedups(frame):
    analysis = Analysis(frame)
    return speedup_against_size(speedups(analysis, "base"), analysis, "base")


def measured(table):
    """A record for each way and size; None ran out of memory, "never" is no record."""
    for method, times in table.items():
        for params, seconds in zip(SIZES, times, strict=False):
            if seconds is None:
                yield failed("oom", method, params // 16, params=params)
            elif seconds == "wrong":
                yield cell(method, params // 16, params=params, times_s=[0.1], status="wrong")
            elif seconds != "never":
                yield cell(method, params // 16, params=params, times_s=[seconds])


def test_a_profile_computed_by_hand(tmp_path) -> None:
    found = times_over_best(Analysis(loaded(tmp_path, measured(PROFILE))))
    never = numpy.inf
    assert sorted(found[["a", "b", "c"]].itertuples(index=False, name=None)) == sorted(
        [(1.0, 2.0, never), (2.0, 1.0, 1.5), (4.0, 1.0, never), (never, 2.0, 1.0)]
    )
    assert profile(Analysis(record.load(tmp_path))) is None, "four cells"


def test_what_was_not_run_has_not_failed(tmp_path) -> None:
    table = {"a": (1.0, 1.0, 1.0, 1.0, 1.0), "b": (2.0, 2.0, "never", "never", None)}
    frame = loaded(tmp_path / "few", measured(table))
    assert times_over_best(Analysis(frame))["b"].isna().sum() == 2
    figure = drawn_profile(frame)
    assert names(figure) == ["a (100 % of 5)", "b (0 % of 3)"]
    heights = [max(line.get_ydata()) for line in figure.axes[0].lines]
    assert sorted(heights) == [pytest.approx(2 / 3), 1.0]
    assert "not all run on each" in caption_of(figure)
    more = [cell(way, 8, seed=seed, times_s=[1.0 + (way == "b")]) for way in "ab" for seed in range(5)]
    figure = drawn_profile(loaded(tmp_path / "whole", [*measured(table), *more]))
    assert names(figure) == ["a (100 %)", "b (0 %)"]
    assert "8 of 10 cells: those that all methods were run on" in caption_of(figure)


def cells(method, times, **changes):
    return [cell(method, round=number, times_s=[time], **changes) for number, time in enumerate(times)]


@pytest.mark.parametrize(("processes", "coverage"), [(2, 0.95), (3, 0.95), (10, 1 - 22 / 1024)])
def test_an_interval_holds_the_planted_ratio_as_often_as_it_says(processes, coverage) -> None:
    """Student's t on log-normal ratios is exact; between the second and ninth of ten it is 1 - 2 (1 + 10) / 2^10."""
    generator, held = numpy.random.default_rng(0), 0
    for _ in range(400):
        drift = generator.lognormal(sigma=0.5, size=processes)  # slows both ways of a round
        rounds, nothing = numpy.arange(processes), numpy.full(processes, None)
        times = [
            ratios.Times(
                time * drift * generator.lognormal(sigma=0.05, size=processes), 0 * rounds, rounds, nothing, nothing
            )
            for time in (0.01, 0.04)
        ]
        seen = ratios.ratio(*times)
        held += seen.low <= 4 <= seen.high
        assert seen.low < seen.value < seen.high
    assert stats.binomtest(held, 400, coverage).pvalue > 0.01


def test_the_interval_of_one_process_is_of_its_samples(tmp_path) -> None:
    records = [cell("base", times_s=[0.9, 1.0, 1.1]), cell("way", times_s=[0.45, 0.5, 0.55])]
    (row,) = speedups(Analysis(loaded(tmp_path / "a", records)), "base").itertuples()
    assert (row.speedup, row.low, row.high) == pytest.approx((2.0, 0.9 / 0.55, 1.1 / 0.45))
    assert (row.processes, row.by) == (1, "samples within one process")
    once = loaded(tmp_path / "b", [cell("base", times_s=[1.0]), cell("way", times_s=[0.5])])
    (row,) = speedups(Analysis(once), "base").itertuples()
    assert (row.speedup, math.isnan(row.low), math.isnan(row.high)) == (2.0, True, True)
    drawn_speedups(once).draw_without_rendering()


def test_quantities_settings_and_options_have_panels_of_their_own(tmp_path) -> None:
    """The medians of these over quantities and dtypes would be 2.5, which is true of none."""
    truth = {
        ("hessian", "float32"): 1.0,
        ("hessian", "float64"): 2.0,
        ("diagonal", "float32"): 3.0,
        ("diagonal", "float64"): 4.0,
    }
    records = [
        entry
        for (quantity, dtype), ratio in truth.items()
        for way, scale in (("base", ratio), ("way", 1.0))
        for entry in grown(way, 1.0, 1e-6 * scale, quantity=quantity, dtype=dtype, sizes=SIZES[::-1])
    ]
    figure = drawn_speedups(loaded(tmp_path, records))
    drawn = {ax.get_title("left"): ax.lines[0] for ax in figure.axes if ax.get_visible()}
    assert {title: line.get_ydata()[0] for title, line in drawn.items()} == {
        f"mlp, {quantity}, {dtype}": pytest.approx(ratio) for (quantity, dtype), ratio in truth.items()
    }
    assert all(list(line.get_xdata()) == list(SIZES) for line in drawn.values())
    five = [entry for problem in "pqrst" for way in ("base", "way") for entry in grown(way, 1.0, problem=problem)]
    figure = drawn_speedups(loaded(tmp_path / "five", five))
    assert [ax.get_visible() for ax in figure.axes] == [True] * 5 + [False]


def test_the_tables_tell_the_same_numbers(tmp_path) -> None:
    records = [*cells("base", [0.04, 0.044, 0.042]), *cells("<b>", [0.01, 0.011, 0.0104]), *cells("slow", [1.0] * 3)]
    frame = loaded(tmp_path, records)
    found = speedups(Analysis(frame), "base")
    text = speedup_tables.markdown(found, Analysis(frame), "base")
    assert r"| \<b>" in text
    assert "| 4 " in text
    table = speedup_tables.speedup_table(found, Analysis(frame), "base")
    assert document([table]).count(r"\bfseries 4.00") == 1
    with pytest.raises(ValueError, match="in no cell"):
        speedups(Analysis(loaded(tmp_path / "alone", cells("base", [1.0]))), "base")


def test_a_profile_compares_times_of_one_node_of_a_cluster(tmp_path) -> None:
    records = [
        cell(method, 8, seed=seed, times_s=[seconds], node=node)
        for seed, node in enumerate(("n1", "n2"))
        for method, seconds in (("a", 1.0), ("b", 2.0))
    ]
    frame = loaded(tmp_path / "a", [*records, cell("a", 9, times_s=[1.0], node="n1"), cell("b", 9, node="n2")])
    assert times_over_best(Analysis(frame)).isna().sum().to_dict() == {"a": 1, "b": 1}
