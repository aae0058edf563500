"""Whether rows of the Hessian cost less than matrix products, by the size of the gradient's graph.

The costs are counted in numbers: what is computed in the time of one number of a batched pass, about a nanosecond. They
were fitted to times of one thread, of perceptrons (P = 80 to 5,000, N = 16 to 1,024, 1 to 10 hidden layers),
convolutional networks and transformers (P = 1,600 to 2,500):

    python -m tests.programs.rows_or_products

- Where Python and torch's dispatch rule, both costs are proportional to the operations of the graph. Products take more
  for each: watching, the derivatives along shifts, the sums over the samples.
- The work of rows grows with P times the numbers in the graph. That of products grows more slowly, so that they win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

OPERATION = 2**13  # what an operation of the graph costs in each batch of passes, however many they are
PRODUCTS = 2**19  # what an operation of the graph costs in matrix products, where overhead rules
MULTIPLIED = 0.25  # what a sample's product with a parameter's entry costs in a pass
FEWEST = 32  # rows in a batch of several


class Size(NamedTuple):
    """The size of the graph that the second backward passes go through."""

    nodes: int  # operations
    numbers: int  # in the results of all of them


def size_of(gradients: Iterable[Tensor]) -> Size:
    """The size of the graph behind some gradients."""
    stack = [gradient.grad_fn for gradient in gradients if gradient.grad_fn is not None]
    seen = set(stack)
    numbers = 0
    while stack:
        node = stack.pop()
        numbers += sum(math.prod(result.shape) for result in node._input_metadata)
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append(before)
    return Size(len(seen), numbers)


class CheapRows(NamedTuple):
    """All rows of a Hessian, where they cost less than matrix products."""

    reason: str
    at_once: int  # backward passes in a batch
    numbers: int  # that a pass computes

    def fitting(self, memory: float, like: Tensor) -> int:
        """How many passes are batched where what they compute is to take about so many bytes; `FEWEST` are allowed."""
        return min(self.at_once, max(int(memory / (self.numbers * like.element_size())), FEWEST))


def cheap_rows(gradients: Mapping[str, Tensor], samples: int) -> CheapRows | None:
    """How to compute rows where they cost less than matrix products for all parameters; None where they do not.

    With k batches of rows, each of which leaves out the columns that earlier rows give, the cost is k `OPERATION`s for
    each node and (k + 1) / 2 k of the work of all passes. k is chosen for the least cost.
    """
    params = sum(gradient.numel() for gradient in gradients.values())
    size = size_of(gradients.values())
    if not size.nodes:
        return None
    work = params * (size.numbers + MULTIPLIED * samples * params) / size.nodes
    batches = max(min(round(math.sqrt(work / (2 * OPERATION))), params // FEWEST), 1)
    if batches * OPERATION + (batches + 1) / (2 * batches) * work > PRODUCTS:
        return None
    reason = f"rows cost less: {params} passes through a graph of {size.nodes} operations, {size.numbers} numbers"
    return CheapRows(reason, -(-params // batches), size.numbers)
