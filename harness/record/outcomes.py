"""How a record ended, in a word; whether that is a verdict on its method; and which records are of one test network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NOT_INSTALLED = re.compile(r"needs the package (\S+), which is not installed")  # in a message
ABSENT = "not installed"
OF_STATUS = {
    "wrong": "wrong",
    "nonfinite": "not finite",
    "error": "failed",
    "unsupported": "refused",
    "ok": "right",
    "approximate": "approximate",  # as prepared tables call the status ok of an approximation
    "crashed": "crashed",
    "oom": "out of memory",
    "timeout": "out of time",
}
OUTCOMES = (*OF_STATUS.values(), ABSENT)  # of several records of one cell and version of torch, the first counts
NO_RESULT = "no result"
VERDICTS = {
    "right": "right",
    "wrong": "wrong",
    "not finite": "wrong",
    "refused": NO_RESULT,
    "failed": NO_RESULT,
}  # a crash, a limit and a missing package may be the machine's: they are no verdict
OF_NETWORK = ("problem_hash", "params", "operators")


def outcome(status: str, message: str | None) -> str:
    """One of OUTCOMES."""
    return ABSENT if message and NOT_INSTALLED.search(message) else OF_STATUS[status]


def is_same_network(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the test networks of two records of one problem and one set of options are the same.

    They are if they have the same source. This source is that of the builder and of every module that it imports, so an
    edit of any of these changes it, and old records do not know it. Networks whose source is not known to be the same
    are taken to be the same if they have the same parameters and operators, of which null is unknown.
    """
    if one["problem_hash"] is not None and one["problem_hash"] == other["problem_hash"]:
        return True
    return all(None in (one[name], other[name]) or one[name] == other[name] for name in ("params", "operators"))
