"""How much faster the factored Hessian is, and how near to the machine's limit.

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


def limit_s(seen: pandas.Series) -> float:
    """The least time that the Hessian of a perceptron can take by matrix products."""
    problem = build(seen["problem_target"], json.loads(seen["problem_options"]))
    assert problem.model is not None
    sizes = [
        sum(p.numel() for p in layer.parameters()) for layer in problem.model.modules() if isinstance(layer, nn.Linear)
    ]
    assert sum(sizes) == seen["params"], "a network of dense layers alone"
    own = sum(size**2 / 2 for size in sizes)
    between = sum(2 * one * other for one, other in itertools.combinations(sizes, 2))
    calculated = len(problem.inputs) * (own + between) / seen["gemm_flops_per_s"]
    return max(calculated, seen["output_bytes"] / seen["write_bytes_per_s"])


def main() -> None:
    """Print a Markdown table with a line for each problem, quantity and allocator."""
    frame = pandas.concat([record.load(Path(place)) for place in sys.argv[1:]])
    frame = frame[frame["status"] == "ok"]
    lines = []
    keys = ["problem", "problem_options", "quantity", "allocator"]
    for (problem, options, quantity, allocator), group in frame.groupby(keys):
        times = group.groupby("label")["median_s"].median()
        if "factored" not in times or len(times) < 2:
            continue
        others = times.drop("factored")
        mine = group[group["label"] == "factored"].iloc[0]
        reference = f"{others['func_hessian'] / times['factored']:.1f}x" if "func_hessian" in others else ""
        bounded = problem.startswith("mlp") and quantity == "hessian"
        lines.append(
            {
                "problem": problem,
                "quantity": quantity,
                "activation": json.loads(options).get("activation"),
                "P": int(mine["params"]),
                "allocator": allocator,
                "factored": f"{times['factored'] * 1e3:.4g} ms",
                "torch.func.hessian": reference,
                "best other": f"{others.min() / times['factored']:.1f}x",
                "which": others.idxmin(),
                "over the limit": f"{times['factored'] / limit_s(mine):.1f}x" if bounded else "",
            }
        )
    print(pandas.DataFrame(lines).sort_values(["P", "activation", "allocator"]).to_markdown(index=False))


if __name__ == "__main__":
    main()
