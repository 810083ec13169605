"""t tests against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.inference.t_tests import (
    TTest,
    one_sample_test,
    paired_test,
    student_test,
    two_sample_from_summary,
    welch_test,
)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(1.0, 1.0, 17), RNG.normal(0.5, 3.0, 18)


def _assert_equal(ours: TTest, theirs: object, level: float = 0.95) -> None:
    interval = theirs.confidence_interval(level)  # type: ignore[attr-defined]
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-12)  # type: ignore[attr-defined]
    assert ours.df == pytest.approx(theirs.df, rel=1e-12)  # type: ignore[attr-defined]
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-11)  # type: ignore[attr-defined]
    assert ours.ci == pytest.approx((interval.low, interval.high), rel=1e-11)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_welch_test__equals_scipy(level: float) -> None:
    _assert_equal(welch_test(X, Y, confidence=level), stats.ttest_ind(X, Y, equal_var=False), level)


def test_student_test__equals_scipy() -> None:
    _assert_equal(student_test(X, Y), stats.ttest_ind(X, Y))


def test_paired_test__equals_scipy() -> None:
    result = paired_test(X, Y[:17])
    _assert_equal(result, stats.ttest_rel(X, Y[:17]))
    assert (result.kind, result.n) == ("paired t", (17,))


def test_one_sample_test__equals_scipy_and_gives_the_effect_against_the_null() -> None:
    result = one_sample_test(X, null=0.4)
    theirs = stats.ttest_1samp(X, 0.4)
    assert (result.t, result.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-11)
    assert result.effect == pytest.approx(X.mean() - 0.4)
    assert result.cohens_d == pytest.approx((X.mean() - 0.4) / X.std(ddof=1))


def test_one_sample_test__p_stays_positive_in_the_far_tail() -> None:
    assert 0.0 < one_sample_test(np.linspace(1.0, 1.02, 28)).p < 1e-30


@pytest.mark.parametrize("equal_var", [False, True])
def test_two_sample_from_summary__equals_the_test_on_values(equal_var: bool) -> None:
    test = student_test if equal_var else welch_test
    summary = two_sample_from_summary(
        (X.mean(), Y.mean()), (X.std(ddof=1), Y.std(ddof=1)), (17, 18), equal_var=equal_var
    )
    assert summary == test(X, Y)


def test_two_sample_from_summary__one_group_without_spread_is_allowed() -> None:
    """A printed SD of 0.000 is a rounded one."""
    result = two_sample_from_summary((0.1, 0.0), (0.412, 0.0), (17, 18))
    assert result.df == pytest.approx(16.0)
    assert result.p == pytest.approx(0.332, abs=0.0006)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: welch_test([1.0], [1.0, 2.0]), "at least 2 values"),
        (lambda: welch_test([1.0, 1.0], [2.0, 2.0]), "values that vary"),
        (lambda: one_sample_test([1.0, np.nan, 2.0]), "first at position 1"),
        (lambda: paired_test([1.0, 2.0], [1.0, 2.0, 3.0]), "2 and 3 values"),
        (lambda: one_sample_test([1.0, 2.0], confidence=95), "a proportion"),
        (lambda: two_sample_from_summary((1, 2), (1, 1), (1, 9)), "found 1 and 9"),
    ],
)
def test_t_tests__refuse_with_words(call: object, words: str) -> None:
    with pytest.raises(DesignError, match=words):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("equal_var", [False, True])
def test_two_sample_from_summary__cohens_d_is_over_the_pooled_sd(equal_var: bool) -> None:
    test = (student_test if equal_var else welch_test)(X, Y)
    pooled = np.sqrt((X.var(ddof=1) * 16 + Y.var(ddof=1) * 17) / 33)
    assert test.cohens_d == pytest.approx((X.mean() - Y.mean()) / pooled, rel=1e-12)
    if equal_var:
        assert test.cohens_d == pytest.approx(test.t * np.sqrt(1 / 17 + 1 / 18), rel=1e-12)
