"""Where one way becomes faster than another, against records in which it was planted, and in which there is noise."""

import pytest

from harness.analysis.crossovers import crossovers
from harness.analysis.table import Analysis
from harness.report.growth import crossover_sentence
from tests.grown import SIZES, grown, loaded


def told(tmp_path, *records):
    return [
        crossover_sentence(seen)
        for seen in crossovers(Analysis(loaded(tmp_path, [entry for group in records for entry in group])))
    ]


def test_a_planted_one_is_found_at_its_place(tmp_path) -> None:
    slower, faster = (
        grown(*way, rounds=3, noise=0.02, seed=seed)
        for seed, way in enumerate((("naive_loop", 1.0, 1e-6 * 510), ("vmap_hvp", 2.0, 1e-6)))
    )
    (seen,) = crossovers(Analysis(loaded(tmp_path, slower + faster)))
    assert (seen.faster, seen.slower, seen.low, seen.high, seen.processes) == ("naive_loop", "vmap_hvp", 400, 800, 3)
    assert seen.params == pytest.approx(510, rel=0.1)
    assert "is faster than vmap_hvp from P = " in crossover_sentence(seen)
    assert crossover_sentence(seen).endswith(" on (between 400 and 800)")


def test_one_process_a_cell_is_said_to_be_and_needs_more_than_a_tenth(tmp_path) -> None:
    base = grown("naive_loop", 1.0, scale=1e-6, samples=3)
    clear = grown("vmap_hvp", 2.0, scale=1e-6 / 510, samples=3)
    (said,) = told(tmp_path / "a", base, clear)
    assert said == ("mlp: naive_loop is faster than vmap_hvp from P = 510 on (between 400 and 800; one process a cell)")
    assert told(tmp_path / "b", base, grown("vmap_hvp", 1.03, scale=1e-6 / 400**0.03, samples=3)) == []
    single = grown("vmap_hvp", 2.0, scale=1e-6 / 510)  # one sample: no interval
    assert told(tmp_path / "c", base, single) == []


def test_what_prints_as_one_decides_nothing(tmp_path) -> None:
    """Seven processes without noise: but for how it is written, a ratio of 1.003 would be an order, either way."""
    base = grown("a", 1.0, rounds=7)
    other = grown("b", 1.0, rounds=7)
    for entry in other:
        entry["times_s"] = [(0.5 if entry["params"] == 1600 else 1.003) * entry["times_s"][0]]
    assert told(tmp_path / "a", base, other) == []
    for entry in base + other:
        entry["method"] = {"a": "b", "b": "a"}[entry["method"]]
    assert told(tmp_path / "b", base, other) == []


def test_more_pairs_of_methods_ask_for_more_of_each(tmp_path) -> None:
    """At both sizes the p-value of a and b is 0.044: enough for one pair of methods, and not for three."""
    fast, slow, far = [1.0, 1.0, 1.0], [1.08, 1.12, 1.18], [9.0, 9.0, 9.0]
    planted = {"a": [*fast, *slow], "b": [*slow, *fast], "c": [*far, *far]}
    records = {method: grown(method, 1.0, sizes=(100, 200), rounds=3) for method in planted}
    for method, times in planted.items():
        for entry, seconds in zip(records[method], times, strict=True):
            entry["times_s"] = [seconds]
    assert len(told(tmp_path / "two", records["a"], records["b"])) == 1
    assert told(tmp_path / "three", *records.values()) == []


def test_only_the_last_change_is_told_and_only_where_the_end_is_decided(tmp_path) -> None:
    base = grown("naive_loop", 1.0, scale=1e-6, rounds=3)
    back = grown("vmap_hvp", 1.0, scale=2e-6, rounds=3)
    for entry in back[6:9]:  # faster at P = 400 alone
        entry["times_s"] = [1e-6]
    assert told(tmp_path / "a", base, back) == [
        "mlp: naive_loop is faster than vmap_hvp from P = 740 on (between 400 and 800)"
    ]
    for entry in back[12:]:  # a tie at the largest
        entry["times_s"] = base[12]["times_s"]
    assert told(tmp_path / "b", base, back) == []


@pytest.mark.slow
def test_noise_and_ties_are_none(tmp_path) -> None:
    """Two equal ways, 5 % noise, three rounds, five sizes: by the range alone some 19 of 200 would be told."""
    found = 0
    for seed in range(200):
        one, other = (grown(way, 2.0, noise=0.05, rounds=3, seed=2 * seed + place) for place, way in enumerate("ab"))
        found += len(told(tmp_path / str(seed), one, other))
    assert found <= 5
    assert told(tmp_path / "ties", grown("a", 1.0, rounds=3), grown("b", 1.0, rounds=3)) == []


def test_a_wrong_process_decides_nothing(tmp_path) -> None:
    base = grown("naive_loop", 1.0, scale=1e-6, rounds=3)
    other = grown("vmap_hvp", 2.0, scale=1e-6 / 510, rounds=3)
    for entry in other[1 :: len(SIZES) * 3]:
        entry["status"] = "wrong"
    assert len(told(tmp_path / "a", base, other)) == 1
    for entry in other[1::3]:
        entry["status"] = "wrong"
    assert told(tmp_path / "b", base, other) == []
