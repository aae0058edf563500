"""The operators of a loss tell layers apart that the atlas must tell apart."""

import torch
from torch import nn

from harness.problems import from_network
from harness.truth.operators import operators


def names(*layers, train=False):
    model = nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2)).double().train(train)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = from_network(model, nn.CrossEntropyLoss(), inputs, torch.tensor([0, 1, 0, 1, 1]))
    return set(operators(problem.loss, problem.theta))


def test_operators_tell_affine_from_plain_and_training_from_evaluation() -> None:
    assert "NativeLayerNorm 111" in names(nn.LayerNorm(4))
    plain = names(nn.LayerNorm(4, elementwise_affine=False))
    assert "NativeLayerNorm 111" not in plain
    assert any(name.startswith("NativeLayerNorm") for name in plain)
    assert "NativeBatchNorm 111 train" in names(nn.BatchNorm1d(4), train=True)
    assert "NativeBatchNorm 111" in names(nn.BatchNorm1d(4))
