"""The harness's plugins of Hydra.

Hydra finds plugins only in the namespace package `hydra_plugins`. So they are in a folder of that name, and
`harness.__main__` puts its parent on sys.path. Hydra's own launcher does not do: it stops at the first cell that cannot
be composed or that fails, and runs each cell without the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, ValueType
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from harness import sweep


class CellSweeper(BasicSweeper):
    """Hydra's own sweeper with three changes.

    A cell that cannot be composed is left to the launcher, which records it as an error. A glob with a slash looks into
    the folders of a group (`problem=glob([mlp*,zoo/l*])`), and a glob that matches nothing is an error. A sweep may
    have several `grids`: the axes of each are combined with `params`, and the cells of all make one sweep.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        grids: list[dict[str, str]] | None = None,
    ) -> None:
        """Keep what the configuration says of the sweep."""
        super().__init__(max_batch_size, params)
        self._grids = grids or [{}]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Accept every cell: the launcher records what cannot be composed."""

    def split_arguments(  # pyright: ignore[reportIncompatibleMethodOverride]: Hydra calls it on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """All cells, each a list of overrides, in batches. `overrides` are `params` and then the command line's."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        common, given = overrides[: len(self.params)], overrides[len(self.params) :]
        cells: dict[tuple[str, ...], None] = {}  # each once, though several grids may have it
        for grid in self._grids:
            axes = parser.parse_overrides([f"{key}={value}" for key, value in grid.items()])
            cells |= dict.fromkeys(map(tuple, _of_grid(common, axes, given)))
        if not cells:
            asked = " ".join(str(override.input_line) for override in given)
            raise HydraException(f"no grid of the sweep has a cell with {asked}")
        return list(self.split_overrides_to_chunks([list(cell) for cell in cells], max_batch_size))


def _of_grid(common: list[Override], axes: list[Override], given: list[Override]) -> list[list[str]]:
    """The cells of a grid whose `axes` replace those in `common`, and are replaced by those that are `given`.

    Where a grid sets options of a group, such as `method.probes`, they are of the files that it chooses there: of a
    `method` that is given it takes those that it has.
    """
    cells = _product([*common, *axes, *given])
    keys = {axis.get_key_element() for axis in axes}
    groups = {key for key in keys if any(other.startswith(f"{key}.") for other in keys)}
    chosen = {choice for cell in _product(axes) for choice in cell if _key(choice) in groups}
    return [cell for cell in cells if all(choice in chosen for choice in cell if _key(choice) in groups)]


def _product(overrides: list[Override]) -> list[list[str]]:
    """All combinations of what some overrides sweep over; of several with one key, the last one counts."""
    for override in overrides:
        glob = override.value()
        if isinstance(glob, Glob):
            override.value_type = ValueType.CHOICE_SWEEP
            override._value = ChoiceSweep(list=list(_matching(override, glob)))
    return BasicSweeper.split_arguments(overrides, None)[0]


def _key(choice: str) -> str:
    return choice.partition("=")[0]


def _matching(override: Override, glob: Glob) -> list[str]:
    """The options of a group that a glob matches: patterns with a slash those in folders, the others those outside."""
    group, loader = override.key_or_group, override.config_loader
    assert loader is not None
    outside = loader.get_group_options(group, ObjectType.CONFIG)
    inside = [
        f"{folder}/{option}"
        for folder in loader.get_group_options(group, ObjectType.GROUP)
        for option in loader.get_group_options(f"{group}/{folder}")
    ]
    found: list[str] = []
    for options, deep in ((outside, False), (inside, True)):
        patterns = [pattern for pattern in glob.include if ("/" in pattern) == deep]
        found += Glob(patterns, glob.exclude).filter(options)
    if not found:
        raise HydraException(f"{override.input_line} matches nothing; there are: {', '.join([*outside, *inside])}")
    return found


class CellLauncher(Launcher):
    """Hands all cells of a sweep to `harness.sweep.run`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands to a launcher."""
        self._loader = hydra_context.config_loader
        self._config = config
        self._callbacks = hydra_context.callbacks

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells; their results are in their records. Callbacks see a failed job where records were lost."""

        def compose(overrides: Sequence[str]) -> DictConfig:
            return self._loader.load_sweep_config(self._config, list(overrides))

        if sweep.lost(sweep.run(job_overrides, compose, Path(self._config.hydra.sweep.dir))):
            self._callbacks.on_job_end(config=self._config, job_return=JobReturn(status=JobStatus.FAILED))
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]


_STORE = ConfigStore.instance()
_STORE.store(
    "cells", {"_target_": "hydra_plugins.harness_launcher.CellLauncher"}, group="hydra/launcher", provider="harness"
)
_STORE.store(
    "cells",
    {"_target_": "hydra_plugins.harness_launcher.CellSweeper", "max_batch_size": None, "params": None, "grids": None},
    group="hydra/sweeper",
    provider="harness",
)
