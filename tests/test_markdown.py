"""What GitHub shows of Markdown out of hostile records: whole files, parsed. markdown-it comes with rich."""

import re

import pytest
from markdown_it import MarkdownIt

from harness.analysis.table import Analysis
from harness.record import plain
from harness.report import coverage_table
from harness.report.markdown import markdown
from harness.text import escaped
from tests.test_report import cell, failed, frame_of  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "![x](http://e/p.png)",
    "[x](http://e) <http://e>",
    "[x]: http://e",
    "a | b \\| c \\",
    "`code` and ``more",
    "*a* **b** _a_ __b__ _a_b_ ~~c~~ ~d~",
    "&lt;b&gt; &copy; &#8203;",
    "# heading",
    "$x_1$ $$y$$",
)


def parsed(text):
    """The texts of all cells of tables and of all paragraphs, none of which has any markup."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert not {block.type for block in blocks} & {"html_block", "fence", "code_block", "blockquote_open", "hr"}
    found = []
    for block in blocks:
        for child in block.children or ():
            assert child.type in ("text", "text_special", "softbreak", "strong_open", "strong_close"), child
        found.append("".join(child.content for child in block.children or ()))
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_records_is_shown_as_it_is_by_both_tables(frame_of, text):  # noqa: F811
    everywhere = {"problem": text, "dtype": text, "cpu": text, "torch": text}
    records = [
        cell(text, **everywhere),
        cell(text, status="wrong", relative_error=0.5, cpu=text),
        failed("unsupported", text, problem=text, message=text),
        failed("oom", message=text, problem=text),
    ]
    shown = plain(text)
    for written in (markdown(Analysis(frame_of(records))), coverage_table.markdown(Analysis(frame_of(records)))):
        found = [entry.replace("\u200b", "") for entry in parsed(written)]
        assert shown in found
        assert any(entry.startswith("torch") and shown in entry for entry in found), "the line of the environment"
        assert not re.search(r"(?<!\\)\$", written), "a formula of GitHub's"


def test_the_tables_have_their_own_emphasis_only(frame_of):  # noqa: F811
    wrong = cell("a*", problem="p", status="wrong", relative_error=0.5)
    text = coverage_table.markdown(Analysis(frame_of([wrong, cell("b", problem="p")])))
    assert text.count("**50%**") == 1


@pytest.mark.parametrize(
    "name", ["vmap_hvp", "vmap_hvp chunk_size=8", "zoo/layer_norm", "EPYC 7763, 2 cores", "a-b->c"]
)
def test_ordinary_names_stay_as_they_are(name):
    assert escaped(name) == name


@pytest.mark.parametrize("text", ["@torch.compile", "see #12", "a@b"])
def test_nobody_is_mentioned(text):
    (shown,) = filter(None, parsed(escaped(text)))
    assert not re.search(r"[@#]\w", shown)
    assert shown.replace("\u200b", "") == text


def test_a_name_that_looks_like_a_number_is_none(frame_of):  # noqa: F811
    records = [
        failed(status, "1e5", problem=problem, message="none")
        for status, problem in (("oom", "007"), ("unsupported", "1e3"))
    ]
    found = parsed(coverage_table.markdown(Analysis(frame_of(records))))
    assert {"1e5", "007", "1e3"} <= set(found)
    assert not {"100000", "7", "1000"} & set(found)


def test_a_cut_cause_ends_no_table(frame_of):  # noqa: F811
    text = coverage_table.markdown(
        Analysis(frame_of([failed("oom", "a", message="x" * 109 + "|" * 9, problem="p"), cell("b")]))
    )
    (line,) = (line for line in text.splitlines() if line.startswith("| a ") and "xxx" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 5
