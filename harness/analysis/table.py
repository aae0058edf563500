"""The prepared table: what every table, figure and verdict is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pandas
from pandas import DataFrame, Series

from harness import findings
from harness.analysis.intervals import interval
from harness.analysis.quantities import asked_of_quantity, ranked
from harness.record import identity, plain
from harness.record.names import filled
from harness.text import as_text

# Job fields and facts of which each value is a group of its own; a second name is the column that already tells
# one value from another most of the time (each interpreter has its torch, each device its machine).
SETTINGS = {
    "dtype": None,
    "device": None,
    "threads": None,
    "ranks": None,
    "mode": None,
    "allocator": None,
    "memory_limit": None,
    "torch": None,
    "interpreter": "torch",
    "machine": "device",
    "code": None,
}

APPROXIMATE = "approximate"  # status of a row whose method approximates by design: no other method is compared with it
SIZED_BY = ("subset", "parameters", "wrt", "per_sample")  # what P depends on beside the problem
PLAIN = "null"  # the mode of torch as it is
COMMIT = "commit "  # before the commit of a folder `code`

# What makes a cell: prepared rows that agree in these are the same cell, run in different processes.
OTHERWISE = {"memory_limit_gb": "memory_limit", "processes": "ranks"}  # columns of a record that have another name here
CELL = [OTHERWISE.get(name, name) for name in identity.CELL]
MEASURES = [
    "params",
    "median_s",
    "first_s",
    "gradients",
    "tensor_peak_bytes",
    "tensor_peak_outputs",
    "process_peak_bytes",
    "process_peak_outputs",
    "relative_error",
    "gemm_equivalents",
    "write_multiples",
]
ONCE = ["tensor_peak_bytes", "relative_error"]  # drawn, and measured in few of a cell's processes, or one
# Words of a warning that the result may not be what was meant.
DOUBT = "incorrect|wrong|silently|undefined behavio|not be correct|unreliable|inaccurate"
VERDICT = ["status", "message", "traceback", "warning"]  # of one process, and of no other


class Analysis:
    """What a frame of `harness.record.load` says, prepared once for every table, figure and verdict.

    Whoever is given an Analysis reads its tables and changes none.
    """

    def __init__(self, frame: DataFrame) -> None:
        self.frame = frame

    @cached_property
    def rows(self) -> DataFrame:
        """A row a record: the frame with its gaps filled, and names fit to group and show (see `_prepared`)."""
        return _prepared(self.frame)

    @cached_property
    def ranked(self) -> DataFrame:
        """The rows whose times compare: not those of estimates, which may be of any accuracy."""
        return self.rows[self.rows["ranked"]]

    @cached_property
    def cells(self) -> DataFrame:
        """A row a benchmark cell: medians and intervals over the processes that ran it (see `_over_processes`)."""
        return _over_processes(self.rows)

    @cached_property
    def settings(self) -> list[str]:
        """The settings in which the rows differ (see `differing`)."""
        return differing(self.rows)

    @cached_property
    def environment(self) -> str:
        """One line: torch, machine, threads, allocator, dtype and a mode of torch, several of one with slashes."""
        return _environment(self.rows)

    def environment_of(self, cells: DataFrame) -> str:
        """The same of some benchmark cells."""
        return _environment(self.rows_of(cells))

    def rows_of(self, cells: DataFrame) -> DataFrame:
        """The rows of these benchmark cells, one for each process that ran them."""
        return self.rows[self.rows["cell"].isin(cells["cell"])]

    def cells_of(self, rows: DataFrame, columns: Sequence[str]) -> DataFrame:
        """The benchmark cells that these rows are of, with these columns of a hundred."""
        return self.cells.loc[self._places.loc[rows["cell"].unique()].sort_values(), list(columns)]

    @cached_property
    def _places(self) -> Series:
        """The place of each benchmark cell in `cells`, by its number."""
        return Series(self.cells.index, self.cells["cell"])


def _prepared(frame: DataFrame) -> DataFrame:
    """A copy of a frame of `harness.record.load`, made fit to group and show.

    Null names become "?". What is null where a cell failed early (P, the functions of problem and method, torch,
    packages, machine) is taken from the rows of the same problem, method, interpreter or device where those agree, and
    what is measured ONCE from the other processes of the cell. `problem` is the problem's name, `family` that of the
    builder which it shares with other named problems (`mlp` of `mlp_500` and `mlp_2000`); these and `quantity` get what
    tells their rows apart other than by size (`mlp norm=layer`, `hvp vectors=8`, `hessian subset=64`). JSON has its
    keys in order. `ranked` is false of a method whose results state an error: estimates, whose times do not compare.
    `machine` is the GPU, or else the CPU with its cores, `mode` PLAIN for torch as it is, `memory_limit`
    the limit as text, `ranks` how many processes computed one result, `code` own, or of a folder of that name
    `commit 1a2b3c4d` or its path. An approximation that is ok has the status APPROXIMATE. `warning` is what the atlas
    knows against the row, `doubted` whether it was warned that its result may be wrong, `cell` the number of its cell,
    `commits` how many commits of the harness itself ran that.
    """
    rows = frame.reset_index(drop=True)
    rows.attrs = {}  # pandas copies them, all names of what was skipped, with every group and column
    for column in ("problem", "quantity", "label", "device", "dtype", "allocator"):
        rows[column] = rows[column].astype("object").fillna("?")
    composed = rows["threads"].notna()
    rows["interpreter"] = rows["interpreter"].astype("object").fillna("own")
    rows["code"] = _codes(rows).where(composed, "?")
    rows["mode"] = rows["mode"].astype("object").fillna(PLAIN).where(composed, "?")
    limit = rows["memory_limit_gb"].map("{:g} GB".format, na_action="ignore").astype("object").fillna("none")
    rows["ranks"] = rows["processes"].astype("object").where(composed, "?")
    rows["memory_limit"] = limit.where(composed, "?")
    rows["machine"] = rows["gpu"].astype("object").fillna(_processors(rows))
    for column in identity.JSON:
        rows[column] = rows[column].map({text: identity.ordered(text) for text in rows[column].dropna().unique()})
    rows["problem_target"] = filled(rows, "problem_target", ["problem"])
    rows["target"] = filled(rows, "target", ["method", "quantity"])
    rows["params"] = filled(rows, "params", [*identity.PROBLEM, *SIZED_BY])
    rows["torch"] = filled(rows, "torch", ["interpreter"])
    rows["packages"] = filled(rows, "packages", ["method", "interpreter"])
    rows["machine"] = filled(rows, "machine", ["device"])
    rows["problem"] = rows["problem_name"].astype("object").fillna("?")
    rows["family"] = _told_apart(rows, _families(rows))
    rows["problem"] = _told_apart(rows, rows["problem"])
    rows["warning"] = _warnings(rows)
    rows["doubted"] = rows["warnings"].fillna("").str.contains(DOUBT, case=False, regex=True)
    rows["ranked"] = ranked(rows)
    rows["quantity"] += asked_of_quantity(rows)
    rows["cell"] = rows.groupby(CELL, dropna=False).ngroup()
    for column in ONCE:
        rows[column] = rows[column].where(rows["status"] != "ok", filled(rows, column, ["cell", "commit"]))
    approximate = filled(rows, "approximation", ["cell", "commit"]).eq(True)
    rows["status"] = rows["status"].mask(rows["status"].eq("ok") & approximate, APPROXIMATE)
    rows["commits"] = rows["commit"].where(rows["code"] == "own").groupby(rows["cell"]).transform("nunique")
    return rows


def _warnings(rows: DataFrame) -> Series:
    """What the atlas knows against each row, asked once for all rows that agree in what it judges by."""
    judged = rows[list(findings.JUDGED)]
    alike = judged.groupby(list(judged), dropna=False).ngroup()
    distinct = judged[~alike.duplicated()]
    found = map(findings.warning, distinct.to_dict("records"))
    return alike.map(dict(zip(alike[distinct.index], found, strict=True))).astype("object")


def _over_processes(rows: DataFrame) -> DataFrame:
    """One row a cell out of prepared rows: medians over the processes (rounds) that ran it.

    Adds `runs`, the number of processes (rounds), `low_s` and `high_s`, the interval of the time. Status and message
    are those of the first process that was not ok, or of the first; so is all else, and where that one did not measure
    it, it is of the first that did. A cell is contended if any process was.
    """
    if not rows.duplicated("cell").any():
        return rows.assign(runs=1, low_s=rows["median_s"], high_s=rows["median_s"])
    failed_first = rows.sort_values("status", key=lambda status: status.eq("ok"), kind="stable")
    known = failed_first.groupby(failed_first["cell"].to_numpy()).first()  # of each column the first that is not null
    by_cell = rows.astype(dict.fromkeys(MEASURES, "float")).groupby("cell")
    intervals = DataFrame(
        [interval(times) for _, times in by_cell["median_s"]], columns=["low_s", "high_s"], index=known.index
    )
    parts = [
        failed_first.drop_duplicates("cell").set_index("cell")[VERDICT],
        by_cell[MEASURES].median(),
        by_cell["contended"].any(),
        by_cell.size().rename("runs"),
        intervals,
    ]
    replaced = [*VERDICT, *MEASURES, "contended"]
    cells = pandas.concat([known.drop(columns=replaced), *parts], axis=1)
    columns = [*rows, "runs", *intervals]
    cells = cells.loc[rows["cell"].drop_duplicates(), columns].reset_index(drop=True)
    return cells.copy()  # in one piece, as in `harness.record.frame`


def differing(rows: DataFrame, settings: Sequence[str] = tuple(SETTINGS)) -> list[str]:
    """The settings in which prepared rows differ, and that no setting before them tells."""
    found = []
    for column in settings:
        within = SETTINGS.get(column)
        known = rows[rows[column] != "?"]
        counts = known[column].nunique() if within is None else known.groupby(within)[column].nunique().max()
        if counts > 1:
            found.append(column)
    return found


def setting(column: str, value: Any) -> str:
    """One setting's value as text: some speak for themselves, others need their name."""
    text = as_text(value)
    name = "processes" if column == "ranks" else column
    return text if column in ("dtype", "device", "machine") or text.startswith(COMMIT) else f"{name} {text}"


def differing_options(options: Series) -> Series:
    """Of each JSON object those entries in which they differ: `budget_s=0.5`; null where there is none."""
    known = options.dropna().unique()
    texts = DataFrame([options_of(text) for text in known], index=known).fillna("null")
    texts = texts.loc[:, texts.nunique() > 1]
    told = texts.apply(lambda row: " ".join(f"{key}={value}" for key, value in row.items()), axis=1)
    return options.astype("object").map(told.astype("object").to_dict())


def _environment(rows: DataFrame) -> str:
    """One line: the torch version, machine, threads, allocator and dtype of prepared rows; several with slashes.

    And the modes of torch, where some row has one; how many commits of the harness ran one cell, where several did.
    """
    parts, modes = [], [] if set(rows["mode"]) <= {PLAIN, "?"} else ["mode"]
    for column in ("torch", "machine", "threads", "allocator", "dtype", *modes):
        values = sorted(set(rows[column].dropna()) - {"?"})
        shown = " / ".join(f"{value:g}" if pandas.api.types.is_number(value) else plain(value) for value in values)
        parts.append(shown if shown and column in ("machine", "dtype") else f"{column} {shown or 'unknown'}")
    if (rows["commits"] > 1).any():
        parts.append(f"cells of up to {rows['commits'].max():.0f} commits of the harness taken together")
    return ", ".join(parts)


def _codes(rows: DataFrame) -> Series:
    """Whose code ran each row: `commit 1a2b3c4d`, the path of a folder that is at no commit, or own."""
    commit, dirty = filled(rows, "commit", ["code"]), filled(rows, "dirty", ["code"])
    clean = commit.notna() & ~dirty.eq(True)
    codes = (COMMIT + commit.astype("object").str[:8]).where(clean, rows["code"])
    return codes.where(rows["code"].notna(), "own")


def _processors(rows: DataFrame) -> Series:
    """The CPU, and how many of its cores the process may use, where that is known."""
    cores = rows["cores"].map(lambda count: f", {count:.0f} core{'s' if count != 1 else ''}", na_action="ignore")
    return rows["cpu"].astype("object") + cores.astype("object").fillna("")


def _families(rows: DataFrame) -> Series:
    """The name of each row's builder, where several named problems of conf/problem share it; else the problem's name.

    Where an old record does not know the builder, names that differ in a number at their end share it (`mlp_500`,
    `mlp_2000`). The test networks of conf/problem/zoo are problems of their own, whatever builds them.
    """
    stems = rows["problem"].str.replace(r"_\d+$", "", regex=True)
    builders = rows["problem_target"].astype("object").fillna(stems)
    builders = builders.mask(rows["problem"].str.contains("/") | (rows["problem"] == "?"))
    several = rows.groupby(builders)["problem"].nunique() > 1
    shared = builders.map(several).eq(True)
    return rows["problem"].mask(shared, builders.map(lambda path: path.rpartition(".")[2], na_action="ignore"))


def _told_apart(rows: DataFrame, names: Series) -> Series:
    """The names with the options of the problem that differ among rows of one name, other than in size.

    An option is one of size if its values are numbers and no two of them give the same P, among rows of the same
    variables (SIZED_BY). Where P is unknown, the options of size are shown too.
    """
    variables = rows.groupby(list(SIZED_BY), dropna=False).ngroup()
    every = rows[["problem_options", "params"]].assign(variables=variables, name=names)
    alike = every.groupby(list(every), dropna=False).ngroup()
    distinct = every[~alike.duplicated()]
    shown = distinct["name"].copy()
    for _, group in distinct.groupby("name"):
        texts = DataFrame([options_of(text) for text in group["problem_options"]], index=group.index)
        texts = texts[group["problem_options"].notna()].fillna("null")
        variables, params = (group.loc[texts.index, column].fillna(0) for column in ("variables", "params"))
        for key in texts.columns[texts.nunique() > 1]:
            numbers = texts[key].str.fullmatch(r"-?[\d.e+-]+").all()
            several = texts[key].groupby([variables, params]).transform("nunique").mask(params == 0, 0) > 1
            telling = several.groupby(variables).transform("any") | (not numbers) | (params == 0)
            values = f" {key}=" + texts[key].str.strip('"')
            shown.loc[texts.index] += values.where(telling, "")
    return alike.map(dict(zip(alike[distinct.index], shown, strict=True))).astype("object")


def options_of(text: object) -> dict[str, str]:
    """Each option's value as JSON; none where the text is no JSON object."""
    try:
        options = json.loads(str(text))
    except ValueError:
        return {}
    if not isinstance(options, dict):
        return {}
    return {key: json.dumps(value, sort_keys=True) for key, value in options.items()}
