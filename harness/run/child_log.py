"""What a child process prints, copied to a file that cannot fill the disk."""

from __future__ import annotations

import contextlib
import os

FIRST_BYTES = 1 << 20  # kept of what a child prints, from its beginning,
LAST_BYTES = 4096  # and from its end
CHUNK_BYTES = 1 << 16  # the usual capacity of a pipe; the largest, 1 MiB, is
LAST_CHUNKS = 16


class ChildLog:
    """The output of one child: its first FIRST_BYTES and last LAST_BYTES are appended to a file.

    Use it as a context manager. What the file does not take, such as on a full disk, is lost.
    """

    def __init__(self, path: str) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.ended = False  # no process holds the other end
        self._room, self._left_out, self._last = FIRST_BYTES, 0, b""
        self._file: int | None = None
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK  # it may be a pipe by now
            self._file = os.open(path, flags, 0o644)

    def __enter__(self) -> ChildLog:
        return self

    def __exit__(self, *_: object) -> None:
        for _number in range(LAST_CHUNKS):  # not until there is nothing: a process that was not found may print on
            if not self.copy():
                break
        if self._left_out > len(self._last):
            self._append(f"\n... {self._left_out - len(self._last):,} bytes are left out ...\n".encode())
        self._append(self._last)
        for number in (self.reading, self._file):
            if number is not None:
                os.close(number)

    def close_writing(self) -> None:
        """Close this process's own copy of the end that the child writes to."""
        os.close(self.writing)

    def copy(self) -> bool:
        """Copy at most CHUNK_BYTES of what has been printed; whether there was something."""
        try:
            chunk = os.read(self.reading, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self.ended = not chunk
        kept, rest = chunk[: self._room], chunk[self._room :]
        self._room -= len(kept)
        self._append(kept)
        self._left_out += len(rest)
        self._last = (self._last + rest)[-LAST_BYTES:]
        return bool(chunk)

    def _append(self, text: bytes) -> None:
        if self._file is not None and text:
            with contextlib.suppress(OSError):
                os.write(self._file, text)
