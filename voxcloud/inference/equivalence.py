"""Equivalence: two one-sided tests with intervals, and the reading of a null result that needs them.

A large p or a BF01 of 3 says "not shown", not "no difference". A difference is shown to be small by an interval that
lies within bounds which were named beforehand in the units of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.inference.bayes import BayesFactor
from voxcloud.inference.t_tests import TTest, one_sample_test, paired_test, student_test, welch_test

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of an effect against bounds, all in the units of the data.

    ``p`` is the larger of the two one-sided p values; ``equivalent`` is ``p < alpha``, which is the same as saying
    that ``ci`` (confidence 1 - 2 alpha) lies within the bounds.

    Attributes
    ----------
    kind, effect, standard_error, df
        Of the t test behind it; the effect is a mean or a difference of means.
    bounds
        Named beforehand.
    p_above_lower, p_below_upper
        One-sided p of the effect above the lower and below the upper bound.
    p, alpha, equivalent
        The larger of the two, the level, and whether p is below it.
    ci, ci_95
        Intervals of the effect at 1 - 2 alpha and, for reporting, at 95 %.
    differs
        Whether the effect differs from zero, two-sided, at alpha.
    """

    kind: str
    effect: float
    standard_error: float
    df: float
    bounds: tuple[float, float]
    p_above_lower: float
    p_below_upper: float
    p: float
    alpha: float
    ci: tuple[float, float]
    ci_95: tuple[float, float]
    equivalent: bool
    differs: bool


@dataclass(frozen=True)
class NullReading:
    """What a comparison says about the absence of an effect.

    Attributes
    ----------
    verdict
        ``equivalent``, ``different``, ``different but within the bounds`` or ``undecided``.
    sentence
        For the report.
    bayes, equivalence
        What it was read from.
    """

    verdict: str
    sentence: str
    bayes: BayesFactor
    equivalence: Equivalence


def _check_bounds(bounds: tuple[float, float], alpha: float) -> None:
    low, high = bounds
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DesignError(
            f"equivalence test: expected bounds (low, high) with low < high in the units of the data, found {bounds}. "
            "Name the smallest effect that matters on either side."
        )
    if not 0.0 < alpha < 0.5:
        raise DesignError(f"equivalence test: expected alpha between 0 and 0.5, found {alpha}. 0.05 is usual.")


def tost_p(effect: ArrayLike, standard_error: ArrayLike, df: float, bounds: tuple[float, float]) -> Floats:
    """Compute the p of two one-sided tests for maps of effects.

    p = max(P(T > (effect - low)/se), P(T < (effect - high)/se)), T ~ t(df).

    Parameters
    ----------
    effect, standard_error
        Arrays of one shape, in the units of the data.
    df
        Degrees of freedom.
    bounds
        Lower and upper bound of what counts as equivalent, in the units of the data.

    Raises
    ------
    DesignError
        If the bounds are not ordered and finite.

    References
    ----------
    .. [1] Schuirmann DJ. J Pharmacokinet Biopharm 1987;15:657-680. doi:10.1007/BF01068419
    """
    _check_bounds(bounds, 0.05)
    estimate, error = np.asarray(effect, dtype=np.float64), np.asarray(standard_error, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = stats.t.sf((estimate - bounds[0]) / error, df)
        below = stats.t.cdf((estimate - bounds[1]) / error, df)
    return np.asarray(np.maximum(above, below), dtype=np.float64)


def confidence_interval(
    effect: ArrayLike, standard_error: ArrayLike, df: float, *, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Return the two-sided interval effect -/+ t(df) se, for scalars or maps.

    Parameters
    ----------
    effect, standard_error
        Arrays of one shape, in the units of the data.
    df
        Degrees of freedom.
    confidence
        Coverage, a proportion.
    """
    estimate, error = np.asarray(effect, dtype=np.float64), np.asarray(standard_error, dtype=np.float64)
    half = float(stats.t.isf((1.0 - confidence) / 2.0, df)) * error
    return np.asarray(estimate - half), np.asarray(estimate + half)


def equivalence_of(test: TTest, bounds: tuple[float, float], *, alpha: float = 0.05) -> Equivalence:
    """Test whether the effect of a t test lies within ``bounds``.

    Parameters
    ----------
    test
        A one-sample, paired, Student or Welch test.
    bounds
        Lower and upper bound in the units of the data, named before the data were seen.
    alpha
        Level of each one-sided test.

    Raises
    ------
    DesignError
        If the bounds are not ordered and finite, or alpha is out of range.

    References
    ----------
    .. [1] Lakens D. Equivalence tests. Soc Psychol Personal Sci 2017;8:355-362. doi:10.1177/1948550617697177
    """
    _check_bounds(bounds, alpha)
    above = float(stats.t.sf((test.effect - bounds[0]) / test.standard_error, test.df))
    below = float(stats.t.cdf((test.effect - bounds[1]) / test.standard_error, test.df))
    low, high = confidence_interval(test.effect, test.standard_error, test.df, confidence=1.0 - 2.0 * alpha)
    low_95, high_95 = confidence_interval(test.effect, test.standard_error, test.df)
    return Equivalence(
        kind=test.kind,
        effect=test.effect,
        standard_error=test.standard_error,
        df=test.df,
        bounds=bounds,
        p_above_lower=above,
        p_below_upper=below,
        p=max(above, below),
        alpha=alpha,
        ci=(float(low), float(high)),
        ci_95=(float(low_95), float(high_95)),
        equivalent=max(above, below) < alpha,
        differs=test.p < alpha,
    )


def tost_two_sample(
    first: ArrayLike,
    second: ArrayLike,
    bounds: tuple[float, float],
    *,
    alpha: float = 0.05,
    equal_var: bool = False,
) -> Equivalence:
    """Test whether the difference of two group means lies within ``bounds`` (Welch unless ``equal_var``).

    Parameters
    ----------
    first, second
        Vectors of values, one per participant.
    bounds, alpha
        As in :func:`equivalence_of`, which also says what is refused.
    equal_var
        Pool the variances.
    """
    test = student_test(first, second) if equal_var else welch_test(first, second)
    return equivalence_of(test, bounds, alpha=alpha)


def tost_one_sample(values: ArrayLike, bounds: tuple[float, float], *, alpha: float = 0.05) -> Equivalence:
    """Test whether the mean of ``values`` (n,) lies within ``bounds``; see :func:`equivalence_of`."""
    return equivalence_of(one_sample_test(values), bounds, alpha=alpha)


def tost_paired(
    first: ArrayLike, second: ArrayLike, bounds: tuple[float, float], *, alpha: float = 0.05
) -> Equivalence:
    """Test whether the mean of first - second over pairs, both (n,), lies within ``bounds``.

    See :func:`equivalence_of`.
    """
    return equivalence_of(paired_test(first, second), bounds, alpha=alpha)


def read_null(bayes: BayesFactor, equivalence: Equivalence) -> NullReading:
    """Say in words what a comparison shows; a Bayes factor alone never says "no difference".

    The verdict is ``equivalent`` (the interval lies within the bounds), ``different`` (the effect is not zero at
    alpha), ``different but within the bounds`` (both), or ``undecided``.
    """
    if equivalence.equivalent:
        verdict = "different but within the bounds" if equivalence.differs else "equivalent"
    else:
        verdict = "different" if equivalence.differs else "undecided"
    low, high = equivalence.bounds
    sentence = (
        f"Difference {equivalence.effect:.4g} (95% CI {equivalence.ci_95[0]:.4g} to {equivalence.ci_95[1]:.4g}); "
        f"equivalence within {low:.4g} to {high:.4g}: p = {equivalence.p:.3g}; BF01 = {bayes.bf01:.3g}, of at most "
        f"{bayes.max_bf01:.3g} at n = {' and '.join(str(n) for n in bayes.n)}: {verdict}."
    )
    return NullReading(verdict=verdict, sentence=sentence, bayes=bayes, equivalence=equivalence)
