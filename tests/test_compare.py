"""The verdict on a candidate: what is certain is told, what is not is not, and no other machine's times are judged."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
from scipy import stats

from harness import record
from harness.compare import output
from harness.compare.__main__ import main
from harness.compare.baseline import Comparison
from harness.compare.conclusion import conclude
from harness.compare.confirm import confirm
from harness.compare.time_verdicts import FAMILY, SPENT
from harness.compare.times import LEVEL, processes_needed, times
from harness.compare.verdicts import compare
from harness.record import COUNTERS

ROOT = Path(__file__).parent.parent
SLOW = """
_hessian = hessian


def hessian(loss, theta):
    import time

    time.sleep(0.02)
    return _hessian(loss, theta)
"""


def cell(method="vmap_hvp", seconds=0.01, **changes):
    """A plausible ok record."""
    return {
        "status": "ok",
        "problem": "mlp",
        "problem_options": '{"width": 8}',
        "method": method,
        "method_options": "{}",
        "quantity": "hessian",
        "vectors": 1,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "allocator": "default",
        "seed": 0,
        "round": 0,
        "params": 133,
        "times_s": [seconds, 1.1 * seconds],
        "tolerance": 1e-5,
        "relative_error": 1e-7,
        "operations": 338,
        "allocations": 211,
        "flops": 18336,
        "tensor_peak_bytes": 65552,
        "cpu": "EPYC",
        "cores": 2,
        "passes": "time, exact, agreement",
        "measure": "{}",
        "started": "2026-11-24T02:00:00+00:00",
    } | changes


def folder(place: Path, records) -> Path:
    for number, entry in enumerate(records):
        record.write(entry, place / str(number) / "record.json")
    return place


def judged(tmp_path: Path, base, candidate, **options):
    """The verdicts on two lists of records."""
    sides = [record.load(folder(tmp_path / name, side)) for name, side in (("base", base), ("candidate", candidate))]
    return compare(*sides, **options)


def processes(ratio: float, noise: float, seed: int, count: int = 10, **changes):
    """Records of processes whose times scatter log-normally about `ratio` times 10 ms."""
    drawn = numpy.random.default_rng(seed).lognormal(sigma=noise, size=count)
    return [cell(seconds=0.01 * ratio * factor, round=number, **changes) for number, factor in enumerate(drawn)]


def test_the_interval_holds_the_true_ratio_as_often_as_it_says_and_agrees_with_the_test() -> None:
    draw, held, trials = numpy.random.default_rng(0), 0, 400
    for _ in range(trials):
        base, candidate = draw.lognormal(sigma=0.1, size=9), 1.3 * draw.lognormal(sigma=0.1, size=10)
        seen = times(base, candidate)
        held += seen.low <= 1.3 <= seen.high
        assert (seen.p < 1 - LEVEL) == (not seen.low <= 1 <= seen.high)
        assert seen.low <= seen.ratio <= seen.high
        swapped = times(candidate, base)
        assert swapped.low == pytest.approx(1 / seen.high)
        assert swapped.high == pytest.approx(1 / seen.low)
    assert stats.binomtest(held, trials, LEVEL).pvalue > 0.01


def test_too_few_processes_have_no_interval() -> None:
    seen = times([1.0, 1.1, 1.2], [9.0, 9.1, 9.2])
    assert (seen.low, seen.high) == (0.0, numpy.inf)
    assert seen.p > FAMILY


@pytest.mark.slow
def test_the_same_code_is_hardly_ever_an_alarm_and_ten_percent_hardly_ever_missed(tmp_path: Path) -> None:
    methods, alarms, found = [f"m{number}" for number in range(6)], 0, 0
    for seed in range(20):
        sides = []
        for side in (0, 1):
            ratios = [1.1 if side and method == "m0" else 1.0 for method in methods]
            drawn = [
                processes(ratio, 0.03, 1000 * seed + 10 * place + side, method=methods[place])
                for place, ratio in enumerate(ratios)
            ]
            sides.append([entry for each in drawn for entry in each])
        verdicts = judged(tmp_path / str(seed), *sides).set_index("method")["verdict"]
        found += verdicts["m0"] == "slower"
        alarms += bool((verdicts.drop("m0") == "slower").any())
    assert alarms == 0
    assert found >= 19


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [(1.0, 0.01, "same"), (1.03, 0.003, "same"), (1.3, 0.03, "slower"), (0.7, 0.03, "faster"), (1.0, 0.3, "undecided")],
)
def test_times(tmp_path: Path, ratio: float, noise: float, verdict: str) -> None:
    found = judged(tmp_path, processes(1.0, noise, 1), processes(ratio, noise, 2)).iloc[0]
    assert found["verdict"] == verdict
    assert found["ratio"] == pytest.approx(ratio, rel=2 * noise)
    assert (found["base_processes"], found["candidate_processes"]) == (10, 10)


def test_the_guard_decides_which_slowdown_matters(tmp_path: Path) -> None:
    sides = processes(1.0, 0.003, 1), processes(1.04, 0.003, 2)
    assert judged(tmp_path / "a", *sides)["verdict"].item() == "same"
    assert judged(tmp_path / "b", *sides, guard=1.02)["verdict"].item() == "slower"


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("elsewhere", [{}, {"cpu": "Xeon", "cores": 64}])
def test_one_count_more_is_slower_on_any_machine_unless_allowed(tmp_path: Path, counter: str, elsewhere: dict) -> None:
    more = cell(**elsewhere, **{counter: cell()[counter] + 1})
    (found,) = judged(tmp_path / "a", [cell()], [more]).itertuples()
    assert found.verdict == "slower"
    assert f"{counter} {cell()[counter]:,} to {cell()[counter] + 1:,}" in found.reason
    fewer = judged(tmp_path / "b", [more], [cell()]).iloc[0]
    assert fewer["verdict"] == ("faster" if elsewhere else "undecided")  # one process tells no time
    assert f"{counter} {cell()[counter] + 1:,} to {cell()[counter]:,}" in fewer["reason"]
    assert judged(tmp_path / "c", [cell()], [more], allow=[counter])["verdict"].item() in ("same", "undecided")


def test_times_of_another_machine_are_refused_and_all_else_compared(tmp_path: Path) -> None:
    base = processes(1.0, 0.01, 1) + processes(1.0, 0.01, 2, method="naive_loop")
    there = {"cpu": "Xeon", "cores": 64}
    candidate = processes(5.0, 0.01, 3, **there) + processes(1.0, 0.01, 4, method="naive_loop", **there)
    candidate[-1] |= {"status": "wrong", "message": "relative error 1"}
    verdicts = judged(tmp_path, base, candidate).set_index("method")
    assert verdicts["verdict"].to_dict() == {"naive_loop": "broken", "vmap_hvp": "same"}
    assert "cpu EPYC and Xeon; cores 2 and 64" in verdicts.loc["vmap_hvp", "reason"]
    assert numpy.isnan(verdicts.loc["vmap_hvp", "ratio"])
    uncounted = dict.fromkeys(COUNTERS)
    verdicts = judged(tmp_path / "only", [cell(**uncounted)], [cell(**uncounted, **there)])
    assert verdicts["verdict"].item() == "not comparable"
    assert output.status(verdicts) == 2


ESTIMATE = {"stated_error": 0.01, "tolerance": 0.02}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ({}, {"status": "wrong", "message": "it is off"}, "broken"),
        ({}, {"status": "unsupported"}, "broken"),
        ({"status": "unsupported"}, {"status": "nonfinite"}, "broken"),
        ({"status": "wrong", "message": "it was off"}, {}, "fixed"),
        ({"status": "wrong"}, {"status": "error", "message": "no such module"}, "same"),
        ({"status": "timeout"}, {"status": "unsupported"}, "same"),
        ({"status": "timeout"}, {"status": "oom"}, "same"),
        ({"relative_error": 1e-7}, {"relative_error": 5e-6}, "broken"),
        ({"relative_error": 1e-16}, {"relative_error": 1e-14}, "undecided"),  # far below what is tolerated
        ({"relative_error": 1e-5} | ESTIMATE, {"relative_error": 1e-2} | ESTIMATE, "undecided"),  # by chance
        ({"relative_error": 1e-2} | ESTIMATE, {"relative_error": 1e-2, "stated_error": 0.2}, "broken"),
    ],
)
def test_status_and_agreement(tmp_path: Path, before: dict, after: dict, verdict: str) -> None:
    found = judged(tmp_path, [cell(**before)], [cell(**after)]).iloc[0]
    assert found["verdict"] == verdict
    assert (before if verdict == "fixed" else after).get("message", "") in found["reason"]


def test_cells_are_matched_by_what_they_are_and_others_named(tmp_path: Path) -> None:
    base = [cell(), cell(seed=1), cell("naive_loop", interpreter="python3.12", torch="2.11.0", round=4)]
    verdicts = judged(tmp_path, base, [cell(), cell(dtype="float64"), cell("naive_loop")])
    assert sorted(verdicts["method"]) == ["naive_loop", "vmap_hvp"]
    told = verdicts.attrs["notes"]
    assert len(told) == 2
    assert told[1] == "the candidate alone has mlp P=133, vmap_hvp, hessian, float64, cpu"


def test_large_seeds_part_cells_and_the_order_of_options_does_not(tmp_path: Path) -> None:
    base = [cell(seed=20240101, method_options='{"a": 1, "b": 2}'), cell(seed=20240102)]
    verdicts = judged(tmp_path, base, [cell(seed=20240101, method_options='{"b": 2, "a": 1}')])
    assert len(verdicts) == 1
    assert len(verdicts.attrs["notes"]) == 1


def test_a_new_cell_with_an_error_is_broken(tmp_path: Path) -> None:
    verdicts = judged(tmp_path, [cell()], [cell(), {"status": "error", "method": "new", "message": "no such option"}])
    found = verdicts[verdicts["method"] == "new"].iloc[0]
    assert (found["verdict"], found["reason"]) == ("broken", "not in the baseline, and error: no such option")
    assert output.status(verdicts) == 1


def test_fewer_counts_do_not_hide_a_slowdown(tmp_path: Path) -> None:
    sides = processes(1.0, 0.01, 1), processes(1.5, 0.01, 2, operations=337)
    assert judged(tmp_path / "a", *sides)["verdict"].item() == "slower"
    sides = processes(1.0, 0.01, 1), processes(1.0, 0.01, 2, operations=337)
    assert judged(tmp_path / "b", *sides)["verdict"].item() == "faster"
    sides = processes(1.0, 0.3, 1), processes(1.25, 0.3, 2, operations=337)
    found = judged(tmp_path / "c", *sides).iloc[0]
    assert (found["verdict"], found["reason"].split(";")[0]) == ("undecided", "operations 338 to 337")


def test_counts_that_are_lost_or_unsteady_are_not_the_same(tmp_path: Path) -> None:
    base = processes(1.0, 0.01, 1)
    lost = judged(tmp_path / "lost", base, processes(1.0, 0.01, 2, **dict.fromkeys(COUNTERS)))
    assert lost["verdict"].item() == "undecided"
    assert "operations 338 to unknown" in lost["reason"].item()
    untold = dict.fromkeys(COUNTERS) | {"passes": "time"}
    assert judged(tmp_path / "untold", base, processes(1.0, 0.01, 2, **untold))["verdict"].item() == "same"
    unsteady = [*processes(1.0, 0.01, 2, count=9), cell(operations=339, round=9)]
    found = judged(tmp_path / "unsteady", base, unsteady)
    assert (found["verdict"].item(), found["reason"].item()) == ("slower", "operations 338 to 338 or 339")


def test_what_may_strike_a_process_by_chance_is_broken_where_most_have_it(tmp_path: Path) -> None:
    base = processes(1.0, 0.01, 1)
    for struck, verdict in ((1, "undecided"), (5, "undecided"), (6, "broken")):
        failing = [cell(status="timeout", message="too long", times_s=None, round=number) for number in range(struck)]
        found = judged(tmp_path / str(struck), base, [*failing, *processes(1.0, 0.01, 2)[struck:]])
        assert found["verdict"].item() == verdict
        assert "timeout" in found["reason"].item()
    unlucky = [*base, cell(status="timeout", message="too long", times_s=None, round=10)]
    found = judged(tmp_path / "unlucky", unlucky, [*failing, *processes(1.0, 0.01, 2)[6:]])
    assert found["verdict"].item() == "undecided"
    assert "1 of 11 processes of the baseline ended so too" in found["reason"].item()
    slow = [cell(status="timeout", times_s=None, round=10), *processes(2.0, 0.01, 2)]
    assert judged(tmp_path / "slow", base, slow)["verdict"].item() == "slower"
    assert judged(tmp_path / "other", slow, processes(2.0, 0.01, 3))["verdict"].item() == "same"
    assert judged(tmp_path / "wrong", base, [cell(status="wrong"), *base[1:]])["verdict"].item() == "broken"
    timed = processes(1.0, 0.01, 4, passes="time")  # one process alone ran the pass in which it ends
    found = judged(tmp_path / "alone", base, [cell(status="crashed", times_s=None, round=10), *timed])
    assert found["verdict"].item() == "broken"


def test_agreement_is_tolerated_whichever_process_knows_the_tolerance(tmp_path: Path) -> None:
    timed = [cell(passes="time", tolerance=None, relative_error=None, round=number) for number in range(9)]
    sides = ([*timed, cell(relative_error=error, round=9)] for error in (1e-9, 2e-8))
    assert judged(tmp_path, *sides)["verdict"].item() != "broken"


def test_times_that_were_sampled_otherwise_are_refused(tmp_path: Path) -> None:
    found = judged(tmp_path, processes(1.0, 0.01, 1), processes(1.2, 0.01, 2, measure='{"budget_s": 0.1}')).iloc[0]
    assert found["verdict"] == "same"
    assert "times do not compare (measure {} and" in found["reason"]


def test_a_side_of_two_machines_is_refused(tmp_path: Path) -> None:
    base = processes(1.0, 0.01, 1) + processes(9.0, 0.01, 2, count=3, cpu="Xeon")
    candidate = processes(1.0, 0.01, 3, count=3) + processes(9.0, 0.01, 4, cpu="Xeon")
    found = judged(tmp_path, base, candidate).iloc[0]
    assert numpy.isnan(found["ratio"])
    assert "cpu EPYC / Xeon and EPYC / Xeon" in found["reason"]


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    later = {"started": "2026-11-25T02:00:00+00:00", "torch": "2.13.0"}
    notes = judged(tmp_path, processes(1, 0.01, 1, torch="2.12.0"), processes(1, 0.01, 2, **later)).attrs["notes"]
    assert notes[0].startswith("torch 2.12.0 in the baseline, 2.13.0 in the candidate")
    assert "1 cells were not measured in turn" in notes[1]


def test_a_problem_whose_source_differs_is_named(tmp_path: Path) -> None:
    base = processes(1, 0.01, 1, problem_hash="a") + processes(1, 0.01, 2, problem="cnn", problem_hash="c")
    candidate = processes(1, 0.01, 3, problem_hash="b") + processes(1, 0.01, 4, problem="cnn", problem_hash="c")
    (note, *_) = judged(tmp_path, base, candidate).attrs["notes"]
    assert note == "the source of these problems differs between baseline and candidate: mlp"
    older = processes(1, 0.01, 1)
    assert "source" not in " ".join(judged(tmp_path, older, candidate).attrs["notes"])


@pytest.mark.parametrize(
    ("order", "told"), [("bc", True), ("bccbbccbcb", True), ("bbbbbccccc", False), ("bbbbbcccccbcbcbc", False)]
)
def test_what_was_not_measured_in_turn_is_seen(tmp_path: Path, order: str, told: bool) -> None:
    sides = [
        [
            cell(round=number, started=f"2026-11-24T02:00:{number:02}+00:00")
            for number, side in enumerate(order)
            if side == own
        ]
        for own in "bc"
    ]
    found = judged(tmp_path, *sides)
    assert found["in_turn"].item() == told
    assert ("not measured in turn" in " ".join(found.attrs["notes"])) != told


def test_a_gpu_may_take_other_workspaces_elsewhere_but_no_other_operators(tmp_path: Path) -> None:
    base, there = {"device": "cuda", "gpu": "H100"}, {"device": "cuda", "gpu": "A100"}
    assert judged(tmp_path / "a", [cell(**base)], [cell(**there, tensor_peak_bytes=9**9)])["verdict"].item() == "same"
    assert judged(tmp_path / "b", [cell(**base)], [cell(**there, operations=339)])["verdict"].item() == "slower"


def test_how_many_processes_can_tell(tmp_path: Path) -> None:
    for cells, needed in ((1, 5), (3, 6), (100, 9)):
        assert processes_needed(cells, FAMILY) == needed
        apart = numpy.arange(1.0, needed + 1)
        assert cells * times(apart, apart + needed).p < FAMILY
        assert cells * times(apart[1:], apart[1:] + needed).p > FAMILY
    found = judged(tmp_path, processes(1.0, 0.01, 1, count=4), processes(10.0, 0.01, 2, count=4)).iloc[0]
    assert found["verdict"] == "undecided"
    assert "2 tests need at least 6 processes of each" in found["reason"]


def sampled(drawn: numpy.random.Generator, slow: float, number: int):
    """A process of twenty calls, every fifth of which is slower by a ratio, on a machine with hiccups."""
    hiccups = numpy.where(drawn.random(20) < 0.1, drawn.uniform(1.5, 4, 20), 1.0)
    every_fifth = numpy.where(numpy.arange(20) % 5 == number % 5, slow, 1.0)
    return cell(round=number, times_s=list(0.01 * drawn.lognormal(sigma=0.02, size=20) * hiccups * every_fifth))


def test_a_slowdown_of_some_calls_is_found_although_the_least_times_are_the_same(tmp_path: Path) -> None:
    drawn, found, false = numpy.random.default_rng(0), 0, 0
    for number in range(20):
        base = [sampled(drawn, 1.0, process) for process in range(10)]
        slow = judged(tmp_path / f"slow{number}", base, [sampled(drawn, 2.0, process) for process in range(10)])
        same = judged(tmp_path / f"same{number}", base, [sampled(drawn, 1.0, process) for process in range(10)])
        found += slow["verdict"].item() == "slower" and slow["reason"].item().startswith("some calls: their mean")
        false += same["verdict"].item() != "same"
        assert 0.9 < slow["ratio"].item() < 1.1
    assert found >= 19
    assert false == 0


def test_every_look_spends_its_part_of_the_chance_of_a_false_alarm(tmp_path: Path) -> None:
    assert sum(SPENT) == pytest.approx(1)
    base, slow = processes(1.0, 0.01, 1, count=6), processes(2.0, 0.01, 2, count=6)
    first = judged(tmp_path / "first", base, slow).iloc[0]
    later = judged(tmp_path / "later", base, [*slow[:-1], slow[-1] | {"look": 1}]).iloc[0]
    assert first["p"] == later["p"] == pytest.approx(2 * 2 / math.comb(12, 6))  # two tests, all ranks apart
    assert (first["verdict"], later["verdict"]) == ("slower", "undecided")
    assert later["low"] > 1
    assert "an interval may exclude 1 by chance in one of 2 tests: p = 0.0043, needed is 0.002" in later["reason"]


def test_a_first_call_is_never_compared_with_later_ones(tmp_path: Path) -> None:
    base = [entry | {"first_s": 0.5} for entry in processes(1.0, 0.01, 1)]
    cut_off = [cell(first_s=0.5, times_s=None, round=number) for number in range(10)]
    one = judged(tmp_path / "one", base, [cut_off[0], *processes(1.0, 0.01, 2)[1:]]).iloc[0]
    assert (one["verdict"], one["candidate_processes"]) == ("undecided", 9)
    assert "1 of 10 processes: the time limit struck before a second call ended" in one["reason"]
    most = judged(tmp_path / "most", base, [*cut_off[:6], *base[6:]]).iloc[0]
    assert most["verdict"] == "broken"
    assert "before a second call ended in 6 of 10 processes" in most["reason"]
    both = judged(tmp_path / "few", [cut_off[0], *base[1:]], [*cut_off[:6], *base[6:]]).iloc[0]
    assert (both["verdict"], both["reason"].split(", and ")[1]) == ("undecided", "in 1 of 10 of the baseline")
    faster = judged(tmp_path / "faster", cut_off, base).iloc[0]
    assert faster["verdict"] == "same"  # by its counters
    assert "the time limit struck before a second call ended in the baseline" in faster["reason"]
    assert numpy.isnan(faster["ratio"])
    later = [entry | {"first_s": 1.0 + 0.01 * place} for place, entry in enumerate(cut_off)]
    both = judged(tmp_path / "both", [*cut_off[1:], cut_off[0] | {"first_s": 0.51}], later).iloc[0]
    assert (both["verdict"], round(both["ratio"])) == ("slower", 2)


def test_results_that_stay_right_are_the_same_though_no_times_were_taken(tmp_path: Path) -> None:
    checked = cell(passes="agreement", times_s=None, first_s=None, **dict.fromkeys(COUNTERS))
    for place, elsewhere in (("here", {}), ("there", {"cpu": "Xeon", "torch": "2.12.0"})):
        found = judged(tmp_path / place, [checked], [checked | elsewhere]).iloc[0]
        assert (found["verdict"], found["reason"]) == ("same", "ok in both; no times were taken")
    worse = judged(tmp_path / "worse", [checked], [checked | {"relative_error": 5e-6}])
    assert worse["verdict"].item() == "broken"


def test_another_torch_may_call_other_operators_but_compute_and_keep_no_more(tmp_path: Path) -> None:
    base, other = processes(1.0, 0.01, 1, torch="2.12.0"), {"torch": "2.13.0"}
    found = judged(tmp_path / "a", base, processes(1.0, 0.01, 2, operations=400, allocations=212, **other))
    assert found["verdict"].item() == "same"
    assert found["reason"].item() == "permitted: operations 338 to 400, allocations 211 to 212"
    assert "operations and allocations may differ between versions" in found.attrs["notes"][0]
    for counter in ("flops", "tensor_peak_bytes"):
        more = processes(1.0, 0.01, 2, **other, **{counter: cell()[counter] + 1})
        assert judged(tmp_path / counter, base, more)["verdict"].item() == "slower"


def test_exit_statuses_and_files(tmp_path: Path, capsys) -> None:
    base = folder(tmp_path / "base", processes(1.0, 0.01, 1))
    slow = folder(tmp_path / "slow", processes(1.5, 0.01, 2, method="vmap_hvp"))
    other = folder(tmp_path / "other", [cell("another")])
    again = folder(tmp_path / "again", processes(1.0, 0.01, 1))
    assert main([str(base), str(again)]) == 0
    assert main([str(base), str(slow), "--markdown", str(tmp_path / "v.md"), "--junit", str(tmp_path / "v.xml")]) == 1
    assert "1 cells: 1 slower." in capsys.readouterr().out
    assert "| slower " in (tmp_path / "v.md").read_text()
    suite = ElementTree.parse(tmp_path / "v.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert main([str(base), str(other)]) == 2
    assert main([str(base), str(tmp_path / "none")]) == 3
    assert "does not exist" in capsys.readouterr().err
    (base / "bad.jsonl").write_text("{")
    assert main([str(base), str(base / "bad.jsonl")]) == 3


def test_the_same_records_are_no_comparison(tmp_path: Path, capsys) -> None:
    measured = [{**entry, "cell_s": 1.0 + entry["round"]} for entry in processes(1.0, 0.01, 1)]
    base, copy = (folder(tmp_path / name, measured) for name in ("base", "copy"))
    for candidate in (base, copy):
        assert main([str(base), str(candidate)]) == 2
        assert "1 not comparable" in capsys.readouterr().out
    anew = folder(tmp_path / "anew", [entry | {"cell_s": 0.5 + entry["cell_s"]} for entry in measured])
    assert main([str(base), str(anew)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "BASE and CANDIDATE are needed"),
        (["a", "b", "--slower", "0.9"], "0.9 must be a ratio above 1"),
        (["a", "b", "--slower", "inf"], "inf must be a ratio above 1"),
        (["a", "b", "--slower", "much"], "invalid ratio value: 'much'"),
        (["a", "b", "--allow", "bytes"], "bytes is no counter; they are operations"),
        (["a", "b", "--confirm", "-1"], "must be a time in seconds"),
        (["--selftest", "0"], "at least 1 run"),
        (["--selftest", "--load", "2"], "2 must be a share between 0 and 1"),
    ],
)
def test_bad_arguments_end_with_3(arguments: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 3
    assert words in capsys.readouterr().err


def test_a_skipped_file_is_named(tmp_path: Path, capsys) -> None:
    base = folder(tmp_path / "base", [cell()])
    (base / "0" / "old").mkdir()
    (base / "0" / "old" / "record.json").write_text('{"schema_version": 1}')
    assert main([str(base), str(base), "--junit", str(tmp_path / "v.xml")]) == 3
    assert "skipped" in capsys.readouterr().out
    suite = ElementTree.parse(tmp_path / "v.xml").getroot()
    assert (suite.get("errors"), len(suite.findall("testcase/error"))) == ("2", 2)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    name, message = "<b>|`x`\n\x1b[31m&\x00", "a|b\n<script>]]>\x07"
    verdicts = judged(tmp_path, [cell(name)], [cell(name, status="wrong", message=message)])
    shown = output.markdown(verdicts)
    assert not re.search(r"(?<!\\)<(script|b)>", shown)
    (case,) = ElementTree.fromstring(output.junit(verdicts))
    assert "<b>" in case.get("name")
    output.terminal(verdicts)


def planted(place: Path, method: str) -> Path:
    """A folder with the methods, one of which takes 20 ms longer a call."""
    import shutil

    shutil.copytree(ROOT / "methods", place / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    with (place / "methods" / f"{method}.py").open("a") as stream:
        stream.write(SLOW)
    return place


def test_a_job_takes_its_methods_from_another_folder(run, tmp_path: Path) -> None:
    own, other = run(), run(code=str(planted(tmp_path / "code", "create_graph_rows")))
    assert other["status"] == "ok"
    assert min(other["times_s"]) > 0.02
    assert other["method_hash"] != own["method_hash"]
    assert other["commit"] is None  # no clone


@pytest.mark.slow
def test_undecided_cells_get_more_processes_until_they_are_decided(launcher, job, tmp_path: Path) -> None:
    base, candidate = tmp_path / "base", tmp_path / "candidate"
    slow = str(planted(tmp_path / "code", "create_graph_rows"))
    for number in range(4):
        launcher.run(job(passes=("time",), round=number), base)
        launcher.run(job(passes=("time",), round=number, code=slow), candidate)
    assert compare(record.load(base), record.load(candidate))["verdict"].item() == "undecided"
    found = confirm((base, candidate), launcher, budget_s=0, trusted=True)
    assert (found["verdict"].item(), found["base_processes"].item()) == ("undecided", 4)
    found = confirm((base, candidate), launcher, budget_s=120, trusted=True)
    assert (found["verdict"].item(), found["base_processes"].item()) == ("slower", 8)
    assert sorted(record.load(base)["round"]) == list(range(8))
    assert sorted(record.load(base)["look"]) == [0] * 4 + [1] * 4
    later = compare(record.load(base), record.load(candidate))
    assert later[["verdict", "p", "low", "high"]].equals(found[["verdict", "p", "low", "high"]])


def test_confirming_needs_the_jobs_and_their_code(launcher, job, tmp_path: Path, capsys) -> None:
    sides = [folder(tmp_path / name, [cell()]) for name in record.SIDES]
    assert main([*map(str, sides), "--confirm", "5"]) == 3
    assert "job.json" in capsys.readouterr().err
    gone = planted(tmp_path / "gone", "create_graph_rows")
    runs = [tmp_path / f"run{number}" for number in range(2)]
    for run in runs:
        launcher.run(job(passes=("time",), code=str(gone)), run)
    gone.rename(tmp_path / "elsewhere")
    assert main([*map(str, runs), "--confirm", "500", "--trust"]) == 3
    assert "is gone" in capsys.readouterr().err
    (tmp_path / "elsewhere").rename(gone)
    with (gone / "methods" / "create_graph_rows.py").open("a") as stream:
        stream.write("# another\n")
    assert main([*map(str, runs), "--confirm", "500", "--trust"]) == 3
    assert "method_hash changed since" in capsys.readouterr().err
    assert [len(record.load(run)) for run in runs] == [1, 1]


def test_code_that_lacks_the_method_is_an_error_and_not_our_own(run, tmp_path: Path) -> None:
    seen = run(code=str(tmp_path))
    assert seen["status"] == "error"
    assert "which has no such module" in seen["message"]


@pytest.mark.slow
def test_folders_that_were_not_measured_in_turn_are_judged_by_what_was(launcher, job, tmp_path: Path) -> None:
    code = {}
    for side in ("base", "candidate"):
        code[side] = str(planted(tmp_path / "code" / side, "naive_loop"))
        for number in range(10):
            path = launcher.run(job(passes=("time",), round=number, code=code[side]), tmp_path / side)
            seen = record.read(path)
            shift = 0.8 + 0.05 * number if side == "base" else 1.0
            hour = "01" if side == "base" else "02"
            seen |= {
                "times_s": [shift * value for value in seen["times_s"]],
                "started": f"2026-11-24T{hour}:00:00+00:00",
            }
            record.write(seen, path)
    (tmp_path / "LAST").symlink_to(tmp_path / "base")
    found = confirm((tmp_path / "LAST", tmp_path / "candidate"), launcher, budget_s=600, trusted=True)
    assert found["base_processes"].item() in (10, 30)
    assert len(record.load(tmp_path / "base")) - found["base_processes"].item() == 10


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the clone's history")
def test_a_sweep_beside_a_commit(harness, tmp_path: Path) -> None:
    trees = worktrees()
    done = harness("-m", "method=create_graph_rows,vmap_hvp", "problem=quadratic", "rounds=2", "baseline=git:HEAD")
    assert done.returncode == 0, done.stderr
    for side in ("baseline", "candidate"):
        frame = record.load(tmp_path / "run" / side)
        assert sorted(frame["round"]) == [0, 0, 1, 1]
        assert set(frame.loc[frame["round"] == 1, "passes"]) == {"time"}
        assert set(frame["commit"]) == {git("rev-parse", "HEAD")}
        assert frame["code"].notna().all() == (side == "baseline")
    assert "2 cells:" in done.stdout
    assert "undecided" in (tmp_path / "run" / "verdict.md").read_text()
    assert ElementTree.parse(tmp_path / "run" / "verdict.xml").getroot().get("tests") == "2"
    assert worktrees() == trees


def worktrees() -> set[str]:
    """The folders of the repository's worktrees, whose commits may change meanwhile."""
    return {line for line in git("worktree", "list", "--porcelain").splitlines() if line.startswith("worktree ")}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("git:no-such-commit", "name a commit of the repository"),
        ("nowhere", "give git:REF, interpreter:PATH, or the path of records"),
        ("git:HEAD,git:main", "all cells of a run have the same"),
    ],
)
def test_a_baseline_that_is_not_there_ends_the_run_with_a_message(harness, asked: str, words: str) -> None:
    done = harness("-m", "method=create_graph_rows", "problem=quadratic", f"baseline={asked}")
    assert done.returncode == 3
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["baseline=interpreter:/no/python"], "cannot be started"),
        (["baseline=interpreter:/bin/false"], "cannot import torch"),
        (["baseline=interpreter:"], "must be git:REF, interpreter:PATH"),
        (["baseline=git:HEAD", "slower=0.9"], "slower=0.9 must be a ratio above 1"),
        (["baseline=git:HEAD", "slower=inf"], "slower=inf must be a ratio above 1"),
        (["baseline=git:HEAD", "allow=[bytes]"], "must be a list of counters, of operations"),
        (["baseline=git:HEAD", "confirm_s=-1"], "must be a time in seconds"),
        (["-m", "baseline=git:HEAD", "slower=0.9"], "slower=0.9 must be a ratio above 1"),
        (["baseline=git:HEAD", "method=nope"], "nope"),
        (["baseline=git:HEAD", "output=/dev/null/run"], "cannot be written to"),
    ],
)
def test_what_cannot_be_compared_ends_a_single_cell_with_a_message(harness, arguments: list[str], words: str) -> None:
    done = harness(*arguments, *(["method=create_graph_rows"] if "method=nope" not in arguments else []))
    assert done.returncode == 3
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_baseline_that_lacks_the_methods_is_an_error(harness, tmp_path: Path) -> None:
    """Another repository in the current directory: its commit has no methods, and ours must not stand in for them."""
    other = tmp_path / "other"
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "c"],
    ):
        other.mkdir(exist_ok=True)
        subprocess.run(["git", *command], cwd=other, check=True)
    done = harness("method=create_graph_rows", "problem=quadratic", "baseline=git:HEAD", cwd=other)
    assert done.returncode == 3
    assert "no cell of git:HEAD could be run" in done.stderr


def test_what_both_sides_take_from_the_candidate_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "row.yaml").write_text("a: 1")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "conf" / "row.yaml").write_text("a: 2")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    for commit, words in (
        (head, "baseline and candidate both ran the candidate's conf/row.yaml"),
        ("0" * 40, "is not known"),
    ):
        for side in record.SIDES:
            folder(tmp_path / commit / side, [cell(commit=commit)])
        assert conclude(Comparison("git:main", 0.0, 1.1, ()), tmp_path / commit).show() == 0
        assert words in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_takes_one_comparison(harness, tmp_path: Path) -> None:
    (tmp_path / "run" / "candidate").mkdir(parents=True)
    done = harness("-m", "method=create_graph_rows", "problem=quadratic", "baseline=git:HEAD")
    assert done.returncode == 3
    assert "holds a comparison already" in done.stderr


@pytest.mark.slow
def test_a_run_beside_another_python_and_beside_records(harness, tmp_path: Path) -> None:
    done = harness("method=create_graph_rows", "problem=quadratic", f"baseline=interpreter:{sys.executable}")
    assert done.returncode == 0, done.stderr
    assert set(record.load(tmp_path / "run" / "baseline")["interpreter"]) == {sys.executable}
    again = harness(
        "-m",
        "method=create_graph_rows",
        "problem=quadratic",
        f"baseline={tmp_path / 'run' / 'candidate'}",
        f"output={tmp_path / 'again'}",
    )
    assert again.returncode == 0, again.stderr
    assert "1 cells:" in again.stdout


@pytest.mark.slow
def test_the_selftest_finds_what_it_plants(launcher, job, tmp_path: Path) -> None:
    launcher.run(job(passes=("time",)), tmp_path / "cells")
    command = [sys.executable, "-m", "harness.compare", "--selftest", "2", str(tmp_path / "cells")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = {line.split("  ")[0].strip(): line.split() for line in done.stdout.splitlines()}
    for planted_change in ("one more copy", "one more operator call", "20 % slower"):
        assert lines[planted_change][-5:-2] == ["2", "2", "1.000"], done.stdout


def test_a_job_file_of_before_is_read(job) -> None:
    from dataclasses import asdict

    from harness.job import Job

    values = json.loads(json.dumps(asdict(job())))
    del values["code"]
    assert Job.from_dict(values) == job()
