"""Tests that need the pretended GPUs: tests/test_pretended_gpu.py runs them by pytest, in a process that begins so."""

import dataclasses
import os

import pytest
import torch
from torch.nn.functional import mse_loss

from harness.problems import networks
from methods import chunks, factored, vmap_hvp
from methods.factoring import costs, segments, shifts
from tests.pretended_gpu import cells, gpu, table


def mlp(**options):
    return networks.mlp(inputs=4, outputs=3, batch=8, activation="gelu", **options).to("cuda", torch.float64)


@pytest.fixture(autouse=True)
def matrix_products(monkeypatch) -> None:
    """Matrix products compute the Hessians of small networks too, where rows cost less."""
    monkeypatch.setattr(costs, "PRODUCTS", 0)


def waits(quantity: str, problem) -> int:
    """Of one call of `factored`."""
    arguments = [problem.model, problem.criterion, problem.inputs, problem.targets]
    if quantity == "hvp":
        arguments.append(torch.ones(len(problem.theta), 2, dtype=torch.float64, device="cuda"))
    gpu.waits.clear()
    getattr(factored, quantity)(*arguments)
    return gpu.waits.total()


def test_own_rows_equal_those_on_the_cpu() -> None:
    assert table.show(quick=True) == 0


@pytest.mark.slow
def test_all_rows_equal_those_on_the_cpu() -> None:
    assert table.show(quick=False) == 0


@pytest.mark.parametrize("quantity", ["hessian", "hvp"])
def test_a_larger_network_takes_no_more_waits(quantity) -> None:
    assert waits(quantity, mlp(width=3, depth=1)) == waits(quantity, mlp(width=9, depth=5))


def test_the_diagonal_of_a_chain_takes_no_more_waits_for_more_layers() -> None:
    assert waits("diagonal", mlp(width=9, depth=5)) == waits("diagonal", mlp(width=3, depth=1))


def test_penalties_take_no_more_waits_for_more_parameters() -> None:
    """Each parameter enters the loss twice, and each pair of them is looked at."""

    def penalized(depth: int):
        problem = mlp(width=3, depth=depth)
        parameters = list(problem.model.parameters())

        def criterion(outputs, targets):
            return problem.criterion(outputs, targets) + sum(p.square().sum() for p in parameters)

        return dataclasses.replace(problem, criterion=criterion)

    assert waits("hessian", penalized(1)) == waits("hessian", penalized(4))


def test_an_operand_on_the_cpu_raises(monkeypatch) -> None:
    monkeypatch.setattr(chunks, "one_hot", lambda rows, theta: torch.eye(len(theta), dtype=theta.dtype)[rows])
    problem = mlp()
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        vmap_hvp.hessian(problem.loss, problem.theta)


@pytest.mark.parametrize("quantity", ["hessian", "diagonal"])
def test_factored_does_not_take_rows_where_devices_are_mixed(quantity, monkeypatch) -> None:
    unit_shifts, units = shifts._unit_shifts, segments._units
    monkeypatch.setattr(shifts, "_unit_shifts", lambda like, outputs: unit_shifts(like, outputs).cpu())
    monkeypatch.setattr(segments, "_units", lambda like, outputs, apart: units(like, outputs, apart).cpu())
    problem = cells.PROBLEMS["mlp_layernorm"]().to("cuda", torch.float64)
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        getattr(factored, quantity)(problem.model, problem.criterion, problem.inputs, problem.targets)


# ---- the pretended GPUs themselves


def test_the_two_devices_do_not_mix() -> None:
    one, other = torch.ones(2, 2, device="cuda:0"), torch.ones(2, 2, device="cuda:1")
    for call in (lambda: one @ other, lambda: one + other, lambda: mse_loss(one, torch.ones(2, 2))):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            call()
    assert (one + 1).device == torch.device("cuda:0")
    assert other.to("cuda:0").device == one.device


def test_the_current_device_is_where_tensors_are_made() -> None:
    torch.cuda.set_device(1)
    try:
        assert torch.ones(1, device="cuda").device == torch.device("cuda:1")
    finally:
        torch.cuda.set_device(0)


def test_memory_is_counted_as_by_the_caching_allocator() -> None:
    torch.cuda.reset_peak_memory_stats(1)
    before = torch.cuda.memory_stats(1)
    held = torch.empty(1001, dtype=torch.uint8, device="cuda:1")
    during = torch.cuda.memory_stats(1)
    del held
    after = torch.cuda.memory_stats(1)

    def change(name: str) -> int:
        return during[name] - before[name]

    assert change("requested_bytes.all.current") == change("requested_bytes.all.peak") == 1001
    assert change("allocated_bytes.all.current") == 1024
    assert change("allocation.all.allocated") == 1
    assert after["allocated_bytes.all.current"] == before["allocated_bytes.all.current"]
    assert after["reserved_bytes.all.current"] == during["reserved_bytes.all.current"] == 2 << 20
    free, total = torch.cuda.mem_get_info(1)
    assert total - free == 2 << 20


def test_a_limit_of_memory_raises() -> None:
    torch.cuda.set_per_process_memory_fraction(1e-4, 1)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="GPU 1"):
            torch.empty(10**7, device="cuda:1")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 1)


def test_an_event_is_known_once_its_own_device_was_synchronized() -> None:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    for event in events:
        event.record()
    torch.cuda.synchronize(1)
    with pytest.raises(RuntimeError, match="not ready"):
        events[0].elapsed_time(events[1])
    torch.cuda.synchronize()
    assert events[0].elapsed_time(events[1]) > 0


def test_generators_belong_to_a_device() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device="cuda", generator=torch.Generator())
    state = torch.cuda.get_rng_state()
    torch.randn(2, device="cuda")
    assert not torch.equal(torch.cuda.get_rng_state(), state)


def test_waits_are_counted_with_their_line() -> None:
    x = torch.ones(3, device="cuda")
    gpu.waits.clear()
    float(x.sum())
    x[x > 0]
    x[x > 0] = x.clone()
    x[0] = 2.0
    assert {operation for operation, _ in gpu.waits} == {"_local_scalar_dense", "nonzero", "_index_put_impl_"}
    assert all(line.startswith("tests/pretended_gpu/checks.py:") for _, line in gpu.waits)


def test_a_forked_process_cannot_go_on_with_cuda() -> None:
    x = torch.ones(1, device="cuda")
    child = os.fork()
    if child == 0:
        try:
            x + 1
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
