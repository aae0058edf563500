"""approximations.md: what each approximation of a matrix costs, how far off it is, and which are worth their cost."""

from __future__ import annotations

import math
from collections.abc import Callable

from pandas import DataFrame, Series

from harness.analysis.approximations import Compared, compared
from harness.analysis.table import Analysis
from harness.report.readable import CONTENDED, MIB
from harness.text import duration, escaped, listed, significant

MEANING = """Time: median of a call, in which the whole matrix (P, P) is written out; over exact: over the time of the \
fastest method whose matrix is exact. Error: Frobenius distance from the true matrix over its norm; cosine: of the \
angle between the two. Newton error: distance of the damped Newton step from the true one, over that one's length; \
log det error: log |det| of the damped matrix less that of the damped true one, divided by P. Damping: {damping}. In \
bold: faster than the fastest exact method and nearer than zeros (error 1), and no other approximation has both less \
time and less error."""
NOT_WORTH = "None is worth its cost."


def markdown(analysis: Analysis) -> str | None:
    """A table for each matrix that was approximated; None where none was."""
    found = compared(analysis)
    if not found:
        return None
    damping = listed([f"{value:g}" for value in sorted(set(analysis.cells["damping"].dropna()))])
    parts = ["# Approximations", MEANING.format(damping=damping)]
    for matrix in found:
        table = _texts(matrix).to_markdown(index=False, disable_numparse=True)
        parts += [f"## {escaped(matrix.title)}", _answer(matrix), table]
    if any(matrix.approximations["contended"].any() for matrix in found):
        parts.append(escaped(f"{CONTENDED.strip()} behind a time: measured under contention."))
    return "\n\n".join([*parts, f"{escaped(analysis.environment)}.\n"])


def _answer(matrix: Compared) -> str:
    """Which approximations are worth their cost, in a sentence."""
    exact = (
        "No exact method was timed." if matrix.exact is None else f"Exact: {matrix.exact}, {duration(matrix.exact_s)}."
    )
    worth = f"Worth their cost: {listed(matrix.worth)}." if matrix.worth else NOT_WORTH
    return escaped(f"{exact} {worth}")


def _texts(matrix: Compared) -> DataFrame:
    rows = matrix.approximations

    def written(column: str, text: Callable[[float], str]) -> Series:
        return Series([text(value) if math.isfinite(value) else "-" for value in rows[column]], rows.index)

    texts = DataFrame(
        {
            "method": rows["label"],
            "time": written("median_s", duration) + rows["contended"].map({True: CONTENDED, False: ""}),
            "over exact": written("median_s", lambda time: _over(time, matrix.exact_s)),
            "peak MiB": written("tensor_peak_bytes", lambda size: significant(size / MIB)),
            "error": written("relative_error", "{:.2g}".format),
            "cosine": written("cosine", "{:.3f}".format),
            "Newton error": written("newton_error", "{:.2g}".format),
            "log det error": written("logdet_error", "{:+.2g}".format),
        }
    ).map(escaped)
    texts["method"] = texts["method"].mask(rows["worth"], "**" + texts["method"] + "**")
    return texts


def _over(time_s: float, exact_s: float) -> str:
    return "-" if math.isnan(exact_s) else significant(time_s / exact_s)
