"""A survey as text for people, or as JSON for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from harness.advise.advice import ESTIMATE, Advice, Survey
from harness.advise.snippet import snippet
from harness.record.names import problem_name
from harness.text import duration, significant

HEADINGS = ("method", "time", "peak MB", "error", "timed P", "checked P")
OF_ESTIMATES = ("stated", "products")  # behind the others, where there is an estimate
STATED = (
    "stated: what an estimate states of its error, over its own size (half of a random one's 95 % interval; the "
    "residual of eigenvalues and inverse products; of a spectrum that of its moments); error: the true one"
)
GAP = "  "  # between columns


def as_json(survey: Survey) -> dict[str, Any]:
    """A survey as plain values.

    - `problem`, `quantity`, `device`, `dtype`, `precision` (null where only exact methods count): as configured;
      `params`: P.
    - `best`: the method with the least time that is right and fits, or null; `code`: Python that calls it, or null.
      Each time is of a single process, so that the order of close ones may be chance.
    - `methods`: the best first, each with `method`, `status`, `message`, `time_s`, `peak_bytes`, `fits` (whether the
      peak is below memory_gb), `error` (relative), `stated_error` (relative; null for an exact result), `products`
      (Hessian-vector products of an estimate, or null), `timed_params` and `checked_params` (most parameters in which
      it was timed, and compared with the reference; 0 for none), `extrapolated` (whether `time_s` is), `limit_s` (the
      time limit that cut its measuring short, or null) and `code`.
    - `lacking`: methods that do not offer the quantity.
    - `unchecked`: why no result was compared with the truth in all parameters, or null.
    - `cut`: methods whose place in the ranking a time limit may have decided.
    """
    best, job = survey.best, survey.job
    return {
        "problem": problem_name(job.problem, job.problem_target),
        "quantity": job.quantity,
        "device": job.device,
        "dtype": job.dtype,
        "precision": survey.precision,
        "params": survey.params,
        "best": None if best is None else best.method,
        "code": None if best is None else snippet(survey, best),
        "methods": [_entry(survey, advice) for advice in survey.advice],
        "lacking": list(survey.lacking),
        "unchecked": survey.unchecked,
        "cut": [advice.method for advice in survey.advice if advice.cut_s is not None],
    }


def _entry(survey: Survey, advice: Advice) -> dict[str, Any]:
    return {
        "method": advice.method,
        "status": advice.status,
        "message": advice.message,
        "time_s": advice.time_s,
        "peak_bytes": advice.peak_bytes,
        "fits": not advice.too_large(survey.memory_gb),
        "error": advice.error,
        "stated_error": advice.stated,
        "products": advice.products,
        "timed_params": advice.timed,
        "checked_params": advice.checked,
        "extrapolated": advice.time_s is not None and advice.timed < advice.params,
        "limit_s": advice.cut_s,
        "code": snippet(survey, advice),
    }


def as_text(survey: Survey) -> str:
    """A table of the methods, the best on top; what was left out, and why; the code of the best."""
    job = survey.job
    name = problem_name(job.problem, job.problem_target)
    to = "" if survey.precision is None else f", precision={survey.precision:g}"
    parts = [f"{name}, quantity={job.quantity}{to}, {job.dtype} on {job.device}: P = {survey.params} parameters"]
    listed = [advice for advice in survey.advice if advice.usable(survey.memory_gb)]
    if listed:
        parts.append("\n".join(_table(listed)))
    notes = [*_notes(survey, listed), *_cut(survey)]
    if notes:
        parts.append("\n".join(notes))
    if survey.best is not None:
        parts.append(f"The code of {survey.best.method}, to copy:")
        parts.append(snippet(survey, survey.best))
    return "\n\n".join(parts)


def _table(listed: Sequence[Advice]) -> Iterator[str]:
    """Lines, whose columns are as wide as their entries."""
    rows = [HEADINGS, *(_row(advice) for advice in listed)]
    if any(advice.stated is not None for advice in listed):
        added = [OF_ESTIMATES, *((_relative(advice.stated, "-"), _count(advice.products)) for advice in listed)]
        rows = [(*row, *more) for row, more in zip(rows, added, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for name, *numbers in rows:
        yield GAP.join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])


def _row(advice: Advice) -> tuple[str, ...]:
    error = _relative(advice.error, "?")
    checked = str(advice.checked) if advice.checked else "no"
    return advice.method, duration(advice.time_s or 0.0), _megabytes(advice), error, str(advice.timed), checked


def _relative(error: float | None, otherwise: str) -> str:
    return otherwise if error is None else f"{error:.0e}"


def _count(products: int | None) -> str:
    return "-" if products is None else str(products)


def _megabytes(advice: Advice) -> str:
    return "?" if advice.peak_bytes is None else significant(advice.peak_bytes / 1e6)


def _notes(survey: Survey, listed: Sequence[Advice]) -> Iterator[str]:
    """What the table does not show."""
    if len(listed) > 1:
        yield "Each time is of a single process: the order of methods with close times may be chance."
    if any(advice.timed < advice.params for advice in listed):
        yield f"Times and peaks measured in fewer than {survey.params} parameters are extrapolated."
    for advice in survey.advice:
        if advice.time_s is not None and advice.too_large(survey.memory_gb):
            yield f"{advice.method}: {_megabytes(advice)} MB are more than memory_gb={survey.memory_gb:g}"
    for advice in survey.advice:
        if advice.time_s is None and advice.cut_s is None and advice.status != ESTIMATE:
            yield _wrapped(f"{advice.method}: {advice.status}, {advice.message}")
    estimates = sorted(advice.method for advice in survey.advice if advice.status == ESTIMATE)
    if estimates:
        yield _wrapped(f"Left out, since they estimate (precision=1e-2 lets them in): {', '.join(estimates)}")
    if any(advice.stated is not None for advice in listed):
        yield _wrapped(STATED)
    if survey.unchecked is not None:
        yield _wrapped(f"No result was compared with the truth: {survey.unchecked}")
    if survey.lacking:
        count = f"{len(survey.lacking)} of {len(survey.lacking) + len(survey.advice)} methods"
        yield f"Left out, since they lack quantity={survey.job.quantity}: {count}"


def _cut(survey: Survey) -> Iterator[str]:
    """That the ranking was cut by time limits, and where."""
    cut = [advice for advice in survey.advice if advice.cut_s is not None]
    if not cut:
        return
    yield f"The ranking was cut by time limits; raise limit_s={survey.job.limit_s:g} to measure more:"
    for advice in cut:
        only = f"timed for {advice.timed} of {advice.params} parameters within {advice.cut_s:g} s"
        yield _wrapped(f"  {advice.method}: {advice.message if advice.time_s is None else only}")


def _wrapped(text: str) -> str:
    """A paragraph at the terminal's width, without a break within a word."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
