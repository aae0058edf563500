"""Approximations of the Hessian and the GGN: where they are exact, against other libraries, and how they are judged."""

import dataclasses

import pytest
import torch
from torch import nn

from harness.problems import networks, transformers
from harness.problems.problem import Problem
from harness.truth import agreement, approximations, results
from harness.truth.approximations import NewtonStep
from harness.truth.reference import reference
from methods import create_graph_rows, vmap_ggn
from methods.approximations import block_diagonal, diagonal, empirical_fisher, ggn, monte_carlo_fisher
from methods.estimates import Approximation
from tests.conftest import JOB
from tests.oracles import central_differences, distance
from tests.rows import installed

PROBLEMS = {
    "mlp": lambda: networks.mlp(inputs=4, width=3, outputs=3, batch=12),
    "regression": lambda: networks.mlp(inputs=4, width=3, outputs=2, batch=12, task="regression"),
    "lenet5": lambda: networks.lenet5(image=12, channels=(1, 2), widths=(3, 3), outputs=2, batch=3),
    "transformer": lambda: transformers.transformer(vocabulary=3, width=4, length=3, expansion=1, outputs=3, batch=8),
}


def network(problem: Problem):
    return problem.model, problem.criterion, problem.inputs, problem.targets


def linear(task: str, samples: int):
    """One linear layer with random data: its Hessian is its GGN, and a Kronecker product for squared errors."""
    generator = torch.Generator().manual_seed(0)
    layer = networks.draw_parameters(nn.Linear(4, 3), generator)
    inputs = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return (
        layer,
        *networks.task_of("linear", task, inputs, 3, generator)[:1],
        inputs,
        _targets(task, samples, generator),
    )


def _targets(task: str, samples: int, generator: torch.Generator) -> torch.Tensor:
    if task == "classes":
        return torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 3, generator=generator, dtype=torch.float64)


def hessian_of_squares(inputs: torch.Tensor, outputs: int) -> torch.Tensor:
    """The closed form for the mean of squared errors: 2 / (N C) (X^T X) for each output, with a one for the bias."""
    weights = 2 / (len(inputs) * outputs) * inputs.T @ inputs
    cross, count = 2 / (len(inputs) * outputs) * inputs.sum(0), 2 / outputs
    eye = torch.eye(outputs, dtype=torch.float64)
    between = torch.kron(eye, cross[:, None])  # (weights, biases)
    top = torch.cat([torch.kron(eye, weights), between], 1)
    return torch.cat([top, torch.cat([between.T, count * eye], 1)])


@pytest.mark.parametrize("name", PROBLEMS)
def test_own_approximations_against_the_full_matrices(name) -> None:
    problem = PROBLEMS[name]()
    true, of_outputs = central_differences(problem), vmap_ggn.ggn(*network(problem))
    blocks = torch.block_diag(*(torch.ones(size, size) for size in problem.sizes)).double()
    assert distance(ggn.hessian(*network(problem)).value, of_outputs) < 1e-14
    found = block_diagonal.hessian(problem.loss, problem.theta, problem.sizes, chunk_size=5)
    assert distance(found.value, true * blocks) < 1e-7
    assert distance(block_diagonal.ggn(*network(problem), chunk_size=5).value, of_outputs * blocks) < 1e-12
    assert distance(diagonal.hessian(*network(problem)).value, true.diagonal().diag()) < 1e-7
    assert distance(diagonal.ggn(*network(problem)).value, of_outputs.diagonal().diag()) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "regression"])
def test_the_monte_carlo_fisher_matrix_tends_to_the_ggn(name) -> None:
    """The error of a mean of independent draws falls with the square root of their number."""
    problem = PROBLEMS[name]()
    true = vmap_ggn.ggn(*network(problem))
    few, many = (distance(monte_carlo_fisher.ggn(*network(problem), draws=n).value, true) for n in (10, 400))
    assert many < 0.15
    assert 2 < few / many < 20
    again = monte_carlo_fisher.hessian(*network(problem), draws=10)
    assert distance(again.value, true) == few, "the same seed gives the same matrix"
    assert distance(monte_carlo_fisher.hessian(*network(problem), draws=10, seed=1).value, true) != few


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["mlp", "regression"])
def test_the_empirical_fisher_matrix_is_that_of_single_samples(name, reduction) -> None:
    problem = PROBLEMS[name]()
    model, criterion, inputs, targets = network(problem)
    criterion = type(criterion)(reduction=reduction)
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        gradients = torch.autograd.grad(criterion(model(x[None]), y[None]), list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in gradients]))
    rows = torch.stack(rows)
    expected = rows.T @ rows / (len(rows) if reduction == "mean" else 1)
    assert distance(empirical_fisher.hessian(model, criterion, inputs, targets).value, expected) < 1e-12
    many = monte_carlo_fisher.ggn(model, criterion, inputs, targets, draws=200).value
    assert distance(many, vmap_ggn.ggn(model, criterion, inputs, targets)) < 0.3
    found = diagonal.ggn(model, criterion, inputs, targets).value
    assert distance(found.diagonal(), vmap_ggn.ggn(model, criterion, inputs, targets).diagonal()) < 1e-12


def test_own_approximations_refuse_other_losses() -> None:
    model, _, inputs, targets = network(PROBLEMS["mlp"]())
    for criterion in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.NLLLoss(), nn.functional.cross_entropy):
        for function in (diagonal.ggn, empirical_fisher.ggn, monte_carlo_fisher.ggn):
            with pytest.raises(NotImplementedError, match=r"the loss must be torch.nn.*found"):
                function(model, criterion, inputs, targets)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1; found 0"):
        monte_carlo_fisher.ggn(*network(PROBLEMS["mlp"]()), draws=0)


def of_curvlinops(kind: str):
    from methods.peers import curvlinops_approximations

    return lambda *given: curvlinops_approximations.ggn(*given, kind=kind)


def of_nngeometry(kind: str):
    from methods.peers import nngeometry

    return lambda *given: nngeometry.ggn(*given, kind=kind)


def of_laplace(kind: str):
    from methods.peers import laplace_approximations

    return lambda *given: laplace_approximations.ggn(*given, kind=kind)


def value(found) -> torch.Tensor:
    return found.value if isinstance(found, Approximation) else found


needs_curvlinops = pytest.mark.skipif(not installed("curvlinops_kfac"), reason="needs curvlinops")
needs_nngeometry = pytest.mark.skipif(not installed("nngeometry"), reason="needs nngeometry")
needs_laplace = pytest.mark.skipif(not installed("laplace_kron"), reason="needs laplace-torch")
OF_A_LAYER = [
    *(pytest.param(of_curvlinops, kind, marks=needs_curvlinops) for kind in ("kfac", "kfac_reduce", "ekfac")),
    *(pytest.param(of_nngeometry, f"PMat{kind}", marks=needs_nngeometry) for kind in ("KFAC", "EKFAC", "BlockDiag")),
]


@pytest.mark.parametrize(("library", "kind"), OF_A_LAYER)
def test_kronecker_factors_are_exact_for_one_layer_and_squared_errors(library, kind) -> None:
    given = linear("regression", 6)
    assert distance(value(library(kind)(*given)), hessian_of_squares(given[2], 3)) < 1e-12


@pytest.mark.parametrize(("library", "kind"), OF_A_LAYER)
@pytest.mark.parametrize("task", ["classes", "regression"])
def test_kronecker_factors_are_exact_for_one_layer_and_one_sample(library, kind, task) -> None:
    given = linear(task, 1)
    loss = lambda theta: given[1](given[2] @ theta[:12].view(3, 4).T + theta[12:], given[3])  # noqa: E731
    theta = torch.cat([given[0].weight.detach().flatten(), given[0].bias.detach()])
    assert distance(value(library(kind)(*given)), create_graph_rows.hessian(loss, theta)) < 1e-12


@needs_curvlinops
@pytest.mark.parametrize("name", ["mlp", "regression", "lenet5"])
def test_curvlinops_fisher_matrices(name) -> None:
    problem = PROBLEMS[name]()
    found = of_curvlinops("empirical_fisher")(*network(problem))
    outputs = 2 if name == "regression" else 1  # by which theirs is larger for a mean of squared errors
    assert distance(found.value, outputs * empirical_fisher.ggn(*network(problem)).value) < 1e-12
    assert distance(of_curvlinops("monte_carlo_fisher")(*network(problem)).value, vmap_ggn.ggn(*network(problem))) < 2


@needs_nngeometry
@pytest.mark.parametrize("name", ["mlp", "regression", "lenet5"])
def test_nngeometry_has_the_scale_of_the_ggn(name) -> None:
    problem = PROBLEMS[name]()
    true = vmap_ggn.ggn(*network(problem))
    layers = [2 * [size] for size in map(sum, zip(problem.sizes[::2], problem.sizes[1::2], strict=True))]
    blocks = torch.block_diag(*(torch.ones(*shape) for shape in layers)).double()
    for kind, expected in (
        ("PMatDense", true),
        ("PMatBlockDiag", true * blocks),
        ("PMatDiag", true.diagonal().diag()),
    ):
        assert distance(value(of_nngeometry(kind)(*network(problem))), expected) < 1e-12
    quasi = value(of_nngeometry("PMatQuasiDiag")(*network(problem)))
    assert distance(quasi[quasi != 0], true[quasi != 0]) < 1e-12


@needs_nngeometry
@needs_curvlinops
@pytest.mark.parametrize("name", ["mlp", "regression", "lenet5"])
def test_libraries_agree_on_kronecker_factors(name) -> None:
    given = network(PROBLEMS[name]())
    assert distance(value(of_nngeometry("PMatKFAC")(*given)), of_curvlinops("kfac")(*given).value) < 1e-10
    if name != "lenet5":  # where weights are shared, the two correct eigenvalues of close eigenvectors otherwise
        assert distance(value(of_nngeometry("PMatEKFAC")(*given)), of_curvlinops("ekfac")(*given).value) < 1e-6


@needs_laplace
@pytest.mark.parametrize("name", ["mlp", "regression", "lenet5"])
def test_laplace_has_the_kronecker_factors_of_curvlinops_and_the_true_diagonal(name) -> None:
    given = network(PROBLEMS[name]())
    assert distance(of_laplace("kron")(*given).value, of_curvlinops("kfac_separate")(*given).value) < 1e-12
    assert distance(of_laplace("diag")(*given).value, diagonal.ggn(*given).value) < 1e-12


@needs_nngeometry
def test_nngeometry_says_what_it_does_not_know() -> None:
    layered = networks.mlp(inputs=5, width=6, outputs=3, batch=16, norm="layer")
    for kind in ("PMatKFAC", "PMatEKFAC", "PMatQuasiDiag"):
        with pytest.raises(NotImplementedError, match=f"{kind} is not known for the layer 1, a LayerNorm"):
            of_nngeometry(kind)(*network(layered))
    with pytest.raises(NotImplementedError, match="must be one floating-point tensor"):
        of_nngeometry("PMatDense")(*network(PROBLEMS["transformer"]()))
    model, criterion, inputs, targets = network(PROBLEMS["mlp"]())
    with pytest.raises(NotImplementedError, match="plain mean CrossEntropyLoss and mean MSELoss only"):
        of_nngeometry("PMatDense")(model, nn.CrossEntropyLoss(reduction="sum"), inputs, targets)
    model[0].bias.requires_grad_(False)
    with pytest.raises(NotImplementedError, match="some of 0 are fixed"):
        of_nngeometry("PMatDense")(model, criterion, inputs, targets)
    with pytest.raises(ValueError, match=r"kind must be one of PMatDense, .*; found dense"):
        of_nngeometry("dense")(model, criterion, inputs, targets)


@needs_curvlinops
def test_curvlinops_says_what_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of kfac, .*; found foof"):
        of_curvlinops("foof")(*network(PROBLEMS["mlp"]()))


# The verdict.


def judged(found: torch.Tensor, problem: Problem, damping: float = 0.01, full_up_to: int = 1024, **changes):
    measure = dataclasses.replace(JOB.measure, full_up_to=full_up_to, **changes)
    truth = reference(problem, None, measure, seed=2)
    theta = problem.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta)
    return agreement.compare(Approximation(found), "hessian", truth, newton=NewtonStep(gradient, damping))


def test_the_errors_of_an_approximation() -> None:
    problem = PROBLEMS["regression"]()
    true = create_graph_rows.hessian(problem.loss, problem.theta)
    found = true.diagonal().diag()
    seen = judged(found, problem, damping=0.5)
    eye = torch.eye(len(true), dtype=torch.float64)
    theta = problem.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta)
    steps = [torch.linalg.inv(matrix + 0.5 * eye) @ gradient for matrix in (found, true)]
    logdets = [torch.linalg.eigvalsh(matrix + 0.5 * eye).abs().log().sum() for matrix in (found, true)]
    assert seen["status"] == "ok"
    assert seen["approximation"] is True
    assert seen["relative_error"] == pytest.approx(float((found - true).norm() / true.norm()))
    assert seen["cosine"] == pytest.approx(float(found.norm() / true.norm()))  # of a diagonal, since the rest is 0
    assert seen["newton_error"] == pytest.approx(float((steps[0] - steps[1]).norm() / steps[1].norm()))
    assert seen["logdet_error"] == pytest.approx(float(logdets[0] - logdets[1]) / len(true))
    assert seen["message"].startswith("an approximation: relative error 0.")


def test_an_exact_approximation_has_no_error() -> None:
    problem = PROBLEMS["mlp"]()
    seen = judged(create_graph_rows.hessian(problem.loss, problem.theta), problem)
    assert seen["cosine"] == pytest.approx(1)
    assert seen["relative_error"] < 1e-12
    assert seen["newton_error"] < 1e-9
    assert abs(seen["logdet_error"]) < 1e-12
    assert "the true matrix + 0.01 I is not positive definite" in seen["message"]


def test_singular_matrices_have_no_newton_step() -> None:
    problem = PROBLEMS["mlp"]()
    seen = judged(torch.zeros(problem.theta.numel(), problem.theta.numel(), dtype=torch.float64), problem, damping=0.0)
    assert (seen["cosine"], seen["newton_error"], seen["logdet_error"]) == (None, None, None)
    assert seen["relative_error"] == 1
    assert "the approximation + 0 I is not positive definite" in seen["message"]


def test_of_a_large_matrix_the_probes_show_error_and_cosine() -> None:
    problem = PROBLEMS["lenet5"]()
    found = vmap_ggn.ggn(*network(problem))
    whole, probed = judged(found, problem), judged(found, problem, full_up_to=50, probes=400)
    assert probed["relative_error"] == pytest.approx(whole["relative_error"], rel=0.1)
    assert probed["cosine"] == pytest.approx(whole["cosine"], rel=0.1)
    assert "newton_error" not in probed


def test_faults_of_approximations() -> None:
    problem = PROBLEMS["mlp"]()
    size = problem.theta.numel()
    matrix = torch.zeros(size, size, dtype=torch.float64)

    def fault(result, quantity="hessian"):
        return results.result_fault(result, quantity, problem.theta, None, problem.sizes)

    assert fault(Approximation(matrix)) is None
    assert "shape" in fault(Approximation(matrix[:-1]))
    assert "not a tensor" in fault(Approximation("a matrix"))
    assert "only hessian and ggn are approximated, and diagonal is not" in fault(Approximation(matrix[0]), "diagonal")
    matrix[0, 0] = torch.nan
    seen = judged(matrix, problem)
    assert seen["status"] == "nonfinite"
    assert "approximation" not in seen


def test_no_verdict_where_the_reference_is_zero() -> None:
    assert approximations.judge(torch.zeros(2, 2), _zero(), 1.0, None)["cosine"] is None


def _zero():
    from harness.truth.reference import Reference

    return Reference("closed_form", 0.0, torch.arange(2), torch.zeros(2, 2, dtype=torch.float64))


def test_an_approximation_in_real_processes(run) -> None:
    options = {"target": "methods.approximations.ggn.hessian", "method": "ggn_for_hessian"}
    seen = run(**options, passes=("agreement",))
    assert seen["status"] == "ok"
    assert seen["approximation"] is True
    assert 0 < seen["cosine"] < 1
    assert seen["newton_error"] > 0
    timed = run(**options, passes=("time",))
    assert timed["approximation"] is True, "so that a row that was only timed is not taken for an exact one"
