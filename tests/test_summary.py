"""The report in words: each sentence against records whose winner, ratio, flaw or failure is known."""

import pytest

from harness.report.summary import summary
from tests.test_report import cell, failed, frame_of, shown  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")


def said(frame, title):
    """The sentences of a section; none where it was left out."""
    return next((section.sentences for section in summary(frame) if section.title == title), [])


def timed(method, *times, **changes):
    """A cell a round, each of one sample."""
    return [cell(method, round=number, times_s=[seconds], **changes) for number, seconds in enumerate(times)]


def test_the_winner_and_its_ratio_to_the_second(frame_of):  # noqa: F811
    frame = frame_of([*timed("slow", 9.0), *timed("vmap_hvp", 0.002), *timed("rows", 0.003)])
    assert said(frame, "Fastest") == ["mlp, P=133: vmap_hvp is fastest, 2 ms, 1.5 times as fast as rows."]


@pytest.mark.parametrize(("rounds", "interval"), [(3, "range over 3 processes: 1.5 to 3"),
                                                  (10, "95 % interval over 10 processes: 2 to 9")])  # fmt: skip
def test_the_ratio_is_taken_process_by_process(frame_of, rounds, interval):  # noqa: F811
    ratios = (1.5, 2.0, 3.0) if rounds == 3 else range(1, 11)
    machine = [1.0 + number for number in range(rounds)]  # grows slower by the round, as a busy machine does
    times = [seconds * ratio for seconds, ratio in zip(machine, ratios, strict=True)]
    frame = frame_of([*timed("vmap_hvp", *machine), *timed("rows", *times)])
    (sentence,) = said(frame, "Fastest")
    assert f"times as fast as rows ({interval})" in sentence


def test_ways_whose_ratio_may_be_one_are_not_told_apart(frame_of):  # noqa: F811
    frame = frame_of([*timed("vmap_hvp", 1.0, 2.0, 3.0), *timed("rows", 1.1, 1.9, 3.3)])
    (sentence,) = said(frame, "Fastest")
    assert "not told apart" in sentence
    assert "fastest" not in sentence


def test_several_comparisons_are_counted_and_say_that_they_have_no_intervals(frame_of):  # noqa: F811
    records = [cell(method, width, times_s=[seconds]) for width in (4, 8, 16)
               for method, seconds in (("vmap_hvp", 1.0), ("rows", width / 8 + 0.25))]  # fmt: skip
    tally, *sentences = said(frame_of(records), "Fastest")
    assert tally == (
        "3 comparisons between ways that are right; won by vmap_hvp (2), rows (1); one process a cell, so no intervals."
    )
    assert [sentence.split(":")[0] for sentence in sentences] == ["mlp, P=69", "mlp, P=133", "mlp, P=261"]


def test_what_is_undecided_is_counted(frame_of):  # noqa: F811
    records = [entry for width in (4, 8) for entry in (*timed("vmap_hvp", 1.0, 2.0, width=width),
                                                       *timed("rows", 1.1, 1.9, width=width))]  # fmt: skip
    assert said(frame_of(records), "Fastest")[0] == "2 comparisons between ways that are right; 2 undecided."


def test_a_wrong_way_never_wins_but_is_told(frame_of):  # noqa: F811
    wrong = {"status": "wrong", "relative_error": 0.042}
    frame = frame_of([*timed("func_hessian", 0.001, **wrong), *timed("vmap_hvp", 0.002), *timed("rows", 0.003)])
    (sentence,) = said(frame, "Fastest")
    assert "vmap_hvp is fastest" in sentence
    assert sentence.endswith("; faster, but wrong: func_hessian.")
    assert said(frame, "Silently wrong") == ["func_hessian: 1 of 1 rows, by up to 4.2% on mlp."]


def test_the_worst_error_comes_first_and_what_is_not_finite_is_counted(frame_of):  # noqa: F811
    frame = frame_of([cell("a", status="wrong", relative_error=1e-3), cell("b", status="wrong", relative_error=0.2),
                      cell("b", 16), cell("c", status="nonfinite", relative_error=None)])  # fmt: skip
    assert said(frame, "Silently wrong") == [
        "b: 1 of 2 rows, by up to 20% on mlp.",
        "a: 1 of 1 rows, by up to 0.1% on mlp.",
        "c: 1 of 1 rows, 1 of them with NaN or infinite entries.",
    ]


def test_failures_are_counted_by_cause(frame_of):  # noqa: F811
    records = [failed("timeout", "naive_loop", width, message=f"took longer than {width} s") for width in (4, 8)]
    records += [failed("oom", "jacfwd_jacfwd", message="no memory -> take chunks"), cell()]
    assert said(frame_of(records), "Failed") == [
        "2 over the time limit: naive_loop (2). The message: took longer than 4 s",
        "1 out of memory: jacfwd_jacfwd. The message: no memory"]  # fmt: skip


def test_rounds_of_a_cell_count_once(frame_of):  # noqa: F811
    frame = frame_of([*timed("vmap_hvp", 1.0, 2.0, status="wrong", relative_error=0.5), *timed("rows", 1.0, 2.0)])
    assert said(frame, "Silently wrong") == ["vmap_hvp: 1 of 1 rows, by up to 50% on mlp."]


def test_without_times_it_says_who_is_right(frame_of):  # noqa: F811
    untimed = {"times_s": None, "first_s": None, "passes": "agreement"}
    frame = frame_of([cell("a", 4, **untimed), cell("b", 4, **untimed),
                      cell("a", 8, status="wrong", **untimed), cell("b", 8, **untimed)])  # fmt: skip
    assert said(frame, "Right most often") == ["b 2 of 2, a 1 of 2."]
    assert not said(frame, "Fastest")


def test_the_machine_and_the_dates_are_told(frame_of):  # noqa: F811
    started = ("2026-11-02T03:04:05+00:00", "2026-11-01T03:04:05+00:00")
    frame = frame_of(
        [cell(width=width, started=text, commit="0123456789") for width, text in zip((4, 8), started, strict=True)]
    )
    assert said(frame, "Measured on") == [
        "torch 2.13.0, EPYC, threads 1, allocator default, float32.",
        "2 records, 2026-11-01 03:04 to 2026-11-02 03:04 UTC, by harness 01234567.",
    ]


def test_the_terminal_tells_the_first_sentences(frame_of):  # noqa: F811
    records = [cell(method, width, times_s=[seconds]) for width in (4, 8, 16, 32, 64)
               for method, seconds in (("vmap_hvp", 1.0), ("rows", 2.0))]  # fmt: skip
    text = shown(frame_of(records))
    assert "mlp, P=69: vmap_hvp is fastest, 1 s, 2 times as fast as rows." in text
    assert "and 2 more" in text
    assert "P=1029: vmap" not in text
    assert "Fastest" not in shown(frame_of([cell()]))
