"""The state of a GPU, from a pretended library of the driver; the real one where there is a GPU. Waiting threads."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from harness.measure import environment

DEVICE = torch.device("cuda", 0)


class PretendedNVML:
    """The functions of pynvml that are used, for a GPU that throttles for power and may lack values."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self, lacks: tuple[str, ...] = ()) -> None:
        self.lacks = lacks
        self.open = 0

    def _require(self, name: str) -> None:
        assert self.open or name == "driver", "asked before the library was started"
        if name in self.lacks:
            raise self.NVMLError

    def nvmlInit(self) -> None:
        self._require("driver")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.04"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._require(uuid)
        return uuid

    def nvmlDeviceGetClockInfo(self, gpu: str, domain: int) -> int:
        assert gpu == "GPU-1234"
        self._require("clocks")
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[domain]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:
        self._require("reasons")
        return 0xC


@pytest.mark.parametrize(
    ("lacks", "state", "driver"),
    [
        ((), "1980 MHz, 2619 MHz, 0x000000000000000C", "580.159.04"),
        (("reasons",), "1980 MHz, 2619 MHz, [N/A]", "580.159.04"),
        (("clocks",), "[N/A], [N/A], 0x000000000000000C", "580.159.04"),
        (("GPU-1234",), None, "580.159.04"),
        (("driver",), None, None),
    ],
)
def test_the_state_of_a_gpu_has_the_form_of_nvidia_smi(monkeypatch, lacks, state, driver) -> None:
    nvml = PretendedNVML(lacks)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    assert environment.clocks_and_throttling(DEVICE) == state
    assert environment.driver_version() == driver
    assert nvml.open == 0


def test_an_interpreter_without_the_library_is_served(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment.driver_version() is None


def test_the_functions_that_are_used_are_there() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in vars(PretendedNVML):
        assert name.startswith("_") or hasattr(pynvml, name), name


@pytest.mark.cuda
def test_the_state_of_a_real_gpu() -> None:
    assert re.fullmatch(r"\d+ MHz, \d+ MHz, 0x[0-9A-F]{16}", str(environment.clocks_and_throttling(DEVICE)))
    assert re.fullmatch(r"[\d.]+", str(environment.driver_version()))


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
