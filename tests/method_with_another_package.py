"""A method that uses another package."""

import torch
from scipy import linalg


def hessian(loss, theta):
    assert linalg
    return torch.func.jacfwd(torch.func.grad(loss))(theta)
