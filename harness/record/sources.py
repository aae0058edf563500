"""Which records of a run folder were replaced, since the source of their method or problem has changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

HASHES = ("method_hash", "problem_hash")
SOURCE = ("path", "started", *HASHES)  # what `superseded` reads of a record


def superseded(seen: Iterable[Mapping[str, Any]]) -> set[str]:
    """The `path` of each record that a newer one of the same job, run folder and another source replaces.

    A job's folders are `<key>`, `<key>.2` and so on, as `harness.run.folders.claim` makes them. Lines of baseline files
    replace nothing: such a file may hold many runs. A record without a hash failed before its source was read. It is
    replaced by a newer one with a hash.
    """
    jobs: dict[str, list[tuple[str, int, Mapping[str, Any]]]] = defaultdict(list)
    for record in seen:
        folder, _, name = record["path"].rpartition("/")
        if name == "record.json":
            job, number = _job_and_number(folder)
            jobs[job].append((record["started"] or "", number, record))
    return {path for records in jobs.values() if len(records) > 1 for path in _older_sources(records)}


def _job_and_number(folder: str) -> tuple[str, int]:
    job, _, number = folder.rpartition(".")
    return (job, int(number)) if number.isdecimal() else (folder, 1)


def _older_sources(records: list[tuple[str, int, Mapping[str, Any]]]) -> list[str]:
    """The paths of one job's records that are older than the newest known source, and of another."""
    newest_first = [record for *_, record in sorted(records, key=lambda entry: entry[:2], reverse=True)]
    hashed = [place for place, record in enumerate(newest_first) if any(record[name] for name in HASHES)]
    if not hashed:
        return []
    newest, older = newest_first[hashed[0]], newest_first[hashed[0] + 1 :]
    return [record["path"] for record in older if _is_of_another_source(record, newest)]


def _is_of_another_source(record: Mapping[str, Any], newest: Mapping[str, Any]) -> bool:
    """Whether the hashes differ. Older schemas have none of the problem, so a missing one is no difference."""
    of_method, of_problem = ((record[name], newest[name]) for name in HASHES)
    other_method = of_method[1] is not None and of_method[0] != of_method[1]
    return other_method or (None not in of_problem and of_problem[0] != of_problem[1])
