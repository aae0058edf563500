"""Disks that are full, without inodes or read-only. Attempts that need a disk of their own mount one, as root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from subprocess import CompletedProcess

from harness import record
from harness.run.folders import MARK
from tests.reliability.cases import ROOT, TINY, Case, run

CLONE_NEWNS = 0x20000  # unshare(2)
LIMIT_S = 300  # of a run, on a machine under load
RECORDS = ROOT / "results" / "baselines" / "quick.jsonl"


@cache
def have_own_mounts() -> None:
    """Give this process mounts of its own, which the kernel unmounts at its end, however that comes."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        raise OSError("no mount namespace can be made")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, mounted with these options, at a new folder; unmounted on leaving."""
    have_own_mounts()
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """Give a mounted file system other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that leaves no room on a file system."""
    path = place / "filler"
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return path


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder), "size=4k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def ended_in_a_line(ended: CompletedProcess[str], place: Path, status: int) -> None:
    """Assert that a program ended with one line that names a place, and with an exit status."""
    lines = [line for line in ended.stderr.splitlines() if not line[:1].isdigit()]  # of the progress
    assert len(lines) == 1, ended.stderr
    assert str(place) in lines[0], lines[0]
    assert "space" in lines[0] or "Read-only" in lines[0], lines[0]
    assert ended.returncode == status, f"exit status {ended.returncode}: {ended.stderr}"


def holds_no_debris(folder: Path) -> None:
    """Assert that no temporary file is left."""
    hidden = [path for path in folder.rglob(".*") if path.name != MARK]
    left = [*hidden, *folder.rglob("*.tmp")]
    assert not left, f"left: {left}"


def a_cell(folder: Path, options: str) -> None:
    with disk(folder, options) as place:
        ended_in_a_line(run(*TINY, f"output={place / 'run'}", timeout_s=LIMIT_S), place, 1)
        assert not list(place.rglob("record.json")), "a record was left"
        holds_no_debris(place)


def a_sweep_that_is_resumed(folder: Path) -> None:
    with disk(folder, "size=40k") as place:
        cells = ("-m", *TINY, "seed=1,2,3,4")
        ended_in_a_line(run(*cells, f"output={place / 'run'}", timeout_s=LIMIT_S), place / "run", 1)
        holds_no_debris(place)
        remount(place, "size=40m")
        resumed = run(*cells, f"resume={place / 'run'}", timeout_s=LIMIT_S)
        assert resumed.returncode == 0, resumed.stderr
        statuses = record.load(place / "run")["status"].tolist()
        assert statuses == 4 * ["ok"], statuses


def a_sweep_beside_a_baseline(folder: Path) -> None:
    with disk(folder, "size=24k") as place:
        ended = run("-m", *TINY, "seed=1,2,3", f"baseline={RECORDS}", f"output={place / 'run'}", timeout_s=LIMIT_S)
        ended_in_a_line(ended, place, 3)


def the_references(folder: Path) -> None:
    cell = ("problem=mlp", "method=vmap_hvp", "measure.budget_s=0.01", f"output={folder / 'run'}")
    with disk(folder, "size=64k") as place:
        ended_in_a_line(run(*cell, env={"TMPDIR": str(place)}, timeout_s=LIMIT_S), place, 1)
        assert not list((folder / "run").rglob("record.json")), "a record was left"
    resumed = run(*cell[:-1], f"resume={folder / 'run'}", timeout_s=LIMIT_S)
    assert resumed.returncode == 0, resumed.stderr


def read_only(folder: Path) -> None:
    with disk(folder, "size=40m") as place:
        assert run("-m", *TINY, "seed=1,2", f"output={place / 'run'}", timeout_s=LIMIT_S).returncode == 0
        remount(place, "ro")
        ended = run("-m", *TINY, "seed=1,2,3", f"resume={place / 'run'}", timeout_s=LIMIT_S)
        ended_in_a_line(ended, place / "run", 1)
        ended = run(str(place / "run"), "--out", str(place / "out"), module="harness.report", timeout_s=LIMIT_S)
        ended_in_a_line(ended, place / "out", 2)


def the_report(folder: Path) -> None:
    report = partial(run, str(RECORDS), "--out", module="harness.report", timeout_s=LIMIT_S)
    with disk(folder, "size=100m") as place:
        out = place / "out"
        assert report(str(out)).returncode == 0
        before = {path: path.read_bytes() for path in out.iterdir()}
        fill(place)
        with (place / "filler").open("r+b") as filler:
            filler.truncate((place / "filler").stat().st_size - 300_000)  # the texts have room, but not the figures
        ended_in_a_line(report(str(out)), out, 2)
        assert {path: path.read_bytes() for path in out.iterdir()} == before, "the report that was there has changed"


def the_verdict(folder: Path) -> None:
    with disk(folder, "size=8k") as place:
        file = place / "verdict.md"
        fill(place)
        compared = (str(RECORDS), str(RECORDS), "--markdown", str(file))
        ended_in_a_line(run(*compared, module="harness.compare", timeout_s=LIMIT_S), file, 3)
        assert not file.exists(), "half a file"


MOUNTING: dict[str, Case] = {
    "room for nothing": partial(a_cell, options="size=4k"),
    "room for the job": partial(a_cell, options="size=12k"),
    "no inodes": partial(a_cell, options="size=1m,nr_inodes=5"),
    "a sweep that is resumed": a_sweep_that_is_resumed,
    "beside a baseline": a_sweep_beside_a_baseline,
    "the references": the_references,
    "read-only": read_only,
    "the report": the_report,
    "the verdict": the_verdict,
}
CASES: dict[str, Case] = MOUNTING if can_mount() else {}
