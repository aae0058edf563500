"""table.tex against its records, as text; and, where there is pdflatex, as pages."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import record, report
from harness.analysis.speedups import speedups
from harness.analysis.table import Analysis
from harness.report.command import main
from harness.report.figures.page_size import chosen
from harness.report.files import write
from harness.report.growth import growth
from harness.report.latex.cells import cell_tables
from harness.report.latex.document import PACKAGES, TWO_COLUMN_PACKAGES, document
from harness.report.latex.floats import LINES
from harness.report.latex.text import breakable, longest_piece, printed, tex
from harness.report.speedups import speedup_table
from tests.grown import grown, loaded
from tests.test_report import HOSTILE, METHODS, WIDTHS, cell, failed, frame_of, misspelt, sweep  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("error")

BASELINES = Path(report.__file__).parents[2] / "results" / "baselines"
NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?")  # what siunitx takes for one


def latex(analysis, two_column=False):
    return document(cell_tables(analysis), two_column)


def tables(text):
    """Of each longtable: its caption, label, the types of its columns, its headings and the cells of its rows."""
    found = []
    for body in re.findall(r"\\begin\{xltabular\}\{\\linewidth\}(.*?)\\end\{xltabular\}", text, re.DOTALL):
        columns = re.findall(r"S\[[^]]*\]|>\{[^}]*\}(?:X|p\{5em\})|[lr]", body.split("\n")[0])
        caption, label = re.search(r"\\caption\{(.*)\} \\label\{(.*)\} ", body).groups()
        lines = body.partition("\\endlastfoot\n")[2].strip().splitlines()
        assert all(line.endswith(r" \\") for line in lines)
        rows = [[entry.strip() for entry in line[:-3].split(" & ")] for line in lines]
        head = re.search(r"\\toprule\n(.*) \\\\", body)[1].split(" & ")
        assert {len(head), *map(len, rows)} == {len(columns)}
        found.append((caption, label, columns, [entry.strip("{}") for entry in head], rows))
    return found


def bold(rows):
    return [[plain for entry in row if (plain := entry.removeprefix(r"\bfseries ")) != entry] for row in rows]


def test_the_best_right_time_of_each_size_is_bold(frame_of):  # noqa: F811
    records = [cell("quick", width, times_s=[1e-3], status="wrong") for width in WIDTHS]
    records += [cell("right", width, times_s=[width / 1000]) for width in WIDTHS]
    records += [cell("slow", width, times_s=[1.0]) for width in (*WIDTHS, 64)]
    ((_, _, _, head, rows),) = tables(latex(Analysis(frame_of(records))))
    marked = [(row[head.index("method")], found) for row, found in zip(rows, bold(rows), strict=True) if found]
    assert marked == [*(("right", [text]) for text in ("4.00", "8.00", "16.0", "32.0")), ("slow", ["1000"])]
    sizes = [16 * width + 5 for width in (*WIDTHS, 64)]
    assert [row[0] for row in rows if row[0]] == [str(sizes[0]), *(rf"\midrule {size}" for size in sizes[1:])]


def test_settings_and_problems_are_tables_of_their_own_with_labels_of_their_own(frame_of):  # noqa: F811
    records = [cell(problem=problem, dtype=dtype) for problem in ("a b", "a-b") for dtype in ("float32", "float64")]
    found = tables(latex(Analysis(frame_of(records))))
    assert [label for _, label, *_ in found] == [
        "tab:a-b-hessian-float32",
        "tab:a-b-hessian-float64",
        "tab:a-b-hessian-float32-2",
        "tab:a-b-hessian-float64-2",
    ]
    assert [len(bold(rows)[0]) for *_, rows in found] == [1, 1, 1, 1]


def test_the_caption_names_what_numbers_depend_on(frame_of):  # noqa: F811
    ((caption, *_),) = tables(latex(Analysis(frame_of(sweep()))))
    assert all(
        text in caption
        for text in ("mlp", "hessian", "torch 2.13.0", "EPYC", "threads 1", "allocator default", "float32")
    )


def test_each_table_has_a_caption_of_its_own_that_tells_its_setting(frame_of):  # noqa: F811
    settings = [
        {},
        {"device": "cuda", "gpu": "H100"},
        {"interpreter": "/py", "torch": "2.13.0"},
        {"threads": 2},
        {"code": "/old", "commit": "1a2b3c4d5e"},
        {"subset": 4},
        {"memory_limit_gb": 1.0},
    ]
    titles = [
        caption.partition("$P=")[0]
        for caption, *_ in tables(latex(Analysis(frame_of([cell(**setting) for setting in settings]))))
    ]
    assert len(set(titles)) == len(settings)
    for setting in ("cuda", "interpreter /py", "threads 2", "commit 1a2b3c4d", "subset=4", "memory_limit 1 GB"):
        (title,) = (title for title in titles if breakable(setting) in title)
        assert title.startswith("mlp, hessian")


def test_a_long_name_may_be_broken(frame_of):  # noqa: F811
    ((*_, rows),) = tables(
        latex(
            Analysis(frame_of([cell("one_two", method_options='{"a": 1}'), cell("one_two", method_options='{"a": 2}')]))
        )
    )
    assert rows[0][0] == r"one\_\allowbreak{}two a=\allowbreak{}1"


def test_intervals_stand_only_where_several_processes_ran(frame_of):  # noqa: F811
    rounds = [cell(round=number, times_s=[float(number)] * 3) for number in (1, 2, 3)]
    ((caption, _, _, head, rows),) = tables(latex(Analysis(frame_of([*rounds, cell("once", times_s=[7.0])]))))
    assert [row[head.index("time (ms)") :][:3] for row in rows] == [
        [r"\bfseries 2000", "1000", "3000"],
        ["7000", "{--}", "{--}"],
    ]
    assert "interval" in caption
    ((caption, _, _, head, _),) = tables(latex(Analysis(frame_of(sweep()))))
    assert "from" not in head
    assert "interval" not in caption
    assert "gradients: " in caption
    assert "contended" not in caption


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("oom", "out of memory"),
        ("timeout", "over the time limit"),
        ("nonfinite", "not finite"),
        ("error", "failed"),
        ("crashed", "crashed"),
        ("unsupported", "unsupported"),
    ],
)
def test_failures_are_words(frame_of, status, word):  # noqa: F811
    ((_, _, columns, _, rows),) = tables(latex(Analysis(frame_of([cell(), failed(status, width=8)]))))
    (row,) = (row for row in rows if "naive" in row[0])
    assert row[-1] == word
    assert {entry for entry, column in zip(row, columns, strict=True) if column.startswith("S")} == {"{--}"}


def test_numbers_fit_their_columns(frame_of):  # noqa: F811
    odd = [
        cell("tiny", tensor_peak_bytes=4),
        cell("exact", relative_error=0.0),
        cell("far", relative_error=1.5e-120),
        cell("endless", times_s=[float("inf")]),
    ]
    text = latex(Analysis(frame_of([*sweep(), *odd, cell("many", round=1), cell("many", round=2)])))
    ((_, _, columns, _, rows),) = tables(text)
    for place, column in enumerate(columns):
        if column.startswith("S"):
            whole, places, exponent = re.fullmatch(r"S\[table-format=(\d+)\.(\d+)(?:e-(\d+))?\]", column).groups()
            entries = [row[place].removeprefix(r"\bfseries ") for row in rows]
            parts = [NUMBER.fullmatch(entry).groups("") for entry in entries if entry != "{--}"]
            assert max(len(first) for first, _, _ in parts) == int(whole)
            assert max(len(second) for _, second, _ in parts) == int(places)
            assert max(len(third.lstrip("+-0")) for _, _, third in parts) == int(exponent or 0)


@pytest.mark.parametrize("character", list("\\{}$&#%_~^<>|\"'`-[]*\n\t\r\x00\x1b\u202e数é…"))
def test_a_name_is_no_command(character):
    """Whatever is special to TeX is so only as part of what `tex` writes."""
    written = tex(f"a{character}b")
    assert written.isascii()
    assert written.isprintable()
    known = r"\\text[a-z]+\{\}|\\[_&%$#{}]|\{(?:''|['\-\[\]*])\}"
    assert re.sub(known, "", written).isalnum() or character.isspace()
    assert len(set(map(tex, ("ab", f"a{character}b")))) == 2


def test_hostile_records_make_whole_tables(frame_of):  # noqa: F811
    end = r"\end{xltabular}\input{/etc/passwd} & \\ [9cm] %"
    frame = frame_of([cell(end), failed("error", HOSTILE, message=end), cell(problem=HOSTILE, dtype=end, cpu=HOSTILE)])
    text = latex(Analysis(frame))
    found = tables(text)
    assert sum(len(rows) for *_, rows in found) == 3
    assert text.count(r"\end{xltabular}") == len(found)
    assert text.count(r"\input") == 0
    assert text.isascii()
    assert all(re.fullmatch("tab:[a-z0-9-]+", label) for _, label, *_ in found)


@pytest.mark.parametrize(
    "records",
    [[cell()], [failed()], [misspelt()], [cell(times_s=None)], [cell(times_s=[float("inf")])]],
    ids=["one", "failed", "misspelt", "first only", "endless"],
)
def test_sparse_runs_make_tables(frame_of, records):  # noqa: F811
    ((*_, rows),) = tables(latex(Analysis(frame_of(records))))
    assert len(rows) == 1


def test_growth_crossovers_what_fits_and_speed_ups_are_tables(tmp_path):
    slow, fast = (grown(*way, rounds=3) for way in (("naive_loop", 1.0, 1e-6 * 510), ("vmap_hvp", 2.0, 1e-6)))
    flat = grown("a_b", 1.0, 1.0, tensor_peak_bytes=10**6)
    frame = loaded(tmp_path, [*slow, *fast, *flat])
    exponents, crossed, fitting = tables(document(growth(Analysis(frame), 0.2).tables()))
    assert [label for _, label, *_ in (exponents, crossed, fitting)] == [
        "tab:growth-mlp",
        "tab:crossovers-mlp",
        "tab:fits-mlp",
    ]
    assert all(": mlp. " in caption for caption, *_ in (exponents, crossed, fitting))
    assert exponents[4][:3] == [
        [r"a\_\allowbreak{}b", "time", "5", "1.00", "1.00", "1.00"],
        ["", "tensor peak", "5", "0.00", "0.00", "0.00"],
        [r"\midrule naive\_\allowbreak{}loop", "time", "5", "1.00", "1.00", "1.00"],
    ]
    assert crossed[4] == [[r"naive\_\allowbreak{}loop", r"vmap\_\allowbreak{}hvp", "510", "400", "800", "3"]]
    assert [row[:3] + row[5:] for row in fitting[4]] == [
        [r"a\_\allowbreak{}b", "tensor peak", "{--}", "does not grow measurably"],
        [r"naive\_\allowbreak{}loop", "tensor peak", "16000", "fit followed no further"],
        [r"vmap\_\allowbreak{}hvp", "tensor peak", "5000", ""],
    ]
    ((caption, label, _, head, rows),) = tables(
        document([speedup_table(speedups(Analysis(frame), "a_b"), Analysis(frame), "a_b")])
    )
    assert caption.startswith(r"Times as fast as a\_b: mlp, hessian. ")
    assert (label, head[1:]) == ("tab:speedups-mlp", ["method", "times as fast", "from", "to", "rounds"])
    assert [row[0] for row in rows][:3] == ["100", "", r"\midrule 200"]
    assert bold(rows)[:2] == [[], ["10000"]]


def test_hostile_records_make_whole_tables_of_growth(tmp_path):
    end = r"\end{xltabular}\input{/etc/passwd} & \\ [9cm] %"
    frame = loaded(tmp_path, [entry for name in (end, HOSTILE, "123", "٣") for entry in grown(name, 1.5, problem=end)])
    analysis = Analysis(frame)
    text = document([*growth(analysis, 8.0).tables(), speedup_table(speedups(analysis, end), analysis, end)])
    assert [len(rows) for *_, rows in tables(text)] == [8, 1, 15]
    assert text.count(r"\input") == 0
    assert text.isascii()


def float_rows(text):
    """The environment, the title (of a continued float: none) and the rows of each float."""
    found = []
    for environment, body in re.findall(r"\\begin\{(table\*?)\}(.*?)\\end\{table\*?\}", text, re.DOTALL):
        title = re.search(r"\\caption\{(.*)\}\n\\label", body)
        lines = body.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].splitlines()
        assert all(line.endswith(r" \\") for line in lines)
        found.append((environment, title and title[1], [line[:-3].split(" & ") for line in lines]))
    return found


def methods_at(widths, count, name="a"):
    return [cell(f"{name}{number}", width, times_s=[1.0 + number]) for width in widths for number in range(count)]


def test_in_two_columns_a_narrow_table_takes_one_of_them_and_a_wide_one_both(frame_of):  # noqa: F811
    for name, environment in (("short", "table"), (60 * "x", "table"), (20 * "words ", "table*")):
        ((found, title, _),) = float_rows(latex(Analysis(frame_of([cell(name)])), two_column=True))
        assert (found, title) == (environment, "mlp, hessian, $P=133$")


def test_a_float_ends_between_sizes_and_says_that_it_continues(frame_of):  # noqa: F811
    text = latex(Analysis(frame_of(methods_at((4, 8, 16), 20))), two_column=True)
    (_, _, first), (_, title, second) = float_rows(text)
    assert ([row[0] for row in first if row[0]], len(first)) == (["69", r"\midrule 133"], 40)
    assert ([row[0] for row in second if row[0]], len(second)) == (["261"], 20)
    assert title is None
    assert text.count(r"\tablename~\thetable{} (continued)") == 1
    assert text.count("Time: median") == 1, "notes stand below the last"
    assert [len(row) for row in bold(first + second) if row] == [1, 1, 1]


def test_a_size_higher_than_a_page_is_split_and_named_again(frame_of):  # noqa: F811
    text = latex(Analysis(frame_of([*methods_at((4,), 60), *methods_at((8,), 3)])), two_column=True)
    (_, _, first), (_, _, second) = float_rows(text)
    assert len(first) == LINES
    assert [row[0] for row in second if row[0]] == ["69", r"\midrule 133"]


def test_names_on_several_lines_count_as_several(frame_of):  # noqa: F811
    text = latex(Analysis(frame_of(methods_at((4,), 40, 60 * "name "))), two_column=True)
    assert len(float_rows(text)) > 1


def test_families_are_one_table_against_p(frame_of):  # noqa: F811
    same = {"problem_target": "harness.problems.networks.mlp"}
    records = [cell(problem=f"mlp_{params}", params=params, **same) for params in (500, 2000)]
    ((_, title, rows),) = float_rows(latex(Analysis(frame_of(records)), two_column=True))
    assert (title, [row[0] for row in rows]) == ("mlp, hessian", ["500", "2000"])


def test_hostile_and_sparse_records_make_whole_floats(frame_of):  # noqa: F811
    end = r"\end{table}\input{/etc/passwd} & \\ [9cm] %"
    odd = [cell(end), failed("error", HOSTILE, message=end), misspelt(), cell(problem=HOSTILE, times_s=[0.0])]
    text = latex(Analysis(frame_of(odd)), two_column=True)
    assert sum(len(rows) for *_, rows in float_rows(text)) == 4
    assert (text.count(r"\input"), text.isascii()) == (0, True)


def test_the_command_writes_two_column_files(tmp_path):
    loaded(tmp_path / "run", [*grown("a", 1.5), *grown("b", 2.0)])
    arguments = [str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--memory_gb", "8", "--baseline", "a"]
    assert main([*arguments, "--two-column"]) == 0
    for name in ("table", "growth", "speedups"):
        text = (tmp_path / "out" / f"{name}.tex").read_text()
        assert r"\begin{table" in text
        assert "xltabular" not in text
    assert "--two-column" in json.loads((tmp_path / "out" / "report.json").read_text())["command"]


def test_the_length_of_printed_text_is_that_of_the_name():
    name = "one_two~three/4" + 30 * "x" + " [-]"
    assert printed(breakable(name)) == len(name)
    assert longest_piece(breakable(name)) == 20


NEEDS_TEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with siunitx and xltabular")
ODD = "\\".join("{}$&#%_~^<>|\"'`-[]*")


@pytest.fixture
def written(frame_of, tmp_path):  # noqa: F811
    """The tables of two baselines and of hostile names, written into folders by name; `two_column` is the option."""

    def write_all(two_column):
        names = HOSTILE, " ".join(map(chr, range(32, 127))), 60 * "x"
        frames = {
            "quick": record.load(BASELINES / "quick.jsonl"),
            "hvp": record.load(BASELINES / "hvp_paper.jsonl"),
            "hostile": frame_of([cell(name, problem=ODD, dtype=ODD) for name in names]),
        }
        for name, frame in frames.items():
            medium = chosen("paper", 3.3 if two_column else 4.7)
            write(Analysis(frame), tmp_path / name, medium, frame["label"].iloc[-1], 8.0, two_column)

    return write_all


def compiled(folder, text):
    """What pdflatex says of a paper at its last run, in which nothing sticks out and nothing is undefined."""
    (folder / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper"]
    for _ in range(3):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)]
    assert max(wide, default=0) < 3, done.stdout
    assert "There were undefined references" not in done.stdout
    return done.stdout


@pytest.mark.slow
@NEEDS_TEX
def test_a_paper_compiles_with_the_tables_and_figures_of_two_baselines(written, tmp_path):
    written(two_column=False)
    compiled(
        tmp_path,
        rf"""\documentclass{{article}}
\usepackage{{{PACKAGES},graphicx}}
\begin{{document}}
\input{{quick/table}} \input{{hvp/table}} Table~\ref{{tab:mlp-layernorm-hessian}}.

\input{{quick/growth}} \input{{quick/speedups}} Table~\ref{{tab:growth-mlp-layernorm}}.

\noindent\includegraphics{{quick/time_against_size}}

\noindent\includegraphics{{quick/speedup_against_size}}

\noindent\includegraphics{{quick/time_against_memory}}

\input{{hostile/table}}
\end{{document}}
""",
    )


@pytest.mark.slow
@NEEDS_TEX
@pytest.mark.parametrize("style", ["IEEEtran", "acmart"])
def test_a_paper_of_two_columns_compiles_with_floats(written, tmp_path, frame_of, style):  # noqa: F811
    if not subprocess.run(["kpsewhich", f"{style}.cls"], capture_output=True).stdout:
        pytest.skip(f"needs {style}.cls")
    written(two_column=True)
    many = [cell(f"{name}_of_a_method", width) for width in range(8) for name in map(str, range(60))]
    problems = [cell(problem=f"problem {number}") for number in range(80)]
    (tmp_path / "many.tex").write_text(latex(Analysis(frame_of([*many, *problems])), two_column=True))
    options = {"IEEEtran": "conference", "acmart": "sigconf,nonacm"}[style]
    said = compiled(
        tmp_path,
        rf"""\PassOptionsToPackage{{expansion=false}}{{microtype}} % acmart loads it; bitmap fonts cannot expand
\documentclass[{options}]{{{style}}}
\usepackage{{{TWO_COLUMN_PACKAGES},graphicx}}
\begin{{document}}
\title{{Hessians}}
\author{{A. Author}}
\maketitle
\input{{quick/table}} \input{{hvp/table}} Table~\ref{{tab:mlp-layernorm-hessian}}.

\input{{quick/growth}} \input{{quick/speedups}} Table~\ref{{tab:growth-mlp-layernorm}}.

\begin{{figure}}\includegraphics[width=\linewidth]{{quick/time_against_size}}\end{{figure}}

\input{{hostile/table}} \input{{many}}
\end{{document}}
""",
    )
    assert "Float too large" not in said
