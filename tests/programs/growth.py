"""How the time of the factored Hessian grows with each size of a network: fitted exponents, and a picture a family.

`python -m harness +sweep=factored_growth`, then `python -m tests.programs.growth RECORDS... [--out FOLDER]`

An exponent is the slope of a line through the logarithms, with its standard error. Beside that of the time are those of
the FLOPs that one call runs in matrix products, and of P^2. Another line of a picture is the time of these FLOPs at
the rate that a large matrix product had on the same machine. Default folder: results/factored.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy
import pandas
import seaborn
from matplotlib import ticker
from scipy import stats

from harness import record

OPTIONS = {"mlp": ["batch", "width", "depth"], "transformer": ["batch", "width", "blocks", "length"]}
FEWEST = 3  # sizes of a curve


def prepared(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The right records, with the problem's options as columns."""
    right = frame[(frame["status"] == "ok") & frame["problem"].isin(OPTIONS)].reset_index(drop=True)
    options = pandas.DataFrame([json.loads(text) for text in right["problem_options"]])
    return right.join(options[sorted({option for of in OPTIONS.values() for option in of} & set(options))])


def curves(frame: pandas.DataFrame) -> Iterator[tuple[str, str, pandas.DataFrame]]:
    """For each family and option the records in which that option varies and the others have their usual values."""
    for family, options in OPTIONS.items():
        rows = frame[frame["problem"] == family]
        usual = {option: rows[option].mode().iloc[0] for option in options if len(rows)}
        for option in usual:
            alike = numpy.logical_and.reduce([rows[other] == usual[other] for other in options if other != option])
            if rows[alike][option].nunique() >= FEWEST:
                yield family, option, rows[alike].sort_values(option)


def exponent(sizes: pandas.Series, values: pandas.Series) -> str:
    """The power of the sizes that the values grow with."""
    known = values.notna() & (values > 0)
    if known.sum() < FEWEST:
        return ""
    fit = stats.linregress(numpy.log(sizes[known].astype(float)), numpy.log(values[known].astype(float)))
    return f"{fit.slope:.2f} ± {fit.stderr:.2f}"  # pyright: ignore[reportAttributeAccessIssue]: a named tuple


def exponents(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A line for each family, option and method."""
    lines = []
    for family, option, rows in curves(frame):
        for label, own in rows.groupby("label"):
            if own[option].nunique() < FEWEST:
                continue
            sizes, last = own[option], own.drop_duplicates(option).tail(2)
            lines.append(
                {
                    "family": family,
                    "varied": f"{option}, {sizes.min():g} to {sizes.max():g}",
                    "P": f"{own['params'].min():.0f} to {own['params'].max():.0f}",
                    "method": label,
                    "time": exponent(sizes, own["median_s"]),
                    "time, last two": f"{_slope(last[option], last['median_s']):.2f}",
                    "FLOPs": exponent(sizes, own["flops"]) if label == "factored" else "",
                    "P²": exponent(sizes, own["params"] ** 2) if own["params"].nunique() > 1 else "0",
                }
            )
    return pandas.DataFrame(lines)


def _slope(sizes: pandas.Series, values: pandas.Series) -> float:
    return float(numpy.diff(numpy.log(values.astype(float)))[0] / numpy.diff(numpy.log(sizes.astype(float)))[0])


def draw(frame: pandas.DataFrame, family: str, path: Path) -> None:
    """A panel for each option of a family: the time of each method, and of the FLOPs of `factored`."""
    parts = []
    for which, option, rows in curves(frame):
        if which == family:
            times = pandas.DataFrame({"size": rows[option], "ms": rows["median_s"] * 1e3, "of": rows["label"]})
            own = rows[rows["label"] == "factored"]
            products = own["flops"] / own["gemm_flops_per_s"] * 1e3
            limit = pandas.DataFrame({"size": own[option], "ms": products, "of": "products of factored"})
            parts.append(pandas.concat([times, limit]).assign(varied=option))
    seaborn.set_theme(style="whitegrid", palette="colorblind", font="DejaVu Sans")
    points = pandas.concat(parts, ignore_index=True)
    grid = seaborn.relplot(
        points,
        x="size",
        y="ms",
        hue="of",
        style="of",
        col="varied",
        kind="line",
        markers=True,
        height=3,
        aspect=0.9,
        facet_kws={"sharex": False},
    )
    grid.set(xscale="log", yscale="log")
    for option, axes in grid.axes_dict.items():
        sizes = points.loc[points["varied"] == option, "size"].unique()
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    grid.set_axis_labels("", "time (ms)").set_titles(f"{family}: {{col_name}}")
    assert grid.legend is not None
    grid.legend.set_title("")
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.savefig(path, dpi=120)


def main() -> None:
    """Print the exponents as a Markdown table, and write `growth_FAMILY.png`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/factored"))
    asked = parser.parse_args()
    frame = prepared(record.load(*asked.records))
    print(exponents(frame).to_markdown(index=False))
    for family in frame["problem"].unique():
        draw(frame, family, asked.out / f"growth_{family}.png")


if __name__ == "__main__":
    main()
