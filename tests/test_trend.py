"""The trend against histories of which it is known where they step."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy
import pytest
from scipy import stats

from harness import record
from harness.analysis import steps
from harness.analysis.history import histories
from harness.analysis.table import Analysis
from harness.analysis.trend import trend
from harness.report import trend_view
from harness.report.command import main
from harness.report.files import write_trend
from harness.report.trend import headline, markdown, texts
from tests.test_report import HOSTILE, cell, failed

pytestmark = pytest.mark.filterwarnings("error")


def noisy(seed, count=40, noise=0.03, at=None, by=1.1):
    seconds = 0.01 * numpy.exp(numpy.random.default_rng(seed).normal(0, noise, count))
    seconds[count if at is None else at :] *= by
    return seconds


def commit(night):
    return f"{night:08x}" * 5


def facts(night):
    """What every record of a night has."""
    started = datetime(2026, 9, 1, 2, tzinfo=UTC) + timedelta(days=night)
    return {"started": started.isoformat(timespec="seconds"), "commit": commit(night), "dirty": False}


def timed(night, seconds, **changes):
    return cell(times_s=[seconds], **{"operations": 338, **facts(night), **changes})


@pytest.fixture
def history(tmp_path):
    """Store a run folder a night, each given by its records; the folders."""

    def store(runs):
        for night, records in enumerate(runs):
            for number, entry in enumerate(records):
                record.write(entry, tmp_path / f"night{night:03}" / f"cell{number}" / "record.json")
        return sorted(tmp_path.glob("night*"))

    return store


def seen(folders):
    found = trend(Analysis(record.load(*folders)))
    assert found is not None
    return found


def told(found):
    return [(step.measure, step.before["commit"], step.after["commit"]) for step in found.steps]


def test_a_step_of_a_tenth_in_noise_of_three_percent_is_found_where_it_is():
    found = [steps.places(noisy(seed, at=23), 0.01 / 42) for seed in range(100)]
    near = sum(len(each) == 1 and abs(each[0] - 23) <= 1 for each in found)
    assert near >= 95
    assert sum(each == [23] for each in found) >= 75, "the likeliest place is the right one in 87 % at this noise"


def test_five_processes_a_night_tell_the_very_commit():
    rounds = [numpy.median([noisy(5 * seed + process, at=23) for process in range(5)], axis=0) for seed in range(100)]
    assert sum(steps.places(seconds, 0.01 / 42) == [23] for seconds in rounds) >= 97


@pytest.mark.parametrize("heavy", [False, True])
def test_noise_alone_gives_no_more_alarms_than_is_said(heavy):
    pages, cells = 30, 15
    random = numpy.random.default_rng(0)
    logs = random.standard_t(2, (pages, cells, 30)) if heavy else random.normal(0, 1, (pages, cells, 30))
    false = sum(any(steps.places(numpy.exp(0.1 * row), steps.FALSE_ALARMS / cells) for row in page) for page in logs)
    assert false <= stats.binom.ppf(0.999, pages, steps.FALSE_ALARMS)


def test_a_regression_and_its_repair_are_two_steps():
    seconds = noisy(1, 60, noise=0.02, at=25)
    seconds[40:] /= 1.1
    assert steps.places(seconds, 0.01 / 42) == [25, 40]


def test_odd_nights_move_no_step_and_are_none():
    seconds = noisy(3, at=20, noise=0.02)
    seconds[[4, 30, 31]] *= 3
    assert steps.places(seconds, 0.01) == [20]


def test_steps_below_the_effect_are_not_told():
    assert steps.places(noisy(0, 200, noise=0.01, at=100, by=1.04), 0.01) == []
    assert steps.places(noisy(0, 200, noise=0.01, at=100, by=1.07), 0.01) == [100]


def test_partitions_are_the_best_of_all():
    logs = numpy.random.default_rng(5).normal(0, 1, 13)

    def cost(places):
        return sum(numpy.abs(part - numpy.median(part)).sum() for part in numpy.split(logs, places))

    for count, found in enumerate(steps._partitions(logs)):
        possible = [
            each
            for each in itertools.combinations(range(3, 11), count)
            if all(b - a >= 3 for a, b in itertools.pairwise([0, *each, 13]))
        ]
        assert cost(found) == pytest.approx(min(map(cost, possible)))


def test_the_ratio_lies_in_its_interval_as_often_as_is_said():
    inside = 0
    for seed in range(200):
        seconds = noisy(seed, 20, at=9)
        estimate, low, high = steps.ratio(seconds[:9], seconds[9:])
        assert low <= estimate <= high
        inside += low <= 1.1 <= high
    assert inside >= stats.binom.ppf(0.001, 200, 0.95)


@pytest.mark.parametrize("level", [0.01, 0.01 / 42])
def test_the_nights_needed_suffice_and_no_fewer(level):
    needed = steps.nights_needed(level)
    for count, enough in ((needed, True), (needed - 1, False)):
        seconds = noisy(0, count, noise=1e-4, at=count // 2)
        assert bool(steps.places(seconds, level)) == enough


def test_from_records_to_the_page(history, tmp_path):
    slow, calm = noisy(0, 26, at=12, by=1.2), noisy(1, 26)
    runs = [
        [
            timed(night, slow[night]),
            timed(night, calm[night], method="other"),
            timed(
                night,
                calm[night],
                method="third",
                torch="2.13.0" if night < 9 else "2.14.0",
                operations=400 if night < 9 else 399,
            ),
        ]
        for night in range(26)
    ]
    found = seen(history(runs))
    assert told(found) == [("time", commit(11), commit(12)), ("operations", commit(8), commit(9))]
    assert headline(found) == "2 steps in 3 cells over 26 nights"
    text = markdown(found)
    assert f"{commit(11)[:12]}..{commit(12)[:12]}" in text
    (line,) = (line for line in text.splitlines() if "operations" in line)
    assert "400 to 399" in line
    assert "torch 2.13.0 to 2.14.0" in line
    assert "the commits" not in line
    assert [history.nights["torch"].nunique() for history in found.histories] == [1, 2, 1], "those that step come first"
    written = write_trend(Analysis(record.load(*sorted(tmp_path.glob("night*")))), tmp_path)
    assert {path.name for path in written} == {"trend.md", "trend.html", "trend.png", "trend.pdf", "trend.svg"}
    assert Parsed((tmp_path / "trend.html").read_text(encoding="utf-8")).tags.count("circle") == 3 * 26


def test_an_exact_counter_that_changes_by_one_is_a_step(history):
    found = seen(history([[timed(night, 0.01, operations=338 + (night == 4))] for night in range(5)]))
    assert told(found) == [("operations", commit(3), commit(4))]
    assert texts(found.steps[0])["ratio"] == "1.003"


def test_a_counter_on_which_processes_disagree_is_not_known(history):
    runs = [[timed(night, 0.01), timed(night, 0.01, round=1, operations=338 + night)] for night in range(5)]
    assert told(seen(history(runs))) == []


def test_machines_are_not_joined(history):
    seconds = noisy(0, 40, at=20, by=2.0)
    runs = [[timed(night, seconds[night], cpu="EPYC" if night < 20 else "Xeon")] for night in range(40)]
    found = seen(history(runs))
    assert found.steps == []
    (panel,) = trend_view.panels(found)
    assert [len(line) for line in panel.lines] == [20, 20]
    assert [text for _, text in panel.changes] == ["machine EPYC to Xeon"]
    assert len(panel.levels) == 2


def test_machines_that_take_turns_change_once(history):
    runs = [
        [timed(night, 0.01 * (1 + night % 2), cpu=("EPYC", "Xeon")[night % 2], operations=338 + night % 2)]
        for night in range(12)
    ]
    found = seen(history(runs))
    assert told(found) == [("operations", commit(0), commit(1))]
    assert texts(found.steps[0])["attributed to"] == "machine EPYC to Xeon"


def test_broken_and_fixed_have_commits_though_the_record_has_none(history):
    def crashed(night):
        return failed("crashed", "vmap_hvp", 8, started=facts(night)["started"])

    runs = [[timed(night, 0.01, method="other"), timed(night, 0.01)] for night in range(6)]
    for night in (2, 3):
        runs[night] = [timed(night, 0.01, method="other"), crashed(night)]
    found = seen(history(runs))
    assert told(found) == [("broken", commit(1), commit(2)), ("fixed", commit(3), commit(4))]
    assert [len(panel.failures) for panel in trend_view.panels(found)] == [2, 0]


def test_five_quiet_nights_say_so_and_four_nothing(history, tmp_path):
    folders = history([[timed(night, 0.01)] for night in range(5)])
    found = seen(folders)
    assert markdown(found).startswith("# no steps in 1 cell over 5 nights, too few to find steps of time\n\nTime: ")
    assert trend(Analysis(record.load(*folders[:4]))) is None
    assert write_trend(Analysis(record.load(*folders[:4])), tmp_path / "out") == []


def test_a_baseline_file_holds_a_night_for_each_day_and_commit(tmp_path):
    lines = [
        json.dumps(
            dict.fromkeys(record.NAMES)
            | timed(night // 2, 0.01, round=night)
            | {"schema_version": record.SCHEMA_VERSION}
        )
        for night in range(12)
    ]
    (tmp_path / "base.jsonl").write_text("\n".join(lines))
    (only,) = histories(Analysis(record.load(tmp_path / "base.jsonl")))
    assert only.nights["commit"].tolist() == [commit(night) for night in range(6)]


def test_a_night_without_records_is_named_and_skipped(history, tmp_path, capsys):
    folders = history([[timed(night, 0.01)] for night in range(6)])
    for broken in folders[2].rglob("record.json"):
        broken.write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / "cell" / "record.json").mkdir(parents=True)
    odd = [tmp_path / "empty", tmp_path / "odd"]
    assert main([*map(str, [*folders, *odd]), "--out", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert all(str(folder) in errors for folder in (folders[2], *odd))
    assert "over 5 nights" in (tmp_path / "out" / "trend.md").read_text()


@pytest.fixture
def runs(tmp_path):
    """Run folders of 26 nights with baseline=git:REF, where after the first round only times are taken."""
    seconds, slow = noisy(1, 26), noisy(0, 26, at=12, by=1.2)
    for night, (side, times) in itertools.product(range(26), (("baseline", seconds), ("candidate", slow))):
        code = {"code": f"/tmp/{night}/tree", "commit": commit(0)} if side == "baseline" else {}
        for number in range(3):
            passes = {"passes": "time"} | dict.fromkeys(("operations", "tensor_peak_bytes", "relative_error"))
            entry = timed(night, times[night], round=number, **code | (passes if number else {"passes": "time, exact"}))
            record.write(entry, tmp_path / "runs" / f"night{night:03}" / side / f"cell{number}" / "record.json")
    return tmp_path / "runs"


@pytest.mark.parametrize("pattern", ["night*", "night*/candidate"])
def test_of_nightly_runs_the_candidates_are_the_nights(runs, tmp_path, pattern):
    found = seen(sorted(runs.glob(pattern)))
    assert headline(found) == "1 step in 1 cell over 26 nights"
    assert told(found) == [("time", commit(11), commit(12))]
    assert found.histories[0].nights["operations"].tolist() == [338] * 26
    write_trend(Analysis(record.load(*sorted(runs.glob(pattern)))), tmp_path)
    page = (tmp_path / "trend.html").read_text(encoding="utf-8")
    assert all(page.count(f"night{night:03}: ") == 1 for night in range(26))
    assert "candidate" not in page


def test_report_json_tells_the_records_of_the_trend(runs, tmp_path):
    """Not those of the baseline's side, nor of a cell that one night has, nor of a night without a date."""
    record.write(timed(3, 0.01, method="lone"), runs / "night003" / "candidate" / "lone" / "record.json")
    record.write(timed(26, 0.01) | {"started": "once"}, runs / "night026" / "candidate" / "undated" / "record.json")
    folders = [*sorted(map(str, runs.glob("night*")))]
    assert main([*folders, "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())["written"]
    records = {name: group["records"] for group in written for name in group["files"]}
    expected = [str(path) for path in sorted(runs.glob("night*/candidate/cell*/record.json"))]
    assert len(expected) == 78
    for name in ("trend.md", "trend.html", "trend.png", "trend.pdf", "trend.svg"):
        assert records[name] == expected
    assert len(records["table.csv"]) == 2 * 78 + 2


def test_baselines_alone_are_nights_of_their_own(runs):
    found = seen(sorted(runs.glob("night*/baseline")))
    assert headline(found) == "no steps in 1 cell over 26 nights"


def test_records_without_a_date_are_left_out(history):
    folders = history([[timed(night, 0.01) | ({"started": "yesterday"} if night == 3 else {})] for night in range(6)])
    assert headline(seen(folders)) == "no steps in 1 cell over 5 nights, too few to find steps of time"
    assert trend(Analysis(record.load(folders[3]))) is None


class Parsed(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_hostile_text_is_escaped(history, tmp_path):
    hostile = HOSTILE + "'\"><img src=x onerror=alert(1)>"
    runs = [
        [
            timed(
                night,
                0.01,
                problem=hostile,
                torch=hostile + str(night),
                cpu=hostile,
                commit="; rm -rf ~",
                operations=night,
            )
        ]
        for night in range(6)
    ]
    folders = history(runs)
    write_trend(Analysis(record.load(*folders)), tmp_path)
    page = (tmp_path / "trend.html").read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert not {"script", "img"} & set(parsed.tags)
    assert "onerror" not in parsed.attributes
    assert "<script>|[red]$x^$" in parsed.text
    assert "rm -rf" not in page + (tmp_path / "trend.md").read_text(encoding="utf-8")
    assert "http" not in page, "it needs nothing from elsewhere"
    table = [line for line in (tmp_path / "trend.md").read_text(encoding="utf-8").splitlines() if line[0:1] == "|"]
    assert len(table) == 2 + 5


def test_cells_without_times_show_the_counter(history):
    runs = [
        [timed(night, 0.01, operations=338 + (night > 2)) | {"times_s": None, "first_s": None}] for night in range(6)
    ]
    (panel,) = trend_view.panels(seen(history(runs)))
    assert panel.title == "operations"
    assert [value for _, _, value in panel.levels] == [338, 339]


def test_what_nothing_is_known_of_makes_a_page(history, tmp_path):
    started = [facts(night)["started"] for night in range(6)]
    folders = history([[failed("error", started=when, problem_options=None)] for when in started])
    found = seen(folders)
    assert told(found) == []
    assert trend_view.panels(found)[0].title == "nothing was measured"
    assert len(write_trend(Analysis(record.load(*folders)), tmp_path)) == 5
