"""Every affine map that `methods.factored` knows: no rows, no warning, and the Hessian of rows and of differences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.problems import from_network
from methods import create_graph_rows, factored
from methods.factoring.certificate import FallbackWarning
from tests.random_blocks import Block
from tests.test_factored import distance, draw

pytestmark = pytest.mark.usefixtures("matrix_products")

N, D = 2, 4  # samples, features


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=torch.float64))


def _shared(width: int) -> nn.Module:
    """Positions that are looked up for all samples at once; as many as twice the samples."""

    def forward(m: Block, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        return x + m.a(places) + m.b(places[None])[:, : x.shape[1]]

    return Block(forward, a=nn.Embedding(6, width), b=nn.Embedding(5, width))


def _masked_heads(x: Tensor) -> dict[str, Tensor]:
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding[0, -1] = True
    return {"key_padding_mask": padding, "attn_mask": torch.ones(x.shape[1], x.shape[1]).triu(1).bool()}


def _crossed(m: Block, x: Tensor) -> Tensor:
    memory = m.b(x).sin()[:, :3]
    mixed, weights = m.a(x[:, 1:], memory, memory.cos())
    return mixed * weights.sum(-1, keepdim=True)


def _heads(**options: object) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(D, 2, batch_first=True, **options)  # type: ignore[arg-type]


# Of features (N, D): each block keeps the samples first.
OF_FEATURES: dict[str, Callable[[], nn.Module]] = {
    "scale": lambda: Block(lambda m, x: x * m.w, w=_weight(D)),
    "scale_first": lambda: Block(lambda m, x: torch.mul(m.w, x), w=_weight(1, D)),
    "scale_of_all": lambda: Block(lambda m, x: x * m.w, w=_weight()),
    "shift": lambda: Block(lambda m, x: torch.add(x, m.w, alpha=2), w=_weight(D)),
    "difference": lambda: Block(lambda m, x: (m.w - x) * (x - m.v).sin(), v=_weight(1), w=_weight(D)),
    "broadcast": lambda: Block(lambda m, x: (x[:, :1] * m.w).sin(), w=_weight(D)),
    "rms_norm": lambda: nn.RMSNorm(D),
    "layer_norm": lambda: nn.LayerNorm(D),
    "group_norm": lambda: nn.GroupNorm(2, D),
    "batch_norm": lambda: nn.BatchNorm1d(D).eval(),
    "prelu": lambda: nn.PReLU(D),
    "matmul": lambda: Block(lambda m, x: x @ m.w + x.matmul(m.w.T).sin(), w=_weight(D, D)),
    "product": lambda: Block(lambda m, x: torch.mm(x, m.w.view(D, D)).sin(), w=_weight(D * D)),
    "addmm": lambda: Block(lambda m, x: torch.addmm(m.v, x, m.w), v=_weight(D), w=_weight(D, D)),
    "einsum": lambda: Block(lambda m, x: torch.einsum("ni,oi->no", x, m.w), w=_weight(D, D)),
    "einsum_rest": lambda: Block(lambda m, x: torch.einsum("...i, io -> ...o", x, m.w), w=_weight(D, D)),
    "columns": lambda: Block(lambda m, x: functional.linear(x, m.w[:, 1:], m.w[:, 0]), w=_weight(D, D + 1)),
    "one_vector": lambda: Block(
        lambda m, x: functional.linear(x, m.w[: D * D].view(D, D), m.w[D * D + 1 :]), w=_weight(D * D + 1 + D)
    ),
    "transposed": lambda: Block(
        lambda m, x: functional.linear(functional.linear(x, m.w).sin(), m.w.T), w=_weight(3, D)
    ),
    "bilinear": lambda: Block(lambda m, x: m.a(x, x[:, 1:].sin()), a=nn.Bilinear(D, D - 1, D)),
    "gru_cell": lambda: Block(lambda m, x: m.a(x[:, 1:], m.a(x[:, :3])), a=nn.GRUCell(3, D)),
    "lstm_cell": lambda: Block(lambda m, x: m.a(x, m.a(x))[0], a=nn.LSTMCell(D, D, bias=False)),
    "rnn_cell": lambda: Block(lambda m, x: m.a(x, x.sin()), a=nn.RNNCell(D, D)),
}
# Of sequences (N, 4, D).
OF_SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "positions": lambda: Block(lambda m, x: x + m.w[: x.shape[1]], w=_weight(6, D)),
    "class_token": lambda: Block(
        lambda m, x: (
            torch.cat([m.w.expand(len(x), -1, -1), x, m.v[None].repeat(len(x), 1, 1)], 1).flip(1).cumsum(1)[:, 1:5]
        ),
        v=_weight(2, D),
        w=_weight(1, 1, D),
    ),
    "positions_each": lambda: Block(lambda m, x: m.w + x, w=_weight(1, 4, D)),
    "positions_looked_up": lambda: _shared(D),
    "layer_norm": lambda: nn.LayerNorm((4, D)),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "instance_norm": lambda: nn.InstanceNorm1d(4, affine=True),
    "conv1d_same": lambda: nn.Conv1d(4, 4, 3, padding="same", dilation=2),
    "conv1d_valid": lambda: Block(lambda m, x: m.a(x).mean(2, keepdim=True) * x, a=nn.Conv1d(4, 4, 3, padding="valid")),
    "conv1d_reflect": lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
    "conv1d_groups": lambda: nn.Conv1d(4, 4, 3, padding=1, groups=2),
    "conv1d_depthwise": lambda: nn.Conv1d(4, 4, 2, padding="same", groups=4, bias=False),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(4, 4, 3, padding=1),
    "conv_transpose1d_groups": lambda: nn.ConvTranspose1d(4, 4, 3, padding=1, groups=2, bias=False),
    "heads": lambda: Block(lambda m, x: m.a(x, x, x)[0], a=_heads()),
    "heads_masked": lambda: Block(lambda m, x: m.a(x, x, x, **_masked_heads(x))[0], a=_heads(bias=False)),
    "heads_crossed": lambda: Block(_crossed, a=_heads(), b=nn.Linear(D, D)),
    "heads_apart": lambda: Block(
        lambda m, x: m.a(x, x[..., 1:], x[..., :2], average_attn_weights=False)[0], a=_heads(kdim=D - 1, vdim=2)
    ),
    "encoder": lambda: nn.TransformerEncoderLayer(D, 2, 3, dropout=0.0, batch_first=True, norm_first=True),
    "scale": lambda: Block(lambda m, x: x * m.w[:, None], w=_weight(4)),
}
# Of images (N, 2, 3, 3).
OF_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "conv2d_depthwise": lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
    "conv2d_groups": lambda: nn.Conv2d(2, 4, (1, 2), stride=(1, 2), groups=2),
    "conv2d_circular": lambda: nn.Conv2d(2, 1, 2, padding=1, padding_mode="circular"),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(2, 1, 2, stride=2, output_padding=1),
    "conv3d": lambda: Block(lambda m, x: m.a(x[:, None]), a=nn.Conv3d(1, 2, 2, padding=(1, 0, 0))),
    "conv_transpose3d": lambda: Block(lambda m, x: m.a(x[:, None]), a=nn.ConvTranspose3d(1, 1, 2)),
    "batch_norm": lambda: nn.BatchNorm2d(2).eval(),
    "instance_norm": lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True).eval(),
    "prelu": lambda: nn.PReLU(),
}
CASES = {
    **{f"{name} of features": (make, (N, D)) for name, make in OF_FEATURES.items()},
    **{f"{name} of sequences": (make, (N, 4, D)) for name, make in OF_SEQUENCES.items()},
    **{f"{name} of images": (make, (N, 2, 3, 3)) for name, make in OF_IMAGES.items()},
}


def _check(found: Tensor, given: Sequence[Any]) -> None:
    """Whether a Hessian is that of rows by double backward, and of a difference of gradients along a random vector."""
    problem = from_network(*given)
    vector = draw(len(problem.theta), seed=3)

    def gradient(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(problem.loss(at), at)[0]

    step = 1e-5
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel of attention has no second derivative
        change = gradient(problem.theta + step * vector) - gradient(problem.theta - step * vector)
        rows = create_graph_rows.hessian(problem.loss, problem.theta)
    assert distance(found @ vector, change / (2 * step)) < 1e-7
    assert distance(found, rows) < 1e-12


SLOW = {"encoder of sequences"}


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in CASES])
def test_a_map_takes_no_rows(name: str) -> None:
    """A layer before the map, so that its inputs depend on parameters, and a nonlinear function behind it."""
    make, shape = CASES[name]
    stem = nn.Linear(shape[-1], shape[-1], bias=False)
    model = nn.Sequential(stem, make(), nn.Softplus()).double()
    with torch.no_grad():
        for index, (_, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(0.6 * draw(*parameter.shape, 1, seed=index + 2)[..., 0])
    inputs = draw(*shape, seed=1)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.flatten(1).square() * targets[:, None]).sum() / math.prod(outputs.shape)

    given = model, criterion, inputs, torch.arange(1.0, N + 1, dtype=torch.float64)
    reasons = factored.explain(*given)
    assert set(reasons.values()) == {factored.USUAL}, reasons
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        found = factored.hessian(*given)
        diagonal = factored.diagonal(*given)
    _check(found, given)
    assert float((diagonal - found.diagonal()).norm() / found.diagonal().norm()) < 1e-12


def test_parameters_that_have_no_samples_spoil_no_others() -> None:
    """Products of parameters, with as many rows as would fit the samples, are no maps of samples."""

    def forward(m: Block, x: Tensor) -> Tensor:
        scaled = m.gain * (m.v + m.w)
        return functional.linear(x, m.v @ m.w + m.a(m.w.sin())) + functional.linear(x, scaled)

    model = nn.Sequential(
        nn.Linear(D, D), Block(forward, v=_weight(D, D), w=_weight(D, D), gain=_weight(), a=nn.Linear(D, D)), nn.Tanh()
    ).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, 1, seed=index + 2)[..., 0])
    given = model, nn.CrossEntropyLoss(), draw(N, D), torch.arange(N)
    reasons = factored.explain(*given)
    assert {name for name, how in reasons.items() if how == factored.USUAL} == {"0.weight", "0.bias"}
    _check(factored.hessian(*given), given)


def test_rows_of_a_parameter_that_are_changed_in_place_are_no_view() -> None:
    def forward(m: Block, x: Tensor) -> Tensor:
        places = m.a(torch.arange(x.shape[1]))
        places *= torch.arange(1.0, 5.0)[:, None]
        return (x + places).tanh()

    model = nn.Sequential(Block(forward, a=nn.Embedding(4, D)), nn.Flatten(), nn.Linear(4 * D, 2)).double()
    given = model, nn.CrossEntropyLoss(), draw(N, 4, D), torch.arange(N)
    assert factored.explain(*given)["0.a.weight"] == "it enters no affine map of the samples"
    _check(factored.hessian(*given), given)


def test_a_part_of_a_parameter_leaves_the_rest_at_zero() -> None:
    """Rows of a weight that enter nothing are zero, whatever was in `out`."""
    model = Block(lambda m, x: functional.linear(x, m.w[1:]).tanh(), w=_weight(D, D))
    with torch.no_grad():
        model.w.copy_(draw(D, D, seed=2))
    out = torch.full((D * D, D * D), torch.nan, dtype=torch.float64)
    factored.hessian(model, nn.CrossEntropyLoss(), draw(N, D), torch.arange(N), out=out)
    assert not out[:D].any()
    assert not out[:, :D].any()
    assert out[D:, D:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForSequenceClassification"])
def test_a_model_of_hugging_face_takes_no_rows(name: str) -> None:
    """In float32, since these compute their loss in it."""
    transformers = pytest.importorskip("transformers")
    made = getattr(transformers, name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
    config = made.config_class(vocab_size=7, pad_token_id=0, attn_implementation="eager", **sizes)
    model = made(config).eval()
    tokens = torch.randint(7, (2, 4))
    labels = torch.tensor([0, 1]) if name.startswith("Bert") else tokens
    given = model, None, {"input_ids": tokens, "labels": labels}, None
    reasons = factored.explain(*given).values()
    assert all(how == factored.USUAL or "rows are zero" in how for how in reasons)
