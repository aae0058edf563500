"""Flattening and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from methods.ravel import ravel

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4).filter(
    lambda shapes: any(torch.Size(shape).numel() for shape in shapes)
)


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


def test_a_module_is_taken_in_the_order_of_its_named_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    model[2].weight = model[0].weight  # not the same shape of use, but tied
    model[1].bias.requires_grad_(False)
    theta, unravel = ravel(model)
    expected = [p for name, p in model.named_parameters() if name != "1.bias"]
    assert torch.equal(theta, torch.cat([p.detach().flatten() for p in expected]))
    assert list(unravel(theta)) == ["0.weight", "0.bias", "1.weight", "2.bias"]
    assert not theta.requires_grad


@pytest.mark.parametrize(
    "parameters",
    [(), {}, nn.Tanh(), torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.complex64), torch.ones(0),
     (torch.ones(2), torch.ones(2, dtype=torch.float64))],
)  # fmt: skip
def test_what_cannot_be_flattened_is_refused(parameters) -> None:
    with pytest.raises(ValueError, match="must be real floating-point tensors of one dtype on one device; found"):
        ravel(parameters)
