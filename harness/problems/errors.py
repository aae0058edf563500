"""Errors of problems: those of the user's own code, and of problems whose Hessian cannot be asked for."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.problems import torch_messages

# Folders whose code is not the user's: the harness and its methods, Python and what is installed.
OTHERS = tuple(str(Path(__file__).parents[2] / name) + "/" for name in ("harness", "methods")) + tuple(
    sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class ProblemError(ValueError):
    """A problem cannot be built from its options, or its Hessian cannot be asked for."""


class CodeError(ProblemError):
    """The user's own code, a builder or a loss, raised an `error`, which is the cause of this one."""

    def __init__(self, culprit: str, error: BaseException, remedy: str = "") -> None:
        status, words = torch_messages.explain(error)
        words, _, known = words.partition(" -> ")
        remedy = remedy or known
        advice = f" -> {remedy}" if remedy else ""
        super().__init__(f"{culprit} raised {words}{place(error)}{advice}")
        self.error = error
        self.status = status if status == "oom" else "error"


def place(error: BaseException) -> str:
    """` (FILE, line N)`: the last line of the user's own code in a traceback; empty where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*OTHERS, "<"))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


@contextmanager
def blamed(culprit: str) -> Iterator[None]:
    """Raise CodeError for whatever the user's code raises in this block, except for a ProblemError."""
    try:
        yield
    except ProblemError:
        raise
    except (Exception, SystemExit) as error:
        raise CodeError(culprit, error) from error
