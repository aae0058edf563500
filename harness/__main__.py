"""`python -m harness`: one cell, or with `-m` or `+sweep=NAME` many."""

from __future__ import annotations

import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness import program, record, sweep
from harness.composition import composition
from harness.config import CONF, ConfigError
from harness.plan import plan_of
from harness.run_folder import axes

PRIMARY = "config"  # the primary config, without its .yaml


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
    lost = sweep.lost(paths)
    kept = [path for path in paths if path not in lost]
    if swept and not lost:
        return
    if plan.comparison is None:
        if not _show(kept) or lost:
            raise SystemExit(1)
        return
    from harness.compare.conclusion import conclude

    try:
        conclusion = conclude(plan.comparison, output)
    finally:  # the files come first: printing may wait for its reader
        _show(kept)
    raise SystemExit(conclusion.show() or (3 if lost else 0))


def _show(paths: Sequence[Path]) -> bool:
    """Print the table of some records and their files; whether there are any, and all are ok."""
    from harness.analysis.table import Analysis
    from harness.report.terminal import terminal

    if not paths:
        return False
    frame = record.load(*paths)
    terminal(Analysis(frame))
    for path in paths:
        print(f"record: {path}")
    return bool((frame["status"] == "ok").all())


def main() -> int:
    """Run what the command line asks for; the exit status."""
    extend_hydra()
    options, unknown = get_args_parser().parse_known_args()
    if unknown:
        options.overrides += unknown
        hint = "a flag is not known, or stands between keys; write flags first, as --help lists them"
        return _failed(f"harness: {' '.join(unknown)} cannot be read: {hint}", options)
    asked_for_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on; by itself it would print some as tracebacks
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=PRIMARY)(run_cell)()
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            raise
        return _failed(ended.code, options)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        return _failed(traceback.format_exc() if asked_for_all else f"harness: {_explained(error, options)}", options)
    except record.RecordError as error:
        return _failed(f"harness: {error}", options)
    except Exception:
        return _failed(traceback.format_exc(), options)
    return 0


def _explained(error: Exception, options: Namespace) -> str:
    """The message of an error of Hydra's or OmegaConf's, in the words of this command where an option does not exist.

    Of a sweep, Hydra first composes a configuration without the values that vary: an option with a single value is then
    set on the default method, whichever methods the sweep has.
    """
    unknown = re.search(r"Could not override '(?P<key>(?P<group>method|problem)\.[^']+)'", str(error))
    if unknown is None:
        return str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    key, group = unknown["key"], unknown["group"]
    text = next((override for override in options.overrides if override.startswith(f"{key}=")), key)
    value = text.partition("=")[2]
    if options.multirun or any(override.startswith("+sweep=") for override in options.overrides):
        advice = f"a sweep sets a single value before it chooses a {group}, so write {key}=choice({value})"
    else:
        advice = f"conf/{group}/NAME.yaml lists those of {group}=NAME, and +{text} adds one"
    return f"{text}: there is no such option of the {group}; {advice}"


def _failed(message: str, options: Namespace) -> int:
    """Print a message; the exit status: 3 where a comparison was asked for, since 1 would be a regression."""
    print(message, file=sys.stderr)
    return 3 if _has_baseline(options) else 1


def _has_baseline(options: Namespace) -> bool:
    """Whether the merged configuration has a baseline.

    Overrides that cannot be composed are left out of it. One of them that names the baseline counts as one.
    """
    searched = [] if options.config_dir is None else [f"hydra.searchpath=[file://{Path(options.config_dir).resolve()}]"]
    composed: list[str] = []
    config = None
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for added in [[], searched, *([override] for override in options.overrides)]:
            try:
                config = compose(options.config_name or PRIMARY, [*composed, *added], return_hydra_config=True)
                composed += added
            except Exception:  # Hydra's, OmegaConf's and YAML's have no common base
                if any(override.lstrip("+").startswith("baseline=") for override in added):
                    return True
    try:
        return config is not None and (config.baseline is not None or "baseline" in axes(config))
    except OmegaConfBaseException:  # it is set, to what cannot be resolved
        return True


if __name__ == "__main__":
    program.run(main, failed=1)
