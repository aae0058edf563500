"""Advice: times are extrapolated right, methods ranked and checked whole, the code runs, bad input is one line."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from harness.advise import room, survey
from harness.advise.advice import SLOWER, Advice, Survey
from harness.advise.command import asked, main
from harness.advise.expectation import expected, sizes
from harness.advise.output import as_json, as_text
from harness.advise.snippet import snippet
from harness.advise.trial import Trial
from harness.run.launcher import Launcher


@pytest.fixture(autouse=True)
def _one_server(launcher, monkeypatch):
    """Every survey uses the session's launcher, whose server has started."""
    monkeypatch.setattr(survey, "Launcher", lambda: nullcontext(launcher))


SMALL = ("problem=mlp", "problem.width=3", "problem.inputs=3", "problem.batch=4", "measure.budget_s=0.02")


@pytest.mark.parametrize(
    ("points", "size", "value"),
    [
        ([(64, 1.0), (128, 2.0)], 1024, 16.0),
        ([(64, 5.0), (128, 5.0)], 1024, 5.0),
        ([(64, 5.0), (128, 4.0)], 1024, 4.0),
        ([(64, 1.0), (128, 4.0)], 512, 64.0),
        ([(64, 9.0), (128, 1.0), (200, 3.0)], 200, 3.0),
        ([(30, 2.0)], 30, 2.0),
        ([(64, 2.0)], 128, 4.0),
    ],
)
def test_the_line_or_the_power_law_is_followed(points, size, value) -> None:
    assert expected(points, size) == pytest.approx(value)


def test_sizes_end_with_all_parameters() -> None:
    assert sizes(12) == [12]
    assert sizes(100) == [100]
    assert sizes(261) == [64, 261]
    assert sizes(5000) == [64, 256, 1024, 5000]


def surveyed(overrides, output):
    """The survey of some overrides."""
    jobs, memory_gb, precision = asked([*SMALL, *overrides])
    return survey.survey(jobs, output, memory_gb, precision)


def test_methods_are_ranked_and_the_unfit_named(tmp_path) -> None:
    names = "create_graph_rows,func_hessian,naive_loop,backpack,double_loop_no_create_graph,factored"
    found = surveyed(["problem=mlp_layernorm", "dtype=float64", f"method={names}"], tmp_path)
    by_name = {advice.method: advice for advice in found.advice}
    assert found.lacking == ("backpack",)
    assert by_name["func_hessian"].status == "wrong"
    assert by_name["double_loop_no_create_graph"].status == "error"
    order = [advice.method for advice in found.advice]
    assert set(order[:2]) == {"create_graph_rows", "factored"}, "what is right comes first"
    assert by_name["naive_loop"].status in ("ok", SLOWER), "by how much it is slower depends on the machine"
    assert order.index("create_graph_rows") < order.index("naive_loop"), "and the faster before the slower"
    assert by_name["create_graph_rows"].asks == ("loss", "theta")
    assert by_name["factored"].asks == ("model", "criterion", "inputs", "targets")
    assert by_name["create_graph_rows"].error < 1e-12
    assert by_name["create_graph_rows"].peak_bytes > 0
    assert all(advice.whole for advice in found.advice[:2])
    text = as_text(found)
    assert "Left out, since they lack quantity=hessian: 1 of 6 methods" in text
    assert "backpack" not in text


def test_the_command_line_gives_one_line_for_a_wrong_word(capsys) -> None:
    for arguments, words in (
        (["problem=nowhere"], "nowhere"),
        (["problem=mlp", "method=nothing"], "nothing"),
        (["problem=mlp", "colour=red"], "colour"),
        (["problem=mlp", "dtype=float12"], "dtype=float12 is not known; choose one of float64"),
        (["problem=mlp", "mode=compiled"], "mode=compiled: advice is on torch as it is"),
        (["problem=custom"], "problem=custom names no function"),
        (["memory_gb=much"], "memory_gb=much must be a positive number"),
        (["memory_gb=-1"], "memory_gb=-1 must be a positive number of gigabytes"),
    ):
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (["problem._target_=tests.whole.named", "+problem.key=y"], r"the loss raised KeyError: 'z' \(whole\.py"),
        (["problem._target_=tests.whole.absent"], r"tests\.whole\.absent cannot be imported"),
        (["problem._target_=tests.whole.network", "+problem.kind=round"], r"raised KeyError: 'round'"),
    ],
)
def test_a_problem_that_fails_stops_all_before_a_method_is_run(problem, words, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Launcher, "run", lambda *_: pytest.fail("a method was run"))
    assert main(["problem=custom", *problem]) == 1
    printed = capsys.readouterr()
    assert re.search(words, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_reference_that_fails_stops_all(job, monkeypatch, tmp_path) -> None:
    failed = {"status": "error", "message": "the reference cannot be computed: no"}
    monkeypatch.setattr(Launcher, "_reference", lambda *_: failed)
    monkeypatch.setattr(Launcher, "run", lambda *_: pytest.fail("a method was run"))
    with pytest.raises(survey.ProblemFailure, match="cannot be computed: no"):
        survey.survey([job()], tmp_path)


def test_memory_and_progress_on_the_command_line(capsys) -> None:
    assert main([*SMALL, "method=create_graph_rows,batched_rows", "memory_gb=0.000001"]) == 1
    printed = capsys.readouterr()
    assert "are more than memory_gb=1e-06" in printed.out
    for line in ("1/2 check create_graph_rows: ok", "2/2 check batched_rows: ok"):
        assert line in printed.err
    assert re.search(r"2/2 time (batched_rows|create_graph_rows): [\d.]+ .?s, about", printed.err)


def test_json_is_alone_on_stdout_and_documented(capsys) -> None:
    assert main([*SMALL, "method=create_graph_rows,backpack,jacrev_grad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"] == 32
    assert found["lacking"] == ["backpack"]
    assert found["best"] == found["methods"][0]["method"]
    assert found["code"] == found["methods"][0]["code"]
    assert found["cut"] == []
    documented = set(re.findall(r"`(\w+)`", as_json.__doc__))
    assert found.keys() | found["methods"][0].keys() == documented


@pytest.mark.parametrize(
    ("problem", "quantity", "method"),
    [
        (["problem=mlp", "problem.width=3"], "hessian", "jacrev_grad"),
        (["problem=mlp", "problem.width=3", "subset=7"], "hessian", "create_graph_rows"),
        (["problem=mlp", "problem.width=3", "problem.batches=3", "subset=7"], "hessian", "create_graph_rows"),
        (["problem=mlp", "problem.width=3", "problem.batches=3"], "hvp", "vmap_hvp"),
        (["problem=transformer", "problem.attention=sdpa", "problem.width=4"], "hessian", "vmap_hvp"),
        (["problem=rosenbrock"], "hessian", "create_graph_rows"),
        (["problem=custom", "problem._target_=tests.whole.named"], "hessian", "factored"),
        (["problem=custom", "problem._target_=tests.whole.named"], "diagonal", "create_graph_rows"),
        (["problem=custom", "problem._target_=tests.examples.custom_problem.my_problem"], "hvp", "vmap_hvp"),
    ],
)
@pytest.mark.usefixtures("by_products")
def test_the_code_runs_and_computes_the_quantity(problem, quantity, method, tmp_path) -> None:
    overrides = [*problem, f"quantity={quantity}", f"method={method}", "dtype=float64", "vectors=3"]
    jobs, _, _ = asked([*overrides, "measure.budget_s=0.02"])
    found = survey.survey(jobs, tmp_path)
    named: dict = {}
    exec(snippet(found, found.best), named)
    true = torch.autograd.functional.hessian(named["problem"].loss, named["problem"].theta)
    if quantity == "diagonal":
        true = true.diagonal()
    if quantity == "hvp":
        assert named["vectors"].shape == (found.params, 3)
        true = true @ named["vectors"]
    assert torch.allclose(named["result"], true, rtol=1e-8, atol=1e-10)
    if method == "factored":
        assert len(snippet(found, found.best).splitlines()) == 6, "three imports, a blank line, two lines"


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
    best, *others = survey.survey([*chosen, on_whole(job)], tmp_path).advice
    assert (best.method, best.status, best.checked, best.params, best.whole) == ("hessian", "ok", 85, 85, True)
    assert {advice.method: advice.status for advice in others} == {
        "raises_beyond": "error",
        "wrong_beyond": "wrong",
        "decorated": "error",
        "assigned": "error",
        "called": "error",
    }
    assert all(advice.time_s is None for advice in others)
    assert all("is no network of mine" in advice.message for advice in others if "model" in advice.asks)
    assert sum(advice.asks == ("model", "criterion", "inputs", "targets") for advice in others) == 3


def test_what_is_far_slower_or_does_not_finish_is_cut_and_reported(job, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.advise.trial.FAR", 2.0)  # on a busy machine the other is not twenty times as fast
    limits = {"asleep": 10.0, "idle": 40.0}
    chosen = [on_whole(job, target=f"tests.whole.{name}", limit_s=limit_s) for name, limit_s in limits.items()]
    found = survey.survey([*chosen, on_whole(job, limit_s=40.0)], tmp_path)
    assert [advice.status for advice in found.advice if advice.method == "idle"] == [SLOWER]
    assert [advice.status for advice in found.advice if advice.method == "asleep"] == ["timeout"]
    text = as_text(found)
    assert re.search(r"idle: slower, [\d.]+ ms for \d+ parameters, \d+ x hessian", text)
    assert "The ranking was cut by time limits; raise limit_s=10 to measure more:" in text
    assert "  asleep: not finished within 2.5 s for 64 of 85 parameters" in text
    assert as_json(found)["cut"] == ["asleep"]


@pytest.mark.parametrize("kind", ["flat", "slope", "cubic"])
def test_networks_are_checked_whole_by_what_looks_at_their_layers(job, tmp_path, kind) -> None:
    targets = ("methods.factored.diagonal", "methods.create_graph_rows.diagonal")
    chosen = [replace(on_whole(job, kind, target, quantity="diagonal"), method=target) for target in targets]
    for advice in survey.survey(chosen, tmp_path).advice:
        if advice.time_s is not None:
            assert advice.whole
            assert advice.error < 1e-10


def advised(job, **changes):
    """The advice on a method that was checked in 64 of 85 parameters."""
    known = {"time_s": 1.0, "peak_bytes": 1e6, "error": 0.0, "timed": 64, "checked": 64}
    return Advice(job, ("loss", "theta"), "ok", None, 85, **(known | changes))


def trial(launcher, output, memory_gb=None, params=85, has_reference=True):
    """A trial on the networks of 85 parameters."""
    return Trial(launcher, output, params, memory_gb, has_reference)


def test_what_cannot_be_afforded_is_not_checked_whole(job, tmp_path) -> None:
    for dear in ({"time_s": 31.0}, {"peak_bytes": 1e18}):
        advice = advised(on_whole(job), **dear)
        assert trial(None, tmp_path).checked_whole(advice) is advice, "nothing is launched"


def test_the_table_keeps_names_and_digits_within_80_columns(job) -> None:
    long = "vmap_hvp_reverse_over_forward_of"
    big = advised(job(method=long), time_s=0.1234, peak_bytes=123456e6, timed=16384, checked=20000, error=1.2e-10)
    cut = advised(job(method="short"), cut_s=5.0, peak_bytes=None, error=None, checked=0)
    found = Survey((replace(big, params=20000), cut), (), job(), 20000, {"seed": 0}, None, None)
    table = as_text(found).split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 80
    assert table[1].split() == [long, "123", "ms", "123456", "1e-10", "16384", "20000"]
    assert table[2].split() == ["short", "1", "s", "?", "?", "64", "no"]
    assert "short: timed for 64 of 85 parameters within 5 s" in as_text(found)
    assert "extrapolated" in as_text(found)


def test_a_reference_that_takes_too_long_says_nothing_against_a_method_of_the_network(
    job, launcher, tmp_path, monkeypatch
) -> None:
    late = {"status": "timeout", "message": "the reference pass took longer", "worked_s": 1.0}
    monkeypatch.setattr(launcher, "_reference", lambda *_: late)
    one = trial(launcher, tmp_path)
    advice = one.whole(one.asked(on_whole(job, target="methods.factored.hessian")))
    assert (advice.status, advice.whole, advice.checked, advice.error) == ("ok", False, 0, None)
    assert advice.time_s > 0


@pytest.mark.parametrize(("memory_gb", "ram"), [(1e-6, 1e12), (None, 1e5), (1.0, 1e5)])
def test_a_result_beyond_memory_is_a_sentence(job, tmp_path, monkeypatch, memory_gb, ram) -> None:
    monkeypatch.setattr(room, "machine_bytes", lambda: ram)
    one = trial(None, tmp_path, memory_gb)
    advice = one.whole(one.asked(on_whole(job, target="methods.factored.hessian")))
    assert (advice.status, advice.time_s) == ("oom", None)
    assert "not run: the result alone, 85 x 85 entries of float64" in advice.message
    assert ("half of this machine's memory" if ram < 1e6 else "memory_gb=1e-06") in advice.message
    assert room.refusal(on_whole(job, quantity="diagonal"), 10**9, memory_gb) is None


def test_a_method_that_cannot_be_found_says_so(job, tmp_path) -> None:
    chosen = [on_whole(job, target=target) for target in ("nowhere.hessian", "tests.whole.nothing")]
    found = survey.survey(chosen, tmp_path)
    assert "nowhere.hessian cannot be imported" in found.advice[0].message
    assert found.lacking == ("nothing",)
    assert found.best is None


def test_problems_of_few_parameters_are_checked_in_all_of_them(job, tmp_path) -> None:
    few = job(problem_options={"inputs": 2, "width": 2, "outputs": 2, "batch": 4}, passes=("time",))
    (advice,) = survey.survey([few], tmp_path).advice
    assert (advice.status, advice.checked, advice.timed, advice.params) == ("ok", 12, 12, 12)
