"""Advice with a precision: the least budget that states it, estimates apart from exact methods, and bad values."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from harness.advise import room, survey
from harness.advise.advice import COARSE, ESTIMATE
from harness.advise.budgets import ENOUGH, budgets, has_budget, is_below
from harness.advise.command import asked, main
from harness.advise.output import as_json, as_text
from harness.advise.snippet import snippet
from harness.problems import networks
from harness.problems.binding import bind
from harness.truth.stated import stated
from methods.estimates import Bounded, Estimate, Spectrum

SMALL = ("problem=mlp", "problem.width=3", "problem.inputs=3", "problem.batch=4", "measure.budget_s=0.02")


@pytest.fixture(autouse=True)
def _one_server(launcher, monkeypatch):
    monkeypatch.setattr(survey, "Launcher", lambda: nullcontext(launcher))


def surveyed(overrides, output):
    jobs, memory_gb, precision = asked([*SMALL, "dtype=float64", *overrides])
    return survey.survey(jobs, output, memory_gb, precision)


def test_counts_double_and_tolerances_fall() -> None:
    counts = [options["probes"] for options in budgets({"probes": 64, "seed": 0}, 0.1)]
    assert counts[:3] == [16, 32, 64]
    assert all(options["seed"] == 0 for options in budgets({"probes": 64, "seed": 0}, 0.1))
    tolerances = list(budgets({"tolerance": 1e-5, "most_products": 10, "seed": 3}, 1e-2))
    assert tolerances[0] == {"tolerance": 1e-2, "most_products": ENOUGH, "seed": 3}
    assert tolerances[1]["tolerance"] == pytest.approx(1e-3)
    assert is_below({"probes": 16}, {"probes": 64})
    assert not is_below({"probes": 64}, {"probes": 64})
    assert [has_budget(options) for options in ({"products": 8}, {"chunk_size": 8}, {"most_products": 8})] == [
        True,
        False,
        True,
    ]


def test_what_is_stated_is_relative_to_the_result() -> None:
    value, error = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    found = stated(Estimate(value, error, 11), "diagonal")
    assert found == {"stated_error": pytest.approx(2.228139 * 0.1, rel=1e-6), "products": 11}, "t of 10 degrees"
    assert stated(Bounded(value, error, 5), "eigenvalues")["stated_error"] == pytest.approx(0.1)
    assert stated(Bounded(value[:, None], error[:1], 5), "ihvp")["stated_error"] == pytest.approx(0.3)
    assert stated(Bounded(value, error, 5), "diagonal")["stated_error"] == pytest.approx(0.1)
    moments = torch.ones(4)
    spectrum = Spectrum(value, value / 7, moments, 0.1 * moments, 9)
    assert stated(spectrum, "spectrum") == {"stated_error": pytest.approx(0.196, rel=1e-3), "products": 9}
    assert stated(spectrum._replace(moment_errors=0 * moments), "spectrum")["stated_error"] is None
    assert stated(value, "diagonal") == {"stated_error": None, "products": None}


def test_an_estimate_takes_the_least_budget_that_states_the_precision(tmp_path) -> None:
    found = surveyed(["quantity=diagonal", "method=hutchinson,create_graph_rows", "precision=0.3"], tmp_path)
    by_name = {advice.method: advice for advice in found.advice}
    estimate = by_name["hutchinson"]
    assert estimate.status == "ok"
    probes = estimate.job.method_options["probes"]
    assert estimate.products == probes
    assert 0 < estimate.stated <= 0.3
    assert estimate.error < 1
    problem = networks.mlp(width=3, inputs=3, batch=4)
    bound = bind(replace(estimate.job, method_options=estimate.job.method_options | {"probes": probes // 2}), problem)
    assert probes == 16 or stated(bound.call(), "diagonal")["stated_error"] > 0.3
    assert by_name["create_graph_rows"].stated is None
    assert f"probes={probes}" in snippet(found, estimate)
    text = as_text(found)
    assert re.search(r"hutchinson +\S+ .?s .* \de-\d\d +\d+\n", text)
    assert "quantity=diagonal, precision=0.3, float64" in text
    (entry,) = [entry for entry in as_json(found)["methods"] if entry["method"] == "hutchinson"]
    assert (entry["stated_error"], entry["products"]) == (estimate.stated, probes)


def test_without_a_precision_estimates_are_left_out(tmp_path) -> None:
    found = surveyed(["quantity=diagonal", "method=hutchinson,create_graph_rows"], tmp_path)
    assert [(advice.method, advice.status) for advice in found.advice][1] == ("hutchinson", ESTIMATE)
    assert found.best.method == "create_graph_rows"
    text = as_text(found)
    assert "Left out, since they estimate (precision=1e-2 lets them in): hutchinson" in text.replace("\n  ", " ")
    assert "stated" not in text


@pytest.mark.parametrize(
    ("quantity", "method", "size"),
    [("eigenvalues", "lanczos", (4,)), ("ihvp", "minres", (32, 2)), ("hvp", "vmap_hvp", (32, 2))],
)
def test_the_code_computes_what_was_asked_to_the_precision(tmp_path, quantity, method, size) -> None:
    asks = [f"quantity={quantity}", f"method={method}", "precision=1e-4", "k=3", "vectors=2", "damping=0.5"]
    found = surveyed(asks, tmp_path)
    best = found.best
    assert best.whole
    named: dict = {}
    exec(snippet(found, best), named)
    true = torch.autograd.functional.hessian(named["problem"].loss, named["problem"].theta)
    value = named["result"] if quantity == "hvp" else named["result"].value
    assert value.shape == size
    if quantity == "eigenvalues":
        eigenvalues = torch.linalg.eigvalsh(true)
        expected = torch.cat([eigenvalues[eigenvalues.abs().argsort(descending=True)[:3]], eigenvalues[:1]])
    elif quantity == "hvp":
        expected = true @ named["vectors"]
    else:
        expected = torch.linalg.solve(true + 0.5 * torch.eye(32), named["vectors"])
    assert float((value - expected).norm() / expected.norm()) < 1e-2
    assert quantity == "hvp" or best.stated <= 1e-4


def test_a_precision_out_of_reach_is_a_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.advise.budgets.LARGEST", 32)
    found = surveyed(["quantity=diagonal", "method=hutchinson", "precision=1e-6"], tmp_path)
    (advice,) = found.advice
    assert (advice.status, found.best) == (COARSE, None)
    assert re.fullmatch(r"above precision=1e-06; it stated an error of \S+ with 32 products", advice.message)
    assert "hutchinson: coarse, above precision=1e-06" in as_text(found)


def test_a_truth_that_cannot_be_computed_is_reported(tmp_path) -> None:
    jobs, _, precision = asked([*SMALL, "quantity=ihvp", "method=minres", "precision=1e-3", "damping=0.5"])
    failed = {"status": "error", "message": "no truth at all"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.run.launcher.Launcher.reference", lambda *_: failed)
        found = survey.survey(jobs, tmp_path, None, precision)
    assert found.best.method == "minres"
    assert found.best.error is None
    assert "No result was compared with the truth: no truth at all" in as_text(found)
    assert as_json(found)["unchecked"] == "no truth at all"


@pytest.mark.parametrize("text", ["1", "0", "-0.1", "much", "nan", "inf", ""])
def test_a_precision_that_is_none_is_one_line(text, capsys) -> None:
    assert main([*SMALL, f"precision={text}"]) == 2
    printed = capsys.readouterr()
    assert f"precision={text} must be a relative error above 0 and below 1, such as 1e-2" in printed.err
    assert printed.err.count("\n") == 1


def test_derivatives_of_each_sample_are_refused(capsys) -> None:
    assert main([*SMALL, "method=vmap_hvp", "wrt=inputs"]) == 2
    assert "advice is on the derivatives of the whole loss" in capsys.readouterr().err


def test_an_exact_method_is_not_given_a_matrix_beyond_memory(job, monkeypatch) -> None:
    monkeypatch.setattr(room, "machine_bytes", lambda: 1e6)
    exact = job(quantity="eigenvalues")
    refusal = room.refusal(exact, 1000, None)
    assert "the matrix and its factor, 1000 x 1000 entries of float64, takes 0.016 GB" in refusal
    assert "precision=1e-3, which lets estimates in" in refusal
    assert room.refusal(replace(exact, method_options={"most_products": 10}), 1000, None) is None
    assert room.refusal(replace(exact, quantity="trace"), 1000, None) is None
    assert room.held_bytes(exact, 10) == 1600
