"""Advice: lines are followed right, the ways are ranked, and bad input is told."""

import pytest

from harness import advise


@pytest.mark.parametrize(
    ("points", "size", "value"),
    [
        ([(64, 1.0), (128, 2.0)], 1024, 16.0),
        ([(64, 5.0), (128, 5.0)], 1024, 5.0),
        ([(64, 5.0), (128, 4.0)], 1024, 4.0),
        ([(64, 1.0), (128, 4.0)], 512, 64.0),
        ([(64, 9.0), (128, 1.0), (200, 3.0)], 200, 3.0),
        ([(30, 2.0)], 30, 2.0),
    ],
)
def test_the_line_or_the_power_law_is_followed(points, size, value) -> None:
    assert advise.expected(points, size) == pytest.approx(value)


def test_ways_are_ranked_and_the_unfit_named(tmp_path) -> None:
    ways = advise.advise(
        ["problem=mlp_layernorm", "problem.width=3", "problem.inputs=3", "problem.batch=4", "dtype=float64",
         "method=create_graph_rows,func_hessian,naive_loop,backpack,curvlinops,factored", "measure.budget_s=0.02"],
        tmp_path,
    )  # fmt: skip
    found = {way.method: way for way in ways}
    assert found["func_hessian"].status == "wrong"
    assert found["backpack"].status == "unsupported"
    ranked = [way.method for way in ways[:3]]
    assert sorted(ranked) == ["create_graph_rows", "factored", "naive_loop"], "what is right comes before what is not"
    assert ranked.index("create_graph_rows") < ranked.index("naive_loop"), "and the faster first"
    assert found["create_graph_rows"].call == "methods.create_graph_rows.hessian(loss, theta)"
    assert found["factored"].call == "methods.factored.hessian(model, criterion, inputs, targets)"
    assert found["create_graph_rows"].error < 1e-12
    assert found["create_graph_rows"].peak_bytes > 0


def test_the_command_line(capsys) -> None:
    assert advise.main(["problem=mlp", "problem.width=3", "problem.inputs=3", "method=create_graph_rows",
                        "memory_gb=0.000001", "measure.budget_s=0.02"]) == 1  # fmt: skip
    assert "are more than memory_gb=1e-06" in capsys.readouterr().out
    assert advise.main(["problem=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert advise.main(["memory_gb=much"]) == 2
    assert "much" in capsys.readouterr().err
    assert advise.main(["memory_gb=-1"]) == 2
    assert "memory_gb=-1 must be a positive number" in capsys.readouterr().err
