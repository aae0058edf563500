"""The verdict on a candidate: what is certain is told, what is not is not, and no other machine's times are judged."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
from scipy import stats

from harness import record
from harness.compare import compare, output
from harness.compare.__main__ import main
from harness.compare.confirm import confirm
from harness.compare.verdicts import COUNTERS, FAMILY, LEVEL, times

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
        "status": "ok", "problem": "mlp", "problem_options": '{"width": 8}', "method": method, "method_options": "{}",
        "quantity": "hessian", "vectors": 1, "device": "cpu", "dtype": "float32", "threads": 1, "allocator": "default",
        "seed": 0, "round": 0, "params": 133, "times_s": [seconds, 1.1 * seconds], "tolerance": 1e-5,
        "relative_error": 1e-7, "operations": 338, "allocations": 211, "flops": 18336, "tensor_peak_bytes": 65552,
        "cpu": "EPYC", "cores": 2, "passes": "time, exact, agreement",
    } | changes  # fmt: skip


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
            drawn = [processes(ratio, 0.03, 1000 * seed + 10 * place + side, method=methods[place])
                     for place, ratio in enumerate(ratios)]  # fmt: skip
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
    assert judged(tmp_path / "b", [more], [cell()])["verdict"].item() == "faster"
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


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ({}, {"status": "wrong", "message": "it is off"}, "broken"),
        ({}, {"status": "unsupported"}, "broken"),
        ({"status": "unsupported"}, {"status": "nonfinite"}, "broken"),
        ({"status": "wrong"}, {}, "fixed"),
        ({"status": "timeout"}, {"status": "oom"}, "same"),
        ({"relative_error": 1e-7}, {"relative_error": 5e-6}, "broken"),
        ({"relative_error": 1e-16}, {"relative_error": 1e-14}, "undecided"),  # far below what is tolerated
    ],
)
def test_status_and_agreement(tmp_path: Path, before: dict, after: dict, verdict: str) -> None:
    found = judged(tmp_path, [cell(**before)], [cell(**after)]).iloc[0]
    assert found["verdict"] == verdict
    assert after.get("message", "") in found["reason"]


def test_cells_are_matched_by_what_they_are_and_others_named(tmp_path: Path) -> None:
    base = [cell(), cell(seed=1), cell("naive_loop", interpreter="python3.12", torch="2.11.0", round=4)]
    verdicts = judged(tmp_path, base, [cell(), cell(dtype="float64"), cell("naive_loop")])
    assert sorted(verdicts["method"]) == ["naive_loop", "vmap_hvp"]
    told = verdicts.attrs["unmatched"]
    assert len(told) == 2
    assert told[1] == "the candidate alone has mlp P=133, vmap_hvp, hessian, float64, cpu"


def test_exit_statuses_and_files(tmp_path: Path, capsys) -> None:
    base = folder(tmp_path / "base", processes(1.0, 0.01, 1))
    slow = folder(tmp_path / "slow", processes(1.5, 0.01, 2, method="vmap_hvp"))
    other = folder(tmp_path / "other", [cell("another")])
    assert main([str(base), str(base)]) == 0
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "BASE and CANDIDATE are needed"),
        (["a", "b", "--slower", "0.9"], "0.9 must be a ratio above 1"),
        (["a", "b", "--slower", "much"], "invalid ratio value: 'much'"),
        (["a", "b", "--allow", "bytes"], "bytes is no counter; they are operations"),
        (["a", "b", "--confirm", "-1"], "must be a time in seconds"),
        (["--selftest", "0"], "at least 1 run"),
        (["--selftest", "--load", "2"], "must lie between 0 and 1"),
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
    assert main([str(base), str(base)]) == 0
    assert "skipped" in capsys.readouterr().err


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
    assert min(other["times_s"]) > 0.02 > min(own["times_s"])
    assert other["method_hash"] != own["method_hash"]
    assert other["commit"] is None  # no clone


def test_undecided_cells_get_more_processes_until_they_are_decided(launcher, job, tmp_path: Path) -> None:
    base, candidate = tmp_path / "base", tmp_path / "candidate"
    slow = str(planted(tmp_path / "code", "create_graph_rows"))
    for number in range(4):
        launcher.run(job(passes=("time",), round=number), base)
        launcher.run(job(passes=("time",), round=number, code=slow), candidate)
    assert compare(record.load(base), record.load(candidate))["verdict"].item() == "undecided"
    found = confirm((base, candidate), launcher, budget_s=0)
    assert (found["verdict"].item(), found["base_processes"].item()) == ("undecided", 4)
    found = confirm((base, candidate), launcher, budget_s=120)
    assert (found["verdict"].item(), found["base_processes"].item()) == ("slower", 8)
    assert sorted(record.load(base)["round"]) == list(range(8))


def test_confirming_needs_the_jobs_and_their_code(launcher, job, tmp_path: Path, capsys) -> None:
    base = folder(tmp_path / "base", [cell()])
    assert main([str(base), str(base), "--confirm", "5"]) == 3
    assert "job.json" in capsys.readouterr().err
    gone = tmp_path / "gone"
    gone.mkdir()
    launcher.run(job(passes=("time",), code=str(gone)), tmp_path / "run")
    gone.rmdir()
    assert main([str(tmp_path / "run"), str(tmp_path / "run"), "--confirm", "5"]) == 3
    assert "is gone" in capsys.readouterr().err


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the clone's history")
def test_a_sweep_beside_a_commit(harness, tmp_path: Path) -> None:
    trees = git("worktree", "list")
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
    assert git("worktree", "list") == trees


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
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_beside_another_python_and_beside_records(harness, tmp_path: Path) -> None:
    done = harness("method=create_graph_rows", "problem=quadratic", f"baseline=interpreter:{sys.executable}")
    assert done.returncode == 0, done.stderr
    assert set(record.load(tmp_path / "run" / "baseline")["interpreter"]) == {sys.executable}
    again = harness(
        "-m", "method=create_graph_rows", "problem=quadratic", f"baseline={tmp_path / 'run' / 'candidate'}",
        f"output={tmp_path / 'again'}",
    )  # fmt: skip
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
