"""The report against the records it was made from: nothing lost, nothing moved, nothing that hostile text can break."""

import csv
import io
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pandas
import pytest
from matplotlib.text import Annotation
from rich.console import Console

from harness import record, report
from harness.analysis import contests, coverage, curves
from harness.analysis.intervals import interval
from harness.analysis.table import Analysis
from harness.report import csv as table_csv
from harness.report.command import main
from harness.report.figures import style
from harness.report.figures.canvas import save
from harness.report.figures.curves import error_against_size, memory_against_size, time_against_size
from harness.report.figures.fronts import time_against_memory
from harness.report.files import write
from harness.report.markdown import markdown
from harness.report.readable import MEASURED, readable
from harness.report.terminal import terminal
from harness.text import duration
from tests.drawing import AGAINST, above, caption_of, drawn, lines_of, names

pytestmark = pytest.mark.filterwarnings("error")

METHODS = ("create_graph_rows", "func_hessian", "naive_loop", "vmap_hvp", "vmap_hvp_reverse")
WIDTHS = (4, 8, 16, 32)


def cell(method="vmap_hvp", width=8, **changes):
    """A plausible ok record; times and bytes differ with the method and P."""
    params = 16 * width + 5
    factor = 1 + sum(map(ord, method)) % 7
    seconds = 1e-7 * factor * params**2
    return {
        "status": "ok",
        "problem": "mlp",
        "problem_options": json.dumps({"width": width, "norm": None}),
        "method": method,
        "method_options": "{}",
        "target": f"methods.{method}.hessian",
        "quantity": "hessian",
        "vectors": 1,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "allocator": "default",
        "seed": 0,
        "round": 0,
        "params": params,
        "first_s": 3 * seconds,
        "times_s": [0.9 * seconds, seconds, 1.3 * seconds],
        "gradient_s": [1e-4, 1e-4],
        "tensor_peak_bytes": 4 * factor * params**2,
        "process_peak_bytes": 5 * params**2,
        "output_bytes": 4 * params**2,
        "reference": "double_backward",
        "relative_error": factor * 1e-7,
        "worst_error": 1e-6,
        "asymmetry": 0.0,
        "nonfinite": 0,
        "tolerance": 1e-5,
        "torch": "2.13.0",
        "cpu": "EPYC",
    } | changes


def failed(status="timeout", method="naive_loop", width=32, **changes):
    """A record of a cell that ended before its time was known, so without P."""
    kept = (
        "problem",
        "problem_options",
        "method",
        "method_options",
        "quantity",
        "vectors",
        "device",
        "dtype",
        "threads",
        "allocator",
        "seed",
        "round",
    )
    whole = cell(method, width)
    message = f"{status}: it did not work; raise limit_s, or take a smaller problem or a faster method" + 9 * " again"
    return {name: whole[name] for name in kept} | {"status": status, "message": message} | changes


def misspelt():
    return {"status": "error", "message": "could not find method/vmp_hvp", "problem": "mlp", "method": "vmp_hvp"}


def sweep():
    records = [cell(method, width) for method in METHODS for width in WIDTHS]
    records[METHODS.index("naive_loop") * 4 + 3] = failed()
    return records


def stored(folder, records):
    for number, entry in enumerate(records):
        record.write(entry, folder / f"cell{number:03}" / "record.json")
    return folder


@pytest.fixture
def frame_of(tmp_path):
    """The frame of records, written into a new run folder at each call."""
    numbers = itertools.count()
    return lambda records: record.load(stored(tmp_path / f"run{next(numbers)}", records))


def shown(frame, width=120):
    console = Console(file=io.StringIO(), width=width)
    terminal(Analysis(frame), console)
    return console.file.getvalue()


def cells_of(text):
    """The table of benchmark cells in table.md, which has the leaderboard before it."""
    return next(block for block in text.split("\n\n") if " status " in block.splitlines()[0])


def letters(figure, panel=0):
    """(status letter, x) of every mark above a panel."""
    return sorted(
        (line.get_marker().split("{")[-1][0], x)
        for line in figure.axes[panel].lines
        if str(line.get_marker()).startswith("$")
        for x in line.get_xdata()
    )


def run(*arguments):
    """In a process where every warning is an error, as a user runs it."""
    here = os.environ | {"PYTHONPATH": str(Path(report.__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-m", "harness.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=here)


def test_command_writes_every_file(tmp_path):
    run_folder = stored(tmp_path / "run", [*sweep(), misspelt()])
    (run_folder / "torn").mkdir()
    (run_folder / "torn" / "record.json").write_text('{"schema_version": 1, "sta')
    done = run(run_folder, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "torn" in done.stderr
    written = {
        "growth.md",
        "growth.tex",
        "index.html",
        "report.json",
        "table.csv",
        "table.md",
        "table.tex",
        *(f"{name}.{kind}" for name in (*AGAINST, "scaling") for kind in ("pdf", "png", "svg")),
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    assert all(path.stat().st_size > 100 for path in (tmp_path / "out").iterdir())
    assert "vmap_hvp_reverse" in done.stdout


def test_only_the_terminal_without_out_and_without_seaborn(tmp_path, capsys):
    run_folder = stored(tmp_path / "run", sweep())
    assert main([str(run_folder)]) == 0
    assert "timeout" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    code = (
        "import sys; from harness.report.command import main; main(sys.argv[1:]);"
        "print({'seaborn', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_folder)],
        capture_output=True,
        text=True,
        cwd=Path(report.__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"schema_version": 99}'])
def test_nothing_to_load_is_two(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("harness.report: ")
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_tables_have_every_record(frame_of):
    frame = frame_of([*sweep(), misspelt()])
    rows = list(csv.DictReader(io.StringIO(table_csv.csv(Analysis(frame)))))
    assert [(row["method"], row["status"], row["params"]) for row in rows] == [
        (method, status, "" if params != params else f"{params:.0f}")
        for method, status, params in zip(frame["method"], frame["status"], frame["params"], strict=True)
    ]
    assert [float(row["median_s"] or "nan") for row in rows] == pytest.approx(frame["median_s"].tolist(), nan_ok=True)
    lines = cells_of(markdown(Analysis(frame))).splitlines()
    assert "allocator" not in lines[0]  # that of the misspelt row is unknown, not another one
    assert sum(line.startswith("| mlp") for line in lines) == len(frame)
    (slow,) = (line for line in lines if "timeout |" in line)
    assert "| 517 |" in slow  # P is that of the other rows with the same options
    assert slow.count("timeout") == 1 + len(MEASURED) + 1  # status, every number, the message
    assert "…" in slow


def test_each_heading_of_the_csv_is_one_column(frame_of):
    frame = frame_of([cell(samples=64, warmup_s=[0.1, 0.2], events_s=[0.3], sketch=[1.0] * 32), failed()])
    (headings, *rows) = csv.reader(io.StringIO(table_csv.csv(Analysis(frame))))
    assert len(set(headings)) == len(headings)
    counts = [
        ("samples", "64", ""),
        ("time_samples", "3", "0"),
        ("warmup_samples", "2", "0"),
        ("event_samples", "1", "0"),
        ("gradient_samples", "2", "0"),
    ]
    assert [(name, *(row[headings.index(name)] for row in rows)) for name, *_ in counts] == counts
    assert not any(entry.startswith("[") for row in rows for entry in row)


def test_table_numbers(frame_of):
    shown = readable(
        Analysis(
            frame_of(
                [
                    cell(
                        times_s=[0.0412],
                        first_s=1.26,
                        tensor_peak_bytes=3 * 2**20,
                        output_bytes=2**20,
                        relative_error=0.0,
                    )
                ]
            )
        )
    )
    assert shown.iloc[0][["time", "first call", "gradients", "peak MiB", "outputs", "error"]].tolist() == [
        "41.2 ms",
        "1.26 s",
        "412",
        "3",
        "3",
        "0",
    ]
    assert [duration(seconds) for seconds in (2e-6, 9.999e-4, 0.9999, 123.4)] == ["2 µs", "1 ms", "1 s", "123 s"]


def test_table_is_sorted_by_time_within_a_size(frame_of):
    shown = readable(Analysis(frame_of(sweep())))
    assert shown["P"].astype(int).is_monotonic_increasing
    times = frame_of(sweep()).sort_values("median_s")
    assert list(shown["method"][shown["P"] == "69"]) == list(times["method"][times["params"] == 69])


def test_rounds_are_one_row_and_threads_are_told_apart_in_tables(frame_of):
    rounds = [cell(round=number, times_s=[float(number)] * 3) for number in (1, 2, 3)]
    shown = readable(Analysis(frame_of([*rounds, cell(threads=2, times_s=[7.0])])))
    columns = ["threads", "rounds", "time", "from", "to"]
    assert shown[columns].values.tolist() == [["1", "3", "2 s", "1 s", "3 s"], ["2", "1", "7 s", "7 s", "7 s"]]


def test_a_round_that_failed_is_not_hidden_by_the_others(frame_of):
    shown = readable(
        Analysis(frame_of([cell(), failed("crashed", "func_hessian", 4, round=1), cell("func_hessian", 4)]))
    )
    assert sorted(shown["status"]) == ["crashed", "ok"]


def test_the_interval_over_processes_is_that_of_order_statistics():
    values = pandas.Series(range(1, 11), dtype=float)
    assert interval(values) == (2.0, 9.0)  # binomial(10, 1/2): P(2 <= below <= 8) = 97.9 %, one less 89 %
    assert interval(values[:3]) == (1.0, 3.0)


def test_contention_is_flagged(frame_of):
    starved = cell(sampling_wall_s=1.0, sampling_cpu_s=0.5)
    calm = cell("other", sampling_wall_s=1.0, sampling_cpu_s=0.99, cpu_pressure=0.01)
    frame = frame_of([starved, calm])
    flagged = readable(Analysis(frame)).set_index("method")["time"].str.endswith("*")
    assert flagged.sum() == 1
    assert not flagged["other"]
    assert "measured under contention" in caption_of(time_against_size(Analysis(frame)))
    assert "measured under contention" not in caption_of(memory_against_size(Analysis(frame)))
    assert "* measured under contention" in shown(frame)
    assert "measured under contention" in markdown(Analysis(frame))


@pytest.mark.parametrize(
    ("measured", "contended"),
    [
        ({"sampling_cpu_s": 1.6, "sampling_waiting_s": 0.5}, True),  # two threads on one core and more
        ({"sampling_cpu_s": 1.6, "sampling_waiting_s": 0.01, "cpu_pressure": 0.9}, False),  # others waited, not we
        ({"sampling_cpu_s": 0.5, "sampling_waiting_s": 0.01}, True),
        ({"sampling_cpu_s": 1.6, "cpu_pressure": 0.9}, True),  # before schema 7
        ({"sampling_cpu_s": 1.6, "cpu_pressure": 0.01}, False),
        ({"sampling_cpu_s": 1.6}, False),
        ({"device": "cuda", "throttle_reasons": [0x1, 0x2, 0x10, 0x100]}, False),  # idle, or as its user set it
        ({"device": "cuda", "throttle_reasons": [0x0] * 9 + [0x4]}, False),
        ({"device": "cuda", "throttle_reasons": [0x1] * 8 + [0x4, 0x41]}, True),
        ({"device": "cuda", "throttle_reasons": [0x0], "sampling_waiting_s": 0.5}, True),
        ({"device": "cuda", "throttle_reasons": [0x0] * 9, "power_throttled_s": 0.05, "heat_throttled_s": 0.11}, True),
        ({"device": "cuda", "power_throttled_s": 0.1, "heat_throttled_s": 0.0}, False),
        ({"device": "cuda", "throttle_reasons": [0x4] * 9, "power_throttled_s": 0.0}, True),
    ],
)
def test_contention_is_that_a_thread_waited_or_a_gpu_throttled(frame_of, measured, contended):
    (flagged,) = frame_of([cell(sampling_wall_s=1.0, gpu_watched_s=1.0, **measured)])["contended"]
    assert flagged == contended


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"throttle_reasons": [0x0, 0x4], "power_throttled_s": 0.8, "heat_throttled_s": 0.1}, "power 80%, heat 10%"),
        ({"throttle_reasons": [0x8 | 0x40], "heat_throttled_s": 0.5}, "heat 100%, hardware 100%"),
        ({"throttle_reasons": [0x4, 0x0]}, "power 50%"),
        ({"power_throttled_s": 0.3, "gpu_watched_s": 5.0}, None),  # results took longer to look at than to compute
        ({"throttle_reasons": [0x1] * 10, "power_throttled_s": 0.05}, None),
    ],
)
def test_the_message_says_what_throttled_a_gpu(frame_of, measured, words):
    frame = frame_of([cell(**{"device": "cuda", "sampling_wall_s": 1.0, "gpu_watched_s": 1.0} | measured)])
    (message,) = readable(Analysis(frame))["message"]
    assert message == (f"the GPU throttled: {words}" if words else "")


def test_a_gpu_that_reports_nothing_is_not_known_to_throttle(frame_of):
    (row,) = frame_of([cell(device="cuda", sampling_wall_s=1.0)]).to_dict("records")
    assert math.isnan(row["throttled"])
    assert (row["throttled_by"], row["contended"]) == (None, False)


@pytest.mark.parametrize("modes", [(None, "compiled"), (None, "autocast", "deterministic")])
def test_modes_of_torch_are_kept_apart(frame_of, modes):
    analysis = Analysis(frame_of([cell(mode=mode) for mode in modes]))
    told = [mode or "null" for mode in modes]
    assert analysis.settings == ["mode"]
    assert list(readable(analysis)["mode"]) == told
    assert len(contests.places(analysis)) == len(curves.panels(analysis)) == len(modes)
    assert [name.split()[-1] for name in coverage.methods_of(analysis.cells, analysis.settings)] == told
    assert f"mode {' / '.join(sorted(told))}" in analysis.environment


def test_a_mode_that_all_rows_have_is_told(frame_of):
    assert "mode compiled" in Analysis(frame_of([cell(mode="compiled")])).environment
    assert "mode" not in Analysis(frame_of([cell()])).environment


def test_the_first_call_does_not_tell_how_busy_a_gpu_is(frame_of):
    (row,) = frame_of([cell(device="cuda", times_s=None, first_s=9.0, gpu_busy_s=0.1)]).to_dict("records")
    assert math.isnan(row["gpu_busy"])
    assert row["median_s"] == 9.0


def test_a_row_whose_gpu_mostly_waits_is_launch_bound(frame_of):
    on_gpu = {"device": "cuda", "times_s": [0.01] * 3}
    records = [cell("vmap_hvp", gpu_busy_s=9.4e-3, **on_gpu), cell("naive_loop", gpu_busy_s=1e-3, **on_gpu)]
    table = readable(Analysis(frame_of(records))).set_index("method")["GPU busy"]
    assert (table["vmap_hvp"], table["naive_loop"]) == ("94%", "10%, launch-bound")
    assert "GPU busy" not in readable(Analysis(frame_of([cell()])))


def test_terminal_fits_and_tells_one_failure_in_full(frame_of):
    text = shown(frame_of(sweep()))
    assert max(map(len, text.splitlines())) <= 120
    assert "mlp, hessian, cpu, float32" in text
    assert text.count("timeout") >= 2
    long = "the method failed " * 30 + "at the very end"
    said = " ".join(shown(frame_of([failed("error", message=long)])).split())
    assert long in said


@pytest.mark.parametrize(
    ("name", "column", "scale"),
    [
        ("time_against_size", "median_s", 1e3),
        ("memory_against_size", "tensor_peak_bytes", 2**-20),
        ("error_against_size", "relative_error", 1.0),
    ],
)
def test_curves_are_the_records(frame_of, name, column, scale):
    frame = frame_of(sweep())
    found = lines_of(drawn(name, frame), frame)
    assert set(found) == set(METHODS)
    for label, (x, y) in found.items():
        rows = frame[(frame["label"] == label) & frame[column].notna()].sort_values("params")
        numpy.testing.assert_allclose(x, rows["params"])
        numpy.testing.assert_allclose(y, rows[column] * scale)


def test_time_against_memory(frame_of):
    frame = frame_of(sweep())
    figure = time_against_memory(Analysis(frame))
    x, y = lines_of(figure, frame)["func_hessian"]
    rows = frame[frame["label"] == "func_hessian"].sort_values("params")
    numpy.testing.assert_allclose(x, rows["tensor_peak_bytes"] / 2**20)
    numpy.testing.assert_allclose(y, rows["median_s"] * 1e3)
    assert above(figure) == ["timeout at P=517: naive_loop"]


def test_rounds_make_one_point_with_their_interval(frame_of):
    samples = [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]
    frame = frame_of([cell(round=number, times_s=times) for number, times in enumerate(samples)])
    figure = time_against_size(Analysis(frame))
    ((_, y),) = lines_of(figure, frame).values()
    assert list(y) == [4.0]
    (bar,) = figure.axes[0].collections[0].get_segments()
    assert bar[:, 1].tolist() == [2.0, 6.0], "of the processes' medians, not of their samples"


def test_failures_are_marked_at_their_size(frame_of):
    records = [
        *sweep(),
        failed("oom", "func_hessian", 4, round=1),
        failed("unsupported", "other", 16),
        misspelt(),
        cell("tensors", 8, tensor_peak_bytes=None),
    ]
    figure = time_against_size(Analysis(frame_of(records)))
    assert letters(figure) == [("M", 69), ("T", 517), ("U", 261)]
    assert above(figure) == ["func_hessian: out of memory", "naive_loop: timeout", "other: unsupported"]
    assert "P is unknown: 1 error" in caption_of(figure)
    assert ("?", 133) in letters(memory_against_size(Analysis(frame_of(records))))


def test_failures_lie_within_the_axes_width(frame_of):
    figure = time_against_size(Analysis(frame_of([cell(), failed("timeout", "vmap_hvp", 512, params=8197)])))
    low, high = figure.axes[0].get_xlim()
    assert low < 133 < 8197 < high


def test_wrong_rows_are_drawn_and_crossed(frame_of):
    frame = frame_of(
        [
            cell(),
            cell(width=16, status="wrong", relative_error=0.3),
            cell(width=32, status="nonfinite", relative_error=None),
        ]
    )
    figure = error_against_size(Analysis(frame))
    (cross,) = (line for line in figure.axes[0].lines if line.get_marker() == "X")
    assert "vmap_hvp\nwrong at 1 of 2 sizes" in names(figure)
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([261], [0.3])
    assert cross.get_markerfacecolor() == "none"
    assert letters(figure) == [("N", 517)]
    (cross,) = (line for line in time_against_size(Analysis(frame)).axes[0].lines if line.get_marker() == "X")
    assert list(cross.get_xdata()) == [261, 517]


def test_exact_zeros_lie_on_a_labelled_floor(frame_of):
    frame = frame_of([cell(width=4, relative_error=0.0), cell(width=8, relative_error=2e-8)])
    figure = error_against_size(Analysis(frame))
    ((_, y),) = lines_of(figure, frame).values()
    assert y.tolist() == [1e-9, 2e-8]
    assert {"exactly 0", "tolerance"} <= set(names(figure))
    assert {1e-9, 1e-5} <= {line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_xdata())}


def test_a_label_looks_the_same_in_every_figure(frame_of):
    frame = frame_of([*sweep(), *(cell(f"slow{number}", times_s=[1e3]) for number in range(9))])
    looks = style.styles(Analysis(frame))
    assert {label for label, look in looks.items() if look.emphasised} >= set(METHODS) - {"naive_loop"}
    for name in (*AGAINST, "scaling", "speedup_against_size"):
        figure = drawn(name, frame, baseline="func_hessian")
        for ax in figure.axes:
            for text in ax.texts:
                label = text.get_text().split("  ")[0]
                if label in looks and isinstance(text, Annotation):
                    assert text.get_color() == looks[label].text[0]
                    assert looks[label].colour in {line.get_color() for line in ax.lines}


def test_eight_of_many_methods_are_in_colour(frame_of):
    frame = frame_of([cell(f"method{number:02}", width) for number in range(30) for width in (4, 8, 16)])
    looks = [look for look in style.styles(Analysis(frame)).values() if look.emphasised]
    assert len(looks) == len({look.colour for look in looks}) == 8
    figure = time_against_size(Analysis(frame))
    assert len(names(figure)) == 8, "those in grey have names only where they are few"
    assert "Thin and grey: the other methods." in caption_of(figure)


def test_panels_for_dtypes_and_problems(frame_of):
    frame = frame_of(
        [
            cell(method, width, dtype=dtype, problem=problem, tolerance=tolerance)
            for method in METHODS
            for width in WIDTHS
            for problem in ("mlp", "cnn")
            for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12))
        ]
    )
    figure = error_against_size(Analysis(frame))
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [f"{p}, hessian, {d}" for p in ("cnn", "mlp") for d in ("float32", "float64")]
    for ax, tolerance in zip(figure.axes, (1e-5, 1e-12) * 2, strict=True):
        assert tolerance in [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    figure.draw_without_rendering()


def test_panels_for_options_that_are_no_size(frame_of):
    def options(width, norm, batch):
        return json.dumps({"width": width, "norm": norm, "batch": batch})

    by_norm = frame_of([cell(width=w, problem_options=options(w, n, 64)) for w in WIDTHS for n in (None, "layer")])
    titles = [ax.get_title("left") for ax in time_against_size(Analysis(by_norm)).axes]
    assert titles == ["mlp norm=layer, hessian", "mlp norm=null, hessian"]
    same_size = frame_of([cell(width=4, problem_options=options(4, None, batch), round=9) for batch in range(8)])
    titles = [ax.get_title("left") for ax in time_against_size(Analysis(same_size)).axes if ax.get_visible()]
    assert titles == [f"mlp batch={batch}, hessian" for batch in range(8)]


def test_five_panels_in_six_places_are_labelled(frame_of):
    figure = time_against_size(Analysis(frame_of([cell(problem=f"p{number}") for number in range(5)])))
    assert [ax.xaxis.label.get_visible() and ax.get_xlabel() != "" for ax in figure.axes] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    assert not figure.axes[5].get_visible()


@pytest.mark.parametrize(
    "records",
    [
        [cell()],
        [failed()],
        [misspelt()],
        [failed(status, width=w) for status in record.STATUSES[3:] for w in WIDTHS],
        [failed(params=517)],
        [cell(times_s=None)],
        [cell(relative_error=0.0, tensor_peak_bytes=0)],
        [cell(method) for method in METHODS],
    ],
    ids=["one", "one failed", "misspelt", "all failed", "one failed at a P", "first only", "zeros", "one P"],
)
def test_sparse_runs_make_whole_reports(frame_of, records):
    frame = frame_of(records)
    for name in AGAINST:
        figure = drawn(name, frame)
        figure.draw_without_rendering()
        empty = not frame["median_s"].notna().any()
        assert empty == any("nothing was measured" in text.get_text() for text in figure.axes[0].texts)
    cells = frame.astype(str).groupby(["problem_options", "label"], dropna=False).ngroups
    assert cells_of(markdown(Analysis(frame))).count("\n| ") == cells
    assert shown(frame)


HOSTILE = "<script>|[red]$x^$ _`*\\ \x1b[31m \n 数 é"


def test_hostile_text_survives(frame_of, tmp_path):
    frame = frame_of(
        [
            cell(HOSTILE),
            failed("error", HOSTILE, message=HOSTILE),
            cell("_hidden"),
            cell(problem=HOSTILE, dtype=HOSTILE, cpu=HOSTILE),
        ]
    )
    write(Analysis(frame), tmp_path / "out")
    with (tmp_path / "out" / "table.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["method"] for row in csv.DictReader(stream)][:2] == 2 * [HOSTILE.replace("\x1b", r"\x1b")]
    lines = cells_of((tmp_path / "out" / "table.md").read_text(encoding="utf-8")).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 4
    assert any(r"\<script>\|\[red\]\$x^\$" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    text = shown(frame, 300)
    assert "<script>|[red]$x^$" in text
    assert "\x1b" not in text
    labels = [label for panel in (0, 1) for label in names(time_against_size(Analysis(frame)), panel)]
    assert any(label.startswith(r"<script>|[red]\$x^\$") for label in labels)
    assert " _hidden" in labels


def test_same_frame_same_bytes(frame_of, tmp_path):
    frame = frame_of(sweep())
    first, second = (save(time_against_size(Analysis(frame)), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_frame_is_left_as_it_was(frame_of):
    frame = frame_of([*sweep(), misspelt()])
    before = frame.copy(deep=True)
    time_against_size(Analysis(frame))
    shown(frame)
    assert frame.equals(before)
