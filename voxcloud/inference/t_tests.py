"""Student's and Welch's t tests, from values or from printed means and standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from voxcloud.errors import DesignError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TTest:
    """One t test with the interval that belongs to it.

    Attributes
    ----------
    kind
        Welch, Student, one-sample or paired.
    t, df, p
        The test; p is two-sided.
    effect, standard_error
        The mean (less the null), or the difference of means, in the units of the data.
    ci, confidence
        Two-sided interval of the effect and its level.
    cohens_d
        The effect over the pooled standard deviation (two samples) or over that of the values.
    n
        One size per group.
    """

    kind: str
    t: float
    df: float
    p: float
    effect: float
    standard_error: float
    ci: tuple[float, float]
    confidence: float
    cohens_d: float
    n: tuple[int, ...]


def checked_sample(values: ArrayLike, name: str, minimum: int = 2) -> Floats:
    """Return ``values`` as a vector of finite numbers.

    Raises
    ------
    DesignError
        If fewer than ``minimum`` values are there, or one of them is not a finite number.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < minimum:
        raise DesignError(
            f"{name}: expected a vector of at least {minimum} values, found shape {array.shape}. "
            "Add participants, or leave this comparison out."
        )
    missing = np.flatnonzero(~np.isfinite(array))
    if missing.size:
        raise DesignError(
            f"{name}: expected finite values, found {missing.size} that are not (first at position {missing[0]}). "
            "Leave those participants out by name."
        )
    return array


def _finish(
    kind: str, effect: float, error: float, df: float, d: float, n: tuple[int, ...], confidence: float
) -> TTest:
    if not 0.5 < confidence < 1.0:
        raise DesignError(
            f"{kind}: expected a confidence between 0.5 and 1, found {confidence}. Give a proportion, e.g. 0.95."
        )
    if not error > 0.0:
        raise DesignError(
            f"{kind}: expected values that vary, found a standard error of {error:g}. Leave this comparison out."
        )
    t = effect / error
    half = float(stats.t.isf((1.0 - confidence) / 2.0, df)) * error
    return TTest(
        kind=kind,
        t=t,
        df=df,
        p=2.0 * float(stats.t.sf(abs(t), df)),
        effect=effect,
        standard_error=error,
        ci=(effect - half, effect + half),
        confidence=confidence,
        cohens_d=d,
        n=n,
    )


def two_sample_from_summary(
    means: Sequence[float],
    sds: Sequence[float],
    n: Sequence[int],
    *,
    equal_var: bool = False,
    confidence: float = 0.95,
) -> TTest:
    """Compare two groups of which only mean, standard deviation and number are printed.

    Welch (the default): t = (m1 - m2) / sqrt(s1^2/n1 + s2^2/n2), with Satterthwaite's degrees of freedom.
    Student (``equal_var=True``): the pooled variance, n1 + n2 - 2 degrees of freedom.

    Parameters
    ----------
    means, sds, n
        Two values each: group means and standard deviations (divisor n - 1) in the units of the data, group sizes.
    equal_var
        Pool the variances.
    confidence
        Level of the interval.

    Raises
    ------
    DesignError
        If a group has fewer than two members or nothing varies.

    References
    ----------
    .. [1] Welch BL. The generalization of Student's problem when several different population variances are
       involved. Biometrika 1947;34:28-35. doi:10.1093/biomet/34.1-2.28
    """
    (mean_1, mean_2), (sd_1, sd_2), (n_1, n_2) = means, sds, n
    if min(n_1, n_2) < 2:
        raise DesignError(
            f"two-sample t: expected at least 2 participants per group, found {n_1} and {n_2}. "
            "Leave this comparison out."
        )
    pooled = np.sqrt(((n_1 - 1) * sd_1**2 + (n_2 - 1) * sd_2**2) / (n_1 + n_2 - 2))
    part_1, part_2 = sd_1**2 / n_1, sd_2**2 / n_2
    if equal_var:
        error, df = pooled * np.sqrt(1 / n_1 + 1 / n_2), float(n_1 + n_2 - 2)
    else:
        error = np.sqrt(part_1 + part_2)
        spread = part_1**2 / (n_1 - 1) + part_2**2 / (n_2 - 1)
        df = float((part_1 + part_2) ** 2 / spread) if spread > 0 else float(n_1 + n_2 - 2)
    effect = float(mean_1 - mean_2)
    d = effect / float(pooled) if pooled > 0 else float("nan")
    kind = "Student two-sample t" if equal_var else "Welch two-sample t"
    return _finish(kind, effect, float(error), df, d, (int(n_1), int(n_2)), confidence)


def student_test(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> TTest:
    """Compare two groups (n1,) and (n2,) by the equal-variance t test, whose t the two-sample Bayes factor takes.

    Formula and errors as in :func:`two_sample_from_summary`.
    """
    return _two_sample(first, second, equal_var=True, confidence=confidence)


def welch_test(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> TTest:
    """Compare two groups (n1,) and (n2,) by Welch's t test, which does not assume equal variances.

    Formula and errors as in :func:`two_sample_from_summary`.
    """
    return _two_sample(first, second, equal_var=False, confidence=confidence)


def _two_sample(first: ArrayLike, second: ArrayLike, *, equal_var: bool, confidence: float) -> TTest:
    x, y = checked_sample(first, "first group"), checked_sample(second, "second group")
    return two_sample_from_summary(
        (float(x.mean()), float(y.mean())),
        (float(x.std(ddof=1)), float(y.std(ddof=1))),
        (x.size, y.size),
        equal_var=equal_var,
        confidence=confidence,
    )


def one_sample_test(values: ArrayLike, *, null: float = 0.0, confidence: float = 0.95) -> TTest:
    """Test whether a mean differs from ``null``: t = (m - null) sqrt(n) / s, n - 1 degrees of freedom.

    Parameters
    ----------
    values
        (n,), one per participant.
    null
        In the units of the values.
    confidence
        Level of the interval, which is of the mean less ``null``.

    Raises
    ------
    DesignError
        If there are fewer than two finite values or they do not vary.
    """
    x = checked_sample(values, "one-sample t")
    sd = float(x.std(ddof=1))
    effect = float(x.mean()) - null
    d = effect / sd if sd > 0 else float("nan")
    return _finish("one-sample t", effect, sd / float(np.sqrt(x.size)), float(x.size - 1), d, (x.size,), confidence)


def paired_differences(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return first - second, pair by pair.

    Raises
    ------
    DesignError
        If the two vectors differ in length.
    """
    x, y = checked_sample(first, "first of the pairs"), checked_sample(second, "second of the pairs")
    if x.size != y.size:
        raise DesignError(
            f"paired test: expected pairs, found {x.size} and {y.size} values. "
            "Keep only the participants who have both sessions."
        )
    return x - y


def paired_test(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> TTest:
    """Test whether the mean of first - second differs from zero, over pairs, both (n,).

    Raises
    ------
    DesignError
        If the vectors differ in length, or as in :func:`one_sample_test`.
    """
    result = one_sample_test(paired_differences(first, second), confidence=confidence)
    return TTest(**{**result.__dict__, "kind": "paired t"})
