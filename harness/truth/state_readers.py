"""Readers of the state of a process that a call could change and must not: one small function for each part of it.

Left out is what libraries set by themselves on first use, such as filters for their own warnings.
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
from collections.abc import Callable, Mapping
from typing import Any

import torch

from harness.measure import counters

TIMERS = {"alarm": signal.ITIMER_REAL, "virtual timer": signal.ITIMER_VIRTUAL, "profiling timer": signal.ITIMER_PROF}
WITH_THREADS = ("tqdm.", "torch.", "jax.", "jaxlib.")  # libraries that start threads of their own
NEEDED_FRAMES = 1000  # recursion depth that the harness still needs
SWITCHES = (  # of torch.backends
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.deterministic",
    "cudnn.allow_tf32",
    "mkldnn.enabled",
    "mkldnn.deterministic",
    "opt_einsum.enabled",
    "opt_einsum.strategy",
    "cuda.matmul.allow_tf32",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
)


def _umask() -> str:
    mask = os.umask(0o022)
    os.umask(mask)
    return oct(mask)


def _flushes_denormal() -> bool:
    tiny = 1e-310  # denormal in float64; the product is zero where the processor flushes such numbers
    return tiny * 1.0 == 0.0


def _filters_for_all() -> list[tuple[str, str]]:
    """The warnings filters that match every message of every module. A library's own filters are narrower."""
    return [
        (action, kind.__name__)
        for action, text, kind, module, _ in warnings.filters
        if text is None and module is None and kind in (Warning, UserWarning, RuntimeWarning)
    ]


def _threads() -> dict[str, bool]:
    """Python's threads, without those that a library keeps for itself.

    - A library's threads are known by the module of the function that they run.
    - The pool in which torch.compile compiles is left out where there is compiled code.
    - A thread that Python did not start, such as autograd's for a GPU, is a dummy thread once a hook has run in it.
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
    """The environment variables, without those that torch.compile sets.

    Values are in tuples, since a message must not show them.
    """
    own = {name: value for name, value in os.environ.items() if "TORCHINDUCTOR" not in name and "TRITON" not in name}
    return {f"the environment variable {name}": (value,) for name, value in own.items()}


def _streams() -> dict[str, Any]:
    """Python's standard streams, and the files behind the first three descriptors."""
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
    """Torch's switches for its libraries. Each is read alone, since some raise where old and new ones are mixed."""
    kernels = ("flash", "mem_efficient", "math", "cudnn")
    seen = {f"{kernel} attention": getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in kernels}
    readers = {name: operator.attrgetter(name) for name in SWITCHES}
    return seen | {
        f"torch.backends.{name}": value_or_error(lambda reader=reader: reader(torch.backends))
        for name, reader in readers.items()
    }


def _global_hooks() -> dict[str, Any]:
    module = torch.nn.modules.module
    return {
        f"torch's {name.removeprefix('_')}": tuple(map(id, getattr(module, name).values()))
        for name in dir(module)
        if name.startswith("_global") and name.endswith("hooks")
    }


def _numpy_state() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return {}
    name, keys, *rest = numpy.random.get_state()
    return {"numpy's random state": (name, keys.tobytes(), *rest), "numpy's error handling": numpy.geterr()}


def _gpus() -> dict[str, Any]:
    """The random states of the GPUs. Reading them must not start CUDA where it is not in use."""
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    return {f"the random number generator of cuda:{index}": torch.cuda.get_rng_state(index) for index in range(count)}


# These parts can hinder reading, and so are read first.
HINDRANCES: dict[str, Callable[[], Any]] = {
    "the recursion limit": lambda: min(sys.getrecursionlimit(), NEEDED_FRAMES),  # torch.compile raises it
    "the umask": _umask,
    **{f"a pending {name}": lambda timer=timer: signal.getitimer(timer)[0] > 0 for name, timer in TIMERS.items()},
    "the number of torch function modes": torch._C._len_torch_function_stack,
    "the number of torch dispatch modes": torch._C._len_torch_dispatch_stack,
    "the default device": torch.get_default_device,  # a mode too
}

SINGLE_PARTS: dict[str, Callable[[], Any]] = {
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

SEVERAL_PARTS: tuple[Callable[[], Mapping[str, Any]], ...] = (
    _autocast,
    _backends,
    _gpus,
    _global_hooks,
    _handlers,
    _streams,
    _resource_limits,
)

# Importing a library may set these parts, so they are read again once the method's module is imported.
SET_ON_IMPORT: tuple[Callable[[], Mapping[str, Any]], ...] = (
    lambda: {"warnings.filters": _filters_for_all()},
    _environment,
    lambda: {"sys.path": [entry for entry in sys.path if "-packages" not in entry]},  # setuptools adds one there
    _threads,
    _numpy_state,
)


def value_or_error(reader: Callable[[], Any]) -> Any:
    """What a reader returns; the type of its error, as text, where it raises."""
    try:
        return reader()
    except BaseException as error:  # whatever is wrong, it is a value that differs from the one before
        return f"cannot be read: {type(error).__name__}"
