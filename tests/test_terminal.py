"""The table on the terminal: whole numbers at any width, few columns unless others are chosen."""

import io
import re

import pytest
from rich.console import Console

from harness.analysis.table import Analysis
from harness.report.command import main
from harness.report.terminal import terminal
from tests.test_report import cell, failed, frame_of, shown, stored, sweep  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

ERROR = re.compile(r"\d\.\de-\d\d")


def on_terminal(frame, width, columns=None):
    """What a terminal of that many columns shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    terminal(Analysis(frame), console, columns)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_are_whole_at_any_width(frame_of, width):  # noqa: F811
    starved = {"sampling_wall_s": 1.0, "sampling_cpu_s": 0.5}
    long = "autograd_functional_vectorized chunk_size=auto strategy=forward"
    records = [
        cell(method, 8, problem=problem, dtype=dtype, times_s=[0.0412], relative_error=7.4e-5, **starved)
        for method in ("vmap_hvp", long)
        for problem in ("mlp_layernorm_affine", "transformer_2000")
        for dtype in ("float32", "float64")
    ]
    text = on_terminal(frame_of(records), width)
    table = text[text.index("hessian, cpu") :]
    assert max(map(len, text.splitlines())) <= width
    assert table.count("7.4e-05") == table.count("41.2 ms *") == len(records)
    assert "".join(table.split()).count("vmap_hvp") == 4


def test_few_columns_at_first_and_what_is_the_same_above_them(frame_of):  # noqa: F811
    lines = on_terminal(frame_of(sweep()), 80).splitlines()
    title = lines.index("mlp, hessian, cpu, float32")
    assert lines[title + 2].split() == ["P", "method", "status", "time", "MiB", "error"]
    assert any(line.split() == ["517", "naive_loop", "timeout", "-", "-", "-"] for line in lines)


def test_settings_that_differ_are_titles_of_sections(frame_of):  # noqa: F811
    records = [cell(method, threads=threads) for method in ("a", "b") for threads in (1, 2)]
    lines = shown(frame_of(records)).splitlines()
    table = lines[lines.index("mlp, P=133, hessian, cpu, float32") :]
    assert [line for line in table if line.startswith("threads")] == ["threads 1", "threads 2"]


def test_one_method_on_several_problems_is_in_the_title(frame_of):  # noqa: F811
    lines = shown(frame_of([cell(problem=problem) for problem in ("mlp", "cnn")])).splitlines()
    assert lines[0] == "P=133, hessian, vmap_hvp, cpu, float32"
    assert [line.split()[0] for line in lines[3:5]] == ["cnn", "mlp"]


def test_one_cell_has_the_same_columns(frame_of):  # noqa: F811
    lines = shown(frame_of([cell()])).splitlines()
    assert lines[2].split() == ["method", "status", "time", "MiB", "error"]
    assert lines[3].startswith("vmap_hvp")


def test_columns_are_chosen_by_their_headings(frame_of):  # noqa: F811
    frame = frame_of([cell(tensor_peak_bytes=5, output_bytes=2)])
    assert on_terminal(frame, 80, "outputs, method").splitlines()[1:3] == ["outputs  method  ", "    2.5  vmap_hvp"]


def test_all_columns_are_whole_even_where_they_do_not_fit(frame_of):  # noqa: F811
    text = on_terminal(frame_of(sweep()), 60, "all")
    assert "GEMMs" in text
    assert len(ERROR.findall(text[text.index("GEMMs") :])) == len(sweep()) - 1


def test_an_unknown_heading_is_one_line_that_names_the_known_ones(tmp_path, capsys):
    assert main([str(stored(tmp_path / "run", sweep())), "--columns", "method,tim"]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("harness.report: there is no column 'tim'; these records have problem, P, ")
    assert said.out == ""


def test_messages_of_failures_follow(frame_of):  # noqa: F811
    text = on_terminal(frame_of([cell(), failed("oom", "b", 8)]), 80)
    assert "b oom: oom: it did not work" in text
