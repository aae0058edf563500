"""Records from elsewhere: files that are none, and accepted records with the worst of values in their fields."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from harness import record
from harness.compare.__main__ import main as compare
from harness.record.checks import CHECKS
from harness.report import files
from harness.report.command import main as report
from tests.reliability.cases import Case

Fields = dict[str, Any]  # of a record

# What a file would hold if a text of TEXTS reached it as it is.
MARKUP = {
    ".html": r"<script>alert",
    ".md": r"(?<!\\)\]\(javascript|(?<!\\)<script",
    ".tex": r"\\input\{|\^\^5c",
    ".csv": r"(^|,)\"?[=@]",
}
NIGHTS = 6  # so that there is a trend
GOOD = [(method, width) for method in ("good_rows", "good_hvp") for width in (8, 32)]
FILES = ("table.csv", "table.md", "table.tex", "index.html", "report.json")

TEXTS = (
    *("", " ", "?", "-", "nan", "None", "null", "0", "1e999", "ok", "own", "none", "custom", "zoo/x", "a_8", "../../x"),
    *("=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "%s {0} $x^2$ \\", "a|b", "`a`", "# a", "a\n\n# b"),
    *("](javascript:alert(1))", "<script>alert(1)</script>", "</script>", "\\input{/etc/passwd}", "^^5cinput"),
    *("\x00", "\x1b[31mred\x1b[0m", "\x9b31m", "\u202egnp.exe", "\u2028", "\ud800", "\ufffe", "\U0001f600", "a\u0301"),
    *("x" * 5_000, "word " * 2_000, "\u4e00" * 300, "a.b.c", ".", "..", ".hessian", "a.hessian", "cuda:0"),
    *("2026-09-01T02:00:00+00:00", "2026", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "2026-09-01"),
)
JSON = (
    *("{}", "[]", "null", "", '"x"', "{", '{"a": 1e400}', '{"a": NaN}', '{"a": 1, "a": 2}', '{"": ""}'),
    *('{"chunk_size": null}', '{"width": "16"}', '{"width": -1}', '{"width": 1e308}', '{"width": [1, [2, {}]]}'),
    *('{"\\ud800": "\\ud800"}', '{"=a": "</script>"}', '{"\\u001b[31m": true}', f'{{"width": 1{"0" * 400}}}'),
    f'{{"a": {"[" * 15}{"]" * 15}}}',
    json.dumps({f"key{number}": number for number in range(500)}),
)
WHOLE = (0, -1, 1, 2, 7, 10**6, 10**18, 2**53 + 1, 2**61, 2**62 - 1, -(2**62))
NUMBERS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    5e-324,
    1e-300,
    1e-12,
    1e-3,
    1e9,
    1e12,
    1e24,
    1e150,
    -1e150,
    1e300,
    1.7e308,
    -1.7e308,
    10**300,
)
LISTS = (
    *([1e-12, 1e12], [1e12] * 3, [0.0, 1.0], [1e-12] * 3, [0.0] * 5, [0.01] * 1000),
    *([], [None], [None, None], [0.0], [0.0, 0.0], [-1.0], [5e-324] * 3, [1.7e308] * 2, [1.7e308, -1.7e308], [1e308]),
    *(
        [1e300, 1e-300],
        [1.0],
        [1.0] * 4,
        [1e-9, 1e9],
        [None, 1.0],
        [1, 2, 3],
        [0.01 + 1e-5 * place for place in range(50)],
    ),
)
SKETCHES = (
    [1.7e308] * 32,
    [0.0] * 32,
    [5e-324] * 32,
    [-1.7e308, 1.7e308] * 16,
    [1e150] * 32,
    [-1e150, 1e150] * 16,
    [1.0] * 32,
    [1.0] * 31,
)
ALLOWED = {field.name: is_allowed for field, is_allowed in CHECKS}
VALUES = {"str": TEXTS, "int": WHOLE, "float": NUMBERS, "bool": (True, False)}


def worst(field: record.Field, draw: random.Random) -> Any:
    """A value for a field that the schema allows, or nearly does."""
    if draw.random() < 0.1:
        return None
    if field.name == "status":
        return draw.choice(record.STATUSES)
    if field.name == "schema_version":
        return draw.choice((record.OLDEST, record.SCHEMA_VERSION))
    if field.name == "sketch":
        return draw.choice(SKETCHES)
    if field.name == "quantity" and draw.random() < 0.5:
        return draw.choice(("hessian", "diagonal", "hvp", "ggn"))
    values = JSON if field.unit == "JSON" else VALUES.get(field.type, LISTS)
    accepted = [value for value in values if value is not None and ALLOWED[field.name](value)]
    return draw.choice(accepted if draw.random() < 0.9 else values)


def good(method: str, width: int, night: int) -> Fields:
    """A record as the harness writes it."""
    params = 10 * width**2
    seconds = 1e-6 * params * (1 if method == "good_rows" else 3)
    return dict.fromkeys(record.NAMES) | {
        "schema_version": record.SCHEMA_VERSION,
        "status": "ok",
        "started": (datetime(2026, 9, 1, 2, tzinfo=UTC) + timedelta(days=night)).isoformat(timespec="seconds"),
        "problem": "mlp",
        "problem_target": "harness.problems.networks.mlp",
        "problem_options": json.dumps({"width": width}),
        "method": method,
        "method_options": "{}",
        "target": f"methods.{method}.hessian",
        "quantity": "hessian",
        "device": "cpu",
        "dtype": "float64",
        "threads": 1,
        "allocator": "default",
        "seed": 0,
        "round": 0,
        "limit_s": 60.0,
        "passes": "time, exact, process, agreement",
        "measure": json.dumps({"budget_s": 1.0}),
        "params": params,
        "samples": 32,
        "first_s": 2 * seconds,
        "times_s": [seconds, 1.01 * seconds, 0.99 * seconds],
        "gradient_s": [seconds / 50],
        "tensor_peak_bytes": 16 * params**2,
        "process_peak_bytes": 20 * params**2,
        "output_bytes": 8 * params**2,
        "operations": 100,
        "gemm_flops_per_s": 1e11,
        "write_bytes_per_s": 1e10,
        "relative_error": 1e-15,
        "sketch": [float(place) for place in range(32)],
        "torch": "2.13.0",
        "cpu": "a processor",
        "cores": 2,
        "commit": f"{night:08x}" * 5,
        "dirty": False,
    }


def mixture(draw: random.Random) -> list[list[Fields]]:
    """The records of some nights: good ones, and among them some in which fields have the worst of values."""
    nights = [[good(method, width, night) for method, width in GOOD] for night in range(NIGHTS)]
    for _ in range(draw.choice((1, 3, 10))):
        night = draw.randrange(NIGHTS)
        spoiled = good(*draw.choice(GOOD), night)
        if draw.random() < 0.7:
            spoiled["method"] = draw.choice(("evil", "good_rows", "evil\x1b[31m"))
        count = draw.choice((1, 1, 2, 3, 6, 20, len(record.FIELDS)))
        for field in draw.sample(record.FIELDS, count):
            spoiled[field.name] = worst(field, draw)
        nights[night].append(spoiled)
        if draw.random() < 0.3:  # in every night, and so in the trend
            for other in nights:
                other.append(spoiled | {"started": other[0]["started"], "commit": other[0]["commit"]})
    return nights


def store(nights: Iterable[list[Fields]], folder: Path) -> list[Path]:
    """Write the records as files, one a cell, whatever they hold; the folders of the nights."""
    folders = []
    for night, records in enumerate(nights):
        folders.append(folder / f"night{night}")
        for number, fields in enumerate(records):
            cell = folders[-1] / f"cell{number}"
            cell.mkdir(parents=True)
            (cell / "record.json").write_text(json.dumps(fields), encoding="ascii")
    return folders


@contextmanager
def silenced() -> Iterator[StringIO]:
    """Without what is printed, which is held."""
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        yield printed


def survives(folders: list[Path], out: Path) -> None:
    """Report on nights, and compare the first with the last: every file is there, and the good records in it."""
    with silenced() as printed:
        status = report([*map(str, folders), "--out", str(out)])
    assert status in (0, 1), printed.getvalue()[-500:]
    missing = [name for name in FILES if not (out / name).exists()]
    assert not missing, f"{missing} not written: {printed.getvalue()[-500:]}"
    for name in ("table.csv", "table.md", "index.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "rows" in text, f"{name} lacks the good records"
    with silenced() as printed:
        status = compare([str(folders[0]), str(folders[-1]), "--markdown", str(out / "verdict.md")])
    assert status in (0, 1, 3), printed.getvalue()[-500:]
    verdicts = (out / "verdict.md").read_text(encoding="utf-8")
    assert "good" in verdicts, f"no verdict on the good records: {verdicts[:500]}"
    for path in out.iterdir():
        if path.suffix in MARKUP:
            is_inert(path)


def is_inert(path: Path) -> None:
    """Assert that a file of text holds no control characters, and no markup out of a record."""
    text = path.read_text(encoding="utf-8")
    controls = {c for c in text if c < " " or "\x7f" <= c < "\xa0" or c in "\u202e\u2028"} - {"\n"}
    assert not controls, f"{path.name} holds {controls}"
    assert not re.search(MARKUP[path.suffix], text), f"{path.name} holds {MARKUP[path.suffix]}"


@contextmanager
def without_pictures() -> Iterator[None]:
    """Reports have no figures meanwhile, which take most of their time."""
    with (
        mock.patch.object(files, "_figures", return_value={}),
        mock.patch.object(files, "trend_figure"),
        mock.patch.object(files, "save", return_value=[]),
    ):
        yield


def fuzz(folder: Path, seed: int) -> None:
    """A mixture of good records and drawn ones; one in PICTURED of the reports has figures."""
    with nullcontext() if seed % PICTURED == 0 else without_pictures():
        survives(store(mixture(random.Random(seed)), folder), folder / "report")


def every_text(folder: Path, field: str) -> None:
    """A field with each of TEXTS, beside good records."""
    records = [good(*GOOD[0], 0) | {field: text} for text in TEXTS]
    with nullcontext() if field == "method" else without_pictures():  # pictures take most of the time
        survives(store([[*(good(*kind, 0) for kind in GOOD), *records]] * 2, folder), folder / "report")


def beside(folder: Path, spoil: Callable[[Path], object]) -> None:
    """A run of good records and something that is no record, at the path that `spoil` is given: it is named."""
    store([[good(*kind, 0) for kind in GOOD]], folder)
    spoiled = folder / "night0" / "spoiled" / "record.json"
    spoiled.parent.mkdir()
    spoil(spoiled)
    frame = record.load(folder)
    assert len(frame) == len(GOOD), frame["path"].tolist()
    (skipped,) = frame.attrs["skipped"]
    assert str(spoiled.parent) in skipped, skipped
    assert len(skipped) < 500, f"{len(skipped)} characters: {skipped[:500]}"


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, chdir(path.parent):  # the path of a socket is short
        listening.bind(path.name)


def a_giant(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**40)


def a_line_without_end(folder: Path) -> None:
    lines = folder / "base.jsonl"
    lines.write_text(json.dumps(good(*GOOD[0], 0)) + "\n")
    with lines.open("ab") as stream:
        stream.truncate(2**40)
    frame = record.load(lines)
    assert len(frame) == 1
    (skipped,) = frame.attrs["skipped"]
    assert f"{lines}:2" in skipped, skipped


def deep_folders(folder: Path) -> None:
    store([[good(*kind, 0) for kind in GOOD]], folder)
    place = os.open(folder, os.O_DIRECTORY)
    for _ in range(3000):  # longer than a path may be
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_DIRECTORY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    try:
        assert len(record.load(folder)) == len(GOOD)
    finally:
        subprocess.run(["rm", "-r", str(folder / "d")], check=True)


def with_field(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(good(*GOOD[0], 0) | fields))


NO_RECORDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": a_socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "a loop of links": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a terabyte": a_giant,
    "nothing in it": Path.touch,
    "a million brackets": lambda path: path.write_text("[" * 10**6),
    "a giant integer": lambda path: path.write_text(f'{{"schema_version": 1{"0" * 10**5}}}'),
    "two million times": partial(with_field, times_s=[0.1] * 2 * 10**6),
    "a message of 10 MB": partial(with_field, message="x" * 10**7),
    "times that are null": partial(with_field, times_s=[None, None]),
    "times of 1.7e308": partial(with_field, times_s=[1.7e308, 1.7e308]),
    "times of 5e-324": partial(with_field, times_s=[5e-324]),
    "negative parameters": partial(with_field, params=-5),
    "a sketch of 1e308": partial(with_field, sketch=[1e308] * 32),
}
MIXTURES, PICTURED = 200, 25

CASES: dict[str, Case] = {
    **{name: partial(beside, spoil=spoil) for name, spoil in NO_RECORDS.items()},
    "a line without end": a_line_without_end,
    "deep folders": deep_folders,
    **{f"every text as {field}": partial(every_text, field=field) for field in ("method", "problem", "message", "cpu")},
    **{f"mixture {seed}": partial(fuzz, seed=seed) for seed in range(MIXTURES)},
}
