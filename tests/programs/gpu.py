"""What a GPU does with the methods, in 25 minutes: `python -m tests.programs.gpu [FOLDER] [--device cuda:N]`.

SWEEPS are run one after another, each into a folder of its own within FOLDER (by default results/runs/gpu). A sweep
that takes longer than its minutes is interrupted; its finished cells count. The same command goes on where it ended.
Then FOLDER holds `summary.md` and the folder `report`, made of all records. Ends with 1 where the first sweep fails, or
a result is wrong on which results/findings.md says nothing, and with 2 where torch sees no such GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pandas import DataFrame, Series

from harness import findings, record

ROOT = Path(__file__).parent.parent.parent
# Methods that need no other library, no compiler, and no backward pass for each entry.
OWN = "glob(*,exclude=[jax*,asdl,laplace,backpack,curvlinops,hessian_eigenthings,double*,naive*,*_compiled])"
USUAL = "create_graph_rows,batched_rows,func_hessian,jacfwd_grad,vmap_hvp,vmap_hvp_auto,vmap_hvp_reverse,factored"
SIZES = "mlp_500,mlp_2000,mlp_8000,cnn_2000,transformer_2000"
ON_CPU = f"device=cpu threads={os.cpu_count()}"


@dataclass(frozen=True)
class Sweep:
    """A question, and the arguments of the harness that answer it."""

    question: str
    minutes: float
    arguments: str


SWEEPS = {
    "smoke": Sweep("does it run at all?", 2, "method=vmap_hvp passes=[time,exact,agreement]"),
    "agreement": Sweep(
        "is every method right?",
        4,
        f"-m problem=mlp,mlp_layernorm,cnn,transformer method={OWN} dtype=float64 passes=[agreement] workers=6",
    ),
    "methods": Sweep(
        "which method is fastest?",
        8,
        f"-m problem={SIZES} method={USUAL} passes=[time,exact,agreement] measure.budget_s=0.5 limit_s=60",
    ),
    "cpu": Sweep(
        "and on this machine's CPU?",
        3,
        f"-m problem=mlp_2000,mlp_8000 method=factored,func_hessian,vmap_hvp passes=[time] {ON_CPU}",
    ),
    "large": Sweep(
        "what about large networks?",
        3,
        "-m problem=mlp_20000,lenet5 method=factored,batched_rows passes=[time,exact] measure.min_samples=1 limit_s=60",
    ),
    "intervals": Sweep(
        "how much do processes differ?",
        3,
        "-m problem=mlp_8000 method=factored,vmap_hvp,func_hessian passes=[time] rounds=5",
    ),
    "chunks": Sweep("which chunk size?", 2, "+sweep=chunks threads=1 rounds=1 measure.budget_s=0.5"),
}


def main() -> int:
    """Run all sweeps, and write the summary and the report; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.programs.gpu", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "results" / "runs" / "gpu")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--only", choices=SWEEPS, nargs="+", default=list(SWEEPS), help="some of the sweeps")
    asked = parser.parse_args()
    if not re.fullmatch(r"cuda(:\d+)?", asked.device):
        parser.error(f"--device {asked.device}: give cuda or cuda:N")
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU; install a CUDA build of torch and a driver", file=sys.stderr)
        return 2
    if int(asked.device.partition(":")[2] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {asked.device}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs")
    lines = []
    for name in asked.only:
        began = time.monotonic()
        _run(SWEEPS[name], asked.folder / name, asked.device)
        frame = _records(asked.folder / name)
        lines.append(_line(name, frame, time.monotonic() - began))
        print(lines[-1], flush=True)
        if name == "smoke" and not _is_ok(frame):
            print("the first sweep failed; the others are not run", file=sys.stderr)
            return 1
    everything = _records(asked.folder)
    if not len(everything):
        print(f"{asked.folder} holds no record", file=sys.stderr)
        return 2
    (asked.folder / "summary.md").write_text(_summary(everything, lines))
    report = [sys.executable, "-m", "harness.report", str(asked.folder), "--out", str(asked.folder / "report")]
    written = subprocess.run(report, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    print(f"summary, {'report ' if written else ''}and records: {asked.folder}")
    return int(not written or bool(_unexpected(everything).any()))


def _run(sweep: Sweep, folder: Path, device: str) -> None:
    """Run a sweep into its folder, for its minutes at most; what the folder holds already is not run again."""
    place = f"resume={folder}" if folder.is_dir() else f"output={folder}"
    on = [] if "device=cpu" in sweep.arguments else [f"device={device}"]
    process = subprocess.Popen([sys.executable, "-m", "harness", *sweep.arguments.split(), *on, place], cwd=ROOT)
    try:
        process.wait(60 * sweep.minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()


def _records(folder: Path) -> DataFrame:
    """The records of a folder; none where it holds none."""
    try:
        return record.load(folder)
    except record.RecordError:
        return DataFrame({"status": []})


def _is_ok(frame: DataFrame) -> bool:
    return len(frame) > 0 and bool(frame["status"].eq("ok").all())


def _unexpected(frame: DataFrame) -> Series:
    """Whether each record has a wrong result of a method on which the findings say nothing."""
    found = {finding["target"].rpartition(".")[0] for finding in json.loads(findings.FILE.read_text())}
    known = frame["target"].fillna("").str.rpartition(".")[0].isin(found)
    return frame["status"].isin(["wrong", "nonfinite"]) & ~known


def _line(name: str, frame: DataFrame, lasted_s: float) -> str:
    """A row of the table of sweeps."""
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    sweep = SWEEPS[name]
    late = ", interrupted" if lasted_s >= 60 * sweep.minutes else ""
    return f"| {name} | {sweep.question} | {counts or 'no record'}{late} | {lasted_s / 60:.1f} |"


def _summary(frame: DataFrame, lines: list[str]) -> str:
    """Markdown: the machine, the sweeps of this call, and every cell of the folder that is not ok."""
    on_gpu = frame[frame["gpu"].notna()]
    seen = (on_gpu if len(on_gpu) else frame).iloc[0]
    machine = f"{seen['gpu'] or 'no GPU'}, torch {seen['torch']}, CUDA {seen['cuda']}, driver {seen['driver']}"
    rows = ["# The methods on a GPU", "", f"{machine}; CPU: {seen['cpu']}.", ""]
    rows += ["| sweep | question | benchmark cells | minutes |", "|---|---|---|---|", *lines, ""]
    failed = frame[frame["status"] != "ok"]
    if len(failed):
        rows += ["| problem | P | method | status | message |", "|---|---|---|---|---|"]
        rows += [
            f"| {cell['problem']} | {cell['params']:.0f} | {cell['label']} | {cell['status']} | "
            f"{str(cell['message'])[:160].replace('|', '/')} |"
            for cell in failed.to_dict("records")
        ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
