"""Peaks of memory against allocations whose sizes are known."""

import gc
import os
from collections.abc import Callable
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch

from harness.measure import memory

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
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
    assert memory.tensor_peak(call, CPU)["tensor_peak_bytes"] == expected


def test_tensor_peak_sees_the_scratch_of_an_operator() -> None:
    values = torch.randn(MIB)
    # sort returns float32 values and int64 indices: 12 bytes an entry; its scratch comes on top
    assert memory.tensor_peak(lambda: torch.sort(values), CPU)["tensor_peak_bytes"] >= 12 * MIB


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


class PretendedAllocator:
    """Of a GPU: what was requested, the same in blocks of 512 bytes, and what is reserved, in segments of 2 MiB."""

    backend = "native"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers = dict.fromkeys(("requested", "allocated", "reserved"), 0)
        self.peaks, self.allocations = dict(self.numbers), 0
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "memory_stats", "get_allocator_backend"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def allocate(self, size: int) -> None:
        self.allocations += 1
        self._add("requested", size)
        self._add("allocated", -(-size // 512) * 512)
        missing = self.numbers["allocated"] - self.numbers["reserved"]
        self._add("reserved", max(0, -(-missing // (2 * MIB)) * 2 * MIB))

    def free(self, size: int) -> None:
        self._add("requested", -size)
        self._add("allocated", -(-(-size // 512) * 512))

    def _add(self, name: str, size: int) -> None:
        self.numbers[name] += size
        self.peaks[name] = max(self.peaks[name], self.numbers[name])

    def get_allocator_backend(self) -> str:
        return self.backend

    def synchronize(self, device: torch.device) -> None:
        pass

    def empty_cache(self) -> None:
        self.numbers["reserved"] = -(-self.numbers["allocated"] // (2 * MIB)) * 2 * MIB

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peaks = dict(self.numbers)

    def memory_stats(self, device: torch.device) -> dict[str, int]:
        current = {f"{name}_bytes.all.current": size for name, size in self.numbers.items()}
        peaks = {f"{name}_bytes.all.peak": size for name, size in self.peaks.items()}
        return current | peaks | {"allocation.all.allocated": self.allocations}


def test_the_peaks_of_a_gpu_are_those_of_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = PretendedAllocator(monkeypatch)
    allocator.allocate(MIB)
    allocator.allocate(9 * MIB)  # before the call: freed, but still reserved
    allocator.free(9 * MIB)

    def call() -> None:
        allocator.allocate(100)
        allocator.allocate(3 * MIB)
        allocator.free(3 * MIB)

    assert memory.tensor_peak(call, CUDA) == {
        "tensor_peak_bytes": 3 * MIB + 100,
        "allocated_peak_bytes": 3 * MIB + 512,
        "reserved_peak_bytes": 4 * MIB,
        "allocations": 2,
    }


def test_a_peak_that_the_allocator_does_not_count_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = PretendedAllocator(monkeypatch)
    allocator.backend = "cudaMallocAsync"
    assert memory.tensor_peak(lambda: allocator.allocate(MIB), CUDA) == {
        "allocated_peak_bytes": MIB,
        "reserved_peak_bytes": 2 * MIB,
        "tensor_peak_missing": "the allocator cudaMallocAsync does not count what is requested of it",
    }


def test_what_only_a_cycle_holds_is_freed_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = PretendedAllocator(monkeypatch)

    class Holder:
        def __init__(self) -> None:
            self.itself = self
            allocator.allocate(5 * MIB)

        def __del__(self) -> None:
            allocator.free(5 * MIB)

    Holder()

    def call() -> None:
        gc.collect()
        allocator.allocate(MIB)

    assert memory.tensor_peak(call, CUDA)["tensor_peak_bytes"] == MIB


@pytest.mark.parametrize(("limit_gb", "fraction"), [(4, 6 / 80), (100, 1.0)])
def test_the_memory_limit_of_a_gpu_is_above_what_is_reserved(
    monkeypatch: pytest.MonkeyPatch, limit_gb, fraction
) -> None:
    set_to = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: set_to.append(share))
    memory.limit(limit_gb, CUDA)
    assert set_to == pytest.approx([fraction])


@pytest.mark.cuda
def test_tensor_peak_on_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.empty(MIB, device=device)
    seen = memory.tensor_peak(lambda: torch.empty(4 * MIB + 1, dtype=torch.uint8, device=device), device)
    assert (seen["tensor_peak_bytes"], seen["allocated_peak_bytes"]) == (4 * MIB + 1, 4 * MIB + 512)
    del held
