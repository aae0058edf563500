"""What changes from one version of torch to the next: where methods are newly wrong, mended, refused or supported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy
from numpy import ndarray
from pandas import DataFrame, Series

from harness.analysis.coverage import methods_of, networks_of
from harness.analysis.reasons import NOT_INSTALLED
from harness.analysis.table import SETTINGS, Analysis
from harness.record.identity import ASKED
from harness.record.torch_version import version_of

OUTCOMES = {
    "wrong": "wrong",
    "nonfinite": "not finite",
    "error": "failed",
    "unsupported": "refused",
    "ok": "right",
    "crashed": "crashed",
    "oom": "out of memory",
    "timeout": "out of time",
}  # of each status; of several cells of one version, the first of these counts
ABSENT, EDITED, NOT_RUN = "not installed", "of another source", "not run"
NOT_COMPARED = (ABSENT, EDITED, NOT_RUN)
VERDICTS = {
    "right": "right",
    "wrong": "wrong",
    "not finite": "wrong",
    "refused": "no result",
    "failed": "no result",
}  # a crash and a limit may be the machine's: they are no verdict on a version

# By the latest verdict and the one before it that differs.
KINDS = {
    ("right", "wrong"): "Newly wrong or not finite",
    ("no result", "wrong"): "Newly supported, but wrong or not finite",
    ("wrong", "right"): "Mended",
    ("wrong", "no result"): "No longer wrong, but without a result",
    ("right", "no result"): "Newly refused or failing",
    ("no result", "right"): "Newly supported",
}
ALWAYS = "Wrong or not finite with every version"
UNFINISHED = "Crashed, out of memory or out of time with some version"
ORDER = [*KINDS.values(), ALWAYS, UNFINISHED]

# Torch decides about these, so that cells are compared over them.
OVER = ("torch", "interpreter", "machine")


@dataclass(frozen=True)
class Span:
    """What was seen with successive versions."""

    outcome: str  # of OUTCOMES, or NOT_COMPARED
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
class Versions:
    """The versions of torch in order, how often each has which outcome, and what changes between them."""

    versions: tuple[str, ...]
    totals: DataFrame  # an outcome a line, a version a column: numbers of cells that two versions or more have run
    changes: list[Change]  # in the order of their kinds; those with the largest errors first
    alone: int  # cells that only one version has run
    edited: tuple[str, ...]  # methods whose source is not the same with every version
    packages: tuple[str, ...]  # methods whose packages have not the same versions with every version of torch
    unsourced: tuple[str, ...]  # versions with verdicts on test networks whose source the record does not know


def versions(analysis: Analysis) -> Versions | None:
    """What changes with torch; None where no cell was run with two versions.

    Cells are compared if they agree in problem, method, every setting and the folder `code`. A cell whose test network
    has another source than with the newest version is not compared; an unknown source is taken to be the same. Cells of
    an unknown version are left out.
    """
    known = analysis.cells["torch"].map(version_of)
    if known.nunique() < 2:
        return None
    seen = _seen(analysis.cells[known.notna()], known.dropna())
    names = tuple(map(str, sorted(seen["version"].unique())))
    found = seen.pivot(index="asked", columns="version", values="outcome").fillna(NOT_RUN)
    compared = ~found.isin(NOT_COMPARED)
    several = compared.sum(axis="columns") > 1
    if not several.any():
        return None
    errors = seen.pivot(index="asked", columns="version", values="error")[several]
    outcomes = found[several]
    newest = seen.drop_duplicates("asked", keep="last").set_index("asked").loc[outcomes.index]
    of_several = seen[seen["asked"].isin(outcomes.index)]
    unsourced = of_several["problem_hash"].isna() & of_several["outcome"].isin(list(VERDICTS))
    return Versions(
        names,
        outcomes.apply(Series.value_counts).reindex([*OUTCOMES.values(), *NOT_COMPARED]).dropna(how="all").fillna(0),
        _changes(names, newest, outcomes.to_numpy(), errors.to_numpy(dtype="float")),
        alone=int((compared.sum(axis="columns") == 1).sum()),
        edited=_differing(of_several, "method_hash"),
        packages=_differing(of_several, "packages"),
        unsourced=tuple(map(str, sorted(of_several.loc[unsourced, "version"].unique()))),
    )


def _seen(cells: DataFrame, known: Series) -> DataFrame:
    """A row for each cell that was asked for and each version of torch, oldest first; `known` has those of the cells.

    `asked` numbers what was asked for, `network` and `method` name it, `outcome` and `error` are what was seen.
    """
    asked = cells.groupby([*ASKED, "code"], dropna=False).ngroup()
    settings = [name for name in (*SETTINGS, "seed") if name not in OVER]
    seen = cells[["method_hash", "problem_hash", "packages"]].assign(
        version=known,
        asked=asked,
        network=networks_of(cells),
        method=methods_of(cells, settings),
        outcome=_outcomes(cells, known, asked),
        error=cells["relative_error"].where(cells["relative_error"] > cells["tolerance"].fillna(0)),
    )
    rank = [*OUTCOMES.values(), *NOT_COMPARED].index
    seen = seen.sort_values(["version", "error"], ascending=[True, False])
    seen = seen.sort_values("outcome", key=lambda outcomes: outcomes.map(rank), kind="stable")
    seen = seen.drop_duplicates(["asked", "version"]).sort_values(["version", "asked"])
    return seen.assign(error=seen["error"].where(seen["outcome"] == "wrong"))


def _outcomes(cells: DataFrame, known: Series, asked: Series) -> Series:
    source = cells["problem_hash"]
    newest = source[known.sort_values(kind="stable").index].groupby(asked).last()
    edited = source.notna() & (source != asked.map(newest))
    absent = cells["message"].fillna("").map(NOT_INSTALLED.search).notna()
    return cells["status"].map(OUTCOMES).mask(absent, ABSENT).mask(edited, EDITED)


def _differing(seen: DataFrame, column: str) -> tuple[str, ...]:
    """The methods of which what was asked for once has several values of the column."""
    several = seen.groupby("asked")[column].transform("nunique") > 1
    return tuple(sorted(set(seen.loc[several, "method"])))


def _changes(versions: Sequence[str], named: DataFrame, outcomes: ndarray, errors: ndarray) -> list[Change]:
    """Cells of one network and history together, then networks with the same methods and history.

    `named` has the `network` and `method` of each line of `outcomes` and `errors`, which have a version a column.
    """
    methods: dict[tuple, dict[str, ndarray]] = defaultdict(dict)
    for network, method, seen, wrong in zip(named["network"], named["method"], outcomes, errors, strict=True):
        kind = _kind(seen)
        if kind is not None:
            methods[kind, network, tuple(seen)][method] = wrong
    networks: dict[tuple, dict[str, list[ndarray]]] = defaultdict(dict)
    for (kind, network, seen), wrong in methods.items():
        networks[kind, seen, tuple(sorted(wrong))][network] = list(wrong.values())
    found = [
        Change(kind, tuple(sorted(wrong)), names, tuple(_spans(versions, seen, numpy.vstack([*wrong.values()]))))
        for (kind, seen, names), wrong in networks.items()
    ]
    return sorted(found, key=lambda change: (ORDER.index(change.kind), -change.most, change.networks, change.methods))


def _kind(outcomes: Iterable[str]) -> str | None:
    """What kind of change the outcomes are, in the order of the versions; None where there is nothing to report."""
    verdicts = [VERDICTS[outcome] for outcome in outcomes if outcome in VERDICTS]
    before = next((verdict for verdict in reversed(verdicts) if verdict != verdicts[-1]), None)
    if before is not None:
        return KINDS[before, verdicts[-1]]
    if verdicts.count("wrong") > 1:
        return ALWAYS
    unfinished = any(outcome not in VERDICTS and outcome not in NOT_COMPARED for outcome in outcomes)
    return UNFINISHED if unfinished and verdicts else None


def _spans(versions: Sequence[str], outcomes: Sequence[str], errors: ndarray) -> Iterator[Span]:
    """Versions in succession with the same outcome; `errors` has a version a column."""
    for outcome, places in groupby(range(len(versions)), key=outcomes.__getitem__):
        within = list(places)
        known = errors[:, within][~numpy.isnan(errors[:, within])]
        least, most = (known.min(), known.max()) if known.size else (numpy.nan, numpy.nan)
        yield Span(outcome, tuple(versions[place] for place in within), float(least), float(most))
