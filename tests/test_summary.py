"""The report in words: each sentence against records whose flaw or failure is known."""

import pytest

from harness.analysis.table import Analysis
from harness.report.summary import summary
from tests.test_report import cell, failed, frame_of  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")


def said(frame, title):
    """The sentences of a section; none where it was left out."""
    return next((section.sentences for section in summary(Analysis(frame)) if section.title == title), [])


def timed(method, *times, **changes):
    """A cell a round, each of two equal samples."""
    return [cell(method, round=number, times_s=[seconds] * 2, **changes) for number, seconds in enumerate(times)]


def test_what_is_wrong_within_the_tolerance_has_no_number(frame_of):  # noqa: F811
    errors = {"a": 2e-17, "b": None, "c": 0.0}
    frame = frame_of([cell(way, status="wrong", relative_error=error, tolerance=1e-7) for way, error in errors.items()])
    assert sorted(said(frame, "Silently wrong")) == [f"{label}: 1 of 1 cells." for label in "abc"]


def test_the_worst_error_comes_first_and_what_is_not_finite_is_counted(frame_of):  # noqa: F811
    frame = frame_of(
        [
            cell("a", status="wrong", relative_error=1e-3),
            cell("b", status="wrong", relative_error=0.2),
            cell("b", 16),
            cell("c", status="nonfinite", relative_error=None),
        ]
    )
    assert said(frame, "Silently wrong") == [
        "b: 1 of 2 cells, by up to 20% on mlp.",
        "a: 1 of 1 cells, by up to 0.1% on mlp.",
        "c: 1 of 1 cells, 1 of them with NaN or infinite entries.",
    ]


def test_failures_are_counted_by_cause(frame_of):  # noqa: F811
    records = [failed("timeout", "naive_loop", width, message=f"took longer than {width} s") for width in (4, 8)]
    records += [failed("oom", "jacfwd_jacfwd", message="no memory -> take chunks"), cell()]
    assert said(frame_of(records), "Failed") == [
        "2 over the time limit: naive_loop (2). The message: took longer than 4 s",
        "1 out of memory: jacfwd_jacfwd. The message: no memory",
    ]


def test_rounds_of_a_cell_count_once(frame_of):  # noqa: F811
    frame = frame_of([*timed("vmap_hvp", 1.0, 2.0, status="wrong", relative_error=0.5), *timed("rows", 1.0, 2.0)])
    assert said(frame, "Silently wrong") == ["vmap_hvp: 1 of 1 cells, by up to 50% on mlp."]


def test_without_times_it_says_who_is_right(frame_of):  # noqa: F811
    untimed = {"times_s": None, "first_s": None, "passes": "agreement"}
    frame = frame_of(
        [
            cell("a", 4, **untimed),
            cell("b", 4, **untimed),
            cell("a", 8, status="wrong", **untimed),
            cell("b", 8, **untimed),
        ]
    )
    assert said(frame, "Right most often") == ["b 2 of 2, a 1 of 2."]


def test_what_is_silently_wrong_is_said_first(frame_of):  # noqa: F811
    frame = frame_of([cell(), cell("b", status="wrong", relative_error=0.042), failed("oom", "c")])
    assert [section.title for section in summary(Analysis(frame))] == ["Silently wrong", "Failed", "Measured on"]
    assert said(frame, "Silently wrong") == ["b: 1 of 1 cells, by up to 4.2% on mlp."]


def test_the_machine_and_the_dates_are_told(frame_of):  # noqa: F811
    started = ("2026-11-02T03:04:05+00:00", "2026-11-01T03:04:05+00:00")
    frame = frame_of(
        [cell(width=width, started=text, commit="0123456789") for width, text in zip((4, 8), started, strict=True)]
    )
    assert said(frame, "Measured on") == [
        "torch 2.13.0, EPYC, threads 1, allocator default, float32.",
        "2 records, 2026-11-01 03:04 to 2026-11-02 03:04 UTC, by harness 01234567.",
    ]
