"""`nn.MultiheadAttention`'s function, written out by linear maps of the samples and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None] | None:
    """`functional.multi_head_attention_forward`; None for arguments that are not written out.

    These are a query without samples, dropout, added keys and values, and a causal mask that is not given.
    """
    added = [x for x in (bias_k, bias_v, static_k, static_v) if x is not None]
    if query.dim() != 3 or added or add_zero_attn or (training and dropout_p) or (is_causal and attn_mask is None):
        return None
    weights = [q_proj_weight, k_proj_weight, v_proj_weight] if use_separate_proj_weight else in_proj_weight
    q, k, v = (_by_heads(x, num_heads) for x in _projected([query, key, value], weights, in_proj_bias))
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT  # (N, heads, targets, sources)
    for mask in (_for_heads(attn_mask, scores), _for_keys(key_padding_mask)):
        scores = scores if mask is None else _masked(scores, mask)
    attention = scores.softmax(-1)
    mixed = (attention @ v).transpose(1, 2).flatten(2)  # (N, targets, E)
    outputs = functional.linear(mixed, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return outputs, None
    return outputs, attention.mean(1) if average_attn_weights else attention


def _projected(inputs: Sequence[Tensor], weights: Any, bias: Tensor | None) -> Sequence[Tensor]:
    """Queries, keys and values (N, T, E) of inputs (T, N, E), by a weight for each or one for all three."""
    first = inputs[0]
    if isinstance(weights, Tensor) and all(x is first for x in inputs):
        return functional.linear(first.transpose(0, 1), weights, bias).chunk(3, -1)
    weights = weights.chunk(3) if isinstance(weights, Tensor) else weights
    biases = [None] * 3 if bias is None else bias.chunk(3)
    each = zip(inputs, weights, biases, strict=True)
    return [functional.linear(x.transpose(0, 1), weight, bias) for x, weight, bias in each]


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, E) as (N, heads, T, E / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _for_heads(mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """A mask (targets, sources), or one (N heads, targets, sources), as it is broadcast to the scores."""
    return mask if mask is None or mask.dim() == 2 else mask.view(scores.shape)


def _for_keys(mask: Tensor | None) -> Tensor | None:
    """A mask (N, sources) as it is broadcast to the scores."""
    return None if mask is None else mask[:, None, None]


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
