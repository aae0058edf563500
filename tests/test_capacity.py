"""What fits into a memory, against growth and failures that were planted."""

import math

import pytest

from harness.analysis.capacity import ABOVE, CONSTANT, FURTHEST, OUT, RESULT, capacities
from harness.analysis.table import Analysis
from harness.report.capacities import capacity_rows, capacity_sentences
from tests.grown import SIZES, grown, loaded
from tests.test_report import failed

AT_5000 = 8 * 5000**2 / 1e9  # GB


def sentence(capacity) -> str:
    (text,) = capacity_sentences([capacity])
    return text


def test_exact_growth_fits_where_it_must(tmp_path) -> None:
    frame = loaded(tmp_path, grown("vmap_hvp", 2.0))
    (seen,) = capacities(Analysis(frame), AT_5000)
    assert seen.params == pytest.approx(5000, rel=1e-2)
    assert sentence(seen).startswith("mlp: vmap_hvp fits into 0.2 GB up to P = 5,000 (")
    assert sentence(seen).endswith("by its tensor peak")
    (seen,) = capacities(Analysis(frame), 8 * 1e5**2 / 1e9)
    assert (seen.note, seen.params, seen.high) == (FURTHEST, pytest.approx(16000), pytest.approx(16000))
    assert "at P = 16,000, the furthest" in sentence(seen)


def test_an_interval_ends_where_the_fit_is_followed(tmp_path) -> None:
    records = grown("a", 2.0)
    for entry, factor in zip(records, (1, 3, 0.4, 2, 0.5), strict=True):
        entry["tensor_peak_bytes"] *= factor
    for entry in records:
        entry["tensor_peak_bytes"] = int(entry["tensor_peak_bytes"])
    (seen,) = capacities(Analysis(loaded(tmp_path, records)), 8 * 8000**2 / 1e9)
    assert 1600 <= seen.low < seen.params < seen.high == pytest.approx(16000)


def test_the_process_counts_where_it_reaches_the_memory_first(tmp_path) -> None:
    records = grown("a", 2.0)
    for entry in records:
        entry["process_peak_bytes"] = 4 * entry["tensor_peak_bytes"]
    (seen,) = capacities(Analysis(loaded(tmp_path, records)), AT_5000)
    assert (seen.measure, seen.params) == ("process peak", pytest.approx(2500, rel=1e-2))
    assert sentence(seen).endswith("by its process peak")


@pytest.mark.parametrize(
    ("had", "capped"),
    [
        ({"memory_limit_gb": 2 * AT_5000}, True),
        ({"memory_limit_gb": AT_5000}, True),
        ({"ram_bytes": 10**10}, True),
        ({"memory_limit_gb": AT_5000 / 2}, False),
        ({"ram_bytes": 10**8}, False),
        ({}, True),
    ],
)
def test_what_ran_out_of_as_much_memory_caps_it(tmp_path, had, capped) -> None:
    records = [*grown("a", 2.0), failed("oom", "a", 200, params=3200, **had)]
    (seen,) = capacities(Analysis(loaded(tmp_path, records)), AT_5000)
    assert (seen.note == OUT) == capped
    assert seen.params == pytest.approx(3200 if capped else 5000, rel=1e-2)
    assert not capped or sentence(seen) == "mlp: a fits into 0.2 GB below P = 3,200, where it ran out of memory"


def test_near_constant_memory_does_not_overflow(tmp_path) -> None:
    for name, peaks in (
        ("drift", (1000000, 1001000, 1002000, 1003000)),
        ("flat", (10**6,) * 4),
        ("noise", (1000000, 1003000, 999000, 1001000)),
    ):
        records = grown("a", 1.0, sizes=SIZES[:4])
        for entry, peak in zip(records, peaks, strict=True):
            entry["tensor_peak_bytes"] = peak
        (seen,) = capacities(Analysis(loaded(tmp_path / name, records)), 8.0)
        assert seen.note in (CONSTANT, FURTHEST)
        assert math.isnan(seen.params) == (seen.note == CONSTANT)
        assert name != "noise" or sentence(seen) == "mlp: a has a tensor peak that does not grow measurably with P"


def test_a_measured_peak_is_not_contradicted(tmp_path) -> None:
    below, above = grown("a", 2.0), grown("a", 2.0)
    below[-1]["tensor_peak_bytes"] //= 4
    (seen,) = capacities(Analysis(loaded(tmp_path / "below", below)), below[-1]["tensor_peak_bytes"] / 1e9)
    assert seen.low >= 1600  # which was seen to fit
    above[-1]["tensor_peak_bytes"] *= 4
    (seen,) = capacities(Analysis(loaded(tmp_path / "above", above)), 0.99 * above[-1]["tensor_peak_bytes"] / 1e9)
    assert seen.high <= 1600  # which was seen not to


@pytest.mark.parametrize(
    ("measure", "factor", "memory", "note"),
    [
        ("tensor peak", 4, 3, ABOVE),
        ("process peak", 4, 3, ABOVE),
        ("process peak", 1.15, 1.01, ABOVE),
        ("tensor peak", 1, 0.99, ABOVE),
        ("tensor peak", 1, 1, ""),
        ("tensor peak", 1, 1.01, ""),
    ],
)
def test_what_was_measured_above_the_memory_is_said_not_to_fit(tmp_path, measure, factor, memory, note) -> None:
    """At the largest P, one peak is `factor` times what it grows to; the memory is `memory` times that growth.

    1.15 of the process, which else is 0.9 of the tensors: these reach the memory first, by the fit of both, yet not as
    measured. 0.99: the fit reaches it at P = 1,592, which as it is written is 1,600.
    """
    records = grown("a", 2.0)
    for entry in records:
        entry["process_peak_bytes"] = int(0.9 * entry["tensor_peak_bytes"])
    at_largest = records[-1]["tensor_peak_bytes"]
    column = f"{measure.replace(' ', '_')}_bytes"
    records[-1][column] = int(factor * records[-1][column])
    (seen,) = capacities(Analysis(loaded(tmp_path / "a", records)), memory * at_largest / 1e9)
    assert (seen.note, seen.measure) == (note, measure)
    assert seen.low <= seen.params == pytest.approx(1600, rel=1e-2) == seen.high
    said = f"below P = 1,600, where its {measure} was measured above that"
    assert sentence(seen).endswith(said) == bool(note), sentence(seen)
    records.append(failed("oom", "a", 200, params=1200))
    (seen,) = capacities(Analysis(loaded(tmp_path / "b", records)), memory * at_largest / 1e9)
    assert (seen.note, seen.params) == (OUT, 1200), "which is before"


def test_too_few_sizes_say_nothing(tmp_path) -> None:
    assert capacities(Analysis(loaded(tmp_path, grown("a", 2.0, sizes=SIZES[:3]))), 8.0) == []


def test_what_holds_for_several_methods_is_written_once(tmp_path) -> None:
    """Of five methods, three are followed to the same P, one runs out and one reaches the memory earlier."""
    records = [entry for name in ("a", "b", "c") for entry in grown(name, 1.0)]
    records += [*grown("early", 2.0), *grown("out", 1.0), failed("oom", "out", 200, params=3200)]
    found = capacities(Analysis(loaded(tmp_path, records)), AT_5000)
    alike, early, out = capacity_sentences(found)
    furthest = "each of 3 methods fits into 0.2 GB at P = 16,000, the furthest that the fit of its memory is followed"
    assert alike == f"mlp: {furthest}: a, b, c"
    assert early.startswith("mlp: early fits into 0.2 GB up to P = 5,000 (")
    assert out == "mlp: out fits into 0.2 GB below P = 3,200, where it ran out of memory"
    rows = capacity_rows(found)
    assert list(rows["methods"]) == ["a, b, c", "early", "out"]
    assert list(rows[""]) == [FURTHEST, "", OUT]


def test_what_the_result_alone_fills_is_told_apart(tmp_path) -> None:
    """One method holds little more than the P x P result, one holds it twice; both are measured up to P = 1,600."""
    records = [*grown("lean", 2.0), *grown("twice", 2.0)]
    for entry in records:
        entry["output_bytes"] = 8 * entry["params"] ** 2
    for entry in records[len(SIZES) :]:
        entry["tensor_peak_bytes"] *= 2
    lean, twice = capacities(Analysis(loaded(tmp_path, records)), AT_5000)
    assert (lean.note, twice.note) == (RESULT, "")
    assert sentence(lean) == "mlp: lean fits into 0.2 GB up to P = 5,000, where the result alone fills it"


def test_what_the_result_takes_may_be_unknown(tmp_path):
    """Without the size of the result, the tensor peak's fit alone says what fits."""
    records = [entry | {"output_bytes": None} for entry in grown("a", 1.0, sizes=SIZES)]
    (seen,) = capacities(Analysis(loaded(tmp_path, records)), 8.0)
    assert seen.note != RESULT
