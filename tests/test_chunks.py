"""Chunks: that they cover, are even, and, when automatic, keep within their budget as the profiler sees it."""

import mmap
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import memory
from harness.problems import networks, transformers
from methods import batched_rows, chunks, vmap_hvp

CPU = torch.device("cpu")
PROBLEMS = {
    "mlp": networks.mlp(inputs=20, width=20, batch=64).to(CPU, torch.float32),
    "cnn": networks.cnn().to(CPU, torch.float32),
    "transformer": transformers.transformer(width=8, batch=8).to(CPU, torch.float32),
}


def peak(call: Callable[[], object]) -> int:
    return memory.tensor_peak(call, CPU)["tensor_peak_bytes"]


@given(st.integers(1, 3000), st.integers(1, 3500))
def test_slices_cover_all_and_are_of_one_length(count: int, chunk_size: int) -> None:
    found = chunks.slices(count, chunk_size, lambda rows: rows, torch.zeros(count), 1)
    lengths = {rows.stop - rows.start for rows in found}
    assert len(lengths) == 1
    assert max(lengths) <= chunk_size
    assert [rows.start for rows in found] == sorted({rows.start for rows in found})
    assert {index for rows in found for index in range(rows.start, rows.stop)} == set(range(count))
    assert sum(lengths) * len(found) - count < len(found), "no more is done twice than rounding asks for"


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("composition", ["forward_over_reverse", "reverse_over_reverse"])
@pytest.mark.parametrize("budget_mb", [2, 8])
def test_auto_keeps_within_its_budget_and_uses_it(name: str, composition: str, budget_mb: float) -> None:
    problem = PROBLEMS[name]
    output = 4 * problem.theta.numel() ** 2

    def call():
        return vmap_hvp.hessian(problem.loss, problem.theta, composition, "auto", budget_mb)

    beyond = peak(call) - output
    assert beyond <= budget_mb * 1e6
    everything = peak(lambda: vmap_hvp.hessian(problem.loss, problem.theta, composition, None))
    assert beyond >= min(0.4 * budget_mb * 1e6, 0.8 * (everything - output))


def test_auto_of_rows_keeps_within_its_budget() -> None:
    problem = PROBLEMS["mlp"]
    assert (
        peak(lambda: batched_rows.hessian(problem.loss, problem.theta, "auto", 4)) - 4 * problem.theta.numel() ** 2
        <= 4e6
    )


@pytest.mark.parametrize(
    ("device", "allowed", "budget_mb"),
    [("cpu", 1.0, 1000), ("cuda", 1.0, 16384), ("cuda", 0.2, 4096), ("cuda", 0.0, 1)],
)
@pytest.mark.parametrize("others_gb", [40, 40.3])
def test_without_a_budget_half_of_the_free_memory_of_a_gpu_is_used(
    monkeypatch, device, allowed, budget_mb, others_gb
) -> None:
    """Of 80 GB, this process has 4 of the 10 that its allocator has reserved; what others use may change a little."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int((70 - others_gb) * 1e9), 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: allowed)
    assert chunks._budget_bytes(None, torch.device(device)) == budget_mb * 1e6
    assert chunks._budget_bytes(3, torch.device(device)) == 3e6


def test_a_budget_too_small_for_one_row_does_one_at_a_time() -> None:
    problem = PROBLEMS["mlp"]
    single = vmap_hvp._single(problem.loss, problem.theta, "reverse_over_reverse")
    found = chunks.slices(10, "auto", chunks.batched(single), problem.theta, 1e-3)
    assert [rows.stop - rows.start for rows in found] == [1] * 10


def test_auto_says_what_torch_refuses() -> None:
    """Under the dispatch mode that follows memory, this one would end the process with a segmentation fault."""
    problem = networks.mlp(width=2, batch=4, task="regression")
    with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
        vmap_hvp.hessian(problem.loss, problem.theta, "forward_over_reverse", "auto")


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="Linux without huge pages")
def test_a_large_matrix_is_in_huge_pages() -> None:
    matrix = chunks.output(torch.zeros(2000), None)
    middle = matrix.data_ptr() + matrix.nbytes // 2
    flags = ""
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        start, stop = (int(end, 16) for end in mapping.split()[0].split("-"))
        if start <= middle < stop:
            flags = mapping.split("VmFlags:")[1]
    assert "hg" in flags.split()


@pytest.mark.parametrize("size", [0, 1, 900])
def test_a_matrix_without_huge_pages(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one, and any where the operating system has none."""
    for _ in range(2):
        assert chunks.output(torch.zeros(size), None).fill_(1).sum() == size**2
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
