"""Peaks of memory against allocations whose sizes are known."""

import os
from collections.abc import Callable
from multiprocessing import get_context

import pytest
import torch

from harness.measure import memory

CPU = torch.device("cpu")
MIB = 1 << 20


def three_live() -> object:
    return [torch.ones(MIB, dtype=torch.uint8) for _ in range(3)]


def untouched() -> object:
    return torch.empty(5 * MIB, dtype=torch.uint8)


def zeros() -> object:
    return torch.zeros(1000, 1000, dtype=torch.float64)


def many_small() -> object:
    return [torch.empty(16, dtype=torch.float32) for _ in range(10_000)]


def one_after_another() -> object:
    for _ in range(4):
        torch.empty(MIB, dtype=torch.uint8)
    return None


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (three_live, 3 * MIB),
        (untouched, 5 * MIB),
        (zeros, 8_000_000),
        (many_small, 10_000 * 64),
        (one_after_another, MIB),
        (lambda: None, 0),
    ],
)
def test_tensor_peak_is_exact(call: Callable[[], object], expected: int) -> None:
    assert memory.tensor_peak(call, CPU)[0] == expected


def test_tensor_peak_sees_the_scratch_of_an_operator() -> None:
    values = torch.randn(MIB)
    # sort returns float32 values and int64 indices: 12 bytes an entry; its scratch comes on top
    assert memory.tensor_peak(lambda: torch.sort(values), CPU)[0] >= 12 * MIB


def _peak_in_child(touched_mib: int, queue) -> None:
    torch.set_num_threads(1)
    memory.prepare_process_peak()
    torch.ones(10)
    queue.put(memory.process_peak(lambda: torch.ones(touched_mib * MIB, dtype=torch.uint8)))


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux only")  # noqa: PTH110
def test_process_peak_follows_touched_pages() -> None:
    context = get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak_in_child, args=(64, queue))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(64 * MIB, rel=0.1)
    child.join()


@pytest.mark.cuda
def test_tensor_peak_on_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.empty(MIB, device=device)
    assert memory.tensor_peak(lambda: torch.empty(4 * MIB, dtype=torch.uint8, device=device), device)[0] == 4 * MIB
    del held
