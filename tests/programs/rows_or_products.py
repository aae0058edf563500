"""What the rows of a Hessian cost beside matrix products, and which of them the rule takes.

`python -m tests.programs.rows_or_products`

The rule is that of `methods.factoring.costs`, whose constants come from this table. Times are in ms of one processor,
the least of several interleaved calls: of `factored` by rows, by products, and of the fastest of three other methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch

from harness.problems import Problem, networks, transformers
from methods import batched_rows, factored, jacobians, vmap_hvp
from methods.factoring import costs
from methods.factoring.certificate import Certificate
from methods.factoring.network import Network

BUDGET_S = 1.0  # for all calls of a problem
PERCEPTRONS = [(8, 6, 1, 4), (10, 16, 1, 5), (64, 6, 1, 10), (10, 24, 2, 5), (8, 6, 10, 4), (14, 14, 5, 4)]
SAMPLES = (16, 64, 256)


def problems() -> Iterator[tuple[str, Problem]]:
    """Perceptrons of several shapes with several numbers of samples, convolutional networks and transformers."""
    for inputs, width, depth, outputs in PERCEPTRONS:
        for samples in SAMPLES:
            built = networks.mlp(inputs=inputs, width=width, depth=depth, outputs=outputs, batch=samples)
            yield f"mlp {inputs}, {depth} x {width}, {outputs}; N = {samples}", built
    for channels in (2, 4, 13):
        yield f"cnn of {channels} channels; N = 32", networks.cnn(channels=channels)
    for width, samples in ((4, 2), (4, 8), (8, 8), (12, 8)):
        yield f"transformer of width {width}; N = {samples}", transformers.transformer(width=width, batch=samples)


def least_s(functions: Sequence[Callable[[], object]]) -> list[float]:
    """The least processor time of each, called in turn."""
    best, start, calls = [math.inf] * len(functions), time.process_time(), 0
    while calls < 3 or time.process_time() - start < BUDGET_S:
        for place, function in enumerate(functions):
            before = time.process_time()
            function()
            best[place] = min(best[place], time.process_time() - before)
        calls += 1
    return best


def main() -> None:
    """Print a line for each problem; `!` marks where the other one of rows and products was the faster."""
    torch.set_num_threads(1)
    print(f"{'problem':36} {'P':>5} {'nodes':>5} {'numbers':>8} {'rows':>8} {'products':>8} {'other':>8}  rule")
    for name, built in problems():
        problem = built.to("cpu", torch.float32)
        given = (problem.model, problem.criterion, problem.inputs, problem.targets)
        loss, theta = problem.loss, problem.theta
        network = Network(*given)
        gradients = Certificate(network).gradients
        size, rule = costs.size_of(gradients.values()), costs.cheap_rows(gradients, network.samples)

        def priced(products: float, given: tuple[Any, ...] = given) -> object:
            with mock.patch.object(costs, "PRODUCTS", products):
                return factored.hessian(*given)

        rows_s, products_s, *others_s = least_s(
            [
                partial(priced, math.inf),
                partial(priced, 0),
                partial(batched_rows.hessian, loss, theta),
                partial(vmap_hvp.hessian, loss, theta, chunk_size=256),
                partial(jacobians.hessian, loss, theta, outer="jacrev", inner="grad"),
            ]
        )
        right = (rule is not None) == (rows_s < products_s)
        times = " ".join(f"{seconds * 1e3:8.2f}" for seconds in (rows_s, products_s, min(others_s)))
        print(
            f"{name:36} {len(theta):5} {size.nodes:5} {size.numbers:8} {times}  "
            f"{'products' if rule is None else 'rows'}{'' if right else ' !'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
