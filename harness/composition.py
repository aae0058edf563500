"""The composed configurations of a sweep's cells, without composing each cell by itself, which takes Hydra 80 ms.

The cells of a sweep are combinations of the overrides on its axes, such as `problem=...` and `method=...`. What one
override changes does mostly not depend on the others: then the configuration of a cell is put together from
configurations that differ from the first cell's on one axis. Where that axis chooses files of a group, Hydra loads all
of them in one composition, each under a key of its own. Where it sets a key to integers, such as `seed=range(1000)`,
Hydra composes the first and the last.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError

Compose = Callable[[Sequence[str]], DictConfig]

VERIFIED = 2  # cells, beside the last, that are composed in full too: overrides may depend on each other unseen
FEW = 4  # files of a group that are composed one by one, which takes no longer
ANY = "*"  # stands for all keys
OUTPUT = "output"  # the run's folder, which is no matter of a cell


@dataclass(frozen=True)
class Composition:
    """A composed configuration as plain values."""

    values: Mapping[str, Any]  # by top-level keys, resolved, without `hydra` and `output`
    choices: Mapping[str, str]  # the chosen file of each group
    refers: Mapping[str, frozenset[str]] = field(compare=False)  # the keys, or ANY, that the value of a key refers to


def composition(config: DictConfig) -> Composition:
    """The plain values of a composed configuration with its hydra node; raises ConfigError."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    raw = OmegaConf.to_container(own)
    try:
        resolved = OmegaConf.to_container(own, resolve=True)
    except Exception as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(raw, dict)
    assert isinstance(resolved, dict)
    return Composition(
        values={str(key): value for key, value in resolved.items() if key != OUTPUT},
        choices=dict(config.hydra.runtime.choices),
        refers={str(key): frozenset(_referred(value)) for key, value in raw.items() if key != OUTPUT},
    )


def _referred(raw: Any) -> Iterator[str]:
    """The top-level keys that the interpolations in an unresolved value refer to; ANY where that cannot be told."""
    if isinstance(raw, dict | list):
        for entry in raw.values() if isinstance(raw, dict) else raw:
            yield from _referred(entry)
    elif isinstance(raw, str) and "${" in raw:
        names = re.findall(r"\$\{(\w+)[\w.]*\}", raw)
        yield from names if len(names) == raw.count("${") else [ANY]


class Compositions:
    """The compositions of cells, each given by its overrides; for all of them the same keys in the same order."""

    def __init__(self, cells: Sequence[Sequence[str]], compose: Compose) -> None:
        self._compose = compose
        self._known: dict[tuple[str, ...], Composition | None] = {}
        self._first = tuple(cells[0]) if cells else ()
        self._parts = self._independent(cells)
        drawn = random.Random(0).sample(cells, min(VERIFIED, len(cells)))
        if not all(self._is_right(cell) for cell in [*cells[-1:], *drawn]):  # the last differs most from the first
            self._parts = None
            self._known = {}

    def of(self, overrides: Sequence[str]) -> Composition:
        """The composition of a cell; raises what composing it raises."""
        found = self._put_together(overrides) or self._composed(overrides)
        return found or composition(self._compose(overrides))

    def _is_right(self, cell: Sequence[str]) -> bool:
        """Whether a cell that is put together is as Hydra composes it, with values of the same types."""
        together = self._put_together(cell)
        if together is None:
            return True
        alone = _alone(self._compose, cell)
        return alone is not None and not _difference(together, alone)

    def _composed(self, overrides: Sequence[str]) -> Composition | None:
        """The composition of a cell by Hydra, once or with other files of its group; None where it fails."""
        key = tuple(overrides)
        if key not in self._known:
            self._known[key] = _alone(self._compose, key)
        return self._known[key]

    def _put_together(self, overrides: Sequence[str]) -> Composition | None:
        """The composition of a cell from those of its parts; None where these fail, or do not tell it."""
        base = self._composed(self._first)
        if self._parts is None or base is None:
            return None
        values, choices = dict(base.values), dict(base.choices)
        for positions, keys in self._parts:
            part = self._composed(self._changed(positions, overrides))
            if part is None:
                return None
            values = {key: value for key, value in values.items() if key not in keys}
            values |= {key: value for key, value in part.values.items() if key in keys}
            choices = {group: choice for group, choice in choices.items() if f"choice {group}" not in keys}
            choices |= {group: choice for group, choice in part.choices.items() if f"choice {group}" in keys}
        return Composition(values, choices, base.refers)

    def _changed(self, positions: Collection[int], overrides: Sequence[str]) -> tuple[str, ...]:
        """The first cell's overrides, with another cell's at some positions."""
        return tuple(overrides[at] if at in positions else own for at, own in enumerate(self._first))

    def _independent(self, cells: Sequence[Sequence[str]]) -> list[tuple[frozenset[int], set[str]]] | None:
        """The groups of axes that change different keys, and the keys that they change; None where this is not known.

        An axis is a position in the overrides. It changes a key too if that refers to a key that it changes.
        """
        base = self._composed(self._first)
        if base is None or any(len(cell) != len(self._first) for cell in cells):
            return None
        on_axis: dict[int, list[Composition]] = {}
        for position in range(len(self._first)):
            changed_here = [self._changed([position], cell) for cell in _differing_at(position, cells)]
            if len(changed_here) > FEW:
                self._known |= _of_files(self._compose, base, position, changed_here)
                self._known |= _of_numbers(self._compose, base, position, changed_here)
            alone = [self._composed(overrides) for overrides in changed_here]
            if len(alone) > 1:
                on_axis[position] = [found for found in alone if found is not None]
        refers: dict[str, set[str]] = {}
        for found in (base, *(found for alone in on_axis.values() for found in alone)):
            for key, names in found.refers.items():
                refers.setdefault(key, set()).update(names)
        parts: list[tuple[frozenset[int], set[str]]] = []
        for position, alone in on_axis.items():
            changed = set().union(*(_difference(base, found) for found in alone))
            own = f"choice {self._first[position].lstrip('+').partition('=')[0]}"
            if ANY in changed or any(key.startswith("choice ") and key != own for key in changed):
                return None  # a file that the axis chooses unseen may hold anything
            keys = _with_referring(changed, refers)
            joined = [part for part in parts if part[1] & keys]
            parts = [part for part in parts if part not in joined]
            parts.append(
                (frozenset({position}.union(*(at for at, _ in joined))), keys.union(*(own for _, own in joined)))
            )
        return parts


def _alone(compose: Compose, overrides: Sequence[str]) -> Composition | None:
    """What Hydra composes of overrides; None where it fails."""
    try:
        return composition(compose(overrides))
    except Exception:  # Hydra's, OmegaConf's and our own have no common base
        return None


def _of_files(
    compose: Compose, base: Composition, position: int, cells: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Composition]:
    """The compositions of cells that differ in one override, the chosen file of a group; `base` is the first's.

    Empty unless each file changes the key of its group and nothing else, and depends on nothing else of it.
    """
    group = cells[0][position].partition("=")[0]
    names = [overrides[position].removeprefix(f"{group}=") for overrides in cells]
    others = [override for at, override in enumerate(cells[0]) if at != position]
    is_set_elsewhere = any(re.match(rf"[+~]*{re.escape(group)}\b", override) for override in others)
    are_files = group in base.choices and all(re.fullmatch(r"[a-zA-Z]\w*(/\w+)*", name) for name in names)
    if is_set_elsewhere or not are_files:
        return {}
    keys = [f"{group}_{number}" for number in range(len(names))]
    added = [f"+{group}@{key}={name}" for key, name in zip(keys, names, strict=True)]
    every = _alone(compose, [*cells[0], *added])
    without = _alone(compose, [*others, f"~{group}"])
    if every is None or without is None:
        return {}
    before = without.values.get(group, {})  # what the primary configuration says of the group
    loaded = [every.values.get(key) for key in keys]
    if not isinstance(before, dict) or not all(_is_of(group, options) for options in loaded):
        return {}
    outside = {key: value for key, value in every.values.items() if key not in keys}
    placed = {f"{group}@{key}" for key in keys}
    choices = {chosen: name for chosen, name in every.choices.items() if chosen not in placed}
    referred = set().union(*(every.refers[key] for key in keys))
    if repr(outside) != repr(base.values) or choices != base.choices or referred & {group, ANY, *keys}:
        return {}
    found = {
        overrides: Composition(
            {**base.values, group: OmegaConf.to_container(OmegaConf.merge(before, options))},
            {**base.choices, group: name},
            {**base.refers, group: every.refers[key] | without.refers.get(group, frozenset())},
        )
        for overrides, key, name, options in zip(cells, keys, names, loaded, strict=True)
    }
    return found if repr(found[cells[0]].values) == repr(base.values) else {}


def _of_numbers(
    compose: Compose, base: Composition, position: int, cells: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Composition]:
    """The compositions of cells that differ in one override, the integer of a key; `base` is the first's.

    Empty unless the last of them, composed in full, differs from the first in that value and nothing else.
    """
    key = cells[0][position].partition("=")[0]
    numbers = [overrides[position].removeprefix(f"{key}=") for overrides in cells]
    if key not in base.values or not all(re.fullmatch(r"0|-?[1-9][0-9]*", number) for number in numbers):
        return {}
    found = {
        overrides: Composition({**base.values, key: int(number)}, base.choices, base.refers)
        for overrides, number in zip(cells, numbers, strict=True)
    }
    composed = {cells[0]: base, cells[-1]: _alone(compose, cells[-1])}
    is_so = all(alone is not None and not _difference(found[cell], alone) for cell, alone in composed.items())
    return found if is_so else {}


def _is_of(group: str, options: Any) -> bool:
    """Whether what a file says is of its group, not of the whole configuration (`@package _global_`)."""
    return isinstance(options, dict) and "_target_" in options and group not in options


def _differing_at(position: int, cells: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """A cell for each override that cells have at a position."""
    return list({cell[position]: cell for cell in cells}.values())


def _difference(one: Composition, other: Composition) -> set[str]:
    """The keys, and the choices, in which two compositions differ; ANY where one has a choice that the other lacks.

    A group that only some files choose from may depend on other choices.
    """
    if one.choices.keys() != other.choices.keys():
        return {ANY}
    keys = {key for key in one.values.keys() | other.values.keys() if not _equal(one.values, other.values, key)}
    return keys | {f"choice {group}" for group, choice in one.choices.items() if other.choices[group] != choice}


def _equal(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two compositions have the same value of a key, of the same types: 1 is neither 1.0 nor true."""
    return key in one and key in other and repr(one[key]) == repr(other[key])


def _with_referring(keys: set[str], refers: Mapping[str, set[str]]) -> set[str]:
    """The keys, and those whose values refer to them, directly or by others."""
    while keys and (more := {key for key, names in refers.items() if names & (keys | {ANY})} - keys):
        keys = keys | more
    return keys
