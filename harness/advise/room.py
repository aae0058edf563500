"""Whether the memory of this machine suffices."""

from __future__ import annotations

import os

from harness.advise.budgets import has_budget
from harness.job import Job

# Quantities of which a part of the parameters says nothing: they are measured in all at once.
OF_THE_WHOLE = ("eigenvalues", "trace", "spectrum", "ihvp")
DECOMPOSED = ("eigenvalues", "spectrum", "ihvp")  # that an exact method takes from the whole matrix
SHARE = 0.5  # of the machine's memory that a method may take
OUTPUT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def output_bytes(job: Job, params: int) -> int:
    """Bytes of the result where it is a whole matrix, else 0: the others grow no faster than the parameters."""
    return OUTPUT_BYTES[job.dtype] * params**2 if job.quantity in ("hessian", "ggn") else 0


def held_bytes(job: Job, params: int) -> int:
    """Bytes that the method holds at least: of its result, and of a matrix with its factor where it decomposes one."""
    decomposes = job.quantity in DECOMPOSED and not has_budget(job.method_options)
    return 2 * OUTPUT_BYTES[job.dtype] * params**2 if decomposes else output_bytes(job, params)


def refusal(job: Job, params: int, memory_gb: float | None) -> str | None:
    """Why the result, or the matrix that it is made of, takes too much memory; None where it fits."""
    size = held_bytes(job, params)
    what, remedy = "the result alone", "ask for quantity=diagonal or hvp, or take a smaller network"
    if job.quantity in DECOMPOSED:
        what, remedy = "the matrix and its factor", "give precision=1e-3, which lets estimates in"
    limits = [] if memory_gb is None else [(memory_gb * 1e9, f"memory_gb={memory_gb:g}")]
    if job.device == "cpu":
        limits.append((SHARE * machine_bytes(), "half of this machine's memory"))
    for limit, name in limits:
        if size > limit:
            return (
                f"not run: {what}, {params} x {params} entries of {job.dtype}, takes {size / 1e9:.3g} GB, "
                f"more than {name}; {remedy}"
            )
    return None


def fits(job: Job, peak_bytes: float | None) -> bool:
    """Whether a call of such a peak may be made; on a GPU it is tried."""
    return job.device != "cpu" or peak_bytes is None or peak_bytes <= SHARE * machine_bytes()


def machine_bytes() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
