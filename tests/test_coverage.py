"""The table and picture of verdicts, and the distances between results, against the records they were made from."""

import math

import numpy
import pytest
import torch

from harness.analysis.coverage import outcomes, totals
from harness.analysis.distances import comparable, distances
from harness.analysis.table import Analysis
from harness.report.coverage_table import markdown
from harness.report.figures.coverage import coverage
from harness.report.figures.disagreement import disagreement
from harness.report.files import write
from harness.truth import sketch
from tests.test_report import cell, frame_of  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")


def atlas():
    """Three ways on three cases: one wrong, one not finite, one refused, one that needs a network."""
    zoo = {"problem_target": "harness.problems.zoo.layers.layer", "passes": "agreement", "params": 9}
    changes = {
        ("func_hessian", "norm"): {"status": "wrong", "relative_error": 0.058, "message": "relative error 5.8e-02"},
        ("func_hessian", "det"): {"status": "nonfinite", "relative_error": None, "message": "9 of 81 entries"},
        ("vmap_hvp", "mse"): {"status": "unsupported", "relative_error": None, "message": "ZeroTensors 7 -> use rows"},
        ("naive_loop", "det"): {"status": "unsupported", "relative_error": None, "message": "x asks for model, which"},
    }
    return [
        cell(way, problem=f"zoo/{case}", problem_options="{}", **zoo | changes.get((way, case), {}))
        for way in ("func_hessian", "naive_loop", "vmap_hvp")
        for case in ("norm", "det", "mse")
    ]


def test_verdicts_and_totals(frame_of) -> None:  # noqa: F811
    cells = outcomes(Analysis(frame_of(atlas())))
    found = {(row["method"], row["network"]): row["outcome"] for row in cells.to_dict("records")}
    assert found["func_hessian", "norm"] == "wrong"
    assert found["func_hessian", "det"] == "not finite"
    assert found["vmap_hvp", "mse"] == "refuses"
    assert found["naive_loop", "det"] == "not for it"
    assert sum(verdict == "right" for verdict in found.values()) == 5
    assert totals(cells).to_numpy().sum() == 9


def test_the_table_has_a_line_a_case_and_the_causes(frame_of) -> None:  # noqa: F811
    text = markdown(Analysis(frame_of(atlas())))
    (norm,) = [line for line in text.splitlines() if line.startswith("| norm")]
    assert "**5.8%**" in norm
    assert "ZeroTensors N" in text
    assert "use rows" not in text


def test_the_picture_shows_every_case_and_every_error(frame_of) -> None:  # noqa: F811
    (ax,) = coverage(Analysis(frame_of(atlas()))).axes
    names = ", ".join(label.get_text() for label in ax.get_yticklabels())
    assert all(case in names for case in ("norm", "det", "mse"))
    assert [text.get_text() for text in ax.texts] == ["5.8%"]
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "func_hessian", (
        "the least often right comes last"
    )


def test_distances_between_results(frame_of) -> None:  # noqa: F811
    generator = torch.Generator().manual_seed(0)
    matrix, other = torch.randn(2, 40, 40, generator=generator, dtype=torch.float64)
    near = matrix + 1e-6 * other
    sketched = [
        cell(name, sketch=sketch.sketch([value]))
        for name, value in (("create_graph_rows", matrix), ("func_hessian", near), ("vmap_hvp", other))
    ]
    rows = Analysis(frame_of([*sketched, cell("naive_loop")])).rows
    rows["result"] = rows["label"]
    table = distances(rows)
    true = float((near - matrix).norm() / near.norm())
    assert table.loc["create_graph_rows", "func_hessian"] == pytest.approx(true, rel=0.5)
    assert table.loc["create_graph_rows", "vmap_hvp"] == pytest.approx(math.sqrt(2), rel=0.5)
    assert numpy.isnan(table.loc["create_graph_rows", "naive_loop"])
    assert (numpy.diag(table)[:3] == 0).all()


def test_a_panel_for_each_problem(frame_of) -> None:  # noqa: F811
    sketch = [1.0] * 32
    records = [cell(way, width, sketch=sketch) for way in ("func_hessian", "vmap_hvp") for width in (4, 8)]
    figure = disagreement(Analysis(frame_of(records)))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["mlp, hessian, P=69", "mlp, hessian, P=133"]
    assert disagreement(Analysis(frame_of(records[:1]))).axes


def test_a_cell_that_was_not_run_is_not_shown_as_right(frame_of) -> None:  # noqa: F811
    frame = frame_of(atlas()[:-1])
    cells = outcomes(Analysis(frame))
    (left_out,) = cells[cells["outcome"] == "not run"].to_dict("records")
    assert (left_out["method"], left_out["network"]) == ("vmap_hvp", "mse")
    assert "(none)" in markdown(Analysis(frame))
    assert [patch.get_label() for patch in coverage(Analysis(frame)).legends[0].get_patches()][-1] == "not run"


def test_of_several_sizes_the_worst_counts(frame_of) -> None:  # noqa: F811
    records = [cell("func_hessian", width) for width in (4, 8)]
    records[1] |= {"status": "wrong", "relative_error": 0.2, "message": "relative error"}
    (found,) = outcomes(Analysis(frame_of(records))).to_dict("records")
    assert (found["outcome"], found["relative_error"]) == ("wrong", 0.2)


def test_a_failure_without_its_builder_is_on_the_line_of_its_problem(frame_of) -> None:  # noqa: F811
    records = atlas()
    records[-1] |= {"problem_target": None, "status": "timeout"}
    text = markdown(Analysis(frame_of(records)))
    assert sum(line.startswith("| mse") for line in text.splitlines()) == 1
    (ax,) = coverage(Analysis(frame_of(records))).axes
    assert ", ".join(label.get_text() for label in ax.get_yticklabels()).count("mse") == 1


def test_a_method_may_be_called_what_a_column_is(frame_of) -> None:  # noqa: F811
    records = [cell(name, problem=problem) for name in ("case", "kind", "way") for problem in ("p", "q")]
    (ax,) = coverage(Analysis(frame_of(records))).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["case", "kind", "way"]
    assert "| case" in markdown(Analysis(frame_of(records)))


def test_panels_that_differ_in_seed_or_subset_are_told_apart_and_none_is_dropped_in_silence(frame_of) -> None:  # noqa: F811
    records = [
        cell(way, seed=seed, subset=subset, params=109115138, sketch=[1.0] * 32)
        for way in ("func_hessian", "vmap_hvp")
        for seed in range(6)
        for subset in (None, 64)
    ]
    frame = frame_of([*records, cell("vmap_hvp", problem="alone", sketch=[1.0] * 32)])
    titles = [title for title, _ in comparable(Analysis(frame))]
    assert len(titles) == len(set(titles)) == 12
    assert titles[0] == "mlp, hessian, P=109115138, seed 0"
    assert titles[-1] == "mlp, hessian subset=64, P=109115138, seed 5"
    figure = disagreement(Analysis(frame))
    assert "The first 9 of 12." in figure.get_supxlabel().replace("\n", " ")
    assert sum(bool(ax.get_title()) for ax in figure.axes) == 9


def test_a_picture_of_nothing_is_not_saved(frame_of, tmp_path) -> None:  # noqa: F811
    frame = frame_of([cell("vmap_hvp", width, sketch=[1.0] * 32) for width in (4, 8)])
    assert not any("disagreement" in path.name for path in write(Analysis(frame), tmp_path / "out"))
    texts = [text.get_text() for text in disagreement(Analysis(frame)).axes[0].texts]
    assert texts == ["no two results to compare"]
