"""Counters against counts that can be done by hand."""

import torch

from harness import counters


def test_flops_of_a_product_and_operations() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert counters.count(lambda: a @ b) == {"operations": 1, "flops": 2 * 3 * 4 * 5}
    assert counters.count(lambda: (a + a).sum()) == {"operations": 2, "flops": 0}


def test_operations_of_a_backward_pass_and_of_vmap_are_seen() -> None:
    a = torch.ones(3, 4, requires_grad=True)
    b = torch.ones(4, 5)
    forward = counters.count(lambda: (a.detach() @ b).sum())
    both = counters.count(lambda: torch.autograd.grad((a @ b).sum(), a))
    assert both["flops"] == 2 * forward["flops"]
    assert both["operations"] > forward["operations"]
    batched = counters.count(lambda: torch.func.vmap(lambda v: b.T @ v)(torch.ones(7, 4)))
    assert batched["flops"] == 2 * 7 * 4 * 5
