"""Layers that torch.nn does not have under one name: reparametrised, shared, random, checkpointed, hand-written."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


def weight_norm(features: int) -> nn.Module:
    """A linear layer under torch's weight normalisation."""
    return parametrizations.weight_norm(nn.Linear(features, features))


def spectral_norm(features: int) -> nn.Module:
    """A linear layer under torch's spectral normalisation; in train mode every call takes a power iteration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torch draws the start of the power iteration
        return parametrizations.spectral_norm(nn.Linear(features, features).double())


def orthogonal(features: int) -> nn.Module:
    """A linear layer with an orthogonal weight, as the matrix exponential of a skew-symmetric one."""
    return parametrizations.orthogonal(nn.Linear(features, features), orthogonal_map="matrix_exp")


class HandWrittenWeightNorm(nn.Module):
    """Weight normalisation from elementary operations: g v / |v|, row by row."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(features, features))
        self.length = nn.Parameter(torch.empty(features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return x @ (self.length * self.direction / self.direction.norm(dim=1, keepdim=True)).T


class HandWrittenLayerNorm(nn.Module):
    """An affine layer normalisation from elementary operations."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(features)), nn.Parameter(torch.empty(features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


class Attention(nn.Module):
    """Self-attention of one head: `explicit` from matrix products, or torch's function with one of its kernels.

    `math` is its kernel of matrix products, `fused` the one that it takes by itself for inputs of four dimensions.
    """

    def __init__(self, features: int, backend: str, causal: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(features, 3 * features)
        self.backend, self.causal = backend, causal

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, features) -> (N, T, features)."""
        q, k, v = self.project(x).chunk(3, dim=-1)
        if self.backend == "explicit":
            return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        kernel = SDPBackend.FLASH_ATTENTION if self.backend == "fused" else SDPBackend.MATH
        with sdpa_kernel(kernel):
            heads = (part.unsqueeze(1) for part in (q, k, v))
            return functional.scaled_dot_product_attention(*heads, is_causal=self.causal).squeeze(1)


class SeededDropout(nn.Module):
    """Dropout that drops the same entries in every call."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return functional.dropout(x, 0.4)


class Tied(nn.Module):
    """One weight used twice, the second time transposed, as an autoencoder's or a language model's."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return (x @ self.weight).tanh() @ self.weight.T


class Unused(nn.Module):
    """A linear layer beside a parameter that nothing depends on."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        self.unused = nn.Parameter(torch.empty(3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return self.linear(x)


class Frozen(nn.Module):
    """Two linear layers, of which the second is frozen."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, features), nn.Linear(features, features).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return self.second(self.first(x).tanh())


class Residual(nn.Module):
    """A linear layer and tanh beside an identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return x + self.linear(x).tanh()


class Checkpointed(nn.Module):
    """A linear layer and tanh whose activations are computed again in the backward pass."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return checkpoint(lambda x: self.linear(x).tanh(), x, use_reentrant=False)


class _Cube(torch.autograd.Function):
    """x^3 as the documentation of autograd has written custom functions from the first: without `setup_context`."""

    @staticmethod
    def forward(ctx, x):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):  # noqa: ANN001, ANN205
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


class _CubeWithSetup(torch.autograd.Function):
    """x^3 with `setup_context`, a rule for vmap and a forward-mode derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):  # noqa: ANN001, ANN205
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ANN001, ANN205
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, cotangent):  # noqa: ANN001, ANN205
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent

    @staticmethod
    def jvp(ctx, tangent):  # noqa: ANN001, ANN205
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent


class CustomFunction(nn.Module):
    """x^3 as a torch.autograd.Function."""

    def __init__(self, setup_context: bool) -> None:
        super().__init__()
        self.function = _CubeWithSetup if setup_context else _Cube

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, features)."""
        return self.function.apply(x)


class FoldUnfold(nn.Module):
    """Patches of an image, and the image from the patches."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        patches = functional.unfold(x, 2)
        return functional.fold(patches.sin(), x.shape[-2:], 2)


class GridSample(nn.Module):
    """An image sampled at points that depend on it."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2, 2)."""
        points = x[:, :1, :2, :2].tanh().movedim(1, -1) * 0.4
        return functional.grid_sample(x, torch.cat([points, points + 0.1], dim=-1), align_corners=True)
