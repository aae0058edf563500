"""Flattening and back."""

import collections
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from methods.ravel import ravel

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4).filter(
    lambda shapes: any(torch.Size(shape).numel() for shape in shapes)
)


@settings(deadline=None, derandomize=True)  # a busy machine is no failure
@given(shapes)
def test_round_trip_of_a_tuple_and_a_dict(shapes) -> None:
    leaves = [torch.randn(shape) for shape in shapes]
    theta, unravel = ravel(tuple(leaves))
    assert theta.shape == (sum(leaf.numel() for leaf in leaves),)
    assert all(torch.equal(a, b) for a, b in zip(unravel(theta), leaves, strict=True))
    named = {f"p{i}": leaf for i, leaf in enumerate(leaves)}
    theta, unravel = ravel(named)
    assert {name: leaf.tolist() for name, leaf in unravel(theta).items()} == {n: p.tolist() for n, p in named.items()}


def test_a_tensor_keeps_its_shape() -> None:
    matrix = torch.randn(2, 3)
    theta, unravel = ravel(matrix)
    assert torch.equal(theta, matrix.flatten())
    assert torch.equal(unravel(2 * theta), 2 * matrix)


def test_a_mapping_is_taken_in_its_own_order() -> None:
    theta, unravel = ravel({"b": torch.tensor([1.0]), "a": torch.tensor([[2.0], [3.0]])})
    assert theta.tolist() == [1, 2, 3]
    assert list(unravel(theta)) == ["b", "a"]
    assert unravel(theta)["a"].shape == (2, 1)


def test_theta_is_a_copy_and_what_unravel_gives_is_a_view_that_gradients_pass() -> None:
    leaves = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0)
    theta, unravel = ravel(leaves)
    assert not theta.requires_grad
    first, second = unravel(theta)
    assert first.data_ptr() == theta.data_ptr()
    theta += 1
    assert (leaves[0].tolist(), first.tolist(), second.item()) == ([1, 2], [2, 3], 4)
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad((unravel(theta)[0] * unravel(theta)[1]).sum(), theta)
    assert gradient.tolist() == [4, 4, 5]


def test_a_theta_of_another_length_is_refused() -> None:
    with pytest.raises(RuntimeError, match="sum exactly to 4"):
        ravel((torch.ones(2), torch.ones(3)))[1](torch.ones(4))


def test_tied_weights_are_moved_together() -> None:
    """w enters twice: w^2 x, whose second derivative is 2 x. Taken apart, w1 w2 x would have the diagonal zero."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].weight = model[0].weight
    theta, unravel = ravel(model)
    x = torch.tensor([[3.0]])
    found = torch.autograd.functional.hessian(lambda t: functional_call(model, unravel(t), (x,)).sum(), theta)
    assert found.tolist() == [[6.0]]


def test_a_module_is_taken_in_the_order_of_its_named_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    model[2].weight = model[0].weight  # tied: taken once, though it is not called, and would not fit
    model[1].bias.requires_grad_(False)
    theta, unravel = ravel(model)
    expected = [p for name, p in model.named_parameters() if name != "1.bias"]
    assert torch.equal(theta, torch.cat([p.detach().flatten() for p in expected]))
    assert list(unravel(theta)) == ["0.weight", "0.bias", "1.weight", "2.bias"]
    assert not theta.requires_grad


@pytest.mark.parametrize(
    "parameters",
    [
        (),
        {},
        torch.ones(2, dtype=torch.int64),
        torch.ones(0),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.ones(2), torch.ones(2, device="meta")),
        torch.eye(2).to_sparse(),
    ],
)
def test_what_cannot_be_flattened_is_refused(parameters) -> None:
    with pytest.raises(ValueError, match="must be real floating-point tensors of one dtype on one device; found"):
        ravel(parameters)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (nn.Tanh(), "no parameters that require a gradient, the model has none"),
        (nn.Linear(2, 2).requires_grad_(False), "all 6 are frozen: call model.requires_grad_(True)"),
        (nn.LazyLinear(2), "call the model once on its inputs"),
        (nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(2)), "call the model once on its inputs"),
        (nn.LazyConv1d(2, 1), "call the model once on its inputs"),
        (nn.Linear(2, 2, dtype=torch.complex64), "make torch.view_as_real(p), of shape (2, 2, 2), the parameter"),
        ({"a": torch.ones(2), "b": [torch.ones(3, dtype=torch.complex128)]}, "of shape (3, 2), the parameter"),
        (torch.ones((), dtype=torch.complex64), "parameters must be real, found () torch.complex64"),
        ([torch.ones(2), 0.3], "found float: make a number a tensor of shape ()"),
        ({"w": torch.ones(2), "name": "tanh"}, "found str"),
        ([(torch.ones(2), {1, 2})], "found set"),
    ],
)
def test_what_is_refused_is_told_what_to_write(parameters, words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ravel(parameters)
    assert words in str(error.value)


Layer = collections.namedtuple("Layer", "weight bias")


@pytest.mark.parametrize(
    "parameters",
    [
        [(torch.randn(2, 3), torch.randn(3)), (torch.randn(3, 1), torch.randn(1))],
        {"encoder": {"w": torch.randn(2), "b": torch.randn(())}, "decoder": [torch.randn(1, 2)]},
        collections.OrderedDict(first=Layer(torch.randn(2, 2), torch.randn(2)), second=Layer(torch.randn(2), None)),
        ({"a": [torch.randn(1), (torch.randn(2),)]}, torch.randn(())),
        types.MappingProxyType({"a": torch.randn(2), "b": torch.randn(3)}),
    ],
)
def test_a_nested_structure_comes_back_as_it_was(parameters) -> None:
    theta, unravel = ravel(parameters)
    every = tree_leaves(dict(parameters) if hasattr(parameters, "keys") else parameters)
    leaves = [leaf for leaf in every if leaf is not None]
    assert torch.equal(theta, torch.cat([leaf.flatten() for leaf in leaves]))
    found = unravel(theta)
    assert type(found) is (dict if isinstance(parameters, types.MappingProxyType) else type(parameters))
    assert [leaf.shape for leaf in tree_leaves(found) if leaf is not None] == [leaf.shape for leaf in leaves]
    if isinstance(parameters, collections.OrderedDict):
        assert found["second"].bias is None
        assert torch.equal(found["first"].weight, parameters["first"].weight)
