"""Least squares: equal to statsmodels, to the last bit in any block, and never infinite."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.ols import (
    TILE_VOXELS,
    contrast_rank,
    f_contrast,
    fit_ols,
    partial_r,
    scaled_pinv,
    standardised_effect,
    t_contrast,
)


def design(n: int = 31, p: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Columns of very different size, as age in years beside a volume in mm3.
    return np.column_stack([np.ones(n), rng.normal(size=(n, p - 1)) * 10.0 ** np.arange(0, 3 * (p - 1), 3)])


def data(n: int = 31, v: int = 700, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1000.0, 20.0, (n, v))


def test_fit_ols__equals_statsmodels() -> None:
    X, Y = design(), data(v=5)
    fit = fit_ols(Y, X)
    C = np.array([[0, 1, 0, 0], [0, 0, 1e3, -1.0]])
    effect, se, t = t_contrast(fit, [0, 1, 0.5, 0])
    F = f_contrast(fit, C)
    for v in range(5):
        reference = sm.OLS(Y[:, v], X).fit()
        np.testing.assert_allclose(fit.beta[:, v], reference.params, rtol=1e-7)
        assert fit.resms[v] == pytest.approx(reference.mse_resid, rel=1e-10)
        test = reference.t_test([0, 1, 0.5, 0])
        assert (effect[v], se[v], t[v]) == pytest.approx((test.effect[0], test.sd[0, 0], test.tvalue[0, 0]), rel=1e-8)
        assert F[v] == pytest.approx(float(reference.f_test(C).fvalue), rel=1e-8)
    assert fit.df == 27
    assert contrast_rank(C) == 2


def test_fit_ols__weighted_rows_equal_statsmodels_wls() -> None:
    X, Y = design(), data(v=3)
    w = np.random.default_rng(2).uniform(0.1, 3.0, 31)
    root = np.sqrt(w)[:, None]
    t = t_contrast(fit_ols(root * Y, root * X), [0, 1, 0, 0])[2]
    for v in range(3):
        assert t[v] == pytest.approx(sm.WLS(Y[:, v], X, weights=w).fit().tvalues[1], rel=1e-8)


def test_fit_ols__rank_deficient_design_gives_the_same_estimable_t() -> None:
    X, Y = design(p=3), data(v=4)
    twice = np.column_stack([X, X[:, 1] * 2 + X[:, 0]])
    fit = fit_ols(Y, twice)
    assert (fit.rank, fit.df) == (3, 28)
    np.testing.assert_allclose(t_contrast(fit, [0, 0, 1, 0])[2], t_contrast(fit_ols(Y, X), [0, 0, 1])[2], rtol=1e-9)


def test_f_contrast__with_dependent_rows_counts_the_independent_ones() -> None:
    fit = fit_ols(data(v=4), design())
    C = np.array([[0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(f_contrast(fit, np.vstack([C, C.sum(axis=0)])), f_contrast(fit, C), rtol=1e-9)


def test_f_contrast__of_one_row_is_t_squared() -> None:
    fit = fit_ols(data(v=9), design())
    np.testing.assert_allclose(f_contrast(fit, [0, 1, 0, 0]), t_contrast(fit, [0, 1, 0, 0])[2] ** 2, rtol=1e-10)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 33, TILE_VOXELS - 1, TILE_VOXELS, TILE_VOXELS + 1, 1000, 10_000])
@pytest.mark.parametrize("n, p", [(31, 4), (245, 8)])
def test_fit_ols__same_bits_at_any_width(width: int, n: int, p: int) -> None:
    X, Y = design(n, p), data(n, 10_000)
    whole = fit_ols(Y, X)
    for start in (0, 5, 10_000 - width):
        stop = min(start + width, 10_000)
        part = fit_ols(Y[:, start:stop], X)
        np.testing.assert_array_equal(part.beta, whole.beta[:, start:stop])
        np.testing.assert_array_equal(part.resms, whole.resms[start:stop])


@given(st.lists(st.integers(1, 699), max_size=6), st.sampled_from(["C", "F"]))
@settings(max_examples=30, deadline=None)
def test_fit_ols__every_statistic_has_the_same_bits_in_any_cut(cuts: list[int], order: str) -> None:
    X, Y = design(), data().astype(np.float32)
    rows = [0, 3, 30]

    def numbers(block: np.ndarray) -> np.ndarray:
        fit = fit_ols(block, X)
        several = [*t_contrast(fit, [0.3, 1, 0, -1]), f_contrast(fit, np.eye(4)[1:3])]
        return np.vstack([*several, fit.standardised_residuals(block, rows)])

    edges = [0, *sorted(set(cuts)), 700]
    parts = [numbers(np.asarray(Y[:, a:b], order=order)) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.hstack(parts), numbers(Y))


@given(st.permutations(range(31)))
@settings(max_examples=10, deadline=None)
def test_fit_ols__row_order_changes_rounding_only(order: list[int]) -> None:
    X, Y = design(), data(v=20)
    one, other = (t_contrast(fit_ols(Y[rows], X[rows]), [0, 1, 0, 0])[2] for rows in (range(31), order))
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_fit_ols__voxels_without_residual_variance_are_nan_and_counted() -> None:
    X = np.column_stack([np.ones(31), np.arange(31) < 17, np.linspace(-1, 1, 31)]).astype(float)
    Y = data(v=8)
    Y[:, 0], Y[:, 1], Y[:, 2], Y[:, 3] = 0.0, 1234.567, 0.1 + 0.3 * X[:, 1], 1e-30
    Y[:, 4] = 1.0 + 1e-9 * np.random.default_rng(0).normal(size=31)
    fit = fit_ols(Y, X)
    _, se, t = t_contrast(fit, [0, 1, 0])
    assert fit.n_constant == 4
    assert np.isnan(t[:4]).all()
    assert np.isnan(f_contrast(fit, np.eye(3)[1:])[:4]).all()
    assert np.isnan(fit.standardised_residuals(Y)[:, :4]).all()
    assert np.isfinite(t[4:]).all()
    np.testing.assert_array_equal(se[:4], 0.0)


def test_fit_ols__a_nan_spoils_its_own_voxel_only() -> None:
    X, Y = design(), data(v=600)
    Y[3, 300] = np.nan
    t = t_contrast(fit_ols(Y, X), [0, 1, 0, 0])[2]
    assert np.flatnonzero(np.isnan(t)).tolist() == [300]


def test_fit_ols__takes_effective_degrees_of_freedom() -> None:
    X, Y = design(), data(v=3)
    plain, effective = fit_ols(Y, X), fit_ols(Y, X, df=20.5)
    assert effective.df == 20.5
    np.testing.assert_allclose(effective.resms * 20.5, plain.resms * 27)


@pytest.mark.parametrize(
    "Y, X, words",
    [
        (np.ones((4, 2)), np.ones((5, 1)), "as many rows"),
        (np.ones((4, 2)), np.eye(4), "leave 0 degrees of freedom"),
        (np.ones((4, 2)), np.full((4, 1), np.nan), "finite design"),
        (np.ones((4, 2)), np.zeros((4, 1)), "no column that is not zero"),
        (np.ones(4), np.ones((4, 1)), "as many rows"),
    ],
)
def test_fit_ols__refuses(Y: np.ndarray, X: np.ndarray, words: str) -> None:
    with pytest.raises(DesignError, match=words):
        fit_ols(Y, X)


def test_t_contrast__refuses_weights_of_another_length() -> None:
    with pytest.raises(DesignError, match="expected 4 weights"):
        t_contrast(fit_ols(data(v=2), design()), [0, 1])


def test_t_contrast__offset_is_added_to_the_residual_variance() -> None:
    fit = fit_ols(data(v=5), design())
    offset = 1e-3 * float(fit.resms.max())
    _, se, t = t_contrast(fit, [0, 1, 0, 0])
    _, se_offset, t_offset = t_contrast(fit, [0, 1, 0, 0], resms_offset=offset)
    np.testing.assert_allclose(se_offset, se * np.sqrt(1 + offset / fit.resms))
    np.testing.assert_allclose(t_offset**2, f_contrast(fit, [0, 1, 0, 0], resms_offset=offset), rtol=1e-10)
    assert (np.abs(t_offset) < np.abs(t)).all()


def test_residuals__are_orthogonal_to_the_design_and_sum_to_resms() -> None:
    X, Y = design(p=2), data(v=6)
    fit = fit_ols(Y, X)
    residuals = fit.residuals(Y)
    np.testing.assert_allclose(X.T @ residuals, 0, atol=1e-8)
    np.testing.assert_allclose((residuals**2).sum(axis=0), fit.resms * fit.df, rtol=1e-12)
    np.testing.assert_array_equal(fit.residuals(Y, [4, 2]), residuals[[4, 2]])


def test_t_contrast__null_distribution_is_students() -> None:
    X = design(20, 3)
    t = t_contrast(fit_ols(np.random.default_rng(9).normal(size=(20, 20_000)), X), [0, 1, 0])[2]
    assert stats.kstest(t, stats.t(17).cdf).pvalue > 0.01


def test_f_contrast__null_distribution_is_f() -> None:
    X = design(20, 4)
    F = f_contrast(fit_ols(np.random.default_rng(10).normal(size=(20, 20_000)), X), np.eye(4)[1:])
    assert stats.kstest(F, stats.f(3, 16).cdf).pvalue > 0.01


def test_t_contrast__recovers_a_planted_effect_with_an_honest_standard_error() -> None:
    X = design(30, 2)
    Y = X @ np.array([[5.0], [0.7]]) + np.random.default_rng(11).normal(0, 0.5, (30, 5000))
    effect, se, _ = t_contrast(fit_ols(Y, X), [0, 1])
    assert effect.mean() == pytest.approx(0.7, abs=0.01)
    assert effect.std() == pytest.approx(se.mean(), rel=0.03)


def test_partial_r__is_the_correlation_of_residuals() -> None:
    X, Y = design(), data(v=3)
    fit = fit_ols(Y, X)
    r, _, _ = partial_r(t_contrast(fit, [0, 1, 0, 0])[2], fit.df)
    rest = np.delete(X, 1, axis=1)
    without = np.eye(31) - rest @ np.linalg.pinv(rest)
    for v in range(3):
        assert r[v] == pytest.approx(np.corrcoef(without @ X[:, 1], without @ Y[:, v])[0, 1], abs=1e-8)


def test_partial_r__interval_covers_and_stays_inside_one() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(25, 4000))
    y = 0.6 * x + 0.8 * rng.normal(size=(25, 4000))
    r_true = 0.6
    r = np.array([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(4000)])
    found, lower, upper = partial_r(r * np.sqrt(23 / (1 - r**2)), 23)
    np.testing.assert_allclose(found, r, rtol=1e-10)
    assert ((lower < r_true) & (r_true < upper)).mean() == pytest.approx(0.95, abs=0.015)
    extreme = partial_r(np.array([80.0, -80.0, 0.0, np.nan]), 27)
    assert all((np.abs(e[:3]) < 1).all() and np.isnan(e[3]) for e in extreme)
    assert np.isnan(partial_r(2.0, 1)[1])


def test_standardised_effect__is_cohens_d_with_exact_interval() -> None:
    rng = np.random.default_rng(13)
    a, b = rng.normal(1.0, 1.0, 17), rng.normal(0.0, 1.0, 14)
    test = stats.ttest_ind(a, b)
    found = standardised_effect(float(test.statistic), 29, 1 / 17 + 1 / 14)
    pooled = np.sqrt((16 * a.var(ddof=1) + 13 * b.var(ddof=1)) / 29)
    assert found.d == pytest.approx((a.mean() - b.mean()) / pooled)
    scale = np.sqrt(1 / 17 + 1 / 14)
    assert stats.nct.sf(test.statistic, 29, found.lower / scale) == pytest.approx(0.025, abs=1e-6)
    assert stats.nct.cdf(test.statistic, 29, found.upper / scale) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("t", [-30.0, -0.2, 0.0, 5.0, 80.0])
def test_standardised_effect__interval_is_finite_and_encloses(t: float) -> None:
    found = standardised_effect(t, 27, 0.13)
    assert found.lower < found.d < found.upper
    mirrored = standardised_effect(-t, 27, 0.13)
    assert (-mirrored.upper, -mirrored.lower) == pytest.approx((found.lower, found.upper), abs=1e-5)


@pytest.mark.parametrize("df", [1, 2, 3, 4.7, 27])
@pytest.mark.parametrize("t", [0.5, 10.0, 100.0, 1e5])
def test_standardised_effect__interval_is_exact_at_low_df_and_strong_effects(df: float, t: float) -> None:
    found = standardised_effect(t, df, 1.0)
    # P(T <= t; nc) = P(Z + nc <= t s) over the quantiles of Z, or over those of s where Z varies more.
    grid = (np.arange(20_000) + 0.5) / 20_000
    s = stats.chi(df, scale=df**-0.5)
    for nc, p in ((found.lower, 0.975), (found.upper, 0.025)):
        over_z = s.sf((stats.norm.ppf(grid) + nc) / t).mean()
        below = over_z if t > 1 else stats.norm.cdf(t * s.ppf(grid) - nc).mean()
        assert below == pytest.approx(p, abs=2e-5)


def test_standardised_effect__interval_equals_the_one_by_noncentral_t() -> None:
    for t, df in ((2.0, 3), (3.0, 2), (5.0, 27), (30.0, 27), (0.5, 200)):
        found = standardised_effect(t, df, 1.0)
        assert stats.nct.sf(t, df, found.lower) == pytest.approx(0.025, abs=1e-9)
        assert stats.nct.cdf(t, df, found.upper) == pytest.approx(0.025, abs=1e-9)


def test_standardised_effect__has_no_interval_below_one_df() -> None:
    found = standardised_effect(3.0, 0.4, 4.0)
    assert found.d == 6.0
    assert np.isnan([found.lower, found.upper]).all()


def test_scaled_pinv__rank_does_not_depend_on_units() -> None:
    X = design(p=3)
    for unit in (1e-9, 1.0, 1e9):
        scaled = X * np.array([1.0, unit, 1.0])
        inverse, rank = scaled_pinv(scaled)
        assert rank == 3
        np.testing.assert_allclose(inverse * np.array([[1.0], [unit], [1.0]]), np.linalg.pinv(X), rtol=1e-6)


def test_fit_ols__is_at_most_half_again_as_slow_as_bare_numpy() -> None:
    X, Y = design(245, 8), data(245, 20_000).astype(np.float32)

    def bare() -> np.ndarray:
        wide = Y.astype(np.float64)
        residuals = wide - X @ (np.linalg.pinv(X) @ wide)
        return np.asarray((residuals**2).sum(axis=0) / 237)

    def seconds(work) -> float:  # type: ignore[no-untyped-def]
        times = []
        for _ in range(5):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(lambda: fit_ols(Y, X)) < 1.5 * seconds(bare)


def test_f_contrast__does_not_depend_on_units() -> None:
    X, Y = design(p=3), data(v=4)
    found = [f_contrast(fit_ols(Y, X * np.array([1.0, unit, 1.0])), np.eye(3)[1:]) for unit in (1.0, 1e-9, 1e9)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-8)


def test_fit_ols__needs_no_second_copy_of_the_data() -> None:
    X, Y = design(245, 8), data(245, 20_000).astype(np.float32)
    outputs = 20_000 * (8 + 1) * 8
    tracemalloc.start()
    fit_ols(Y, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tiles = 2 * 245 * TILE_VOXELS * 8
    assert peak < 2 * outputs + 2 * tiles < Y.nbytes
