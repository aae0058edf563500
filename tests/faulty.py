"""Methods and problems that misbehave, each in one way."""

import os
import signal
import time

import torch

from harness.problems import Problem, from_function


def crash(loss, theta):
    os.kill(os.getpid(), signal.SIGSEGV)


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


def vectors_in_place(loss, theta, vectors):
    vectors /= vectors.norm(dim=0)
    return torch.func.jacfwd(torch.func.grad(loss))(theta) @ vectors


def inputs_in_place(loss, theta, inputs):
    inputs.mul_(2)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def targets_in_place(loss, theta, targets):
    targets.zero_()
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def half_a_second(loss, theta):
    time.sleep(0.6)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def theta_in_place(loss, theta):
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    theta.add_(1)
    return result


def theta_requires_grad(loss, theta):
    result = torch.func.jacfwd(torch.func.grad(loss))(theta)
    theta.requires_grad_()
    return result


def model_grad(model, criterion, inputs, targets, loss, theta):
    criterion(model(inputs), targets).backward()
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def global_random_state(loss, theta):
    torch.randn(1)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def default_dtype(loss, theta):
    torch.set_default_dtype(torch.float64)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def thread_count(loss, theta):
    torch.set_num_threads(2)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def one_gigabyte(loss, theta):
    torch.ones(1 << 30, dtype=torch.uint8)
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


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
