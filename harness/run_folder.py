"""The folder of a run: made before the first cell, and reported on after the last."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness import program, record
from harness.compare.baseline import Comparison, how_to_go_on
from harness.config import ConfigError, checks

PROBE = b" " * 2**16  # more than Hydra writes into the folder of a run


class RunFolder(Callback):
    """Hydra's callback that makes the folder of a run, and of a sweep also reports on it, whatever launcher runs it."""

    def __init__(self) -> None:
        self._has_failed = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep that a job has failed, as it does where records were lost."""
        self._has_failed |= job_return.status == JobStatus.FAILED

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a single cell cannot be made."""
        _make(config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Exit with a message where the folder of a sweep cannot be made."""
        of_cells = sorted(checks(Comparison).keys() & axes(config))
        if of_cells:
            raise SystemExit(
                f"harness: {', '.join(of_cells)} in hydra.sweeper: all cells of a run have the same; write it "
                "at the top of the sweep's file, or on the command line"
            )
        _make(config, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the report beside the records, and print the table and the verdict.

        Exits with 1 where no cell is ok, or a record cannot be read; with a baseline, as `harness.compare.conclusion`
        says, and with 3 where a record of this run was lost. It exits since Hydra would make a warning of an exception.
        """
        output, failed = Path(config.hydra.sweep.dir), 1 if config.baseline is None else 3
        try:
            comparison = _comparison(config)
            # Another launcher of Hydra's has not said it.
            program.advise(f"harness: interrupted; {how_to_go_on(comparison, output)}")
            status = _conclude(comparison, output)
        except (ConfigError, record.RecordError, OSError) as error:
            raise SystemExit(f"harness: {error}") from error
        except Exception:
            traceback.print_exc()
            status = failed
        if self._has_failed:
            status = status or failed
        if status:
            raise SystemExit(status)


def axes(config: DictConfig) -> set[str]:
    """The keys that a sweep's file varies, in `hydra.sweeper.params` and in its `grids`."""
    sweeper = config.hydra.sweeper
    return {str(key) for axes in (sweeper.get("params"), *(sweeper.get("grids") or ())) for key in axes or ()}


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


def _comparison(config: DictConfig) -> Comparison | None:
    """The comparison that a configuration asks for; raises ConfigError."""
    asked = OmegaConf.to_container(OmegaConf.masked_copy(config, list(checks(Comparison))))
    assert isinstance(asked, dict)
    return Comparison.from_config({str(key): value for key, value in asked.items()})


def _conclude(comparison: Comparison | None, output: Path) -> int:
    """Write the report, judge where there is a baseline, then print; the exit status."""
    if comparison is None:
        table, is_fine = _report(output, output)
        print(table)
        return 0 if is_fine else 1
    table = None
    try:
        table, _ = _report(output / "candidate" if comparison.measures_baseline else output, output)
    except (record.RecordError, OSError) as error:
        print(f"harness: {error}", file=sys.stderr)
    except Exception:  # whatever is wrong with a report, the verdict is still to come
        traceback.print_exc()
    from harness.compare.conclusion import conclude

    try:
        conclusion = conclude(comparison, output)
    finally:  # the files come first: printing may wait for its reader
        if table is not None:
            print(table)
    return conclusion.show() or (3 if table is None else 0)


def _report(records: Path, output: Path) -> tuple[str, bool]:
    """Write the report on a folder of records; what is to be printed, and whether one is ok and all can be read."""
    from harness.analysis.table import Analysis
    from harness.report.files import write
    from harness.report.terminal import captured

    analysis = Analysis(record.load(records))
    for remark in record.remarks(analysis.frame):
        print(f"harness: {remark}", file=sys.stderr)
    write(analysis, output / "report")
    is_fine = bool((analysis.frame["status"] == "ok").any()) and not analysis.frame.attrs["skipped"]
    return f"{captured(analysis)}records and report: {output}", is_fine
