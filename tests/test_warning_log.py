"""What is warned of, and how a method does its parameters, stand in the record and with the row."""

import re
import types
import warnings

import pytest
import torch

from harness.analysis.table import DOUBT, Analysis
from harness.measure.warning_log import LONGEST, MOST, WarningLog, on_one_line
from harness.report.latex.cells import cell_tables
from harness.report.latex.document import document
from harness.report.markdown import markdown
from harness.report.readable import readable
from harness.report.summary import summary
from harness.truth.explanation import explained
from tests.test_report import cell, frame_of, shown  # noqa: F401  frame_of is a fixture

BROADCAST = "UserWarning: Using a target size (torch.Size([6])) that is different to the input size"
LOSS = {"problem_options": {}, "passes": ("agreement",), "dtype": "float64"}
RIGHT = {"target": "methods.create_graph_rows.hessian", **LOSS}


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("squeezed", BROADCAST),
        ("smooth", BROADCAST),
        ("sized", "UserWarning: size_average and reduce args will be deprecated"),
        ("noted", "UserWarning: weights of w6.pt are old"),
    ],
)
def test_what_the_loss_is_warned_of_is_in_the_record_once(run, problem, words):
    seen = run(problem_target=f"tests.warned.{problem}", **RIGHT)
    assert seen["status"] == "ok"
    assert seen["warnings"].count(words) == 1
    assert seen["warnings"].startswith(words)
    assert ".cpp" not in seen["warnings"]


def test_what_the_method_is_warned_of_is_in_the_record(run):
    seen = run(problem_target="tests.warned.quiet", target="tests.warned.hessian", **LOSS)
    assert seen["warnings"] == "UserWarning: there is a performance drop here"
    assert seen["explained"] == "not by matrix products: weight (samples depend)"


def test_nothing_is_said_where_nothing_is_to_be_said(run):
    seen = run(problem_target="tests.warned.quiet", **RIGHT)
    assert (seen["status"], seen["warnings"], seen["explained"]) == ("ok", None, None)


def test_a_warning_is_one_line_without_paths_of_the_machine():
    def text(message):
        return on_one_line(message, UserWarning).removeprefix("UserWarning: ")

    assert text("see /a/b.c/d.py:3 and 'x' in (/tmp/e)") == "see d.py:3 and 'x' in (e)"
    assert text("see https://pytorch.org/docs/stable/a.html and/or\n  m/s") == (
        "see https://pytorch.org/docs/stable/a.html and/or m/s"
    )
    assert text("lost (Triggered internally at ../aten/src/ATen/x.cpp:12.)") == "lost"
    assert len(on_one_line("x" * 1000, UserWarning)) == LONGEST


def test_all_warnings_have_an_end_and_are_shown_as_before(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: shown.append(arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        heard = WarningLog()
        assert heard.fields() == {"warnings": None}
        for number in (*range(100), *range(100)):
            warnings.warn(f"{number:100}", stacklevel=1)
    assert len(shown) == 200
    assert len(heard.fields()["warnings"]) == MOST


def test_what_the_projects_own_methods_are_warned_of_is_no_message(run):
    seen = run(
        target="methods.vmap_hvp.hessian",
        method_options={"composition": "linearize", "chunk_size": 64},
        passes=("agreement",),
    )
    assert (seen["status"], seen["warnings"]) == ("ok", None)


def module(explain, **names):
    return types.SimpleNamespace(explain=explain, **names)


def refused(quantity):
    raise ValueError("of another kind")


def broken(quantity):
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (module(None), None),
        (module(lambda path, verbose: "of another kind"), None),
        (module(lambda: {"a": "tied"}), None),
        (module(lambda quantity: {"a": "fast"}, USUAL="fast"), None),
        (module(lambda quantity: {"a": "tied", "b": "fast", "c": "tied"}, USUAL="fast"), "not by fast: a, c (tied)"),
        (module(lambda quantity: {"a": "tied", "b": "tied"}, USUAL="fast"), "not by fast: all parameters (tied)"),
        (module(lambda quantity: {"a": "fast", "b": "tied"}), "a (fast); b (tied)"),
        (
            module(lambda quantity: {str(n): "x" if n else "y" for n in range(10)}, USUAL="y"),
            "not by y: 1, 2, 3, 4, 5, 6 and 3 more (x)",
        ),
        (module(refused), None),
        (module(broken), "explain raised RuntimeError: no"),
        (module(lambda inputs, quantity: {inputs: quantity}), "all parameters (diagonal)"),
    ],
)
def test_explanations_are_one_line(module, text):
    assert explained(module, {"inputs": "w", "quantity": "diagonal", "loss": None}) == text


def test_warnings_and_explanations_stand_with_the_row(frame_of):  # noqa: F811
    frame = frame_of(
        [
            cell("a", warnings=f"{BROADCAST}. This will likely lead to incorrect results"),
            cell("b", warnings="UserWarning: a performance drop", explained="not by products: w (tied)"),
            cell("c"),
        ]
    )
    rows = readable(Analysis(frame)).set_index("method")
    assert rows["status"].to_dict() == {"a": "ok, warned", "b": "ok", "c": "ok"}
    assert rows["message"]["a"].startswith(BROADCAST)
    assert rows["message"]["b"] == "UserWarning: a performance drop; not by products: w (tied)"
    assert "target size" in shown(frame)
    assert "warned: Python or torch warned" in markdown(Analysis(frame))
    section = next(section for section in summary(Analysis(frame)) if "Warned" in section.title)
    assert section.sentences[0].startswith(f"1 cells on mlp: {BROADCAST}")
    assert len(section.sentences) == 1
    assert "warned: torch warned that" in document(cell_tables(Analysis(frame)))
    assert not any("Warned" in section.title for section in summary(Analysis(frame_of([cell("c"), cell("d")]))))


def test_a_logged_scalar_is_no_doubt(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: None)
    heard = WarningLog()
    value = torch.ones(1, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        float(value.sum())
    assert heard.fields() == {"warnings": None}
    said = "UserWarning: Converting a tensor with requires_grad=True to a scalar may lead to unexpected behavior."
    assert not re.search(DOUBT, said, re.IGNORECASE)
