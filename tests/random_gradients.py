"""Parts of random networks that take gradients within the forward pass, or change how gradients are taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.random_blocks import Block, Meaning


def slope(energy: Callable[[Tensor], Tensor], x: Tensor, **options: bool) -> Tensor:
    """The gradient of an energy's sum in the state, which the loss depends on; zeros where it has none."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    (found,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True, **options)
    return torch.zeros_like(x) if found is None else found


def laplacian(m: Block, x: Tensor) -> Tensor:
    x = x if x.requires_grad else x.clone().requires_grad_()
    (first,) = torch.autograd.grad(m.a(x).tanh().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[..., 0].sum(), x, create_graph=True)
    return x + second


def inner_step(m: Block, x: Tensor) -> Tensor:
    weight = m.a.weight
    (step,) = torch.autograd.grad(functional.linear(x, weight).tanh().square().mean(), weight, create_graph=True)
    return functional.linear(x, weight - 0.5 * step).tanh()


def func_step(m: Block, x: Tensor) -> Tensor:
    step = torch.func.grad(lambda w: functional.linear(x, w).tanh().square().mean())(m.a.weight)
    return functional.linear(x, m.a.weight - 0.5 * step).tanh()


def jacobian(m: Block, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    slopes = torch.func.vmap(torch.func.jacrev(lambda row: m.a(row).tanh()))(rows)  # (N T, d, d)
    return x + slopes.square().sum(2).view(x.shape)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class CubeApart(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, slope):
        return slope


def rounded(meaning: Meaning, x: Tensor) -> Tensor:
    """Straight through: rounded, with a slope of one; for differences x + c, which is what autograd sees."""
    return x + meaning.held(x.round() - x) if meaning.exact else Round.apply(x)


def doubled_slope(meaning: Meaning, x: Tensor) -> Tensor:
    """A hook that doubles the gradient: for differences 2 x - c, of the same value and slope."""
    if meaning.exact:
        return 2 * x - meaning.held(x)
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda slope: 2 * slope)
    return x


def functional_step(m: Block, x: Tensor) -> Tensor:
    """A step of gradient descent on all parameters of a layer, within the forward pass."""
    params = dict(m.a.named_parameters())
    steps = torch.autograd.grad(m.a(x).tanh().square().mean(), list(params.values()), create_graph=True)
    fast = {name: p - 0.5 * step for (name, p), step in zip(params.items(), steps, strict=True)}
    return torch.func.functional_call(m.a, fast, (x,)).tanh()


class WrongTangent(torch.autograd.Function):
    """Right backwards, and wrong forwards."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return ctx.saved_tensors[0].cos() * slope

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0].cos() * tangent


def masked(meaning: Meaning, m: Block, x: Tensor) -> Tensor:
    """A hook that holds the first row of a weight, by a gradient of zero."""
    if not meaning.exact:
        return m.a(x).tanh()
    weight = torch.cat([meaning.held(m.a.weight[:1]), m.a.weight[1:]])
    return functional.linear(x, weight, m.a.bias).tanh()


def masking(layer: nn.Linear, meaning: Meaning) -> nn.Linear:
    """A layer with that hook."""
    if not meaning.exact:
        mask = torch.ones(len(layer.weight), 1)
        mask[0] = 0
        layer.weight.register_hook(lambda slope: slope * mask.to(slope))
    return layer


def noisy_slope(meaning: Meaning, x: Tensor) -> Tensor:
    """The value of x, with a slope that is drawn again each time."""
    return x + (x - meaning.held(x)) * torch.rand(())
