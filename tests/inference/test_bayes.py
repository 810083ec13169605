"""JZS Bayes factors: closed limits, an independent integral, printed values."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy import integrate, special, stats

from voxcloud.errors import DesignError
from voxcloud.inference.bayes import (
    bayes_factor,
    jzs_bf01,
    log_bf01_from_t,
    log_bf01_map,
    max_bf01,
    one_sample_bf,
    paired_bf,
    two_sample_bf,
)
from voxcloud.inference.t_tests import welch_test


def _bf01_over_effects(t: float, df: float, effective_n: float, scale: float) -> float:
    """The same quantity by another way: the noncentral t density averaged over the Cauchy prior of the effect."""

    def weighted(angle: float) -> float:
        effect = scale * np.tan(angle)
        return float(stats.nct.pdf(t, df, effect * np.sqrt(effective_n)))

    # delta = scale tan(angle) turns the Cauchy density into a uniform one.
    width = np.arctan(1.0)
    pieces = np.linspace(-2 * width + 1e-9, 2 * width - 1e-9, 9)
    total = sum(
        integrate.quad(weighted, low, high, epsabs=0, epsrel=1e-10, limit=200)[0]
        for low, high in itertools.pairwise(pieces)
    )
    return float(stats.t.pdf(t, df)) / (total / (4 * width))


@pytest.mark.parametrize("t", [0.0, 0.31, 1.0, 2.5, 4.0])
@pytest.mark.parametrize(("n1", "n2"), [(17, 18), (16, None), (5, 40)])
def test_jzs_bf01__equals_the_average_over_effects(t: float, n1: int, n2: int | None) -> None:
    df = n1 - 1 if n2 is None else n1 + n2 - 2
    effective = n1 if n2 is None else n1 * n2 / (n1 + n2)
    assert float(jzs_bf01(t, n1, n2)) == pytest.approx(_bf01_over_effects(t, df, effective, 0.707), rel=2e-7)


@pytest.mark.parametrize(("df", "effective_n"), [(1.0, 2.0), (33.0, 8.74), (2000.0, 500.0), (1e6, 2.5e5)])
@pytest.mark.parametrize("t", [0.0, 1.7, 12.0, 300.0])
def test_log_bf01_from_t__equals_adaptive_quadrature_in_log_space(t: float, df: float, effective_n: float) -> None:
    power = -0.5 * (df + 1.0)

    def log_integrand(u: np.ndarray) -> np.ndarray:
        g = np.exp(u)
        shrink = 1.0 + effective_n * g
        return (
            np.log(0.707 / np.sqrt(2 * np.pi))
            - 0.5 * u
            - 0.707**2 / (2 * g)
            - 0.5 * np.log(shrink)
            + power * np.log1p(t**2 / (df * shrink))
        )

    grid = np.linspace(-9, 60, 400_001)
    top = log_integrand(grid).max()
    total = integrate.simpson(np.exp(log_integrand(grid) - top), x=grid)
    expected = power * np.log1p(t**2 / df) - top - np.log(total)
    assert float(log_bf01_from_t(t, df, effective_n)) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(("n1", "n2", "expected"), [(17, 18, 3.08), (16, None, 3.91)])
def test_max_bf01__of_the_model_study(n1: int, n2: int | None, expected: float) -> None:
    assert max_bf01(n1, n2) == pytest.approx(expected, abs=0.005)


def test_max_bf01__is_reached_at_zero_and_nowhere_passed() -> None:
    assert float(jzs_bf01(0.0, 17, 18)) == max_bf01(17, 18)
    assert np.all(jzs_bf01(np.array([1e-3, 0.1, 1.0]), 17, 18) < max_bf01(17, 18))


def test_log_bf01_from_t__stays_finite_where_bf01_underflows() -> None:
    values = log_bf01_from_t(np.array([80.0, 1e4, 1e8]), 500.0, 250.0)
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) < 0)
    assert values[1] < -745.0


def test_log_bf01_from_t__passes_nan_and_infinity_on() -> None:
    values = log_bf01_from_t(np.array([[np.nan, np.inf], [-np.inf, 0.0]]), 33.0, 8.7)
    assert values.shape == (2, 2)
    assert np.isnan(values[0, 0])
    assert values[0, 1] == values[1, 0] == -np.inf
    assert np.isfinite(values[1, 1])


def test_log_bf01_map__equals_the_direct_value() -> None:
    t = np.concatenate([np.random.default_rng(1).normal(0, 3, 3000), [0.0, 80.0, -500.0, 9999.0, 2e4]])
    for df, effective_n in ((12.0, 4.0), (33.0, 8.742857), (27.0, 7.5), (1e4, 2.5e3)):
        difference = log_bf01_map(t, df, effective_n) - log_bf01_from_t(t, df, effective_n)
        assert np.abs(difference).max() < 1e-6


def test_log_bf01_map__falls_with_absolute_t() -> None:
    values = log_bf01_map(np.linspace(0, 30, 200_001), 33.0, 8.742857)
    assert np.all(np.diff(values) < 0)


def test_log_bf01_map__is_the_same_however_the_map_is_cut() -> None:
    t = np.random.default_rng(2).normal(0, 2, 5000)
    t[7] = np.nan
    whole = log_bf01_map(t, 27.0, 7.0)
    pieces = np.concatenate([log_bf01_map(piece, 27.0, 7.0) for piece in np.split(t, [1, 40, 4100])])
    np.testing.assert_array_equal(whole, pieces)
    assert np.isnan(whole[7])


def test_log_bf01_map__is_fast_enough_for_whole_brains() -> None:
    t = np.random.default_rng(3).normal(size=200_000)
    start = time.process_time()
    log_bf01_map(t, 33.0, 8.742857)
    assert time.process_time() - start < 2.0


def test_two_sample_bf__takes_the_equal_variance_t() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=17), rng.normal(0.5, 3.0, size=18)
    result = two_sample_bf(x, y)
    assert result.t == pytest.approx(stats.ttest_ind(x, y).statistic, rel=1e-12)
    assert result.bf01 == pytest.approx(float(jzs_bf01(result.t, 17, 18)), rel=1e-12)
    assert result.bf10 == pytest.approx(1 / result.bf01, rel=1e-12)
    assert result.max_bf01 == max_bf01(17, 18)


def test_paired_bf__is_the_one_sample_factor_of_the_differences() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=16), rng.normal(size=16)
    assert paired_bf(x, y).bf01 == one_sample_bf(x - y).bf01
    assert paired_bf(x, y).max_bf01 == max_bf01(16)


def test_bayes_factor__refuses_welch() -> None:
    with pytest.raises(DesignError, match="equal-variance"):
        bayes_factor(welch_test([1.0, 2.0, 4.0], [1.0, 2.5, 3.0]))


@pytest.mark.parametrize(("n1", "n2"), [(1, None), (1, 20), (20, 0)])
def test_jzs_bf01__refuses_groups_that_are_too_small(n1: int, n2: int | None) -> None:
    with pytest.raises(DesignError, match="at least 2"):
        jzs_bf01(1.0, n1, n2)


@pytest.mark.parametrize(("n1", "n2"), [(17, 18), (16, None), (2, 2), (400, 300)])
@pytest.mark.parametrize("scale", [0.5, 0.707, 1.0])
def test_max_bf01__has_a_closed_form(n1: int, n2: int | None, scale: float) -> None:
    # At t = 0 the likelihood of an effect d is exp(-N d^2 / 2); its mean over a Cauchy prior is erfcx(scale sqrt(N/2)).
    effective = n1 if n2 is None else n1 * n2 / (n1 + n2)
    expected = 1 / special.erfcx(scale * np.sqrt(effective / 2))
    assert max_bf01(n1, n2, scale=scale) == pytest.approx(expected, rel=1e-10)


def test_log_bf01_from_t__of_a_contrast_is_that_of_the_two_groups() -> None:
    x = np.column_stack([np.arange(35) < 17, np.arange(35) >= 17]).astype(float)
    effective = 1 / (np.array([1, -1]) @ np.linalg.inv(x.T @ x) @ np.array([1, -1]))
    assert log_bf01_from_t(2.1, 33, effective) == pytest.approx(np.log(jzs_bf01(2.1, 17, 18)), rel=1e-12)


def test_one_sample_bf__takes_the_t_of_scipy() -> None:
    values = np.random.default_rng(6).normal(0.4, 1.0, 16)
    found = one_sample_bf(values, null=0.1)
    assert found.t == pytest.approx(stats.ttest_1samp(values, 0.1).statistic, rel=1e-12)
    assert found.bf01 == pytest.approx(_bf01_over_effects(found.t, 15, 16, 0.707), rel=1e-6)
    assert found.log_bf01 == pytest.approx(np.log(found.bf01), rel=1e-12)
