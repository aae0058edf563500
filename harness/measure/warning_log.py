"""The warnings that a process raises, as one text for the record: without paths, and each of them once."""

from __future__ import annotations

import re
import warnings
from typing import Any, TextIO

LONGEST = 320  # characters of one warning
MOST = 1200  # of all of them
FOLDERS = r"(?<![\w:/.])/(?:[^\s/'\"()]+/)+"  # of an absolute path, which leave the name of a file
ORIGIN = r"\s*\(Triggered internally at [^)]*\)"  # where in torch's own source
# Warnings that say nothing of a result, and why they are raised.
HARMLESS = (
    r"get_attr Node with no underlying reference",  # torch.func.linearize traces what its user did not write
    r"Full backward hook is firing",  # since the inputs are data and need no gradient: backpack's hooks
    r"Converting a tensor with requires_grad=True to a scalar",  # float() of a logged value; a cut graph is found apart
)


class Listener:
    """Hears Python's warnings from now on, torch's among them; they are shown as before.

    What the filters leave out is not heard: by default deprecations, and what the same line has said before. Nor is
    what is HARMLESS.
    """

    def __init__(self) -> None:
        self._heard: dict[str, None] = {}
        shown = warnings.showwarning

        def hear(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not re.search("|".join(HARMLESS), str(message)):
                self._heard[told(message, category)] = None
            shown(message, category, filename, lineno, file, line)

        warnings.showwarning = hear

    def fields(self) -> dict[str, Any]:
        """The field `warnings` of a record: null where nothing was heard."""
        text = "; ".join(self._heard)
        return {"warnings": (text if len(text) <= MOST else text[: MOST - 1] + "…") or None}


def told(message: Warning | str, category: type[Warning]) -> str:
    """One warning on one line: its category and words."""
    said = re.sub(FOLDERS, "", re.sub(ORIGIN, "", f"{category.__name__}: {message}"))
    said = " ".join(said.split())
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"
