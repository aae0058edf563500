"""How a run with a baseline ends: verdicts on the terminal and beside the records, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from pandas import DataFrame

from harness import record
from harness.compare import output
from harness.compare.baseline import Comparison
from harness.compare.git import changed_files
from harness.compare.verdicts import candidate_folder, compare
from harness.config import ConfigError

SHARED = ("conf", "harness")  # folders that a baseline takes from the candidate


def conclude(asked: Comparison, folder: Path) -> int:
    """Compare what a run found with its baseline, write the verdicts beside the records, print them; exit status.

    3, with a message, where no comparison can be made.
    """
    try:
        verdicts = _verdicts(asked, folder)
        try:
            record.write_text(output.markdown(verdicts), folder / "verdict.md")
            record.write_text(output.junit(verdicts), folder / "verdict.xml")
        finally:
            output.terminal(verdicts)
    except (record.RecordError, ConfigError, OSError) as error:
        print(f"harness: {error}", file=sys.stderr)
        return 3
    return output.status(verdicts)


def _verdicts(asked: Comparison, folder: Path) -> DataFrame:
    """The verdicts on a run; raises RecordError or ConfigError where none can be given."""
    if not asked.measures_baseline:
        base = record.load(candidate_folder(Path(asked.baseline)))
        return compare(base, record.load(folder), asked.slower, asked.allow)
    base, candidate = (record.load(folder / name) for name in record.SIDES)
    if (base["status"] == "error").all() and (candidate["status"] != "error").any():
        raise ConfigError(f"no cell of {asked.baseline} could be run: {base['message'].iloc[0]}")
    verdicts = compare(base, candidate, asked.slower, asked.allow)
    verdicts.attrs["notes"] += _not_of_the_baseline(asked, base["commit"].dropna())
    return verdicts


def _not_of_the_baseline(asked: Comparison, commits: Collection[str]) -> list[str]:
    """A note where the baseline ran files of the candidate although its own commit has them differently."""
    if not asked.baseline.startswith("git:") or not len(commits):
        return []
    try:
        changed = changed_files(next(iter(commits)), *SHARED)
    except ConfigError as error:
        return [f"whether {' and '.join(SHARED)} have changed is not known: {error}"]
    if not changed:
        return []
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return [
        f"baseline and candidate both ran the candidate's {', '.join(changed[:3])}{more}, which differs from "
        f"{asked.baseline}"
    ]
