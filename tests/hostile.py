"""Methods that start processes of their own, or harm those of the harness, each in one way.

Each returns the right Hessian where it returns. `notes` is a folder for what a test wants to know.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch


def right(loss, theta):
    return torch.func.jacfwd(torch.func.grad(loss))(theta)


def _forked(*steps):
    """Fork; take the steps in the child, then sleep there. Returns in the parent alone."""
    if os.fork():
        return
    for step in steps:
        step()
    time.sleep(1000)
    os._exit(0)


def _forked_twice():
    if os.fork():
        os._exit(0)


def _closes_descriptors():
    os.closerange(0, 4096)


def _ignores_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _stops():
    os.kill(os.getpid(), signal.SIGSTOP)


def _respawns():
    """Be another process every millisecond, each in a session of its own."""
    while True:
        time.sleep(0.001)
        _forked_twice()
        os.setsid()


# What stays behind.


def leaves_a_child(loss, theta):
    _forked()
    return right(loss, theta)


def leaves_a_session(loss, theta):
    _forked(os.setsid)
    return right(loss, theta)


def leaves_a_daemon(loss, theta):
    _forked(os.setsid, _forked_twice, _ignores_signals, _closes_descriptors)
    return right(loss, theta)


def leaves_a_stopped_process(loss, theta):
    _forked(os.setsid, _stops)
    return right(loss, theta)


def leaves_a_respawning_process(loss, theta):
    _forked(os.setsid, _respawns)
    return right(loss, theta)


def leaves_a_printing_process(loss, theta):
    _forked(os.setsid, lambda: prints_for_ever(loss, theta))
    return right(loss, theta)


def returns_twice(loss, theta):
    os.fork()
    return right(loss, theta)


# What does not end.


def daemon_and_sleep(loss, theta, notes):
    """A daemon, and a process that closed its descriptors and sleeps; notes the process of the server."""
    _forked(os.setsid, _forked_twice, _ignores_signals, _closes_descriptors)
    _closes_descriptors()
    Path(notes, "noted").write_text(str(os.getppid()))
    Path(notes, "noted").rename(Path(notes, "server"))
    time.sleep(1000)


def closes_and_sleeps(loss, theta):
    _closes_descriptors()
    time.sleep(1000)


def ignores_and_sleeps(loss, theta):
    _ignores_signals()
    while True:
        time.sleep(1)


def stops_itself(loss, theta):
    _stops()
    return right(loss, theta)


def freezes_itself(loss, theta, group):
    """Wait in the kernel where no signal arrives, as in a driver: in a frozen group (cgroup v1)."""
    Path(group, "tasks").write_text(str(os.getpid()))
    Path(group, "freezer.state").write_text("FROZEN")


def prints_for_ever(loss, theta):
    while True:
        os.write(1, b"x" * (1 << 20))


def prints_much(loss, theta):
    for _ in range(50):
        os.write(1, b"x" * (1 << 20))
    os.write(1, b"\nthe last line\n")
    os._exit(3)


# What harms the harness's processes and files.


def stops_its_server(loss, theta):
    os.kill(os.getppid(), signal.SIGSTOP)
    return right(loss, theta)


def ends_its_server_by_a_nameless_signal(loss, theta):
    _forked(os.setsid)
    os.kill(os.getppid(), signal.SIGRTMIN + 6)
    time.sleep(1000)


def kills_its_server(loss, theta):
    _forked(os.setsid)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def stops_the_keeper(loss, theta):
    keeper = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGSTOP)
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)


def kills_its_group(loss, theta):
    os.kill(0, signal.SIGKILL)


def kills_its_session(loss, theta):
    """Join the group of the server, if that is allowed, and kill it."""
    try:
        os.setpgid(0, os.getpgid(os.getppid()))
    finally:
        os.kill(0, signal.SIGKILL)


def ends_by_a_nameless_signal(loss, theta):
    """Python knows no name of most real-time signals."""
    os.kill(os.getpid(), signal.SIGRTMIN + 6)


def _answers(text):
    """Write into every pipe of the server, of which one goes to the harness."""
    for descriptor in Path(f"/proc/{os.getppid()}/fd").iterdir():
        if int(descriptor.name) > 2 and descriptor.readlink().name.startswith("pipe:"):
            with contextlib.suppress(OSError):
                os.write(os.open(descriptor, os.O_WRONLY | os.O_NONBLOCK), text)


def _after(text: bytes):
    """A method that answers for its server before it returns."""

    def method(loss, theta):
        _answers(text)
        return right(loss, theta)

    return method


answers_no_json = _after(b"x\n")
answers_an_object = _after(b"{}\n")
answers_for_the_server = _after(b'{"timed_out": true, "left_running": 0, "unkillable": false, "changed": ""}\n')
answers_without_an_end = _after(b"{")


def limits_its_server(loss, theta):
    resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0))
    return right(loss, theta)


def limits_the_descriptors_of_its_server(loss, theta):
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))
    return right(loss, theta)


def limits_the_memory_of_its_server(loss, theta):
    resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1 << 33, 1 << 33))
    return right(loss, theta)


def slows_its_server(loss, theta):
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
    return right(loss, theta)


def idles_its_server(loss, theta):
    os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))
    return right(loss, theta)


def pins_its_server(loss, theta):
    os.sched_setaffinity(os.getppid(), {min(os.sched_getaffinity(0))})
    return right(loss, theta)


def offers_its_server(loss, theta):
    """Let the system kill it first where memory runs out."""
    Path(f"/proc/{os.getppid()}/oom_score_adj").write_text("1000")
    return right(loss, theta)


def _named(name):
    """The path that a frame of the harness has under this name; None where there is none."""
    frame = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get(name), str):
        frame = frame.f_back
    return None if frame is None else Path(frame.f_locals[name])


def _result():
    """The path of the result's file."""
    return _named("result")


def folder_is_a_file(loss, theta):
    folder = _result().parent
    shutil.rmtree(folder)
    folder.touch()
    return right(loss, theta)


def folder_is_gone(loss, theta):
    shutil.rmtree(_result().parent)
    return right(loss, theta)


def folder_is_moved(loss, theta):
    folder = _result().parent
    folder.rename(folder.with_name(f"moved-{os.getpid()}"))
    return right(loss, theta)


def folder_is_a_link(loss, theta):
    folder_is_moved(loss, theta)
    _result().parent.symlink_to(f"moved-{os.getpid()}")
    return right(loss, theta)


def folder_is_immutable(loss, theta):
    """Where the file system allows that."""
    subprocess.run(["chattr", "+i", str(_result().parent)], check=True)
    return right(loss, theta)


def record_is_a_folder(loss, theta):
    record = _result().with_name("record.json")
    record.unlink(missing_ok=True)
    record.mkdir()
    (record / "file").touch()
    return right(loss, theta)


def job_is_changed(loss, theta):
    _result().with_name("job.json").write_text('{"target": "os.system"}')
    return right(loss, theta)


def log_is_a_link(loss, theta):
    """Make the log a link to a file beside the folder, which what the next pass prints would be appended to."""
    log = _result().with_name("log.txt")
    log.unlink(missing_ok=True)
    log.symlink_to(log.parent.with_name("linked"))
    print("printed")
    return right(loss, theta)


def overwrites_the_reference(loss, theta):
    _named("truth").write_text("junk")
    return right(loss, theta)


def removes_the_references(loss, theta):
    shutil.rmtree(_named("truth").parent)
    return right(loss, theta)


def _leaves_as_result(text):
    _result().write_text(text)
    os._exit(0)


def result_of_no_json(loss, theta):
    _leaves_as_result("{ not json")


def result_of_wrong_types(loss, theta):
    _leaves_as_result('{"status": "ok", "times_s": "soon", "worked_s": []}')


def result_of_foreign_fields(loss, theta):
    _leaves_as_result('{"status": "ok", "method": "another"}')


def result_of_strange_numbers(loss, theta):
    _leaves_as_result('{"status": "ok", "timed": {"first": 3}}')


def result_of_another_length(loss, theta):
    _leaves_as_result('{"status": "ok", "timed": {"first": [1.0], "last": [1.0], "products": [1.0]}}')


def result_of_nulls(loss, theta):
    _leaves_as_result('{"status": "ok", "worked_s": null, "timed": null, "times_s": null, "running": null}')


def result_of_other_passes(loss, theta):
    _leaves_as_result('{"status": "ok", "asks": [], "builder_options": {}, "unwritten": [28, "full", "/"]}')


def result_is_a_list(loss, theta):
    _leaves_as_result("[]")


def result_is_a_folder(loss, theta):
    path = _result()
    path.unlink()
    path.mkdir()
    (path / "file").touch()
    os._exit(0)


def result_is_a_pipe(loss, theta):
    path = _result()
    path.unlink()
    os.mkfifo(path)
    os._exit(0)


def result_is_gone(loss, theta):
    _result().unlink()
    os._exit(0)


def result_is_a_link(loss, theta):
    path = _result()
    path.unlink()
    path.symlink_to(path.with_name("job.json"))
    os._exit(0)


def log_is_a_pipe(loss, theta):
    log = _result().with_name("log.txt")
    log.unlink()
    os.mkfifo(log)
    os._exit(0)


# What returns numbers that are finite, but no record can hold.


def vast(loss, theta):
    return torch.full_like(right(loss, theta), 1e200)


def vaster(loss, theta):
    return torch.full_like(right(loss, theta), 1.7e308)


def one_vast_entry(loss, theta):
    result = right(loss, theta).clone()
    result[0, 0] = 1e200
    return result


# What uses all there is. Call these with a memory limit.


def grows(loss, theta):
    kept = []
    while True:
        kept.append(torch.ones(8_000_000, dtype=torch.float64))


def grows_in_group(loss, theta, group):
    """Grow in a group of little memory (cgroup v1)."""
    Path(group, "tasks").write_text(str(os.getpid()))
    grows(loss, theta)


def grows_in_python(loss, theta):
    kept = []
    while True:
        kept.append(bytearray(50_000_000))


def starts_threads(loss, theta):
    for _ in range(3000):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    return right(loss, theta)


# What is raised.


class Unprintable(Exception):
    def __str__(self):
        return str(1 / 0)

    __repr__ = __str__


class Number(Exception):
    def __str__(self):
        return 5


def raises_interrupt(loss, theta):
    raise KeyboardInterrupt


def raises_exit(loss, theta):
    raise SystemExit(0)


def raises_base(loss, theta):
    raise BaseException("of no kind")


def raises_generator_exit(loss, theta):
    raise GeneratorExit


def raises_unprintable(loss, theta):
    raise Unprintable


def raises_number(loss, theta):
    raise Number


def raises_memory(loss, theta):
    raise MemoryError


def raises_recursion(loss, theta):
    return raises_recursion(loss, theta)


def raises_much(loss, theta):
    raise ValueError("x" * 50_000_000)


def raises_controls(loss, theta):
    raise ValueError("\x1b[2J\ud800\0")
