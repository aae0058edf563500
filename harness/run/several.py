"""The fields of a pass that several processes (ranks) have run together, from the fields that each has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Fields = dict[str, Any]  # of a record

ENDED = ("status", "message", "traceback")  # fields that say how a rank has ended
# Other fields are those of rank 0. Times are those of the slowest rank already (`harness.measure.ranks`).
LARGEST = (
    "tensor_peak_bytes",
    "allocated_peak_bytes",
    "reserved_peak_bytes",
    "process_peak_bytes",
    "sampling_waiting_s",
    "communication_s",
    "worked_s",
)
SUMMED = ("operations", "allocations", "flops", "communicated_bytes")
LISTED = {"tensor_peak_bytes": "ranks_tensor_peak_bytes", "process_peak_bytes": "ranks_process_peak_bytes"}


def together(seen: Sequence[Fields], answer: Mapping[str, Any] | None) -> Fields:
    """The fields of a pass, from those of its ranks and the server's answer.

    Where a rank has ended badly, `status` and `message` are those of the one that did first, with its number, unless
    all of them say the same. There is no `status` where it was cut off.
    """
    fields = _together([_without(own, ENDED) for own in seen])
    ends = [tuple(own.get(name) for name in ENDED[:2]) for own in seen]
    if all(status == "ok" for status, _ in ends) or answer is None or "ended" in answer or answer["timed_out"]:
        return fields | ({"status": "ok"} if all(status == "ok" for status, _ in ends) else {})
    ended = {name: value for name, value in seen[answer["rank"]].items() if name in ENDED}
    if len(set(ends)) > 1 and ended.get("message"):
        ended["message"] = f"{named(answer['rank'], len(seen))}: {ended['message']}"
    return fields | ended


def named(rank: int, count: int) -> str:
    """A rank in a message, with the number of all: `rank 1 of 2`, from 0 on."""
    return f"rank {rank} of {count}"


def _together(seen: Sequence[Fields]) -> Fields:
    fields = _without(seen[0], (*LARGEST, *SUMMED))
    for name in (*LARGEST, *SUMMED):
        known = [own[name] for own in seen if own.get(name) is not None]
        if len(known) < len(seen):  # the number of some ranks would pass for that of all
            continue
        fields[name] = max(known) if name in LARGEST else sum(known)
        if name in LISTED:
            fields[LISTED[name]] = [float(value) for value in known]
    sampled = [own for own in seen if own.get("sampling_wall_s") and own.get("sampling_cpu_s") is not None]
    if sampled:  # the rank that got the least of its processor
        starved = min(sampled, key=lambda own: own["sampling_cpu_s"] / own["sampling_wall_s"])
        fields |= {name: starved[name] for name in ("sampling_wall_s", "sampling_cpu_s")}
    texts = [own["warnings"] for own in seen if own.get("warnings")]
    return fields | ({"warnings": "; ".join(dict.fromkeys(texts))} if texts else {})


def _without(fields: Fields, names: Sequence[str]) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}
