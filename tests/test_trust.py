"""What a record holds stays data, unless its reader trusts it."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import record, trust
from harness.config import CONF
from harness.reproduce.command import main
from harness.reproduce.script import script
from harness.reproduce.source import ReproduceError
from tests.reliability.foreign_records import CASES, JOB, reproduced, write_record

BASELINES = sorted((CONF.parent / "results" / "baselines").glob("*.jsonl"))
SLOWER = [name for name in CASES if "job" in name]  # about a second each, of which these are run
QUICK = [name for name in CASES if name not in SLOWER] + [
    "job: an interpreter by its whole path",
    "job: code behind a link",
    "job: a builder",
    "job of a selftest: an interpreter",
    "broken job: a number as a function",
    "broken job: a pipe",
]
TEXT = st.text() | st.text(alphabet="\"'\\{}\n\r\u2028#x", min_size=1, max_size=8)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_of_a_record_is_executed(name: str, tmp_path: Path) -> None:
    CASES[name](tmp_path)


def test_what_is_executed_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "EXECUTED").touch()
    with pytest.raises(AssertionError, match="executed"):
        reproduced(tmp_path)


def shape(source: str) -> str:
    """A program without its constants."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = None
    return ast.dump(tree)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(method=TEXT, problem=TEXT, torch=TEXT, option=TEXT)
def test_no_text_changes_the_statements_of_a_script(method: str, problem: str, torch: str, option: str) -> None:
    seen = JOB.fields() | {"status": "wrong", "torch": "2.0", "relative_error": 0.5}
    hostile = {"method": method, "problem": problem, "torch": torch}
    found = script(seen | hostile | {"method_options": json.dumps({"compile": option})}, trusted=True)
    assert shape(found) == shape(script(seen))
    assert ast.literal_eval(ast.get_source_segment(found, ast.parse(found).body[0]) or "").startswith(method)
    assert found.isascii()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(key=TEXT)
def test_no_key_that_is_not_an_option_is_written(key: str) -> None:
    for name, words in (("method_options", "has no option"), ("problem_options", "and raised")):
        with pytest.raises(ReproduceError, match=words) as raised:
            script(JOB.fields() | {"status": "ok", "torch": "2.0", "relative_error": None, name: json.dumps({key: 1})})
        assert str(raised.value).isprintable()


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_committed_records_name_only_what_is_ours(path: Path) -> None:
    named = {
        (seen["problem_target"], seen["problem_options"], seen["target"], seen["method_options"])
        for seen in record.records(path)
        if seen["problem_target"] and seen["target"]
    }
    for problem_target, problem_options, target, method_options in named:
        assert trust.foreign(problem_target, json.loads(problem_options), target, json.loads(method_options)) == []


def test_a_function_of_ones_own_takes_trust(tmp_path: Path, capsys) -> None:
    file = str(
        write_record(
            tmp_path, problem_target="tests.examples.custom_problem.my_problem", problem_options='{"hidden": 4}'
        )
    )
    assert main([file]) == 2
    assert capsys.readouterr().err == (
        "harness.reproduce: the record names tests.examples.custom_problem.my_problem, which is not part of the "
        "harness; pass --trust to import and run it: only do so for records that you made or trust\n"
    )
    assert main([file, "--trust"]) == 0
    assert "def my_problem(" in capsys.readouterr().out
