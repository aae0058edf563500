"""How much faster the factored Hessian is, how near to the machine's limit, and how much memory it takes.

`python -m tests.programs.factored_speed RECORDS...`

The limit is the larger of two times at the rates measured in the same sweep: of the multiplications and additions that
dense layers need (N P_l^2 / 2 in a layer's own block, where a quarter of the products suffices; 2 N P_l P_k between two
layers), and of writing P^2 numbers.
"""

import itertools
import json
import sys
from pathlib import Path

import pandas
from torch import nn

from harness import record
from harness.problems import build

MEASURED_ALONE = ["problem", "problem_options", "quantity", "dtype", "allocator"]  # a line of the table for each


def limit_s(seen: pandas.Series) -> float | None:
    """The least time that the Hessian of dense layers can take by matrix products; None for other networks."""
    problem = build(seen["problem_target"], json.loads(seen["problem_options"]))
    assert problem.model is not None
    sizes = [
        sum(p.numel() for p in layer.parameters()) for layer in problem.model.modules() if isinstance(layer, nn.Linear)
    ]
    if sum(sizes) != seen["params"]:
        return None
    own = sum(size**2 / 2 for size in sizes)
    between = sum(2 * one * other for one, other in itertools.combinations(sizes, 2))
    calculated = len(problem.inputs) * (own + between) / seen["gemm_flops_per_s"]
    written = float(seen["params"]) ** 2 * (8 if seen["dtype"] == "float64" else 4)
    return max(calculated, written / seen["write_bytes_per_s"])


def line(group: pandas.DataFrame) -> dict[str, object] | None:
    """What the table shows of a problem with its settings; None where `factored` was not timed."""
    times = group.groupby("label")["median_s"].median().dropna()
    if "factored" not in times:
        return None
    mine = group[(group["label"] == "factored") & group["median_s"].notna()].iloc[0]
    others = times.drop("factored")
    peaks = group.loc[group["label"] == "factored", "process_peak_outputs"]
    limit = limit_s(mine) if mine["quantity"] == "hessian" else None
    return {
        "problem": mine["problem"],
        "activation": json.loads(mine["problem_options"])["activation"],
        "P": int(mine["params"]),
        "dtype": mine["dtype"],
        "allocator": mine["allocator"],
        "factored": f"{times['factored'] * 1e3:.4g} ms",
        "func_hessian": _ratio(others.get("func_hessian"), times["factored"]),
        "best other": _ratio(others.min() if len(others) else None, times["factored"]),
        "which": others.idxmin() if len(others) else "",
        "over the limit": _ratio(times["factored"], limit),
        "peak in results": f"{peaks.median():.2f}" if peaks.notna().any() else "",
    }


def _ratio(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one / other:.1f}x"


def main() -> None:
    """Print a Markdown table for each quantity, then the benchmark cells that failed or were disturbed."""
    frame = pandas.concat([record.load(Path(place)) for place in sys.argv[1:]])
    right = frame[frame["status"] == "ok"]
    for _, of_quantity in right.groupby("quantity"):
        lines = [line(group) for _, group in of_quantity.groupby(MEASURED_ALONE)]
        table = pandas.DataFrame([shown for shown in lines if shown is not None])
        if len(table):
            table = table.sort_values(["P", "problem", "activation", "dtype", "allocator"])
            print(table.loc[:, (table != "").any()].to_markdown(index=False), end="\n\n")
    shown = ["problem", "quantity", "dtype", "allocator", "label", "status", "first_s"]
    for title, cells in (
        ("Failed", frame[frame["status"] != "ok"]),
        ("Disturbed by another process", right[right["contended"].eq(True)]),
    ):
        if len(cells):
            print(f"{title}:\n\n{cells[shown].to_markdown(index=False)}\n")


if __name__ == "__main__":
    main()
