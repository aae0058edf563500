"""`python -m harness`: one cell, or with `-m` or `+sweep=NAME` many."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness import sweep
from harness.composition import composition
from harness.config import CONF, ConfigError
from harness.plan import plan_of
from harness.run.signals import exit_when_asked


def extend_hydra() -> None:
    """Let Hydra find the harness's plugins, and every entry point of the group `harness.methods` as a method.

    An entry point is named as its method, and leads to a mapping like a YAML file in conf/method.
    """
    plugins = str(Path(__file__).parent / "plugins")
    if plugins not in sys.path:
        sys.path.append(plugins)
    for point in entry_points(group="harness.methods"):
        try:
            ConfigStore.instance().store(point.name, point.load(), group="method", provider=point.value)
        except Exception as error:  # an outside package must not take the harness down
            print(f"entry point {point.name} = {point.value} is left out, it fails to load: {error}", file=sys.stderr)


def run_cell(config: DictConfig) -> None:
    """Run one benchmark cell and show it as a table of one row; exit with 1 unless it is ok."""
    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN  # by a launcher that is not ours
    output = Path(hydra_config.sweep.dir if swept else hydra_config.runtime.output_dir)
    whole = config.copy()
    whole._set_flag("struct", False)
    whole["hydra"] = hydra_config
    try:
        plan = plan_of(composition(whole))
    except ConfigError as error:
        raise SystemExit(f"harness: {error}") from error
    paths = sweep.run_plans([(plan.job.method, plan)], output)
    if swept:
        return
    from harness import record
    from harness.analysis.table import Analysis
    from harness.report.terminal import terminal

    frame = record.load(*paths)
    terminal(Analysis(frame))
    for path in paths:
        print(f"record: {path}")
    if plan.comparison is not None:
        from harness.compare.conclusion import conclude

        raise SystemExit(conclude(plan.comparison, output))
    if not (frame["status"] == "ok").all():
        raise SystemExit(1)


def main() -> None:
    """Entry point."""
    exit_when_asked()
    extend_hydra()
    asked_for_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on; by itself it would print some as tracebacks
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_cell)()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        if asked_for_all:
            raise
        cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
        _fail(f"harness: {error}{cause}")
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            raise
        _fail(ended.code)


def _fail(message: str) -> NoReturn:
    """End with a message, and with 3 where a comparison was asked for: 1 would be a regression."""
    print(message, file=sys.stderr)
    sys.exit(3 if any(entry.startswith("baseline=") for entry in sys.argv[1:]) else 1)


if __name__ == "__main__":
    main()
