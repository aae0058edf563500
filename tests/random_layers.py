"""The registry of blocks of random networks: what each is called, and what it is made of.

`BLOCKS[name](d, meaning)` takes a state (N, d) or (N, T, d) to one of the same shape; of `SEQUENCES` only (N, T, d).

A network of them takes matrix products alone, unless `UNSUPPORTED` or `LOWERED` names one of its blocks, or for the
diagonal `SEVERAL` does. `tests.test_factored_fuzz` fails where these lists are not what the factored method does.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests import random_blocks as parts
from tests import random_gradients as gradients
from tests.random_blocks import Block

L = nn.Linear


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def _heads(d: int, **options: bool) -> nn.Module:
    return nn.MultiheadAttention(d, 1, batch_first=True, **options)


PLAIN = {
    "linear": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=L(d, d)),
    "relu": lambda d, _: Block(lambda m, x: m.a(x).relu(), a=L(d, d)),
    "no_bias": lambda d, _: Block(lambda m, x: functional.gelu(m.a(x)), a=L(d, d, bias=False)),
    "wide": lambda d, _: Block(lambda m, x: m.b(m.a(x).sigmoid()), a=L(d, d + 2), b=L(d + 2, d)),
    "frozen": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=parts.frozen(L(d, d))),
    "half_frozen": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=parts.frozen(L(d, d), "weight")),
    "bias_alone": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=parts.frozen(L(d, d), "bias")),
    "residual": lambda d, _: Block(lambda m, x: x + m.a(x).tanh(), a=L(d, d)),
    "twice": lambda d, _: Block(lambda m, x: m.a(m.a(x).tanh()).tanh(), a=L(d, d)),
    "thrice": lambda d, _: Block(lambda m, x: m.a(m.a(m.a(x).tanh()).sin()), a=L(d, d)),
    "tied": lambda d, _: parts.tied(Block(lambda m, x: m.b(m.a(x).tanh()), a=L(d, d), b=L(d, d))),
    "spare": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=L(d, d), b=L(d, d)),
    "magnified": lambda d, _: Block(lambda m, x: (100 * m.a(x)).tanh(), a=L(d, d)),
    "shrunk": lambda d, _: Block(lambda m, x: 1e-3 * m.a(x).tanh(), a=L(d, d)),
    "tied_transposed": lambda d, _: Block(lambda m, x: functional.linear(m.a(x).tanh(), m.a.weight.T), a=L(d, d + 1)),
    "parallel": lambda d, _: Block(lambda m, x: m.a(x).tanh() * m.a(x.sin()), a=L(d, d)),
}
WEIGHTS = {
    "weight_as_input": lambda d, _: Block(lambda m, x: m.a(x) @ functional.linear(m.a.weight, m.a.weight), a=L(d, d)),
    "weight_projected": lambda d, _: Block(lambda m, x: x + m.b(m.a.weight).mean(0) * m.a(x), a=L(d, d), b=L(d, d)),
    "sliced": lambda d, _: Block(
        lambda m, x: functional.linear(x, m.w[:d]).tanh() * functional.linear(x, m.w[1:]), w=_weight(d + 1, d)
    ),
    "chunked": lambda d, _: Block(lambda m, x: functional.linear(x, m.w).chunk(2, -1)[1].tanh(), w=_weight(2 * d, d)),
    "viewed": lambda d, _: Block(lambda m, x: functional.linear(x, m.w.view(d, d)).tanh(), w=_weight(d * d)),
    "generated": lambda d, _: Block(parts.generated, a=L(d, d), w=_weight(d, d)),
    "summed": lambda d, _: Block(lambda m, x: functional.linear(x, m.v + m.w).tanh(), v=_weight(d, d), w=_weight(d, d)),
    "normalised": lambda d, _: Block(lambda m, x: functional.linear(x, m.w / m.w.norm()).tanh(), w=_weight(d, d)),
    "low_rank": lambda d, _: Block(lambda m, x: x + functional.linear(x, m.v @ m.w), v=_weight(d, 1), w=_weight(1, d)),
    "factors_as_maps": lambda d, _: Block(
        lambda m, x: x + functional.linear(functional.linear(x, m.w), m.w.T), w=_weight(1, d)
    ),
    "weight_norm": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=parametrizations.weight_norm(L(d, d))),
    "temperature": lambda d, _: Block(lambda m, x: m.a(x) * m.w.exp(), a=L(d, d), w=_weight()),
    "scale": lambda d, _: Block(lambda m, x: (x * m.w).sin(), w=_weight(d)),
    "bilinear": lambda d, _: Block(lambda m, x: m.a(x, x.tanh()), a=nn.Bilinear(d, d, d)),
    "einsum": lambda d, _: Block(lambda m, x: torch.einsum("...i,ij->...j", x, m.w).tanh(), w=_weight(d, d)),
    "matmul": lambda d, _: Block(
        lambda m, x: torch.addmm(m.v, x.flatten(0, -2), m.w).view(x.shape).tanh(), v=_weight(d), w=_weight(d, d)
    ),
    "cell": lambda d, _: Block(parts.cell, a=nn.GRUCell(d, d)),
    "long_cell": lambda d, _: Block(parts.long_cell, a=nn.LSTMCell(d, d)),
    "complex": lambda d, _: Block(parts.complex_filter, w=_weight(d)),
}
NORMS = {
    "layer_norm": lambda d, _: Block(lambda m, x: m.b(m.a(x)), a=L(d, d), b=nn.LayerNorm(d)),
    "rms_norm": lambda d, _: Block(lambda m, x: m.b(m.a(x)), a=L(d, d), b=nn.RMSNorm(d)),
    "group_norm": lambda d, _: Block(lambda m, x: parts.channels(m.b, m.a(x)), a=L(d, d), b=nn.GroupNorm(1, d)),
    "batch_norm": lambda d, _: Block(
        lambda m, x: parts.channels(m.b, m.a(x)), a=L(d, d), b=parts.always(nn.BatchNorm1d(d), trained=True)
    ),
    "batch_norm_fixed": lambda d, _: Block(
        lambda m, x: parts.channels(m.b, m.a(x)), a=L(d, d), b=parts.always(nn.BatchNorm1d(d), trained=False)
    ),
    "batch_norm_untracked": lambda d, _: Block(
        lambda m, x: parts.channels(m.b, m.a(x)), a=L(d, d), b=nn.BatchNorm1d(d, track_running_stats=False)
    ),
    "centred": lambda d, _: Block(lambda m, x: (lambda z: z - z.mean(0))(m.a(x).tanh()), a=L(d, d)),
    "distances": lambda d, _: Block(lambda m, x: parts.distances(m, x, "use_mm_for_euclid_dist"), a=L(d, d)),
    "distances_direct": lambda d, _: Block(
        lambda m, x: parts.distances(m, x, "donot_use_mm_for_euclid_dist"), a=L(d, d)
    ),
    "log_sum": lambda d, _: Block(lambda m, x: (lambda z: z - z.logsumexp(0))(m.a(x)), a=L(d, d)),
    "shared_softmax": lambda d, _: Block(lambda m, x: x * m.a(x).softmax(0), a=L(d, d)),
    "rolled": lambda d, _: Block(lambda m, x: m.a(x).tanh() * m.a(x).roll(1, 0), a=L(d, d)),
}
GRADIENTS = {
    "forces": lambda d, _: Block(lambda m, x: gradients.slope(lambda y: m.a(y).tanh(), x), a=L(d, d)),
    "forces_unused": lambda d, _: Block(
        lambda m, x: x - gradients.slope(lambda y: m.a(y).tanh(), x, allow_unused=True), a=L(d, d)
    ),
    "unused": lambda d, _: Block(
        lambda m, x: m.a(x) + gradients.slope(lambda y: m.a.weight.square(), x, allow_unused=True), a=L(d, d)
    ),
    "laplacian": lambda d, _: Block(gradients.laplacian, a=L(d, d)),
    "inner_step": lambda d, _: Block(gradients.inner_step, a=L(d, d)),
    "func_step": lambda d, _: Block(gradients.func_step, a=L(d, d)),
    "jacobian": lambda d, _: Block(gradients.jacobian, a=L(d, d)),
    "vmapped": lambda d, _: Block(lambda m, x: torch.func.vmap(lambda row: m.a(row).tanh())(x), a=L(d, d)),
    "checkpoint": lambda d, _: Block(
        lambda m, x: checkpoint(lambda y: m.a(y).tanh(), x, use_reentrant=False), a=L(d, d)
    ),
    "function": lambda d, _: Block(lambda m, x: gradients.Cube.apply(m.a(x)), a=L(d, d)),
    "function_apart": lambda d, _: Block(lambda m, x: gradients.CubeApart.apply(m.a(x)), a=L(d, d)),
    "straight_through": lambda d, say: Block(lambda m, x: m.b(gradients.rounded(say, m.a(x))), a=L(d, d), b=L(d, d)),
    "scripted": lambda d, _: Block(lambda m, x: m.a(x), a=torch.jit.script(nn.Sequential(L(d, d), nn.Tanh()))),
    "wrong_tangent": lambda d, _: Block(lambda m, x: gradients.WrongTangent.apply(m.a(x)), a=L(d, d)),
    "functional_step": lambda d, _: Block(gradients.functional_step, a=L(d, d)),
    "masked": lambda d, say: Block(partial(gradients.masked, say), a=gradients.masking(L(d, d), say)),
    "noisy_slope": lambda d, say: Block(lambda m, x: m.b(gradients.noisy_slope(say, m.a(x))), a=L(d, d), b=L(d, d)),
    "backward_hook": lambda d, _: Block(lambda m, x: m.a(x).tanh(), a=parts.watched(L(d, d))),
    "forward_hook": lambda d, _: Block(lambda m, x: m.a(x), a=parts.hooked(L(d, d))),
    "gradient_hook": lambda d, say: Block(lambda m, x: gradients.doubled_slope(say, m.a(x).tanh()), a=L(d, d)),
    "teacher": lambda d, say: Block(lambda m, x: m.a(x).tanh() * say.teacher(m.a, x), a=L(d, d)),
    "inference": lambda d, say: Block(
        lambda m, x: m.a(x).tanh() - say.teacher(m.a, x, torch.inference_mode), a=L(d, d)
    ),
    "detached": lambda d, say: Block(lambda m, x: m.a(x) * say.held(m.a(x).tanh()), a=L(d, d)),
    "detached_weight": lambda d, say: Block(lambda m, x: m.a(x) @ say.held(m.a.weight).exp(), a=L(d, d)),
    "branch": lambda d, _: Block(parts.branched, a=L(d, d), b=L(d, d)),
    "in_place": lambda d, _: Block(parts.in_place, a=L(d, d)),
    "cumsum": lambda d, _: Block(lambda m, x: m.a(x).cumsum(-1).tanh(), a=L(d, d)),
    "sort": lambda d, _: Block(lambda m, x: m.a(x).sort(-1).values.tanh(), a=L(d, d)),
    "maximum": lambda d, _: Block(lambda m, x: x * m.a(x).max(-1, keepdim=True).values, a=L(d, d)),
    "norm": lambda d, _: Block(lambda m, x: x + m.a(x).norm(dim=-1, keepdim=True), a=L(d, d)),
    "averages": lambda d, say: parts.Averages(d, say),
    "keeping": lambda d, _: parts.Keeping(d),
    "dropout": lambda d, _: Block(lambda m, x: m.b(m.a(x).tanh()), a=L(d, d), b=parts.always(nn.Dropout(0.5), True)),
    "to_float32": lambda d, say: Block(lambda m, x: say.cast(m.a(x).sin(), torch.float32).to(x.dtype), a=L(d, d)),
    "to_bfloat16": lambda d, say: Block(lambda m, x: say.cast(m.a(x), torch.bfloat16).tanh().to(x.dtype), a=L(d, d)),
    "autocast": lambda d, say: Block(lambda m, x: parts.lowered(say, m.a, x).tanh(), a=L(d, d)),
}
SEQUENCES = {
    "conv1d": lambda d, _: Block(lambda m, x: m.a(x.mT).mT.tanh(), a=nn.Conv1d(d, d, 3, padding=1)),
    "conv1d_same": lambda d, _: Block(lambda m, x: m.a(x.mT).mT.tanh(), a=nn.Conv1d(d, d, 2, padding="same")),
    "conv1d_stride": lambda d, _: Block(
        lambda m, x: x + m.a(x.mT).tanh().mean(-1)[:, None], a=nn.Conv1d(d, d, 2, stride=2, padding=1)
    ),
    "conv1d_groups": lambda d, _: Block(lambda m, x: m.a(x.mT).mT.sin(), a=nn.Conv1d(d, d, 1, groups=d)),
    "conv1d_circular": lambda d, _: Block(
        lambda m, x: m.a(x.mT).mT.sin(), a=nn.Conv1d(d, d, 3, padding=1, padding_mode="circular")
    ),
    "conv2d": lambda d, _: Block(
        lambda m, x: m.a(x.unsqueeze(1)).tanh().mean(1), a=nn.Conv2d(1, 2, 3, padding=1, bias=False)
    ),
    "conv2d_stride": lambda d, _: Block(
        lambda m, x: x * m.a(x.unsqueeze(1)).tanh().mean((1, 2, 3))[:, None, None],
        a=nn.Conv2d(1, 2, (1, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 1)),
    ),
    "unfold": lambda d, _: Block(lambda m, x: m.a(functional.unfold(x.unsqueeze(1), (1, d)).mT).tanh(), a=L(d, d)),
    "pooled": lambda d, _: Block(lambda m, x: functional.max_pool1d(m.a(x).mT, 3, stride=1, padding=1).mT, a=L(d, d)),
    "averaged": lambda d, _: Block(
        lambda m, x: functional.avg_pool1d(m.a(x).mT, 3, stride=1, padding=1).mT.tanh(), a=L(d, d)
    ),
    "attention": lambda d, _: Block(parts.attention, a=L(d, d), b=L(d, d, bias=False), c=L(d, d)),
    "fused_attention": lambda d, _: Block(parts.fused_attention, a=L(d, 3 * d)),
    "heads": lambda d, _: Block(lambda m, x: x + m.a(x, x, x)[0], a=_heads(d)),
    "heads_alone": lambda d, _: Block(lambda m, x: m.a(x, x.sin(), x, need_weights=False)[0], a=_heads(d, bias=False)),
    "recurrent": lambda d, _: Block(lambda m, x: m.a(x)[0], a=nn.GRU(d, d, batch_first=True)),
    "long_recurrent": lambda d, _: Block(lambda m, x: m.a(x)[0], a=nn.LSTM(d, d, batch_first=True)),
    "positions_mixed": lambda d, _: Block(lambda m, x: x + m.a(x).softmax(1), a=L(d, d)),
    "flipped": lambda d, _: Block(lambda m, x: m.a(x.flip(1)).tanh() * m.a(x), a=L(d, d)),
}
BLOCKS = PLAIN | WEIGHTS | NORMS | GRADIENTS | SEQUENCES

_OTHERWISE = "it enters no affine map of the samples"
_MIXED = "samples depend on each other"
_GRADIENT = "the forward pass takes a gradient itself"
_UNSEEN = "torch's transforms cannot see into"
_HOOKS = "hooks on parameters, modules or activations change the gradient"

# Blocks for which the Hessian takes rows, warns or is refused, and what is then reported.
UNSUPPORTED = {
    "weight_as_input": "it also enters other than through its affine map",
    "weight_projected": "it also enters other than through its affine map",
    **dict.fromkeys(("generated", "summed", "normalised", "low_rank", "weight_norm", "temperature"), _OTHERWISE),
    **dict.fromkeys(("complex", "vmapped", "scripted", "recurrent", "long_recurrent"), _OTHERWISE),
    **dict.fromkeys(("batch_norm", "batch_norm_untracked", "centred"), _MIXED),
    **dict.fromkeys(("log_sum", "shared_softmax", "rolled"), _MIXED),
    **dict.fromkeys(("forces", "forces_unused", "unused", "laplacian", "inner_step"), _GRADIENT),
    **dict.fromkeys(("func_step", "functional_step", "jacobian"), _GRADIENT),
    **dict.fromkeys(("checkpoint", "function", "straight_through", "backward_hook", "inference"), _UNSEEN),
    **dict.fromkeys(("distances", "distances_direct"), "torch has no forward mode of an operation"),
    **dict.fromkeys(("masked", "gradient_hook"), _HOOKS),
    "wrong_tangent": "matrix products are not what double backward gives",
    "noisy_slope": "rounding errors are",
    "dropout": "the loss is not deterministic",
}

# Blocks that compute in another precision than that of the parameters, whichever that is.
LOWERED = {"to_float32", "to_bfloat16", "autocast"}

# Of these, a parameter enters several affine maps.
SEVERAL = {"twice", "thrice", "tied", "tied_transposed", "parallel", "sliced", "factors_as_maps", "detached"}
SEVERAL |= {"flipped", "heads_alone"}
