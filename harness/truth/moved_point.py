"""A point beside theta: theta and the model's parameters moved together, in place, and put back."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.problems import Problem
from harness.problems.method_helpers import ravel
from harness.truth.sketch import signs

STEP = 0.03  # of the largest move, times the root mean square of theta; the smallest is half of it


@contextmanager
def moved(problem: Problem) -> Iterator[Tensor]:
    """Move theta and the model's parameters by random signs; gives the move (P,), and undoes it bit by bit.

    The size is random too: of few parameters the same signs are soon drawn again. Neither follows the job's seed, since
    a cache on disk would know the points of the process before.
    """
    theta, model = problem.theta, problem.model
    unseeded = torch.Generator().manual_seed(secrets.randbelow(2**31))
    size = (
        STEP
        * (float(theta.double().square().mean().sqrt()) or 1.0)
        * (1 - float(torch.rand((), generator=unseeded)) / 2)
    )
    # Where the points of several samples are the same parameters, they stay the same.
    alike = problem.points is not None and model is not None
    count = len(problem.points) if problem.points is not None and alike else 1
    move = size * signs((theta.numel() // count,), unseeded, theta.dtype, theta.device).repeat(count)
    parameters = {} if model is None else {name: p for name, p in model.named_parameters() if p.requires_grad}
    saved_theta = theta.clone()
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        with torch.no_grad():
            theta.add_(move)
            if model is not None:
                for name, value in ravel.ravel(model)[1](theta[: theta.numel() // count]).items():
                    parameters[name].copy_(value)
        yield move
    finally:
        with torch.no_grad():
            theta.copy_(saved_theta)
            for name, value in saved.items():
                parameters[name].copy_(value)


def has_gradient(problem: Problem) -> bool:
    """Whether the loss and its gradient can be computed and are finite at theta."""
    try:
        theta = problem.theta.detach().clone().requires_grad_()
        value = problem.loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
    except RuntimeError:  # outside the loss's domain
        return False
    return math.isfinite(float(value.detach())) and bool(torch.isfinite(gradient).all())
