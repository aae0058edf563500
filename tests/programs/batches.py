"""A Hessian over a data set of MNIST's size: time, memory and distance from products over all samples.

`python -m tests.programs.batches`

There are 60,000 synthetic samples of 28 x 28 in 118 batches, of which the last is smaller, ten classes of different
weight, and one target in ten that is ignored. The network is a perceptron 784-6-10 with P = 4,780. Samples are drawn
anew whenever a batch is asked for, so that memory holds one batch.

Each memory is that of a fresh process. Times are of the processor, on one thread.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from methods import batches, factored
from methods.calls import loss_of
from methods.ravel import ravel

SAMPLES, SIZE, PROBES = 60_000, 512, 8


class Synthetic:
    """The batches of the data set, or the first ones."""

    def __init__(self, count: int = -(-SAMPLES // SIZE), dtype: torch.dtype = torch.float32) -> None:
        self.count, self.dtype = count, dtype

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(self.count):
            generator = torch.Generator().manual_seed(index)
            samples = min(SIZE, SAMPLES - index * SIZE)
            inputs = torch.randn(samples, 784, generator=generator)
            targets = torch.randint(10, (samples,), generator=generator)
            targets[torch.rand(samples, generator=generator) < 0.1] = -100
            yield inputs.to(self.dtype), targets


def network(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """The perceptron and its criterion, the same in either dtype."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 6), nn.Tanh(), nn.Linear(6, 10))
    return model.to(dtype), nn.CrossEntropyLoss(weight=torch.linspace(0.2, 2, 10).to(dtype))


def accumulated(data: Synthetic) -> Tensor:
    """The Hessian (P, P) over all batches in float32."""
    return batches.hessian(factored, *network(torch.float32), data)


def each() -> float:
    """Seconds that the Hessians of the batches take one by one, in one matrix, with the drawing of the samples."""
    model, criterion = network(torch.float32)
    size = sum(p.numel() for p in model.parameters())
    out = torch.empty(size, size)
    began = time.process_time()
    for inputs, targets in Synthetic():
        factored.hessian(model, criterion, inputs, targets, out=out)
    return time.process_time() - began


def distance(found: Tensor) -> float:
    """The largest relative distance of H v from double backward through the loss of all samples at once, in float64."""
    model, criterion = network(torch.float64)
    inputs, targets = (torch.cat(parts) for parts in zip(*Synthetic(dtype=torch.float64), strict=True))
    theta, unravel = ravel(model)
    theta.requires_grad_()
    loss = loss_of(model, criterion, inputs, targets)(unravel(theta))
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    worst = 0.0
    for seed in range(PROBES):
        vector = torch.randn(len(theta), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (true,) = torch.autograd.grad(gradient, theta, vector, retain_graph=True)
        worst = max(worst, float((found.double() @ vector - true).norm() / true.norm()))
    return worst


def peak_mb(count: int) -> float:
    """MB by which the peak of a fresh process's memory grows while it sums over so many batches."""
    command = [sys.executable, "-m", "tests.programs.batches", str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the figures; with a number of batches, the growth of memory over so many of them."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        accumulated(Synthetic(1))  # what is loaded and allocated only once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        accumulated(Synthetic(int(sys.argv[1])))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
        return
    print(f"{SAMPLES:,} samples in {Synthetic().count} batches, the last of {SAMPLES % SIZE}")
    began = time.process_time()
    found = accumulated(Synthetic())
    over_batches, one_by_one = time.process_time() - began, each()
    print(f"accumulated {over_batches:.1f} s, batch by batch {one_by_one:.1f} s: {over_batches / one_by_one:.2f}")
    print(f"P = {len(found):,}, a matrix of {found.nbytes / 1e6:.0f} MB")
    print(f"largest relative distance from {PROBES} products in float64: {distance(found):.1e}")
    for count in (10, Synthetic().count):
        print(f"{count} batches: {peak_mb(count):.0f} MB beyond the peak over one batch")


if __name__ == "__main__":
    main()
