"""The judge is out of the method's reach: the reference has a process of its own, and whatever is raised is a row."""

import dataclasses
from pathlib import Path

import pytest
import torch

from harness.problems import ProblemError, from_function, networks, torch_messages
from harness.run import worker
from harness.run.launcher import Launcher
from harness.truth import reference_process
from tests.conftest import JOB

CHECKED = ("agreement",)


@pytest.mark.parametrize("passes", [("time", "agreement"), CHECKED])
def test_a_module_that_replaces_what_would_judge_it(run, passes) -> None:
    """Ten times the right result, compared with ten times the right reference, would be right."""
    seen = run(target="tests.patching.hessian", passes=passes)
    assert seen["status"] in ("error", "wrong")
    assert "torch.autograd.grad (replaced)" in seen["message"]


@pytest.mark.parametrize(
    ("method", "status", "words"),
    [
        ("right_once", "wrong", "the last timed call returned another result than the call that was checked"),
        ("right_and_hooked", "error", "changed model._forward_hooks (added)"),
        ("theta_in_later_calls", "error", "changed theta;"),
        ("depth_lowered", "error", "the recursion limit"),
        ("umask_closed", "error", "the umask"),
        ("every_descriptor_closed", "error", "the descriptor 1"),
        ("overwrites_its_result", "crashed", "the file of the time pass's result was overwritten: it is not JSON"),
        ("interrupts", "error", "KeyboardInterrupt"),
        ("unprintable", "error", "Unprintable: (its text cannot be had: ZeroDivisionError)"),
        ("half_a_pair", "error", r"ValueError: \ud800 \x1b[31m"),
    ],
)
def test_a_hostile_method_is_a_row(run, method: str, status: str, words: str) -> None:
    seen = run(target=f"tests.faulty.{method}", passes=("time", "agreement"))
    assert (seen["status"], words in seen["message"]) == (status, True), seen["message"]


def test_one_reference_for_all_methods_and_rounds(job, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def ask(job, part, folder, truth=None):
        asked.append((part, truth))
        return {"status": "error" if job.seed == 2 and part == "reference" else "ok", "message": None}

    with Launcher() as launcher:
        monkeypatch.setattr(launcher, "_ask", ask)
        for changes in (
            {},
            {"target": "methods.vmap_hvp.hessian"},
            {"round": 1},
            {"seed": 1},
            {"seed": 2},
            {"seed": 2},
        ):
            launcher.run(job(passes=CHECKED, **changes), tmp_path)
        folders = [truth.parent for _, truth in asked]
        assert all(folder.is_dir() for folder in folders)
    assert not any(folder.exists() for folder in folders)
    assert [part for part, _ in asked] == [
        "reference",
        *["agreement"] * 3,
        "reference",
        "agreement",
        *["reference"] * 2,
    ]
    first, second, failed = folders[0], folders[4], folders[6]
    assert folders == [first] * 4 + [second] * 2 + [failed, folders[7]]
    assert len({*folders}) == 4, "one that has failed is tried again, in another folder"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem_target": "tests.faulty.another_each_time"}, "the problem is another one each time that it is built"),
        ({"problem_target": "tests.faulty.slow_loss", "limit_s": 1.5}, "the reference pass took longer than limit_s=1"),
    ],
)
def test_without_a_reference_the_row_says_why(run, changes, words: str) -> None:
    seen = run(passes=CHECKED, problem_options={}, **changes)
    assert seen["status"] in ("error", "timeout")
    assert words in seen["message"]


def test_a_reference_that_raises_is_no_fault_of_the_method() -> None:
    seen = worker._failure(NotImplementedError("the derivative for f is not implemented"), "reference")
    assert seen["status"] == "error"
    assert seen["message"].startswith("the reference, which results are compared with, cannot be computed: NotImpl")
    assert worker._failure(NotImplementedError("no"), "agreement")["status"] == "unsupported"
    assert "None of them" in worker._failure(ProblemError("None of them"), "reference")["message"]


def test_the_truth_is_that_of_the_problem(tmp_path: Path) -> None:
    problem = networks.mlp(inputs=3, width=3, outputs=2, batch=4).to("cpu", torch.float32)
    for quantity in ("hessian", "hvp", "ggn"):
        (tmp_path / "truth.pt").write_bytes(
            reference_process.compute(dataclasses.replace(JOB, quantity=quantity), problem)
        )
        truth = reference_process.load(tmp_path / "truth.pt")
        reference_process.require_same_point(truth, problem)
        assert (truth.hessian is None) == (quantity != "ggn")
        assert (truth.reference.directions is None) == (quantity != "hvp")
        for other in (
            networks.mlp(seed=1, inputs=3, width=3, outputs=2, batch=4),  # other parameters
            networks.mlp(inputs=3, width=3, outputs=2, batch=4, activation="gelu").to("cpu", torch.float32),
        ):
            with pytest.raises(ProblemError, match="another one each time"):
                reference_process.require_same_point(truth, other)


X = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)


@pytest.mark.parametrize(
    "data",
    [X, X[0, 1], X > 4, X.long(), X.T, X.to_sparse(), X * 1j, torch.nested.nested_tensor([X, X[:2]]), {"a": [X]}],
    ids=lambda data: type(data).__name__,
)
def test_a_problem_with_other_data_is_another(data, tmp_path: Path) -> None:
    """By the data alone, where the loss is the same."""

    def built(given):
        return from_function(lambda x, given: x.square().sum(), torch.ones(3).double(), (given,))

    (tmp_path / "truth.pt").write_bytes(reference_process.compute(JOB, built(data)))
    truth = reference_process.load(tmp_path / "truth.pt")
    reference_process.require_same_point(truth, built(data))
    other = {"a": [-1 - X]} if isinstance(data, dict) else data * 3
    with pytest.raises(ProblemError, match="another one each time"):
        reference_process.require_same_point(truth, built(other))


def test_a_small_loss_is_compared_relatively_to_itself(tmp_path: Path) -> None:
    """What differs is within the function, where no checksum sees it."""

    def built(factor: float):
        return from_function(lambda x: 1e-9 * factor * x.square().sum(), torch.ones(3).double())

    (tmp_path / "truth.pt").write_bytes(reference_process.compute(JOB, built(1.0)))
    truth = reference_process.load(tmp_path / "truth.pt")
    with pytest.raises(ProblemError, match="another one each time"):
        reference_process.require_same_point(truth, built(1.001))


def test_texts_are_cut_and_printable() -> None:
    assert torch_messages.text(ValueError("x" * 10**6)).endswith("xx ... (1,000,000 characters)")
    assert len(torch_messages.trace(ValueError("x" * 10**6))) <= torch_messages.LONGEST_TRACE
    assert torch_messages.text(ValueError("a\x00b\udcff\nä")) == "a\\x00b\\udcff\nä"
    assert torch_messages.explain(MemoryError())[1].startswith("MemoryError. The method does not fit")
    assert torch_messages.explain(GeneratorExit()) == ("error", "GeneratorExit")


def test_what_a_method_refuses_is_no_fault() -> None:
    """A division by zero is one, though Python counts it among the arithmetic errors."""
    for error, status in (
        (ArithmeticError("negative curvature"), "unsupported"),
        (NotImplementedError("no layers"), "unsupported"),
        (ZeroDivisionError("division by zero"), "error"),
        (ValueError("k=3"), "error"),
    ):
        assert torch_messages.explain(error) == (status, f"{type(error).__name__}: {error}")
