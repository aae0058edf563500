"""The job: everything that decides a cell, checked and typed, once the configuration has been merged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.record.names import problem_name

DTYPES = ("float64", "float32", "float16", "bfloat16")
ALLOCATORS = ("default", "tuned")
PASSES = ("time", "exact", "process", "agreement")
TRUTHS = ("autograd", "differences")
QUANTITIES = ("hessian", "diagonal", "block_diagonal", "hvp", "ggn")
# What a method may ask for by name: of every problem, of a network, of quantity=hvp.
PROBLEM_ARGUMENTS = ("loss", "theta", "sizes")
NETWORK_ARGUMENTS = ("model", "criterion", "inputs", "targets")
METHOD_ARGUMENTS = (*PROBLEM_ARGUMENTS, *NETWORK_ARGUMENTS, "vectors")


class JobError(ValueError):
    """A value of the configuration cannot be used."""


@dataclass(frozen=True)
class Measure:
    """How a cell is sampled and checked."""

    budget_s: float  # time for calls of the method after the first, and a tenth of it for calls of one gradient
    min_samples: int  # after warm-up, even where they exceed the budget
    max_samples: int
    precision: float  # sampling ends once the median is known to this, relative
    truth: str  # what results are compared with: one of TRUTHS
    full_up_to: int  # P up to which every entry is compared; above, probes and rows
    probes: int  # Gaussian directions compared where P is larger
    rows: int  # whole rows compared there too


@dataclass(frozen=True)
class Job:
    """One cell of the table."""

    problem: str  # row of conf/problem
    problem_target: str  # dotted path of the builder
    problem_options: dict[str, Any]  # of the builder, and `stop_gradient` where the user states it
    method: str  # row of conf/method
    target: str  # dotted path of the measured function
    method_options: dict[str, Any]
    quantity: str
    vectors: int
    subset: int | None  # parameters that are taken, of all that there are
    device: str
    dtype: str
    threads: int
    allocator: str
    seed: int
    round: int
    interpreter: str | None
    limit_s: float
    memory_limit_gb: float | None
    passes: tuple[str, ...]  # of PASSES, in that order: what is measured
    measure: Measure
    code: str | None = None  # folder whose modules come before all others, such as another version of methods

    @classmethod
    def from_config(cls, config: Mapping[str, Any], problem: str, method: str) -> Job:
        """Check a merged configuration (plain values) whose groups were chosen as `problem` and `method`.

        Raises JobError naming the key, the value found and what it may be.
        """
        known = {entry.name for entry in fields(cls)}
        known |= {"output", "rounds", "resume", "workers", "baseline", "confirm_s", "slower", "allow"}
        known -= {"problem_target", "problem_options", "target", "method_options"}
        unknown = sorted(set(config) - known)
        if unknown:
            raise JobError(f"{', '.join(unknown)}: no such key; the keys are {', '.join(sorted(known))}")
        _check(config)
        problem_options, problem_target = _target(config, "problem", problem)
        if _stated(problem_options) is None:
            problem_options.pop("stop_gradient", None)
        method_options, target = _target(config, "method", method)
        return cls(
            problem=problem,
            problem_target=problem_target,
            problem_options=problem_options,
            method=method,
            target=target,
            method_options=method_options,
            passes=_passes(config["passes"]),
            measure=_measure(config["measure"]),
            limit_s=float(config["limit_s"]),
            **{
                key: config[key]
                for key in (
                    "quantity",
                    "vectors",
                    "subset",
                    "device",
                    "dtype",
                    "threads",
                    "allocator",
                    "seed",
                    "round",
                    "interpreter",
                    "memory_limit_gb",
                    "code",
                )
            },
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """The job that `asdict` gave."""
        return cls(**{**values, "passes": tuple(values["passes"]), "measure": Measure(**values["measure"])})

    @property
    def stop_gradient(self) -> bool | None:
        """Whether what leaves the loss's graph is meant to be constant; None where the user does not say."""
        return _stated(self.problem_options)

    @property
    def builder_options(self) -> dict[str, Any]:
        """What the problem's builder is called with."""
        return {key: value for key, value in self.problem_options.items() if key != "stop_gradient"}

    @property
    def key(self) -> str:
        """A name for the cell, readable and unique: the same for the same job, and only then."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        name = problem_name(self.problem, self.problem_target)
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}-{self.method}-{self.quantity}-{digest}")

    def fields(self) -> dict[str, Any]:
        """The job as the record stores it."""
        values = asdict(self)
        nested = {key: json.dumps(values[key]) for key in ("problem_options", "method_options", "measure")}
        return values | nested | {"passes": ", ".join(self.passes)}


def _check(config: Mapping[str, Any]) -> None:
    whole = {"vectors": 1, "threads": 1, "seed": 0, "round": 0}
    for key, least in whole.items():
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise JobError(f"{key}={value} must be a whole number of at least {least}")
    subset = config["subset"]
    if subset is not None and not (isinstance(subset, int) and not isinstance(subset, bool) and subset >= 1):
        raise JobError(f"subset={subset} must be a whole number of at least 1, or null for all parameters")
    if config["seed"] >= 2**62:
        raise JobError(f"seed={config['seed']} must be less than 2^62")
    if not isinstance(config["limit_s"], int | float) or not config["limit_s"] > 0:
        raise JobError(f"limit_s={config['limit_s']} must be a time in seconds above 0")
    for key, choices in (("quantity", QUANTITIES), ("dtype", DTYPES), ("allocator", ALLOCATORS)):
        if config[key] not in choices:
            raise JobError(f"{key}={config[key]} is not known; choose one of {', '.join(choices)}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(config["device"])):
        raise JobError(f"device={config['device']} is not known; choose cpu, cuda or cuda:N")
    limit = config["memory_limit_gb"]
    if limit is not None and not (isinstance(limit, int | float) and limit > 0):
        raise JobError(f"memory_limit_gb={limit} must be a size in GB above 0, or null for none")
    for key, what in (("interpreter", "path of a Python, or null for this one"), ("code", "path of a folder, or null")):
        if config[key] is not None and not isinstance(config[key], str):
            raise JobError(f"{key}={config[key]} must be the {what}")
    if config["code"] is not None and not Path(config["code"]).is_dir():
        raise JobError(f"code={config['code']} is no folder; name one whose modules are to come before all others")


def _target(config: Mapping[str, Any], group: str, name: str) -> tuple[dict[str, Any], str]:
    chosen = config[group]
    target = chosen.get("_target_") if isinstance(chosen, Mapping) else None
    if not isinstance(target, str) or target == "???":
        raise JobError(
            f"{group}={name} names no function: set {group}._target_=package.module.function, "
            "an importable function by its dotted path"
        )
    return {key: value for key, value in chosen.items() if key != "_target_"}, target


def _stated(problem_options: Mapping[str, Any]) -> bool | None:
    stated = problem_options.get("stop_gradient")
    if stated is not None and not isinstance(stated, bool):
        raise JobError(
            f"problem.stop_gradient={stated} must be true (what leaves the loss's graph is constant), false (it is a "
            "fault) or null (not said)"
        )
    return stated


def _passes(asked: Any) -> tuple[str, ...]:
    unknown = [entry for entry in asked if entry not in PASSES] if isinstance(asked, list) else [asked]
    if unknown or not asked:
        raise JobError(f"passes={asked} must be a list of some of {', '.join(PASSES)}")
    return tuple(entry for entry in PASSES if entry in asked)


def _measure(values: Mapping[str, Any]) -> Measure:
    if values.get("truth") not in TRUTHS:
        raise JobError(f"measure.truth={values.get('truth')} is not known; choose one of {', '.join(TRUTHS)}")
    counts = {"min_samples": 0, "max_samples": 1, "full_up_to": 0, "probes": 1, "rows": 1}
    for key, value in values.items():
        if key == "truth":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= counts.get(key, 0):
            raise JobError(f"measure.{key}={value} must be a number of at least {counts.get(key, 0)}")
        if key in counts and not isinstance(value, int):
            raise JobError(f"measure.{key}={value} must be a whole number")
    try:
        return Measure(**values)
    except TypeError as error:
        known = ", ".join(entry.name for entry in fields(Measure))
        raise JobError(f"measure: {error}; the keys are {known}") from error
