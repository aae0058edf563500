"""Why a benchmark cell has no result, in a few words that a figure has room for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas

from harness.analysis.coverage import NEEDS_A_NETWORK
from harness.record import plain
from harness.record.outcomes import NOT_INSTALLED

OF_A_REASON = ["status", "message", "memory_limit_gb", "limit_s", "median_s"]  # columns that a reason is made of
EXCEPTION = re.compile(r"^(?:[\w.]*(?:Error|Exception|Unsupported)): ")


def reason(cell: Mapping[Any, Any]) -> str:
    """Why this row of `Analysis.cells`, whose status is not ok, has no result: `out of memory (limit 12 GB)`."""
    message = "" if pandas.isna(cell["message"]) else plain(cell["message"])
    match cell["status"]:
        case "oom":
            limit = cell["memory_limit_gb"]
            return "out of memory" if pandas.isna(limit) else f"out of memory (limit {limit:g} GB)"
        case "timeout":
            return _over_the_limit(cell)
        case "unsupported":
            return _refusal(message)
        case status:
            return f"{status}: {_cause(message)}" if message else str(status)


def _over_the_limit(cell: Mapping[Any, Any]) -> str:
    limit = "over the time limit"
    if not pandas.isna(cell["limit_s"]):
        limit += f" of {cell['limit_s']:g} s"
    return limit if pandas.isna(cell["median_s"]) else f"{limit} while it was checked"


def _refusal(message: str) -> str:
    missing = NOT_INSTALLED.search(message)
    if missing:
        return f"not installed: {missing[1]}"
    if NEEDS_A_NETWORK in message:
        return "refuses: needs a network"
    return f"refuses: {_cause(message)}" if message else "refuses"


def _cause(message: str) -> str:
    """What a message says before its advice, without the name of the exception."""
    return EXCEPTION.sub("", re.split(r" -> |; ", message)[0])
