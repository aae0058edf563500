"""processes.md: strong and weak scaling of the methods that several processes have computed together."""

from __future__ import annotations

from pandas import DataFrame

from harness.analysis.efficiency import efficiency
from harness.analysis.table import Analysis
from harness.record import plain
from harness.report.readable import CONTENDED, MIB
from harness.text import duration, escaped, significant

MEANINGS = {
    "strong": "Strong scaling: the same problem. Efficiency: the time of one process over K times that of K. Peak: "
    "tensor memory of the largest process, above its start; share: over that of one process.",
    "weak": "Weak scaling: the problem grows in one option such that each process has as many entries, P^2 / K. "
    "Efficiency: the time of one process over that of K.",
}
APART = "*"  # after an efficiency
CONTENTION = "A time with *: this or that of one process was measured under contention, as by more threads than cores."


def markdown(analysis: Analysis) -> str | None:
    """The tables; None where no problem was computed by one process and by several."""
    found = efficiency(analysis)
    if found.empty:
        return None
    parts = ["# Several processes"]
    for kind, rows in found.groupby("kind", sort=True):
        table = _texts(rows).map(escaped).to_markdown(index=False, disable_numparse=True)
        parts += [f"## {str(kind).capitalize()} scaling", MEANINGS[str(kind)], table]
        if rows["apart"].any():
            parts.append(escaped(f"{APART} An efficiency with it: the two were timed on different nodes of a cluster."))
    if found["contended"].any():
        parts.append(escaped(CONTENTION))
    return "\n\n".join([*parts, f"{escaped(analysis.environment)}.\n"])


def _texts(rows: DataFrame) -> DataFrame:
    texts = DataFrame(
        {
            "problem": rows["problem"],
            "P": rows["params"].map("{:.0f}".format),
            "method": rows["label"].map(plain),
            "processes": rows["ranks"].map("{:.0f}".format),
            "time": rows["median_s"].map(duration) + rows["contended"].map({True: CONTENDED, False: ""}),
            "efficiency": rows["efficiency"].map("{:.2f}".format) + rows["apart"].map({True: APART, False: ""}),
        }
    )
    if rows["peak_bytes"].notna().any():
        peaks = (rows["peak_bytes"].astype("float") / MIB).map(significant, na_action="ignore")
        texts["peak MiB"] = peaks.astype("object").fillna("-")
        shares = rows["peak_share"].astype("float").map("{:.2f}".format, na_action="ignore")
        texts["share"] = shares.astype("object").fillna("-")
    return texts
