"""Which claims are made: the rule against numbers made by hand, and its error rate on reports without a true lead."""

import math

import numpy
import pytest
from scipy import stats

from harness.analysis.claims import RATE, claimed
from harness.analysis.ratios import p_value
from tests.programs.claim_quality import counted


def test_the_largest_number_of_claims_that_keeps_the_rate():
    """Benjamini and Hochberg: of n p-values in order, all up to the last i with p <= RATE i / n."""
    assert claimed([0.012, 0.6, 0.024, 0.04]) == [True, False, True, False]
    assert claimed([0.04, 0.04]) == [True, True]
    assert claimed([0.04, 0.06]) == [False, False]


def test_what_has_no_p_value_is_no_claim_and_does_not_count():
    assert claimed([math.nan, 0.04, math.nan]) == [False, True, False]
    assert claimed([math.nan]) == [False]
    assert claimed([]) == []


def test_the_p_value_is_students_of_few_and_of_two_tests_from_six():
    few = numpy.array([0.1, 0.2, 0.4])
    assert p_value(few) == pytest.approx(stats.ttest_1samp(few, 0).pvalue)
    even = numpy.array([0.1, 0.11, 0.1, 0.12, 0.1, 0.11, 0.09])
    assert p_value(even) == pytest.approx(2 * stats.ttest_1samp(even, 0).pvalue)
    hiccup = numpy.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0])
    assert p_value(hiccup) == pytest.approx(2 * stats.binomtest(10, 10).pvalue)
    assert p_value(-few) == p_value(few)


@pytest.mark.parametrize(("methods", "processes"), [(2, 3), (2, 6), (4, 3)])
def test_reports_without_a_true_lead_claim_one_as_rarely_as_stated(methods, processes):
    """The old rule, which tests each place alone, is wrong in some of these reports several times."""
    reports = 40
    old, new, _ = counted(numpy.random.default_rng(1), reports, methods, processes, lead=0.0, hiccups=False)
    assert stats.binomtest(round(new.shares), reports, RATE, alternative="greater").pvalue > 0.01
    assert old.wrong > 3 * RATE * reports


def test_true_leads_are_claimed_and_a_single_process_claims_nothing():
    random = numpy.random.default_rng(2)
    _, new, leads = counted(random, 10, methods=3, processes=5, lead=0.3, hiccups=False)
    assert new.claims - new.wrong > 0.9 * leads
    _, new, _ = counted(random, 2, methods=3, processes=1, lead=9.0, hiccups=False)
    assert new.claims == 0
