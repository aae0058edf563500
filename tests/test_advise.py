"""Advice: lines are followed right, methods are ranked and judged on the whole problem, and bad input is told."""

import dataclasses
import io

import pytest
from rich.console import Console

from harness import advise
from harness.advise import expectation


@pytest.mark.parametrize(
    ("points", "size", "value"),
    [
        ([(64, 1.0), (128, 2.0)], 1024, 16.0),
        ([(64, 5.0), (128, 5.0)], 1024, 5.0),
        ([(64, 5.0), (128, 4.0)], 1024, 4.0),
        ([(64, 1.0), (128, 4.0)], 512, 64.0),
        ([(64, 9.0), (128, 1.0), (200, 3.0)], 200, 3.0),
        ([(30, 2.0)], 30, 2.0),
    ],
)
def test_the_line_or_the_power_law_is_followed(points, size, value) -> None:
    assert expectation.expected(points, size) == pytest.approx(value)


def test_ways_are_ranked_and_the_unfit_named(tmp_path) -> None:
    ways = advise.advise(
        [
            "problem=mlp_layernorm",
            "problem.width=3",
            "problem.inputs=3",
            "problem.batch=4",
            "dtype=float64",
            "method=create_graph_rows,func_hessian,naive_loop,backpack,curvlinops,factored",
            "measure.budget_s=0.02",
        ],
        tmp_path,
    )
    found = {way.method: way for way in ways}
    assert found["func_hessian"].status == "wrong"
    assert found["backpack"].status == "unsupported"
    ranked = [way.method for way in ways[:3]]
    assert sorted(ranked) == ["create_graph_rows", "factored", "naive_loop"], "what is right comes before what is not"
    assert ranked.index("create_graph_rows") < ranked.index("naive_loop"), "and the faster first"
    assert found["create_graph_rows"].call == "methods.create_graph_rows.hessian(loss, theta)"
    assert found["factored"].call == "methods.factored.hessian(model, criterion, inputs, targets)"
    assert found["create_graph_rows"].error < 1e-12
    assert found["create_graph_rows"].peak_bytes > 0
    assert all(way.whole for way in ways[:3])


def test_the_command_line(capsys) -> None:
    assert (
        advise.main(
            [
                "problem=mlp",
                "problem.width=3",
                "problem.inputs=3",
                "method=create_graph_rows",
                "memory_gb=0.000001",
                "measure.budget_s=0.02",
            ]
        )
        == 1
    )
    assert "are more than memory_gb=1e-06" in capsys.readouterr().out
    assert advise.main(["problem=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert advise.main(["memory_gb=much"]) == 2
    assert "much" in capsys.readouterr().err
    assert advise.main(["memory_gb=-1"]) == 2
    assert "memory_gb=-1 must be a positive number" in capsys.readouterr().err


def on_whole(job, kind="flat", target="methods.create_graph_rows.hessian", **changes):
    """A job on one of the networks, of 85 parameters."""
    return job(
        problem="custom",
        problem_target="tests.whole.network",
        problem_options={"kind": kind},
        target=target,
        method=target.split(".")[-1],
        **changes,
    )


def test_what_fails_on_the_whole_problem_is_not_recommended(job, tmp_path) -> None:
    names = ("raises_beyond", "wrong_beyond", "decorated", "assigned", "called")
    chosen = [on_whole(job, target=f"tests.whole.{name}") for name in names]
    ways = advise.ranked([*chosen, on_whole(job)], tmp_path)
    best, *others = ways
    assert (best.method, best.status, best.judged, best.params, best.whole) == ("hessian", "ok", 85, 85, True)
    assert {way.method: way.status for way in others} == {
        "raises_beyond": "error",
        "wrong_beyond": "wrong",
        "decorated": "error",
        "assigned": "error",
        "called": "error",
    }
    assert all(way.time_s is None for way in others)
    assert all("is no network of mine" in way.message for way in others if way.call.endswith("inputs, targets)"))
    assert sum(way.call.endswith("(model, criterion, inputs, targets)") for way in others) == 3


def test_networks_are_judged_whole_by_what_looks_at_their_layers(job, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(advise, "TOP", 4)
    chosen = [
        on_whole(job, kind, "methods.factored.diagonal", quantity="diagonal") for kind in ("flat", "slope", "cubic")
    ]
    chosen.append(on_whole(job, "slope", "methods.create_graph_rows.diagonal", quantity="diagonal"))
    for way in advise.ranked(chosen, tmp_path):
        if way.time_s is not None:
            assert way.whole
            assert way.error < 1e-10


def test_what_cannot_be_afforded_is_judged_in_few_parameters_and_says_so(job) -> None:
    way = expectation.Advice("a", "a(loss)", "ok", None, time_s=1.0, peak_bytes=1e6, error=0.0, judged=64, params=85)
    for dear in ({"time_s": 31.0}, {"peak_bytes": 1e18}):
        unlike = dataclasses.replace(way, **dear)
        assert expectation.judged_whole(None, unlike, on_whole(job), None) is unlike, "nothing is launched"
    console = Console(file=io.StringIO(), width=120)
    advise.show([way, dataclasses.replace(way, method="b", judged=85, whole=True)], None, console)
    assert "64 of 85" in console.file.getvalue()
    assert "whole" in console.file.getvalue()


def test_a_reference_that_takes_too_long_says_nothing_against_a_method_of_the_network(
    job, launcher, tmp_path, monkeypatch
) -> None:
    late = {"status": "timeout", "message": "the reference pass took longer", "worked_s": 1.0}
    monkeypatch.setattr(launcher, "_truth", lambda *_: late)
    way = expectation.expect(launcher, on_whole(job, target="methods.factored.hessian"), tmp_path)
    assert (way.status, way.whole, way.judged, way.error, way.params) == ("ok", False, 0, None, 85)
    assert way.time_s > 0


@pytest.mark.parametrize(("memory_gb", "ram"), [(1e-6, 1e12), (None, 1e5), (1.0, 1e5)])
def test_a_result_beyond_memory_is_a_sentence(job, launcher, tmp_path, monkeypatch, memory_gb, ram) -> None:
    monkeypatch.setattr(expectation, "_ram", lambda: ram)
    way = expectation.expect(launcher, on_whole(job, target="methods.factored.hessian"), tmp_path, memory_gb)
    assert (way.status, way.time_s, way.params) == ("oom", None, 85)
    assert "not run: the result alone, 85 x 85 entries of float64" in way.message
    assert ("half of this machine's memory" if ram < 1e6 else "memory_gb=1e-06") in way.message
    diagonal = on_whole(job, quantity="diagonal", target="methods.factored.diagonal")
    assert expectation._beyond(diagonal, 10**9, memory_gb) is None


def test_a_method_that_cannot_be_found_says_so(job, launcher, tmp_path) -> None:
    for target, words in (
        ("nowhere.hessian", "nowhere.hessian cannot be imported"),
        ("tests.whole.nothing", "has no function nothing"),
    ):
        way = expectation.expect(launcher, on_whole(job, target=target), tmp_path)
        assert words in way.message
        assert way.time_s is None


def test_problems_of_few_parameters_are_judged_in_all_of_them(job, launcher, tmp_path) -> None:
    few = job(problem_options={"inputs": 2, "width": 2, "outputs": 2, "batch": 4}, passes=("time",))
    way = expectation.expect(launcher, few, tmp_path)
    assert (way.status, way.judged, way.params) == ("ok", 12, 12)
