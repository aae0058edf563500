"""LeNet-5's spectrum, trace and inverse products against its exact Hessian: `python -m tests.programs.lenet5_spectrum`.

`factored` writes the whole Hessian (P = 61,706 in float32: 15.2 GB) into a file. The truth is computed with that file
alone, in float64, a block of rows in memory at a time:

- the trace is the sum of its diagonal;
- the eigenvalues and the inverse product are the best in a block Krylov space, which begins with the vector of the
  inverse product and random vectors. Their residuals are printed.

Three methods for each compute with the network, and never with the file. The damping is larger than minus the lowest
eigenvalue, as two of them need. Prints tables in Markdown; how far it is goes to standard error. With the defaults it
takes 16 GB of disk, up to 6 GB of memory and a quarter of an hour at most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.measure import memory
from harness.problems import networks
from harness.problems.problem import Problem
from methods import (
    conjugate_gradients,
    factored,
    hutchinson,
    hutchpp,
    lanczos,
    lobpcg,
    minres,
    neumann,
    power_iteration,
    xtrace,
)
from methods.estimates import Bounded
from methods.ritz import rayleigh_ritz
from methods.storage.reading import StoredMatrix
from methods.storage.writing import mapped

FACTORED_MB = 512.0  # beside the file
BLOCK_MB = 16.0  # of rows that are converted to float64 at once
RANDOM = 16  # vectors that the Krylov space begins with, beyond those that are asked for
RESIDUAL = 1e-8  # at which the truth is known: of a solution over its vector, of an eigenvector over the largest


@dataclass(frozen=True)
class Truth:
    """What the file says."""

    trace: float
    eigenvalues: Bounded  # (k + 1,)
    inverse: Bounded  # (P, 1)
    passes: int  # over the file


def main() -> None:
    """Write the file, compute with it, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=int, default=28, help="pixels of a side (default: 28)")
    parser.add_argument("--channels", type=int, nargs=2, default=(6, 16), help="of the convolutions (default: 6 16)")
    parser.add_argument("--widths", type=int, nargs=2, default=(120, 84), help="of the linear layers (default: 120 84)")
    parser.add_argument("--batch", type=int, default=64, help="samples (default: 64)")
    parser.add_argument("--k", type=int, default=10, help="eigenvalues of largest magnitude (default: 10)")
    parser.add_argument("--damping", type=float, default=2.0, help="of the inverse product (default: 2)")
    parser.add_argument("--passes", type=int, default=16, help="over the file at most (default: 16)")
    parser.add_argument("--folder", default=None, help="where the file is written (default: that of temporary files)")
    parser.add_argument("--limit-gb", type=float, default=6.0, help="memory in 10^9 bytes (default: 6)")
    chosen = parser.parse_args()
    memory.limit(chosen.limit_gb, torch.device("cpu"))
    sizes = {name: getattr(chosen, name) for name in ("image", "channels", "widths", "batch")}
    problem = networks.lenet5(**sizes).to("cpu", torch.float32)
    vector = torch.randn(problem.theta.numel(), 1, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "hessian.npy"
        with timed("exact Hessian into the file, by factored"):
            write(path, problem)
        with timed("truth from the file"):
            truth = truth_of(StoredMatrix(path, BLOCK_MB), vector, chosen.k, chosen.damping, chosen.passes)
    print(heading(problem, sizes, truth, chosen.damping))
    for title, rows in compared(problem, vector, truth, chosen.k, chosen.damping):
        print(f"\n{title}\n\n| method | products | time | error | stated |\n|---|---:|---:|---:|---:|")
        print("\n".join(rows), flush=True)


def write(path: Path, problem: Problem) -> None:
    """Write the exact Hessian."""
    network = problem.model, problem.criterion, problem.inputs, problem.targets
    with mapped(path, problem.model, "methods.factored.hessian", memory_mb=FACTORED_MB) as out:
        factored.hessian(*network, out=out, memory_mb=FACTORED_MB)


def truth_of(matrix: StoredMatrix, vector: Tensor, k: int, damping: float, passes: int) -> Truth:
    """The trace, the eigenvalues and the inverse product of the matrix in the file."""
    start = torch.randn(len(vector), k + RANDOM, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    right = vector.double()
    spaces = krylov(matrix, torch.cat([right, start], dim=1), passes)
    for done, (basis, images) in enumerate(spaces, 1):
        eigenvalues = rayleigh_ritz(basis, images, k, done)
        inverse = least_residual(basis, images, right, damping, done)
        worst = float(eigenvalues.error.max() / eigenvalues.value.abs().max())
        report(
            f"pass {done} over the file: residuals {worst:.1e} of eigenvalues, {float(inverse.error):.1e} of inverse"
        )
        if max(worst, float(inverse.error)) <= RESIDUAL:
            break
    return Truth(matrix.trace(), eigenvalues, inverse, done)


def krylov(matrix: StoredMatrix, block: Tensor, passes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Orthonormal bases Q (P, m) of growing block Krylov spaces, with H Q (P, m): one pass over the file for each."""
    basis = images = block[:, :0]
    for _ in range(passes):
        for _ in range(2):  # the second time for what rounding leaves of nearly dependent vectors
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        block = block[:, : len(block) - basis.shape[1]]
        if not block.shape[1]:
            return
        image = product(matrix, block)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
        yield basis, images
        block = image


def product(matrix: StoredMatrix, vectors: Tensor) -> Tensor:
    """The matrix times vectors (P, m), in float64."""
    result = torch.empty_like(vectors)
    for rows, block in matrix.blocks():
        result[rows] = torch.from_numpy(block).double() @ vectors
    return result


def least_residual(basis: Tensor, images: Tensor, right: Tensor, damping: float, products: int) -> Bounded:
    """The x in the space of the basis with the least |(H + damping I) x - v|, and that residual over |v|."""
    damped = images + damping * basis
    weights = torch.linalg.lstsq(damped, right).solution
    residual = (damped @ weights - right).norm(dim=0) / right.norm(dim=0)
    return Bounded(basis @ weights, residual, products)


def compared(
    problem: Problem, vector: Tensor, truth: Truth, k: int, damping: float
) -> Iterator[tuple[str, Sequence[str]]]:
    """Titles, and the rows of a table for each."""
    at = problem.loss, problem.theta
    largest = float(truth.eigenvalues.value.abs().max())

    def eigenvalue_errors(found: Any) -> tuple[float, float]:
        off = (found.value.abs() - truth.eigenvalues.value.abs()).abs()
        off[-1] = (found.value[-1] - truth.eigenvalues.value[-1]).abs()
        return float(off.max()) / largest, float(found.error.max()) / largest

    def trace_errors(found: Any) -> tuple[float, float]:
        return abs(float(found.value) / truth.trace - 1), abs(float(found.standard_error) / truth.trace)

    def inverse_errors(found: Any) -> tuple[float, float]:
        return float((found.value - truth.inverse.value).norm() / truth.inverse.value.norm()), float(found.error.max())

    yield (
        f"The {k} eigenvalues of largest magnitude and the lowest one: largest error and residual over the largest",
        [
            row("lanczos", lambda: lanczos.eigenvalues(*at, k), eigenvalue_errors),
            row("lobpcg", lambda: lobpcg.eigenvalues(*at, k), eigenvalue_errors),
            row("power_iteration", lambda: power_iteration.eigenvalues(*at, k), eigenvalue_errors),
        ],
    )
    yield (
        "The trace: error and standard error, over the trace",
        [
            row("hutchinson", lambda: hutchinson.trace(*at), trace_errors),
            row("hutchpp", lambda: hutchpp.trace(*at), trace_errors),
            row("xtrace", lambda: xtrace.trace(*at), trace_errors),
        ],
    )
    yield (
        f"(H + {damping:g} I)^-1 v: relative error, and residual over the vector",
        [
            row("conjugate_gradients", lambda: conjugate_gradients.ihvp(*at, vector, damping), inverse_errors),
            row("minres", lambda: minres.ihvp(*at, vector, damping), inverse_errors),
            row("neumann", lambda: neumann.ihvp(*at, vector, damping), inverse_errors),
        ],
    )


def row(name: str, call: Callable[[], Any], errors: Callable[[Any], tuple[float, float]]) -> str:
    """A row of the table: a method's products, time, error and what it states of it; or why it has none."""
    began = time.perf_counter()
    with timed(name):
        try:
            found = call()
        except ArithmeticError as error:
            return f"| {name} | | | {error} | |"
    taken = time.perf_counter() - began
    error, stated = errors(found)
    return f"| {name} | {found.products or found.probes:,} | {taken:.2f} s | {error:.1e} | {stated:.1e} |"


def heading(problem: Problem, sizes: dict[str, Any], truth: Truth, damping: float) -> str:
    """What was computed, and the truth from the file."""
    values = ", ".join(f"{value:.6g}" for value in truth.eigenvalues.value[:-1])
    residual = float(truth.eigenvalues.error.max() / truth.eigenvalues.value.abs().max())
    shown = ", ".join(f"{name}={value}" for name, value in sizes.items())
    size = problem.theta.numel()
    return (
        f"# LeNet-5's spectrum against its exact Hessian\n\n"
        f"P = {size:,} ({shown}), float32, torch {torch.__version__}, {torch.get_num_threads()} threads. The file has "
        f"{4 * size**2 / 1e9:.3g} GB, and was read {truth.passes} times for the truth, in float64. Made by "
        f"`python -m tests.programs.lenet5_spectrum`.\n\n"
        f"- Eigenvalues of largest magnitude: {values}\n"
        f"- Lowest eigenvalue: {float(truth.eigenvalues.value[-1]):.6g}\n"
        f"- Residuals of all eigenvectors: at most {residual:.1e} of the largest eigenvalue\n"
        f"- Trace: {truth.trace:.6g}\n"
        f"- (H + {damping:g} I)^-1 v of a random v, with a residual of {float(truth.inverse.error):.1e} of |v|"
    )


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Report how long something took."""
    began = time.perf_counter()
    yield
    report(f"{what}: {time.perf_counter() - began:.1f} s")


def report(text: str) -> None:
    """A line on how far the program is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
