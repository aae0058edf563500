"""What changes from one version of torch to the next: where methods are newly wrong, mended, refused or supported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy
import pandas
from numpy import ndarray
from pandas import DataFrame, Series

from harness.analysis.coverage import methods_of, networks_of
from harness.analysis.table import SETTINGS, Analysis
from harness.record.identity import ASKED, SAMPLED
from harness.record.outcomes import ABSENT, NO_RESULT, OF_NETWORK, OUTCOMES, VERDICTS, is_same_network, outcome
from harness.record.torch_version import version_of
from harness.text import as_text

OTHER, NOT_RUN = "another network", "not run"
NOT_COMPARED = (ABSENT, OTHER, NOT_RUN)
RANK = (*OUTCOMES, OTHER, NOT_RUN)

# By an earlier verdict and the latest one. A result is compared with the result before it that differs, and with no
# result only if there was none.
KINDS = {
    ("right", "wrong"): "Newly wrong or not finite",
    (NO_RESULT, "wrong"): "Newly supported, but wrong or not finite",
    ("wrong", "right"): "Mended",
    ("wrong", NO_RESULT): "No longer wrong, but without a result",
    ("right", NO_RESULT): "Newly refused or failing",
    (NO_RESULT, "right"): "Newly supported",
}
RESUMED = "Right again, after a version that refused or failed"
ALWAYS = "Wrong or not finite wherever there is a result"
UNFINISHED = "Crashed, out of memory or out of time with some version"
ORDER = [*KINDS.values(), RESUMED, ALWAYS, UNFINISHED]

OTHER_ERROR = 0.1  # relative difference from which two relative errors are not the same one

# Torch decides about these, so that cells are compared over them.
OVER = ("torch", "interpreter", "machine")


@dataclass(frozen=True)
class Span:
    """What was seen with successive versions."""

    outcome: str  # of RANK
    versions: tuple[str, ...]
    least: float  # relative error of what is wrong, over versions, networks and methods; NaN where none is known
    most: float


@dataclass(frozen=True)
class Change:
    """Test networks on which some methods have the same history over all versions."""

    kind: str  # of ORDER
    networks: tuple[str, ...]
    methods: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def most(self) -> float:
        """The largest relative error; 0 where none is known."""
        return max((span.most for span in self.spans if span.most == span.most), default=0.0)


@dataclass(frozen=True)
class Apart:
    """A version that shares no cell with another version."""

    version: str
    cells: int
    differing: tuple[str, ...]  # columns in which none of its cells has a value that a cell of another version has


@dataclass(frozen=True)
class Versions:
    """The versions of torch in order, how often each has which outcome, and what changes between them."""

    versions: tuple[str, ...]  # those that share a cell with another one
    totals: DataFrame  # an outcome a line, a version a column: numbers of cells that two versions or more have run
    changes: list[Change]  # in the order of their kinds; those with the largest errors first
    alone: int  # cells that only one version has run
    apart: tuple[Apart, ...]
    unknown: int  # cells whose record names no version
    methods: tuple[str, ...]  # methods whose source is not the same with every version
    networks: tuple[str, ...]  # test networks that are compared although their source is not
    others: tuple[str, ...]  # test networks that are another network with some version than with the newest
    packages: tuple[str, ...]  # methods whose packages have not the same versions with every version of torch
    machines: dict[str, list[str]]  # of each version, where the machine or the Python is not the same with all
    sampling: tuple[str, ...]  # columns of SAMPLED in which cells that are compared differ
    unsourced: tuple[str, ...]  # versions with verdicts on test networks whose source the record does not know


def versions(analysis: Analysis) -> Versions | None:
    """What changes with torch; None where the records name fewer than two versions.

    Cells are compared if they agree in problem, method, every setting and the folder `code`, and if their test network
    is the one of the newest version (see `is_same_network`). Cells of an unknown version are left out.
    """
    known = analysis.cells["torch"].map(version_of)
    if known.nunique() < 2:
        return None
    cells, known = analysis.cells[known.notna()], known.dropna()
    seen = _seen(cells, known)
    found = seen.pivot(index="asked", columns="version", values="outcome").fillna(NOT_RUN)
    compared = ~found.isin(NOT_COMPARED)
    several = compared.sum(axis="columns") > 1
    shared = compared[several].any()
    outcomes = found.loc[several, shared]
    errors = seen.pivot(index="asked", columns="version", values="error").loc[several, shared]
    newest = seen.drop_duplicates("asked", keep="last").set_index("asked").loc[outcomes.index]
    of_several = seen[seen["asked"].isin(outcomes.index) & ~seen["outcome"].isin(NOT_COMPARED)]
    unsourced = of_several["problem_hash"].isna() & of_several["outcome"].isin(list(VERDICTS))
    names = tuple(map(str, outcomes.columns))
    counts = DataFrame({str(version): outcomes[version].value_counts() for version in outcomes}, index=list(RANK))
    return Versions(
        names,
        counts[counts.notna().any(axis="columns")].fillna(0),
        _changes(names, newest, outcomes.to_numpy(), errors.to_numpy(dtype="float")),
        alone=int((compared.sum(axis="columns") == 1).sum()),
        apart=tuple(_apart(cells, known, version) for version in found.columns[~shared.to_numpy()]),
        unknown=len(analysis.cells) - len(cells),
        methods=_differing(of_several, "method_hash", "method"),
        networks=_differing(of_several, "problem_hash", "network"),
        others=tuple(sorted(set(seen.loc[seen["outcome"] == OTHER, "network"]))),
        packages=_differing(of_several, "packages", "method"),
        machines=_machines(of_several),
        sampling=tuple(name for name in SAMPLED if _differing(of_several, name, "method")),
        unsourced=tuple(map(str, sorted(of_several.loc[unsourced, "version"].unique()))),
    )


def _seen(cells: DataFrame, known: Series) -> DataFrame:
    """A row for each cell that was asked for and each version of torch, oldest first; `known` has those of the cells.

    `asked` numbers what was asked for, `network` and `method` name it, `outcome` and `error` are what was seen.
    """
    asked = cells.groupby([*ASKED, "code"], dropna=False).ngroup()
    settings = [name for name in (*SETTINGS, "seed") if name not in OVER]
    seen = cells[["method_hash", "problem_hash", "packages", "machine", "python", *SAMPLED]].assign(
        version=known,
        asked=asked,
        network=networks_of(cells),
        method=methods_of(cells, settings),
        outcome=_outcomes(cells).where(_is_of_newest(cells, known, asked), OTHER),
        error=cells["relative_error"].where(cells["relative_error"] > cells["tolerance"].fillna(0)),
    )
    seen = seen.sort_values(["version", "error"], ascending=[True, False])
    seen = seen.sort_values("outcome", key=lambda outcomes: outcomes.map(RANK.index), kind="stable")
    seen = seen.drop_duplicates(["asked", "version"]).sort_values(["version", "asked"])
    return seen.assign(error=seen["error"].where(seen["outcome"] == "wrong"))


def _outcomes(cells: DataFrame) -> Series:
    messages = cells["message"].fillna("")
    return Series(list(map(outcome, cells["status"], messages)), cells.index, "object")


def _is_of_newest(cells: DataFrame, known: Series, asked: Series) -> Series:
    """Whether each cell is of the same test network as the newest one that was asked alike.

    The newest is that of the newest version, and there of the latest run, among those whose operators are known.
    """
    order = cells.assign(traced=cells["operators"].notna(), version=known, asked=asked)
    order = order.sort_values(["traced", "version", "started"], na_position="first")
    newest = order.drop_duplicates("asked", keep="last").set_index("asked").loc[asked]
    return Series(list(map(is_same_network, _networks(cells), _networks(newest))), cells.index, "bool")


def _networks(cells: DataFrame) -> list[dict[str, Any]]:
    """What `is_same_network` reads of each cell."""
    columns = [[None if pandas.isna(value) else value for value in cells[name]] for name in OF_NETWORK]
    return [dict(zip(OF_NETWORK, values, strict=True)) for values in zip(*columns, strict=True)]


def _apart(cells: DataFrame, known: Series, version: object) -> Apart:
    own, others = cells[known == version], cells[known != version]
    differing = [name for name in (*ASKED, "code") if not set(own[name].map(str)) & set(others[name].map(str))]
    return Apart(str(version), len(own), tuple(differing))


def _differing(seen: DataFrame, column: str, named: str) -> tuple[str, ...]:
    """The names, of the column `named`, of which what was asked for once has several values of the other column."""
    several = seen.groupby("asked")[column].transform("nunique") > 1
    return tuple(sorted(set(seen.loc[several, named])))


def _machines(seen: DataFrame) -> dict[str, list[str]]:
    """The machines of each version with their Python, as texts; empty where they are the same with all versions."""
    texts = seen["machine"].map(as_text) + " with Python " + seen["python"].map(as_text)
    by_version = {f"torch {version}": sorted(set(group)) for version, group in texts.groupby(seen["version"])}
    return by_version if len(set(map(tuple, by_version.values()))) > 1 else {}


def _changes(versions: Sequence[str], named: DataFrame, outcomes: ndarray, errors: ndarray) -> list[Change]:
    """Cells of one network and history together, then networks with the same methods and history.

    `named` has the `network` and `method` of each line of `outcomes` and `errors`, which have a version a column.
    """
    methods: dict[tuple, dict[str, ndarray]] = defaultdict(dict)
    for network, method, seen, wrong in zip(named["network"], named["method"], outcomes, errors, strict=True):
        kind = _kind(seen)
        if kind is not None:
            methods[kind, network, _stages(seen, wrong)][method] = wrong
    networks: dict[tuple, dict[str, list[ndarray]]] = defaultdict(dict)
    for (kind, network, stages), wrong in methods.items():
        networks[kind, stages, tuple(sorted(wrong))][network] = list(wrong.values())
    found = [
        Change(kind, tuple(sorted(wrong)), names, tuple(_spans(versions, stages, numpy.vstack([*wrong.values()]))))
        for (kind, stages, names), wrong in networks.items()
    ]
    return sorted(found, key=lambda change: (ORDER.index(change.kind), -change.most, change.networks, change.methods))


def _kind(outcomes: Iterable[str]) -> str | None:
    """What kind of change the outcomes are, in the order of the versions; None where there is nothing to report."""
    verdicts = [VERDICTS[seen] for seen in outcomes if seen in VERDICTS]
    runs = [verdict for verdict, _ in groupby(verdicts)]
    if not runs:
        return None
    latest = runs[-1]
    before = next((run for run in reversed(runs) if run not in (latest, NO_RESULT)), None)
    if before is None and runs == [NO_RESULT, latest]:
        before = NO_RESULT
    if before is not None:
        return KINDS[before, latest]
    if latest == "wrong" and verdicts.count("wrong") > 1:
        return ALWAYS
    if len(runs) > 1:
        return RESUMED
    unfinished = any(seen not in VERDICTS and seen not in NOT_COMPARED for seen in outcomes)
    return UNFINISHED if unfinished else None


def _stages(outcomes: Iterable[str], errors: Iterable[float]) -> tuple[tuple[str, int], ...]:
    """The outcome with each version, numbered: versions that are wrong by other errors have other numbers."""
    stages: list[tuple[str, int]] = []
    last = numpy.nan
    for seen, error in zip(outcomes, errors, strict=True):
        number = stages[-1][1] if stages else 0
        other = abs(error - last) > OTHER_ERROR * max(error, last)  # False where an error is not known
        stages.append((seen, number + bool(other)))
        last = error
    return tuple(stages)


def _spans(versions: Sequence[str], stages: Sequence[tuple[str, int]], errors: ndarray) -> Iterator[Span]:
    """Versions in succession at the same stage; `errors` has a version a column."""
    for (same, _), places in groupby(range(len(versions)), key=stages.__getitem__):
        within = list(places)
        known = errors[:, within][~numpy.isnan(errors[:, within])]
        least, most = (known.min(), known.max()) if known.size else (numpy.nan, numpy.nan)
        yield Span(same, tuple(versions[place] for place in within), float(least), float(most))
