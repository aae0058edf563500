"""Exponents of P, and what is written of them, against records in which they were planted."""

import errno
import json
import re

import pytest
from scipy import stats

from harness import record
from harness.analysis.fits import fits
from harness.analysis.profiles import profile
from harness.analysis.table import Analysis
from harness.report.command import main
from harness.report.figures import canvas
from harness.report.figures.curves import memory_against_size, time_against_size
from harness.report.files import write
from harness.report.growth import growth
from tests.drawing import names
from tests.grown import SIZES, grown, loaded
from tests.test_report import cell, failed


@pytest.mark.slow
def test_a_planted_exponent_lies_in_its_interval_as_often_as_it_says(tmp_path) -> None:
    held = 0
    for seed in range(60):
        frame = loaded(tmp_path / str(seed), grown("vmap_hvp", 1.7, noise=0.2, seed=seed))
        (time,) = (fit for fit in fits(Analysis(frame)) if fit.measure == "time")
        held += time.low <= 1.7 <= time.high
        assert time.low < time.exponent < time.high
    assert stats.binomtest(held, 60, 0.95).pvalue > 0.01


def test_exact_growth_has_no_width(tmp_path) -> None:
    time, memory = fits(Analysis(loaded(tmp_path, grown("vmap_hvp", 2.0))))
    assert (time.exponent, memory.exponent) == (pytest.approx(2.0), pytest.approx(2.0, rel=1e-3))
    assert time.sizes == len(SIZES)
    assert memory.reaches(8 * 5000.0**2) == pytest.approx(5000, rel=1e-2)
    assert memory.reaches(1e300) == pytest.approx(16000)  # no further than ten times the largest


def test_three_sizes_and_wrong_rows_make_no_fit(tmp_path) -> None:
    assert fits(Analysis(loaded(tmp_path / "few", grown("a", 2.0, sizes=SIZES[:3])))) == []
    assert fits(Analysis(loaded(tmp_path / "wrong", grown("a", 2.0, status="wrong")))) == []
    one_round_wrong = [*grown("a", 2.0, sizes=SIZES[:4], rounds=2)]
    one_round_wrong[0]["status"] = "wrong"
    assert fits(Analysis(loaded(tmp_path / "round", one_round_wrong))) == []


def test_the_process_peak_is_of_the_cpu(tmp_path) -> None:
    for device, measures in (("cpu", ["time", "tensor peak", "process peak"]), ("cuda", ["time", "tensor peak"])):
        frame = loaded(tmp_path / device, grown("a", 2.0, device=device, process_peak_bytes=10**6))
        assert [fit.measure for fit in fits(Analysis(frame))] == measures


@pytest.mark.parametrize(
    "records",
    [
        [failed("oom", "a", 8)],
        [cell("a")],
        [failed("oom", "a", 8), cell("b", times_s=None, first_s=None)],
        [cell("a", width) for width in (4, 8)],
        [cell(way, width, times_s=[0.0]) for way in "ab" for width in (4, 8, 16)],
    ],
)
def test_little_is_no_crash(tmp_path, records) -> None:
    frame = loaded(tmp_path, records)
    assert [fit for fit in fits(Analysis(frame)) if fit.measure == "time"] == []
    assert not growth(Analysis(frame), 8.0).crossovers
    assert profile(Analysis(frame)) is None


def test_times_of_zero_make_a_whole_report(tmp_path) -> None:
    records = [cell(way, width, times_s=[0.0]) for way in "ab" for width in (4, 8, 16, 32, 64)]
    loaded(tmp_path / "run", [*records, *grown("c", 1.5)])
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--memory_gb", "8"]) == 0


def test_a_name_has_the_exponent_of_its_line(tmp_path) -> None:
    frame = loaded(tmp_path, [*grown("a", 2.1, tensor_peak_bytes=4), *grown("b", 1.0, sizes=SIZES[:3])])
    assert names(time_against_size(Analysis(frame))) == ["a  $P^{2.1}$", "b"]
    assert names(memory_against_size(Analysis(frame)))[0] == "a  $P^{0.0}$"
    several = loaded(tmp_path / "more", [*grown("a", 2.1), *grown("a", 1.0, problem="cnn")])
    figure = time_against_size(Analysis(several))
    assert [names(figure, panel) for panel in (0, 1)] == [["a  $P^{1.0}$"], ["a  $P^{2.1}$"]]


def test_the_command_writes_them_and_tells_what_it_cannot(tmp_path, capsys) -> None:
    records = [
        entry
        for place, method in enumerate(("naive_loop", "vmap_hvp", "<b>$"))
        for entry in grown(method, 1.5 + place / 5)
    ]
    loaded(tmp_path / "run", records)
    arguments = [str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--memory_gb", "1.00000012"]
    assert main([*arguments, "--baseline", "naive_loop"]) == 0
    for name in (
        "growth.md",
        "growth.tex",
        "performance_profile.pdf",
        "speedup_against_size.png",
        "speedups.md",
        "speedups.tex",
    ):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert r"\<b>" in (tmp_path / "out" / "growth.md").read_text()
    assert "--memory_gb 1.00000012 " in json.loads((tmp_path / "out" / "report.json").read_text())["command"] + " "
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments[:-1], "-3"])
    assert ended.value.code == 2


def test_a_bad_baseline_leaves_nothing_behind(tmp_path, capsys) -> None:
    frame = loaded(tmp_path / "run", [*grown("a", 1.0), *grown("b\x1b[31m", 1.0)])
    arguments = [str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--baseline", "nothing"]) == 2
    assert r"nothing is no method of these records; they have a, b\x1b[31m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write(Analysis(frame), tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert main([*arguments, "--baseline", "nothing"]) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_unfinished_report_changes_nothing_of_the_old_one(tmp_path, monkeypatch) -> None:
    out, frame = tmp_path / "out", loaded(tmp_path / "run", grown("a", 1.0))
    write(Analysis(frame), out)
    before = {path: path.read_bytes() for path in out.iterdir()}

    def fail(figure, stem):
        raise OSError(errno.ENOSPC, "No space left on device", "fontlist.json")

    monkeypatch.setattr("harness.report.files.save", fail)
    with pytest.raises(OSError, match=r"fontlist\.json") as caught:
        write(Analysis(loaded(tmp_path / "more", grown("b", 2.0))), out)
    assert not isinstance(caught.value, record.StorageError), "what cannot be drawn says nothing about the folder"
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_report_that_cannot_be_written_names_its_folder(tmp_path, monkeypatch) -> None:
    def fail(content, path, durable=False):
        raise record.StorageError(errno.ENOSPC, "No space left on device", str(path))

    frame = loaded(tmp_path / "run", grown("a", 1.0))
    monkeypatch.setattr(canvas.record, "write_bytes", fail)
    with pytest.raises(record.StorageError, match=rf"^{re.escape(str(tmp_path / 'out'))} cannot be written"):
        write(Analysis(frame), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_picture_of_memory_is_saved_where_none_is_known(tmp_path) -> None:
    frame = loaded(tmp_path / "run", grown("a", 2.0, tensor_peak_bytes=None))
    written = {path.name for path in write(Analysis(frame), tmp_path / "out")}
    assert "time_against_size.png" in written
    assert not any("memory" in name or "scaling" in name for name in written)
