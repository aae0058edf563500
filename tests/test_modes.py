"""Modes of torch in which a method runs."""

import pytest
import torch

from harness.config import ConfigError
from harness.job import Job
from harness.problems.modes import in_mode
from harness.reproduce.script import script
from harness.reproduce.source import ReproduceError
from tests.test_job import CONFIG

CPU = torch.device("cpu")


def state() -> tuple[bool, bool, torch.dtype]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return deterministic, torch.is_autocast_enabled("cpu"), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_a_mode_holds_within_the_call_alone() -> None:
    before = state()
    assert in_mode("autocast", state, CPU)() == (False, True, torch.bfloat16)
    assert in_mode("deterministic", state, CPU)() == (True, False, torch.float32)
    assert in_mode(None, state, CPU) is state
    assert state() == before == (False, False, torch.float32)


def test_an_operator_without_a_deterministic_algorithm_raises() -> None:
    def put() -> torch.Tensor:
        return torch.ones(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    put()
    with pytest.raises(RuntimeError, match="deterministic"):
        in_mode("deterministic", put, CPU)()


def test_a_compiled_method_is_one_graph(run) -> None:
    passes = ("time", "exact", "agreement")
    seen = run(mode="compiled", target="methods.func_hessian.hessian", passes=passes, limit_s=120.0)
    assert (seen["status"], seen["mode"]) == ("ok", "compiled"), seen["message"]
    assert (seen["compiled_graphs"], seen["graph_breaks"]) == (1, 0)
    assert seen["operations"] is None, "compiled code bypasses the dispatcher"
    assert "torch.compile compiled" not in (seen["warnings"] or "")


def test_a_method_of_which_nothing_is_compiled_is_named(run) -> None:
    seen = run(mode="compiled", target="tests.uncompiled.hessian", passes=("agreement",))
    assert (seen["status"], seen["compiled_graphs"]) == ("ok", 0), seen["message"]
    assert "torch.compile compiled no part of the method" in seen["warnings"]


def test_autocast_is_judged_by_its_precision(run) -> None:
    seen = run(mode="autocast", dtype="float32", passes=("agreement",))
    assert (seen["status"], seen["inner_dtype"]) == ("ok", "bfloat16"), seen["message"]
    assert 1e-5 < seen["relative_error"] < seen["tolerance"]


def test_autocast_is_refused_where_it_changes_nothing(run) -> None:
    with pytest.raises(ConfigError, match="mode=autocast dtype=float64: autocast changes float32 only"):
        Job.from_config(CONFIG | {"mode": "autocast", "dtype": "float64"}, "mine", "mine")
    pytest.importorskip("jax")
    seen = run(mode="autocast", dtype="float32", target="methods.peers.jax.hessian", passes=("agreement",))
    assert (seen["status"], seen["relative_error"]) == ("unsupported", None)
    assert "mode=autocast is one of torch, and methods.peers.jax.hessian computes with JAX" in seen["message"]


def test_a_script_runs_in_the_mode_of_its_record(run) -> None:
    seen = run(passes=("agreement",))
    assert "torch.compile(hessian)(" in script(seen | {"mode": "compiled"})
    assert "use_deterministic_algorithms(True)" in script(seen | {"mode": "deterministic"})
    with pytest.raises(ReproduceError, match="autocast"):
        script(seen | {"mode": "autocast"})
