"""What is asked of a quantity beside its name, and whether the answers of a method are exact."""

from __future__ import annotations

from pandas import DataFrame, Series

# What a result has that states its error.
STATING = ("standard_error", "stated_error", "products", "estimate_probes")
# Settings that belong to some quantities only.
ASKED_OF = {"vectors": ("hvp", "ihvp"), "k": ("eigenvalues",), "damping": ("ihvp",)}


def ranked(rows: DataFrame) -> Series:
    """Whether each row's method has no results that state their error."""
    stating = rows[list(STATING)].notna().any(axis=1)
    return ~stating.groupby([rows[name] for name in ("method", "quantity", "target")], dropna=False).transform("any")


def asked_of_quantity(rows: DataFrame) -> Series:
    """What was asked of each row's quantity beside its name, where that tells it apart: ` vectors=8 subset=64`."""
    told = Series("", rows.index, dtype="object")
    for column, quantities in ASKED_OF.items():
        values = rows[column].where(rows["quantity"].isin(quantities))
        differs = values.groupby(rows["quantity"]).transform("nunique") > 1
        told += values.where(differs).map(f" {column}={{:g}}".format, na_action="ignore").astype("object").fillna("")
    inputs = rows["wrt"] == "inputs"
    told += inputs.map({True: " wrt=inputs", False: ""})
    told += (rows["per_sample"].eq(True) & ~inputs).map({True: " per_sample=true", False: ""})
    for column, written in (("parameters", " parameters={}"), ("subset", " subset={:.0f}")):
        told += rows[column].map(written.format, na_action="ignore").astype("object").fillna("")
    return told
