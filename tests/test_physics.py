"""Problems of physics, against closed forms, differences and the laws that they obey."""

import inspect
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from harness.problems import ProblemError, build, check, fields, potentials
from harness.problems.torch_messages import explain
from methods import create_graph_rows, factored, vmap_hvp
from tests.oracles import central_differences, distance, jacobian_by_differences
from tests.rows import bound, installed
from tests.test_methods import offered
from tests.test_zoo import case

FOLDER = Path(__file__).parent.parent / "conf" / "problem"
PROBLEMS = {
    **{f"pinn_{size}": (fields.pinn, {"dimensions": size, "width": 3, "depth": 1, "batch": 4}) for size in (1, 2, 3)},
    **{
        form: (potentials.potential, {"form": form, "atoms": 3, "width": 3, "batch": 3})
        for form in ("harmonic", "lennard_jones", "learned")
    },
}
METHODS = (
    "create_graph_rows",
    "batched_rows",
    "factored",
    "func_hessian",
    "jacfwd_grad",
    "vmap_hvp",
    "vmap_hvp_reverse",
    "vmap_hvp_reverse_over_forward",
)


@cache
def built(name: str, derivatives: str = "func"):
    """A problem and its Hessian by central differences."""
    builder, options = PROBLEMS[name]
    problem = builder(derivatives=derivatives, **options)
    return problem, central_differences(problem)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_method_differentiates_through_the_derivatives_within(name: str, method: str) -> None:
    problem, true = built(name)
    function, options = bound(method, "hessian")
    given = {key: value for key, value in offered(problem).items() if key in inspect.signature(function).parameters}
    assert distance(function(**given, **options), true) < 1e-8


@pytest.mark.skipif(not installed("jax"), reason="JAX is not installed")
def test_jax_knows_the_operators_of_the_forces() -> None:
    problem, true = built("learned")
    function, options = bound("jax", "hessian")
    assert distance(function(problem.loss, problem.theta, **options), true) < 1e-8


def test_a_gradient_that_is_not_found_counts_as_zero_and_is_noticed() -> None:
    """torch.func's transforms do not see inputs that require a gradient: allow_unused=True then hides an error."""
    problem = case("forces_allow_unused")
    true = central_differences(problem)
    assert distance(create_graph_rows.hessian(problem.loss, problem.theta), true) < 1e-8
    assert distance(vmap_hvp.hessian(problem.loss, problem.theta).detach(), true) > 0.1
    problem = case("inputs_that_require_grad")
    with pytest.raises(RuntimeError) as raised:
        vmap_hvp.hessian(problem.loss, problem.theta)
    assert "the transforms of torch.func do not find it" in explain(raised.value)[1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_kinds_of_derivatives_are_one_loss(name: str) -> None:
    (problem, true), (other, again) = built(name), built(name, "autograd")
    assert torch.isclose(problem.loss(problem.theta), other.loss(other.theta), rtol=1e-12)
    assert distance(again, true) < 1e-9
    network = (other.model, other.criterion, other.inputs, other.targets)
    assert distance(factored.hessian(*network), true) < 1e-8
    with pytest.raises(RuntimeError) as raised:
        vmap_hvp.hessian(other.loss, other.theta)
    status, message = explain(raised.value)
    assert status == "unsupported"
    assert "The network asks for a gradient itself" in message


@pytest.mark.parametrize("laplacian", [fields._forward_laplacian, fields._autograd_laplacian])
def test_the_laplacian_of_known_functions(laplacian) -> None:
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    waves = lambda x: (math.pi * x).sin().prod(1, keepdim=True)  # noqa: E731
    assert torch.allclose(laplacian(waves, x), -3 * math.pi**2 * waves(x), rtol=1e-12)
    network = fields.perceptron(3, 4, 1).double()
    traces = fields.field_hessian(network, x).diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    assert torch.allclose(laplacian(network, x), traces, rtol=1e-10)


def test_the_points_of_a_pinn() -> None:
    problem = fields.pinn(dimensions=3, batch=50)
    inner, border = problem.inputs.unbind(1)
    assert bool(((inner > 0) & (inner < 1)).all())
    assert ((border == 0) | (border == 1)).sum(1).tolist() == [1] * 50
    assert torch.allclose(problem.targets[:, 0], 3 * math.pi**2 * (math.pi * inner).sin().prod(1))
    assert not problem.targets[:, 1].any()
    assert torch.equal(problem.model(problem.inputs)[:, 1:], problem.model.network(border))


@pytest.mark.parametrize(
    ("form", "closed_form"),
    [("harmonic", potentials.harmonic_hessian), ("lennard_jones", potentials.lennard_jones_hessian)],
)
def test_closed_forms_in_the_positions(form: str, closed_form) -> None:
    problem = potentials.potential(form=form, task="energy", atoms=4, batch=2)

    def slope(positions: torch.Tensor) -> torch.Tensor:
        x = positions.view(1, 4, 3).requires_grad_()
        return torch.autograd.grad(problem.model(x).sum(), x)[0].flatten()

    true = torch.stack([jacobian_by_differences(slope, row.flatten()) for row in problem.inputs])
    found = closed_form(problem.inputs)
    assert distance(found, true) < 1e-9
    assert torch.equal(found, found.mT)
    assert found.view(2, 12, 4, 3).sum(2).abs().max() < 1e-12 * found.abs().max(), "no force, however all are moved"


def test_other_constants_scale_the_closed_forms() -> None:
    x = potentials.potential(task="energy", batch=2).inputs
    assert torch.allclose(potentials.harmonic_hessian(x, stiffness=3.0), 3 * potentials.harmonic_hessian(x))
    scaled = potentials.lennard_jones_hessian(2 * x, depth=3.0, distance=2.0)  # 3 E(x / 2): second derivatives by 3 / 4
    assert torch.allclose(scaled, 0.75 * potentials.lennard_jones_hessian(x))


def test_a_field_has_a_closed_form() -> None:
    problem = fields.field(dimensions=4, batch=3)
    found = torch.func.vmap(torch.func.hessian(lambda point: problem.model(point).sum()))(problem.inputs)
    assert distance(fields.field_hessian(problem.model, problem.inputs), found.detach()) < 1e-14


@pytest.mark.parametrize("derivatives", ["func", "autograd"])
def test_forces_are_the_slope_of_the_energy_and_add_up_to_zero(derivatives: str) -> None:
    problem = potentials.potential(derivatives=derivatives, batch=2)
    forces = problem.model(problem.inputs).detach()
    energy = lambda flat: problem.model.energy(flat.view(2, 4, 3)).detach()  # noqa: E731
    slopes = jacobian_by_differences(energy, problem.inputs.flatten()).view(2, 2, 4, 3)
    assert distance(forces, -torch.stack([slopes[0, 0], slopes[1, 1]])) < 1e-9
    assert forces.sum(1).abs().max() < 1e-13


@pytest.mark.parametrize("name", ["field", "pinn", "potential", "harmonic", "lennard_jones"])
def test_rows_of_the_configuration_are_sound_in_both_precisions(name: str) -> None:
    options = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert options.pop("batch_weights") == "mean"  # which the job reads
    problem = build(options.pop("_target_"), options)
    check(problem)
    single = problem.to("cpu", torch.float32)
    check(single)
    assert torch.isclose(single.loss(single.theta).double(), problem.loss(problem.theta), rtol=1e-4)


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        (fields.pinn, {"dimensions": 4}, "pinn: dimensions=4 must be 1, 2 or 3"),
        (fields.pinn, {"derivatives": "jet"}, "pinn: derivatives=jet is not known; choose one of func, autograd"),
        (fields.field, {"width": 0}, "field: width=0 must be a whole number of at least 1"),
        (potentials.potential, {"form": "morse"}, "potential: form=morse is not known; choose one of harmonic, lenn"),
        (potentials.potential, {"task": "stress"}, "potential: task=stress is not known; choose one of forces, energy"),
        (potentials.potential, {"atoms": 1}, "potential: atoms=1 must be at least 2"),
    ],
)
def test_options_that_make_no_problem_are_refused(builder, options, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        builder(**options)
