"""The command line of `python -m harness.advise`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.__main__ import extend_hydra
from harness.advise.output import as_json, as_text
from harness.advise.survey import ProblemFailure, survey
from harness.composition import composition
from harness.config import CONF
from harness.job import Job
from harness.plan import plan_of

QUICK = ("limit_s=20", "measure.budget_s=0.2", "measure.min_samples=1")  # where the overrides say nothing else
MEMORY, PRECISION = "memory_gb=", "precision="
EXAMPLE = "python -m harness.advise problem=transformer quantity=diagonal memory_gb=8"


class UsageError(ValueError):
    """A key, a value or a method that cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what to expect of every method; the exit status.

    0: a method is recommended. 1: none is, or the problem itself fails. 2: a wrong key, value or method.
    """
    parser = argparse.ArgumentParser(
        prog="python -m harness.advise",
        description="Which method computes a quantity of a problem fastest, within the memory, and right.",
        epilog=f"Example: {EXAMPLE}. Exit status: 0 if a method is recommended; 1 if none is, or the problem fails; "
        "2 for a wrong key, value or method.",
    )
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="KEY=VALUE",
        help="as of python -m harness, and method=A,B for some methods; memory_gb=N leaves out what does not fit; "
        "precision=1e-2 lets estimates in that state a relative error of at most 1 %%; limit_s=N (20) is the time "
        "limit of a pass",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; harness/advise/output.py lists it")
    options = parser.parse_args(arguments)
    try:
        jobs, memory_gb, precision = asked(options.overrides)
        with tempfile.TemporaryDirectory() as output:
            found = survey(jobs, Path(output), memory_gb, precision)
    except UsageError as error:
        return _fail(error, 2)
    except ProblemFailure as error:
        return _fail(error, 1)
    print(json.dumps(as_json(found), indent=2) if options.json else as_text(found))
    return 1 if found.best is None else 0


def asked(overrides: Sequence[str]) -> tuple[list[Job], float | None, float | None]:
    """The jobs of some overrides, and `memory_gb` and `precision` among them; raises UsageError."""
    try:
        memory_gb = _last(overrides, MEMORY, _gigabytes)
        precision = _last(overrides, PRECISION, _share)
        others = [entry for entry in overrides if not entry.startswith((MEMORY, PRECISION))]
        found = jobs([*QUICK, *others])
        if found[0].mode is not None:
            raise UsageError(
                f"mode={found[0].mode}: advice is on torch as it is; compare modes with python -m harness -m "
                f"mode=null,{found[0].mode}"
            )
        if found[0].per_sample:
            raise UsageError(
                f"wrt={found[0].wrt} per_sample=true: advice is on the derivatives of the whole loss; compare methods "
                f"with python -m harness -m method='glob(*)' wrt={found[0].wrt} per_sample=true"
            )
        return found, memory_gb, precision
    except (ValueError, HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(str(error)) from error


def jobs(overrides: Sequence[str]) -> list[Job]:
    """A job for each method that the overrides choose: `method=a,b`, or without one all that are not compiled.

    Raises ConfigError or Hydra's errors where the overrides cannot be composed.
    """
    extend_hydra()
    named = [entry.removeprefix("method=").split(",") for entry in overrides if entry.startswith("method=")]
    rest = [entry for entry in overrides if not entry.startswith("method=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = named[-1] if named else GlobalHydra.instance().config_loader().get_group_options("method")
        configs = [compose("config", [*rest, f"method={name}"], return_hydra_config=True) for name in names]
        found = [plan_of(composition(config)).job for config in configs]
    return found if named else [job for job in found if not job.method_options.get("compile")]


def _last(overrides: Sequence[str], key: str, number: Callable[[str], float]) -> float | None:
    """The last value of a key that is no key of a job; None where it is not given."""
    given = [entry.removeprefix(key) for entry in overrides if entry.startswith(key)]
    return number(given[-1]) if given else None


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise UsageError(f"precision={text} must be a relative error above 0 and below 1, such as 1e-2")
    return number


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise UsageError(f"memory_gb={text} must be a positive number of gigabytes")
    return number


def _fail(error: Exception, status: int) -> int:
    """Print an error as one line; the exit status."""
    print(f"harness.advise: {' '.join(str(error).split())}", file=sys.stderr)
    return status
