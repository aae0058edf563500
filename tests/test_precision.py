"""A coarser precision within the loss: right results are ok to that precision, wrong ones are found."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.problems import from_function, from_network
from harness.truth import agreement
from harness.truth.detached_values import observe
from harness.truth.reference import reference
from tests.judging import DIFFERENCES, FULL, by_autograd


class RMSNorm(nn.Module):
    """As LLaMA's: in float32 whatever the dtype."""

    def __init__(self, width: int, within: torch.dtype) -> None:
        super().__init__()
        self.weight, self.within = nn.Parameter(torch.ones(width)), within

    def forward(self, x):
        y = x.to(self.within)
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x).to(x.dtype)


def network(*layers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), *layers, nn.SiLU(), nn.Linear(5, 2)) if layers else Autocast()
    return from_network(model.double(), nn.CrossEntropyLoss(), torch.randn(6, 3).double(), torch.randint(2, (6,)))


class Half(nn.Module):
    def forward(self, x):
        return x.half().to(x.dtype)


POINT = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CASES = [  # problem, dtype of the result, the precision within it
    (network(RMSNorm(5, torch.float32)), torch.float64, torch.float32),
    (network(RMSNorm(5, torch.bfloat16)), torch.float32, torch.bfloat16),
    (network(Half()), torch.float64, torch.float16),
    (network(), torch.float32, torch.bfloat16),
    (from_function(lambda x: x.float().exp().square().sum(), POINT), torch.float64, torch.float32),
    (from_function(lambda x: (x.float().detach() * x**2).sum() + (x**4).sum(), POINT), torch.float64, torch.float32),
]


@pytest.mark.parametrize(("problem", "dtype", "within"), CASES)
def test_right_to_the_precision_within(problem, dtype, within) -> None:
    truth = reference(problem, None, FULL, 0)
    generator = torch.Generator().manual_seed(0)
    found = by_autograd(problem.to("cpu", dtype))
    noise = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    size = float(truth.values.norm() / noise.norm())
    for share, status in ((0.3, "ok"), (30, "wrong")):
        error = share * agreement.TOLERANCE[within] * size * noise
        seen = agreement.compare((truth.values + error).to(dtype), "hessian", truth)
        assert (seen["status"], seen["inner_dtype"]) == (status, str(within).removeprefix("torch."))
        assert f"computes in {seen['inner_dtype']} within" in seen["message"]
        assert "do not confirm" not in seen["message"]
    assert agreement.compare(found, "hessian", truth)["status"] == "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_as_coarse_as_the_parameters_changes_nothing(dtype: torch.dtype) -> None:
    problem = network(RMSNorm(5, torch.float32))
    seen = agreement.compare(by_autograd(problem).to(dtype), "hessian", reference(problem, None, FULL, 0))
    assert (seen["status"], seen["inner_dtype"], seen["tolerance"]) == ("ok", None, agreement.TOLERANCE[dtype])


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: ((x > 0).float() * x**2).sum(),  # a mask
        lambda x: (torch.ones(5) * x**2).sum(),  # a constant
        lambda x: (torch.zeros_like(x, dtype=torch.float16) + x**2).sum(),
        lambda x: (x**2)[x.argsort().float().long()].sum(),
    ],
)
def test_what_does_not_carry_values_of_the_parameters_is_no_precision(loss) -> None:
    assert observe(loss, POINT).inner_dtype is None


def test_differences_have_the_precision_within_too() -> None:
    """In float32 they are good to about 1e-4; in bfloat16 they say nothing, and say so."""
    problem = network(RMSNorm(5, torch.float32))
    true = by_autograd(problem)
    seen = agreement.compare(true, "hessian", reference(problem, None, DIFFERENCES, 0))
    assert seen["status"] == "ok", seen["message"]
    assert agreement.compare(1.5 * true, "hessian", reference(problem, None, DIFFERENCES, 0))["status"] == "wrong"
    coarse = network(RMSNorm(5, torch.bfloat16))
    seen = agreement.compare(by_autograd(coarse), "hessian", reference(coarse, None, DIFFERENCES, 0))
    assert (seen["status"], "the bfloat16 within the loss" in seen["message"]) == ("error", True)


class Aside(nn.Module):
    """Casts what it passes on unchanged, as for a log."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        self.seen = x.to(self.dtype).to(torch.float32).exp().sum()
        return x


def autocast_aside(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x[:, None].float() @ torch.ones(1, 2)
    return (x**4).sum()


def stopped_aside(x):
    with torch.no_grad():
        seen = x.half().double().exp()
    return (x**4).sum() + 0 * len(seen.detach())


@pytest.mark.parametrize(
    "problem",
    [
        network(Aside(torch.bfloat16)),
        network(Aside(torch.float8_e5m2)),
        from_function(lambda x: (x.half().sum().item(), (x**4).sum())[1], POINT),
        from_function(autocast_aside, POINT),
        from_function(stopped_aside, POINT),
    ],
)
def test_a_coarse_value_that_never_reaches_the_loss_is_no_precision(problem) -> None:
    truth, true = reference(problem, None, FULL, 0), by_autograd(problem)
    for change, status in ((0.0, "ok"), (1e-9, "wrong")):
        seen = agreement.compare((1 + change) * true, "hessian", truth)
        assert (seen["status"], seen["inner_dtype"], seen["tolerance"]) == (status, None, 1e-12)


class InHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x.half() * 2).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def written(x):
    out = torch.zeros_like(x)
    out[:] = x.half().detach()
    return (out * x**2).sum()


def in_a_view(x):
    out = torch.zeros(5, dtype=torch.float16)
    out[:3].copy_(x[:3]).mul_(2)
    return out.double().square().sum()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: InHalf.apply(x).square().sum(),
        lambda x: (x.half().double().exp().detach() * x**2).sum(),
        lambda x: checkpoint(lambda x: x.half().double().square().sum(), x, use_reentrant=True),
        lambda x: torch.autograd.grad((x.half().double() ** 3).sum(), x, create_graph=True)[0].sum(),
        written,
        in_a_view,
    ],
)
def test_a_coarse_value_that_reaches_the_loss_by_another_way(loss) -> None:
    assert observe(loss, POINT).inner_dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_what_is_too_coarse_is_not_judged(dtype) -> None:
    problem = from_function(lambda x: (x.to(dtype).to(x.dtype) * x**2).sum() + (x**4).sum(), POINT)
    truth = reference(problem, None, FULL, 0)
    for result in (truth.values, 0 * truth.values):
        seen = agreement.compare(result, "hessian", truth)
        assert seen["status"] == "error"
        assert "too coarse to judge a result by" in seen["message"]
