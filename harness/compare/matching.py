"""Which records of a baseline and of a candidate are of the same benchmark cell, and the cell's name."""

from __future__ import annotations

from collections.abc import Hashable

import pandas
from pandas import DataFrame, Series

from harness.analysis.table import Analysis, setting
from harness.record import plain
from harness.record.identity import ASKED, SAMPLED, canonical
from harness.record.names import method_labels, problem_names


def named(base: DataFrame, candidate: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Both frames with columns `key`, equal for rows of the same cell, and `cell`, its name.

    Two records are of one cell if they agree in ASKED. They must agree in SAMPLED only if the baseline or the candidate
    has that cell with several values of it; else only their times do not compare. Rounds, code and interpreters belong
    to no cell: they are what is compared.
    """
    both = pandas.concat([base, candidate], ignore_index=True)
    both = both.assign(problem_name=problem_names(both), label=method_labels(both))
    shown = Analysis(both).rows
    known = both.assign(**{name: shown[name] for name in ("problem_target", "target")})
    asked = _canonical(known, ASKED)
    sampled = _canonical(known, SAMPLED)
    of_base = Series(both.index < len(base), index=both.index)
    several = sampled.groupby([asked, of_base]).transform("nunique").gt(1).groupby(asked).transform("any")
    keys = Series(list(zip(asked, sampled.where(several, None), strict=True)), index=both.index, dtype="object")
    added = DataFrame({"key": keys, "cell": _names(shown, keys)})
    of_baseline, of_candidate = added[of_base].set_index(base.index), added[~of_base].set_index(candidate.index)
    return base.join(of_baseline), candidate.join(of_candidate)


def _canonical(rows: DataFrame, columns: tuple[str, ...]) -> Series:
    """A value for each row, the same for rows that agree in all these columns."""
    values: list[Hashable] = [
        tuple(map(canonical, columns, row)) for row in rows[list(columns)].itertuples(index=False, name=None)
    ]
    return Series(values, index=rows.index, dtype="object")


def _names(shown: DataFrame, keys: Series) -> Series:
    """The name of each row's cell; where several cells would share a name, with the settings in which they differ."""
    size = shown["params"].map("P={:.0f}".format, na_action="ignore").astype("object")
    problem = shown["problem"].where(size.isna(), shown["problem"] + " " + size.fillna(""))
    names = problem + ", " + shown["label"] + ", " + shown["quantity"] + ", " + shown["dtype"] + ", " + shown["device"]
    for _, rows in names.groupby(names):
        if keys[rows.index].nunique() < 2:
            continue
        for column in (*ASKED, *SAMPLED):
            column = "memory_limit" if column == "memory_limit_gb" else column  # the same as text
            values = shown.loc[rows.index, column]
            if values.nunique(dropna=False) > 1:
                names[rows.index] += ", " + values.map(lambda value, column=column: setting(column, value))
    return names.map(plain)
