"""Approximations in reports: apart from exact methods everywhere, and compared with them in a table and a figure."""

import pytest
from matplotlib.colors import to_rgb

from harness.analysis import capacity, contests, coverage, crossovers, fits, leaderboard, profiles, speedups
from harness.analysis.approximations import compared
from harness.analysis.ranking import rankings
from harness.analysis.table import APPROXIMATE, Analysis
from harness.compare.statuses import by_status
from harness.report import approximations, readable, summary
from harness.report.figures import approximations as figure_of
from harness.report.figures.style import TOLERANCE
from harness.report.files import write
from tests.drawing import caption_of, names
from tests.test_report import cell, frame_of  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")


def approximation(method, time_ms, error, width=8, **changes):
    own = {"approximation": True, "cosine": 0.5, "newton_error": 2 * error, "logdet_error": -0.25, "damping": 0.01}
    own |= {"times_s": [1e-3 * time_ms] * 3, "relative_error": error, "message": "an approximation: relative error"}
    return cell(method, width, **own | changes)


def exact(method, time_ms, width=8, **changes):
    return cell(method, width, times_s=[1e-3 * time_ms] * 3, relative_error=1e-14, damping=0.01, **changes)


def records():
    """Two exact methods and five approximations, of which two are worth their cost."""
    return [
        exact("whole", 10),
        exact("slower", 40),
        approximation("near", 8, 0.1),
        approximation("rough", 1, 0.6),
        approximation("beaten", 2, 0.7),
        approximation("as_zeros", 0.5, 1.2),
        approximation("dear", 20, 0.05),
    ]


def test_no_approximation_leads_or_is_counted_as_right(frame_of) -> None:  # noqa: F811
    """Though each of them is faster than the exact method at every size, in every process."""
    frame = frame_of(
        [
            entry
            for width in (8, 16, 32, 64)
            for number in range(7)
            for entry in (
                exact("whole", 10 * width, width, round=number),
                exact("slower", 40 * width, width, round=number),
                approximation("rough", width, 0.6, width, round=number),
            )
        ]
    )
    analysis = Analysis(frame)
    assert set(analysis.rows.loc[analysis.rows["label"] == "rough", "status"]) == {APPROXIMATE}
    assert set(analysis.cells.loc[analysis.cells["label"] == "rough", "status"]) == {APPROXIMATE}
    for place in contests.places(analysis):
        assert place.contest.leader == "whole"
        assert set(place.contest.leads) == {"slower"}
    assert {leader.method for leader in leaderboard.leaderboard(analysis)} == {"whole"}
    assert {found.best_method for found in rankings(analysis)} == {"whole"}
    (rough,) = (entry for entry in rankings(analysis)[0].entries if entry.method == "rough")
    assert (rough.approximate, rough.right, rough.wrong, rough.failed) == (True, False, False, False)
    assert not profiles.times_over_best(analysis)["rough"].lt(1e300).any()
    assert "rough" not in set(speedups.speedups(analysis, "slower")["label"])
    assert all("rough" not in (found.before, found.after) for found in crossovers.crossovers(analysis))
    assert "rough" not in {found.method for found in fits.fits(analysis)}
    assert "rough" not in {found.method for found in capacity.capacities(analysis, 16.0)}
    outcomes = coverage.outcomes(analysis)
    assert set(outcomes.loc[outcomes["method"] == "rough", "outcome"]) == {"approximate"}


def test_a_process_that_was_only_timed_counts_with_the_one_that_was_compared(frame_of) -> None:  # noqa: F811
    compared_one, timed = (
        approximation("rough", 1, 0.6, round=0),
        approximation("rough", 1, 0.6, round=1, approximation=None, relative_error=None),
    )
    rows = Analysis(frame_of([compared_one, timed])).rows
    assert set(rows["status"]) == {APPROXIMATE}


def test_what_is_worth_its_cost(frame_of) -> None:  # noqa: F811
    (found,) = compared(Analysis(frame_of(records())))
    assert (found.exact, found.exact_s) == ("whole", 0.01)
    assert found.approximations["label"].tolist() == ["dear", "near", "rough", "beaten", "as_zeros"]
    assert found.worth == ["near", "rough"]


def test_without_an_exact_method(frame_of) -> None:  # noqa: F811
    (found,) = compared(Analysis(frame_of(records()[2:])))
    assert found.exact is None
    assert found.worth == ["dear", "near", "rough"]
    assert "No exact method was timed." in approximations.markdown(Analysis(frame_of(records()[2:])))
    assert approximations.markdown(Analysis(frame_of(records()[:2]))) is None


def test_the_table(frame_of) -> None:  # noqa: F811
    text = approximations.markdown(Analysis(frame_of(records())))
    assert "Exact: whole, 10 ms. Worth their cost: near, rough." in text
    (near,) = (line for line in text.splitlines() if "near" in line and line.startswith("|"))
    assert [entry.strip() for entry in near.strip("|").split("|")][0:3] == ["**near**", "8 ms", "0.8"]
    assert "| 0.1     | 0.500    | 0.2            | -0.25           |" in near
    assert "Damping: 0.01." in text


@pytest.mark.parametrize("column", figure_of.TITLES)
def test_the_figure_shows_every_approximation_and_the_time_of_the_exact_matrix(frame_of, column) -> None:  # noqa: F811
    analysis = Analysis(frame_of(records()))
    figure = figure_of.approximations(compared(analysis), analysis, column)
    assert sorted(names(figure)) == ["as_zeros", "beaten", "dear", "near", "rough"]
    lines = [line for line in figure.axes[0].lines if to_rgb(line.get_color()) == to_rgb(TOLERANCE["color"])]
    assert [line.get_xdata()[0] for line in lines] == [10]
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    factor = 1 if column == "relative_error" else 2
    assert points == {(20, 0.05 * factor), (8, 0.1 * factor), (1, 0.6 * factor), (2, 0.7 * factor), (0.5, 1.2 * factor)}
    assert "Dashed line" in caption_of(figure)


def test_the_report_marks_them(frame_of, tmp_path) -> None:  # noqa: F811
    analysis = Analysis(frame_of(records()))
    table = readable.readable(analysis)
    assert set(table.loc[table["method"] == "near", "status"]) == {"approximate"}
    assert set(table.loc[table["method"] == "near", "Newton error"]) == {"2.0e-01"}
    (section,) = (part for part in summary.summary(analysis) if part.title.startswith("Approximations by design"))
    assert section.sentences[0] == "dear: relative error 0.05 to 0.05."
    assert not any(part.title == "Failed" for part in summary.summary(analysis))
    files = {path.name for path in write(analysis, tmp_path)}
    assert {"approximations.md", "approximations_relative_error.png", "approximations_newton_error.svg"} <= files
    assert "approximate" in (tmp_path / "table.tex").read_text()


def test_a_comparison_sees_the_error_of_an_approximation_grow(frame_of) -> None:  # noqa: F811
    frames = [frame_of([approximation("rough", 1, error, tolerance=1e-5)]) for error in (0.5, 0.5001, 0.6)]
    assert by_status(frames[0], frames[1]) is None
    verdict, reason = by_status(frames[0], frames[2])
    assert (verdict, reason) == ("broken", "relative error 5.0e-01 to 6.0e-01")
