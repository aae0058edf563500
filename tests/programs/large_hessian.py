"""A Hessian larger than memory: `python -m tests.programs.large_hessian [--params P] [--folder DIR] [--limit-gb GB]`.

Processes with a memory limit write the Hessian of a perceptron in float64 into DIR, by forward-over-reverse products.
The first is killed once two fifths of the rows are written, and the second goes on. A third reads the file by blocks.
Its five largest eigenvalues are compared with those of Lanczos on double-backward products with the network, which use
no file. The program fails where they differ by more than 1e-8 of the largest. With the defaults the file has 20 GB.

The limit is on private memory (RLIMIT_DATA). The kernel's copies of the file in free memory are not in it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from harness.measure import memory
from harness.problems import from_network, networks
from harness.problems.problem import Problem
from methods import create_graph_rows, vmap_hvp
from methods.storage.files import json_path
from methods.storage.reading import StoredMatrix
from methods.storage.writing import write_hessian

OUTPUTS, SAMPLES = 10, 64
KILLED_AT = 0.4  # of the rows
TOLERANCE = 1e-8
LARGEST = 5


def main() -> None:
    """Write, kill, resume, compare; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=50_000, help="at least so many parameters (default: 50,000)")
    parser.add_argument("--folder", default=None, help="where the file is written (default: that of temporary files)")
    parser.add_argument("--limit-gb", type=float, default=4.0, help="memory of a process in 10^9 bytes (default: 4)")
    parser.add_argument("--block-mb", type=float, default=64.0, help="a block of rows in 10^6 bytes (default: 64)")
    chosen = parser.parse_args()
    size = perceptron(chosen.params).theta.numel()
    print(f"P = {size:,} in float64, a file of {8 * size**2 / 1e9:.2f} GB; limit {chosen.limit_gb} GB", flush=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "hessian.npy"
        arguments = path, chosen.params, chosen.limit_gb, chosen.block_mb
        first = started(write, arguments)
        killed(first, path, KILLED_AT * size)
        for task in (write, compare):
            process = started(task, arguments)
            process.join()
            if process.exitcode:
                sys.exit(f"{task.__name__} ended with {process.exitcode}")


def started(task: Callable[..., None], arguments: tuple) -> multiprocessing.process.BaseProcess:
    """A fresh process that runs a task."""
    process = multiprocessing.get_context("spawn").Process(target=task, args=arguments)
    process.start()
    return process


def killed(process: multiprocessing.process.BaseProcess, path: Path, rows: float) -> None:
    """Kill a process (SIGKILL) once it has written so many rows."""
    while process.is_alive() and rows_done(path) < rows:
        time.sleep(0.01)
    process.kill()
    process.join()
    print(f"killed, with exit status {process.exitcode} and {rows_done(path):,} rows written", flush=True)


def rows_done(path: Path) -> int:
    """How many rows are written."""
    place = json_path(path)
    return json.loads(place.read_text())["rows_done"] if place.exists() else 0


def perceptron(params: int) -> Problem:
    """A perceptron with as many inputs as hidden units and at least so many parameters.

    The scale of input k falls as 1/k, as that of the principal components of images. It keeps the eigenvalues apart.
    """
    width = next(n for n in itertools.count(1) if (n + 1) * (n + OUTPUTS) >= params)
    problem = networks.mlp(inputs=width, width=width, outputs=OUTPUTS, batch=SAMPLES)
    inputs = 4 * problem.inputs / torch.arange(1, width + 1)
    return from_network(problem.model, problem.criterion, inputs, problem.targets)


def write(path: Path, params: int, limit_gb: float, block_mb: float) -> None:
    """Write the Hessian, or go on with it."""
    problem = perceptron(params)
    memory.limit(limit_gb, torch.device("cpu"))
    with timed(f"written from row {rows_done(path):,} on"):
        write_hessian(
            path,
            problem.model,
            vmap_hvp.hvp,
            problem.loss,
            problem.theta,
            resume=True,
            block_mb=block_mb,
            chunk_size=64,
        )
    print_peak()


def compare(path: Path, params: int, limit_gb: float, block_mb: float) -> None:
    """Compute with the file by blocks, and compare its largest eigenvalues with those of the network's products."""
    problem = perceptron(params)
    memory.limit(limit_gb, torch.device("cpu"))
    stored = StoredMatrix(path, block_mb)
    for name in ("trace", "norm", "asymmetry"):
        with timed(name):
            value = getattr(stored, name)()
        print(f"{name} {value:.6g}")

    def product(vector: numpy.ndarray) -> numpy.ndarray:
        vectors = torch.from_numpy(vector.reshape(-1, 1))
        return create_graph_rows.hvp(problem.loss, problem.theta, vectors).numpy()

    start = numpy.random.default_rng(0).standard_normal(stored.shape[0])
    largest = functools.partial(eigsh, k=LARGEST, v0=start, tol=1e-6)  # errors of eigenvalues are quadratic in it
    passes = itertools.count()

    def counted(vector: numpy.ndarray) -> numpy.ndarray:
        next(passes)
        return stored.matvec(vector)

    with timed(f"{LARGEST} eigenvalues by blocks of the file"):
        values, _ = largest(LinearOperator(stored.shape, counted, dtype=stored.dtype))
    print(f"{next(passes)} passes over the file")
    with timed(f"{LARGEST} eigenvalues by products with the network"):
        truth, _ = largest(LinearOperator(stored.shape, product, dtype=stored.dtype))
    print_peak()
    worst = abs(values - truth).max() / abs(truth).max()
    for value, true in zip(values[::-1], truth[::-1], strict=True):
        print(f"{value:22.15g} {true:22.15g}")
    print(f"largest difference {worst:.1e} of the largest eigenvalue")
    if not worst <= TOLERANCE:
        sys.exit(f"the eigenvalues differ by more than {TOLERANCE}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def print_peak() -> None:
    """Print the peak of this process's resident memory, with the libraries."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak of resident memory {peak / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
