"""Error against cost: lines and points of made records, their table and figure; estimates are ranked by no time."""

import json

import numpy
import pytest

from harness.analysis.accuracy import accuracies
from harness.analysis.crossovers import crossovers
from harness.analysis.fronts import points as front_points
from harness.analysis.leaderboard import leaderboard
from harness.analysis.profiles import times_over_best
from harness.analysis.ranking import rankings
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.report import accuracy
from harness.report.figures.accuracy import figures
from harness.report.files import write
from harness.report.markdown import markdown
from tests.drawing import caption_of, names
from tests.test_report import cell, failed, frame_of, shown  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")


def estimate(method="hutchinson", probes=8, seed=0, **changes):
    """A record of an estimated trace, whose error and standard error fall with the root of the probes."""
    error = 0.1 * (1 + seed) / probes**0.5
    return (
        cell(
            method,
            method_options=json.dumps({"probes": probes, "seed": seed, "hvp": "reverse_over_reverse"}),
            target=f"methods.{method}.trace",
            quantity="trace",
            times_s=[1e-4 * probes],
            relative_error=error,
            stated_error=0.15 / probes**0.5,
            standard_error=0.15 / probes**0.5,
            estimate_probes=probes,
            products=probes,
            covered=seed < 2,
        )
        | changes
    )


def exact(method="factored", **changes):
    """A record of the exact trace."""
    return cell(method, target=f"methods.{method}.trace", quantity="trace", times_s=[0.5], relative_error=0.0) | changes


def traces():
    return [exact(), *(estimate(probes=probes, seed=seed) for probes in (8, 32) for seed in (0, 1, 2))]


def test_runs_of_one_budget_make_a_point_and_budgets_a_line(frame_of):  # noqa: F811
    (found,) = accuracies(Analysis(frame_of(traces())))
    assert found.title == "mlp, P = 133, trace"
    assert list(found.points["line"]) == ["hutchinson", "hutchinson", "factored"]
    assert list(found.points["budget"]) == ["probes=8", "probes=32", ""]
    few, many, right = found.points.to_dict("records")
    assert (few["runs"], few["inside"], few["judged"], few["products"]) == (3, 2, 3, 8)
    assert few["error"] == pytest.approx(0.2 / 8**0.5)
    assert (few["error_low"], few["error_high"]) == pytest.approx((0.1 / 8**0.5, 0.3 / 8**0.5))
    assert many["stated"] == pytest.approx(0.15 / 32**0.5)
    assert many["time_s"] == pytest.approx(32e-4)
    assert right["exact"]
    assert right["judged"] == 0


def test_what_differs_otherwise_is_a_line_of_its_own(frame_of):  # noqa: F811
    other = json.dumps({"probes": 8, "seed": 0, "hvp": "finite_differences"})
    (found,) = accuracies(Analysis(frame_of([*traces(), estimate(method_options=other)])))
    assert sorted(set(found.points["line"])) == [
        "factored",
        "hutchinson hvp=finite_differences",
        "hutchinson hvp=reverse_over_reverse",
    ]


def test_a_failed_estimate_is_a_line_of_the_table(frame_of):  # noqa: F811
    late = estimate(probes=128, status="timeout", relative_error=None, products=None, covered=None, times_s=None)
    analysis = Analysis(frame_of([*traces(), late]))
    text = accuracy.markdown(accuracies(analysis), analysis)
    (line,) = [line for line in text.splitlines() if "probes=128" in line]
    assert "timeout" in line


def test_the_table_says_how_often_the_truth_was_within(frame_of):  # noqa: F811
    analysis = Analysis(frame_of(traces()))
    text = accuracy.markdown(accuracies(analysis), analysis)
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| hut")]
    assert lines[0] == ["hutchinson", "probes=8", "8", "800 µs", "7.1e-02", "5.3e-02", "2 of 3", "ok"]
    assert accuracies(Analysis(frame_of([exact(), exact("vmap_hvp")]))) == []


def test_the_figure_has_errors_against_products_and_time(frame_of):  # noqa: F811
    analysis = Analysis(frame_of([*traces(), estimate("xtrace", 8, relative_error=0.0)]))
    drawn = figures(accuracies(analysis), analysis)
    assert list(drawn) == ["accuracy_trace"]
    left, right = ([numpy.array(line.get_data()).tolist() for line in ax.lines] for ax in drawn["accuracy_trace"].axes)
    errors = [0.2 / 8**0.5, 0.2 / 32**0.5]
    assert any(numpy.shape(line) == (2, 2) and numpy.allclose(line, [[8, 32], errors]) for line in left)
    assert any(numpy.shape(line) == (2, 2) and numpy.allclose(line, [[8e-4, 32e-4], errors]) for line in right)
    assert [[0.5, 0.5], [0, 1]] in right, "the time of the exact method"
    assert {name.replace("\n", "") for name in names(drawn["accuracy_trace"], 1)} == {
        "hutchinson",
        "xtrace",
        "factored",
    }
    assert "Errors below 1e-17, such as 0, are drawn on the dotted horizontal line." in caption_of(
        drawn["accuracy_trace"]
    )


def test_estimates_are_not_ranked(frame_of):  # noqa: F811
    analysis = Analysis(frame_of([*traces(), exact("vmap_hvp", times_s=[0.7])]))
    (leader,) = leaderboard(analysis)
    assert (leader.method, leader.second) == ("factored", "vmap_hvp")
    (ranking,) = rankings(analysis)
    assert [entry.method for entry in ranking.entries] == ["factored", "vmap_hvp"]
    assert set(times_over_best(analysis).columns) == {"factored", "vmap_hvp"}
    assert set(speedups(analysis, "factored")["label"]) == {"vmap_hvp"}
    label = analysis.rows.loc[~analysis.rows["ranked"], "label"].iloc[0]
    with pytest.raises(ValueError, match="estimates, so that its times compare with none; take an exact method: fac"):
        speedups(analysis, label)
    rows = analysis.rows.assign(x=analysis.rows["tensor_peak_bytes"], y=analysis.rows["median_s"], drawn=True)
    drawn = front_points(rows)
    assert set(drawn.loc[drawn["whole"], "label"].str.split().str[0]) == {"factored", "vmap_hvp"}
    for text in (markdown(analysis), shown(analysis.frame)):
        assert "Not ranked by time, since they estimate: hutchinson." in text


def test_estimates_alone_have_no_leader_and_still_a_report(frame_of, tmp_path):  # noqa: F811
    analysis = Analysis(frame_of([estimate(probes=probes, seed=seed) for probes in (8, 32) for seed in (0, 1)]))
    assert leaderboard(analysis) == ()
    assert rankings(analysis) == crossovers(analysis) == []
    written = {path.name for path in write(analysis, tmp_path)}
    assert {"accuracy.md", "accuracy.tex", "accuracy_trace.png"} <= written


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"quantity": "hvp", "vectors": 8}, ("hvp vectors=1", "hvp vectors=8")),
        ({"quantity": "ihvp", "damping": 0.1}, ("ihvp damping=0.01", "ihvp damping=0.1")),
        ({"quantity": "eigenvalues", "k": 3}, ("eigenvalues k=10", "eigenvalues k=3")),
        ({"quantity": "trace", "k": 3, "damping": 0.1, "vectors": 7}, ("trace",)),
        ({"wrt": "inputs", "per_sample": True}, ("hessian", "hessian wrt=inputs")),
        ({"per_sample": True}, ("hessian", "hessian per_sample=true")),
        ({"parameters": "fc.*, *.bias"}, ("hessian", "hessian parameters=fc.*, *.bias")),
        ({"parameters": "fc.*", "subset": 5}, ("hessian", "hessian parameters=fc.* subset=5")),
    ],
)
def test_what_is_asked_of_a_quantity_tells_its_rows_apart(frame_of, changes, names):  # noqa: F811
    first = {"quantity": changes.get("quantity", "hessian")}
    analysis = Analysis(frame_of([cell("a", **first), cell("a", **changes)]))
    assert tuple(sorted(set(analysis.rows["quantity"]))) == names


def test_few_numbers_are_no_measure_of_time_and_memory(frame_of):  # noqa: F811
    rates = {"samples": 4, "gemm_flops_per_s": 1e9, "write_bytes_per_s": 1e9}
    frame = frame_of([cell("a", **rates), exact("b", **rates), cell("c", per_sample=True, **rates)])
    assert frame["gemm_equivalents"].notna().tolist() == [True, False, False]
    assert frame["write_multiples"].notna().tolist() == [True, False, True]
    assert frame["tensor_peak_outputs"].notna().tolist() == [True, False, True]


def test_products_and_stated_errors_have_columns_only_where_they_are(frame_of):  # noqa: F811
    heading = next(line for line in shown(frame_of(traces()), 160).splitlines() if line.split()[:1] == ["method"])
    assert heading.split()[-2:] == ["error", "products"]
    assert "products" not in shown(frame_of([cell(), failed()]))


def test_messages_of_estimates_are_told_once_for_all_budgets(frame_of):  # noqa: F811
    said = [entry | {"message": f"an estimate from {place} probes"} for place, entry in enumerate(traces())]
    text = shown(frame_of(said))
    assert "hutchinson ok (6 cells): an estimate from" in text
    assert text.count("an estimate from") == 2, "and the exact one's"
