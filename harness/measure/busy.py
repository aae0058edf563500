"""How long a GPU computes during a call, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity

from harness.measure.clock import raise_clocks

MOST_OPERATIONS = 100_000  # of a call that is traced: the events of more may take gigabytes of the CPU's memory


class Untraced(Exception):
    """A call is not traced; the text gives the reason."""


def busy_s(call: Callable[[], object], device: torch.device, operations: int | None) -> float:
    """Seconds in which a GPU computes or copies during one call; in the rest of the call's time it waits for the CPU.

    Events before and after the call do not show this, since the time between them has the same gaps. `operations` is
    the number of a call's operations, where it is known. The GPU first raises its clocks. The call is traced twice, and
    the second trace counts. Raises Untraced where a call is not traced.
    """
    if ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        raise Untraced("this build of torch cannot trace a GPU")
    if operations is not None and operations > MOST_OPERATIONS:
        raise Untraced(f"a call has {operations:,} operations; calls of more than {MOST_OPERATIONS:,} are not traced")
    raise_clocks(call, device)
    _traced_s(call, device)
    busy = _traced_s(call, device)
    if not busy:
        raise Untraced("torch's profiler saw no work on the GPU")
    return busy


def _traced_s(call: Callable[[], object], device: torch.device) -> float:
    """The seconds in which any kernel or copy runs during one call; 0 where the profiler sees none."""
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    on_gpu = (event for event in events if event.device_type() == DeviceType.CUDA and not event.is_user_annotation())
    busy_ns, until_ns = 0, 0
    for start_ns, end_ns in sorted((event.start_ns(), event.end_ns()) for event in on_gpu):
        busy_ns += max(0, end_ns - max(start_ns, until_ns))  # kernels of several streams may overlap
        until_ns = max(until_ns, end_ns)
    return busy_ns / 1e9
