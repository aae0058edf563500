"""Some of a network's parameters, chosen by their names: every result is the block of the whole one."""

import inspect
from functools import cache

import pytest
import torch
from torch import nn

from harness.problems import Problem, ProblemError, check, chosen, from_network, functions, split, subset, transformers
from harness.reproduce.script import script
from methods import batches, create_graph_rows, factored, samples, vmap_hvp
from methods.estimates import Approximation, Bounded
from methods.ravel import leaves_of, listed, ravel, trainable
from tests.oracles import central_differences, distance
from tests.rows import ROWS, SHARDED, bound, installed, target
from tests.test_methods import offered, required
from tests.test_zoo import case

QUANTITIES = ("hessian", "diagonal", "hvp", "ggn")
OWN = ("vmap_hvp_reverse", "create_graph_rows", "factored")  # these compute every network below


class Autoencoder(nn.Module):
    """Its decoder has the transposed weight of its encoder, which is thus known by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3) -> (N, 3)."""
        return self.decoder(self.encoder(x).tanh())


def drawn(model: nn.Module, outputs: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model with drawn parameters, inputs (5, 3) and targets (5, outputs)."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    inputs, targets = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in (3, outputs))
    return model, inputs, targets


def nested() -> Problem:
    """Layers within layers, which every method can compute."""
    inner = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    model, inputs, targets = drawn(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), inner, nn.Linear(3, 2)), 2)
    return from_network(model, nn.CrossEntropyLoss(), inputs, targets.argmax(1))


def penalised() -> Problem:
    """A network whose criterion reads its parameters, with a layer that is frozen."""
    model, inputs, targets = drawn(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), 2)
    model[0].bias.requires_grad_(False)

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        penalty = torch.stack([parameter.pow(4).sum() for parameter in model.parameters()])
        return (outputs - targets).square().mean() + penalty.sum()

    return from_network(model, criterion, inputs, targets)


def tied() -> Problem:
    """An autoencoder."""
    model, inputs, targets = drawn(Autoencoder(), 3)
    return from_network(model, lambda outputs, targets: (outputs - targets).square().mean(), inputs, targets)


PROBLEMS = {
    "nested": (nested, ["3.weight", "2.*"]),
    "tied": (tied, ["decoder.*"]),
    "penalised": (penalised, ["0.*", "2.bias"]),
    "siamese": (lambda: case("siamese"), ["1.*"]),
    "tied_weights": (lambda: case("tied_weights"), ["1.*"]),
    "frozen_layer": (lambda: case("frozen_layer"), ["[01].*", "4.weight"]),
    "gru": (lambda: case("gru"), ["*_ih_l0"]),
    "weight_norm": (lambda: case("weight_norm_by_hand"), ["1.direction", "*.bias"]),
    "transformer": (
        lambda: transformers.transformer(seed=1, vocabulary=3, width=4, length=3, expansion=1, outputs=3, batch=6),
        ["blocks.*.project.bias", "positions", "embeddings.0.weight", "blocks.?.*.0.weight"],
    ),
    "logistic": (lambda: functions.logistic(inputs=3, classes=3, batch=8), ["bias"]),
}


@cache
def built(name: str) -> tuple[Problem, Problem, torch.Tensor, torch.Tensor]:
    """The problem, some of its parameters, where they are among all, and the whole Hessian by central differences."""
    build, patterns = PROBLEMS[name]
    problem = build()
    names = trainable(problem.model, patterns)
    index = torch.cat([torch.full((p.numel(),), key in names) for key, p in trainable(problem.model).items()])
    return problem, chosen(problem, patterns), index, central_differences(problem)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_problem_is_the_block_of_the_whole_one(name: str) -> None:
    problem, part, index, whole = built(name)
    assert part.theta.equal(problem.theta[index])
    assert 0 < part.theta.numel() == sum(part.sizes) < problem.theta.numel() == part.whole
    assert len(leaves_of(problem.model)) == len(problem.sizes), "the network that was given stays as it was"
    check(part)
    assert distance(central_differences(part), whole[index][:, index]) < 1e-8
    assert part.criterion(part.model(part.inputs), part.targets) == problem.loss(problem.theta)
    single = part.to("cpu", torch.float32)
    assert single.theta.equal(part.theta.float())
    assert (single.whole, single.sizes) == (part.whole, part.sizes)
    if problem.hessian is not None:
        assert part.hessian().equal(problem.hessian()[index][:, index])


def cells():
    """Rows, problems and quantities: every row on the nested network, and those that compute any on the others."""
    for row in sorted(filter(installed, ROWS.keys() - SHARDED)):
        for quantity in QUANTITIES:
            function, _ = bound(row, quantity)
            known = {"vectors", "loss", "theta", "sizes", "model", "criterion", "inputs", "targets"}
            if function is None or not required(function) <= known or row.startswith(("double_loop", "jax")):
                continue
            for name in PROBLEMS if row in OWN else ["nested"]:
                if not row.endswith("_compiled"):
                    yield row, name, quantity


@pytest.mark.parametrize(("row", "name", "quantity"), list(cells()))
def test_every_method_gives_the_block(row: str, name: str, quantity: str) -> None:
    problem, part, index, whole = built(name)
    block = whole[index][:, index]
    vectors = torch.randn(len(block), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    function, options = bound(row, quantity)
    arguments = {"vectors": vectors, **offered(part)}
    given = {key: arguments[key] for key in inspect.signature(function).parameters if key in arguments}
    try:
        found = function(**given, **options)
    except NotImplementedError:  # what a library lacks, or refuses in words
        assert row not in OWN
        return
    if isinstance(found, Approximation):  # of the chosen parameters, by design not their block
        assert found.value.shape == block.shape
        return
    if quantity == "ggn":
        arguments = offered(problem)
        given = {key: arguments[key] for key in inspect.signature(function).parameters if key in arguments}
        assert distance(found, function(**given, **options)[index][:, index]) < 1e-12
        return
    exact = {"hessian": block, "diagonal": block.diagonal(), "hvp": block @ vectors}[quantity]
    if hasattr(found, "standard_error"):
        assert (found.value - exact).norm() <= 4 * found.standard_error.norm()
        return
    if isinstance(found, Bounded):
        assert (found.value - exact).norm() <= found.error.norm()
        return
    assert distance(found, exact) < 1e-9


@pytest.mark.parametrize("name", ["nested", "tied", "penalised"])
def test_the_library_gives_the_block(name: str) -> None:
    """`factored` and `batches` take the patterns; other methods take what `ravel` makes of them."""
    problem, _, index, whole = built(name)
    patterns = PROBLEMS[name][1]
    network = (problem.model, problem.criterion, problem.inputs, problem.targets)
    block = whole[index][:, index]
    size = len(block)
    vectors = torch.eye(size, dtype=torch.float64)[:, :3]
    out = torch.empty_like(block)

    assert factored.hessian(*network, parameters=patterns, out=out) is out
    assert distance(out, block) < 1e-9
    assert distance(factored.diagonal(*network, parameters=patterns), block.diagonal()) < 1e-9
    assert distance(factored.hvp(*network, vectors, parameters=patterns), block[:, :3]) < 1e-9
    rows = factored.hessian_rows(problem.model, [network[1:]], slice(1, size), parameters=patterns)
    assert distance(rows, block[1:]) < 1e-9
    names = list(trainable(problem.model, patterns))
    assert list(factored.explain(*network, parameters=patterns)) == names

    parts = [tuple(samples.taken(data, rows, 5) for data in network[2:]) for rows in (slice(0, 2), slice(2, 5))]
    given = {"weights": "mean", "parameters": patterns}
    for method in (vmap_hvp, create_graph_rows, factored):
        assert distance(batches.hessian(method, *network[:2], parts, **given), block) < 1e-9
        assert distance(batches.diagonal(method, *network[:2], parts, **given), block.diagonal()) < 1e-9
        assert distance(batches.hvp(method, *network[:2], parts, vectors, **given), block[:, :3]) < 1e-9

    theta, unravel = ravel(problem.model, parameters=patterns)
    assert list(unravel(theta)) == names
    assert theta.equal(problem.theta[index])
    assert trainable(problem.model).keys() > set(names), "all are trainable again"


def test_a_tied_parameter_is_taken_once_by_any_of_its_names_in_the_order_of_all() -> None:
    model = Autoencoder()
    for patterns in ("decoder.weight", ["encoder.weight", "decoder.weight"], "*.weight"):
        assert list(trainable(model, patterns)) == ["encoder.weight"]
    assert list(trainable(model, ["decoder.*", "encoder.bias"])) == ["encoder.weight", "encoder.bias", "decoder.bias"]
    assert [len(leaf) for leaf in leaves_of(model, "*.bias")] == [3, 3]


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ("fc", r"parameters='fc' matches none of the names 0\.weight, 0\.bias, 2\.0\.weight, 2\.0\.bias, 3\.weight"),
        ("2", r"matches none of the names .* 3\.bias; do you mean '2\.\*'\?"),
        (["3.*", "4.*"], r"parameters='4\.\*' matches none of the names"),
        ("weight", r"matches none of the names .*; do you mean '\*\.weight'\?"),
        ([], r"parameters=\[\] must be a pattern of names, such as 'fc\.\*', or a list of patterns"),
        ([3], r"parameters=\[3\] must be a pattern of names"),
        (3, r"parameters=3 must be a pattern of names"),
        (iter(["2.*"]), r"parameters=<list_iterator .* must be a pattern of names"),
        ("0.*", r"matches only frozen parameters, which stay so: .* or choose among 2\.0\.weight, 2\.0\.bias, 3\.wei"),
    ],
)
def test_what_cannot_be_chosen_is_refused(patterns, words: str) -> None:
    problem = nested()
    problem.model[0].requires_grad_(False)
    network = (problem.model, problem.criterion, problem.inputs, problem.targets)
    for call in (
        lambda: ravel(problem.model, patterns),
        lambda: factored.hessian(*network, parameters=patterns),
        lambda: batches.hessian(vmap_hvp, *network[:2], [network[2:]], parameters=patterns),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    if isinstance(patterns, str) or patterns == ["3.*", "4.*"]:
        with pytest.raises(ProblemError, match=words):
            chosen(from_network(*network), [patterns] if isinstance(patterns, str) else patterns)


def test_brackets_in_names_are_pointed_out() -> None:
    model = nn.Module()
    model.register_module("fc[0]", nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"do you mean 'fc\[\[\]0\]\.\*'\? \(\[\.\.\.\] stands for one of the char"):
        ravel(model, "fc[0].*")
    assert len(ravel(model, "fc[[]0].*")[0]) == 3
    with pytest.raises(ValueError, match="the model has no parameters"):
        ravel(nn.Tanh(), "fc.*")


def test_many_names_are_listed_by_their_form() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    names = list(dict(nn.TransformerEncoder(layer, 12).named_parameters()))
    shown = listed(names)
    assert len(names) > 100
    assert shown.startswith("layers.*.self_attn.in_proj_weight, layers.*.self_attn.in_proj_bias")
    assert shown.count(", ") < 20
    assert listed([f"a{index}" for index in range(30)]).endswith("a18, a19 and 10 more")


def test_parameters_of_no_network_have_no_names() -> None:
    with pytest.raises(ProblemError, match=r"parameters=fc\.\* cannot be had: the problem is a function"):
        chosen(functions.quadratic(), ["fc.*"])
    with pytest.raises(ValueError, match="chooses parameters of a module; found dict"):
        ravel({"a": torch.zeros(2)}, parameters="a")


def test_what_is_frozen_for_a_while_is_freed_after_an_error() -> None:
    model = nested().model
    seen = []

    def criterion(outputs: torch.Tensor, targets: None) -> torch.Tensor:
        seen.append([p.requires_grad for p in model.parameters()])
        raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        factored.hessian(model, criterion, torch.zeros(2, 3).double(), None, parameters="2.*")
    assert seen[0] == [False] * 2 + [True] * 2 + [False] * 2
    assert all(p.requires_grad for p in model.parameters())


def test_a_subset_and_batches_of_some_parameters() -> None:
    problem, part, _, whole = built("nested")
    few = subset(split(part, 2), 4, seed=1)
    index = torch.stack([(problem.theta == value).nonzero()[0, 0] for value in few.theta])
    assert distance(central_differences(few), whole[index][:, index]) < 1e-8
    assert (few.whole, few.batch_sizes) == (problem.theta.numel(), (3, 2))
    again = chosen(split(problem, 2), ["2.*"])
    assert again.batch_sizes == again.to("cpu", torch.float32).batch_sizes == (3, 2)


def test_the_harness_records_what_was_chosen_and_writes_a_script_for_it(run, capsys) -> None:
    seen = run(parameters=("2.*",), passes=("agreement",))
    assert (seen["status"], seen["params"], seen["whole_params"]) == ("ok", 8, 20)
    assert seen["parameters"] == "2.*"
    for row in filter(installed, ("create_graph_rows", "curvlinops")):  # the second asks for the network
        exec(script(seen | {"target": ".".join(target(row, "hessian")[:2])}), {"__name__": "script"})
        shown = capsys.readouterr().out
        assert float(shown.split("relative distance from central differences: ")[1].split()[0]) < 1e-6


def test_a_cell_whose_pattern_matches_nothing_is_an_error(run) -> None:
    seen = run(parameters=("fc.*",), passes=("agreement",))
    assert seen["status"] == "error"
    assert "parameters='fc.*' matches none of the names 0.weight, 0.bias, 2.weight, 2.bias" in seen["message"]
