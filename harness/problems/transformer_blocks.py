"""The blocks of transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from harness.problems.networks import activation_of


def perceptron(width: int, expansion: int, activation: str) -> nn.Module:
    """Two linear layers, with `expansion` times the width between them."""
    return nn.Sequential(
        nn.Linear(width, expansion * width),
        activation_of("transformer", activation),
        nn.Linear(expansion * width, width),
    )


class Attention(nn.Module):
    """Multi-head self-attention; a position sees no later one if it is `causal`."""

    def __init__(self, width: int, heads: int, causal: bool, sdpa: bool) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal, self.sdpa = heads, causal, sdpa

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, d) -> (N, T, d)."""
        batch, length, width = x.shape
        split = self.project(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, d / heads)
        if self.sdpa:
            with sdpa_kernel(SDPBackend.MATH):
                mixed = scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        else:
            scores = query @ key.transpose(-2, -1) / (width // self.heads) ** 0.5
            if self.causal:
                later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class PreNorm(nn.Module):
    """Attention and a perceptron, each of the normalised input and with a residual connection."""

    def __init__(self, width: int, attention: nn.Module, perceptron: nn.Module) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), attention)
        self.perceptron = nn.Sequential(nn.LayerNorm(width), perceptron)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, d) -> (N, T, d)."""
        x = x + self.attention(x)
        return x + self.perceptron(x)


class PostNorm(nn.Module):
    """Attention and a perceptron, each with a residual connection, whose sum is normalised."""

    def __init__(self, width: int, attention: nn.Module, perceptron: nn.Module) -> None:
        super().__init__()
        self.attention, self.attention_norm = attention, nn.LayerNorm(width)
        self.perceptron, self.perceptron_norm = perceptron, nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, d) -> (N, T, d)."""
        x = self.attention_norm(x + self.attention(x))
        return self.perceptron_norm(x + self.perceptron(x))
