"""The folder of a run: made before the first cell, and reported on after the last."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness import record
from harness.compare.baseline import Comparison
from harness.config import ConfigError, checks

PROBE = b" " * 2**16  # more than Hydra writes into the folder of a run


class RunFolder(Callback):
    """Hydra's callback that makes the folder of a run, and of a sweep also reports on it, whatever launcher runs it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a single cell cannot be made."""
        _make(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a sweep cannot be made."""
        _make(config, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table and the verdict, and write the report beside the records.

        Exits with 1 where no cell is ok; with a baseline, as `harness.compare.conclusion` says. It exits since Hydra
        would make a warning of an exception.
        """
        try:
            status = _conclude(config, Path(config.hydra.sweep.dir))
        except (ConfigError, OSError) as error:
            raise SystemExit(f"harness: {error}") from error
        except Exception:
            traceback.print_exc()
            status = 1 if config.baseline is None else 3
        if status:
            raise SystemExit(status)


def _make(config: DictConfig, output: Path) -> None:
    _check_resumed(config, output)
    if config.baseline is not None and any((output / name).exists() for name in record.SIDES):
        raise SystemExit(f"harness: output={output} holds a comparison already; name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as probe:
            probe.write(PROBE)
    except OSError as error:
        raise SystemExit(
            f"harness: output={output} cannot be written to: {error.strerror}; free space there, or name another folder"
        ) from error


def _check_resumed(config: DictConfig, output: Path) -> None:
    """Exit with a message where a run cannot be resumed as the configuration asks."""
    if OmegaConf.is_missing(config, "resume"):
        return
    if Path(config.resume) != output:
        raise SystemExit(f"harness: resume={config.resume} and output={output} are two folders; give resume alone")
    if not output.is_dir():
        raise SystemExit(f"harness: resume={output} is no run folder; name one, or leave it out to start a new run")
    if config.baseline is not None:
        raise SystemExit(f"harness: resume={output} excludes baseline: baseline and candidate are measured in one run")


def _conclude(config: DictConfig, output: Path) -> int:
    """Print the table, write the report, and judge where there is a baseline; the exit status."""
    asked = OmegaConf.to_container(OmegaConf.masked_copy(config, list(checks(Comparison))))
    assert isinstance(asked, dict)
    comparison = Comparison.from_config({str(key): value for key, value in asked.items()})
    if comparison is None:
        return 0 if _report(output, output) else 1
    try:
        _report(output / "candidate" if comparison.measures_baseline else output, output)
        reported = True
    except OSError as error:
        print(f"harness: {error}", file=sys.stderr)
        reported = False
    except Exception:  # whatever is wrong with a report, the verdict is still to come
        traceback.print_exc()
        reported = False
    from harness.compare.conclusion import conclude

    return conclude(comparison, output) or (0 if reported else 3)


def _report(records: Path, output: Path) -> bool:
    """Print the table and write the report on a folder of records; whether one of its cells is ok."""
    from harness.analysis.table import Analysis
    from harness.report.files import write
    from harness.report.terminal import terminal

    analysis = Analysis(record.load(records))
    terminal(analysis)
    write(analysis, output / "report")
    print(f"records and report: {output}")
    return bool((analysis.frame["status"] == "ok").any())
