"""The command `python -m harness.report`: the table of some runs on the terminal and, with --out, their report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import record
from harness.analysis.emphasis import emphasised
from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.figures.page_size import STYLES, chosen, inches
from harness.report.readable import ALL, MEASURED
from harness.report.terminal import captured

STATUS = """Exit status: 0; 1 where a file is no record that can be read, which is named, and the rest is reported; 2
where no record can be read, nothing can be written or an argument is wrong."""

DASHED = {"no_caption": "no-caption", "two_column": "two-column"}
# Options of the files.
OF_FILES = ("memory_gb", "style", "width", "highlight", "no_caption", "rings", "two_column")


def main(arguments: Sequence[str] | None = None) -> int:
    """With --out write the report on the named runs, and print their table; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not all(options.runs) or options.out == Path():
        parser.error("RUN and DIR are paths; an empty one was given (the current directory is .)")
    if options.out is None and any(getattr(options, name) for name in OF_FILES):
        names = ", ".join(f"--{DASHED.get(name, name)}" for name in OF_FILES)
        parser.error(f"{names} are of the files that --out DIR writes; give it too")
    try:
        analysis = Analysis(record.load(*options.runs))
        for remark in record.remarks(analysis.frame):
            print(f"harness.report: {remark}", file=sys.stderr)
        emphasised(analysis, options.baseline, options.highlight)  # raises for a name that no record has
        table = captured(analysis, options.columns, options.baseline)
        try:
            written = _write(analysis, options) if options.out else []
        finally:  # the files come first: printing may wait for its reader
            print(table, end="")
        for path in written:
            print(path)
    except (record.RecordError, OSError, ValueError) as error:
        print(f"harness.report: {plain(error)}", file=sys.stderr)
        return 2
    return 1 if analysis.frame.attrs["skipped"] else 0


def _write(analysis: Analysis, options: argparse.Namespace) -> list[Path]:
    """Write the report; its files."""
    from harness.report.files import write  # imports matplotlib and seaborn, which takes a second or two

    return write(
        analysis,
        options.out,
        chosen(options.style, options.width, not options.no_caption, options.rings),
        options.baseline,
        options.memory_gb,
        options.two_column,
        options.highlight,
    )


def _parser() -> argparse.ArgumentParser:
    measured = ", ".join(heading for heading, *_ in MEASURED)
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Tables and figures from records.", epilog=STATUS
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, a record.json or a baseline (*.jsonl)")
    parser.add_argument(
        "--columns",
        metavar="HEADINGS",
        help=f"of the table on the terminal, separated by commas, or {ALL}: method, P, status, {measured}, ...",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report here")
    parser.add_argument("--style", choices=STYLES, help="of the figures: text and lines for a paper or a talk")
    parser.add_argument("--width", type=inches, help="of the figures, such as 8.5cm or 3.3in (alone: of a paper's)")
    parser.add_argument("--baseline", metavar="METHOD", help="compare all others with this method")
    parser.add_argument(
        "--highlight", action="append", default=[], metavar="METHOD", help="draw it in colour (may be given again)"
    )
    parser.add_argument("--no-caption", action="store_true", help="write captions as text beside the figures")
    parser.add_argument("--rings", action="store_true", help="mark what was contended in a paper's figures too")
    parser.add_argument("--memory_gb", type=gigabytes, metavar="GB", help="show the largest P that fits into so much")
    parser.add_argument("--two-column", action="store_true", help="LaTeX tables as floats for pages of two columns")
    return parser


def gigabytes(text: str) -> float:
    """A size of memory; raises argparse.ArgumentTypeError for one that is not above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a size in GB above 0")
    return float(text)
