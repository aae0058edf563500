"""The machine's fields, and how long threads wait for a processor."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from harness.measure import environment


def test_the_fields_of_one_cell_do_not_reach_another(tmp_path) -> None:
    before = dict(environment.machine())
    environment.describe("cpu", str(tmp_path))
    assert environment.machine() == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_a_thread_that_shares_its_processor_waits() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    spin = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", spin])
    try:
        before, began = environment.threads_waiting_s(), time.monotonic()
        while time.monotonic() < began + 0.5:
            pass
        after = environment.threads_waiting_s()
    finally:
        neighbour.kill()
        neighbour.wait()
        os.sched_setaffinity(0, cores)
    assert 0.1 < max((after - before).values()) < 0.6


@pytest.mark.parametrize("files", [OSError, ["no such file"]])
def test_where_the_system_counts_no_waiting_it_is_unknown(monkeypatch, files) -> None:
    def scandir(path: str) -> list[SimpleNamespace]:
        if files is OSError:
            raise OSError
        return [SimpleNamespace(path=f"{path}/{name}") for name in files]

    monkeypatch.setattr(environment.os, "scandir", scandir)
    assert environment.threads_waiting_s() is None
