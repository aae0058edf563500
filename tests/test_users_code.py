"""What the user's own code raises is said to be of it, with its line, and is no fault of the reference's."""

import re

import pytest
import torch

from harness.problems import build, check
from harness.problems.errors import CodeError
from harness.run import worker
from tests import faulty_code


@pytest.mark.parametrize(
    ("builder", "options", "words"),
    [
        ("raising", {}, r"faulty_code\.raising raised KeyError: 'data' \(faulty_code\.py, line \d+\)"),
        ("exiting", {}, r"faulty_code\.exiting raised SystemExit: 3 \(faulty_code\.py, line \d+\)"),
        ("failing", {"kind": "x"}, r"faulty_code\.failing raised KeyError: 'x' \(faulty_code\.py"),
        ("failing", {"kind": "criterion"}, r"the loss raised KeyError: 'weights' \(faulty_code\.py, line \d+\)$"),
        (
            "failing",
            {"kind": "objective"},
            r"the loss raised AttributeError: .*nothing.* \(faulty_code\.py, line \d+\)",
        ),
        ("failing", {"kind": "classes"}, r"the loss raised RuntimeError: .* -> .*targets\.long\(\)"),
        ("failing", {"kind": "columns"}, r"the loss raised RuntimeError: .* -> .*targets\.squeeze\(1\)"),
        (
            "failing",
            {"kind": "range"},
            r"the loss raised IndexError: .* -> .*less than the number of the model's outputs",
        ),
        ("failing", {"kind": "numpy"}, r"the loss raised TypeError: .* -> .*torch\.as_tensor"),
        ("failing", {"kind": "numpy_targets"}, r"the loss raised \w+: .* -> .*torch\.as_tensor"),
        ("failing", {"kind": "no_targets"}, r"the loss raised .* -> there are no targets: .*inputs, targets\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_the_users_code_raises(builder: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(CodeError) as raised:
        check(build(f"tests.faulty_code.{builder}", options).to("cpu", torch.float64))
    for part in ("reference", "time", "agreement"):
        fields = worker._failure(raised.value, part)
        assert fields["status"] == "error"
        assert re.search(words, fields["message"])
        assert "cannot be computed" not in fields["message"]
        assert "Traceback" in fields["traceback"]


def test_memory_that_lacks_is_said_to_lack() -> None:
    assert worker._failure(CodeError("the loss", MemoryError()), "time")["status"] == "oom"


def test_what_the_reference_meets_in_the_users_code_has_its_line() -> None:
    with pytest.raises(KeyError) as raised:
        faulty_code.raising()
    message = worker._failure(raised.value, "reference")["message"]
    assert re.search(r"cannot be computed: KeyError: 'data' \(faulty_code\.py, line \d+\)", message)
