"""How the tests of the truth ask for a verdict."""

import dataclasses

import torch

from harness.truth import agreement
from harness.truth.reference import reference
from tests.conftest import JOB

FULL = dataclasses.replace(JOB.measure, full_up_to=1024, probes=8, rows=16)
PROBED = dataclasses.replace(FULL, full_up_to=10)
DIFFERENCES = dataclasses.replace(FULL, truth="differences")


def judge(result, problem, measure=FULL, quantity="hessian", vectors=None, stop_gradient=None):
    """The agreement fields of a result."""
    return agreement.compare(result, quantity, reference(problem, vectors, measure, 0, quantity, stop_gradient))


def by_autograd(problem):
    """The Hessian by double backward, zeros where the gradient is constant."""
    theta = problem.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(theta), theta, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros(len(theta), len(theta), dtype=theta.dtype)
    rows = [torch.autograd.grad(entry, theta, retain_graph=True, materialize_grads=True)[0] for entry in gradient]
    return torch.stack(rows)
