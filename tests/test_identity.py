"""What parts cells, in tables and in comparisons: each field of a job; what problems and methods are called."""

import dataclasses
import json

import pytest

from harness import record, sweep
from harness.analysis.coverage import outcomes
from harness.analysis.crossovers import crossovers
from harness.analysis.distances import comparable
from harness.analysis.fits import fits
from harness.analysis.history import histories
from harness.analysis.leaderboard import leaderboard
from harness.analysis.profiles import times_over_best
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.compare.verdicts import compare
from harness.job import Job, Measure
from harness.record import identity
from harness.record.names import endings
from harness.record.schema import PARTS
from harness.report.figures.curves import time_against_size
from harness.report.latex.cells import cell_tables
from harness.report.readable import readable
from tests.conftest import JOB
from tests.test_report import cell, frame_of, shown  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

# Another value of every field of a job.
OTHERS = {
    "problem": "mine",
    "problem_target": "two.bad",
    "problem_options": {"width": 4},
    "method": "mine",
    "target": "b.hessian",
    "method_options": {"a": 1},
    "quantity": "ggn",
    "vectors": 3,
    "subset": 2,
    "wrt": "inputs",
    "per_sample": True,
    "parameters": ("a.*",),
    "k": 3,
    "damping": 1.0,
    "device": "cuda",
    "dtype": "float32",
    "threads": 2,
    "processes": 2,
    "mode": "autocast",
    "allocator": "tuned",
    "seed": 2**60 + 1,
    "round": 1,
    "interpreter": "/other",
    "limit_s": 1.5,
    "memory_limit_gb": 0.25,
    "passes": ("time",),
    "code": "/code",
}
BASE = dataclasses.replace(JOB, seed=2**60, memory_limit_gb=0.5)
TWO = {"problem": "custom", "problem_options": "{}"}


def seen(job, **changes):
    """The record of a job that went well."""
    return cell() | {"passes": "time"} | job.fields() | changes


def of_job(name):
    if name in OTHERS:
        return dataclasses.replace(BASE, **{name: OTHERS[name]})
    value = getattr(BASE.measure, name)
    other = "differences" if name == "truth" else value + 1
    return dataclasses.replace(BASE, measure=dataclasses.replace(BASE.measure, **{name: other}))


FIELDS = [field.name for field in (*dataclasses.fields(Job), *dataclasses.fields(Measure)) if field.name != "measure"]


def test_every_field_of_a_job_has_its_part_of_the_cell():
    lists = [*identity.ASKED, *identity.SAMPLED, *identity.RAN_BY, *identity.PROCESS]
    assert sorted(lists) == sorted(field.name for field in dataclasses.fields(Job))
    assert {field.part for field in record.FIELDS} == set(PARTS)


def test_what_makes_a_cell_is_what_it_was():
    """A change here changes which records count as one cell, in every report and comparison."""
    assert set(identity.CELL) == {
        *("problem", "problem_target", "problem_options", "method", "target", "method_options", "quantity", "vectors"),
        *("subset", "device", "dtype", "threads", "mode", "allocator", "seed", "memory_limit_gb", "limit_s", "measure"),
        *("interpreter", "code", "processes", "torch", "packages", "machine"),
        *("wrt", "per_sample", "parameters", "k", "damping"),
    }
    assert set(identity.MACHINE) == {"cpu", "cores", "gpu", "driver", "governor", "platform", "node"}
    assert set(identity.JSON) == {"problem_options", "method_options", "measure"}


@pytest.mark.parametrize("name", FIELDS)
def test_one_field_at_a_time_parts_cells_in_tables(frame_of, name):  # noqa: F811
    rows = Analysis(frame_of([seen(BASE), seen(of_job(name))])).cells
    assert len(rows) == (1 if name in identity.PROCESS else 2)
    text = readable(Analysis(frame_of([seen(BASE), seen(of_job(name))]))).drop(columns=["time", "message"])
    assert not text.duplicated().any(), "what parts two rows is shown"


@pytest.mark.parametrize("name", FIELDS)
def test_one_field_at_a_time_parts_cells_in_comparisons(frame_of, name):  # noqa: F811
    one, other = seen(BASE), seen(of_job(name))
    asked = name in identity.ASKED
    alone = compare(frame_of([one]), frame_of([other]))
    assert len(alone) == (0 if asked else 1)
    both = compare(frame_of([one, other]), frame_of([one, other]))
    merged = name in (*identity.PROCESS, *identity.RAN_BY)
    assert len(both) == (1 if merged else 2)
    assert both["cell"].nunique() == len(both), "cells have names of their own"


def test_options_in_another_order_are_the_same_cell(frame_of):  # noqa: F811
    orders = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    for field in ("problem_options", "method_options", "measure"):
        records = [cell(**{field: json.dumps(order)}, round=number) for number, order in enumerate(orders)]
        assert len(Analysis(frame_of(records)).cells) == 1
        assert Analysis(frame_of(records)).rows["label"].nunique() == 1
        assert len(compare(frame_of(records[:1]), frame_of(records[1:]))) == 1


def functions(*paths, **changes):
    """A record of each custom problem, all of the same size."""
    return [cell(**TWO, problem_target=path, **changes) for path in paths]


@pytest.mark.parametrize(
    ("records", "names"),
    [
        (functions("two.good", "two.bad"), ["good", "bad"]),
        (functions("a.net", "b.net", "b.other"), ["a.net", "b.net", "other"]),
        (functions("x.a.net", "y.a.net", "a.net"), ["x.a.net", "y.a.net", "a.net"]),
        ([*functions("two.mlp"), cell(problem_target="harness.problems.networks.mlp")], ["two.mlp", "mlp"]),
        ([cell(problem_target="networks.mlp"), cell(problem_target="two.good")], ["mlp networks.mlp", "mlp two.good"]),
        ([cell(**TWO), *functions("two.good", "two.bad")], ["custom", "good", "bad"]),
        ([cell(**TWO), *functions("two.good")], ["good", "good"]),
    ],
)
def test_problems_are_called_by_what_tells_them_apart(frame_of, records, names):  # noqa: F811
    assert frame_of(records)["problem_name"].tolist() == names


def test_a_row_of_conf_and_a_custom_problem_of_one_function_are_two(frame_of):  # noqa: F811
    records = [*functions("networks.mlp"), cell(problem_options="{}", problem_target="networks.mlp")]
    assert sorted(readable(Analysis(frame_of(records)))["problem"]) == ["mlp", "networks.mlp"]


def test_the_shortest_end_of_a_path_that_no_other_has():
    assert endings({"a.x.f", "b.x.f", "g"}) == {"a.x.f": "a.x.f", "b.x.f": "b.x.f", "g": "g"}
    assert endings({"a.f", "c.a.f", "c.g"}, least=2) == {"a.f": "a.f", "c.a.f": "c.a.f", "c.g": "c.g"}


def test_one_method_by_several_functions_is_several(frame_of):  # noqa: F811
    records = [
        cell("mine", target=f"{module}.{quantity}", quantity=quantity, params=9)
        for module in ("a", "b")
        for quantity in ("hessian", "diagonal")
    ]
    frame = frame_of([*records, cell("mine", target="a.own", params=9), cell("other", params=9)])
    assert sorted(set(frame["label"])) == ["mine a", "mine b", "mine own", "other"]
    assert len(readable(Analysis(frame))) == 6
    whole = frame_of(
        [cell("mine", target=f"methods.mine.{quantity}", quantity=quantity) for quantity in ("hessian", "diagonal")]
    )
    assert set(whole["label"]) == {"mine"}, "the quantities of one method are not told apart"


def sides():
    """Two functions of the same P, of which the second takes ten times as long by one of two methods, over sizes."""
    for path, factor in (("two.good", 1.0), ("two.bad", 10.0)):
        for method in ("rows", "vmap_hvp"):
            slow = factor if method == "rows" else 2.0
            for width in (2, 4, 8, 16):
                yield cell(
                    method,
                    width,
                    **TWO | {"problem_options": json.dumps({"width": width})},
                    problem_target=path,
                    times_s=[slow * width] * 3,
                    sketch=[slow] * 32,
                )


def test_no_statistic_of_a_report_takes_two_functions_together(frame_of):  # noqa: F811
    frame = frame_of([*sides()])
    assert {fit.problem for fit in fits(Analysis(frame))} == {"good", "bad"}
    assert crossovers(Analysis(frame)) == []
    found = speedups(Analysis(frame), "vmap_hvp")
    assert {place: set(rows["speedup"]) for place, rows in found.groupby("problem")} == {
        "good, hessian": {2.0},
        "bad, hessian": {0.2},
    }
    assert len(times_over_best(Analysis(frame))) == 8
    assert {title.split(",")[0] for title, _ in comparable(Analysis(frame))} == {"good", "bad"}
    assert set(outcomes(Analysis(frame))["network"]) == {"good", "bad"}
    assert sorted(leader.problem for leader in leaderboard(Analysis(frame))) == ["bad"] * 4 + ["good"] * 4
    assert [ax.get_title("left") for ax in time_against_size(Analysis(frame)).axes] == ["bad, hessian", "good, hessian"]
    assert len(cell_tables(Analysis(frame))) == 2
    text = shown(frame)
    assert "good" in text
    assert "bad" in text


def test_no_history_takes_two_functions_together(frame_of, tmp_path):  # noqa: F811
    for night in range(1, 6):
        for number, path in enumerate(("two.good", "two.bad")):
            entry = cell(**TWO, problem_target=path, times_s=[1.0 + number] * 3, started=f"2026-11-0{night}T02:00:00Z")
            record.write(entry, tmp_path / f"night{night}" / str(number) / "record.json")
    found = histories(Analysis(record.load(tmp_path)))
    assert sorted(history.cell.split(",")[0] for history in found) == ["bad", "good"]
    assert all(history.nights["time_s"].nunique() == 1 for history in found)


def test_a_regression_of_one_function_is_not_hidden_by_another(frame_of):  # noqa: F811
    asked = {"passes": "agreement", "tolerance": 1e-5}
    base = functions("two.good", "two.bad", relative_error=1e-7, **asked)
    candidate = [
        *functions("two.good", relative_error=1e-7, **asked),
        *functions("two.bad", status="wrong", relative_error=0.5, **asked),
    ]
    found = compare(frame_of(base), frame_of(candidate)).set_index("problem_target")["verdict"]
    assert found["two.bad"] == "broken"
    assert found["two.good"] != "broken"


def test_records_without_functions_match_those_that_have_them(frame_of):  # noqa: F811
    old = cell(target=None)
    new = cell(problem_target="harness.problems.networks.mlp")
    assert len(compare(frame_of([old]), frame_of([new]))) == 1
    assert len(Analysis(frame_of([old, new | {"round": 1}])).cells) == 1


def test_a_limit_or_sampling_in_several_ways_parts_cells_of_a_comparison(frame_of):  # noqa: F811
    short, long = cell(limit_s=1.0, status="timeout", times_s=None), cell(limit_s=60.0)
    found = compare(frame_of([short, long]), frame_of([short, long]))
    assert found["reason"].tolist().count("timeout in both") == 1
    assert len(found) == 2
    assert len(compare(frame_of([cell(limit_s=30.0)]), frame_of([long]))) == 1, "another limit alone parts nothing"


def test_a_folder_is_called_by_the_function():
    job = dataclasses.replace(BASE, problem="custom", problem_target="two.good")
    assert job.key.startswith("good-create_graph_rows-hessian-")
    assert BASE.key.startswith("mlp-")


def test_cells_that_could_not_be_composed_keep_their_functions(tmp_path):
    for path in ("two.good", "two.bad"):
        sweep._record_failure(["problem=custom", f"problem._target_={path}", "dtype=none"], ValueError("no"), tmp_path)
    assert sorted(record.load(tmp_path)["problem_name"]) == ["bad", "good"]
