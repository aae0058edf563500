"""Transformers with random weights on random tokens; every size is an option, every draw comes from one seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.networks import draw_parameters, require_one_of, require_positive, task_of
from harness.problems.problem import Problem
from harness.problems.transformer_blocks import Attention, PostNorm, PreNorm, perceptron


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
        return PreNorm(
            width, Attention(width, heads, causal, attention == "sdpa"), perceptron(width, expansion, activation)
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
        return PostNorm(
            width, Attention(width, heads, False, attention == "sdpa"), perceptron(width, expansion, activation)
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


def gpt(
    *,
    seed: int = 0,
    vocabulary: int = 16,
    width: int = 12,
    heads: int = 2,
    length: int = 8,
    blocks: int = 1,
    expansion: int = 4,
    attention: str = "explicit",
    activation: str = "gelu",
    batch: int = 8,
) -> Problem:
    """A language model like GPT-2 (Radford et al. 2019), with random weights on random tokens.

    Embeddings of tokens and of positions; `blocks` of causal pre-norm attention and a perceptron; LayerNorm; a linear
    layer without bias onto the vocabulary, whose weights are not those of the embedding. The loss is the cross-entropy
    of the next token, its mean over all positions of all samples.
    """
    sizes = {
        "vocabulary": vocabulary,
        "width": width,
        "heads": heads,
        "length": length,
        "blocks": blocks,
        "expansion": expansion,
        "batch": batch,
    }
    _check("gpt", sizes, attention)
    if vocabulary < 2:
        raise ProblemError("gpt: vocabulary=1 has no curvature: take two tokens or more")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [
        PreNorm(width, Attention(width, heads, True, attention == "sdpa"), perceptron(width, expansion, activation))
        for _ in range(blocks)
    ]
    model = draw_parameters(_Decoder(vocabulary, length, width, layers), generator)
    tokens = torch.randint(vocabulary, (batch, length + 1), generator=generator)
    return from_network(model, nn.CrossEntropyLoss(), tokens[:, :-1], tokens[:, 1:])


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


class _Decoder(nn.Module):
    """Tokens (N, T) -> the logits of each position's next token, (N, vocabulary, T)."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)
