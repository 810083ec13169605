"""Influence: closed forms against leaving people out for real."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.influence import (
    between_participant_test,
    contrast_influence,
    contrast_shares,
    cross_validated_test,
    crosses_alpha,
    leave_one_out_t,
)
from voxcloud.models.ols import fit_ols, t_contrast

N1, N2 = 17, 14
N = N1 + N2
PEOPLE = [f"{i + 1:02d}" for i in range(N)]
DIFFERENCE = np.array([0.0, 1.0, 0.0, 0.0])


def design(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(N), np.arange(N) < N1, rng.normal(size=(N, 2))]).astype(float)


@pytest.mark.parametrize("weights", [DIFFERENCE, [0, 0, 1, -2], [1, 0.5, 0, 0]])
def test_leave_one_out_t__equals_leaving_out(weights: list[float]) -> None:
    X, Y = design(), np.random.default_rng(1).normal(size=(N, 6))
    found = leave_one_out_t(Y, X, weights)
    for i in range(N):
        keep = np.arange(N) != i
        np.testing.assert_allclose(found[i], t_contrast(fit_ols(Y[keep], X[keep]), weights)[2], rtol=1e-9)
    np.testing.assert_array_equal(leave_one_out_t(Y[:, 0], X, weights), leave_one_out_t(Y[:, :1], X, weights)[:, 0])


@given(st.integers(0, 10_000), st.integers(6, 20))
@settings(max_examples=30, deadline=None)
def test_leave_one_out_t__equals_leaving_out_for_any_design(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y, c = rng.normal(size=n), rng.normal(size=3)
    found = leave_one_out_t(y, X, c)
    for i in range(n):
        keep = np.arange(n) != i
        assert found[i] == pytest.approx(sm.OLS(y[keep], X[keep]).fit().t_test(c).tvalue[0, 0], rel=1e-6)


def test_leave_one_out_t__of_the_only_person_at_a_level() -> None:
    X = np.column_stack([design()[:, :2], np.arange(N) == 0]).astype(float)
    y = np.random.default_rng(2).normal(size=N)
    whole = t_contrast(fit_ols(y[:, None], X), [0, 1, 0])[2][0]
    # Person 01 alone determines the third column: nothing changes for the others' contrast, the third has none left.
    assert leave_one_out_t(y, X, [0, 1, 0])[0] == pytest.approx(whole, rel=1e-9)
    alone = leave_one_out_t(y, X, [0, 0, 1])
    assert np.isnan(alone[0])
    assert np.isfinite(alone[1:]).all()
    keep = np.arange(N) != 5
    expected = t_contrast(fit_ols(y[keep, None], X[keep]), [0, 0, 1])[2][0]
    assert alone[5] == pytest.approx(expected, rel=1e-9)


def test_leave_one_out_t__is_nan_when_nothing_is_left() -> None:
    y = np.zeros(N)
    y[3] = 5.0
    found = leave_one_out_t(y, design()[:, :2], [0, 1])
    assert np.isnan(found[3])
    assert np.isfinite(np.delete(found, 3)).all()


def test_contrast_shares__add_up_to_one_and_are_the_weighted_sum() -> None:
    X, Y = design(), np.random.default_rng(3).normal(size=(N, 5))
    shares = contrast_shares(Y, X, DIFFERENCE)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    reduced = np.delete(X, 1, axis=1)
    rest = Y - reduced @ np.linalg.lstsq(reduced, Y, rcond=None)[0]
    a = np.linalg.pinv(X)[1]
    np.testing.assert_allclose(shares, a[:, None] * rest / (a @ Y), rtol=1e-8)


def test_contrast_shares__do_not_change_with_what_the_model_takes_out() -> None:
    X, y = design(), np.random.default_rng(4).normal(size=N)
    np.testing.assert_allclose(
        contrast_shares(y + 100 + 7 * X[:, 2], X, DIFFERENCE), contrast_shares(y, X, DIFFERENCE), atol=1e-9
    )


def test_contrast_shares__of_two_even_groups_are_even() -> None:
    X = design()[:, :2]
    shares = contrast_shares(X[:, 1] * 2.0 + 1.0, X, [0, 1])
    np.testing.assert_allclose(shares[:N1], N2 / N / N1)
    np.testing.assert_allclose(shares[N1:], N1 / N / N2)


def test_contrast_influence__finds_the_one_who_makes_it() -> None:
    y = np.random.default_rng(5).normal(0, 0.2, N)
    y[6] += 16.0
    found = contrast_influence(y, design()[:, :2], [0, 1], PEOPLE, alpha=0.5)
    assert found.largest_participant == "07"
    assert found.largest_share == pytest.approx(1.0, abs=0.15)
    # One person of 17 makes mean / (SD / sqrt(17)) = 1, whatever their size.
    assert found.t == pytest.approx(0.9, abs=0.2)


def test_contrast_influence__flags_who_moves_p_across_alpha() -> None:
    y = np.random.default_rng(6).normal(0, 1.0, N)
    y[:N1] += 0.3
    y[2] += 2.0
    X = design()[:, :2]
    found = contrast_influence(y, X, [0, 1], PEOPLE, alpha=0.05)
    truth = []
    for i in range(N):
        keep = np.arange(N) != i
        truth.append(stats.ttest_ind(y[keep][X[keep, 1] == 1], y[keep][X[keep, 1] == 0]).pvalue)
    whole = stats.ttest_ind(y[:N1], y[N1:]).pvalue
    np.testing.assert_allclose(found.loo_p, truth, rtol=1e-8)
    assert found.p == pytest.approx(whole)
    expected = [p for p, q in zip(PEOPLE, truth, strict=True) if (q < 0.05) != (whole < 0.05)]
    assert list(found.flagged_participants) == expected
    assert found.flagged
    assert expected == ["02", "21", "22", "25", "26", "28"]


def test_contrast_influence__does_not_flag_what_everybody_carries() -> None:
    y = np.random.default_rng(7).normal(0, 0.3, N)
    y[:N1] += 2.0
    found = contrast_influence(y, design()[:, :2], [0, 1], PEOPLE)
    assert not found.flagged
    assert found.flagged_participants == ()
    assert found.loo_t_min > 10
    assert found.loo_t_min <= found.t * 1.2
    assert max(found.share) < 0.15


def test_contrast_influence__takes_the_mean_over_voxels() -> None:
    Y, X = np.random.default_rng(8).normal(size=(N, 12)), design()
    one, other = (contrast_influence(v, X, DIFFERENCE, PEOPLE) for v in (Y, Y.mean(axis=1)))
    np.testing.assert_array_equal(one.loo_t, other.loo_t)


def test_contrast_influence__one_sided_p() -> None:
    y, X = np.random.default_rng(9).normal(size=N), design()[:, :2]
    greater = contrast_influence(y, X, [0, 1], PEOPLE, alternative="greater")
    less = contrast_influence(y, X, [0, 1], PEOPLE, alternative="less")
    np.testing.assert_allclose(greater.loo_p + less.loo_p, 1.0)


def test_contrast_influence__refuses_other_people() -> None:
    with pytest.raises(DesignError, match="expected 31 participants"):
        contrast_influence(np.ones(N), design(), DIFFERENCE, PEOPLE[:-1])


def test_crosses_alpha__counts_what_cannot_be_tested_as_not_significant() -> None:
    assert crosses_alpha(0.01, [0.02, 0.06, np.nan], 0.05).tolist() == [False, True, True]
    assert crosses_alpha(0.2, [0.02, 0.06, np.nan], 0.05).tolist() == [True, False, False]


def test_crosses_alpha__p_equal_to_alpha_is_significant() -> None:
    np.testing.assert_array_equal(crosses_alpha(0.05, [0.05, 0.0501, 0.01], 0.05), [False, True, False])
    np.testing.assert_array_equal(crosses_alpha(0.06, [0.05, 0.0501, np.nan], 0.05), [True, False, False])


def test_between_participant_test__is_the_two_sample_t() -> None:
    y = np.random.default_rng(10).normal(size=N) + np.r_[np.ones(N1), np.zeros(N2)]
    found = between_participant_test(y, design()[:, :2], [0, 1])
    reference = stats.ttest_ind(y[:N1], y[N1:])
    interval = reference.confidence_interval(0.95)
    assert (found.t, found.p, found.df) == pytest.approx((reference.statistic, reference.pvalue, N - 2))
    assert found.ci == pytest.approx((interval.low, interval.high))
    assert found.effect == pytest.approx(y[:N1].mean() - y[N1:].mean())
    assert found.standardised.lower < found.standardised.d < found.standardised.upper


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_between_participant_test__alternatives(alternative) -> None:  # type: ignore[no-untyped-def]
    y = np.random.default_rng(11).normal(size=N)
    found = between_participant_test(y, design()[:, :2], [0, 1], alternative=alternative)
    assert found.p == pytest.approx(stats.ttest_ind(y[:N1], y[N1:], alternative=alternative).pvalue)


def test_between_participant_test__refuses_missing_values() -> None:
    with pytest.raises(DesignError, match="one finite value"):
        between_participant_test([1.0, np.nan, 2.0], np.ones((3, 1)), [1])


@pytest.mark.parametrize("df", [1, 2, 3])
def test_between_participant_test__of_a_strong_effect_at_few_df(df: int) -> None:
    X = np.column_stack([np.ones(df + 2), np.arange(df + 2) < 1]).astype(float)
    y = 1e4 * X[:, 1] + np.linspace(-1, 1, df + 2)
    found = between_participant_test(y, X, [0, 1])
    residual = y[1:] - y[1:].mean()
    assert found.cohens_d == pytest.approx((y[0] - y[1:].mean()) / np.sqrt((residual**2).sum() / df))
    assert found.standardised.d == found.cohens_d
    assert 0 < found.standardised.lower < found.cohens_d < found.standardised.upper < np.inf


def test_cross_validated_test__leaves_out_whoever_has_no_value() -> None:
    y, X = np.random.default_rng(12).normal(size=N), design()
    y[[2, 20]] = np.nan
    keep = np.isfinite(y)
    found = cross_validated_test(y, X, DIFFERENCE)
    assert found is not None
    assert found.n == N - 2
    assert found.t == pytest.approx(t_contrast(fit_ols(y[keep, None], X[keep]), DIFFERENCE)[2][0])


def test_cross_validated_test__is_none_when_a_group_has_no_value() -> None:
    y, X = np.random.default_rng(13).normal(size=N), design()
    assert cross_validated_test(np.where(X[:, 1] == 1, np.nan, y), X, DIFFERENCE) is None
    assert cross_validated_test(np.full(N, np.nan), X, DIFFERENCE) is None
    assert cross_validated_test(np.where(np.arange(N) < 4, y, np.nan), X, DIFFERENCE) is None


def test_cross_validated_test__is_not_inflated_by_selection() -> None:
    """The best of many null voxels looks real to the people who chose it and not to those who were held out."""
    rng = np.random.default_rng(14)
    X = design()[:, :2]
    chosen, held = [], []
    for _ in range(60):
        Y = rng.normal(size=(N, 200))
        chosen.append(t_contrast(fit_ols(Y, X), [0, 1])[2].max())
        best = leave_one_out_t(Y, X, [0, 1]).argmax(axis=1)
        test = cross_validated_test(Y[np.arange(N), best], X, [0, 1])
        assert test is not None
        held.append(test.t)
    assert np.mean(chosen) > 2.5
    assert np.mean(held) < 0.5
