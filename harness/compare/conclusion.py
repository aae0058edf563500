"""How a run with a baseline ends: verdicts on the terminal and beside the records, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from harness import record
from harness.compare import output
from harness.compare.baseline import Comparison
from harness.compare.git import changed_files
from harness.compare.verdicts import candidate_folder, compare
from harness.config import ConfigError

SHARED = ("conf", "harness")  # folders that a baseline takes from the candidate


@dataclass(frozen=True)
class Conclusion:
    """The verdicts on a run, if any could be given, and what failed, if anything did."""

    verdicts: DataFrame | None
    failure: str | None = None

    def show(self) -> int:
        """Print the verdicts and what failed; the exit status, 3 where something failed."""
        if self.verdicts is not None:
            output.terminal(self.verdicts)
        if self.verdicts is None or self.failure is not None:
            print(f"harness: {self.failure}", file=sys.stderr)
            return 3
        return output.status(self.verdicts)


def conclude(asked: Comparison, folder: Path) -> Conclusion:
    """Compare what a run found with its baseline, and write the verdicts beside the records."""
    verdicts = None
    try:
        verdicts = _verdicts(asked, folder)
        record.write_text(output.markdown(verdicts), folder / "verdict.md")
        record.write_text(output.junit(verdicts), folder / "verdict.xml")
    except (record.RecordError, ConfigError, OSError) as error:
        return Conclusion(verdicts, str(error))
    return Conclusion(verdicts)


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
