"""Equivalence tests against statsmodels, and the reading of null results."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_paired

from voxcloud.errors import DesignError
from voxcloud.inference.bayes import one_sample_bf, two_sample_bf
from voxcloud.inference.equivalence import (
    confidence_interval,
    equivalence_of,
    read_null,
    tost_one_sample,
    tost_p,
    tost_paired,
    tost_two_sample,
)
from voxcloud.inference.t_tests import student_test

RNG = np.random.default_rng(11)
X, Y = RNG.normal(0.1, 1.0, 17), RNG.normal(0.0, 2.0, 18)


@pytest.mark.parametrize(("equal_var", "usevar"), [(False, "unequal"), (True, "pooled")])
def test_tost_two_sample__equals_statsmodels(equal_var: bool, usevar: str) -> None:
    compare = CompareMeans(DescrStatsW(X), DescrStatsW(Y))
    p, (lower, upper) = compare.ttost_ind(-1.5, 1.5, usevar=usevar)
    result = tost_two_sample(X, Y, (-1.5, 1.5), equal_var=equal_var)
    assert result.p == pytest.approx(p, rel=1e-10)
    assert result.p_above_lower == pytest.approx(lower[1], rel=1e-10)
    assert result.p_below_upper == pytest.approx(upper[1], rel=1e-10)
    assert result.ci_95 == pytest.approx(compare.tconfint_diff(usevar=usevar), rel=1e-10)
    assert result.ci == pytest.approx(compare.tconfint_diff(alpha=0.1, usevar=usevar), rel=1e-10)


@pytest.mark.parametrize("bound", np.linspace(0.2, 2.5, 12))
def test_tost_two_sample__is_equivalent_exactly_when_the_interval_lies_within(bound: float) -> None:
    result = tost_two_sample(X, Y, (-bound, bound))
    assert result.equivalent == (-bound < result.ci[0] and result.ci[1] < bound)


def test_tost_paired__is_the_one_sample_test_of_the_differences() -> None:
    pairs, single = tost_paired(X, X[::-1] + 0.1, (-1, 1)), tost_one_sample(X - X[::-1] - 0.1, (-1, 1))
    assert pairs.p == single.p
    assert pairs.kind == "paired t"


def test_tost_p__maps_equal_the_single_test() -> None:
    single = tost_one_sample(X, (-0.4, 0.6))
    p = tost_p(np.full((2, 3), single.effect), np.full((2, 3), single.standard_error), single.df, (-0.4, 0.6))
    assert p.shape == (2, 3)
    assert p == pytest.approx(np.full((2, 3), single.p), rel=1e-12)


def test_tost_p__false_claims_at_the_bound_are_alpha() -> None:
    """At a true difference equal to the bound, equivalence is claimed in 5 % of studies at most."""
    rng = np.random.default_rng(12)
    data = rng.normal(0.8, 1.0, size=(60, 20_000))
    p = tost_p(data.mean(axis=0), data.std(axis=0, ddof=1) / np.sqrt(60), 59, (-0.8, 0.8))
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.006)


def test_confidence_interval__covers_at_its_level() -> None:
    data = np.random.default_rng(13).normal(2.0, 1.0, size=(12, 20_000))
    low, high = confidence_interval(data.mean(axis=0), data.std(axis=0, ddof=1) / np.sqrt(12), 11)
    assert np.mean((low < 2.0) & (high > 2.0)) == pytest.approx(0.95, abs=0.006)


def test_read_null__a_bayes_factor_near_its_maximum_is_not_equivalence() -> None:
    x = np.concatenate([np.linspace(-5, 5, 17)])
    bayes = two_sample_bf(x, x * 1.1)
    reading = read_null(bayes, tost_two_sample(x, x * 1.1, (-0.5, 0.5)))
    assert bayes.bf01 > 3.0
    assert reading.verdict == "undecided"
    assert f"of at most {bayes.max_bf01:.3g}" in reading.sentence


@pytest.mark.parametrize(
    ("shift", "bounds", "verdict"),
    [
        (0.0, (-1.0, 1.0), "equivalent"),
        (0.5, (-2.0, 2.0), "different but within the bounds"),
        (3.0, (-1.0, 1.0), "different"),
        (0.05, (-0.1, 0.1), "undecided"),
    ],
)
def test_read_null__verdicts(shift: float, bounds: tuple[float, float], verdict: str) -> None:
    values = np.linspace(-1, 1, 30) + shift
    assert read_null(one_sample_bf(values), tost_one_sample(values, bounds)).verdict == verdict


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (0.0, 0.0), (-np.inf, 1.0)])
def test_tost_one_sample__refuses_bounds_out_of_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(DesignError, match="bounds"):
        tost_one_sample(X, bounds)


def test_tost_one_sample__equals_statsmodels() -> None:
    p, lower, upper = DescrStatsW(X).ttost_mean(-0.6, 0.7)
    result = tost_one_sample(X, (-0.6, 0.7))
    assert result.p == pytest.approx(p, rel=1e-10)
    assert result.p_above_lower == pytest.approx(lower[1], rel=1e-10)
    assert result.p_below_upper == pytest.approx(upper[1], rel=1e-10)
    assert (result.effect, result.df) == (pytest.approx(X.mean()), 16)
    assert result.ci == pytest.approx(DescrStatsW(X).tconfint_mean(alpha=0.1), rel=1e-10)


def test_tost_paired__equals_statsmodels() -> None:
    second = X[::-1] + RNG.normal(0.0, 0.1, X.size)
    p, lower, upper = ttost_paired(X, second, -0.9, 1.1)
    result = tost_paired(X, second, (-0.9, 1.1))
    assert result.p == pytest.approx(p, rel=1e-10)
    assert result.p_above_lower == pytest.approx(lower[1], rel=1e-10)
    assert result.p_below_upper == pytest.approx(upper[1], rel=1e-10)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_equivalence_of__differs_exactly_when_the_test_is_significant(alpha: float) -> None:
    test = student_test(X + 0.9, Y)
    found = equivalence_of(test, (-0.5, 0.5), alpha=alpha)
    assert found.differs == (stats.ttest_ind(X + 0.9, Y).pvalue < alpha)
    low, high = stats.ttest_ind(X + 0.9, Y).confidence_interval(1 - 2 * alpha)
    assert found.ci == pytest.approx((low, high), rel=1e-10)
