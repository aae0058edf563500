"""Transformers with random weights on random tokens; every size is an option, every draw comes from one seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.networks import activation_of, draw_parameters, require_one_of, require_positive, task_of
from harness.problems.problem import Problem


def transformer(
    *,
    seed: int = 0,
    vocabulary: int = 16,
    width: int = 12,
    heads: int = 2,
    length: int = 8,
    blocks: int = 1,
    expansion: int = 2,
    outputs: int = 4,
    causal: bool = False,
    attention: str = "explicit",
    activation: str = "gelu",
    batch: int = 32,
    task: str = "classes",
) -> Problem:
    """A pre-norm transformer that classifies sequences of `length` tokens by the mean over positions.

    Token and position embeddings of `width`; `blocks` times LayerNorm, attention with `heads`, LayerNorm, a perceptron
    of `expansion` times the width, both with residual connections; LayerNorm and a linear layer. `attention` is
    "explicit" (softmax of a product) or "sdpa": scaled_dot_product_attention with the math backend, since the fused
    ones have no second derivative.
    """
    sizes = {
        "vocabulary": vocabulary,
        "width": width,
        "heads": heads,
        "length": length,
        "blocks": blocks,
        "expansion": expansion,
        "outputs": outputs,
        "batch": batch,
    }
    _check("transformer", sizes, attention)
    generator = torch.Generator().manual_seed(seed)

    def block() -> nn.Module:
        return _PreNorm(
            width, _Attention(width, heads, causal, attention == "sdpa"), _perceptron(width, expansion, activation)
        )

    model = _Encoder(
        nn.ModuleList([nn.Embedding(vocabulary, width)]),
        length,
        width,
        nn.Identity(),
        [block() for _ in range(blocks)],
        nn.LayerNorm(width),
        _Mean(),
        nn.Linear(width, outputs),
    )
    return _on_tokens(
        draw_parameters(model, generator), "transformer", task, vocabulary, length, outputs, batch, generator
    )


def bert(
    *,
    seed: int = 0,
    vocabulary: int = 30522,
    width: int = 768,
    heads: int = 12,
    length: int = 32,
    blocks: int = 12,
    expansion: int = 4,
    outputs: int = 2,
    attention: str = "explicit",
    activation: str = "gelu",
    batch: int = 1,
    task: str = "classes",
) -> Problem:
    """A classifier like BERT-base (Devlin et al. 2019), with random weights: P = 109 million with 128 positions.

    Token, position and segment embeddings (all of the first segment) with LayerNorm; `blocks` of attention and a
    perceptron, each followed by a residual connection and LayerNorm; a tanh layer on the first position; a linear
    layer.
    """
    sizes = {
        "vocabulary": vocabulary,
        "width": width,
        "heads": heads,
        "length": length,
        "blocks": blocks,
        "expansion": expansion,
        "outputs": outputs,
        "batch": batch,
    }
    _check("bert", sizes, attention)
    generator = torch.Generator().manual_seed(seed)

    def block() -> nn.Module:
        return _PostNorm(
            width, _Attention(width, heads, False, attention == "sdpa"), _perceptron(width, expansion, activation)
        )

    pooled = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))
    model = _Encoder(
        nn.ModuleList([nn.Embedding(vocabulary, width), nn.Embedding(2, width)]),
        length,
        width,
        nn.LayerNorm(width),
        [block() for _ in range(blocks)],
        nn.Identity(),
        _First(),
        pooled,
    )
    return _on_tokens(draw_parameters(model, generator), "bert", task, vocabulary, length, outputs, batch, generator)


def _check(problem: str, sizes: dict[str, int], attention: str) -> None:
    require_positive(problem, **sizes)
    require_one_of(problem, attention=(attention, ("explicit", "sdpa")))
    if sizes["width"] % sizes["heads"]:
        raise ProblemError(f"{problem}: width={sizes['width']} must be a multiple of heads={sizes['heads']}")


def _on_tokens(
    model: nn.Module,
    problem: str,
    task: str,
    vocabulary: int,
    length: int,
    outputs: int,
    batch: int,
    generator: torch.Generator,
) -> Problem:
    tokens = torch.randint(vocabulary, (batch, length), generator=generator)
    criterion, _, targets = task_of(problem, task, tokens, outputs, generator)
    return from_network(model, criterion, tokens, targets)


def _perceptron(width: int, expansion: int, activation: str) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, expansion * width),
        activation_of("transformer", activation),
        nn.Linear(expansion * width, width),
    )


class _Attention(nn.Module):
    """Multi-head self-attention, (N, T, d) -> (N, T, d)."""

    def __init__(self, width: int, heads: int, causal: bool, sdpa: bool) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal, self.sdpa = heads, causal, sdpa

    def forward(self, x: Tensor) -> Tensor:
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


class _PreNorm(nn.Module):
    def __init__(self, width: int, attention: nn.Module, perceptron: nn.Module) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), attention)
        self.perceptron = nn.Sequential(nn.LayerNorm(width), perceptron)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.perceptron(x)


class _PostNorm(nn.Module):
    def __init__(self, width: int, attention: nn.Module, perceptron: nn.Module) -> None:
        super().__init__()
        self.attention, self.attention_norm = attention, nn.LayerNorm(width)
        self.perceptron, self.perceptron_norm = perceptron, nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention(x))
        return self.perceptron_norm(x + self.perceptron(x))


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class _Encoder(nn.Module):
    """Embeddings (the first of tokens; a second of segments, all the first one), blocks, pooling, head."""

    def __init__(
        self,
        embeddings: nn.ModuleList,
        length: int,
        width: int,
        norm: nn.Module,
        blocks: list[nn.Module],
        last_norm: nn.Module,
        pool: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.embeddings, self.norm, self.blocks = embeddings, norm, nn.Sequential(*blocks)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.last_norm, self.pool, self.head = last_norm, pool, head

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings[0](tokens) + self.positions
        for segments in self.embeddings[1:]:
            x = x + segments(torch.zeros_like(tokens))
        return self.head(self.pool(self.last_norm(self.blocks(self.norm(x)))))
