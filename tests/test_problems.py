"""The problems: sizes, closed forms, casting, and refusals."""

import collections
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import optimize, special, stats
from torch import nn

from harness.job import STATED
from harness.problems import (
    ProblemError,
    build,
    check,
    from_function,
    from_network,
    functions,
    networks,
    residual,
    subset,
    transformer_blocks,
    transformers,
)
from methods import vmap_hvp
from methods.create_graph_rows import hessian, hvp
from tests.oracles import central_differences, distance

CONF = Path(__file__).parent.parent / "conf" / "problem"
ROWS = [path.stem for path in CONF.glob("*.yaml") if path.stem != "custom"]


def row(name: str, **changes):
    options = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    for base in options.pop("defaults", []):
        if base != "_self_":
            options = OmegaConf.to_container(OmegaConf.load(CONF / f"{base}.yaml")) | options
    given = {key: value for key, value in options.items() if key not in STATED}
    return build(given.pop("_target_"), given | changes)


@pytest.mark.parametrize("in_use", [True, False])
def test_a_problem_on_the_cpu_starts_no_gpu_and_keeps_the_random_state(monkeypatch, in_use: bool) -> None:
    """As on a machine with eight GPUs, where CUDA is in use for something else, or not."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    problem = networks.mlp(inputs=2, width=2, outputs=2, batch=3)
    before = torch.get_rng_state()
    check(problem)
    assert torch.equal(torch.get_rng_state(), before)
    assert not asked


# Rows made smaller for a test.
SMALLER = {
    "resnet": {"width": 4, "image": 16, "outputs": 5, "batch": 2},
    "resnet_34": {"width": 4, "image": 16, "outputs": 5, "batch": 2},
    "bert": {"vocabulary": 11, "width": 12, "heads": 3, "length": 5, "blocks": 2, "batch": 2},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_sound_problem(name: str) -> None:
    changes = SMALLER.get(name, {})
    problem = row(name, **changes)
    check(problem)
    assert problem.theta.dtype == torch.float64
    direction = torch.randn(problem.theta.numel(), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert hvp(problem.loss, problem.theta, direction).norm() > 1e-3, "a Hessian that is zero would tell nothing"
    assert sum(problem.sizes) == problem.theta.numel()
    again = row(name, **changes)
    assert torch.equal(problem.theta, again.theta)
    assert problem.loss(problem.theta) == again.loss(again.theta)
    other = row(name, seed=1, **changes)
    assert problem.loss(problem.theta) != other.loss(other.theta), "the seed must change the draw"


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("depth", [18, 34])
def test_resnet_is_as_long_as_its_name(depth: int, norm: str) -> None:
    """He et al. 2016, table 1: so many layers with weights; and the parameters of the published networks."""
    model = residual.resnet(depth=depth, norm=norm, batch=1, image=32).model
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == depth
    assert sum(p.numel() for p in model.parameters()) == {18: 11_689_512, 34: 21_797_672}[depth]


def test_lenet5_and_bert_have_the_published_sizes() -> None:
    assert networks.lenet5(batch=1).theta.numel() == 61_706
    # BERT-base has 109,482,240 parameters with 512 positions: 384 of width 768 fewer here, two outputs more.
    encoder = 30522 * 768 + 2 * 768 + 512 * 768 + 2 * 768 + 12 * 7_087_872 + 768 * 768 + 768
    assert encoder == 109_482_240
    assert transformers.bert(batch=1, length=128).theta.numel() == encoder - 384 * 768 + 2 * 768 + 2


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torchs_own(causal: bool) -> None:
    """Explicit attention against torch's fused kernel and its nn.MultiheadAttention, with the same weights."""
    own = transformer_blocks.Attention(12, 3, causal, sdpa=False).double()
    fused = transformer_blocks.Attention(12, 3, causal, sdpa=True).double()
    fused.load_state_dict(own.state_dict())
    torchs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    torchs.load_state_dict(
        {
            "in_proj_weight": own.project.weight,
            "in_proj_bias": own.project.bias,
            "out_proj.weight": own.out.weight,
            "out_proj.bias": own.out.bias,
        }
    )
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = torchs(x, x, x, attn_mask=mask, need_weights=False)
    assert distance(own(x), expected) < 1e-14
    assert distance(fused(x), expected) < 1e-14


def test_a_language_model_sees_no_later_token_and_predicts_the_next_one() -> None:
    problem = transformers.gpt(vocabulary=5, width=4, length=6, blocks=2, batch=3)
    tokens = problem.inputs.clone()
    tokens[:, 4] = (tokens[:, 4] + 1) % 5
    logits, changed = problem.model(problem.inputs), problem.model(tokens)  # (N, vocabulary, T)
    assert distance(logits[..., :4], changed[..., :4]) < 1e-14
    assert distance(logits[..., 4:], changed[..., 4:]) > 1e-3
    assert torch.equal(problem.targets[:, :-1], problem.inputs[:, 1:])
    chosen = logits.log_softmax(1).gather(1, problem.targets[:, None])
    assert float(problem.criterion(logits, problem.targets) + chosen.mean()) == pytest.approx(0, abs=1e-14)


def test_a_resnet_in_eval_mode_does_not_mix_samples() -> None:
    """What makes its loss a mean over samples, and deterministic: running statistics, not those of the batch."""
    model = residual.resnet(width=4, image=16, outputs=3, batch=3).model
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert distance(model(x)[:1], model(x[:1])) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "mlp_layernorm", "cnn", "logistic"])
def test_theta_is_in_the_order_of_the_named_parameters(name: str) -> None:
    problem = row(name)
    named = [p.detach().flatten() for _, p in problem.model.named_parameters()]
    assert torch.equal(problem.theta, torch.cat(named))
    by_hand = problem.criterion(problem.model(problem.inputs), problem.targets)
    assert problem.loss(problem.theta) == by_hand
    position = sum(len(values) for values in named[:-1])  # the first entry of the last parameter
    moved = problem.theta.clone()
    moved[position] += 1
    expected = list(problem.model.parameters())[-1]
    with torch.no_grad():
        expected.view(-1)[0] += 1
        assert problem.loss(moved).item() == problem.criterion(problem.model(problem.inputs), problem.targets).item()


def test_the_loss_of_a_perceptron_by_numpy() -> None:
    def forward(problem, activation):
        first, shift, second, offset = (p.detach().numpy() for p in problem.model.parameters())
        return activation(problem.inputs.numpy() @ first.T + shift) @ second.T + offset

    regression = networks.mlp(task="regression")
    expected = np.mean((forward(regression, np.tanh) - regression.targets.numpy()) ** 2)
    assert regression.loss(regression.theta).item() == pytest.approx(expected, rel=1e-12)
    classes = networks.mlp(activation="sigmoid")
    logits = special.log_softmax(forward(classes, special.expit), axis=1)
    expected = -np.mean(logits[np.arange(len(logits)), classes.targets.numpy()])
    assert classes.loss(classes.theta).item() == pytest.approx(expected, rel=1e-12)


def test_the_functions_by_scipy() -> None:
    rosenbrock = functions.rosenbrock(size=5)
    assert rosenbrock.loss(rosenbrock.theta).item() == pytest.approx(optimize.rosen(rosenbrock.theta.numpy()))
    np.testing.assert_allclose(rosenbrock.hessian().numpy(), optimize.rosen_hess(rosenbrock.theta.numpy()), rtol=1e-12)
    quadratic = functions.quadratic(size=6, condition=50.0)
    assert torch.linalg.eigvalsh(quadratic.hessian())[[0, -1]].tolist() == pytest.approx([1, 50])
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    point = torch.tensor(0.2, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    found = functions.normal_loglik_objective(point, x).item()
    assert found == pytest.approx(stats.norm(0.2, 1.3).logpdf(x.numpy()).sum())


@pytest.mark.parametrize(
    ("problem", "params"),
    [
        (lambda: networks.mlp(inputs=3, width=4, depth=2, outputs=2), 3 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2),
        (lambda: networks.mlp(inputs=3, width=4, outputs=2, norm="layer"), 3 * 4 + 4 + 8 + 4 * 2 + 2),
        (lambda: networks.cnn(image=5, channels=2, depth=1, outputs=3), 9 * 2 + 2 + 2 * 9 * 3 + 3),
        (lambda: networks.cnn(image=8, channels=4, depth=2, outputs=5), 9 * 4 + 4 + 9 * 16 + 4 + 4 * 4 * 5 + 5),
        (lambda: functions.quadratic(size=7), 7),
        (lambda: functions.rosenbrock(size=4), 4),
        (lambda: functions.logistic(inputs=3, classes=4), 16),
        (lambda: functions.logistic(inputs=3, classes=4, bias=False), 12),
        (lambda: functions.normal_loglik(), 2),
    ],
)
def test_sizes(problem, params: int) -> None:
    assert problem().theta.numel() == params


@pytest.mark.parametrize(
    "problem",
    [
        functions.quadratic,
        functions.rosenbrock,
        functions.normal_loglik,
        functions.logistic,
        lambda seed: functions.logistic(seed=seed, bias=False),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_forms(problem, seed: int) -> None:
    problem = problem(seed=seed)
    assert distance(problem.hessian(), central_differences(problem)) < 1e-9


def test_casting_casts_all_and_rounds_once() -> None:
    model = nn.Linear(3, 2, dtype=torch.float64)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7], dtype=torch.float64))
    inputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.randint(2, (5,))
    problem = from_network(model, criterion, inputs, targets)
    single = problem.to("cpu", torch.float32)
    assert {single.theta.dtype, single.inputs.dtype, single.criterion.weight.dtype} == {torch.float32}
    assert single.targets.dtype == torch.int64
    assert (model.weight.dtype, criterion.weight.dtype) == (torch.float64, torch.float64), (
        "the user's own are not touched"
    )
    assert single.loss(single.theta).dtype == torch.float32
    double = single.to("cpu", torch.float64)
    assert torch.equal(double.theta, problem.theta.float().double())
    assert torch.equal(double.inputs, inputs.float().double())
    assert double.criterion.weight.tolist() == torch.tensor([0.3, 0.7]).double().tolist()


def test_data_and_closed_form_of_a_function_are_cast() -> None:
    problem = functions.quadratic(size=3)
    single = problem.to("cpu", torch.float32)
    assert single.hessian().dtype == torch.float32
    assert single.loss(single.theta).dtype == torch.float32
    double = single.to("cpu", torch.float64)
    assert torch.equal(double.hessian(), problem.hessian().float().double())
    assert torch.equal(double.theta, problem.theta.float().double())


def test_a_value_of_a_cast_function_is_that_at_the_rounded_data() -> None:
    """1/3 in float32 is 0.3333333432674407795; nothing of the float64 value may be left behind it."""
    third = torch.tensor([1 / 3], dtype=torch.float64)
    problem = from_function(lambda x, data: (data["a"] * x).sum(), third, ({"a": third, "n": [torch.tensor(2)]},))
    double = problem.to("cpu", torch.float32).to("cpu", torch.float64)
    assert double.loss(double.theta).item() == 0.3333333432674407795**2
    assert problem.loss(problem.theta).item() == (1 / 3) ** 2


def test_frozen_parameters_are_held_and_tied_ones_taken_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False), nn.Linear(2, 1)).double()
    model[2].weight = model[0].weight
    model[3].requires_grad_(False)
    inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    built = from_network(model, nn.MSELoss(), inputs, torch.zeros(6, 1, dtype=torch.float64))
    for problem in (built, built.to("cpu", torch.float64)):
        assert torch.equal(problem.theta, model[0].weight.detach().flatten())
        assert problem.model[2].weight is problem.model[0].weight
        assert distance(hessian(problem.loss, problem.theta), central_differences(problem)) < 1e-9


def test_inputs_may_be_a_tuple_or_a_dict() -> None:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, a, b):
            return (self.weight * a * b["x"]).square()

    inputs = torch.randn(4, 2), {"x": torch.randn(4, 2)}
    problem = from_network(Two(), lambda out, targets: (out * targets["y"]).sum(), inputs, {"y": torch.ones(4, 2)})
    expected = 2 * (inputs[0] * inputs[1]["x"]).square().sum(0).diag()
    assert distance(hessian(problem.loss, problem.theta), expected.double()) < 1e-6


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        (networks.mlp, {"width": 0}, "mlp: width=0"),
        (networks.mlp, {"depth": -1}, "mlp: depth=-1"),
        (networks.mlp, {"width": 2.5}, "mlp: width=2.5"),
        (networks.mlp, {"batch": True}, "mlp: batch=True"),
        (networks.mlp, {"activation": "swish"}, "activation=swish is not known; choose one of tanh"),
        (networks.mlp, {"norm": "batch"}, "norm=batch is not known; choose one of null, layer"),
        (networks.mlp, {"task": "ranking"}, "task=ranking"),
        (networks.cnn, {"image": 0}, "cnn: image=0"),
        (functions.rosenbrock, {"size": 1}, "rosenbrock: size=1"),
        (functions.rosenbrock, {"size": 0}, "rosenbrock: size=0"),
        (functions.normal_loglik, {"scale": 0.0}, "scale=0.0 must be positive"),
        (functions.normal_loglik, {"scale": -1.5}, "scale=-1.5 must be positive"),
        (functions.normal_loglik, {"samples": 0}, "normal_loglik: samples=0"),
        (functions.quadratic, {"condition": -1.0}, "condition=-1.0"),
        (functions.quadratic, {"size": 0}, "quadratic: size=0"),
        (functions.logistic, {"classes": 0}, "logistic: classes=0"),
        (networks.mlp, {"depth": 0}, "mlp: depth=0"),
        (networks.cnn, {"depth": 0}, "cnn: depth=0"),
        (networks.cnn, {"activation": "swish"}, "cnn: activation=swish"),
        (networks.lenet5, {"image": 11}, "lenet5: image=11 is too small for two 5 x 5 convolutions"),
        (networks.lenet5, {"channels": [6]}, "lenet5: channels=[6] must be two whole numbers"),
        (networks.lenet5, {"widths": [120, 0]}, "lenet5: widths[1]=0 must be"),
        (transformers.transformer, {"width": 12, "heads": 5}, "transformer: width=12 must be a multiple of heads=5"),
        (
            transformers.transformer,
            {"attention": "flash"},
            "attention=flash is not known; choose one of explicit, sdpa",
        ),
        (transformers.bert, {"blocks": 0}, "bert: blocks=0"),
        (transformers.gpt, {"vocabulary": 1}, "gpt: vocabulary=1 has no curvature"),
        (residual.resnet, {"depth": 50}, "resnet: depth=50 is not known; choose one of 18, 34"),
        (residual.resnet, {"norm": "layer"}, "resnet: norm=layer is not known; choose one of batch, group"),
        (networks.cnn, {"task": "ranking"}, "cnn: task=ranking is not known; choose one of classes, regression"),
    ],
)
def test_bad_options_are_named(builder, options: dict, words: str) -> None:
    with pytest.raises(ProblemError) as error:
        builder(**options)
    assert words in str(error.value)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (from_function(lambda x: x, torch.ones(2)), "must be a scalar (a tensor of shape ()), found (2,)"),
        (from_function(lambda x: x.sum()[None], torch.ones(2)), "found (1,)"),
        (from_function(lambda x: 3.0, torch.ones(2)), "found float"),
        (from_function(lambda x: torch.ones(()), torch.ones(2)), "does not depend on its parameters"),
        (from_function(lambda x: x.detach().sum(), torch.ones(2)), "does not depend on its parameters"),
        (from_function(lambda x: (x - 2).log().sum(), torch.ones(2)), "the loss is nan"),
        (from_function(lambda x: (x / 0).sum(), torch.ones(2)), "the loss is inf"),
        (from_network(Dropped(), nn.MSELoss(), torch.randn(40, 3), torch.randn(40, 2)), "not deterministic"),
    ],
)
def test_what_has_no_hessian_is_refused(problem, words: str) -> None:
    with pytest.raises(ProblemError) as error:
        check(problem)
    assert words in str(error.value)


def test_building_refuses_what_is_no_problem() -> None:
    with pytest.raises(ProblemError, match="cannot be imported"):
        build("no.such.path", {})
    with pytest.raises(ProblemError, match="returned int; it must return"):
        build("tests.faulty.no_problem", {})
    with pytest.raises(ProblemError, match="cannot be imported"):
        build("tests.faulty.absent", {})
    with pytest.raises(ProblemError, match="returned tuple; it must return"):
        build("builtins.tuple", {})  # ()


def test_the_example_of_a_users_own_problem() -> None:
    problem = build("tests.examples.custom_problem.my_problem", {"hidden": 4}).to("cpu", torch.float64)
    check(problem)
    assert problem.theta.numel() == (5 * 4 + 4) + 2 * (4 * 4 + 4) + 5
    true = central_differences(problem)
    assert distance(hessian(problem.loss, problem.theta), true) < 1e-8
    assert distance(vmap_hvp.hessian(problem.loss, problem.theta), true) < 1e-8


def test_a_problem_is_frozen() -> None:
    problem = functions.quadratic()
    with pytest.raises(AttributeError):
        problem.theta = torch.ones(1)
    assert replace(problem, theta=torch.ones(20)).theta.sum() == 20


def test_options_that_do_not_fit_are_refused_as_the_docstring_says() -> None:
    with pytest.raises(ProblemError):
        build("harness.problems.networks.mlp", {"widht": 3})


def test_a_named_tuple_is_cast() -> None:
    pair = collections.namedtuple("pair", "a b")
    data = pair(torch.ones(2, dtype=torch.float64), 2)
    problem = from_function(lambda x, d: (x * d.a * d.b).sum(), torch.ones(2, dtype=torch.float64), (data,))
    single = problem.to("cpu", torch.float32)
    assert single.loss(single.theta).item() == 4


def test_a_loss_that_changes_the_model_is_refused() -> None:
    class Counting(nn.Linear):
        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x)

    model = Counting(3, 2)
    model.register_buffer("calls", torch.zeros(()))
    data = torch.randn(8, 3), torch.randn(8, 2)
    check(from_network(model, nn.MSELoss(), *data))
    assert model.calls == 0, "in train mode it writes into a copy"
    with pytest.raises(ProblemError, match="changes the model's calls whenever it is called, in eval mode too"):
        check(from_network(model.eval(), nn.MSELoss(), *data))


@pytest.mark.parametrize("name", ["mlp_500", "logistic", "rosenbrock"])
def test_a_subset_has_the_principal_submatrix(name: str) -> None:
    problem = row(name)
    whole = hessian(problem.loss, problem.theta)
    part = subset(problem, 7, seed=3)
    index = torch.stack([(problem.theta == value).nonzero()[0, 0] for value in part.theta])
    assert distance(hessian(part.loss, part.theta), whole[index][:, index]) < 1e-14
    assert sum(part.sizes) == part.theta.numel() == 7
    assert part.whole == problem.theta.numel()
    if part.hessian is not None:
        assert distance(part.hessian(), whole[index][:, index]) < 1e-12
    if part.model is not None:
        (parameter,) = part.model.parameters()
        assert torch.equal(parameter, part.theta)
        assert part.criterion(part.model(part.inputs), part.targets) == problem.loss(problem.theta)
    single = part.to("cpu", torch.float32)
    assert single.theta.dtype == torch.float32
    assert torch.equal(single.theta, part.theta.float())


def test_a_subset_of_more_than_all_is_refused() -> None:
    with pytest.raises(ProblemError, match="subset=99 must be between 1 and the number of parameters, 36"):
        subset(row("logistic", inputs=8, classes=4), 99, seed=0)
