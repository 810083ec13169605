"""Tails of t, F and z against closed forms, scipy where scipy can, and symmetry."""

from __future__ import annotations

from math import lgamma, log, log1p

import numpy as np
import pytest
from scipy import stats

from voxcloud.inference import distributions as d

HEIGHTS = np.array([0.0, 1e-9, 1e-3, 0.5, 1.0, 2.5, 5.0, 9.0, 20.0, 80.0])


@pytest.mark.parametrize("df", [1.0, 2.0, 12.0, 27.0, 26.37, 1000.0])
def test_t_log_sf__equals_scipy_where_the_probability_fits_a_double(df: float) -> None:
    both = np.concatenate([-HEIGHTS, HEIGHTS])
    expected = stats.t.sf(both, df)
    kept = expected > 1e-290
    np.testing.assert_allclose(np.exp(d.t_log_sf(both, df))[kept], expected[kept], rtol=1e-11)


@pytest.mark.parametrize("t", [1e10, 1e200, 1e300])
def test_t_log_sf__is_the_cauchy_tail_at_one_degree_of_freedom(t: float) -> None:
    assert d.t_log_sf(t, 1.0) == pytest.approx(-np.log(t) - np.log(np.pi), rel=1e-13)


@pytest.mark.parametrize("t", [30.0, 1e10, 1e160])
def test_t_log_sf__is_the_closed_form_at_two_degrees_of_freedom(t: float) -> None:
    # P = (1 - t / sqrt(2 + t^2)) / 2 = 1 / (s (s + t)) with s = sqrt(2 + t^2)
    expected = -2.0 * np.log(t) - np.log(np.sqrt(1 + 2 / t / t) * (np.sqrt(1 + 2 / t / t) + 1))
    assert d.t_log_sf(t, 2.0) == pytest.approx(expected, rel=1e-12)


def test_t_log_sf__has_the_power_law_of_its_far_tail() -> None:
    # ln P(2t) - ln P(t) tends to -df ln 2.
    near, far = d.t_log_sf([1e30, 2e30], 27.0)
    assert near < -1800
    assert far - near == pytest.approx(-27.0 * np.log(2.0), rel=1e-12)


def test_t_log_sf__continues_where_the_library_ends() -> None:
    t = np.linspace(9e10, 1.4e11, 400)  # at 27 df across the switch at p = 1e-280
    log_p = d.t_log_sf(t, 27.0)
    assert log_p[0] > np.log(d.SAFE_P) > log_p[-1]
    np.testing.assert_allclose(np.diff(log_p) / np.diff(np.log(t)), -27.0, rtol=1e-9)


def test_t_log_sf__keeps_nan_and_takes_infinity() -> None:
    values = d.t_log_sf([np.nan, np.inf, -np.inf], 10.0)
    assert np.isnan(values[0])
    assert values[1] == -np.inf
    assert values[2] == 0.0


def test_t_to_z__is_finite_and_exact_at_80_with_27_degrees_of_freedom() -> None:
    assert d.t_to_z(80.0, 27.0) == pytest.approx(stats.norm.isf(stats.t.sf(80.0, 27)), rel=1e-12)
    assert d.t_to_z(80.0, 27.0) == pytest.approx(12.0858761, abs=1e-6)
    assert d.t_neglog10p(80.0, 27.0) == pytest.approx(76.45190937 / np.log(10), rel=1e-9)


def test_t_to_z__is_odd_and_keeps_small_values() -> None:
    t = np.array([1e-9, 1e-5, 0.1, 3.0, 90.0])
    np.testing.assert_array_equal(d.t_to_z(-t, 27.0), -d.t_to_z(t, 27.0))
    slope = stats.t.pdf(0, 27) / stats.norm.pdf(0)
    np.testing.assert_allclose(d.t_to_z(t[:2], 27.0), slope * t[:2], rtol=1e-8, atol=1e-16)


def test_t_to_z__undoes_z_at_large_degrees_of_freedom() -> None:
    z = np.linspace(-8, 8, 33)
    np.testing.assert_allclose(d.t_to_z(z, 1e12), z, atol=1e-9)


@pytest.mark.parametrize("df", [(1.0, 27.0), (3.0, 12.0), (2.0, 200.0)])
def test_f_log_sf__equals_scipy(df: tuple[float, float]) -> None:
    f = np.array([0.0, 0.3, 1.0, 4.0, 13.6, 71.8, 400.0])
    np.testing.assert_allclose(np.exp(d.f_log_sf(f, df)), stats.f.sf(f, *df), rtol=1e-11)


@pytest.mark.parametrize("t", [0.5, 8.0, 80.0, 1e14])
def test_f_log_sf__of_t_squared_is_the_two_sided_tail(t: float) -> None:
    assert d.f_log_sf(t**2, (1.0, 27.0)) == pytest.approx(d.t_log_sf(t, 27.0) + np.log(2.0), rel=1e-11)


def test_f_log_sf__has_a_closed_form_for_two_numerator_degrees_of_freedom() -> None:
    # P = (1 + 2 f / v)^(-v / 2)
    f = np.array([1.0, 1e3, 1e40])
    np.testing.assert_allclose(d.f_log_sf(f, (2.0, 30.0)), -15.0 * np.log1p(2.0 * f / 30.0), rtol=1e-12)


def test_z_log_sf__equals_scipy_far_out() -> None:
    z = np.array([-5.0, 0.0, 3.0, 40.0, 1e4])
    np.testing.assert_allclose(d.z_log_sf(z), stats.norm.logsf(z), rtol=1e-13)
    np.testing.assert_allclose(d.z_from_log(d.z_log_sf(z)), z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.3, 1e-3, 1.7e-6, 1e-30])
@pytest.mark.parametrize("df, kind", [(27.0, "T"), ((3.0, 27.0), "F"), (0.0, "Z")])
def test_critical_value__has_the_probability_asked_for(
    p: float, df: float | tuple[float, float], kind: d.Statistic
) -> None:
    assert d.log_sf(d.critical_value(p, df, kind), df, kind) == pytest.approx(np.log(p), rel=1e-10)


def test_log_sf__refuses_f_without_two_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="pair of degrees of freedom"):
        d.log_sf(4.0, 27.0, "F")
    with pytest.raises(ValueError, match="pair of degrees of freedom"):
        d.critical_value(0.001, 27.0, "F")


def test_log_sf__takes_t_written_with_one_numerator_degree_of_freedom() -> None:
    assert d.log_sf(3.0, (1.0, 27.0), "T") == d.t_log_sf(3.0, 27.0)


def test_p_from_log__and_neglog10_agree() -> None:
    log_p = d.t_log_sf([0.0, 2.0, 10.0], 27.0)
    np.testing.assert_allclose(-np.log10(d.p_from_log(log_p)), d.neglog10_from_log(log_p), rtol=1e-13)
    np.testing.assert_allclose(d.t_p([0.0, 2.0, 10.0], 27.0), np.exp(log_p), rtol=1e-15)


def log_beta_tail(a: float, b: float, log_odds: float) -> float:
    """ln I_x(a, b) at x = 1 / (1 + exp(log_odds)) from its power series, all terms of which are positive.

    I_x = x^a (1 - x)^b / (a B(a, b)) sum_n (a + b)_n / (a + 1)_n x^n; written for this test, in plain floats.
    """
    x = 1.0 / (1.0 + np.exp(min(log_odds, 700.0)))
    log_x = -log_odds - log1p(np.exp(-log_odds)) if log_odds > 0 else log(x)
    total, term, n = 1.0, 1.0, 0
    while term > 1e-18 * total:
        term *= (a + b + n) / (a + 1 + n) * x
        total += term
        n += 1
    front = a * log_x + b * (log_odds + log_x) - log(a) - (lgamma(a) + lgamma(b) - lgamma(a + b))
    return float(front + log(total))


@pytest.mark.parametrize("df", [1.0, 3.0, 12.0, 26.37, 27.0, 45.0])
@pytest.mark.parametrize("t", [2.0, 8.0, 80.0, 1e4, 1e12, 1e40])
def test_t_log_sf__equals_its_power_series(t: float, df: float) -> None:
    expected = log_beta_tail(0.5 * df, 0.5, 2 * log(t) - log(df)) - log(2.0)
    assert d.t_log_sf(t, df) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("df", [(1.0, 27.0), (2.5, 26.37), (3.0, 12.0), (7.0, 100.0)])
@pytest.mark.parametrize("f", [3.0, 40.0, 1e4, 1e9, 1e60])
def test_f_log_sf__equals_its_power_series(f: float, df: tuple[float, float]) -> None:
    expected = log_beta_tail(0.5 * df[1], 0.5 * df[0], log(f) + log(df[0] / df[1]))
    assert d.f_log_sf(f, df) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("half", [1, 2, 3, 5])
@pytest.mark.parametrize("v", [12.0, 27.0, 200.0])
def test_f_log_sf__is_a_finite_sum_for_even_numerators(half: int, v: float) -> None:
    # P = x^(v/2) sum_(i < k/2) (v/2)_i / i! (1 - x)^i with x = v / (v + k f)
    k = 2.0 * half
    for f in (0.2, 3.0, 50.0, 1e6, 1e30):
        log_x = -log1p(k * f / v)
        terms = [1.0]
        for i in range(1, half):
            terms.append(terms[-1] * (0.5 * v + i - 1) / i * -np.expm1(log_x))
        assert d.f_log_sf(f, (k, v)) == pytest.approx(0.5 * v * log_x + log(sum(terms)), rel=1e-12)


@pytest.mark.parametrize("df, kind", [(27.0, "T"), ((1.0, 27.0), "F"), ((3.0, 27.0), "F")])
def test_log_sf__everything_shown_of_a_statistic_of_80_is_finite(
    df: float | tuple[float, float], kind: d.Statistic
) -> None:
    for value in (80.0, 80.0**2, 1e12):
        log_p = d.log_sf(value, df, kind)
        assert log_p < 0
        assert np.isfinite([log_p, d.z_from_log(log_p), d.neglog10_from_log(log_p)]).all()
        assert d.z_log_sf(d.z_from_log(log_p)) == pytest.approx(float(log_p), rel=1e-9)


@pytest.mark.parametrize("p", [0.4, 0.05, 1e-3, 1e-12, 1e-120])
def test_critical_value__has_closed_forms(p: float) -> None:
    assert d.critical_value(p, 1.0) == pytest.approx(1 / np.tan(np.pi * p), rel=1e-12)
    assert d.critical_value(p, 2.0) == pytest.approx((1 - 2 * p) / np.sqrt(2 * p * (1 - p)), rel=1e-12)
    for v in (12.0, 27.0):
        # P(F > f) = (1 + 2 f / v)^(-v / 2) with two numerator degrees of freedom
        assert d.critical_value(p, (2.0, v), "F") == pytest.approx(0.5 * v * np.expm1(-2 / v * log(p)), rel=1e-9)
        assert d.critical_value(p, (1.0, v), "F") == pytest.approx(d.critical_value(p / 2, v) ** 2, rel=1e-9)


@pytest.mark.parametrize("df", [(1.0, 13.0), (2.0, 27.0), (5.0, 26.37)])
@pytest.mark.parametrize("p", [0.05, 1e-3, 1e-8])
def test_critical_value__of_f_equals_scipy(p: float, df: tuple[float, float]) -> None:
    assert d.critical_value(p, df, "F") == pytest.approx(stats.f.isf(p, *df), rel=1e-9)
