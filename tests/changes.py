"""Changes of a process's state, each in a fork of its own: `python -m tests.changes` prints what is found of each.

In a process apart, since pytest's own may have threads by then.
"""

import _thread
import gc
import importlib
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings

import numpy
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.run import worker
from harness.truth import process_state
from harness.truth.side_effects import changes


def in_child(change, then=lambda: None) -> list[str]:
    """Names of the traces that a change leaves, in a fork, which keeps them to itself."""
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = process_state.read()
            change()
            after = process_state.read_after()
            with process_state.unhindered():
                found = changes(before, after)
            then()
            os.write(told, json.dumps(found).encode())
        except BaseException:
            os.write(told, json.dumps([traceback.format_exc()]).encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(done) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text)


def into_a_folder_that_is_gone() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)  # noqa: PTH106


class Mode(torch.overrides.TorchFunctionMode):
    """A mode under which every function of torch raises."""

    def __torch_function__(self, *_):
        raise NotImplementedError


class Dispatch(TorchDispatchMode):
    """The same for its operators."""

    def __torch_dispatch__(self, *_):
        raise NotImplementedError


KEPT = []  # contexts that were entered: they end with their object


def enter(context) -> None:
    KEPT.append(context)
    context.__enter__()


CHANGES = {
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the number of torch function modes": lambda: enter(Mode()),
    "the number of torch dispatch modes": lambda: enter(Dispatch()),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "inference mode": lambda: enter(torch.inference_mode()),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "deterministic algorithms, warnings only": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.mkldnn.enabled": lambda: torch.backends.mkldnn.set_flags(False),
    "torch.backends.cudnn.rnn.fp32_precision": lambda: setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee"),
    "torch.backends.cudnn.conv.fp32_precision": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "torch.backends.mkldnn.matmul.fp32_precision": lambda: setattr(
        torch.backends.mkldnn.matmul, "fp32_precision", "bf16"
    ),
    "flash attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "the precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "autocast on cpu": lambda: enter(torch.autocast("cpu")),
    "the global random number generator": lambda: torch.rand(1),
    "hooks for saved tensors": lambda: enter(torch.autograd.graph.save_on_cpu()),
    "the level of forward-mode differentiation": lambda: enter(torch.autograd.forward_ad.dual_level()),
    "torch's global_forward_hooks": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "torch's global_backward_pre_hooks": lambda: nn.modules.module.register_module_full_backward_pre_hook(print),
    "Python's random state": random.random,
    "numpy's random state": lambda: numpy.random.rand(),
    "numpy's error handling": lambda: numpy.seterr(all="raise"),
    "garbage collection": lambda: (gc.disable if gc.isenabled() else gc.enable)(),
    "the thresholds of garbage collection": lambda: gc.set_threshold(1),
    "the recursion limit": lambda: sys.setrecursionlimit(900),
    "sys.setprofile": lambda: sys.setprofile(lambda *_: None),
    "sys.path": lambda: sys.path.append("elsewhere"),
    "sys.stdout": lambda: setattr(sys, "stdout", None),
    "sys.stderr": lambda: sys.stderr.close(),
    "the descriptor 0": lambda: os.close(0),
    "warnings.filters": lambda: warnings.simplefilter("error"),
    "logging.disable": lambda: logging.disable(logging.INFO),
    "the working directory": lambda: os.chdir("/"),
    "the umask": lambda: os.umask(0o777),
    "the nice value": lambda: os.nice(1),
    "the session": os.setsid,
    "the limit RLIMIT_CORE": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "the handler of SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "the handler of SIGUSR1": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    "a pending alarm": lambda: signal.alarm(100),
    "a pending profiling timer": lambda: signal.setitimer(signal.ITIMER_PROF, 100),
    "the environment variable A_NEW_ONE": lambda: os.environ.update(A_NEW_ONE="1"),
    "the environment variable PATH": lambda: os.environ.pop("PATH"),
    "the thread idle": lambda: threading.Thread(target=time.sleep, args=(9,), name="idle", daemon=True).start(),
}


def lower_the_limit() -> None:
    sys.setrecursionlimit(60 + len(traceback.extract_stack()))


def close_the_umask_and_write(file: str) -> None:
    in_child(lambda: os.umask(0o777), lambda: os.close(os.open(file, os.O_CREAT)))


def meet_a_foreign_thread() -> None:
    """One that Python did not start, as those of autograd for a GPU, and that runs Python once."""
    met = threading.Event()
    _thread.start_new_thread(lambda: met.set() if threading.current_thread() else None, ())
    assert met.wait(9)


OTHERS = {
    "nothing": lambda: None,
    "a foreign thread": meet_a_foreign_thread,
    "raise the limit": lambda: sys.setrecursionlimit(2000),
    "lower the limit": lower_the_limit,
    "into a folder that is gone": into_a_folder_that_is_gone,
    "a secret in the environment": lambda: os.environ.update(PATH="a secret"),
}


if __name__ == "__main__":
    for module in (*worker.LAZY, "torch._inductor.config"):  # as the server does, lest every child does it
        importlib.import_module(module)
    close_the_umask_and_write(sys.argv[1])
    print(json.dumps({name: in_child(change) for name, change in (CHANGES | OTHERS).items()}))
