"""How often the trend page is right, on made-up pages of 42 cells over 60 nights.

`python -m tests.programs.trend_quality [PAGES]`

Noise is log-normal with a standard deviation of 3 %, or of 10 % with heavy tails (Student's t with 2 degrees); the step
is of 10 % after night 37, in a night's single process or in the median of five.
"""

import sys

import numpy
from scipy import stats

from harness.analysis.steps import FALSE_ALARMS, places

CELLS, NIGHTS, STEP = 42, 60, 37


def main(pages: int) -> None:
    """Print the rates over so many pages, and of found steps over ten times as many."""
    random = numpy.random.default_rng(0)
    level = FALSE_ALARMS / CELLS
    for name, draw in (
        ("3 %", lambda: random.normal(0, 0.03, (CELLS, NIGHTS))),
        ("heavy", lambda: 0.1 * random.standard_t(2, (CELLS, NIGHTS))),
    ):
        false = sum(any(places(numpy.exp(row), level) for row in draw()) for _ in range(pages))
        upper = stats.binomtest(false, pages).proportion_ci(0.95, "exact").high
        print(
            f"noise {name}: {false} of {pages} pages with a false step (at most {upper:.1%}, 95 % interval)", flush=True
        )
    for processes in (1, 5):
        noise = numpy.median(random.normal(0, 0.03, (processes, 10 * pages, NIGHTS)), axis=0)
        noise[:, STEP:] += numpy.log(1.1)
        found = [places(numpy.exp(row), level) for row in noise]
        near = sum(len(each) == 1 and abs(each[0] - STEP) <= 1 for each in found)
        at = sum(each == [STEP] for each in found)
        print(
            f"{processes} processes a night: {sum(map(bool, found))} of {len(found)} steps, {near} within a night, "
            f"{at} at the very commit",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
