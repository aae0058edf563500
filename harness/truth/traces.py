"""The state of a process that a call could change and must not: one small reader for each part of it.

Read before and after, what differs is a trace, under the reader's name. Left out is what libraries set by themselves on
first use, such as filters for their own warnings. Not seen: memory that is kept, files, child processes, and whatever
is changed and put back within the call.
"""

from __future__ import annotations

import gc
import logging
import operator
import os
import random
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from harness.measure import counters

TIMERS = {"alarm": signal.ITIMER_REAL, "virtual timer": signal.ITIMER_VIRTUAL, "profiling timer": signal.ITIMER_PROF}
WITH_THREADS = ("tqdm.", "torch.", "jax.", "jaxlib.")  # libraries that start threads of their own
SWITCHES = (
    *(f"cudnn.{name}" for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    *(f"mkldnn.{name}" for name in ("enabled", "deterministic")),
    *(f"opt_einsum.{name}" for name in ("enabled", "strategy")),
    *(
        f"cuda.matmul.{name}"
        for name in ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    ),
    *("fp32_precision", "cuda.matmul.fp32_precision"),
    *(f"cudnn.{kind}fp32_precision" for kind in ("", "conv.", "rnn.")),
    *(f"mkldnn.{kind}fp32_precision" for kind in ("", "matmul.", "conv.", "rnn.")),
)  # of torch.backends
ENOUGH = 1000  # frames, for what the harness still has to do


def _umask() -> str:
    mask = os.umask(0o022)
    os.umask(mask)
    return oct(mask)


def _flushes_denormal() -> bool:
    tiny = 1e-310  # denormal in float64; the product is zero where the processor flushes such numbers
    return tiny * 1.0 == 0.0


def _filters_for_all() -> list[tuple[str, str]]:
    """The warnings filters that match every message of every module: a library's own are narrower."""
    return [
        (action, kind.__name__)
        for action, text, kind, module, _ in warnings.filters
        if text is None and module is None and kind in (Warning, UserWarning, RuntimeWarning)
    ]


def _threads() -> dict[str, bool]:
    """Python's threads but for those that a library keeps for itself, known by the module of what they run.

    The pool in which torch.compile compiles is known by there being compiled code only. A thread that Python did not
    start, such as autograd's for a GPU, is there for Python once a hook has run in it.
    """
    threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    if counters.compilation():
        threads = [thread for thread in threads if not thread.name.startswith("ThreadPoolExecutor")]
    runs = {thread.name: getattr(thread, "_target", None) or type(thread) for thread in threads}
    modules = {name: str(getattr(run, "__module__", None)) for name, run in runs.items()}
    return {f"the thread {name}": True for name, module in modules.items() if not module.startswith(WITH_THREADS)}


def _handlers() -> dict[str, Any]:
    return {f"the handler of {number.name}": (signal.getsignal(number),) for number in signal.Signals}


def _environment() -> dict[str, Any]:
    """The environment, but for what torch.compile sets; values in a tuple, since a message must not show them."""
    own = {name: value for name, value in os.environ.items() if "TORCHINDUCTOR" not in name and "TRITON" not in name}
    return {f"the environment variable {name}": (value,) for name, value in own.items()}


def _streams() -> dict[str, Any]:
    """Python's streams, and what the first three descriptors lead to."""
    seen: dict[str, Any] = {}
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        seen[f"sys.{name}"] = (id(stream), getattr(stream, "closed", None))
        try:
            status = os.fstat(number)
            seen[f"the descriptor {number}"] = (status.st_dev, status.st_ino)
        except OSError:
            seen[f"the descriptor {number}"] = "closed"
    return seen


def _resource_limits() -> dict[str, Any]:
    return {
        f"the limit {name}": resource.getrlimit(getattr(resource, name))
        for name in dir(resource)
        if name.startswith("RLIMIT_")
    }


def _autocast() -> dict[str, Any]:
    kinds = ("cpu", "cuda")
    seen: dict[str, Any] = {f"autocast on {kind}": torch.is_autocast_enabled(kind) for kind in kinds}
    seen |= {f"the autocast dtype on {kind}": torch.get_autocast_dtype(kind) for kind in kinds}
    return seen | {"the autocast cache": torch.is_autocast_cache_enabled()}


def _backends() -> dict[str, Any]:
    """Torch's switches for its libraries, each read alone: where old and new ones are mixed, some raise."""
    kernels = ("flash", "mem_efficient", "math", "cudnn")
    seen = {f"{kernel} attention": getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in kernels}
    readers = {name: operator.attrgetter(name) for name in SWITCHES}
    return seen | {
        f"torch.backends.{name}": _tried(lambda reader=reader: reader(torch.backends))
        for name, reader in readers.items()
    }


def _global_hooks() -> dict[str, Any]:
    module = torch.nn.modules.module
    return {
        f"torch's {name.removeprefix('_')}": tuple(map(id, getattr(module, name).values()))
        for name in dir(module)
        if name.startswith("_global") and name.endswith("hooks")
    }


def _numpy() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return {}
    name, keys, *rest = numpy.random.get_state()
    return {"numpy's random state": (name, keys.tobytes(), *rest), "numpy's error handling": numpy.geterr()}


def _gpus() -> dict[str, Any]:
    """Random states, where CUDA is in use: asking must not start it."""
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    return {f"the random number generator of cuda:{index}": torch.cuda.get_rng_state(index) for index in range(count)}


# What hinders reading, and so is read first.
PERILS: dict[str, Callable[[], Any]] = {
    "the recursion limit": lambda: min(sys.getrecursionlimit(), ENOUGH),  # torch.compile raises it
    "the umask": _umask,
    **{f"a pending {name}": lambda timer=timer: signal.getitimer(timer)[0] > 0 for name, timer in TIMERS.items()},
    "the number of torch function modes": torch._C._len_torch_function_stack,
    "the number of torch dispatch modes": torch._C._len_torch_dispatch_stack,
    "the default device": torch.get_default_device,  # a mode too
}

SINGLE: dict[str, Callable[[], Any]] = {
    # Torch
    "the global random number generator": torch.get_rng_state,
    "the default dtype": torch.get_default_dtype,
    "the number of threads": torch.get_num_threads,
    "the number of interoperator threads": torch.get_num_interop_threads,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "anomaly detection": torch.is_anomaly_enabled,
    "anomaly detection of NaN": torch.is_anomaly_check_nan_enabled,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic algorithms, warnings only": torch.is_deterministic_algorithms_warn_only_enabled,
    "filling of uninitialised memory": lambda: torch.utils.deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
    "the precision of float32 products": torch.get_float32_matmul_precision,
    "multithreaded backward": torch.autograd.is_multithreading_enabled,
    "flushing of denormal numbers": _flushes_denormal,
    "the level of torch.func's transforms": torch._C._functorch.maybe_current_level,  # pyright: ignore[reportAttributeAccessIssue]
    "the level of forward-mode differentiation": lambda: torch.autograd.forward_ad._current_level,
    "hooks for saved tensors": lambda: torch._C._autograd._top_saved_tensors_default_hooks(False),  # pyright: ignore[reportAttributeAccessIssue]
    "the fast path of attention": torch.backends.mha.get_fastpath_enabled,
    # Python
    "Python's random state": random.getstate,
    "garbage collection": gc.isenabled,
    "the thresholds of garbage collection": gc.get_threshold,
    "the debugging flags of garbage collection": gc.get_debug,
    "sys.settrace": sys.gettrace,
    "sys.setprofile": sys.getprofile,
    "the switch interval": sys.getswitchinterval,
    "sys.argv": lambda: list(sys.argv),
    "logging.disable": lambda: logging.root.manager.disable,
    # The system's
    "the working directory": os.getcwd,
    "the nice value": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "the process group": lambda: os.getpgid(0),
    "the session": lambda: os.getsid(0),
    "the processors it may use": lambda: sorted(os.sched_getaffinity(0)),
}

SEVERAL: tuple[Callable[[], Mapping[str, Any]], ...] = (
    _autocast,
    _backends,
    _gpus,
    _global_hooks,
    _handlers,
    _streams,
    _resource_limits,
)

# What importing a library may set for itself, so that it is read again once the method's module is there.
SET_ON_IMPORT: tuple[Callable[[], Mapping[str, Any]], ...] = (
    lambda: {"warnings.filters": _filters_for_all()},
    _environment,
    lambda: {"sys.path": [entry for entry in sys.path if "-packages" not in entry]},  # setuptools adds one there
    _threads,
    _numpy,
)


def read(importing: bool = True) -> dict[str, Any]:
    """Every part of the state by its name; with `importing=False` only what an import may have set.

    A part that cannot be read, such as a working directory that is gone, has the reason for its value.
    """
    singles = PERILS | SINGLE if importing else {}
    seen = {name: _tried(reader) for name, reader in singles.items()}
    for reader in (*SEVERAL, *SET_ON_IMPORT) if importing else SET_ON_IMPORT:
        found = _tried(reader)
        seen |= found if isinstance(found, dict) else {getattr(reader, "__name__", "state").strip("_"): found}
    return seen


def read_after() -> dict[str, Any]:
    """What `read` gives, taken after a call that may have made reading itself dangerous."""
    perils = {name: _tried(reader) for name, reader in PERILS.items()}
    settle()
    with unhindered():
        return read() | perils


@contextmanager
def unhindered() -> Iterator[None]:
    """Torch without the modes that a method has left on, whose code would run instead."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def settle() -> None:
    """Undo what could keep the harness from writing the record: a low recursion limit, a umask, a pending alarm."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), ENOUGH))
    os.umask(0o022)
    for timer in TIMERS.values():
        signal.setitimer(timer, 0)


def _tried(reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except BaseException as error:  # whatever is wrong, it is a value that differs from the one before
        return f"cannot be read: {type(error).__name__}"
