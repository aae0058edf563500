"""The times of the processes of one cell: what stands for each process, and which processes were cut off."""

from __future__ import annotations

import numpy
from pandas import DataFrame, Series

CLIP = 2.0  # multiple of the least time of a process as which a slower call counts: it may be an accident


def process_times(base: DataFrame, candidate: DataFrame) -> tuple[list[float], list[float]]:
    """The time that stands for each process of the baseline and of the candidate, s.

    It is the least time of the process's samples, which other programs cannot make smaller. A first call is slower than
    all later ones, so it is never compared with them: first calls stand for the processes only where the time limit
    ended all processes of the baseline and of the candidate before a second call.
    """
    if sampled(base).any() or sampled(candidate).any():
        return _column(base[sampled(base)], "fastest_s"), _column(candidate[sampled(candidate)], "fastest_s")
    return _column(base[cut_off(base)], "first_s"), _column(candidate[cut_off(candidate)], "first_s")


def mean_times(records: DataFrame) -> list[float]:
    """The mean time of the calls of each process, s; each call counts as at most CLIP times the least.

    Of the statistics that were tried (mean, geometric mean, quantiles, share of slow calls), this one finds a slowdown
    of every fifth call most often where accidents slow down some calls too.
    """
    samples = [numpy.asarray(times) for times in records.loc[sampled(records), "times_s"]]
    return [float(numpy.minimum(times, CLIP * times.min()).mean()) for times in samples]


def sampled(records: DataFrame) -> Series:
    """Which processes went well and were sampled after their first call."""
    return records["status"].eq("ok") & records["fastest_s"].gt(0)


def cut_off(records: DataFrame) -> Series:
    """Which processes went well, but for the time limit, which ended them between the first call and the second."""
    return records["status"].eq("ok") & records["fastest_s"].isna() & records["first_s"].gt(0)


def _column(records: DataFrame, name: str) -> list[float]:
    return [float(value) for value in records[name]]
