"""Criteria of random networks, and what they add to the loss by reading the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from tests.random_blocks import Keeping


def leaves(outputs: object) -> list[Tensor]:
    """The tensors in outputs, dataclasses included."""
    return tree_leaves(vars(outputs) if dataclasses.is_dataclass(outputs) else outputs)


def _entropy_of_batch(logits: Tensor, targets: Tensor) -> Tensor:
    """Confident for each sample, diverse over all: it mixes samples."""
    mean = logits.softmax(-1).flatten(0, -2).mean(0)
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten()) + (mean * mean.log()).sum()


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    found = logits.flatten(0, -2).log_softmax(-1).gather(1, targets.flatten()[:, None])[:, 0]
    return -((1 - found.exp()) ** 2 * found).mean()


def _entropic(**options: object) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, targets: functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), **options)


def _ramp(x: Tensor) -> Tensor:
    return torch.arange(1, len(x) + 1, dtype=x.dtype).view(-1, *[1] * (x.dim() - 1))


# (logits (..., C), classes (...)) -> ()
OF_CLASSES = {
    "cross_entropy": _entropic(),
    "cross_entropy_weighted": lambda x, y: _entropic(weight=_ramp(x.flatten(0, -2).T)[:, 0])(x, y),
    "cross_entropy_ignoring": _entropic(ignore_index=0, reduction="sum"),
    "cross_entropy_smoothed": _entropic(label_smoothing=0.2),
    "cross_entropy_sum": _entropic(reduction="sum"),
    "likelihood": lambda x, y: functional.nll_loss(x.flatten(0, -2).log_softmax(1), y.flatten()),
    "focal": _focal,
    "entropy_of_batch": _entropy_of_batch,
    "margin": lambda x, y: functional.softplus(x - x.mean(0)).mean() + x.logsumexp(-1).mean(),
}
# (outputs, real targets of the same shape) -> (), of each tensor of the outputs
OF_REALS = {
    "squares": functional.mse_loss,
    "squares_sum": lambda x, y: functional.mse_loss(x, y, reduction="sum"),
    "squares_broadcast": lambda x, y: functional.mse_loss(x.flatten()[:, None], y.flatten()[None]),
    "huber": lambda x, y: functional.huber_loss(x, y, delta=0.3),
    "smooth_l1": functional.smooth_l1_loss,
    "absolute": functional.l1_loss,
    "log_cosh": lambda x, y: (x - y).cosh().log().mean(),
    "per_sample": lambda x, y: (functional.softplus(x - y) * (_ramp(x) if x.dim() else 1)).sum(),
    "correlation": lambda x, y: -(x.flatten() @ y.flatten()) / (x.norm() + 1),
    "linear": lambda x, y: (x * y).sum(),
    "no_targets": lambda x, y: x.square().mean() + x.sin().sum(),
    "constant": lambda x, y: y.sum(),
}


def _matrices(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.dim() == 2 and p.requires_grad]


def _kept(model: nn.Module) -> list[Tensor]:
    found = [module.kept for module in model.modules() if isinstance(module, Keeping)]
    return [kept for kept in found if kept is not None]


def _orthogonality(w: Tensor) -> Tensor:
    return (w @ w.T - torch.eye(len(w), dtype=w.dtype)).square().sum()


def _first(model: nn.Module) -> Tensor:
    return next(p for p in model.parameters() if p.requires_grad)


# (loss, model, meaning) -> (); the criterion closes over the model
PENALTIES = {
    "none": lambda loss, model, say: loss,
    "squares_of_all": lambda loss, model, say: loss + 0.1 * sum(p.square().sum() for p in model.parameters()),
    "squares_of_one": lambda loss, model, say: loss + 0.3 * _first(model).square().sum(),
    "quartic": lambda loss, model, say: loss + sum((p**4).sum() for p in model.parameters()),
    "millions": lambda loss, model, say: 1e6 * loss,
    "tiny": lambda loss, model, say: 1e-24 * loss,
    "norm_times_loss": lambda loss, model, say: loss * _first(model).norm(),
    "entry_times_loss": lambda loss, model, say: loss * _first(model).flatten()[0],
    "orthogonality": lambda loss, model, say: loss + sum(map(_orthogonality, _matrices(model))),
    "groups": lambda loss, model, say: loss + sum(w.norm(dim=-1).sum() for w in _matrices(model)),
    "product": lambda loss, model, say: loss + sum(p.sum() for p in model.parameters()) ** 2,
    "anchored": lambda loss, model, say: loss + sum((p - say.held(p)).square().sum() for p in model.parameters()),
    "kept_squares": lambda loss, model, say: loss + sum(h.square().sum() for h in _kept(model)),
    "kept_flat": lambda loss, model, say: loss + sum((h - say.held(h)).square().sum() for h in _kept(model)),
    "kept_dead": lambda loss, model, say: loss + sum((-h.abs()).relu().sum() for h in _kept(model)),
    "kept_times_loss": lambda loss, model, say: loss * (1 + sum(h.square().mean() for h in _kept(model))),
    "through_model": lambda loss, model, say: loss + model.head(model.head.weight).square().sum(),
    "loss_in_float32": lambda loss, model, say: say.cast(loss, torch.float32).square(),
}
