"""Two processes compute one Hessian: equal to that of one process, in about half the memory, and what a kill ends in.

python -m tests.programs.processes [--width 64] [--batch 64]

The network is a perceptron of 64 inputs and 10 outputs, in float64 with one thread. The program fails where

- a matrix of two processes, gathered, differs from that of one by more than 1e-12 of it;
- a process uses more than 0.6 of the tensor memory of one;
- a rank that is killed does not end in a row that names it within ten seconds, or processes are left.

It prints the parallel efficiency t(1) / (2 t(2)), the extra work by FLOPs, and how evenly `factored` is split.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh

from harness import record
from harness.problems import networks
from harness.run import processes
from harness.run.launcher import Launcher
from methods import factored, vmap_hvp
from methods.sharded import factored as sharded_factored
from methods.sharded import vmap_hvp as sharded_vmap_hvp
from methods.sharded.layout import own_rows
from tests.conftest import JOB

ROWS = ("vmap_hvp", "factored")
TOLERANCE, SHARE, KILL_S = 1e-12, 0.6, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rank", action="store_true", help="compare in this process, which torchrun has started")
    asked = parser.parse_args()
    if asked.rank:
        compare(asked.width, asked.batch)
        return
    options = [f"--width={asked.width}", f"--batch={asked.batch}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", __spec__.name, "--rank"]
    subprocess.run([*launch, *options], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    split(asked.width, asked.batch)
    with Launcher() as launcher, tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            measure(launcher, Path(folder), row, asked.width, asked.batch)
        kill(launcher, Path(folder), asked.width, asked.batch)


def problem_of(width: int, batch: int) -> Any:
    return networks.mlp(inputs=64, width=width, outputs=10, batch=batch)


def compare(width: int, batch: int) -> None:
    """Compare the gathered matrices with those of one process, in a process that torchrun has started."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    problem = problem_of(width, batch)
    given = problem.model, problem.criterion, problem.inputs, problem.targets
    pairs = {
        "vmap_hvp": (sharded_vmap_hvp.hessian(problem.loss, problem.theta, mesh), vmap_hvp.hessian),
        "factored": (sharded_factored.hessian(*given, mesh), factored.hessian),
    }
    for row, (found, whole) in pairs.items():
        true = whole(problem.loss, problem.theta) if row == "vmap_hvp" else whole(*given)
        distance = float((found.full_tensor() - true).norm() / true.norm())
        assert distance <= TOLERANCE, (row, distance)
        if not mesh.get_local_rank():
            print(f"{row}: P = {len(true):,}, relative distance from one process {distance:.1e}", flush=True)
    torch.distributed.destroy_process_group()


def split(width: int, batch: int) -> None:
    """Print the processor time of the rows of each rank of `factored`, one after another in this process."""
    torch.set_num_threads(1)
    problem = problem_of(width, batch)
    one = problem.criterion, problem.inputs, problem.targets
    params = problem.theta.numel()
    whole_s = processor_s(lambda: factored.hessian(problem.model, *one))
    shifts_s = processor_s(lambda: factored.explain(problem.model, *one))
    print(f"factored: {whole_s:.3f} s for the whole matrix, of which {shifts_s:.3f} s are done by every rank")
    for count in (2, 4):
        parts = [own_rows(_Mesh(rank, count), params) for rank in range(count)]  # type: ignore[arg-type]
        times = [processor_s(lambda rows=rows: factored.hessian_rows(problem.model, [one], rows)) for rows in parts]
        shown = ", ".join(f"{each:.3f}" for each in times)
        uneven = max(times) * count / sum(times)
        print(f"factored: {shown} s for the rows of {count} ranks, the longest over the mean {uneven:.2f}")


class _Mesh:
    """What `own_rows` asks a mesh for."""

    ndim = 1

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._count = rank, count

    def size(self) -> int:
        return self._count

    def get_local_rank(self) -> int:
        return self._rank


def processor_s(call) -> float:
    """The least processor time of five calls, after a first one."""
    call()
    times = []
    for _ in range(5):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def job(row: str, width: int, batch: int, count: int, **changes: Any) -> Any:
    measured = dataclasses.replace(JOB.measure, budget_s=2.0, min_samples=3, max_samples=100)
    options = {"inputs": 64, "width": width, "outputs": 10, "batch": batch}
    given = {"problem_options": options, "method": f"sharded_{row}", "target": f"methods.sharded.{row}.hessian"}
    return dataclasses.replace(JOB, **{"processes": count, "measure": measured, "limit_s": 300.0} | given | changes)


def measure(launcher: Launcher, folder: Path, row: str, width: int, batch: int) -> None:
    """Print what one process and two need."""
    one, two = (record.read(launcher.run(job(row, width, batch, count), folder)) for count in (1, 2))
    assert one["status"] == two["status"] == "ok", (one["message"], two["message"])
    share = two["tensor_peak_bytes"] / one["tensor_peak_bytes"]
    single_s, double_s = (sorted(seen["times_s"])[len(seen["times_s"]) // 2] for seen in (one, two))
    print(
        f"{row}: tensor memory {one['tensor_peak_bytes'] / 2**20:.1f} MiB, of ranks "
        f"{', '.join(f'{size / 2**20:.1f}' for size in two['ranks_tensor_peak_bytes'])} MiB, share {share:.2f}; "
        f"process memory {one['process_peak_bytes'] / 2**20:.1f} and {two['process_peak_bytes'] / 2**20:.1f} MiB; "
        f"{single_s:.3f} s and {double_s:.3f} s, efficiency {single_s / 2 / double_s:.2f}; "
        f"FLOPs {two['flops'] / one['flops']:.2f} times; communicated {two['communicated_bytes']} bytes",
        flush=True,
    )
    assert share <= SHARE, share


def kill(launcher: Launcher, folder: Path, width: int, batch: int) -> None:
    """Kill a rank in the middle of its pass, and print when and how that ends."""
    before, killed = set(processes.descendants(os.getpid())), []

    def kill_one() -> None:
        while len(ranks := set(processes.descendants(os.getpid())) - before) < 2:
            time.sleep(0.02)
        time.sleep(2.0)  # in which they meet and begin to compute
        killed.append(time.monotonic())
        os.kill(max(ranks), signal.SIGKILL)

    endless = dataclasses.replace(JOB.measure, budget_s=60.0, max_samples=10**6, precision=0.0)
    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    seen = record.read(launcher.run(job("factored", width, batch, 2, passes=("time",), measure=endless), folder))
    late_s = time.monotonic() - killed[0]
    thread.join()
    print(f"killed: after {late_s:.1f} s a row with the status {seen['status']}: {seen['message']}")
    assert seen["status"] == "crashed"
    assert "rank" in seen["message"]
    assert late_s < KILL_S
    assert set(processes.descendants(os.getpid())) == before, "processes are left"


if __name__ == "__main__":
    main()
