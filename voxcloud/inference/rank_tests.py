"""Rank tests and the normality test of small samples, with exact and with normal p values.

Exact p values are conditional on the ties, from the full distribution of the midranks; the normal z has the variance
corrected for ties and no continuity correction, as Stata prints it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.inference.t_tests import checked_sample, paired_differences

Floats = NDArray[np.float64]

ALTERNATIVES = ("two-sided", "greater", "less")

# Above this number of values the exact distribution is left out: the normal one agrees to four digits.
EXACT_LIMIT = 100


@dataclass(frozen=True)
class RankTest:
    """A Wilcoxon test: the statistic, z, and both p values.

    Attributes
    ----------
    kind, alternative
        Which test, in which direction.
    statistic
        Sum of the ranks of the positive values (signed rank) or of the first group (rank sum).
    z, p_normal
        Normal approximation with ties and without continuity correction.
    p_exact
        Over all signs or divisions of the ranks as they are, ties included; NaN above 100 values.
    n, n_zero, n_tied
        What was ranked, per group; zeros that were dropped before; values that are tied.
    rank_biserial
        -1 to 1: balance of positive and negative ranks, or of all pairs between the groups.
    median
        Of the values or differences, or the difference of the groups' medians, in their units.
    """

    kind: str
    statistic: float
    z: float
    p_exact: float
    p_normal: float
    alternative: str
    n: tuple[int, ...]
    n_zero: int
    n_tied: int
    rank_biserial: float
    median: float

    @property
    def p(self) -> float:
        """The exact p where there is one, else the normal p."""
        return self.p_normal if np.isnan(self.p_exact) else self.p_exact


@dataclass(frozen=True)
class NormalityTest:
    """Shapiro-Wilk's W (``w``, 0 to 1, 1 is normal), its p, and the number of values."""

    w: float
    p: float
    n: int


def shapiro_wilk(values: ArrayLike) -> NormalityTest:
    """Test normality by Shapiro and Wilk's W.

    Parameters
    ----------
    values
        Vector of 3 to 5,000 values.

    Raises
    ------
    DesignError
        If there are too few or too many values, or all are equal.

    References
    ----------
    .. [1] Royston P. Remark AS R94. Appl Stat 1995;44:547-551. doi:10.2307/2986146
    """
    x = checked_sample(values, "Shapiro-Wilk", minimum=3)
    if x.size > 5000 or np.ptp(x) == 0:
        found = "all equal" if np.ptp(x) == 0 else f"{x.size}"
        raise DesignError(f"Shapiro-Wilk: expected 3 to 5000 values that vary, found {found}. Leave this test out.")
    result = stats.shapiro(x)
    return NormalityTest(w=float(result.statistic), p=float(result.pvalue), n=x.size)


def _check_alternative(alternative: str) -> None:
    if alternative not in ALTERNATIVES:
        raise DesignError(
            f"rank test: expected alternative to be one of {', '.join(ALTERNATIVES)}, found '{alternative}'. "
            "Write one of them."
        )


def _tail(support: Floats, probability: Floats, observed: float, centre: float, alternative: str) -> float:
    # Midranks are doubled to whole numbers before they come here, so comparisons of the sums are exact.
    if alternative == "greater":
        chosen = support >= observed
    elif alternative == "less":
        chosen = support <= observed
    else:
        chosen = np.abs(support - centre) >= abs(observed - centre)
    return float(min(1.0, probability[chosen].sum()))


def _normal_p(z: float, alternative: str) -> float:
    if alternative == "two-sided":
        return 2.0 * float(stats.norm.sf(abs(z)))
    return float(stats.norm.sf(z if alternative == "greater" else -z))


def _n_tied(values: Floats) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _signed_rank_distribution(doubled: NDArray[np.int64]) -> Floats:
    """Probability of each doubled rank sum when every sign is a fair coin."""
    probability = np.zeros(int(doubled.sum()) + 1)
    probability[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(probability)
        shifted[rank:] = probability[: probability.size - rank]
        probability = 0.5 * (probability + shifted)
    return probability


def _rank_sum_distribution(doubled: NDArray[np.int64], size: int) -> Floats:
    """Probability of each doubled rank sum of ``size`` values drawn without replacement."""
    counts = np.zeros((size + 1, int(doubled.sum()) + 1))
    counts[0, 0] = 1.0
    for rank in doubled:
        # From the largest set down, so that each value enters a set once.
        for taken in range(size, 0, -1):
            counts[taken, rank:] += counts[taken - 1, : counts.shape[1] - rank]
    total: Floats = counts[size] / counts[size].sum()
    return total


def wilcoxon_one_sample(values: ArrayLike, *, null: float = 0.0, alternative: str = "two-sided") -> RankTest:
    """Test whether values lie symmetrically about ``null``, by Wilcoxon's signed ranks.

    W+ = sum of the ranks of |x - null| over x > null; z = (W+ - n(n+1)/4) / sqrt(sum of squared ranks / 4).
    Zeros are dropped, as Wilcoxon did.

    Parameters
    ----------
    values
        Vector of values, one per participant.
    null
        Median under the null hypothesis.
    alternative
        ``two-sided``, ``greater`` or ``less``.

    Raises
    ------
    DesignError
        If no value differs from ``null`` or the alternative is unknown.

    References
    ----------
    .. [1] Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bull 1945;1:80-83. doi:10.2307/3001968
    """
    return _signed_rank("one-sample Wilcoxon", checked_sample(values, "one-sample Wilcoxon", 1) - null, alternative)


def wilcoxon_signed_rank(first: ArrayLike, second: ArrayLike, *, alternative: str = "two-sided") -> RankTest:
    """Compare pairs by the signed ranks of first - second, both (n,); see :func:`wilcoxon_one_sample`.

    Raises
    ------
    DesignError
        If the vectors differ in length or no pair differs.
    """
    return _signed_rank("Wilcoxon signed-rank", paired_differences(first, second), alternative)


def _signed_rank(kind: str, differences: Floats, alternative: str) -> RankTest:
    _check_alternative(alternative)
    # Two differences that are equal on paper (0.3 - 0.1, 0.2 - 0.0) must tie although they differ in the last bit.
    scale = float(np.abs(differences).max()) or 1.0
    rounded = np.round(differences / scale, 10)
    kept = rounded[rounded != 0.0]
    if kept.size == 0:
        raise DesignError(f"{kind}: expected values that differ from the null, found none. Leave this comparison out.")
    doubled = np.rint(2.0 * stats.rankdata(np.abs(kept))).astype(np.int64)
    observed, total = int(doubled[kept > 0].sum()), int(doubled.sum())
    # Sums of doubled ranks: mean total/2, variance sum(rank^2)/4 on the doubled scale; ties are in the ranks already.
    z = (observed - total / 2.0) / float(np.sqrt((doubled.astype(np.float64) ** 2).sum() / 4.0))
    p_exact = float("nan")
    if kept.size <= EXACT_LIMIT:
        probability = _signed_rank_distribution(doubled)
        support = np.arange(probability.size, dtype=np.float64)
        p_exact = _tail(support, probability, observed, total / 2.0, alternative)
    return RankTest(
        kind=kind,
        statistic=observed / 2.0,
        z=z,
        p_exact=p_exact,
        p_normal=_normal_p(z, alternative),
        alternative=alternative,
        n=(kept.size,),
        n_zero=int(differences.size - kept.size),
        n_tied=_n_tied(np.abs(kept)),
        rank_biserial=2.0 * observed / total - 1.0,
        median=float(np.median(differences)),
    )


def rank_sum(first: ArrayLike, second: ArrayLike, *, alternative: str = "two-sided") -> RankTest:
    """Compare two groups by Wilcoxon's rank sum (Mann-Whitney).

    W = sum of the ranks of the first group; z = (W - n1(N+1)/2) / sqrt(n1 n2 s^2 / N), s^2 the variance of all ranks.

    Parameters
    ----------
    first, second
        Vectors of values, one per participant.
    alternative
        ``greater`` means that the first group has the larger values.

    Raises
    ------
    DesignError
        If a group is empty, all values are equal or the alternative is unknown.

    References
    ----------
    .. [1] Mann HB, Whitney DR. On a test of whether one of two random variables is stochastically larger than the
       other. Ann Math Stat 1947;18:50-60. doi:10.1214/aoms/1177730491
    """
    _check_alternative(alternative)
    x, y = checked_sample(first, "first group", 1), checked_sample(second, "second group", 1)
    both = np.concatenate([x, y])
    if np.ptp(both) == 0:
        raise DesignError(
            f"rank sum: expected values that vary, found {both.size} equal ones. Leave this comparison out."
        )
    doubled = np.rint(2.0 * stats.rankdata(both)).astype(np.int64)
    observed, centre = int(doubled[: x.size].sum()), x.size * (both.size + 1.0)
    variance = x.size * y.size / both.size * float(doubled.var(ddof=1))
    z = (observed - centre) / float(np.sqrt(variance))
    p_exact = float("nan")
    if both.size <= EXACT_LIMIT:
        probability = _rank_sum_distribution(doubled, x.size)
        support = np.arange(probability.size, dtype=np.float64)
        p_exact = _tail(support, probability, observed, centre, alternative)
    u = observed / 2.0 - x.size * (x.size + 1) / 2.0
    return RankTest(
        kind="Wilcoxon rank-sum",
        statistic=observed / 2.0,
        z=z,
        p_exact=p_exact,
        p_normal=_normal_p(z, alternative),
        alternative=alternative,
        n=(x.size, y.size),
        n_zero=0,
        n_tied=_n_tied(both),
        rank_biserial=2.0 * u / (x.size * y.size) - 1.0,
        median=float(np.median(x) - np.median(y)),
    )
