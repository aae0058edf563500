"""Residual networks with random weights and images; every size is an option, every draw comes from one seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.networks import draw_parameters, require_one_of, require_positive, task_of
from harness.problems.problem import Problem

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks in each of the four stages


def resnet(
    *,
    seed: int = 0,
    depth: int = 18,
    width: int = 64,
    image: int = 64,
    norm: str = "batch",
    outputs: int = 1000,
    batch: int = 4,
    task: str = "classes",
) -> Problem:
    """ResNet-18 or -34 (He et al. 2016) on three-channel images; P = 11.7 or 21.8 million at width 64.

    A 7 x 7 convolution of stride 2, max pooling, four stages of residual blocks of `width` to 8 times that many
    channels, average pooling, a linear layer. `norm` is "batch" (in eval mode, with random running statistics) or
    "group" (GroupNorm).
    """
    require_positive("resnet", width=width, image=image, outputs=outputs, batch=batch)
    require_one_of("resnet", norm=(norm, ("batch", "group")))
    if depth not in DEPTHS:
        raise ProblemError(f"resnet: depth={depth} is not known; choose one of {', '.join(map(str, DEPTHS))}")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), _norm(norm, width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for stage, blocks in enumerate(DEPTHS[depth]):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_Block(channels, width * 2**stage, stride, norm))
            channels = width * 2**stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)]
    model = draw_parameters(nn.Sequential(*layers), generator).eval()
    for name, buffer in model.named_buffers():
        noise = torch.randn(buffer.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * noise)
        elif name.endswith("running_var"):
            buffer.copy_(1 + 0.1 * noise.tanh())
    x = torch.randn(batch, 3, image, image, generator=generator, dtype=torch.float64)
    return from_network(model, *task_of("resnet", task, x, outputs, generator))


def _norm(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
            _norm(norm, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            _norm(norm, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), _norm(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))
