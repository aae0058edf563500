"""What makes a cell, and what of its records is told: the two sides of a nightly run, subsets, machines, limits."""

import itertools
import json

import pandas
import pytest

from harness.analysis.coverage import outcomes
from harness.analysis.crossovers import crossovers
from harness.analysis.fits import fits
from harness.analysis.leaderboard import leaderboard
from harness.analysis.table import Analysis
from harness.report.figures.curves import error_against_size, time_against_size
from harness.report.latex.cells import cell_tables
from harness.report.latex.document import document
from harness.report.markdown import markdown
from harness.report.readable import readable
from harness.report.summary import summary
from tests.drawing import drawn, lines_of
from tests.test_report import cell, failed, frame_of, letters, misspelt  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

REF, OWN = "1a2b3c4d" * 5, "5e6f7a8b" * 5
WORKTREE = "/tmp/harness-baseline-x/tree"
ONCE = {"relative_error": 1e-7, "sketch": [1.0] * 32, "operations": 338, "output_bytes": 4, "tolerance": 1e-5}


def nightly(rounds=3, slower=2.0, **changes):
    """The records of a run with baseline=git:REF: after the first round, only times are taken."""
    sides = {"baseline": {"code": WORKTREE, "commit": REF}, "candidate": {"code": None, "commit": OWN}}
    for number, (side, of_side) in itertools.product(range(rounds), sides.items()):
        seconds = (1.0 + number / 10) * (slower if side == "candidate" else 1.0)
        once = {"passes": "time, exact, agreement"} | ONCE if number == 0 else {"passes": "time"} | dict.fromkeys(ONCE)
        yield cell(round=number, times_s=[seconds] * 3, dirty=False, **of_side | once | changes)


def test_both_sides_of_a_nightly_run_are_cells_of_their_own(frame_of):  # noqa: F811
    frame = frame_of([*nightly()])
    shown = readable(Analysis(frame))
    assert shown[["code", "time", "error"]].values.tolist() == [
        ["commit 1a2b3c4d", "1.1 s", "1.0e-07"],
        ["own", "2.2 s", "1.0e-07"],
    ]
    titles = [ax.get_title("left") for ax in time_against_size(Analysis(frame)).axes]
    assert titles == ["mlp, hessian, commit 1a2b3c4d", "mlp, hessian, code own"]
    assert len(cell_tables(Analysis(frame))) == 2
    assert set(outcomes(Analysis(frame))["method"]) == {"vmap_hvp commit 1a2b3c4d", "vmap_hvp code own"}


def test_the_two_sides_never_contest_with_each_other(frame_of):  # noqa: F811
    started = {"started": "2026-11-02T03:04:05+00:00"}
    frame = frame_of([*nightly(**started), *nightly(method="rows", slower=20.0, **started)])
    leaders = leaderboard(Analysis(frame))
    assert sorted((leader.problem, leader.params, leader.settings) for leader in leaders) == [
        ("mlp", 133, ("code own",)),
        ("mlp", 133, ("commit 1a2b3c4d",)),
    ]
    measured = next(section.sentences for section in summary(Analysis(frame)) if section.title == "Measured on")
    assert measured[-1].endswith("by harness 5e6f7a8b."), "the other commit is of the code that it was given"


@pytest.mark.parametrize("last", [False, True])
def test_what_one_process_measured_is_the_cells(frame_of, last):  # noqa: F811
    records = [entry for entry in nightly() if entry["code"] is None]
    (row,) = Analysis(frame_of(records[::-1] if last else records)).cells.to_dict("records")
    assert {name: row[name] for name in ONCE} == ONCE
    assert row["median_s"] == pytest.approx(2.2)
    assert row["runs"] == 3


def test_a_failed_process_keeps_its_message_or_silence(frame_of):  # noqa: F811
    records = [cell(message="good to know"), failed("crashed", "vmap_hvp", 8, round=1, message=None)]
    (row,) = Analysis(frame_of(records)).cells.to_dict("records")
    assert row["status"] == "crashed"
    assert pandas.isna(row["message"])
    assert row["output_bytes"] > 0


def test_code_is_named_by_its_path_where_it_is_at_no_commit_or_was_changed(frame_of):  # noqa: F811
    records = [
        cell(code="/a", commit=REF, dirty=True),
        cell(code="/b"),
        cell(code="/c", commit=REF),
        cell(commit=OWN),
        failed("timeout", "vmap_hvp", 8, code="/c", round=1),
    ]
    assert Analysis(frame_of(records)).rows["code"].tolist() == [
        "/a",
        "/b",
        "commit 1a2b3c4d",
        "own",
        "commit 1a2b3c4d",
    ]


def test_commits_of_the_harness_are_told_where_a_cell_is_of_several(frame_of):  # noqa: F811
    def told(frame):
        return [Analysis(frame).environment, markdown(Analysis(frame)), document(cell_tables(Analysis(frame)))]

    several = told(frame_of([cell(commit=OWN), cell(commit=REF, round=1)]))
    assert all("cells of up to 2 commits of the harness taken together" in text for text in several)
    apart = told(frame_of([cell(commit=OWN), cell(width=16, commit=REF), *nightly(width=4, commit=OWN)]))
    assert not any("commits" in text for text in apart)


def test_memory_limits_are_cells_of_their_own(frame_of):  # noqa: F811
    frame = frame_of([failed("oom", "vmap_hvp", 8, memory_limit_gb=1.0), cell(memory_limit_gb=8.0), cell(), misspelt()])
    shown = readable(Analysis(frame)).set_index("memory_limit")
    assert shown["status"].to_dict() == {"1 GB": "oom", "8 GB": "ok", "none": "ok", "?": "error"}
    assert "memory_limit" not in readable(Analysis(frame_of([cell(memory_limit_gb=8.0), misspelt()])))


def test_cores_are_part_of_the_machine(frame_of):  # noqa: F811
    frame = frame_of([cell(cores=2), cell(cores=64, times_s=[5.0]), cell(device="cuda", gpu="H100", cores=2)])
    assert Analysis(frame).rows["machine"].tolist() == ["EPYC, 2 cores", "EPYC, 64 cores", "H100"]
    assert readable(Analysis(frame)).query("device == 'cpu'")["machine"].tolist() == ["EPYC, 2 cores", "EPYC, 64 cores"]
    assert "EPYC, 2 cores / EPYC, 64 cores" in markdown(Analysis(frame))


def subsets():
    """The whole problem, 4 of its parameters, and a failure of each, at two sizes."""
    for width in (4, 8):
        yield from (cell(width=width), failed("timeout", "rows", width))
        yield cell(width=width, subset=4, params=4, whole_params=16 * width + 5, times_s=[1e-5])
        yield failed("timeout", "rows", width, subset=4)


def test_a_subset_is_another_cell_with_a_size_of_its_own(frame_of):  # noqa: F811
    frame = frame_of([*subsets()])
    shown = readable(Analysis(frame))
    columns = ["problem", "P", "quantity", "method"]
    assert sorted(shown[columns].values.tolist()) == sorted(
        [
            ["mlp width=4", "4", "hessian subset=4", "rows"],
            ["mlp width=4", "4", "hessian subset=4", "vmap_hvp"],
            ["mlp width=8", "4", "hessian subset=4", "rows"],
            ["mlp width=8", "4", "hessian subset=4", "vmap_hvp"],
            *(["mlp", size, "hessian", method] for size in ("133", "69") for method in ("rows", "vmap_hvp")),
        ]
    )
    titles = [ax.get_title("left") for ax in time_against_size(Analysis(frame)).axes if ax.get_visible()]
    assert titles == ["mlp, hessian", "mlp width=4, hessian subset=4", "mlp width=8, hessian subset=4"]
    assert len(cell_tables(Analysis(frame))) == 3


def test_fits_crossovers_and_leaders_are_of_one_subset(frame_of):  # noqa: F811
    whole = [
        cell(method, width, times_s=[seconds * width])
        for width in (4, 8, 16, 32)
        for method, seconds in (("vmap_hvp", 1.0), ("rows", 2.0))
    ]
    few = [
        cell(method, width, subset=size, params=size, times_s=[seconds * size])
        for width, size in ((4, 4), (8, 8))
        for method, seconds in (("vmap_hvp", 2.0), ("rows", 1.0))
    ]
    frame = frame_of([*whole, *few])
    assert {(fit.problem, fit.sizes) for fit in fits(Analysis(frame))} == {("mlp, quantity hessian", 4)}
    assert crossovers(Analysis(frame)) == []
    settings = [leader.settings for leader in leaderboard(Analysis(frame))]
    assert settings.count(("quantity hessian subset=4",)) == 1
    assert settings.count(("quantity hessian subset=8",)) == 1
    assert settings.count(("quantity hessian",)) == 4


def test_rows_that_agree_in_all_that_is_shown_tell_what_parts_them(frame_of):  # noqa: F811
    def measure(budget):
        return json.dumps({"budget_s": budget, "probes": 8})

    frame = frame_of(
        [
            cell(limit_s=30.0, measure=measure(1.0)),
            cell(limit_s=60.5, measure=measure(1.0)),
            cell("peer", packages="jax 0.8", limit_s=30.0, measure=measure(1.0)),
            cell("peer", packages="jax 0.9", limit_s=30.0, measure=measure(0.5)),
        ]
    )
    shown = readable(Analysis(frame))
    assert not shown.drop(columns=["time", "message"]).duplicated().any()
    assert set(shown["limit_s"]) == {"30", "60.5"}
    assert set(shown["packages"]) == {"?", "jax 0.8", "jax 0.9"}
    same = readable(Analysis(frame_of([cell(limit_s=30.0), cell("other", limit_s=60.0, measure=measure(1.0))])))
    assert not {"limit_s", "packages", "measure"} & set(same), "the methods tell them apart"


def test_options_of_sampling_are_told_by_name(frame_of):  # noqa: F811
    frame = frame_of([cell(measure=json.dumps({"budget_s": budget, "probes": 8})) for budget in (0.5, 1.0)])
    assert readable(Analysis(frame))["measure"].tolist() == ["budget_s=0.5", "budget_s=1.0"]


def test_a_failure_before_its_packages_were_known_counts_among_its_rounds(frame_of):  # noqa: F811
    frame = frame_of([cell("peer", packages="jax 0.8"), failed("timeout", "peer", 8, round=1)])
    ((status, processes),) = Analysis(frame).cells[["status", "runs"]].values.tolist()
    assert (status, processes) == ("timeout", 2)


def test_figures_of_what_one_process_measured_have_no_gaps(frame_of):  # noqa: F811
    frame = frame_of([entry | {"tensor_peak_bytes": 2**20 if entry["round"] == 0 else None} for entry in nightly()])
    assert Analysis(frame).rows["tensor_peak_bytes"].tolist() == [2**20] * 6
    for name, value in (("error_against_size", 1e-7), ("memory_against_size", 1.0)):
        figure = drawn(name, frame)
        assert letters(figure) == []
        ((_, y),) = lines_of(figure, frame).values()
        assert list(y) == [pytest.approx(value)]
    gap = frame_of([cell(relative_error=None), cell(round=1, relative_error=None)])
    assert letters(error_against_size(Analysis(gap))) == [("?", 133)]


def test_what_no_row_measured_stays_a_number_that_is_not_there(frame_of):  # noqa: F811
    gaps = dict.fromkeys(("tensor_peak_bytes", "relative_error", "params"))
    rows = Analysis(frame_of([cell(**gaps), cell("other", **gaps)])).rows
    assert rows[list(gaps)].isna().all(axis=None)
    assert (rows[list(gaps)].dtypes == "float64").all()


def test_named_problems_of_one_builder_are_a_family(frame_of):  # noqa: F811
    """Several sizes of one builder are one curve; another kind of network of that builder is another."""
    mlp = "harness.problems.networks.mlp"
    sizes = {"mlp_500": 500, "mlp_2000": 2000, "mlp_layernorm": 300}
    records = [
        cell(problem=name, params=size, problem_target=mlp, problem_options=f'{{"width": {size}, "norm": {norm}}}')
        for (name, size), norm in zip(sizes.items(), ("null", "null", '"layer"'), strict=True)
    ]
    rows = Analysis(frame_of(records)).rows
    assert rows["problem"].tolist() == list(sizes)
    assert rows["family"].tolist() == ["mlp norm=null", "mlp norm=null", "mlp norm=layer"]


def test_old_records_are_families_by_name(frame_of):  # noqa: F811
    names = ("mlp_500", "mlp_2000", "zoo/conv_1", "zoo/conv_2", "resnet_34")
    records = [cell(problem=name, problem_target=None, problem_options=None) for name in names]
    families = Analysis(frame_of(records)).rows["family"].tolist()
    assert families == ["mlp", "mlp", "zoo/conv_1", "zoo/conv_2", "resnet_34"]
