"""The table of rows on a pretended GPU, and what it must say."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from tests.pretended_gpu import cells
from tests.pretended_gpu.cells import Cell
from tests.rows import ROWS, target

LARGEST = "bert"  # the problem that takes the longest
OWN_CELLS = {"quick": 682, "all": 727}  # of own rows: fewer would mean that some are passed over

# How often the CPU waits for the GPU in one call, at most, where it does. The numbers grow neither with the number of
# parameters nor with their size, but for `factored.diagonal`, which decides at each layer how to go on.
WAITS = {
    ("factored", "hessian"): 8,
    ("factored", "diagonal"): 12,
    ("factored", "hvp"): 9,
    ("factored", "eigenvalues"): 9,
    ("factored", "trace"): 12,
    ("factored", "spectrum"): 9,
    ("factored", "ihvp"): 11,
    ("diagonal_only", "hessian"): 12,
    ("vmap_hvp", "eigenvalues"): 1,
    ("vmap_hvp", "spectrum"): 1,
    ("vmap_hvp", "ihvp"): 3,
    ("lanczos_quadrature", "spectrum"): 1,
}
# Methods that wait in each of their steps: they decide by numbers whether to go on, or how long a step is.
STEPWISE = {
    "conjugate_gradients",
    "finite_differences",
    "lanczos",
    "lobpcg",
    "minres",
    "neumann",
    "power_iteration",
}


def is_own(row: str) -> bool:
    """Whether a row calls a method of this repository, not another library."""
    return not target(row, "hessian")[0].startswith("methods.peers.")


def show(quick: bool) -> int:
    """Compute all cells and print the table; returns 1 where something is not as it must be.

    `quick` leaves out the rows of other libraries, and the largest problem.
    """
    chosen = [cell for cell in cells.cells() if not quick or (is_own(cell[0]) and cell[1] != LARGEST)]
    every = [cells.compared(*cell) for cell in chosen]
    print(tabulate([_line(row, every) for row in sorted({cell.row for cell in every})], headers="keys"))
    left_out = {row: reason for row in sorted(ROWS) if (is_own(row) or not quick) and (reason := cells.left_out(row))}
    print("equal: to the CPU's result, up to 1e-9. refused: an error with the same words on both devices.")
    print("waits: how often the CPU waits for the GPU in one call, at most; 0 for quantities that are not named.")
    for row, reason in left_out.items():
        print(f"{row} is left out: {reason}.")
    faults = _faults(every, OWN_CELLS["quick" if quick else "all"])
    equal = sum(cell.refusal is None and cell.fault is None for cell in every)
    refused = sum(cell.refusal is not None and cell.fault is None for cell in every)
    print(f"{len(every)} cells, of which {equal} equal the CPU's and {refused} are refused there too.")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _line(row: str, every: Sequence[Cell]) -> dict[str, object]:
    """A row of the table."""
    of_row = [cell for cell in every if cell.row == row]
    refusals = Counter(cell.refusal for cell in of_row if cell.refusal is not None)
    waits = _most_waits(of_row)
    return {
        "method": row,
        "cells": len(of_row),
        "equal": sum(cell.refusal is None and cell.fault is None for cell in of_row),
        "refused": sum(refusals.values()),
        "waits": ", ".join(f"{quantity} {count}" for (_, quantity), count in waits.items() if count) or 0,
        "refusals": "; ".join(refusals),
    }


def _most_waits(every: Sequence[Cell]) -> dict[tuple[str, str], int]:
    """The most waits of each row and quantity."""
    most: dict[tuple[str, str], int] = {}
    for cell in every:
        key = cell.row, cell.quantity
        most[key] = max(most.get(key, 0), cell.waits)
    return most


def _faults(every: Sequence[Cell], own_cells: int) -> list[str]:
    """What is not as it must be, in words."""
    faults = [f"{cell.row} {cell.quantity} on {cell.problem}: {cell.fault}" for cell in every if cell.fault]
    own = [cell for cell in every if is_own(cell.row)]
    if len(own) != own_cells:
        faults.append(f"there are {len(own)} cells of own rows; `OWN_CELLS` states {own_cells}")
    for (row, quantity), waits in _most_waits(own).items():
        stated = WAITS.get((row, quantity), 0)
        if waits != stated and row not in STEPWISE:
            faults.append(f"{row} {quantity} waits {waits} times; `WAITS` states {stated}")
    return faults
