"""The report in words: each sentence against records whose winner, ratio, flaw or failure is known."""

import pytest

from harness.analysis.crossovers import crossovers
from harness.analysis.table import Analysis
from harness.report.summary import summary
from tests.test_report import cell, failed, frame_of, shown  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")


def said(frame, title):
    """The sentences of a section; none where it was left out."""
    return next((section.sentences for section in summary(Analysis(frame)) if section.title == title), [])


def timed(method, *times, **changes):
    """A cell a round, each of two equal samples."""
    return [cell(method, round=number, times_s=[seconds] * 2, **changes) for number, seconds in enumerate(times)]


def test_one_process_tells_who_is_faster_in_it_by_its_samples(frame_of):  # noqa: F811
    records = [
        cell("slow", times_s=[9.0]),
        cell("vmap_hvp", times_s=[0.002, 0.0021]),
        cell("rows", times_s=[0.0029, 0.003, 0.0031]),
    ]
    assert said(frame_of(records), "Fastest") == [
        "mlp, P=133: vmap_hvp is faster in this process, 2.05 ms, 1.46 times as fast as rows (1.38 to 1.55 by "
        "samples within one process)."
    ]
    records[1]["times_s"].append(0.0029)
    assert said(frame_of(records), "Fastest") == [
        "mlp, P=133: vmap_hvp (2.1 ms) and rows (3 ms) are not told apart, ratio 1.43 (1 to 1.55 by samples within one "
        "process)."
    ]


def test_one_process_decides_nothing_below_a_tenth_or_without_samples(frame_of):  # noqa: F811
    near, alone = (
        [cell(way, times_s=times) for way, times in ways.items()]
        for ways in ({"a": [1.0, 1.01], "b": [1.05, 1.06]}, {"a": [1.0], "b": [2.0, 2.0]})
    )
    (sentence,) = said(frame_of(near), "Fastest")
    assert "told apart, ratio 1.05, too near 1 for one process (1.04 to 1.06 by samples within one process)" in sentence
    (sentence,) = said(frame_of(alone), "Fastest")
    assert "a (1 s) and b (2 s) are undecided, ratio 2 (too few samples for an interval)" in sentence


def test_one_odd_sample_of_many_hides_no_difference(frame_of):  # noqa: F811
    odd = [cell("vmap_hvp", times_s=[1.0] * 30 + [9.0]), cell("rows", times_s=[1.5] * 30)]
    assert "1.5 times as fast as rows (1.5 to 1.5 by samples within one process)" in said(frame_of(odd), "Fastest")[0]


@pytest.mark.parametrize("processes", [1, 3, 10])
def test_what_prints_as_one_is_no_win(frame_of, processes):  # noqa: F811
    frame = frame_of([*timed("a", *[1.0] * processes), *timed("b", *[1.0001] * processes)])
    (sentence,) = said(frame, "Fastest")
    assert "a (1 s) and b (1 s) are not told apart, ratio 1 (" in sentence


def test_the_ratio_is_taken_process_by_process(frame_of):  # noqa: F811
    machine = [1.0 + number for number in range(10)]  # grows slower by the round, as a busy machine does
    times = [seconds * ratio for ratio, seconds in enumerate(machine, 1)]
    (sentence,) = said(frame_of([*timed("vmap_hvp", *machine), *timed("rows", *times)]), "Fastest")
    assert "5.5 times as fast as rows (95 % interval 2 to 9 over 10 processes)" in sentence


def test_fewer_than_six_processes_win_by_students_t(frame_of):  # noqa: F811
    """Ratios 1.8, 2 and 2.2: 4.3027 / sqrt(3) standard deviations of their logarithms to either side of the mean."""
    (sentence,) = said(frame_of([*timed("vmap_hvp", 1.0, 1.1, 1.2), *timed("rows", 1.8, 2.2, 2.64)]), "Fastest")
    assert "vmap_hvp is fastest, 1.1 s, 2 times as fast as rows (95 % interval 1.55 to 2.56 over 3 proc" in sentence
    (sentence,) = said(frame_of([*timed("vmap_hvp", 1.0, 1.0), *timed("rows", 1.2, 1.8)]), "Fastest")
    assert "not told apart, ratio 1.5 (95 % interval 0.112 to 19.3 over 2 processes)" in sentence, "though all are"


def test_who_wins_process_by_process_wins_over_the_median(frame_of):  # noqa: F811
    """In four of five processes b takes 0.8 times as long, but in the one that is the median."""
    frame = frame_of([*timed("a", 1.0, 2.0, 3.0, 4.0, 5.0), *timed("b", 0.8, 1.6, 3.05, 3.2, 4.0)])
    (sentence,) = said(frame, "Fastest")
    assert "b is fastest, 3.05 s, 1.25 times as fast as a (95 % interval 1.04 to 1.36 over 5 processes)" in sentence


@pytest.mark.parametrize(("noise", "decided"), [(0.1, False), (0.01, True)])
def test_the_summary_decides_what_the_crossovers_do(frame_of, noise, decided):  # noqa: F811
    """Three processes, of which one way's are all faster at one P and the other's at the other P."""
    frame = frame_of(
        [
            entry
            for width, slower in ((4, "b"), (16, "a"))
            for way in "ab"
            for entry in timed(
                way,
                *((1.35, 1.35 * (1 + noise), 1.35 * (1 + 2 * noise)) if way == slower else (1.0 + 2 * noise, 1.0, 1.0)),
                width=width,
            )
        ]
    )
    told_by = "won by Student's t on the processes' log ratios: a (1), b (1)" if decided else "2 undecided"
    assert said(frame, "Fastest")[0] == f"2 comparisons between ways that are right; {told_by}."
    assert len(crossovers(frame)) == decided


def test_ways_whose_ratio_may_be_one_are_not_told_apart(frame_of):  # noqa: F811
    frame = frame_of([*timed("vmap_hvp", 1.0, 2.0, 3.0), *timed("rows", 1.1, 1.9, 3.3)])
    (sentence,) = said(frame, "Fastest")
    assert "not told apart" in sentence
    assert "fastest" not in sentence


def test_wins_are_counted_by_what_tells_them(frame_of):  # noqa: F811
    records = [
        entry
        for width, processes in ((4, 6), (8, 6), (16, 3), (32, 1), (64, 1))
        for method, seconds in (("vmap_hvp", 1.0), ("rows", width / 8 + 0.25))
        for entry in timed(method, *[seconds] * processes, width=width)
    ]
    tally, *sentences = said(frame_of(records), "Fastest")
    assert tally == (
        "5 comparisons between ways that are right; won by order statistics of the processes' ratios: rows (1), "
        "vmap_hvp (1); won by Student's t on the processes' log ratios: vmap_hvp (1); faster in a single process, "
        "which counts as no win: vmap_hvp (2)."
    )
    assert [sentence.split(":")[0] for sentence in sentences] == [
        f"mlp, P={params}" for params in (69, 133, 261, 517, 1029)
    ]


def test_what_is_undecided_is_counted(frame_of):  # noqa: F811
    records = [
        entry
        for width in (4, 8)
        for entry in (*timed("vmap_hvp", 1.0, 2.0, width=width), *timed("rows", 1.1, 1.9, width=width))
    ]
    assert said(frame_of(records), "Fastest")[0] == "2 comparisons between ways that are right; 2 undecided."


def test_a_wrong_way_never_wins_but_is_told(frame_of):  # noqa: F811
    wrong = {"status": "wrong", "relative_error": 0.042}
    frame = frame_of([*timed("func_hessian", 0.001, **wrong), *timed("vmap_hvp", 0.002), *timed("rows", 0.003)])
    (sentence,) = said(frame, "Fastest")
    assert "vmap_hvp is faster" in sentence
    assert sentence.endswith("; faster, but wrong: func_hessian.")
    assert said(frame, "Silently wrong") == ["func_hessian: 1 of 1 rows, by up to 4.2% on mlp."]


def test_what_is_wrong_within_the_tolerance_has_no_number(frame_of):  # noqa: F811
    errors = {"a": 2e-17, "b": None, "c": 0.0}
    frame = frame_of([cell(way, status="wrong", relative_error=error, tolerance=1e-7) for way, error in errors.items()])
    assert sorted(said(frame, "Silently wrong")) == [f"{label}: 1 of 1 rows." for label in "abc"]


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
        "b: 1 of 2 rows, by up to 20% on mlp.",
        "a: 1 of 1 rows, by up to 0.1% on mlp.",
        "c: 1 of 1 rows, 1 of them with NaN or infinite entries.",
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
    assert said(frame, "Silently wrong") == ["vmap_hvp: 1 of 1 rows, by up to 50% on mlp."]


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
    records = [
        cell(method, width, times_s=[seconds] * 2)
        for width in (4, 8, 16, 32, 64)
        for method, seconds in (("vmap_hvp", 1.0), ("rows", 2.0))
    ]
    text = shown(frame_of(records))
    assert "mlp, P=69: vmap_hvp is faster in this process, 1 s, 2 times as fast as rows" in text
    assert "and 2 more" in text
    assert "P=1029: vmap" not in text
    assert "Fastest" not in shown(frame_of([cell()]))
