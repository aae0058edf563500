"""Signals at random moments of a sweep, a report and a comparison; harnesses that write into one folder.

After each: no process is left, every finished record is whole, and resuming completes the sweep. After SIGINT, SIGTERM
and SIGHUP also no worktree and no temporary folder is left, and how to go on is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path

from harness import record
from tests.processes import ROOT, Program, start
from tests.reliability.cases import TINY, Case, run

ENDING = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
HEEDED = {name: number for name, number in ENDING.items() if name != "KILL"}
MOMENTS = 3  # of each signal
METHODS = "func_hessian", "create_graph_rows", "vmap_hvp", "naive_loop"
SWEEP = ("-m", "problem=rosenbrock", f"method={','.join(METHODS)}", "passes=[agreement]", *TINY[2:])
LONGEST_S = 300.0  # on a busy machine; else seconds


def _begun(folder: Path, *arguments: str, module: str = "harness") -> Program:
    """A program whose temporary files are in a folder of its own."""
    (folder / "tmp").mkdir(exist_ok=True)
    return start(*arguments, module=module, TMPDIR=str(folder / "tmp"))


def _wait_for(program: Program, folder: Path, pattern: str) -> None:
    """Wait until a folder holds a file, or the program has ended."""
    began = time.monotonic()
    while program.process.poll() is None and not list(folder.glob(pattern)):
        assert time.monotonic() - began < LONGEST_S, f"no {pattern}"
        time.sleep(0.005)


def _finished(run_folder: Path) -> Counter[str]:
    """How often each cell of a sweep has a record; all records are whole."""
    files = list(run_folder.rglob("record.json"))
    return Counter(record.read(file)["method"] for file in files)


def _ended(program: Program, folder: Path, number: int) -> str:
    """Wait for the end of a program that got a signal; what it printed as errors, without a traceback."""
    status, _, errors = program.end(LONGEST_S)
    assert status in (0, 128 + number, -number), (status, errors)  # 0: it was done
    assert program.survivors() == [], program.survivors()
    if number != signal.SIGKILL:
        assert "Traceback" not in errors, errors
        assert "Exception ignored" not in errors, errors
        left = [path for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor")]  # a cache
        assert not left, left
        assert not list(folder.rglob("*.tmp"))
        if status:
            began = list((folder / "run").glob("**/job.json"))
            assert not began or "harness: interrupted; the finished records are in" in errors, errors
    return errors


def _resumed(run_folder: Path) -> None:
    """Resuming completes a sweep: what was finished is kept, and each cell has one record."""
    run_folder.mkdir(exist_ok=True)
    kept = {file: file.read_bytes() for file in run_folder.glob("*/record.json")}
    done = run(*SWEEP, f"resume={run_folder}")
    assert done.returncode == 0, done.stderr
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert _finished(run_folder) == Counter(METHODS), _finished(run_folder)
    assert (run_folder / "report" / "report.json").exists()


def _harness(number: int, seed: int, folder: Path) -> None:
    """A signal at a random moment, every other time while the second cell or a later one is run."""
    moment = random.Random(f"{number} {seed}")
    program = _begun(folder, *SWEEP, f"output={folder / 'run'}")
    if seed % 2:
        _wait_for(program, folder / "run", "*/record.json")
    elif number != signal.SIGKILL:
        program.imports()
    time.sleep(moment.uniform(0, 3))
    program.process.send_signal(number)
    _ended(program, folder, number)
    _resumed(folder / "run")


def _harness_of_threads(number: int, folder: Path) -> None:
    program = _begun(folder, *SWEEP, "workers=2", f"output={folder / 'run'}")
    _wait_for(program, folder / "run", "*/job.json")
    time.sleep(random.Random(number).uniform(0, 3))
    program.process.send_signal(number)
    _ended(program, folder, number)
    _finished(folder / "run")


def _twice(first: int, second: int, folder: Path) -> None:
    """A second signal while the first is being heeded."""
    moment = random.Random(f"{first} {second}")
    program = _begun(folder, *SWEEP, f"output={folder / 'run'}")
    _wait_for(program, folder / "run", "*/job.json")
    time.sleep(moment.uniform(0, 3))
    program.process.send_signal(first)
    time.sleep(moment.uniform(0, 0.1))
    program.process.send_signal(second)
    _ended(program, folder, first)
    _finished(folder / "run")


def _below(number: int, depth: int, folder: Path) -> None:
    """The sweep goes on: each cell has a record, and a cell that the signal ended has a status that says so.

    The process at depth 0 is the keeper, its child is the server, and the server's child runs a pass.
    """
    moment = random.Random(f"{number} {depth}")
    program = _begun(folder, *SWEEP, f"output={folder / 'run'}")
    _wait_for(program, folder / "run", "*/job.json")
    time.sleep(moment.uniform(0, 2))
    while program.process.poll() is None:
        found = [program.process.pid]
        for _ in range(depth + 1):
            found = _children(found[0]) if found else []
        if found:
            os.kill(found[0], number)
            break
        time.sleep(0.001)
    status, _, errors = program.end(LONGEST_S)
    assert status == 0, errors
    assert program.survivors() == [], program.survivors()
    assert _finished(folder / "run") == Counter(METHODS), _finished(folder / "run")
    statuses = list(record.load(folder / "run")["status"])
    assert statuses.count("ok") >= len(METHODS) - 1, statuses


def _children(parent: int) -> list[int]:
    """Processes that a process has started and that run."""
    try:
        return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def _with_baseline(number: int, longest_s: float, folder: Path) -> None:
    """A signal so long after the worktree was begun, at most."""
    program = _begun(folder, *SWEEP, "baseline=git:HEAD", f"output={folder / 'run'}")
    _wait_for(program, folder, "tmp/harness-baseline-*")
    time.sleep(random.Random(number).uniform(0, longest_s))
    program.process.send_signal(number)
    _ended(program, folder, number)
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(folder) not in worktrees.stdout, worktrees.stdout
    _finished(folder / "run")


def _report(number: int, folder: Path) -> None:
    """The records stay, and the report can be written anew."""
    records = ROOT / "results" / "baselines" / "factored_lenet5.jsonl"
    program = _begun(folder, str(records), "--out", str(folder / "out"), module="harness.report")
    program.imports()
    time.sleep(random.Random(number).uniform(0, 4))
    program.process.send_signal(number)
    _ended(program, folder, number)
    done = run(str(records), "--out", str(folder / "out"), module="harness.report")
    assert done.returncode == 0, done.stderr


def _confirm(number: int, folder: Path) -> None:
    """Records that were added are whole, and comparing goes on with them."""
    cells = [folder / name for name in ("base", "candidate")]
    for cell in cells:
        assert run(*TINY, f"output={cell}").returncode == 0
    program = _begun(folder, *map(str, cells), "--confirm", "60", module="harness.compare")
    program.imports()
    time.sleep(random.Random(number).uniform(1, 6))
    program.process.send_signal(number)
    _ended(program, folder, number)
    assert all(_finished(cell) for cell in cells)
    done = run(*map(str, cells), module="harness.compare")
    assert done.returncode == 0, done.stdout + done.stderr


def _imports(module: str, arguments: tuple[str, ...], folder: Path) -> None:
    program = start(*arguments, module=module)
    assert program.imports()
    program.process.send_signal(signal.SIGINT)
    status, out, errors = program.end(LONGEST_S)
    assert status == 130, (status, errors)
    assert len((out + errors).splitlines()) <= 1, out + errors


def _four_at_once(folder: Path) -> None:
    """Harnesses that write into one folder lose nothing."""
    programs = [_begun(folder, *SWEEP, f"output={folder / 'run'}") for _ in range(4)]
    for program in programs:
        status, _, errors = program.end(LONGEST_S)
        assert status == 0, errors
        assert program.survivors() == [], program.survivors()
    assert _finished(folder / "run") == Counter(METHODS * 4), _finished(folder / "run")


# Programs that import for a second or more.
PROGRAMS = {
    "harness": TINY,
    "harness.report": ("results/baselines/methods.jsonl",),
    "harness.compare": ("results/baselines/methods.jsonl",) * 2,
    "harness.advise": ("problem=rosenbrock",),
}

CASES: dict[str, Case] = {
    **{
        f"SIG{name} to the harness, {seed}": partial(_harness, number, seed)
        for name, number in ENDING.items()
        for seed in range(MOMENTS)
    },
    **{f"SIG{name} while two cells run": partial(_harness_of_threads, number) for name, number in ENDING.items()},
    **{
        f"SIG{first} and SIG{second}": partial(_twice, HEEDED[first], HEEDED[second])
        for first, second in combinations_with_replacement(HEEDED, 2)
    },
    **{
        f"SIG{name} to the {process}": partial(_below, ENDING[name], depth)
        for name in ("KILL", "TERM", "INT")
        for depth, process in enumerate(("keeper", "server", "child"))
    },
    **{
        f"SIG{name} beside a baseline, {longest_s} s": partial(_with_baseline, number, longest_s)
        for name, number in HEEDED.items()
        for longest_s in (0.2, 5)
    },
    **{f"SIG{name} to a report": partial(_report, number) for name, number in ENDING.items()},
    **{f"SIG{name} to compare --confirm": partial(_confirm, number) for name, number in ENDING.items()},
    **{
        f"SIGINT while {module} imports": partial(_imports, module, arguments) for module, arguments in PROGRAMS.items()
    },
    "four harnesses in one folder": _four_at_once,
}
