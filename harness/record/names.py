"""Names of the problems and methods in a table of records: short, and different for different ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from harness.record.checks import options

if TYPE_CHECKING:
    import pandas

CUSTOM = "custom"  # the problem of conf/problem that is called by the name of its function


def problem_name(problem: str, target: str | None) -> str:
    """The name of one problem: that of its file in conf/problem, or of its function if it is a custom one."""
    return target.rpartition(".")[2] if problem == CUSTOM and target else problem


def problem_names(frame: pandas.DataFrame) -> pandas.Series:
    """The name of each row's problem; of several problems with one name, with the end of the function's path.

    A problem of conf/problem keeps its name if only a custom function shares it.
    """
    targets = filled(frame, "problem_target", ["problem"])
    known = [
        (str(problem), target if isinstance(target, str) else None)
        for problem, target in zip(frame["problem"], targets, strict=True)
    ]
    names = _distinct_names(set(known))
    return frame["problem"].mask(frame["problem"].notna(), [names[problem] for problem in known])


def _distinct_names(problems: Collection[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """The name of each problem, given by its file in conf/problem and its function's path."""
    called: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for problem, target in problems:
        called[problem_name(problem, target)].append((problem, target))
    names: dict[tuple[str, str | None], str] = {}
    for name, same in called.items():
        ends = endings({target for _, target in same if target is not None}, least=2)
        of_conf = sum(problem != CUSTOM and target is not None for problem, target in same)
        for problem, target in same:
            names[problem, target] = name
            if target is not None and problem == CUSTOM and len(same) > 1:
                names[problem, target] = ends[target]
            elif target is not None and problem != CUSTOM and of_conf > 1:
                names[problem, target] = f"{name} {ends[target]}"
    return names


def method_labels(frame: pandas.DataFrame) -> pandas.Series:
    """The method's name, with its function or options where its rows differ in these: `vmap_hvp chunk_size=8`.

    Functions differ if several compute one quantity. The last part of a function's path is left out if it is the name
    of the quantity.
    """
    targets = filled(frame, "target", ["method", "quantity"])
    labels = frame["method"].astype("object").copy()
    for (method, quantity), rows in frame.groupby(["method", "quantity"]):
        paths = targets[rows.index].dropna().str.removesuffix(f".{quantity}")
        ends = endings(set(paths))
        if len(ends) > 1:
            labels[paths.index] = [f"{method} {ends[path]}" for path in paths]
    for _, rows in frame.groupby("method"):
        texts = [text if isinstance(text, str) else None for text in rows["method_options"]]
        found = {text: options(text) for text in dict.fromkeys(texts)}
        differing = [
            key
            for key in dict.fromkeys(key for option in found.values() for key in option)
            if len({json.dumps(option.get(key), sort_keys=True) for option in found.values()}) > 1
        ]
        ends = {text: "".join(f" {key}={option.get(key)}" for key in differing) for text, option in found.items()}
        labels[rows.index] = [f"{label}{ends[text]}" for label, text in zip(labels[rows.index], texts, strict=True)]
    return labels


def endings(paths: Collection[str], least: int = 1) -> dict[str, str]:
    """The shortest end of each dotted path, of `least` parts or more, that no other path has.

    Those of `a.x.f`, `b.x.f` and `c.g` are `a.x.f`, `b.x.f` and `g`.
    """
    parts = {path: path.split(".") for path in paths}
    found = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        sizes = (size for size in range(least, len(own)) if all(other[-size:] != own[-size:] for other in others))
        found[path] = ".".join(own[-next(sizes, len(own)) :])
    return found


def filled(frame: pandas.DataFrame, column: str, by: Sequence[str]) -> pandas.Series:
    """The column, with a gap filled if all rows with the same values of `by` agree on one value.

    Records lack fields if their cell failed early, or if their schema is older than the field.
    """
    gaps = frame[column].isna()
    if not gaps.any():
        return frame[column]
    of_key = frame[column].groupby([frame[name].astype("str") for name in by], dropna=False)
    agreed = of_key.transform("first").where(of_key.transform("nunique") == 1)
    return frame[column].mask(gaps & agreed.notna(), agreed)
