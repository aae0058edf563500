"""PyHessian (Yao, Gholami, Keutzer and Mahoney 2020): eigenvalues by power iteration, the trace by Hutchinson."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyhessian import hessian as Library
from torch import Tensor, nn

from methods.estimates import Bounded, Estimate
from methods.ritz import check_budget, check_count, rayleigh_ritz

Criterion = Callable[..., Tensor]


def eigenvalues(
    model: nn.Module,
    criterion: Criterion,
    inputs: Any,
    targets: Any,
    k: int,
    products: int = 256,
    seed: int = 0,
) -> Bounded:
    """The k eigenvalues (k + 1,) of largest magnitude of the Hessian, then the lowest one.

    `hessian.eigenvalues` finds the k by power iteration, an equal share of `products` for each (its tolerance is set
    to 0). The library offers no lowest eigenvalue: it is the largest in magnitude of a loss less half the largest
    magnitude times |theta|^2, for which the library is called again. The values are those of Rayleigh-Ritz on its
    vectors, their errors the residual norms; that takes a product more for each.

    Raises ValueError for k above P and for fewer than two products for each eigenvalue; other errors as `trace`.
    """
    params = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    check_count(k, params)
    check_budget(products, 2 * (k + 1), 0.0)
    share = products // (k + 1) - 1
    with _computing(model, criterion, inputs, targets, seed) as library:
        values, vectors = library.eigenvalues(maxIter=share, tol=0.0, top_n=k)
    largest = max(map(abs, values))
    with _computing(model, criterion, inputs, targets, seed, shift=largest) as library:
        lowest = library.eigenvalues(maxIter=share, tol=0.0, top_n=1)[1]
    with _computing(model, criterion, inputs, targets, seed) as library:
        basis = torch.linalg.qr(torch.stack([_flat(vector) for vector in vectors + lowest], dim=1)).Q[:, :params]
        images = torch.stack([_product(library, vector) for vector in basis.unbind(1)], dim=1)
    return rayleigh_ritz(basis, images, k, (share + 1) * (k + 1))


def trace(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, products: int = 256, seed: int = 0
) -> Estimate:
    """The trace () of the Hessian by `hessian.trace`, with the standard error of the samples that it returns.

    Its tolerance is set to minus infinity, so that it takes all `products`: it is relative to the trace with its sign,
    and would end the estimate of a negative trace after two.

    The library works on a copy of the network, in evaluation mode as it sets it. Raises NotImplementedError for
    parameters that get no gradient; ValueError for fewer than two products.
    """
    check_budget(products, 2, 0.0)
    with _computing(model, criterion, inputs, targets, seed) as library:
        samples = torch.tensor(library.trace(maxIter=products, tol=-math.inf), dtype=torch.float64)
    like = next(model.parameters())
    error = samples.std() / math.sqrt(products)
    return Estimate(samples.mean().to(like), error.to(like), products, products)


@contextmanager
def _computing(
    model: nn.Module, criterion: Criterion, inputs: Any, targets: Any, seed: int, shift: float = 0.0
) -> Iterator[Any]:
    """The library's object for a copy of the network, with the loss less `shift` / 2 times |theta|^2.

    It draws from torch's own generators, which have a state of their own here.
    """
    model = copy.deepcopy(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def shifted(outputs: Tensor, targets: Any) -> Tensor:
        squares = torch.stack([parameter.square().sum() for parameter in parameters])
        return criterion(outputs, targets) - shift / 2 * squares.sum()

    on_gpu = parameters[0].is_cuda
    with torch.random.fork_rng([parameters[0].device] if on_gpu else []):
        torch.manual_seed(seed)
        library = Library(model, shifted if shift else criterion, data=(inputs, targets), cuda=on_gpu)
        if not all(isinstance(gradient, Tensor) for gradient in library.gradsH):
            raise NotImplementedError("PyHessian needs a gradient of every parameter; freeze those that have none")
        yield library
    for parameter in parameters:
        parameter.grad = None  # it holds the graph, which holds the parameter


def _product(library: Any, vector: Tensor) -> Tensor:
    """The library's Hessian-vector product, (P,) -> (P,)."""
    parts = vector.split([parameter.numel() for parameter in library.params])
    shaped = [part.view_as(parameter) for part, parameter in zip(parts, library.params, strict=True)]
    return _flat(torch.autograd.grad(library.gradsH, library.params, shaped, retain_graph=True))


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])
