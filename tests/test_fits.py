"""Growth, crossovers, profiles and speed-ups, against records in which they were planted."""

import numpy
import pytest
from scipy import stats

from harness import record, report
from harness.report import fits, profiles
from tests.test_report import cell, failed

SIZES = (100, 200, 400, 800, 1600)


def loaded(tmp_path, records):
    for number, entry in enumerate(records):
        record.write(entry, tmp_path / str(number) / "record.json")
    return record.load(tmp_path)


def grown(method, exponent, scale=1e-6, noise=0.0, seed=0, sizes=SIZES, **changes):
    """Records of one method whose time and memory grow as P to the exponent, with log-normal noise."""
    factors = (
        numpy.random.default_rng(seed).lognormal(sigma=noise, size=len(sizes)) if noise else numpy.ones(len(sizes))
    )
    return [cell(method, params // 16, params=params, times_s=[scale * params**exponent * factor],
                 tensor_peak_bytes=int(8 * params**exponent), **changes)
            for params, factor in zip(sizes, factors, strict=True)]  # fmt: skip


def test_a_planted_exponent_lies_in_its_interval_as_often_as_it_says(tmp_path) -> None:
    held = 0
    for seed in range(60):
        frame = loaded(tmp_path / str(seed), grown("vmap_hvp", 1.7, noise=0.2, seed=seed))
        (time,) = (fit for fit in fits.fits(frame) if fit.measure == "time")
        held += time.low <= 1.7 <= time.high
        assert time.low < time.exponent < time.high
    assert stats.binomtest(held, 60, 0.95).pvalue > 0.01


def test_exact_growth_has_no_width_and_fits_where_it_must(tmp_path) -> None:
    frame = loaded(tmp_path, grown("vmap_hvp", 2.0))
    time, memory = fits.fits(frame)
    assert (time.exponent, memory.exponent) == (pytest.approx(2.0), pytest.approx(2.0, rel=1e-3))
    assert time.sizes == len(SIZES)
    assert memory.reaches(8 * 5000.0**2) == pytest.approx(5000, rel=1e-2)
    (said,) = fits.largest(frame, 8 * 5000**2 / 1e9)
    assert "up to P = 5,000" in said
    assert "at P = 16,000, the furthest" in fits.largest(frame, 8 * 1e5**2 / 1e9)[0]


def test_a_planted_crossover_is_found_at_its_place_and_one_that_does_not_last_is_not_told(tmp_path) -> None:
    records = grown("naive_loop", 1.0, scale=1e-6 * 510) + grown("vmap_hvp", 2.0, scale=1e-6)
    assert fits.crossovers(loaded(tmp_path / "a", records)) == [
        "mlp: naive_loop is faster than vmap_hvp from P = 510 on"
    ]
    back = grown("naive_loop", 1.0, scale=1e-6) + grown("vmap_hvp", 1.0, scale=2e-6)
    back[2]["times_s"] = [1.0]  # slower at one size in between
    (told,) = fits.crossovers(loaded(tmp_path / "b", back))
    assert told.startswith("mlp: naive_loop is faster than vmap_hvp from P = ")
    assert 400 < float(told.split("P = ")[1].split(" ")[0].replace(",", "")) < 800
    assert fits.crossovers(loaded(tmp_path / "c", grown("naive_loop", 1.0) + grown("vmap_hvp", 1.0, scale=2e-6))) == []


def test_a_profile_computed_by_hand(tmp_path) -> None:
    table = {"a": (1.0, 2.0, 4.0, None), "b": (2.0, 1.0, 1.0, 3.0), "c": (None, 1.5, "wrong", 1.5)}
    records = []
    for method, times in table.items():
        for place, seconds in enumerate(times):
            params = SIZES[place]
            if isinstance(seconds, float):
                records.append(cell(method, params // 16, params=params, times_s=[seconds]))
            elif seconds is None:
                records.append(failed("oom", method, params // 16, params=params))
            else:
                records.append(cell(method, params // 16, params=params, times_s=[0.1], status="wrong"))
    found = profiles.ratios(loaded(tmp_path, records))
    never = numpy.inf
    assert sorted(found[["a", "b", "c"]].itertuples(index=False, name=None)) == sorted(
        [(1.0, 2.0, never), (2.0, 1.0, 1.5), (4.0, 1.0, never), (never, 2.0, 1.0)]
    )
    assert not profiles.enough(record.load(tmp_path))  # four cells


def test_a_planted_speed_up_with_few_processes_and_with_many(tmp_path) -> None:
    def processes(method, ratio, count, seed):
        drawn = numpy.random.default_rng(seed).lognormal(sigma=0.05, size=count)
        return [cell(method, 8, round=number, times_s=[0.01 / ratio * factor]) for number, factor in enumerate(drawn)]

    for count, by in ((3, "range"), (10, "bootstrap")):
        records = processes("naive_loop", 1.0, count, 1) + processes("vmap_hvp", 4.0, count, 2)
        (row,) = profiles.speedups(loaded(tmp_path / by, records), "naive_loop").itertuples()
        assert row.by == by
        assert row.low < row.speedup < row.high
        assert row.low < 4.0 < row.high or by == "range"
        assert row.speedup == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("records", [
    [failed("oom", "a", 8)], [cell("a")], [failed("oom", "a", 8), cell("b", times_s=None, first_s=None)],
    [cell("a", width) for width in (4, 8)],
])  # fmt: skip
def test_little_is_no_crash(tmp_path, records) -> None:
    frame = loaded(tmp_path, records)
    assert fits.fits(frame) == []
    assert fits.crossovers(frame) == []
    assert not profiles.enough(frame)


def test_the_command_writes_them_and_tells_what_it_cannot(tmp_path, capsys) -> None:
    records = [entry for place, method in enumerate(("naive_loop", "vmap_hvp", "<b>$"))
               for entry in grown(method, 1.5 + place / 5)]  # fmt: skip
    loaded(tmp_path / "run", records)
    arguments = [str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--memory_gb", "1"]
    assert report.main([*arguments, "--baseline", "naive_loop"]) == 0
    for name in ("growth.md", "performance_profile.pdf", "speedup_against_size.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert r"\<b>" in (tmp_path / "out" / "growth.md").read_text()
    capsys.readouterr()
    assert report.main([*arguments, "--baseline", "nothing"]) == 2
    assert "nothing is no method of these records; they have <b>$, naive_loop, vmap_hvp" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        report.main([*arguments[:-1], "-3"])
    assert ended.value.code == 2
