"""The record of one cell: its schema, its file, and loading many of them into one table.

A record is one flat JSON object in a file `record.json`, written whole or not at all. It holds what was
asked and what was seen; medians, ratios and multiples are derived by `load` and never stored.

`python -m harness.record RUN... > results/baselines/NAME.jsonl` makes a baseline file, one record a line.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 5
OLDEST = 2  # schema that is still read: later ones only added fields

STATUSES = ("ok", "unsupported", "nonfinite", "wrong", "oom", "timeout", "crashed", "error")


@dataclass(frozen=True)
class Field:
    """One column: its name (the unit is in it), its JSON type, its unit and its meaning."""

    name: str
    type: str  # str, int, float, bool, list[float]; every field but the first three may be null
    unit: str
    meaning: str


FIELDS = (
    Field("schema_version", "int", "", "version of this schema; CHANGELOG.md tells what changed"),
    Field("status", "str", "", "one of: " + ", ".join(STATUSES)),
    Field("started", "str", "ISO 8601, UTC", "when the cell began"),
    Field("message", "str", "", "why the status is not ok and what to do, or what to know about the row"),
    Field("traceback", "str", "", "where the method or the problem failed"),
    # What was asked: the job.
    Field("problem", "str", "", "row of conf/problem"),
    Field("problem_target", "str", "dotted path", "the function that built it"),
    Field("problem_options", "str", "JSON", "every option the problem was built with"),
    Field("method", "str", "", "row of conf/method"),
    Field("method_options", "str", "JSON", "every option the method was called with"),
    Field("target", "str", "dotted path", "the function that was measured"),
    Field("quantity", "str", "", "hessian, diagonal, block_diagonal, hvp or ggn"),
    Field("vectors", "int", "count", "k, the vectors of an hvp"),
    Field("subset", "int", "count", "parameters that were taken, the others being fixed; null for all"),
    Field("device", "str", "", "cpu, cuda or cuda:N"),
    Field("dtype", "str", "", "float64, float32, float16 or bfloat16"),
    Field("threads", "int", "count", "intra-operation threads of torch"),
    Field("allocator", "str", "", "default (glibc's own settings) or tuned (results/README.md)"),
    Field("seed", "int", "", "seed of the problem's parameters and data, and of the vectors and probes"),
    Field("round", "int", "", "which repetition of the cell, each in fresh processes"),
    Field("interpreter", "str", "path", "the Python that ran the cell; null for the harness's own"),
    Field("code", "str", "path", "folder whose modules came before all others; null for none"),
    Field("limit_s", "float", "s", "time limit of each pass"),
    Field(
        "memory_limit_gb", "float", "GB", "limit on the memory of each pass's process, above its start; null for none"
    ),
    Field("passes", "str", "", "what was measured, of: time, exact, process, agreement"),
    Field("measure", "str", "JSON", "options of sampling and of agreement"),
    Field("cell_s", "float", "s", "wall time of the cell, all its passes with their processes"),
    Field("worked_s", "float", "s", "part of it in which the problem was built and measured"),
    Field("attempt", "int", "", "1, or 2 where `resume` has retried a crashed cell"),
    Field(
        "method_hash",
        "str",
        "",
        "SHA-256 of the method's source, of what it imports of its own package, and of its options",
    ),
    Field("packages", "str", "", "packages beside torch that the method uses, with their versions"),
    # What was seen: size and time.
    Field("params", "int", "count", "P, the number of parameters"),
    Field("whole_params", "int", "count", "parameters of the problem that a subset was taken of; null without one"),
    Field("samples", "int", "count", "N, the length of the inputs; null for a function without inputs"),
    Field(
        "first_s", "float", "s", "the first call, in a process in which only the loss and one gradient have been called"
    ),
    Field("warmup_s", "list[float]", "s", "wall time of each call after the first, until calm"),
    Field("times_s", "list[float]", "s", "wall time of a call, for each sample after warm-up"),
    Field("events_s", "list[float]", "s", "the same by CUDA events; null on the CPU"),
    Field("calls_per_sample", "int", "count", "calls in the block that a sample is the mean of"),
    Field("sampling_ended", "str", "", "why: precision (reached), budget (spent) or maximum (of samples)"),
    Field("gradient_s", "list[float]", "s", "wall time of one gradient, sampled alike in the same process"),
    Field("compiled_graphs", "int", "count", "graphs that torch.compile made; null where it was not called"),
    Field("graph_breaks", "int", "count", "places where it fell back to Python"),
    # Memory.
    Field("tensor_peak_bytes", "int", "bytes", "peak of tensor memory over the call, above its start; null for JAX"),
    Field("process_peak_bytes", "int", "bytes", "peak of the process's resident memory, above its start (Linux)"),
    Field("output_bytes", "int", "bytes", "size of the result"),
    # Counters: the same in every process.
    Field("operations", "int", "count", "ATen operators dispatched by one call, views included; null if compiled"),
    Field("allocations", "int", "count", "allocations of tensor memory by one call"),
    Field("flops", "int", "count", "floating-point operations of matrix products, convolutions and attention"),
    # What the machine can do, and what else it did.
    Field("gemm_flops_per_s", "float", "1/s", "attainable rate of a square matrix product at this dtype and threads"),
    Field("write_bytes_per_s", "float", "bytes/s", "attainable rate of writing memory"),
    Field("sampling_wall_s", "float", "s", "wall time of all samples"),
    Field("sampling_cpu_s", "float", "s", "processor time of the process meanwhile"),
    Field("cpu_pressure", "float", "share", "of the sampling in which some process waited for a processor (Linux PSI)"),
    Field("gpu_before", "str", "", "clocks and throttle reasons before the samples, from nvidia-smi"),
    Field("gpu_after", "str", "", "the same after them"),
    # Agreement.
    Field("reference", "str", "", "closed_form, double_backward or central_differences, in float64 on the CPU"),
    Field("reference_error", "float", "relative", "its distance from central differences, or these ones' own error"),
    Field("probes", "int", "count", "directions that were compared; null where every entry was"),
    Field("relative_error", "float", "relative", "Frobenius distance from the reference over its Frobenius norm"),
    Field("worst_error", "float", "relative", "largest entry's error over the largest entry of its reference row"),
    Field("asymmetry", "float", "relative", "Frobenius norm of H - H^T over that of H"),
    Field("nonfinite", "int", "count", "entries that are NaN or infinite"),
    Field("tolerance", "float", "relative", "largest relative_error that is ok at this dtype and reference"),
    Field("estimate_probes", "int", "count", "independent probes of a random estimate; null for an exact method"),
    Field("standard_error", "float", "relative", "norm of a random estimate's standard errors over the true norm"),
    Field("hessian_distance", "float", "relative", "Frobenius distance of a GGN from the Hessian over that one's norm"),
    Field(
        "sketch", "list[float]", "", "32 random linear functions of the result, the same for all results of its shape"
    ),
    Field("operators", "str", "", "operators of the loss's graph, with which of their inputs depend on the parameters"),
    # Where.
    Field("torch", "str", "", "torch version"),
    Field("python", "str", "", "Python version"),
    Field("platform", "str", "", "operating system"),
    Field("cpu", "str", "", "CPU model"),
    Field("cores", "int", "count", "cores that the process may use"),
    Field("ram_bytes", "int", "bytes", "physical memory"),
    Field("gpu", "str", "", "GPU model, where the cell ran on one"),
    Field("cuda", "str", "", "CUDA version torch was built for, where the cell ran on a GPU"),
    Field("driver", "str", "", "GPU driver, where the cell ran on one"),
    Field("cudnn", "int", "", "cuDNN version, where the cell ran on a GPU"),
    Field("blas", "str", "", "BLAS that torch was built with"),
    Field("governor", "str", "", "frequency governor of the CPU, where Linux tells"),
    Field("tf32", "bool", "", "whether TF32 was allowed (the harness switches it off)"),
    Field("deterministic", "bool", "", "whether deterministic algorithms were asked for"),
    Field("omp_wait_policy", "str", "", "OMP_WAIT_POLICY of the process"),
    Field("commit", "str", "", "commit of the code: of the folder `code`, or else of the harness"),
    Field("dirty", "bool", "", "whether its files differed from that commit"),
)

NAMES = tuple(field.name for field in FIELDS)

# What `load` adds: (name, unit, meaning).
DERIVED = (
    ("median_s", "s", "median of times_s; first_s where the time ran out before a second call"),
    ("fastest_s", "s", "least of times_s"),
    (
        "gemm_equivalents",
        "GEMMs",
        "median_s over the time of N P^2 FLOPs (a Hessian's, by matrix products, of dense layers) at gemm_flops_per_s",
    ),
    ("write_multiples", "writes", "median_s over the time to write output_bytes at write_bytes_per_s"),
    ("contended", "", "whether the process got under 90 % of its processor, or others waited over 10 % of the time"),
    ("gradients", "gradients", "median_s over the median of gradient_s"),
    ("tensor_peak_outputs", "outputs", "tensor_peak_bytes over output_bytes"),
    ("process_peak_outputs", "outputs", "process_peak_bytes over output_bytes"),
    ("label", "", "the method, and those of its options in which rows of that method differ"),
    ("path", "", "the file the record came from"),
)


class RecordError(ValueError):
    """A record, or a place where records were looked for, cannot be used."""


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write a record whole or not at all.

    Raises RecordError for a field that the schema does not have.
    """
    unknown = sorted(set(record) - set(NAMES))
    if unknown:
        raise RecordError(f"a record was given the fields {unknown}, which harness.record.FIELDS does not have")
    complete = {name: record.get(name) for name in NAMES} | {"schema_version": SCHEMA_VERSION}
    write_json(complete, path, durable=True)


def write_json(value: Mapping[str, Any], path: Path, durable: bool = False) -> None:
    """Write a JSON object, a line a key, to a file that appears whole or not at all: write, rename.

    Numbers that are not finite become null. With `durable`, fsync comes between: the file is then there, and whole,
    even after the machine has lost power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        lines = (f"{json.dumps(key)}: {json.dumps(_finite(entry), allow_nan=False)}" for key, entry in value.items())
        stream.write("{\n" + ",\n".join(lines) + "\n}\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    temporary.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


def read(path: Path) -> dict[str, Any]:
    """Read one record; raises RecordError where the file is no record of this schema."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path} cannot be read as JSON: {error}") from error
    return _checked(record, str(path))


def _checked(record: Any, where: str) -> dict[str, Any]:
    found = record.get("schema_version") if isinstance(record, dict) else type(record).__name__
    if found not in range(OLDEST, SCHEMA_VERSION + 1):
        raise RecordError(f"{where} is no record of schema {OLDEST} to {SCHEMA_VERSION} (found schema {found!r})")
    for name in ("problem_options", "method_options"):
        try:
            _options(record.get(name)).items()
        except (json.JSONDecodeError, AttributeError) as error:
            raise RecordError(f"{where}: {name} should be a JSON object as text") from error
    if record.get("status") not in STATUSES:
        raise RecordError(f"{where} has status {record.get('status')!r}; known are {', '.join(STATUSES)}")
    for field in FIELDS:
        if not _is(record.get(field.name), field.type):
            raise RecordError(f"{where}: {field.name} should be {field.type}, found {record[field.name]!r:.60}")
    return {name: record.get(name) for name in NAMES}


def _is(value: Any, kind: str) -> bool:
    if kind.startswith("list"):
        return value is None or (isinstance(value, list) and all(_is(entry, "float") for entry in value))
    known = {"str": str, "bool": bool, "int": int, "float": int | float}[kind]
    return value is None or (isinstance(value, known) and isinstance(value, bool) == (kind == "bool"))


def load(*paths: str | Path) -> pandas.DataFrame:
    """One row a record, from run folders (every record.json below them) and baseline files (`*.jsonl`).

    Columns: NAMES as stored, then DERIVED. Times in seconds, memory in bytes. `frame.attrs["asked"]` are the paths;
    files that are no record, and paths without one, are named in `frame.attrs["skipped"]`. Raises RecordError where a
    path does not exist or none is there.
    """
    import pandas

    records: list[dict[str, Any]] = []
    skipped: list[str] = []
    for place in map(Path, paths):
        try:
            texts = _texts(place)
        except OSError as error:
            skipped.append(f"{place} cannot be read: {error}")
            continue
        if not texts and len(paths) > 1:
            skipped.append(f"{place} holds no record")
        for where, text in texts:
            try:
                records.append(_checked(json.loads(text), where) | {"path": where})
            except (json.JSONDecodeError, RecordError) as error:
                skipped.append(f"{where}: {error}" if isinstance(error, json.JSONDecodeError) else str(error))
    if not records:
        named = ", ".join(map(str, paths))
        raise RecordError(
            f"no record was found in {named}; a run folder holds <cell>/record.json files"
            + (f" (skipped: {'; '.join(skipped[:3])})" if skipped else "")
        )
    frame = pandas.DataFrame(records, columns=[*NAMES, "path"])
    for field in FIELDS:
        if field.type in ("int", "float"):
            frame[field.name] = pandas.to_numeric(frame[field.name])
    frame = _derive(frame)
    frame.attrs.update(asked=list(map(str, paths)), skipped=skipped)
    return frame


def records(place: Path) -> list[dict[str, Any]]:
    """The records of a run folder, a baseline file or a record.json; raises RecordError where one is none."""
    try:
        return [_checked(json.loads(text), where) for where, text in _texts(place)]
    except json.JSONDecodeError as error:
        raise RecordError(f"{place} cannot be read as JSON: {error}") from error


def _texts(place: Path) -> list[tuple[str, str]]:
    if place.is_dir():
        return [(str(path), path.read_text(encoding="utf-8", errors="replace"))
                for path in sorted(place.rglob("record.json"))]  # fmt: skip
    if not place.is_file():
        raise RecordError(f"{place} does not exist; name a run folder (results/runs/...) or a baseline file")
    if place.suffix != ".jsonl":
        return [(str(place), place.read_text(encoding="utf-8", errors="replace"))]
    lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(f"{place}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _derive(frame: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    def over(row: pandas.Series, column: str, statistic: str) -> float:
        values = row[column]
        return float(getattr(pandas.Series(values), statistic)()) if values else math.nan

    frame["median_s"] = frame.apply(over, axis=1, args=("times_s", "median")).fillna(frame["first_s"])
    frame["fastest_s"] = frame.apply(over, axis=1, args=("times_s", "min"))
    frame["gradients"] = frame["median_s"] / frame.apply(over, axis=1, args=("gradient_s", "median"))
    frame["tensor_peak_outputs"] = frame["tensor_peak_bytes"] / frame["output_bytes"]
    frame["process_peak_outputs"] = frame["process_peak_bytes"] / frame["output_bytes"]
    of_matrix = frame["samples"].where(frame["quantity"] == "hessian")
    gemms = of_matrix * frame["params"].astype("float") ** 2 / frame["gemm_flops_per_s"]
    frame["gemm_equivalents"] = frame["median_s"] / gemms
    frame["write_multiples"] = frame["median_s"] / (frame["output_bytes"] / frame["write_bytes_per_s"])
    on_cpu = frame["device"] == "cpu"
    starved = on_cpu & (frame["sampling_cpu_s"] < 0.9 * frame["sampling_wall_s"])
    frame["contended"] = starved | (frame["cpu_pressure"] > 0.1)
    frame["label"] = _labels(frame)
    return frame


def _labels(frame: pandas.DataFrame) -> pandas.Series:
    """The method's name; where its rows differ in options, those options too: `vmap_hvp chunk_size=8`."""
    labels = frame["method"].astype("object").copy()
    for method, rows in frame.groupby("method"):
        options = [_options(text) for text in rows["method_options"]]
        differing = [key for key in dict.fromkeys(key for option in options for key in option)
                     if len({json.dumps(option.get(key)) for option in options}) > 1]  # fmt: skip
        for index, option in zip(rows.index, options, strict=True):
            labels[index] = " ".join([str(method), *(f"{key}={option.get(key)}" for key in differing)])
    return labels


def _options(text: Any) -> dict[str, Any]:
    """Options as `problem_options` and `method_options` store them; none where the cell was never composed."""
    return json.loads(text) if isinstance(text, str) else {}


def main(paths: Sequence[str]) -> int:
    """Print the records of the paths, one a line, as a baseline file holds them, without tracebacks."""
    try:
        for place in paths:
            for record in records(Path(place)):
                print(json.dumps(record | {"traceback": None}))
    except RecordError as error:
        print(f"harness.record: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
