"""Records from elsewhere: files that are none, and accepted records with the worst of values in their fields."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from harness import record
from harness.compare.__main__ import main as compare
from harness.report.command import main as report
from tests.reliability.cases import Case

Fields = dict[str, Any]  # of a record

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
NUMBERS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e-12, 1e-3, 1e9, 1e12, 1e150, 1e300, 1.7e308, -1.7e308, 10**300)
LISTS = (
    *([], [None], [None, None], [0.0], [0.0, 0.0], [-1.0], [5e-324] * 3, [1.7e308] * 2, [1.7e308, -1.7e308], [1e308]),
    *([1e300, 1e-300], [1.0], [1.0] * 4, [1e-9, 1e9], [None, 1.0], [1, 2, 3], [0.01 + 1e-5 * place for place in range(50)]),
)
SKETCHES = ([1.7e308] * 32, [0.0] * 32, [5e-324] * 32, [-1.7e308, 1.7e308] * 16, [1e200] * 32, [1.0] * 32, [1.0] * 31)


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
    values = JSON if field.unit == "JSON" else {"str": TEXTS, "int": WHOLE, "float": NUMBERS, "bool": (True, False)}.get(field.type, LISTS)
    return draw.choice(values)


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
        assert "good" in text and "rows" in text, f"{name} lacks the good records"
    with silenced() as printed:
        status = compare([str(folders[0]), str(folders[-1]), "--markdown", str(out / "verdict.md")])
    assert status in (0, 1, 3), printed.getvalue()[-500:]
    verdicts = (out / "verdict.md").read_text(encoding="utf-8")
    assert "good" in verdicts, f"no verdict on the good records: {verdicts[:500]}"


def fuzz(folder: Path, seeds: Iterable[int]) -> None:
    """Mixtures of good records and drawn ones, one for each seed."""
    for seed in seeds:
        place = folder / str(seed)
        try:
            survives(store(mixture(random.Random(seed)), place), place / "report")
        except Exception as error:
            raise AssertionError(f"mixture {seed}: {type(error).__name__}: {error}") from error


CASES: dict[str, Case] = {}
