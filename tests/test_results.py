"""What a method returned: plain tensors, or a clear word; a tensor that answers for itself convinces nobody."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.masked import masked_tensor

from harness.problems import from_function, networks
from harness.truth import results
from methods.estimates import Estimate
from tests.judging import PROBED, by_autograd, judge

NETWORK = networks.mlp(inputs=3, width=4, outputs=2, batch=8)
TRUE = by_autograd(NETWORK)
PARAMS = len(TRUE)


class Equal(Tensor):
    """Says that it equals whatever it is compared with."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("sub", "__sub__", "__rsub__", "rsub"):
            return torch.zeros(())
        return super().__torch_function__(func, types, args, kwargs or {})


class Impostor(Tensor):
    """Replaces itself by another tensor when it is converted, detached or multiplied."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("to", "detach", "double", "matmul", "__getitem__", "split", "as_subclass"):
            return TRUE
        return super().__torch_function__(func, types, args, kwargs or {})

    def as_subclass(self, cls):
        return TRUE


class Raising(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"not {func.__name__}")


@pytest.mark.parametrize("kind", [Equal, Impostor, Raising, torch.nn.Parameter])
def test_a_subclass_is_judged_by_its_own_numbers(kind) -> None:
    for result, status in ((torch.ones_like(TRUE), "wrong"), (TRUE.clone(), "ok")):
        dressed = kind(result) if kind is torch.nn.Parameter else result.as_subclass(kind)
        assert results.result_fault(dressed, "hessian", NETWORK.theta, None) is None
        assert judge(dressed, NETWORK)["status"] == status
        assert type(results.plain(dressed)) is Tensor
        assert judge(dressed, NETWORK, PROBED)["status"] == status
    estimate = Estimate(torch.ones(PARAMS).double().as_subclass(Equal), torch.ones(PARAMS).double(), 3)
    assert judge(estimate, NETWORK, quantity="diagonal")["status"] == "wrong"


class Lazy:
    def __getattr__(self, name):
        raise RuntimeError(f"lazily {name}")


class Claims:
    """An object that calls itself a tensor."""

    __class__ = Tensor


def leaked():
    kept = []
    torch.func.grad(lambda x: (kept.append(x), x.sum())[1])(torch.ones(PARAMS, PARAMS).double())
    return kept[0]


def fake():
    with FakeTensorMode() as mode:
        return mode.from_tensor(TRUE)


REFUSED = {
    "sparse": (lambda: TRUE.to_sparse(), "torch.sparse_coo"),
    "csr": (lambda: TRUE.to_sparse_csr(), "torch.sparse_csr"),
    "meta": (lambda: TRUE.to("meta"), "on meta"),
    "quantised": (lambda: torch.quantize_per_tensor(TRUE.float(), 0.1, 0, torch.qint8), "quantised"),
    "nested": (lambda: torch.nested.nested_tensor([TRUE]), "nested"),
    "complex": (lambda: torch.complex(TRUE, TRUE).conj(), "torch.complex128"),
    "integers": (lambda: TRUE.long(), "torch.int64"),
    "leaked": (leaked, "transform that has ended"),
    "fake": (fake, "FakeTensor"),
    "masked": (lambda: masked_tensor(TRUE, TRUE > 0), "MaskedTensor"),
    "lazy": (Lazy, "returned Lazy"),
    "claims": (Claims, "returned Claims"),
    "numpy": (lambda: TRUE.numpy(), "returned ndarray"),
    "list": (lambda: TRUE.tolist(), "returned list"),
    "generator": (lambda: (row for row in TRUE), "returned generator"),
    "probes": (lambda: Estimate(TRUE, TRUE, 2.5), "2.5 probes"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("result", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_other_things_are_refused_in_plain_words(result, word) -> None:
    assert word in str(results.result_fault(results.plain(result()), "hessian", NETWORK.theta, None))
    blocks = (result(), *(torch.eye(size).double() for size in NETWORK.sizes[1:]))
    assert results.result_fault(results.plain(blocks), "block_diagonal", NETWORK.theta, None, NETWORK.sizes)


def test_views_are_accepted() -> None:
    for view in (TRUE.T.contiguous().T, torch._neg_view(-TRUE), TRUE[:1].expand(PARAMS, PARAMS)):
        assert results.result_fault(view, "hessian", NETWORK.theta, None) is None
    assert judge(torch._neg_view(-TRUE), NETWORK)["status"] == "ok"


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp", "block_diagonal"])
def test_a_result_that_requires_grad_is_judged_and_flagged(quantity) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    problem = from_function(lambda x: net(x.view(2, 3)).square().sum(), torch.ones(6, dtype=torch.float64))
    matrix = torch.func.hessian(problem.loss)(problem.theta)  # in positions: the network's parameters require grad
    vectors = torch.ones(6, 2, dtype=torch.float64)
    result = {"hessian": matrix, "diagonal": matrix.diagonal(), "hvp": matrix @ vectors, "block_diagonal": (matrix,)}
    found, given = result[quantity], vectors if quantity == "hvp" else None
    assert results.result_fault(found, quantity, problem.theta, given, (6,)) is None
    seen = judge(found, problem, quantity=quantity, vectors=given)
    assert (seen["status"], seen["requires_grad"], seen["relative_error"] < 1e-12) == ("ok", True, True)
    assert "return result.detach()" in seen["message"]
    wrong = tuple(2 * block for block in found) if quantity == "block_diagonal" else 2 * found
    assert judge(wrong, problem, quantity=quantity, vectors=given)["status"] == "wrong"
