"""Standard input, output and error that are closed, full, or whose reader is gone, for every program."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness import record
from tests.processes import ROOT, with_signals
from tests.reliability.cases import TINY, Case, command

# Records that are always there, and few.
RECORDS = "results/baselines/factored_lenet5.jsonl"

# What a shell does with the streams of a program, and whether the program is to report that with its own status.
FAULTS = {
    "read by nobody": ("| true", False),
    "read to its first line": ("| head -1", False),
    "full": ("> /dev/full", True),
    "standard error full": ("2> /dev/full", False),
    "both full": ("> /dev/full 2>&1", True),
    "closed": (">&-", False),
    "standard error closed": ("2>&-", False),
    "all closed": ("<&- >&- 2>&-", False),
    "read-only": ("1< /dev/null", True),
    "standard error gone": ("2>&1 >/dev/null | true", False),
}


def faulty(fault: str, arguments: Sequence[str]) -> int:
    """Run a command by a shell, with its streams in some fault; its exit status."""
    line = f"{shlex.join(arguments)} {FAULTS[fault][0]}"
    shell = ["bash", "-c", f'{line}\nexit "${{PIPESTATUS[0]}}"']
    return subprocess.run(
        shell, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=with_signals(), timeout=300
    ).returncode


def _expected(fault: str, status: int) -> int:
    return status or (os.EX_IOERR if FAULTS[fault][1] else 0)


def _same_status(module: str, arguments: Sequence[str], status: int, fault: str, folder: Path) -> None:
    """The program ends as it does without the fault."""
    found = faulty(fault, command(*arguments, module=module))
    assert found == _expected(fault, status), found


def _report(fault: str, folder: Path) -> None:
    found = faulty(fault, command(RECORDS, "--out", str(folder / "out"), module="harness.report"))
    assert found == _expected(fault, 0), found
    assert (folder / "out" / "report.json").stat().st_size, "the last of its files"


def _compare(fault: str, folder: Path) -> None:
    files = folder / "verdict.md", folder / "verdict.xml"
    arguments = [RECORDS, RECORDS, "--markdown", str(files[0]), "--junit", str(files[1])]
    found = faulty(fault, command(*arguments, module="harness.compare"))
    assert found == 2, found  # the same records are no comparison
    assert all(file.stat().st_size for file in files)


def _regression(fault: str, folder: Path) -> None:
    """A regression stays one whatever cannot be printed."""
    seen = next(entry for entry in record.records(ROOT / RECORDS) if entry["status"] == "ok")
    for name, status in (("base", "ok"), ("candidate", "error")):
        record.write(seen | {"status": status, "cell_s": len(name)}, folder / name / "cell" / "record.json")
    found = faulty(fault, command(str(folder / "base"), str(folder / "candidate"), module="harness.compare"))
    assert found == 1, found


def _cell(fault: str, folder: Path) -> None:
    found = faulty(fault, command(*TINY, f"output={folder / 'run'}"))
    assert found == _expected(fault, 0), found
    assert list(record.load(folder / "run")["status"]) == ["ok"]


def _sweep(fault: str, folder: Path) -> None:
    arguments = ["-m", *TINY[:1], "method=func_hessian,create_graph_rows", *TINY[2:], f"output={folder / 'run'}"]
    found = faulty(fault, command(*arguments, f"baseline={RECORDS}"))
    assert found == _expected(fault, 2), found  # nothing of it is in the baseline
    assert list(record.load(folder / "run")["status"]) == ["ok", "ok"]
    assert (folder / "run" / "verdict.xml").stat().st_size
    assert (folder / "run" / "report" / "report.json").stat().st_size


def _waits_for_its_reader(arguments: Sequence[str], module: str, files: Sequence[str], folder: Path) -> None:
    """The program's files are there before the reader of its standard output has read anything."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(2**12))
    os.set_blocking(writing, True)
    line = [argument.format(folder=folder) for argument in arguments]
    program = subprocess.Popen(
        command(*line, module=module), cwd=ROOT, stdout=writing, stderr=subprocess.DEVNULL, preexec_fn=with_signals()
    )
    os.close(writing)
    try:
        began = time.monotonic()
        while not all((folder / file).exists() for file in files):
            assert program.poll() is None, program.returncode
            assert time.monotonic() - began < 300, [str(path) for path in folder.rglob("*")]
            time.sleep(0.05)
        assert program.poll() is None, "it did not print"
    finally:
        os.close(reading)
        program.wait(timeout=300)


SWEEP = ("-m", *TINY, f"baseline={RECORDS}", "output={folder}")
VERDICTS = ("verdict.md", "verdict.xml")

# Programs that write files and print: their arguments, their module and their files.
WRITING = {
    "a cell with a baseline": (SWEEP[1:], "harness", VERDICTS),
    "a sweep with a baseline": (SWEEP, "harness", ("report/report.json", *VERDICTS)),
    "a report": ((RECORDS, "--out", "{folder}"), "harness.report", ("report.json",)),
    "a comparison": ((RECORDS, RECORDS, "--markdown", "{folder}/verdict.md"), "harness.compare", VERDICTS[:1]),
}

# Arguments of the programs that only print, and their exit status.
PRINTING = {
    "harness": (["--help"], 0),
    "harness.report": ([RECORDS], 0),
    "harness.record": ([RECORDS], 0),
    "harness.findings": ([RECORDS], 0),
    "harness.reproduce": (["no/such/record"], 2),
    "harness.compare": (["no/such/record", RECORDS], 3),
    "harness.advise": (["no_such_key=1"], 2),
}


def _attempts() -> dict[str, Case]:
    checks: dict[str, Callable[[str, Path], None]] = {
        "a cell": _cell,
        "a sweep with a baseline": _sweep,
        "a report": _report,
        "a comparison": _compare,
        "a regression": _regression,
    }
    checks |= {
        f"{module} {' '.join(arguments)}": partial(_same_status, module, arguments, status)
        for module, (arguments, status) in PRINTING.items()
    }
    return {f"{what}, {fault}": partial(check, fault) for what, check in checks.items() for fault in FAULTS}


CASES: dict[str, Case] = _attempts() | {
    f"{what}, read late": partial(_waits_for_its_reader, *program) for what, program in WRITING.items()
}
