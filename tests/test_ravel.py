"""Flattening and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

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
    [(), {}, nn.Tanh(), torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.complex64), torch.ones(0),
     (torch.ones(2), torch.ones(2, dtype=torch.float64)), (torch.ones(2), torch.ones(2, device="meta")),
     nn.Linear(2, 2).requires_grad_(False)],
)  # fmt: skip
def test_what_cannot_be_flattened_is_refused(parameters) -> None:
    with pytest.raises(ValueError, match="must be real floating-point tensors of one dtype on one device; found"):
        ravel(parameters)
