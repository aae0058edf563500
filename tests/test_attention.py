"""Attention: every method works where it is computed from matrix products; elsewhere the first advice is to do so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.problems import attention, check, from_network
from harness.problems.torch_messages import explain
from methods import autograd_functional, create_graph_rows, factored, func_hessian, vmap_hvp
from tests.oracles import central_differences, distance
from tests.test_zoo import case

WAYS = {
    "rows": create_graph_rows.hessian,
    "functional": autograd_functional.hessian,
    "vectorized": lambda loss, theta: autograd_functional.hessian(loss, theta, True),
    "forward": lambda loss, theta: autograd_functional.hessian(loss, theta, True, "forward-mode"),
    "func": func_hessian.hessian,
    "vmap": vmap_hvp.hessian,
}


class Direct(nn.Module):
    """scaled_dot_product_attention of 4-dimensional tensors, with a mask or causal."""

    def __init__(self, **options):
        super().__init__()
        self.project, self.options = nn.Linear(4, 12), options

    def forward(self, x):
        query, key, value = self.project(x).view(2, 3, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(query, key, value, **self.options)


class Multihead(nn.Module):
    def __init__(self, padded, **options):
        super().__init__()
        self.attention, self.padded = nn.MultiheadAttention(4, 2, batch_first=True), padded
        self.options = options

    def forward(self, x):
        mask = torch.tensor([[False, False, True], [False, False, False]]) if self.padded else None
        return self.attention(x, x, x, key_padding_mask=mask, **self.options)[0]


class Encoder(nn.Module):
    def __init__(self, layers, padded):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers) if layers else layer
        self.padded = padded

    def forward(self, x):
        mask = torch.tensor([[False, False, True], [False, False, False]]) if self.padded else None
        return self.encoder(x, src_key_padding_mask=mask)[:, :2]


NETWORKS = {
    "direct": lambda: Direct(),
    "causal": lambda: Direct(is_causal=True),
    "masked": lambda: Direct(attn_mask=torch.tensor([[0.0, -1, 2]] * 3)),
    "multihead": lambda: Multihead(False),
    "multihead_without_weights": lambda: Multihead(False, need_weights=False),
    "padded": lambda: Multihead(True),
    "padded_without_weights": lambda: Multihead(True, need_weights=False),
    "layer": lambda: Encoder(0, False),
    "padded_layer": lambda: Encoder(0, True),
    "encoder": lambda: Encoder(1, False),
    "padded_encoder": lambda: Encoder(1, True),
}


def made(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    problem = from_network(model, lambda outputs, _: (outputs + 0.1).pow(3).mean(), torch.randn(2, 3, 4))
    return problem.to("cpu", torch.float64)


@pytest.mark.usefixtures("by_products")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_works_on_attention_from_matrix_products(name: str) -> None:
    problem = made(name)
    check(problem)
    true = central_differences(problem)
    assert attention.backend_of(problem.loss, problem.theta) == "math"
    wrong = {"func"} if isinstance(problem.model, Encoder) else set()  # under LayerNorm, as everywhere
    for way in WAYS.keys() - wrong:
        assert distance(WAYS[way](problem.loss, problem.theta), true) < 1e-7, way
    given = problem.model, problem.criterion, problem.inputs, problem.targets
    assert distance(factored.hessian(*given), true) < 1e-7


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["direct", "masked", "multihead_without_weights", "layer", "encoder"])
def test_the_first_advice_works(name: str, way: str) -> None:
    problem = made(name)
    with pytest.raises((RuntimeError, NotImplementedError)) as error:
        WAYS[way](problem.loss, problem.theta)
    status, message = explain(error.value)
    assert status == "unsupported"
    assert "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):" in message
    with sdpa_kernel(SDPBackend.MATH):
        assert WAYS[way](problem.loss, problem.theta).isfinite().all()


def test_a_fused_kernel_that_the_loss_asks_for_is_found(by_products) -> None:
    problem = case("attention_fused")
    assert attention.backend_of(problem.loss, problem.theta) == "fused"
    with torch.profiler.profile() as profiler:
        problem.loss(problem.theta)
    assert any("flash_attention" in event.key for event in profiler.key_averages())


def test_no_attention_is_met_where_there_is_none() -> None:
    problem = from_network(nn.Linear(3, 2), lambda outputs, _: outputs.square().sum(), torch.ones(2, 3))
    assert attention.backend_of(problem.loss, problem.theta) is None


def test_a_process_that_measures_uses_it_and_says_so(run) -> None:
    seen = run(problem_target="tests.test_attention.of_builder", problem_options={}, passes=("agreement",))
    assert (seen["status"], seen["attention"]) == ("ok", "math"), seen["message"]


def of_builder():
    torch.manual_seed(0)
    return NETWORKS["padded_without_weights"]().eval(), lambda outputs, _: outputs.square().mean(), torch.randn(2, 3, 4)
