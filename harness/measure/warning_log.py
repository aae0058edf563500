"""The warnings that a process raises, as one text for the record: without paths, and each of them once."""

from __future__ import annotations

import re
import warnings
from typing import Any, TextIO

LONGEST = 320  # characters of one warning
MOST = 1200  # of all of them
FOLDERS = r"(?<![\w:/.])/(?:[^\s/'\"()]+/)+"  # the folders of an absolute path, without the name of the file
ORIGIN = r"\s*\(Triggered internally at [^)]*\)"  # where in torch's own source
# Warnings that say nothing about a result, with the reason why they are raised.
HARMLESS = (
    r"get_attr Node with no underlying reference",  # torch.func.linearize traces what its user did not write
    r"Full backward hook is firing",  # backpack's hooks, since the inputs are data and need no gradient
    r"`torch._prims_common.check` is deprecated",  # torch.compile's own
    r"Converting a tensor with requires_grad=True to a scalar",  # float() of a logged value; cut graphs have own checks
)


class WarningLog:
    """Logs Python's warnings from now on, torch's among them; they are shown as before.

    Warnings that Python filters out are not logged: by default deprecations, and repetitions from the same line. Nor
    are those that are HARMLESS.
    """

    def __init__(self) -> None:
        self._logged: dict[str, None] = {}
        shown = warnings.showwarning

        def log(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not re.search("|".join(HARMLESS), str(message)):
                self._logged[on_one_line(message, category)] = None
            shown(message, category, filename, lineno, file, line)

        warnings.showwarning = log

    def fields(self) -> dict[str, Any]:
        """The field `warnings` of a record: null where nothing was logged."""
        return {"warnings": _shortened("; ".join(self._logged), MOST) or None}


def on_one_line(message: Warning | str, category: type[Warning]) -> str:
    """One warning on one line: its category and words."""
    words = re.sub(FOLDERS, "", re.sub(ORIGIN, "", f"{category.__name__}: {message}"))
    return _shortened(" ".join(words.split()), LONGEST)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
