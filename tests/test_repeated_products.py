"""The products that iterative methods spend: right, counted, and of one graph of the gradient."""

import gc
import weakref

import pytest
import torch

from harness.problems import networks
from methods import conjugate_gradients, hutchinson, lanczos, lanczos_quadrature, vmap_hvp
from methods.products import BY_GRADIENTS, Products
from tests.oracles import central_differences, distance

NETWORK = networks.mlp(inputs=5, width=8, outputs=3, batch=24)
HESSIAN = central_differences(NETWORK)
VECTORS = torch.randn(len(HESSIAN), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KEPT = "reverse_over_reverse", "linearize"  # their graph is kept
CALLS = {
    "lanczos": lambda loss, theta: lanczos.eigenvalues(loss, theta, 2),
    "conjugate_gradients": lambda loss, theta: conjugate_gradients.ihvp(loss, theta, VECTORS, 1.0),
    "lanczos_quadrature": lambda loss, theta: lanczos_quadrature.spectrum(loss, theta, probes=2, steps=5),
    "hutchinson": lambda loss, theta: hutchinson.trace(loss, theta, probes=150),
}


class Counted:
    """The network's loss, and how often it was computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, theta):
        self.calls += 1
        return NETWORK.loss(theta)


@pytest.mark.parametrize("hvp", [*vmap_hvp.COMPOSITIONS, BY_GRADIENTS])
@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_products_are_right_and_counted_in_every_call(hvp: str, chunk_size) -> None:
    products = Products(NETWORK.loss, NETWORK.theta, hvp, chunk_size)
    for _ in range(2):
        assert distance(products(VECTORS), HESSIAN @ VECTORS) < 1e-6
    assert distance(products.one(VECTORS[:, 0]), HESSIAN @ VECTORS[:, 0]) < 1e-6
    assert products.count == (22 if hvp == BY_GRADIENTS else 11)


@pytest.mark.parametrize("method", CALLS)
def test_an_iteration_computes_the_gradient_once(method: str) -> None:
    """Every product is then one backward pass through its graph."""
    loss = Counted()
    CALLS[method](loss, NETWORK.theta)
    assert loss.calls == 1


@pytest.mark.parametrize("hvp", KEPT)
def test_the_graph_is_freed_with_the_products(hvp: str) -> None:
    """Without the garbage collector: nothing refers to itself."""
    held = []

    def loss(theta):
        features = theta.square()
        held.append(weakref.ref(features))
        return (features.sin() * features).sum()

    gc.collect()
    gc.disable()
    try:
        products = Products(loss, torch.ones(4, dtype=torch.float64), hvp)
        products.one(torch.ones(4, dtype=torch.float64))
        del products
        assert all(reference() is None for reference in held)
    finally:
        gc.enable()


def test_an_unknown_product_is_refused_at_the_first_one() -> None:
    products = Products(NETWORK.loss, NETWORK.theta, "sideways")
    with pytest.raises(ValueError, match=r"composition must be one of .*; found sideways"):
        products(VECTORS)
