"""Rows of conf/method on the problems of tests/test_methods.py: on `cuda:0` what they are on the CPU."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.estimates import Bounded, Spectrum
from methods.factoring.certificate import FallbackWarning
from tests.pretended_gpu import gpu
from tests.rows import bound, target
from tests.test_methods import CELLS, CRASHES, KNOWN, PROBLEMS, REFUSES, offered

ROUNDED = 1e-9  # relative difference of two results that rounding explains
DIFFERENCED = 1e-6  # the same of finite differences, which amplify it
LARGEST_LOOP = 15  # parameters of a problem on which `naive_loop` runs, which takes a backward pass for each entry


@dataclass(frozen=True)
class Cell:
    """What became of a row on a problem."""

    row: str
    problem: str
    quantity: str
    refusal: str | None  # the words with which it is refused on both devices
    fault: str | None  # how the two devices differ
    waits: int  # of the CPU for the GPU


def left_out(row: str) -> str | None:
    """Why a row is not computed; None where it is."""
    if target(row, "hessian")[0] == "methods.peers.jax":
        return "JAX has devices of its own"
    if row.endswith("_compiled"):
        return "torch.compile generates code for a true GPU"
    return None


def cells() -> Iterator[tuple[str, str, str]]:
    """Row, problem and quantity of every cell that is computed."""
    small = {name for name, build in PROBLEMS.items() if len(build().theta) <= LARGEST_LOOP}
    for row, problem, quantity in CELLS:
        if left_out(row) or (row, problem) in CRASHES or (row == "naive_loop" and problem not in small):
            continue
        yield row, problem, quantity


def compared(row: str, problem: str, quantity: str) -> Cell:
    """A cell on both devices."""
    on_cpu = _outcome(row, problem, quantity, "cpu")
    on_gpu = _outcome(row, problem, quantity, "cuda")
    waits = gpu.waits.total()
    refusal = KNOWN.get((row, problem, quantity), KNOWN.get((row, problem)))
    if (row, problem) in REFUSES:
        refusal = "NotImplementedError"
    fault = None
    of_cpu, of_gpu = (found if isinstance(found, str) else "a result" for found in (on_cpu, on_gpu))
    if isinstance(refusal, str):
        if not all(isinstance(found, str) and refusal in found for found in (on_cpu, on_gpu)):
            fault = f"it should be refused with {refusal!r}; on the CPU: {of_cpu}; on the GPU: {of_gpu}"
    elif isinstance(on_cpu, str) or isinstance(on_gpu, str):
        fault = f"on the CPU: {of_cpu}; on the GPU: {of_gpu}"
    else:
        fault = _difference(on_cpu, on_gpu, DIFFERENCED if row.startswith("finite_differences") else ROUNDED)
    return Cell(row, problem, quantity, refusal if isinstance(refusal, str) else None, fault, waits)


def _outcome(row: str, problem: str, quantity: str, device: str) -> list[Tensor] | str:
    """The tensors of a result, or what was raised."""
    try:
        return called(row, problem, quantity, device)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def called(row: str, problem: str, quantity: str, device: str) -> list[Tensor]:
    """The tensors of the result of a row."""
    built = PROBLEMS[problem]().to(device, torch.float64)
    drawn = torch.randn(len(built.theta), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    function, options = bound(row, quantity)
    arguments = {"vectors": drawn.to(device), "k": 1, "damping": 1.0, **offered(built)}
    asked = {name: arguments[name] for name in inspect.signature(function).parameters if name in arguments}
    gpu.waits.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)  # a wrong result of the GPU would be mended, and pass
        found = function(**asked, **options)
    if isinstance(found, Spectrum):  # Lanczos vectors, and so the nodes, depend on rounding; the moments hardly do
        return [found.moments]
    if isinstance(found, Bounded):  # what is stated of the error depends on rounding too
        return [found.value]
    return [part for part in (found if isinstance(found, tuple) else (found,)) if isinstance(part, Tensor)]


def _difference(on_cpu: list[Tensor], on_gpu: list[Tensor], tolerance: float) -> str | None:
    """How the tensors of two results differ, beyond a relative tolerance; None where they do not."""
    devices = {str(part.device) for part in on_gpu}
    if devices != {"cuda:0"}:
        return f"the result is on {', '.join(sorted(devices))}"
    try:
        torch.testing.assert_close([part.cpu() for part in on_gpu], on_cpu, rtol=tolerance, atol=tolerance / 100)
    except AssertionError as error:
        return " ".join(str(error).split())
    return None
