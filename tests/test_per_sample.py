"""Each sample's own derivatives: every method against closed forms and central differences, and what is refused."""

import dataclasses
import importlib
import inspect
from functools import cache

import pytest
import torch
from torch import nn

from harness.problems import ProblemError, check, fields, from_function, from_network, networks, per_sample, potentials
from harness.problems import require_possible as require
from harness.problems.binding import bind, vectors_of
from harness.problems.method_source import Unsupported
from harness.truth import agreement, results
from harness.truth.per_sample import flattened
from harness.truth.reference import reference
from methods import create_graph_rows
from methods.factoring.comparison import CertificateError
from methods.per_sample import factored, hutchinson, loop, transforms
from tests.conftest import JOB
from tests.oracles import central_differences, distance
from tests.rows import PER_SAMPLE, bound, installed, target

QUANTITIES = ("hessian", "diagonal", "trace", "hvp")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Tied(nn.Module):
    """One weight in two layers, an embedding before them, and positions."""

    def __init__(self):
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(4, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, tokens):
        return self.second(torch.tanh(self.first(self.table(tokens)))).sin().mean(1)


def tied():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    tokens, classes = torch.randint(4, (5, 6), generator=generator), torch.randint(3, (5,), generator=generator)
    return from_network(Tied().double(), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double()), tokens, classes)


PROBLEMS = {
    ("mlp", "parameters"): lambda: networks.mlp(inputs=3, width=2, outputs=3, batch=5, depth=2),
    ("regression", "parameters"): lambda: networks.mlp(inputs=2, width=2, outputs=2, batch=3, task="regression"),
    ("cnn", "parameters"): lambda: networks.cnn(image=4, channels=1, depth=1, outputs=2, batch=3),
    ("tied", "parameters"): tied,
    ("mlp", "inputs"): lambda: networks.mlp(inputs=3, width=4, outputs=3, batch=5),
    ("cnn", "inputs"): lambda: networks.cnn(image=3, channels=2, depth=1, outputs=2, batch=2),
    ("field", "inputs"): lambda: fields.field(dimensions=4, width=5, batch=6),
    ("harmonic", "inputs"): lambda: potentials.potential(form="harmonic", task="energy", atoms=3, batch=3),
    ("lennard_jones", "inputs"): lambda: potentials.potential(form="lennard_jones", task="energy", atoms=3, batch=3),
}
# Rows that torch has no rule for there.
KNOWN = {
    ("per_sample_jacfwd_grad", "regression"): "ZeroTensors are immutable",  # jvp of grad of mse_loss
    ("per_sample_hutchinson", "regression"): "ZeroTensors are immutable",
}
BUILT = {key: per_sample(build(), key[1]) for key, build in PROBLEMS.items()}


def blocks(problem):
    """The true (N, D, D): closed forms, or central differences of the sum over samples."""
    count, size = problem.points.shape
    if problem.hessian is not None:
        return problem.hessian()
    whole = central_differences(problem).view(count, size, count, size)
    return torch.stack([whole[place, :, place] for place in range(count)])


TRUE = {key: blocks(problem) for key, problem in BUILT.items()}


def expected(true, quantity, vectors):
    diagonals = true.diagonal(dim1=1, dim2=2)
    return {"hessian": true, "diagonal": diagonals, "trace": diagonals.sum(1), "hvp": true @ vectors}[quantity]


def cells():
    for row in sorted(PER_SAMPLE):
        for name, wrt in PROBLEMS:
            if not installed(row) or (row.startswith("jax") and name != "field"):
                continue  # a second each
            for quantity in QUANTITIES:
                if row.startswith("jax") and quantity == "diagonal":
                    continue  # whose sums the traces are
                function, options = bound(row, quantity)
                asks_network = function is not None and "model" in inspect.signature(function).parameters
                if function is None or (asks_network and wrt == "inputs"):
                    continue
                if options.get("second", "hessian") != "hessian" and quantity in ("hessian", "hvp"):
                    continue
                yield row, name, wrt, quantity


@cache
def known_of(name, wrt, quantity):
    problem = BUILT[name, wrt]
    job = dataclasses.replace(JOB, quantity=quantity)
    return reference(problem, vectors_of(job, problem.theta), JOB.measure, 0, quantity)


@pytest.mark.parametrize(("row", "name", "wrt", "quantity"), list(cells()))
def test_a_row_is_right(row, name, wrt, quantity):
    problem, true = BUILT[name, wrt], TRUE[name, wrt]
    vectors = draw(*problem.points.shape, 2)
    path, function, options = target(row, quantity)
    job = dataclasses.replace(
        JOB, target=f"{path}.{function}", method_options=options, quantity=quantity, wrt=wrt, per_sample=True
    )
    method = bind(job, problem)
    assert method.vectors is None or method.vectors.shape == (problem.theta.numel(), 2)
    before = [tensor.clone() for tensor in (problem.points, *problem.samples)]
    if (row, name) in KNOWN:
        with pytest.raises(RuntimeError, match=KNOWN[row, name]):
            method.call()
        return
    if row == "per_sample_factored" and name == "tied" and quantity != "hessian":
        with pytest.raises(NotImplementedError, match=r"first\.weight: it enters several affine maps"):
            method.call()
        return
    found = method.call()
    assert all(map(torch.equal, before, (problem.points, *problem.samples)))
    fault = results.result_fault(found, quantity, problem.theta, method.vectors, problem.sizes, 0, problem.points)
    assert fault is None
    if quantity == "hvp":
        vectors = method.offered["vectors"]
    exact = expected(true, quantity, vectors)
    if results.is_estimate(found):
        assert (found.value - exact).norm() <= 4 * found.standard_error.norm()
        return
    assert not found.requires_grad
    assert distance(found, exact) <= (1e-9 if problem.hessian is None else 1e-12)
    known = known_of(name, wrt, quantity)
    judged = agreement.compare(found, quantity, known)
    assert judged["status"] == "ok", judged["message"]
    assert agreement.compare(found * 1.01, quantity, known)["status"] == "wrong"


def test_every_row_and_known_failure_is_tried() -> None:
    tried = {row for row, *_ in cells()}
    assert tried == set(filter(installed, PER_SAMPLE))
    assert {key[:2] for key in KNOWN} <= {cell[:2] for cell in cells()}


@pytest.mark.parametrize("row", sorted(PER_SAMPLE))
def test_the_functions_of_a_method_are_quantities(row) -> None:
    if not installed(row):
        pytest.skip("the peer is not installed")
    module = importlib.import_module(target(row, "hessian")[0])
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    assert {function.__name__ for function in own if function.__name__[0] != "_"} <= set(QUANTITIES)


@pytest.mark.parametrize("name", ["mlp", "regression", "cnn"])
def test_the_mean_of_the_samples_own_is_the_hessian_of_the_mean(name) -> None:
    problem = PROBLEMS[name, "parameters"]()
    own = transforms.hessian(*each(per_sample(problem, "parameters")), "jacrev_grad")
    assert distance(own.mean(0), create_graph_rows.hessian(problem.loss, problem.theta)) < 1e-12


def each(problem):
    return problem.sample_loss, problem.points, problem.samples


def test_weights_of_classes_are_those_of_a_batch_of_one() -> None:
    """A single sample's weight cancels in its own mean."""
    problem = tied()
    plain = from_network(problem.model, nn.CrossEntropyLoss(), problem.inputs, problem.targets)
    own, unweighted = (loop.hessian(*each(per_sample(p, "parameters"))) for p in (problem, plain))
    assert distance(own, unweighted) < 1e-12


def test_chunks_of_samples_are_the_same() -> None:
    problem, true = BUILT["mlp", "inputs"], TRUE["mlp", "inputs"]
    for chunk_size in (1, 2, 5, 7):
        assert distance(transforms.hessian(*each(problem), chunk_size=chunk_size), true) < 1e-9
        traces = transforms.trace(*each(problem), chunk_size=chunk_size)
        assert distance(traces, true.diagonal(dim1=1, dim2=2).sum(1)) < 1e-9


def test_bad_options() -> None:
    problem = BUILT["mlp", "inputs"]
    for options, words in (
        ({"composition": "sideways"}, "composition must be one of jacfwd_grad, .*; found sideways"),
        ({"chunk_size": 0}, "chunk_size must be a positive number of samples, .*; found 0"),
    ):
        with pytest.raises(ValueError, match=words):
            transforms.hessian(*each(problem), **options)
    with pytest.raises(ValueError, match="probes must be a whole number of at least 2; found 1"):
        hutchinson.trace(*each(problem), probes=1)


def test_the_interval_of_hutchinson_holds_the_truth() -> None:
    problem, true = BUILT["field", "inputs"], TRUE["field", "inputs"].diagonal(dim1=1, dim2=2).sum(1)
    estimates = [hutchinson.trace(*each(problem), probes=32, seed=seed) for seed in range(100)]
    inside = sum(bool(((e.value - true).abs() <= 2.04 * e.standard_error)[0]) for e in estimates)  # t, 31 degrees
    assert 90 <= inside <= 99


def test_factored_notices_samples_in_another_order(monkeypatch) -> None:
    """Their sum is the same; that with random weights is not."""
    problem = BUILT["mlp", "parameters"]
    network = problem.model, problem.criterion, problem.inputs, problem.targets, problem.points
    write = factored._write

    def exchanged(result, pair):
        write(result, pair)
        result[:2] = result[:2].flip(0)

    monkeypatch.setattr(factored, "_write", exchanged)
    with pytest.raises(CertificateError, match="the samples' second derivatives are not those of double backward"):
        factored.hessian(*network)


def test_factored_refuses_in_words() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    problem = per_sample(
        network(nn.CrossEntropyLoss(), normed, inputs=draw(3, 2), targets=torch.arange(3) % 2), "parameters"
    )
    given = problem.model, problem.criterion, problem.inputs, problem.targets, problem.points
    for function in (factored.hessian, factored.diagonal):
        with pytest.raises(NotImplementedError, match=r"but not of 0\.parametrizations.*: it enters no affine map"):
            function(*given)


def network(criterion, *layers, inputs=None, targets=None):
    torch.manual_seed(0)
    x = draw(6, 3) if inputs is None else inputs
    return from_network(nn.Sequential(*layers).double(), criterion, x, targets)


def test_what_is_no_problem_of_samples_is_refused() -> None:
    y = draw(6, 3, seed=1)
    for problem, wrt, words in (
        (
            network(nn.MSELoss(), nn.Linear(3, 3), nn.BatchNorm1d(3), targets=y),
            "inputs",
            "samples depend on each other",
        ),
        (network(nn.MSELoss(), nn.Linear(3, 3), nn.BatchNorm1d(3), targets=y), "parameters", "samples depend on each"),
        (network(lambda o, t: (o - t).norm(), nn.Linear(3, 3), targets=y), "inputs", "samples depend on each other"),
        (network(None, nn.Linear(3, 3)), "inputs", r"must be a single number, found \(1, 3\): give a criterion"),
        (network(nn.MSELoss(), nn.Linear(3, 3), nn.Dropout(), targets=y), "inputs", "the loss is not deterministic"),
        (
            network(nn.CrossEntropyLoss(ignore_index=1), nn.Linear(3, 3), targets=y[:, 0].long() * 0 + 1),
            "inputs",
            "0 alone",
        ),
        (network(nn.MSELoss(), nn.Linear(3, 3), inputs=y[:0], targets=y[:0]), "parameters", "there are no samples"),
        (network(nn.MSELoss(), nn.Linear(3, 3), inputs=y + 0j, targets=y), "inputs", "complex128.*torch.view_as_real"),
        (tied(), "inputs", "inputs are torch.int64.*take the embeddings"),
        (from_function(lambda x: x.square().sum(), draw(3)), "inputs", "the problem is a function, without samples"),
        (network(nn.MSELoss(), nn.Linear(3, 3), targets=draw(5, 3)), "inputs", r"there are 6 samples.*\(5, 3\)"),
    ):
        with pytest.raises(ProblemError, match=words):
            per_sample(problem, wrt)


def test_several_inputs_are_refused_where_derivatives_are_in_them() -> None:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x, y):
            return self.layer(x * y)

    problem = from_network(Two().double(), lambda outputs, _: outputs.mean(), (draw(4, 3), draw(4, 3, seed=1)))
    with pytest.raises(ProblemError, match="the inputs are tuple, and must be one tensor"):
        per_sample(problem, "inputs")
    own = per_sample(problem, "parameters")
    assert not transforms.hessian(*each(own)).any()  # it is linear in them


def test_a_model_without_a_criterion_is_a_function_of_each_input() -> None:
    problem = per_sample(network(None, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), "inputs")
    check(problem)
    assert problem.points.shape == (6, 3)
    assert distance(transforms.hessian(*each(problem)), blocks(problem)) < 1e-9


def test_points_are_theta_and_stay_it() -> None:
    for (_, wrt), problem in BUILT.items():
        single = problem.to("cpu", torch.float32)
        assert single.points.dtype == torch.float32
        for at in (problem, single):
            assert at.points.data_ptr() == at.theta.data_ptr()
            assert at.sizes == (at.points.shape[1],) * len(at.points)
            alone = sum(at.sample_loss(p, tuple(s[n] for s in at.samples)) for n, p in enumerate(at.points))
            assert torch.allclose(at.loss(at.theta), alone)
        assert (problem.model is None) == (wrt == "inputs")


def test_probes_see_what_the_compared_columns_do_not() -> None:
    """With more variables than columns that are compared, an error in another column shows in the products."""
    problem = BUILT["mlp", "parameters"]
    measure = dataclasses.replace(JOB.measure, full_up_to=0, rows=3)
    known = reference(problem, None, measure, 0)
    assert known.values.shape == (problem.points.shape[1], len(problem.points), 3)
    found = transforms.hessian(*each(problem))
    assert agreement.compare(found, "hessian", known)["status"] == "ok"
    missed = next(j for j in range(found.shape[1]) if j not in known.columns)
    found[1, missed, missed] += 1e-3
    seen = agreement.compare(found, "hessian", known)
    assert seen["status"] == "wrong"
    assert seen["worst_error"] < 1e-12
    assert seen["compared"] == pytest.approx(3 / found.shape[1])
    diagonal = reference(problem, None, measure, 0, "diagonal")
    own = found.diagonal(dim1=1, dim2=2).clone()
    assert agreement.compare(own, "diagonal", diagonal)["status"] == "ok"  # that entry is not compared
    own[2, int(known.columns[0])] *= 2
    assert agreement.compare(own, "diagonal", diagonal)["status"] == "wrong"


def test_shapes_and_kinds_of_results() -> None:
    problem = BUILT["mlp", "inputs"]
    asked = problem.theta, None, problem.sizes, 0, problem.points
    assert "has shape (5, 3, 3)" in results.result_fault(draw(15, 15), "hessian", *asked)
    assert "has shape (5,)" in results.result_fault(draw(()), "trace", *asked)
    estimate = results.Estimate(draw(5, 3, 3), draw(5, 3, 3), 2)
    assert results.result_fault(estimate, "hessian", *asked) == (
        "returned Estimate; each sample's own hessian is a tensor"
    )
    assert flattened(draw(5, 3), "diagonal")[0].shape == (15,)


def test_what_does_not_go_together(job) -> None:
    require(job(per_sample=True))
    for changes, words in (
        (
            {"quantity": "eigenvalues"},
            "quantity=eigenvalues: each sample can have its own hessian, diagonal, trace, hvp",
        ),
        ({"quantity": "ggn"}, "quantity=ggn"),
        ({"subset": 3}, "subset=3: these do not go together"),
        ({"processes": 2}, "processes=2: these do not go together"),
        ({"problem_options": {"batches": 2}}, "problem.batches=2: these do not go together"),
        ({"wrt": "inputs", "parameters": ("0.*",)}, "parameters="),
    ):
        with pytest.raises(ProblemError, match=words):
            require(job(per_sample=True, **changes))


def test_methods_are_of_one_kind(job) -> None:
    own, whole = BUILT["mlp", "parameters"], PROBLEMS["mlp", "parameters"]()
    inputs = BUILT["mlp", "inputs"]
    path = "methods.per_sample.transforms.hessian"
    for asked, problem, words in (
        (job(per_sample=True), own, "computes one hessian of all samples together.*take a method that asks for"),
        (job(target=path), whole, "computes each sample's own hessian; set per_sample=true, or wrt=inputs"),
        (
            job(target="methods.per_sample.factored.hessian", wrt="inputs", per_sample=True),
            inputs,
            "computes derivatives in the parameters, and wrt=inputs was asked for",
        ),
    ):
        with pytest.raises(Unsupported, match=words):
            bind(asked, problem)


def test_a_cell_is_measured(run) -> None:
    """Of inputs, and of parameters, where the search for caches moves all samples' points alike."""
    options = {"width": 3, "inputs": 3, "outputs": 2, "batch": 4}
    for wrt, path, quantity in (
        ("inputs", "methods.per_sample.rows", "trace"),
        ("parameters", "methods.per_sample.factored", "hessian"),
    ):
        asked = {"quantity": quantity, "wrt": wrt, "per_sample": True, "passes": ("time", "agreement")}
        seen = run(target=f"{path}.{quantity}", problem_options=options, **asked)
        assert seen["status"] == "ok", seen["message"]
        assert (seen["samples"], seen["params"]) == (4, 4 * (3 if wrt == "inputs" else 20))
        assert seen["compared"] == 1
