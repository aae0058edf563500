"""Cells that run at once: threads, each with a launcher that no other uses meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import TypeVar

from harness.run.launcher import Launcher

Value = TypeVar("Value")
Result = TypeVar("Result")


class Pool:
    """A number of threads and as many launchers.

    Use it as a context manager: on leaving, nothing new is begun, the launchers end what runs, and the threads end.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers)
        self._idle: SimpleQueue[Launcher] = SimpleQueue()
        self._held = ExitStack()

    def __enter__(self) -> Pool:
        # They are called in reverse order: the threads are waited for when the launchers have ended what ran in them.
        self._held.callback(self._threads.shutdown)
        for _ in range(self._workers):
            self._idle.put(self._held.enter_context(Launcher()))
        self._held.callback(self._threads.shutdown, wait=False, cancel_futures=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @contextmanager
    def launcher(self) -> Iterator[Launcher]:
        """A launcher for this thread alone."""
        launcher = self._idle.get()
        try:
            yield launcher
        finally:
            self._idle.put(launcher)

    def map(self, function: Callable[[Value], Result], values: Iterable[Value]) -> Iterator[Result]:
        """Results in the order of the values. One worker works in the calling thread, where it can be interrupted."""
        return (map if self._workers == 1 else self._threads.map)(function, values)
