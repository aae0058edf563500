"""The leaderboard against records whose winner, ratio, flaw or failure is known: its numbers, then its text."""

import math

import pytest

from harness.analysis import table
from harness.analysis.crossovers import crossovers
from harness.analysis.leaderboard import SilentlyWrong, leaderboard
from harness.analysis.table import Analysis
from harness.report import leaderboard as board
from harness.report.files import write
from tests.test_report import cell, failed, frame_of, shown  # noqa: F401  frame_of is a fixture
from tests.test_terminal import on_terminal

pytestmark = pytest.mark.filterwarnings("error")


def timed(method, *times, **changes):
    """A cell a round, each of two equal samples."""
    return [cell(method, round=number, times_s=[seconds] * 2, **changes) for number, seconds in enumerate(times)]


def leader_of(frame, baseline=None):
    (leader,) = leaderboard(Analysis(frame), baseline)
    return leader


def text_of(frame):
    """The only line of the leaderboard as text, by heading."""
    (line,) = board.table(leaderboard(Analysis(frame)), "func_hessian").to_dict("records")
    return line


def test_the_best_right_method_its_time_its_memory_and_its_leads(frame_of):  # noqa: F811
    fast = {"times_s": [0.002, 0.0021], "tensor_peak_bytes": 3 * 2**20}
    rows = {"times_s": [0.0029, 0.003, 0.0031]}
    frame = frame_of([cell("func_hessian", times_s=[9.0, 9.0]), cell("vmap_hvp", **fast), cell("rows", **rows)])
    leader = leader_of(frame)
    assert (leader.problem, leader.params, leader.method, leader.second) == ("mlp", 133, "vmap_hvp", "rows")
    assert leader.time_s == pytest.approx(0.00205)
    assert leader.lead.value == pytest.approx(0.003 / 0.00205)
    assert leader.over_baseline.value == pytest.approx(9.0 / 0.00205)
    assert not leader.won, "a single process does not show how much processes differ"
    assert text_of(frame) == {
        "problem": "mlp",
        "P": "133",
        "method": "vmap_hvp",
        "time": "2.05 ms",
        "peak MiB": "3",
        "over baseline": "~4390×",
        "over the next": "~1.46× rows",
        "95 % interval": "1.38 to 1.55 (samples of 1 process)",
        "silently wrong": "",
    }


def test_a_lead_that_may_be_none_is_undecided(frame_of):  # noqa: F811
    frame = frame_of([*timed("vmap_hvp", 1.0, 2.0, 3.0), *timed("rows", 1.1, 1.9, 3.3)])
    assert not leader_of(frame).won
    assert text_of(frame)["over the next"] == "~0.909× vmap_hvp", "the median of 1 / 1.1, 2 / 1.9 and 3 / 3.3"
    (note,) = board.notes(leaderboard(Analysis(frame)), None).splitlines()
    assert note.endswith("~ no claim (leads over the next: 1, undecided: 1, of a single process: 0).")


def test_a_claim_states_how_often_it_is_wrong(frame_of):  # noqa: F811
    frame = frame_of([*timed("a", 1.0, 1.1, 1.2), *timed("func_hessian", 1.8, 2.2, 2.64)])
    leader = leader_of(frame)
    assert (leader.won, leader.beats_baseline) == (True, True)
    note = board.notes(leaderboard(Analysis(frame)), "func_hessian")
    assert "without ~ faster: at most 5 % of these are expected to be wrong by chance" in note
    assert "no claim" not in note


def test_the_leader_must_beat_all_others(frame_of):  # noqa: F811
    """The third is noisier than the second: by its own ratio it may be as fast as the leader."""
    near = [*timed("a", 1.0, 1.0, 1.0), *timed("b", 1.3, 1.31, 1.32)]
    assert leader_of(frame_of(near)).won
    leader = leader_of(frame_of([*near, *timed("c", 0.9, 1.5, 3.0)]))
    assert (leader.method, leader.second, leader.won) == ("a", "b", False)


def test_a_method_of_one_process_leaves_the_lead_without_a_claim(frame_of):  # noqa: F811
    leader = leader_of(frame_of([*timed("a", 1.0, 1.0, 1.0), *timed("b", 1.3, 1.31, 1.32), *timed("c", 9.0)]))
    assert (leader.second, leader.won) == ("b", False)


def test_one_process_claims_nothing(frame_of):  # noqa: F811
    near = frame_of([cell("a", times_s=[1.0, 1.01]), cell("b", times_s=[1.05, 1.06])])
    alone = frame_of([cell("a", times_s=[1.0]), cell("b", times_s=[2.0, 2.0])])
    assert text_of(near)["over the next"] == "~1.05× b"
    assert text_of(near)["95 % interval"] == "1.04 to 1.06 (samples of 1 process)"
    assert text_of(alone)["over the next"] == "~2× b"
    assert text_of(alone)["95 % interval"] == "- (1 process)"
    note = board.notes(leaderboard(Analysis(near)), None)
    assert note.endswith("~ no claim (leads over the next: 1, undecided: 0, of a single process: 1).")


def test_one_odd_sample_of_many_hides_no_difference(frame_of):  # noqa: F811
    frame = frame_of([cell("vmap_hvp", times_s=[1.0] * 30 + [9.0]), cell("rows", times_s=[1.5] * 30)])
    assert leader_of(frame).lead.order == 1


@pytest.mark.parametrize("processes", [1, 3, 10])
def test_what_prints_as_one_is_no_lead(frame_of, processes):  # noqa: F811
    frame = frame_of([*timed("a", *[1.0] * processes), *timed("b", *[1.0001] * processes)])
    assert not leader_of(frame).won


def test_the_ratio_is_taken_process_by_process(frame_of):  # noqa: F811
    machine = [1.0 + number for number in range(10)]  # grows slower by the round, as a busy machine does
    times = [seconds * ratio for ratio, seconds in enumerate(machine, 1)]
    line = text_of(frame_of([*timed("vmap_hvp", *machine), *timed("rows", *times)]))
    assert (line["over the next"], line["95 % interval"]) == ("5.5× rows", "2 to 9 (10 processes)")


def test_fewer_than_six_processes_win_by_students_t(frame_of):  # noqa: F811
    """Ratios 1.8, 2 and 2.2: 4.3027 / sqrt(3) standard deviations of their logarithms to either side of the mean."""
    line = text_of(frame_of([*timed("vmap_hvp", 1.0, 1.1, 1.2), *timed("rows", 1.8, 2.2, 2.64)]))
    assert (line["over the next"], line["95 % interval"]) == ("2× rows", "1.55 to 2.56 (3 processes)")
    line = text_of(frame_of([*timed("vmap_hvp", 1.0, 1.0), *timed("rows", 1.2, 1.8)]))
    assert (line["over the next"], line["95 % interval"]) == ("~1.5× rows", "0.112 to 19.3 (2 processes)")


def test_who_wins_process_by_process_wins_over_the_median(frame_of):  # noqa: F811
    """In four of five processes b takes 0.8 times as long, but in the one that is the median."""
    leader = leader_of(frame_of([*timed("a", 1.0, 2.0, 3.0, 4.0, 5.0), *timed("b", 0.8, 1.6, 3.05, 3.2, 4.0)]))
    assert (leader.method, leader.time_s, leader.second) == ("b", 3.05, "a")
    assert leader.lead.value == pytest.approx(1.25)


@pytest.mark.parametrize(("noise", "decided"), [(0.1, False), (0.01, True)])
def test_the_leaderboard_decides_what_the_crossovers_do(frame_of, noise, decided):  # noqa: F811
    """Three processes, of which one method's are all faster at one P and the other's at the other P."""

    def times(slow):
        return (1.35, 1.35 * (1 + noise), 1.35 * (1 + 2 * noise)) if slow else (1.0 + 2 * noise, 1.0, 1.0)

    frame = frame_of(
        [
            entry
            for width, slower in ((4, "b"), (16, "a"))
            for method in "ab"
            for entry in timed(method, *times(method == slower), width=width)
        ]
    )
    leaders = leaderboard(Analysis(frame))
    assert [leader.method for leader in leaders] == ["a", "b"]
    assert [leader.won for leader in leaders] == [decided] * 2
    assert len(crossovers(Analysis(frame))) == decided


def test_a_wrong_method_never_leads_and_stands_with_its_error(frame_of):  # noqa: F811
    wrong = {"status": "wrong", "relative_error": 0.042}
    infinite = {"status": "nonfinite", "relative_error": None}
    frame = frame_of(
        [*timed("func_hessian", 0.001, **wrong), cell("c", **infinite), *timed("a", 0.002), *timed("b", 0.003)]
    )
    leader = leader_of(frame)
    assert leader.method == "a"
    assert leader.wrong[0] == SilentlyWrong("func_hessian", "wrong", 0.042)
    assert (leader.baseline_status, leader.over_baseline) == ("wrong", None)
    line = text_of(frame)
    assert line["over baseline"] == "wrong"
    assert line["silently wrong"] == "func_hessian (4.2%), c (NaN or infinite)"


def test_what_is_wrong_within_the_tolerance_has_no_number(frame_of):  # noqa: F811
    frame = frame_of([cell("a"), cell("b", status="wrong", relative_error=2e-17, tolerance=1e-7)])
    assert math.isnan(leader_of(frame).wrong[0].error)
    assert text_of(frame)["silently wrong"] == "b"


@pytest.mark.parametrize(
    ("records", "over", "following"),
    [
        ([cell("func_hessian", times_s=[1.0] * 3), cell("b", times_s=[3.0] * 3)], "itself", "~3× b"),
        ([cell("a", times_s=[1.0] * 3), failed("oom", "func_hessian", 8)], "oom", "no other is right"),
        ([cell("a", times_s=[1.0] * 3), cell("b", times_s=[3.0] * 3)], "not run", "~3× b"),
    ],
    ids=["itself", "failed", "not run"],
)
def test_why_there_is_no_ratio_is_shown(frame_of, records, over, following):  # noqa: F811
    line = text_of(frame_of(records))
    assert (line["over baseline"], line["over the next"]) == (over, following)


def test_another_baseline(frame_of):  # noqa: F811
    frame = frame_of([cell(method, times_s=[seconds] * 3) for method, seconds in (("a", 1.0), ("b", 2.0), ("c", 7.0))])
    assert leader_of(frame, "c").over_baseline.value == pytest.approx(7.0)


def test_a_place_without_a_right_method_has_no_line(frame_of):  # noqa: F811
    frame = frame_of([failed("oom", "a", 8), cell("b", status="wrong"), cell("c", 16)])
    assert [leader.params for leader in leaderboard(Analysis(frame))] == [261]


def test_contention_and_a_known_flaw_are_marked(frame_of):  # noqa: F811
    starved = {"sampling_wall_s": 1.0, "sampling_cpu_s": 0.5}
    frame = frame_of([cell("a", times_s=[1.0] * 3), cell("b", times_s=[2.0] * 3, **starved)])
    assert text_of(frame)["time"] == "1 s *"
    assert "* one of the two measured under contention" in board.notes(leaderboard(Analysis(frame)), None)


def test_the_terminal_begins_with_it_where_there_are_two_methods(frame_of):  # noqa: F811
    records = [
        cell(method, width, times_s=[seconds] * 2)
        for width in range(1, 24)
        for method, seconds in (("vmap_hvp", 1.0), ("rows", 2.0))
    ]
    lines = shown(frame_of(records)).splitlines()
    assert lines[0] == "Fastest right method"
    first = lines[lines.index("mlp") + 4].split()
    assert first == ["21", "vmap_hvp", "1", "s", first[4], "~2×", "rows"]
    assert "and 3 more (--out DIR writes all of them)" in lines
    assert "Fastest" not in shown(frame_of([cell()]))


@pytest.mark.parametrize("count", [1, 60])
def test_hostile_names_and_any_number_of_methods(frame_of, count):  # noqa: F811
    name = "a|b`*_<script>\x1b[31m \n" + "x" * 60
    frame = frame_of([cell(f"{name}{number}", problem=name, dtype=name) for number in range(count)])
    text = on_terminal(frame, 60)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 60 or count == 1
    (line,) = board.table(leaderboard(Analysis(frame)), None).to_dict("records")
    assert "\n" not in "".join(line.values())


@pytest.mark.parametrize(
    "records",
    [
        [failed(), failed(method="b")],
        [cell(times_s=[0.0]), cell("b", times_s=[0.0])],
        [cell(params=None), cell("b", params=None)],
    ],
    ids=["all failed", "zeros", "missing P"],
)
def test_sparse_records(frame_of, records):  # noqa: F811
    assert on_terminal(frame_of(records), 60)


def test_a_report_prepares_its_records_once(frame_of, tmp_path, monkeypatch):  # noqa: F811
    calls = []
    prepared = table._prepared
    monkeypatch.setattr(table, "_prepared", lambda frame: calls.append(len(frame)) or prepared(frame))
    analysis = Analysis(frame_of([cell(method, width) for method in ("a", "b") for width in (4, 8, 16, 32)]))
    write(analysis, tmp_path / "out", baseline="a")
    assert calls == [8]


def test_a_baseline_that_no_record_has_is_refused(frame_of):  # noqa: F811
    with pytest.raises(ValueError, match="baseline c is no method of these records; they have a, b"):
        leaderboard(Analysis(frame_of([cell("a"), cell("b")])), "c")


def test_times_of_two_nodes_of_a_cluster_make_no_ratio(frame_of, tmp_path):  # noqa: F811
    """Eight processes each, 1.2 times as fast; the node alone may be the reason."""
    times = [0.01 + 0.0001 * number for number in range(8)]
    slower = [1.2 * seconds for seconds in times]
    frame = frame_of([*timed("func_hessian", *times, node="n1"), *timed("rows", *slower, node="n2")])
    leader = leader_of(frame)
    assert (leader.won, leader.lead.processes, math.isnan(leader.lead.value)) == (False, 0, True)
    line = text_of(frame)
    assert (line["over the next"], line["95 % interval"]) == ("on several nodes: rows", "-")
    assert "on several nodes: their times do not compare" in board.notes(leaderboard(Analysis(frame)), None)
    write(Analysis(frame), tmp_path / "report")
    with pytest.raises(ValueError, match="on no node, where another method is"):
        write(Analysis(frame), tmp_path / "over", baseline="func_hessian")
    shared = timed("rows", *slower[:4], node="n1", seed=1) + timed("func_hessian", *times[:4], node="n1", seed=1)
    lead = leader_of(frame_of([*timed("func_hessian", *times, node="n1"), *timed("rows", *slower, node="n2"), *shared]))
    assert (lead.lead.processes, lead.lead.value) == (4, pytest.approx(1.2)), "those of one node alone"
    assert lead.won
