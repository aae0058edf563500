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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 5
OLDEST = 2  # schema that is still read: later ones only added fields

SKETCH = 32  # entries of a sketch
DEEPEST = 20  # lists and objects within one another in an option
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
    """A record, or a place where records were looked for, cannot be used; its text is one line that can be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text))


def plain(text: object) -> str:
    """Arbitrary text on one line: white space becomes single spaces, what cannot be printed its escape."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


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
    return _checked(_content(path), str(path))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def _checked(content: bytes, where: str) -> dict[str, Any]:
    """The record that a file or a line holds; raises RecordError, which names it, where it holds none."""
    try:
        return _record(json.loads(content.decode(), parse_constant=_refused))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} is no record: {error}") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _record(value: Any) -> dict[str, Any]:
    """The fields of this schema in a JSON value; raises ValueError where it is no record."""
    found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
    if not isinstance(found, int) or found not in range(OLDEST, SCHEMA_VERSION + 1):
        raise ValueError(f"schemas {OLDEST} to {SCHEMA_VERSION} are read, found schema {found!r:.60}")
    if value.get("status") not in STATUSES:
        raise ValueError(f"its status is {value.get('status')!r:.60}; known are {', '.join(STATUSES)}")
    for field in FIELDS:
        if not _is(value.get(field.name), field.type):
            raise ValueError(f"{field.name} should be {field.type}, found {value[field.name]!r:.60}")
    for name in ("problem_options", "method_options"):
        options = _options(value.get(name))
        if not isinstance(options, dict) or _depth(options) > DEEPEST:
            raise ValueError(f"{name} should be a JSON object as text, found {value[name]!r:.60}")
    sketch = value.get("sketch")
    if sketch is not None and (len(sketch) != SKETCH or None in sketch):
        raise ValueError(f"sketch should be {SKETCH} numbers, found {len(sketch) - sketch.count(None)}")
    return {name: value.get(name) for name in NAMES}


def _is(value: Any, kind: str) -> bool:
    """Whether a value is null or of a type: integers of 63 bits (as floats they still fit into 64), finite floats."""
    if value is None:
        return True
    if kind.startswith("list"):
        return isinstance(value, list) and all(_is(entry, "float") for entry in value)
    if kind in ("str", "bool"):
        return isinstance(value, {"str": str, "bool": bool}[kind])
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else int | float):
        return False
    return -(2**62) <= value < 2**62 if kind == "int" else abs(value) <= sys.float_info.max


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def load(*paths: str | Path) -> pandas.DataFrame:
    """One row a record, from run folders (every record.json below them) and baseline files (`*.jsonl`).

    Columns: NAMES as stored, then DERIVED. Times in seconds, memory in bytes. Links to folders are followed, so that
    `path` still leads to a record when LAST is another run; a file that is reached twice counts once.
    `frame.attrs["asked"]` are the paths, without such links; what is no record, and paths without one, are named in
    `frame.attrs["skipped"]`. Raises RecordError where a path does not exist or no record is there.
    """
    import pandas

    places = [_unlinked(Path(path)) for path in paths]
    found: list[dict[str, Any]] = []
    skipped: list[str] = []
    for entry in _entries(places):
        if isinstance(entry, RecordError):
            skipped.append(str(entry))
        else:
            found.append(entry)
    if not found:
        reasons = "; ".join(skipped[:3])
        raise RecordError(f"no record was found: {reasons}; a run folder holds <cell>/record.json files")
    frame = pandas.DataFrame(found, columns=[*NAMES, "path"])
    for field in FIELDS:
        if field.type == "int":
            frame[field.name] = pandas.to_numeric(frame[field.name])
        elif field.type == "float":
            frame[field.name] = frame[field.name].astype("float")
    frame = _derive(frame)
    frame.attrs.update(asked=list(map(str, places)), skipped=skipped)
    return frame


def records(*paths: str | Path) -> list[dict[str, Any]]:
    """The records of run folders, baseline files and files record.json, those of a file once.

    Raises RecordError where a path does not exist or holds no record, or something in it is none.
    """
    found = []
    for entry in _entries([_unlinked(Path(path)) for path in paths]):
        if isinstance(entry, RecordError):
            raise entry
        found.append({name: entry[name] for name in NAMES})
    return found


def _unlinked(place: Path) -> Path:
    """The place with no link among its folders, relative where it was; raises RecordError where there is nothing."""
    try:
        there, folder = place.exists(), place.is_dir()
    except OSError as error:
        raise RecordError(f"{place} cannot be read: {error.strerror}") from error
    if not there:
        raise RecordError(f"{place} does not exist; name a run folder (results/runs/...) or a baseline file")
    resolved = place.resolve() if folder else place.parent.resolve() / place.name
    return resolved if place.is_absolute() else Path(os.path.relpath(resolved))


def _entries(places: Sequence[Path]) -> Iterator[dict[str, Any] | RecordError]:
    """Each record of the places, with its `path`, and in place of what is none an error that says why."""
    known: set[str] = set()
    for place in places:
        files = _files(place)
        if not files:
            yield RecordError(f"{place} holds no record")
        for file in files:
            itself = os.path.realpath(file)
            if itself not in known:
                known.add(itself)
                yield from _of_file(file)


def _files(place: Path) -> list[Path]:
    """The files of records of a place, and the folders in it that cannot be listed."""
    if not place.is_dir():
        return [place]
    closed: list[OSError] = []
    walk = list(os.walk(place, onerror=closed.append))
    found = [Path(folder, "record.json") for folder, *inside in walk if any("record.json" in names for names in inside)]
    return sorted([*found, *(Path(error.filename) for error in closed)])


def _of_file(file: Path) -> Iterator[dict[str, Any] | RecordError]:
    try:
        content = _content(file)
    except RecordError as error:
        yield error
        return
    lines = {str(file): content}
    if file.suffix == ".jsonl":
        lines = {f"{file}:{number}": line for number, line in enumerate(content.splitlines(), 1) if line.strip()}
    if not lines:
        yield RecordError(f"{file} holds no record")
    for where, line in lines.items():
        try:
            yield _checked(line, where) | {"path": where}
        except RecordError as error:
            yield error


def _derive(frame: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    def over(row: pandas.Series, column: str, statistic: str) -> float:
        values = row[column]
        return float(getattr(pandas.Series(values, dtype="float"), statistic)()) if values else math.nan

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
    """Print the records of the paths, one a line, as a baseline file holds them, without tracebacks.

    All or, where something is no record, none: what was printed of the others would pass for a whole baseline.
    """
    try:
        found = records(*paths)
    except RecordError as error:
        print(f"harness.record: {error}", file=sys.stderr)
        return 2
    for record in found:
        print(json.dumps(record | {"traceback": None}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
