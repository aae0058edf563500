"""The job: everything that decides a cell, checked and typed, once the configuration has been merged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from harness.config import (
    Check,
    ConfigError,
    checked,
    checks,
    list_of,
    number,
    one_of,
    or_null,
    refuse_unknown,
    text,
    whole,
)
from harness.record.identity import JSON
from harness.record.names import problem_name

DTYPES = ("float64", "float32", "float16", "bfloat16")
ALLOCATORS = ("default", "tuned")
MODES = ("autocast", "compiled", "deterministic")
PASSES = ("time", "exact", "process", "agreement")
TRUTHS = ("autograd", "differences")
QUANTITIES = (
    "hessian",
    "diagonal",
    "block_diagonal",
    "hvp",
    "ggn",
    "eigenvalues",
    "trace",
    "spectrum",
    "ihvp",
)
VARIABLES = ("parameters", "inputs")
# What a method may ask for by name: of every problem, of a network, of a loss of each sample, of some quantities (the
# vectors of hvp and ihvp, the number k of eigenvalues, the damping of ihvp), and the mesh of processes.
PROBLEM_ARGUMENTS = ("loss", "theta", "sizes")
NETWORK_ARGUMENTS = ("model", "criterion", "inputs", "targets")
SAMPLE_ARGUMENTS = ("sample_loss", "points", "samples")
QUANTITY_ARGUMENTS = ("vectors", "k", "damping")
METHOD_ARGUMENTS = (*PROBLEM_ARGUMENTS, *NETWORK_ARGUMENTS, *SAMPLE_ARGUMENTS, *QUANTITY_ARGUMENTS, "mesh")
OVER_BATCHES = "methods.batches.summed"  # the function that calls a method on each batch

FLAG = Check(lambda value: isinstance(value, bool), "must be true or false")
DAMPING = number("a number from 0 to 1e30", lambda value: 0 <= value <= 1e30)  # beyond, squares are not finite
AT_LEAST_0 = number("a number of at least 0", lambda value: value >= 0)
DEVICE = Check(
    lambda value: re.fullmatch(r"cpu|cuda(:\d+)?", str(value)) is not None,
    "is not known; choose cpu, cuda or cuda:N",
)
PATTERNS = Check(
    lambda value: isinstance(value, list) and bool(value) and all(isinstance(entry, str) and entry for entry in value),
    "must be a pattern of parameters' names, such as 'fc.*', or a list of patterns",
)
FOLDER = text("the path of a folder, whose modules are to come before all others", lambda path: Path(path).is_dir())


# Options of every problem that its builder is not called with: what the user states of it.
STATED = {
    "stop_gradient": Check(
        lambda value: value is None or isinstance(value, bool),
        "must be true (what leaves the loss's graph is constant), false (it is a fault) or null (not stated)",
    ),
    "train_steps": or_null(whole(0), "none"),
    "batches": or_null(whole(1), "those of the problem, or one"),
    "batch_weights": or_null(one_of(("mean", "sum")), "what the criterion shows"),
}


@dataclass(frozen=True)
class Measure:
    """How a cell is sampled and checked."""

    budget_s: Annotated[float, AT_LEAST_0]  # time for calls after the first, and a tenth of it for calls of a gradient
    min_samples: Annotated[int, whole(0)]  # after warm-up, even where they exceed the budget
    max_samples: Annotated[int, whole(1)]
    precision: Annotated[float, AT_LEAST_0]  # sampling ends once the median is known to this, relative
    truth: Annotated[str, one_of(TRUTHS)]  # what results are compared with
    full_up_to: Annotated[int, whole(0)]  # P up to which every entry is compared; above, probes and rows
    probes: Annotated[int, whole(1)]  # Gaussian directions compared where P is larger
    rows: Annotated[int, whole(1)]  # whole rows compared there too

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Measure:
        """Check the values of the configuration's `measure`; raises ConfigError."""
        refuse_unknown(values, checks(cls), "measure.")
        return cls(**checked(cls, values, "measure."))


@dataclass(frozen=True)
class Job:
    """One benchmark cell, and how it is measured. A field with a check is a key of the configuration."""

    problem: str  # name of a file in conf/problem
    problem_target: str  # dotted path of the builder
    problem_options: dict[str, Any]  # of the builder, and those of `STATED` that are not null
    method: str  # name of a file in conf/method
    target: str  # dotted path of the measured function
    method_options: dict[str, Any]
    quantity: Annotated[str, one_of(QUANTITIES)]
    vectors: Annotated[int, whole(1)]
    subset: Annotated[int | None, or_null(whole(1), "all parameters")]  # parameters that are taken
    device: Annotated[str, DEVICE]
    dtype: Annotated[str, one_of(DTYPES)]
    threads: Annotated[int, whole(1)]
    allocator: Annotated[str, one_of(ALLOCATORS)]
    seed: Annotated[int, whole(0, bits=62)]
    round: Annotated[int, whole(0)]
    interpreter: Annotated[str | None, or_null(text("the path of a Python"), "this one")]
    limit_s: Annotated[float, number("a time in seconds above 0", lambda time: time > 0)]
    memory_limit_gb: Annotated[float | None, or_null(number("a size in GB above 0", lambda size: size > 0), "no limit")]
    passes: Annotated[tuple[str, ...], list_of(PASSES, least=1)]  # what is measured, in the order of PASSES
    measure: Measure
    code: Annotated[str | None, or_null(FOLDER, "none")] = None  # such as another version of methods
    mode: Annotated[str | None, or_null(one_of(MODES), "torch as it is")] = None  # in which torch runs the method
    processes: Annotated[int, whole(1)] = 1  # that compute one result together
    parameters: Annotated[tuple[str, ...] | None, or_null(PATTERNS, "all parameters")] = None  # patterns of their names
    wrt: Annotated[str, one_of(VARIABLES)] = "parameters"  # the variables that the derivatives are taken in
    per_sample: Annotated[bool, FLAG] = False  # each sample's own; always so for wrt=inputs
    k: Annotated[int, whole(1)] = 10  # eigenvalues of the largest magnitude
    damping: Annotated[float, DAMPING] = 0.01  # of ihvp, and of the Newton step of an approximation

    @classmethod
    def from_config(cls, config: Mapping[str, Any], problem: str, method: str) -> Job:
        """Check a merged configuration (plain values) whose groups were chosen as `problem` and `method`.

        Raises ConfigError naming the key, the value found and what it may be.
        """
        patterns = config.get("parameters")
        values = checked(cls, {**config, "parameters": [patterns] if isinstance(patterns, str) else patterns})
        if values["mode"] == "autocast" and values["dtype"] != "float32":
            raise ConfigError(
                f"mode=autocast dtype={values['dtype']}: autocast changes float32 only; set dtype=float32"
            )
        if values["processes"] > 1 and ":" in values["device"]:
            raise ConfigError(
                f"processes={values['processes']} device={values['device']}: each process takes a device of its own; "
                "set device=cuda, which gives them cuda:0, cuda:1 and so on"
            )
        values["limit_s"] = float(values["limit_s"])
        values["damping"] = float(values["damping"])
        values["per_sample"] |= values["wrt"] == "inputs"
        values["parameters"] = values["parameters"] and tuple(values["parameters"])
        values["passes"] = tuple(entry for entry in PASSES if entry in values["passes"])
        problem_options, problem_target = _target(config, "problem", problem)
        for key in STATED:
            if _stated(problem_options, key) is None:
                problem_options.pop(key, None)
        method_options, target = _target(config, "method", method)
        return cls(
            problem=problem,
            problem_target=problem_target,
            problem_options=problem_options,
            method=method,
            target=target,
            method_options=method_options,
            measure=Measure.from_config(config["measure"]),
            **values,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """The job that `asdict` gave."""
        patterns = values.get("parameters")
        typed = {
            "passes": tuple(values["passes"]),
            "measure": Measure(**values["measure"]),
            "parameters": None if patterns is None else tuple(patterns),
        }
        return cls(**{**values, **typed})

    @property
    def stop_gradient(self) -> bool | None:
        """Whether what leaves the loss's graph is meant to be constant; None where the user does not say."""
        return _stated(self.problem_options, "stop_gradient")

    @property
    def train_steps(self) -> int:
        """For how many steps the problem is trained before anything is measured."""
        return _stated(self.problem_options, "train_steps") or 0

    @property
    def batches(self) -> int | None:
        """In how many batches the problem's samples are; None for those that the builder made, or one."""
        return _stated(self.problem_options, "batches")

    @property
    def batch_weights(self) -> str | None:
        """How batches are weighed; None where the criterion shows it."""
        return _stated(self.problem_options, "batch_weights")

    @property
    def builder_options(self) -> dict[str, Any]:
        """What the problem's builder is called with."""
        return {key: value for key, value in self.problem_options.items() if key not in STATED}

    @property
    def problem_texts(self) -> list[str]:
        """Every text in the problem's options: each may be the dotted path of code."""
        return list(_texts(self.problem_options))

    @property
    def key(self) -> str:
        """A name for the cell, readable and unique: the same for the same job, and only then."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        name = problem_name(self.problem, self.problem_target)
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}-{self.method}-{self.quantity}-{digest}")

    def text_of(self, names: Iterable[str]) -> str:
        """Some fields or properties as text, to tell jobs that differ in them apart."""
        return json.dumps([getattr(self, name) for name in names])

    def text_without(self, names: Collection[str]) -> str:
        """All fields but these as text, to tell jobs that differ in another one apart."""
        return json.dumps({name: value for name, value in asdict(self).items() if name not in names})

    def fields(self) -> dict[str, Any]:
        """The job as the record stores it."""
        values = asdict(self)
        nested = {key: json.dumps(values[key]) for key in JSON}
        patterns = None if self.parameters is None else ", ".join(self.parameters)
        return values | nested | {"passes": ", ".join(self.passes), "parameters": patterns}


def _target(config: Mapping[str, Any], group: str, name: str) -> tuple[dict[str, Any], str]:
    """The options of a problem or a method, and the dotted path of its function."""
    chosen = config[group]
    target = chosen.get("_target_") if isinstance(chosen, Mapping) else None
    if not isinstance(target, str) or target == "???":
        raise ConfigError(
            f"{group}={name} names no function: set {group}._target_=package.module.function, "
            "an importable function by its dotted path"
        )
    return {key: value for key, value in chosen.items() if key != "_target_"}, target


def _texts(value: Any) -> Iterator[str]:
    """Every text in an option, or in several."""
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for entry in inner:
        yield from _texts(entry)


def _stated(problem_options: Mapping[str, Any], key: str) -> Any:
    """The value of an option of `STATED`; raises ConfigError where it is none that this one may have."""
    value = problem_options.get(key)
    if not STATED[key].allows(value):
        raise ConfigError(f"problem.{key}={value} {STATED[key].must}")
    return value
