"""Rank tests against scipy, full enumeration and published z values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.inference.rank_tests import rank_sum, shapiro_wilk, wilcoxon_one_sample, wilcoxon_signed_rank


def test_wilcoxon_one_sample__everybody_improved_is_the_largest_z_of_17() -> None:
    result = wilcoxon_one_sample(np.arange(1.0, 18.0))
    assert result.z == pytest.approx(3.621, abs=0.0005)
    assert result.p_normal == pytest.approx(0.00029, abs=0.5e-5)
    assert result.p_exact == 2 * 0.5**17
    assert result.p_exact == pytest.approx(1.5e-5, abs=0.05e-5)
    assert result.p == result.p_exact
    assert result.rank_biserial == 1.0


def test_wilcoxon_one_sample__no_order_of_ranks_gives_a_larger_z() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(1.0, 18.0)
    assert all(wilcoxon_one_sample(values * rng.choice([-1, 1], 17)).z <= 3.6215 for _ in range(200))


def test_rank_tests__normal_p_of_a_published_z() -> None:
    assert 2 * stats.norm.sf(2.817) == pytest.approx(0.0048, abs=0.00005)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_wilcoxon_signed_rank__equals_scipy_without_ties(alternative: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.3, 1, 16), rng.normal(size=16)
    result = wilcoxon_signed_rank(x, y, alternative=alternative)
    exact = stats.wilcoxon(x, y, alternative=alternative, method="exact")
    normal = stats.wilcoxon(x, y, alternative=alternative, method="asymptotic", correction=False)
    assert result.p_exact == pytest.approx(exact.pvalue, rel=1e-12)
    assert result.p_normal == pytest.approx(normal.pvalue, rel=1e-12)
    assert abs(result.z) == pytest.approx(abs(normal.zstatistic), rel=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_rank_sum__equals_scipy_without_ties(alternative: str) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.6, 1, 9), rng.normal(size=8)
    result = rank_sum(x, y, alternative=alternative)
    exact = stats.mannwhitneyu(x, y, alternative=alternative, method="exact")
    normal = stats.mannwhitneyu(x, y, alternative=alternative, method="asymptotic", use_continuity=False)
    assert result.p_exact == pytest.approx(exact.pvalue, rel=1e-12)
    assert result.p_normal == pytest.approx(normal.pvalue, rel=1e-12)
    assert result.statistic - 9 * 10 / 2 == exact.statistic


def test_rank_sum__normal_p_is_corrected_for_ties() -> None:
    x, y = np.array([1, 1, 2, 3, 3, 3.0]), np.array([1, 2, 2, 4, 5.0])
    normal = stats.mannwhitneyu(x, y, method="asymptotic", use_continuity=False)
    result = rank_sum(x, y)
    assert result.p_normal == pytest.approx(normal.pvalue, rel=1e-12)
    assert result.n_tied == 9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_wilcoxon_one_sample__exact_p_with_ties_equals_enumeration(values: list[int]) -> None:
    kept = np.array([v for v in values if v != 0], dtype=float)
    if kept.size == 0:
        return
    ranks = stats.rankdata(np.abs(kept))
    observed = ranks[kept > 0].sum()
    sums = np.array([np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=kept.size)])
    centre = ranks.sum() / 2
    expected = np.mean(np.abs(sums - centre) >= abs(observed - centre) - 1e-9)
    result = wilcoxon_one_sample(values)
    assert result.p_exact == pytest.approx(expected, rel=1e-12)
    assert result.n_zero == len(values) - kept.size


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=5), st.lists(st.integers(0, 4), min_size=2, max_size=4))
def test_rank_sum__exact_p_with_ties_equals_enumeration(first: list[int], second: list[int]) -> None:
    both = np.array(first + second, dtype=float)
    if np.ptp(both) == 0:
        return
    ranks = stats.rankdata(both)
    observed = ranks[: len(first)].sum()
    sums = np.array([ranks[list(chosen)].sum() for chosen in itertools.combinations(range(both.size), len(first))])
    for alternative, reached in (
        ("greater", sums >= observed - 1e-9),
        ("two-sided", np.abs(sums - sums.mean()) >= abs(observed - sums.mean()) - 1e-9),
    ):
        assert rank_sum(first, second, alternative=alternative).p_exact == pytest.approx(np.mean(reached), rel=1e-12)


def test_wilcoxon_signed_rank__equal_differences_tie_despite_rounding() -> None:
    result = wilcoxon_signed_rank([0.3, 0.2, 0.9], [0.1, 0.0, 0.1])
    assert result.n_tied == 2


def test_wilcoxon_signed_rank__leaves_the_exact_p_out_of_large_samples() -> None:
    result = wilcoxon_one_sample(np.random.default_rng(3).normal(size=150))
    assert np.isnan(result.p_exact)
    assert result.p == result.p_normal


def test_shapiro_wilk__equals_scipy() -> None:
    x = np.random.default_rng(4).exponential(size=20)
    result = shapiro_wilk(x)
    assert (result.w, result.p) == (stats.shapiro(x).statistic, stats.shapiro(x).pvalue)


@pytest.mark.parametrize(
    "call",
    [
        lambda: shapiro_wilk([1.0, 1.0, 1.0]),
        lambda: shapiro_wilk([1.0, 2.0]),
        lambda: wilcoxon_one_sample([0.0, 0.0]),
        lambda: wilcoxon_one_sample([1.0, np.nan]),
        lambda: wilcoxon_signed_rank([1.0, 2.0], [1.0, 2.0, 3.0]),
        lambda: rank_sum([1.0, 1.0], [1.0]),
        lambda: rank_sum([1.0, 2.0], [3.0], alternative="bigger"),
    ],
)
def test_rank_tests__refuse_what_cannot_be_ranked(call: object) -> None:
    with pytest.raises(DesignError):
        call()  # type: ignore[operator]


def test_rank_sum__effect_size_is_the_balance_of_all_pairs() -> None:
    x, y = np.array([1.0, 2, 2, 5, 7]), np.array([2.0, 3, 4, 4])
    pairs = np.sign(x[:, None] - y[None, :])
    result = rank_sum(x, y)
    assert result.rank_biserial == pytest.approx(pairs.mean(), rel=1e-12)
    assert result.median == np.median(x) - np.median(y)
    assert result.n == (5, 4)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_wilcoxon_one_sample__equals_scipy_with_ties_and_zeros(alternative: str) -> None:
    values = np.array([0.0, 1, 1, -1, 2, 2, 3, -3, 4, 5, 0, 6])
    result = wilcoxon_one_sample(values, alternative=alternative)
    normal = stats.wilcoxon(
        values, zero_method="wilcox", alternative=alternative, method="asymptotic", correction=False
    )
    assert result.p_normal == pytest.approx(normal.pvalue, rel=1e-12)
    assert (result.n, result.n_zero, result.n_tied) == ((10,), 2, 7)
    ranks = stats.rankdata(np.abs(values[values != 0]))
    plus, minus = ranks[values[values != 0] > 0].sum(), ranks[values[values != 0] < 0].sum()
    assert result.statistic == plus
    assert result.rank_biserial == pytest.approx((plus - minus) / (plus + minus), rel=1e-12)
    assert result.median == np.median(values)


def test_wilcoxon_one_sample__null_shifts_the_values() -> None:
    values = np.random.default_rng(8).normal(1.0, 1.0, 15)
    assert wilcoxon_one_sample(values, null=0.7).p_exact == pytest.approx(
        stats.wilcoxon(values - 0.7, method="exact").pvalue, rel=1e-12
    )


def test_rank_sum__exact_p_over_all_arrangements_is_never_below_its_share() -> None:
    everybody = np.arange(9.0)
    p = np.array(
        [
            rank_sum(everybody[list(first)], np.delete(everybody, first)).p_exact
            for first in itertools.combinations(range(9), 4)
        ]
    )
    for level in np.unique(p):
        assert np.mean(p <= level + 1e-12) == pytest.approx(level, rel=1e-10)
