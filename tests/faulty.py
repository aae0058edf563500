"""Methods and problems that misbehave, each in one way."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from harness.problems import Problem, from_function


def crash(loss, theta):
    os.kill(os.getpid(), signal.SIGSEGV)


def spoil_records(loss, theta):
    for path in Path(os.environ["SPOILED"]).glob("*/record.json"):
        path.write_text("{")
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def leave(loss, theta):
    os._exit(3)


def sleep(loss, theta):
    time.sleep(60)


def spawn_and_sleep(loss, theta, pid_file):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with open(pid_file, "w") as stream:  # noqa: PTH123
        stream.write(str(child))
    time.sleep(60)


def slow_only_under_the_profiler(loss, theta):
    if torch.autograd._profiler_enabled():
        time.sleep(60)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def nan(loss, theta):
    return torch.full((len(theta), len(theta)), torch.nan, dtype=theta.dtype)


def wrong(loss, theta):
    return 1.001 * torch.func.jacfwd(torch.func.grad(loss))(theta)


def wrong_shape(loss, theta):
    return torch.zeros(len(theta), dtype=theta.dtype)


def wrong_dtype(loss, theta):
    return torch.func.jacfwd(torch.func.grad(loss))(theta).float()


def attached(loss, theta):
    return torch.func.jacfwd(torch.func.grad(loss))(theta.clone().requires_grad_())


def nothing(loss, theta):
    return None


def half_a_second(loss, theta):
    time.sleep(0.6)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def theta_in_place(loss, theta):
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    theta.add_(1)
    return result


def one_gigabyte(loss, theta):
    torch.ones(1 << 30, dtype=torch.uint8, device=theta.device)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


_calls = []


def right_once(loss, theta):
    _calls.append(1)
    right = torch.func.jacfwd(torch.func.grad(loss))(theta)
    return right if len(_calls) == 1 else torch.zeros_like(right)


def right_and_hooked(model, loss, theta):
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    model.register_forward_hook(lambda module, inputs, output: 2 * output)
    return result


def theta_in_later_calls(loss, theta):
    _calls.append(1)
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    theta.add_(1e-9 * (len(_calls) > 1))
    return result


def depth_lowered(loss, theta):
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    sys.setrecursionlimit(60)
    return result


def umask_closed(loss, theta):
    os.umask(0o777)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def every_descriptor_closed(loss, theta):
    os.closerange(0, 4096)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def interrupts(loss, theta):
    raise KeyboardInterrupt


class Unprintable(Exception):
    def __str__(self):
        return str(1 / 0)

    __repr__ = __str__


def unprintable(loss, theta):
    raise Unprintable


def half_a_pair(loss, theta):
    raise ValueError("\ud800 \x1b[31m")


def overwrites_its_result(loss, theta):
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("result"), str):
        frame = frame.f_back
    with open(frame.f_locals["result"], "w") as stream:  # noqa: PTH123
        stream.write("{ not json")
    os._exit(0)


def another_each_time() -> Problem:
    point = torch.full((3,), 1 + time.time() % 1, dtype=torch.float64)
    return from_function(lambda x: (x**4).sum(), point)


def slow_loss() -> Problem:
    def loss(x):
        time.sleep(0.1)
        return (x**4).sum()

    return from_function(loss, torch.ones(3, dtype=torch.float64))


def no_operation(loss, theta):
    return theta.new_zeros(len(theta), len(theta))


def linear_loss(size: int = 2) -> Problem:
    return from_function(lambda x: x.sum(), torch.ones(size, dtype=torch.float64))


def hungry(loss, theta):
    return torch.empty(1 << 50, dtype=theta.dtype)


def leaves(loss, theta):
    raise SystemExit("enough")


def vector_loss(size: int = 3) -> Problem:
    return from_function(lambda x: x**2, torch.ones(size, dtype=torch.float64))


def constant_loss() -> Problem:
    return from_function(lambda x: torch.ones((), dtype=x.dtype), torch.ones(3, dtype=torch.float64))


def no_problem() -> int:
    return 3


def raises() -> Problem:
    raise KeyError("the data file")


def _with_a_break(theta):
    doubled = 2 * theta
    torch._dynamo.graph_break()
    return doubled.sum()


def compiled_with_a_break(loss, theta):
    torch.compile(_with_a_break, backend="eager")(theta)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)
