"""Blocks of random networks: each takes a state (N, d) or (N, T, d) to one of the same shape, its parameters inside.

`tests.random_layers` puts blocks together of these functions. What a network holds constant (detached tensors, teachers
under no_grad, straight-through rounding) and where it rounds goes through a `Meaning`, so that differences can hold the
same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Meaning:
    """How a network is read: as it is written, or for differences, `exact`: held numbers recorded, nothing rounded.

    In an exact reading the first evaluation records what is held, and every later one, from `rewind` on, replays it.
    """

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self._held: list[Tensor] = []
        self._at: int | None = None

    def rewind(self) -> None:
        """Begin another evaluation of the loss."""
        self._at = 0 if self._at is not None or self._held else None

    def held(self, x: Tensor) -> Tensor:
        """A tensor as a constant."""
        if not self.exact:
            return x.detach()
        if self._at is None:
            self._held.append(x.detach().clone())
            return self._held[-1]
        self._at += 1
        return self._held[self._at - 1]

    def teacher(
        self, function: Callable[[Tensor], Tensor], x: Tensor, mode: Callable[[], Any] = torch.no_grad
    ) -> Tensor:
        """function(x), computed without gradients."""
        if self.exact:
            return self.held(function(x))
        with mode():
            return function(x)

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor rounded to another dtype."""
        return x if self.exact else x.to(dtype)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in bfloat16."""
        with contextlib.nullcontext() if self.exact else torch.autocast("cpu", dtype=torch.bfloat16):
            yield


class Block(nn.Module):
    """A function of its parts and of the state."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def frozen(module: nn.Module, *names: str) -> nn.Module:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in names)
    return module


def tied(module: nn.Module) -> nn.Module:
    module.b.weight = module.a.weight
    return module


def channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A normalisation of channels, which are the last dimension of the state."""
    return norm(x) if x.dim() == 2 else norm(x.mT).mT


def always(module: nn.Module, trained: bool) -> nn.Module:
    """A module in one mode, whatever mode the network is in."""
    module.train(trained)
    module.train = lambda mode=True: module
    return module


def distances(m: Block, x: Tensor, mode: str) -> Tensor:
    """Each sample is multiplied by its distances from all."""
    rows = m.a(x).flatten(1)
    return x * torch.cdist(rows, rows.tanh() + 1, compute_mode=mode).sum(1).view(-1, *[1] * (x.dim() - 1))


def lowered(meaning: Meaning, layer: nn.Module, x: Tensor) -> Tensor:
    """A layer under autocast."""
    with meaning.autocast():
        return layer(x).to(x.dtype)


def branched(m: Block, x: Tensor) -> Tensor:
    return m.a(x).tanh() if x.detach().sum() > 0 else m.b(x).sigmoid()


def in_place(m: Block, x: Tensor) -> Tensor:
    y = m.a(x).sin()
    y *= 2
    y[..., 0] += 1
    y.tanh_()
    return y


class Averages(nn.Module):
    """Keeps moving averages, which it also uses, and counts its calls in every mode."""

    def __init__(self, d: int, meaning: Meaning) -> None:
        super().__init__()
        self.a, self.meaning = nn.Linear(d, d), meaning
        self.register_buffer("average", torch.zeros(d))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        average = 0.9 * self.average + 0.1 * self.meaning.held(y).reshape(-1, y.shape[-1]).mean(0)
        self.calls += 1
        if self.training:
            self.average = average
        return (y - average).tanh()


class Keeping(nn.Module):
    """Keeps an activation, which a criterion may read."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.a = nn.Linear(d, d)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.a(x).tanh()
        return self.kept


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output.tanh() * inputs[0])
    return layer


def complex_filter(m: Block, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(m.w), n=x.shape[-1])


def cell(m: Block, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    state = m.a(rows, rows.tanh())
    return state.view(x.shape)


def long_cell(m: Block, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return m.a(rows, (rows.tanh(), rows.sin()))[0].view(x.shape)


def attention(m: Block, x: Tensor) -> Tensor:
    q, k, v = m.a(x), m.b(x), m.c(x)
    return x + (q @ k.mT).softmax(-1) @ v


def fused_attention(m: Block, x: Tensor) -> Tensor:
    q, k, v = (y.unsqueeze(1) for y in m.a(x).chunk(3, -1))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)


def watched(layer: nn.Module) -> nn.Module:
    """A layer with a hook that looks at gradients and leaves them."""
    layer.register_full_backward_hook(lambda module, inputs, outputs: None)
    return layer


def generated(m: Block, x: Tensor) -> Tensor:
    """The weight of one layer is another's output."""
    return x + functional.linear(x, m.a(m.w)).tanh()
