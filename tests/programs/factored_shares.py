"""Where the time of the factored Hessian goes, and what its matrix products take at the machine's rate.

`python -m tests.programs.factored_shares [PROBLEM...] [--threads 2] [--budget 5] [--dtype float32]`

Each part's functions are called through a clock that stops where another part begins. Times are medians over calls in
one process. The FLOPs of a part are counted in one more call. `at the rate` is how long these take at the rate of a
large square matrix product, measured in the same process; products that are small, or wait for memory, take longer.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pandas
import torch

from harness.measure import rates
from harness.measure.counters import Counter
from methods import factored
from methods.factoring import hessian, products, sums
from methods.factoring.certificate import Certificate
from methods.factoring.jacobian import Term
from methods.factoring.scatter import Scatter
from methods.factoring.segments import Directions
from tests.test_problems import row

PROBLEMS = ["mlp_500", "mlp_5000", "mlp_20000", "cnn_3000", "transformer_2000", "transformer_20000"]
CHECK = "plain loss and check"
PARTS: dict[str, list[tuple[Any, str]]] = {
    CHECK: [(factored, "write_sum"), (Certificate, "__init__"), (Certificate, "product")],
    "trace and choice of cuts": [(sums, "planned"), (sums, "cheap_rows"), (hessian, "segmented")],
    "passes": [(Directions, "along")],
    "products of the chain": [(Term, "put_product")],
    "rest of the chain": [(sums, "write_hessian")],
    "contractions": [(hessian, "write")],
    "writing": [(products, "put"), (Scatter, "block"), (Scatter, "symmetric")],
    "rows": [(sums, "_write_cheap_rows"), (sums.Sum, "write_rows")],
}


class Ledger:
    """What each part spends of a quantity that grows, such as the time; what is called within another part is not."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read, self._running = read, [""]
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._last = read()

    def _book(self) -> None:
        now = self._read()
        self.spent[self._running[-1]] += now - self._last
        self._last = now

    def charged(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, whose calls are charged to a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._book()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._book()
                self._running.pop()

        return call


@contextlib.contextmanager
def charging(ledger: Ledger) -> Iterator[None]:
    """Has the functions of PARTS charged to a ledger."""
    with contextlib.ExitStack() as patched:
        for part, functions in PARTS.items():
            for owner, name in functions:
                charged = ledger.charged(getattr(owner, name), part)
                patched.enter_context(mock.patch.object(owner, name, charged))
        yield


def spent(call: Callable[[], object], read: Callable[[], float]) -> dict[str, float]:
    """What each part of one call spends, and under `all` the whole call."""
    ledger = Ledger(read)
    before = read()
    with charging(ledger):
        call()
    return {part: ledger.spent[part] for part in PARTS} | {"all": read() - before}


def shares(name: str, dtype: torch.dtype, budget_s: float) -> str:
    """A title and a Markdown table of a problem's parts."""
    problem = row(name).to(torch.device("cpu"), dtype)
    assert problem.model is not None

    def call() -> None:
        factored.hessian(problem.model, problem.criterion, problem.inputs, problem.targets)  # pyright: ignore[reportArgumentType]

    call()
    rate = rates.measure(torch.device("cpu"), dtype)["gemm_flops_per_s"]
    calls: list[dict[str, float]] = []
    while len(calls) < 3 or sum(seen["all"] for seen in calls) < budget_s:
        calls.append(spent(call, time.perf_counter))
    with Counter() as counter:
        flops = spent(call, lambda: counter.flops)
    seconds = {part: statistics.median(seen[part] for seen in calls) for part in flops}
    table = pandas.DataFrame(
        {
            "part": part,
            "ms": f"{seconds[part] * 1e3:.1f}",
            "share": f"{seconds[part] / seconds['all']:.0%}",
            "GFLOP": f"{flops[part] / 1e9:.2f}",
            "at the rate, ms": f"{flops[part] / rate * 1e3:.1f}",
        }
        for part in flops
    )
    title = f"{name}, P = {problem.theta.numel():,}, {str(dtype).removeprefix('torch.')}, {len(calls)} calls; "
    return f"{title}{rate / 1e9:.0f} GFLOP/s\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"


def main() -> None:
    """Print a table for each problem."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("problems", nargs="*", default=PROBLEMS, help="files in conf/problem")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=5, help="seconds for the calls of a problem; at least 3 calls")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.problems:
        print(shares(name, getattr(torch, asked.dtype), asked.budget), flush=True)


if __name__ == "__main__":
    main()
