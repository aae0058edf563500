"""Which records of a baseline and of a candidate are of the same cell, and what that is called."""

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

    A cell is what was asked. How it was sampled is part of it only where one of the frames has it in several ways;
    where they differ in that, their times do not compare, and all else does. Rounds, and the code and the interpreter
    that ran them, are what is compared.
    """
    both = pandas.concat([base, candidate], ignore_index=True)
    both = both.assign(problem_name=problem_names(both), label=method_labels(both))
    shown = Analysis(both).rows
    known = both.assign(**{name: shown[name] for name in ("problem_target", "target")})
    asked = _canonical(known, ASKED)
    sampled = _canonical(known, SAMPLED)
    of_base = Series(both.index < len(base), index=both.index)
    several = sampled.groupby([asked, of_base]).transform("nunique").gt(1).groupby(asked).transform("any")
    parts = zip(asked, sampled, several, strict=True)
    keys = Series([(what, how if apart else None) for what, how, apart in parts], index=both.index, dtype="object")
    cells = _names(shown, keys)
    told = DataFrame({"key": keys, "cell": cells})
    first, second = told[of_base].set_index(base.index), told[~of_base].set_index(candidate.index)
    return base.join(first), candidate.join(second)


def _canonical(rows: DataFrame, columns: tuple[str, ...]) -> Series:
    """One value a row, the same for rows that agree in all these columns."""
    values: list[Hashable] = [
        tuple(map(canonical, columns, row)) for row in rows[list(columns)].itertuples(index=False, name=None)
    ]
    return Series(values, index=rows.index, dtype="object")


def _names(shown: DataFrame, keys: Series) -> Series:
    """What each row's cell is called; where several would have one name, with the settings that tell them apart."""
    size = shown["params"].map("P={:.0f}".format, na_action="ignore").astype("object")
    problem = shown["problem"].where(size.isna(), shown["problem"] + " " + size.fillna(""))
    names = problem + ", " + shown["label"] + ", " + shown["quantity"] + ", " + shown["dtype"] + ", " + shown["device"]
    for _, rows in names.groupby(names):
        if keys[rows.index].nunique() < 2:
            continue
        for column in (*ASKED, *SAMPLED):
            column = "memory_limit" if column == "memory_limit_gb" else column
            if shown.loc[rows.index, column].nunique(dropna=False) > 1:
                told = shown.loc[rows.index, column].map(lambda value, column=column: setting(column, value))
                names[rows.index] += ", " + told
    return names.map(plain)
