"""Casting: every tensor that a problem holds, wherever it is kept, and nothing of the original."""

import copy
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from harness.problems import ProblemError, check, from_function, from_network, tensors_of
from harness.problems.casting import cast, same_tensor
from methods.create_graph_rows import hessian
from tests import casting_cases
from tests.oracles import central_differences, distance


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", casting_cases.CASES)
def test_a_tensor_is_cast_wherever_it_is_kept(name: str) -> None:
    problem = casting_cases.CASES[name]()
    single = problem.to("cpu", torch.float32)
    check(single)
    assert single.loss(single.theta).dtype == torch.float32
    double = single.to("cpu", torch.float64)
    check(double)
    value = double.loss(double.theta)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(problem.loss(problem.theta).item(), rel=1e-5)
    found = hessian(double.loss, double.theta)
    assert distance(found, central_differences(double)) < 1e-8
    assert distance(hessian(single.loss, single.theta), found) < 1e-5


@pytest.mark.parametrize("name", casting_cases.CASES)
def test_the_original_stays_as_it_was(name: str) -> None:
    problem = casting_cases.CASES[name]()
    held = tensors_of((problem.model, problem.criterion, problem.inputs, problem.targets, problem.data))
    before = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in held]
    copied = problem.to("cpu", torch.float64)
    with torch.no_grad():
        for leaf in copied.leaves:
            leaf.zero_()
    assert all(same_tensor(now.detach(), then) and now.requires_grad == grad for now, then, grad in before)
    theirs = tensors_of((copied.model, copied.criterion, copied.inputs, copied.targets, copied.data))
    assert not {id(tensor) for tensor in theirs} & {id(tensor) for tensor in held}


def test_what_is_shared_stays_shared() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    view, weak = model[0].weight.data, weakref.ref(model[0].weight)
    box = {"model": model, "again": [model], "view": view, "weak": weak, "criterion": lambda: model[0].bias}
    copied = cast(box, "cpu", torch.float64)
    assert copied["again"][0] is copied["model"] is not model
    assert copied["model"][1].weight is copied["model"][0].weight is copied["weak"]()
    assert copied["criterion"]() is copied["model"][0].bias
    with torch.no_grad():
        copied["model"][0].weight.fill_(7)
    assert copied["view"].tolist() == [[7, 7], [7, 7]], "memory that is shared is shared in the copy"
    assert view.tolist() != copied["view"].tolist()


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(2, 3),
        nn.GRU(2, 3),
        nn.RNN(2, 3, num_layers=2),
        parametrizations.weight_norm(nn.Linear(2, 3)),
        parametrizations.orthogonal(nn.Linear(2, 2)),
        parametrizations.spectral_norm(nn.Linear(2, 3)).eval(),
        nn.utils.weight_norm(nn.Linear(2, 3)),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval(),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_modules_with_rules_of_their_own_for_copying(model: nn.Module) -> None:
    x = torch.randn(4, 2)

    def criterion(outputs, _):
        return (outputs[0] if isinstance(outputs, tuple) else outputs).square().sum()

    double = from_network(model, criterion, x).to("cpu", torch.float64)
    check(double)
    by_torch = copy.deepcopy(model).double() if not hasattr(model, "weight_g") else model.double()
    expected = criterion(by_torch(x.double()), None)
    assert double.loss(double.theta).item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_has_no_copy_is_kept() -> None:
    lock, event = threading.Lock(), (entry for entry in ())
    copied = cast({"lock": lock, "generator": event, "x": torch.ones(2)}, "cpu", torch.float64)
    assert copied["lock"] is lock
    assert copied["generator"] is event
    assert copied["x"].dtype == torch.float64


def test_dtypes_devices_and_marks() -> None:
    decayed = nn.Parameter(torch.ones(2))
    decayed.decay = 0.1
    box = [torch.ones(2, dtype=torch.int32), torch.tensor(True), torch.tensor(1 + 2j), decayed, torch.ones(2, 3).T]
    whole, flag, imaginary, parameter, turned = cast(box, "cpu", torch.float64)
    assert (whole.dtype, flag.dtype) == (torch.int32, torch.bool)
    assert (imaginary.dtype, imaginary.item()) == (torch.complex128, 1 + 2j)
    assert (type(parameter), parameter.decay, parameter.requires_grad) == (nn.Parameter, 0.1, True)
    assert turned.stride() == (1, 3)
    assert cast(imaginary, "cpu", torch.float32).dtype == torch.complex64
    assert cast(imaginary, "cpu", torch.bfloat16).dtype == torch.complex64


COUNT, OFFSET = 0, torch.ones(2)


def counting(x):
    global COUNT
    COUNT += 1
    return (x * OFFSET).square().sum()


def test_a_function_that_assigns_to_globals_is_told_to_take_its_tensors_as_arguments() -> None:
    with pytest.raises(ProblemError, match=r"counting uses OFFSET of its module.*give it these tensors as arguments"):
        from_function(counting, torch.ones(2)).to("cpu", torch.float64)


class OfClass(nn.Module):
    matrix = torch.eye(3)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        return self.net(x @ self.matrix)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (lambda x: (x @ torch.eye(3)).sum(), "in matmul the loss uses a tensor .*: (3, 3) of torch.float32"),
        (lambda x: (x @ OfClass.matrix).square().sum(), "(3, 3) of torch.float32"),
        (lambda x: nn.functional.linear(x, torch.ones(1, 3)).sum(), "in linear the loss uses"),
    ],
)
def test_a_tensor_of_another_dtype_that_cannot_be_found_is_named(objective, words: str) -> None:
    problem = from_function(objective, torch.ones(2, 3)).to("cpu", torch.float64)
    with pytest.raises(ProblemError) as error:
        check(problem)
    for part in words.split(" .*: "):
        assert part in str(error.value)
    assert "make it a buffer of the model" in str(error.value)


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested")
def test_tensors_of_every_layout_are_compared() -> None:
    dense = torch.tensor([[0.0, 1.0], [float("nan"), 3.0]])
    for tensor in (
        dense,
        dense.to_sparse_coo(),
        dense.to_sparse_csr(),
        dense.to_sparse_csc(),
        dense * 1j,
        torch.nested.nested_tensor([dense, dense[:1]]),
        dense.bfloat16(),
        torch.tensor([True]),
    ):
        assert same_tensor(tensor, tensor.clone())
        assert not same_tensor(tensor, tensor.clone().to(torch.complex128))
    changed = dense.clone()
    changed[1, 1] = 4
    for layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        assert not same_tensor(dense.to_sparse(layout=layout), changed.to_sparse(layout=layout))
    assert not same_tensor(dense, changed)
    assert not same_tensor(dense, dense[:1])
    assert not same_tensor(dense, dense.to_sparse_coo())
    assert not same_tensor(torch.nested.nested_tensor([dense]), torch.nested.nested_tensor([changed]))
