"""How often the leaderboard's claims are wrong, and how many true leads it claims, on made-up reports.

`python -m tests.programs.claim_quality [REPORTS]`

A report has 12 places. At half of them one of k methods is faster than the others, which are equally fast; at the other
half all are. A round's drift slows all methods of a place alike (10 %). Beside it a process has even noise of 3 %
(log-normal), or also a hiccup: one process in ten is slower by 50 % on average. The old rule tested the two least
medians of each place alone, at 95 %.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy
from numpy.random import Generator
from pandas import DataFrame

from harness.analysis.claims import claimed
from harness.analysis.contests import contest
from harness.analysis.ratios import times_by

PLACES = 12
DRIFT, NOISE, HICCUP = 0.1, 0.03, 0.5  # of log time
FASTER = "m0"  # the method that is faster where one is


@dataclass
class Count:
    """What a rule claimed over some reports."""

    claims: int = 0
    wrong: int = 0
    shares: float = 0.0  # the sum over reports of the share of its claims that is wrong

    def add(self, made: list[tuple[bool, bool]]) -> None:
        """The places of one report: whether a leader is claimed there, and whether it is the fastest."""
        claims = [right for claim, right in made if claim]
        self.claims += len(claims)
        self.wrong += claims.count(False)
        self.shares += claims.count(False) / max(len(claims), 1)


def place(random: Generator, methods: int, processes: int, lead: float, hiccups: bool) -> DataFrame:
    """The rows of one place, with what `contest` reads; the first method is `lead` times faster than the others."""
    logs = random.normal(0, NOISE, (processes, methods)) + random.normal(0, DRIFT, (processes, 1))
    if hiccups:
        logs += random.exponential(HICCUP, logs.shape) * (random.random(logs.shape) < 0.1)
    logs[:, 0] -= numpy.log1p(lead)
    same = {"seed": 0, "node": None, "status": "ok"}
    return DataFrame(
        [
            {**same, "label": f"m{method}", "round": number, "median_s": time, "times_s": [time]}
            for number, times in enumerate(numpy.exp(logs))
            for method, time in enumerate(times)
        ]
    )


def counted(
    random: Generator, reports: int, methods: int, processes: int, lead: float, hiccups: bool
) -> tuple[Count, Count, int]:
    """The claims by the old rule and by the harness, and the number of true leads."""
    old, new, leads = Count(), Count(), 0
    for _ in range(reports):
        true = [lead > 0 and number % 2 == 0 for number in range(PLACES)]
        contests = [
            contest(times_by(place(random, methods, processes, lead * own, hiccups), ["label"])) for own in true
        ]
        found = [seen for seen in contests if seen is not None]
        right = [own and seen.leader == FASTER for own, seen in zip(true, found, strict=True)]
        alone = [next(iter(seen.leads.values())).order > 0 for seen in found]
        old.add(list(zip(alone, right, strict=True)))
        new.add(list(zip(claimed([seen.p_fastest() for seen in found]), right, strict=True)))
        leads += sum(true)
    return old, new, leads


def main(reports: int) -> None:
    """Print, for each case: wrong claims a report and the share of true leads that is claimed, old and new."""
    random = numpy.random.default_rng(0)
    print("noise    methods  processes  lead    wrong claims a report   wrong share  true leads found")
    print("                                          old       new            new       old    new")
    for hiccups in (False, True):
        for methods in (2, 5, 27):
            for processes in (1, 3, 5, 10):
                for lead in (0.0, 0.05, 0.1, 0.3):
                    old, new, leads = counted(random, reports, methods, processes, lead, hiccups)
                    power = [
                        f"{(count.claims - count.wrong) / leads:6.2f}" if leads else "     -" for count in (old, new)
                    ]
                    print(
                        f"{'hiccups' if hiccups else 'even':8} {methods:7} {processes:10} {lead:5.0%}"
                        f"{old.wrong / reports:13.2f}{new.wrong / reports:10.2f}{new.shares / reports:15.3f}    "
                        + " ".join(power),
                        flush=True,
                    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
