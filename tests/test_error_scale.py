"""Hessians that are zero up to rounding: right results are ok, wrong ones are found, small real ones stay relative."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from harness.problems import from_function
from harness.truth import agreement
from harness.truth.reference import reference
from tests.judging import DIFFERENCES, FULL, by_autograd

D = torch.float64
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=D)


MATRIX, X = drawn(3, 3), drawn(8, 4)
ZEROS = {
    "linear": from_function(lambda x: (3 * x).sum() + 2, drawn(4)),
    "softmax_shift": from_function(
        lambda c, X: (torch.logsumexp(X + c, 1) - X[:, 0] - c).mean(), torch.zeros(1, dtype=D), (X,)
    ),
    "batch_norm_shift": from_function(
        lambda b, X: functional.batch_norm(X + b, None, None, training=True).pow(3).mean(), drawn(4), (X,)
    ),
    "layer_norm_shift": from_function(
        lambda c, X: functional.layer_norm(X + c.sum(), (4,)).exp().mean(), drawn(2), (X,)
    ),
    "relu_linear": from_function(lambda x: x.relu().sum(), drawn(6)),
    "softmax_sum": from_function(lambda x: x.softmax(0).sum(), drawn(5)),
}
SMALL = {
    "nearly_linear": from_function(lambda x: x.sum() + 1e-8 * (x**3).sum(), drawn(5)),
    "steep": from_function(lambda x: 1e4 * x.sum() + 1e-6 * (x**4).sum(), drawn(5)),
    "offset": from_function(lambda x: 1e6 + 1e-3 * (x**2).sum(), drawn(5)),
    "tiny": from_function(lambda x: 1e-12 * (x**4).sum(), drawn(5)),
}


def parts(matrix, quantity, vectors):
    """A quantity's result from a matrix; its blocks are the whole of these problems."""
    return {"hessian": matrix, "diagonal": matrix.diagonal(), "hvp": matrix @ vectors, "block_diagonal": (matrix,)}[
        quantity
    ]


def verdict(problem, quantity, dtype, measure, change=lambda matrix: matrix):
    vectors = drawn(len(problem.theta), 2)
    truth = reference(problem, vectors if quantity == "hvp" else None, measure, 0, quantity)
    matrix = change(by_autograd(problem.to("cpu", dtype)))
    return agreement.compare(parts(matrix, quantity, vectors.to(dtype)), quantity, truth)


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp", "block_diagonal"])
@pytest.mark.parametrize("name", ZEROS)
def test_zeros_up_to_rounding(name, quantity) -> None:
    problem = ZEROS[name]
    for dtype in DTYPES:
        seen = verdict(problem, quantity, dtype, FULL)
        assert seen["status"] == "ok", seen["message"]
        assert "zero up to rounding" in seen["message"]
        assert verdict(problem, quantity, dtype, FULL, torch.zeros_like)["status"] == "ok"
    for dtype, wrong in ((torch.float64, 1e-6), (torch.float32, 1.0)):
        found = verdict(problem, quantity, dtype, FULL, lambda matrix, wrong=wrong: matrix + wrong)
        assert found["status"] == "wrong"


@pytest.mark.parametrize("name", ZEROS)
def test_by_differences_too(name) -> None:
    assert verdict(ZEROS[name], "hessian", torch.float64, DIFFERENCES)["status"] == "ok"
    assert verdict(ZEROS[name], "hessian", torch.float64, DIFFERENCES, lambda m: m + 1)["status"] == "wrong"


@pytest.mark.parametrize("name", SMALL)
def test_a_small_hessian_that_is_real_is_judged_relatively(name) -> None:
    for dtype in DTYPES:
        assert verdict(SMALL[name], "hessian", dtype, FULL)["status"] == "ok"
        for change in (torch.zeros_like, lambda matrix: 1.1 * matrix):
            assert verdict(SMALL[name], "hessian", dtype, FULL, change)["status"] == "wrong"


def test_a_zero_diagonal_of_a_matrix_that_is_not() -> None:
    """x^T A y: the blocks on the diagonal are zero, and rounding of the size of A is no error."""
    problem = from_function(lambda z, A: z[:3] @ A @ z[3:], drawn(6), (MATRIX,))
    truth = reference(problem, None, FULL, 0, "diagonal")
    noise = drawn(6)
    for dtype, right, wrong in ((torch.float64, 1e-15, 1e-9), (torch.float32, 1e-7, 1e-2)):
        assert agreement.compare((right * noise).to(dtype), "diagonal", truth)["status"] == "ok"
        assert agreement.compare((wrong * noise).to(dtype), "diagonal", truth)["status"] == "wrong"


def test_cancellation_that_leaves_something_widens_the_tolerance() -> None:
    """exp(c x) - 1 - c x by its terms: c^2 is left of terms of size 1, with the rounding of these."""

    def objective(x):
        c = 1e-7
        return ((torch.exp(c * x + 5) * (x * 0 + 1) - torch.exp(5 + 0 * x) * (1 + c * x)) / 1).sum()

    problem = from_function(objective, drawn(3))
    truth = reference(problem, None, dataclasses.replace(FULL), 0)
    found = by_autograd(problem.to("cpu", torch.float32))
    assert agreement.compare(by_autograd(problem), "hessian", truth)["status"] == "ok"
    assert agreement.compare(found, "hessian", truth)["status"] == "ok"


def fourth_powers(rest, linear=0.0):
    """rest (a.x)^4 as a difference of two large terms, which are computed in different orders."""
    a, b = drawn(2, 6)
    return from_function(
        lambda x, a, b: 1e6 * (a @ x) ** 4 - 1e6 * (1 - rest) * ((x * a).sum() ** 2) ** 2 + linear * (b @ x),
        drawn(6),
        (a, b),
    )


@pytest.mark.parametrize("linear", [0.0, 100.0])
@pytest.mark.parametrize(("rest", "leaves_something"), [(1e-4, True), (1e-7, False), (1e-9, False), (1e-11, False)])
def test_rounding_is_that_of_the_results_dtype(rest, leaves_something, linear) -> None:
    problem = fourth_powers(rest, linear)
    truth = reference(problem, None, FULL, 0)
    for dtype, judged in ((torch.float64, True), (torch.float32, leaves_something)):
        found = by_autograd(problem.to("cpu", dtype))
        for result, status in ((found, "ok"), (0 * found, "wrong"), (1.2 * found, "wrong")):
            seen = agreement.compare(result, "hessian", truth)
            assert seen["status"] == (status if judged else "error"), seen["message"]
            if not judged:
                assert seen["message"] == "rounding leaves nothing to judge in float32; use float64"


def test_where_float64_leaves_nothing_it_is_not_advised() -> None:
    truth = reference(fourth_powers(1e-13, 100.0), None, FULL, 0)
    truth = dataclasses.replace(truth, scale=dataclasses.replace(truth.scale, slack={D: 1e12}))
    seen = agreement.compare(truth.values, "hessian", truth)
    assert seen["message"] == "rounding leaves nothing to judge in float64: terms cancel; rewrite the loss"


def test_kinks_are_no_rounding() -> None:
    """Exactly at the point: of relu, of the largest of equals, and of what cancels there."""
    for kinked in (
        lambda x: (x * (torch.arange(6) > 2)).relu().square().sum(),
        lambda x: torch.stack([x[0], x[0] * 1.0]).max() ** 2,
        lambda x: ((x - x.detach()).relu() * x**2).sum(),
    ):
        problem = from_function(lambda x, kinked=kinked: kinked(x) + (x**4).sum(), drawn(6))
        assert reference(problem, None, FULL, 0).scale.slack == {}
