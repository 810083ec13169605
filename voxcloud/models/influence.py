"""Who drives a contrast: shares, exact leave-one-out statistics, and the test between participants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.ols import StandardisedEffect, fit_ols, scaled_pinv, standardised_effect, t_contrast

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Alternative = Literal["two-sided", "greater", "less"]

# A row whose leverage is within rounding of 1 alone determines some column.
ALONE = 1e-9


@dataclass(frozen=True)
class BetweenTest:
    """A t test of a contrast over participants.

    Attributes
    ----------
    t, df, p : the test.
    effect, se : the contrast and its standard error, in the unit of the values.
    ci : interval of the effect at ``level``, two-sided whatever the alternative.
    variance_factor : ``c'(X'X)^- c``.
    n : rows that entered.
    """

    t: float
    df: float
    p: float
    effect: float
    se: float
    ci: tuple[float, float]
    level: float
    alternative: str
    variance_factor: float
    n: int

    @property
    def cohens_d(self) -> float:
        """The effect over the residual standard deviation; Cohen's d for two groups."""
        return self.t * float(np.sqrt(self.variance_factor))

    @property
    def standardised(self) -> StandardisedEffect:
        """The same with its interval, which is computed when it is asked for."""
        return standardised_effect(self.t, self.df, self.variance_factor, level=self.level)


@dataclass(frozen=True)
class ContrastInfluence:
    """What each participant contributes to a contrast, and what is left without them.

    Attributes
    ----------
    participant_ids : in the order of the rows.
    share : (n,) share of the contrast; they add up to 1.
    t, df, p : the contrast over everybody.
    loo_t, loo_p : (n,) the same without each participant; NaN where the contrast cannot be estimated without them.
    largest_participant, largest_share : who has the largest share.
    loo_t_min, loo_t_max : range of ``loo_t``.
    loo_t_min_participant, loo_t_max_participant : who was left out for them.
    crosses : (n,) whether leaving that participant out moves p across alpha.
    flagged, flagged_participants : whether anybody's does, and whose.
    """

    participant_ids: tuple[str, ...]
    share: Floats
    t: float
    df: float
    p: float
    loo_t: Floats
    loo_p: Floats
    alpha: float
    largest_participant: str
    largest_share: float
    loo_t_min: float
    loo_t_min_participant: str
    loo_t_max: float
    loo_t_max_participant: str
    crosses: Bools
    flagged: bool
    flagged_participants: tuple[str, ...]


def between_participant_test(
    values: npt.ArrayLike,
    X: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    df: float | None = None,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> BetweenTest:
    """Test a contrast of one value per participant, ``t = c'b / sqrt(s^2 c'(X'X)^- c)``.

    With the mean of a cluster as value and the voxel model's design this is the t to print beside the voxel-wise z:
    the unit of observation is the person. Inside a cluster that was selected on the same data it is descriptive.

    Parameters
    ----------
    values : (n,) one per row of X; whitened like X where the model is.
    X : (n, p) design.
    weights : (p,) contrast.
    df : degrees of freedom; n - rank by default.
    alternative : direction of p.
    level : coverage of the two-sided interval.

    Raises
    ------
    DesignError
        If the values are not a vector of finite numbers or do not fit the design.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or not np.isfinite(y).all():
        raise DesignError(
            f"between-participant test: expected one finite value per participant, found shape {y.shape}."
        )
    fit = fit_ols(y[:, None], X, df=df)
    c = np.asarray(weights, dtype=np.float64).reshape(-1)
    effect, se, t = (float(v[0]) for v in t_contrast(fit, c))
    half = float(stats.t.isf((1 - level) / 2, fit.df)) * se
    factor = float(c @ fit.xtx_inv @ c)
    p = float(t_p(np.array(t), fit.df, alternative))
    return BetweenTest(t, fit.df, p, effect, se, (effect - half, effect + half), level, alternative, factor, len(y))


def cross_validated_test(
    held_out: npt.ArrayLike, X: npt.ArrayLike, weights: npt.ArrayLike, *, alternative: Alternative = "two-sided"
) -> BetweenTest | None:
    """Test each participant's value in the cluster that was found without them.

    ``held_out`` is NaN for whoever's removal leaves no cluster; those rows are left out. Their absence favours the
    cluster, so ``n`` belongs beside the result. None where the contrast cannot be tested on the rows that are left.

    Parameters
    ----------
    held_out : (n,) value of each participant, NaN where there is none.
    X : (n, p) design, whitened like the values where the model is.
    weights : (p,) contrast.

    References
    ----------
    Esterman et al. (2010), Avoiding non-independence in fMRI data analysis, doi:10.1016/j.neuroimage.2009.10.092.
    """
    y, design = np.asarray(held_out, dtype=np.float64), np.asarray(X, dtype=np.float64)
    usable = np.isfinite(y)
    c = np.asarray(weights, dtype=np.float64).reshape(-1)
    if not usable.any() or not design[usable].any():
        return None
    pinv, rank = scaled_pinv(design[usable])
    estimable = np.allclose((c @ pinv) @ design[usable], c, rtol=0, atol=1e-8 * float(np.abs(c).max()))
    if usable.sum() <= rank or not estimable:
        return None
    return between_participant_test(y[usable], design[usable], c, alternative=alternative)


def leave_one_out_t(
    values: npt.ArrayLike, X: npt.ArrayLike, weights: npt.ArrayLike, *, df: float | None = None
) -> Floats:
    """Return t of the contrast without each row in turn, exactly and without refitting.

    With residuals r, leverages h and ``a = X (X'X)^- c``, leaving row i out gives
    ``effect - a_i r_i / (1 - h_i)``, variance factor ``c'(X'X)^- c + a_i^2 / (1 - h_i)``,
    residual sum of squares ``rss - r_i^2 / (1 - h_i)`` and one degree of freedom less.
    A row with h = 1 alone determines a column: NaN if the contrast needs it, and t unchanged if not.

    Parameters
    ----------
    values : (n,) or (n, v).
    X : (n, p) design.
    weights : (p,) contrast.
    df : degrees of freedom of the full fit; n - rank by default.

    Returns
    -------
    (n,) or (n, v), row i without row i.

    References
    ----------
    Cook, Weisberg (1982), Residuals and Influence in Regression, chapter 3.
    """
    y = np.asarray(values, dtype=np.float64)
    table = y if y.ndim == 2 else y[:, None]
    parts = _Parts(table, X, weights, df)
    alone = parts.leverage > 1 - ALONE
    left = np.where(alone, 1.0, 1 - parts.leverage)[:, None]
    a, r = parts.a[:, None], parts.residual
    effect = parts.effect - a * r / left
    factor = parts.factor + a**2 / left
    rss = parts.rss - r**2 / left
    free = np.where(alone, parts.df, parts.df - 1)[:, None]
    # What rounding leaves of a fit that is perfect without this row.
    rss = np.where(rss <= 1e-12 * parts.rss, np.nan, rss)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(effect / np.sqrt(rss / np.where(free > 0, free, np.nan) * factor))
    found[alone & (np.abs(parts.a) > ALONE * np.abs(parts.a).max())] = np.nan
    return found if y.ndim == 2 else found[:, 0]


def contrast_shares(values: npt.ArrayLike, X: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """Return each participant's share of a contrast, shape (n,) or (n, v); shares add up to 1.

    The estimate is a weighted sum ``c'b = sum_i a_i y_i`` with ``a = X (X'X)^- c``. What the model without the
    contrast explains adds nothing to it, so ``c'b = sum_i a_i e_i`` with e the residuals of that reduced model, and
    ``share_i = a_i e_i / c'b = a_i^2 / |a|^2 + a_i r_i / c'b``. A share does not change when a constant or a multiple
    of a covariate is added to all values. One person who alone is not zero has a share near 1; a person who goes
    against the contrast has a negative one, and others may then exceed 1.

    Parameters
    ----------
    values : (n,) or (n, v).
    X : (n, p) design.
    weights : (p,) contrast.
    """
    y = np.asarray(values, dtype=np.float64)
    parts = _Parts(y if y.ndim == 2 else y[:, None], X, weights, None)
    a = parts.a[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.asarray(a**2 / parts.factor + a * parts.residual / parts.effect)
    return shares if y.ndim == 2 else shares[:, 0]


def contrast_influence(
    values: npt.ArrayLike,
    X: npt.ArrayLike,
    weights: npt.ArrayLike,
    participant_ids: Sequence[str],
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    df: float | None = None,
) -> ContrastInfluence:
    """Return who drives a contrast of one value per participant, and what is left without each.

    Parameters
    ----------
    values : (n,), or (n, v) to take the mean over voxels first.
    X : (n, p) design.
    weights : (p,) contrast.
    participant_ids : one per row.
    alpha : level at which a decision is made.

    Raises
    ------
    DesignError
        If values, design and participants do not fit one another.
    """
    y = np.asarray(values, dtype=np.float64)
    y = y.mean(axis=1) if y.ndim == 2 else y
    people = tuple(participant_ids)
    if len(people) != len(y):
        raise DesignError(f"influence: expected {len(y)} participants, one per value, found {len(people)}.")
    whole = between_participant_test(y, X, weights, df=df, alternative=alternative)
    loo = leave_one_out_t(y, X, weights, df=df)
    p_values = t_p(loo, np.where(_alone(np.asarray(X, dtype=np.float64)), whole.df, whole.df - 1), alternative)
    shares = contrast_shares(y, X, weights)
    crosses = crosses_alpha(whole.p, p_values, alpha)
    largest = int(np.nanargmax(shares)) if np.isfinite(shares).any() else 0
    estimable = np.isfinite(loo).any()
    low, high = (int(np.nanargmin(loo)), int(np.nanargmax(loo))) if estimable else (0, 0)
    return ContrastInfluence(
        people, shares, whole.t, whole.df, whole.p, loo, p_values, alpha, people[largest], float(shares[largest]),
        float(loo[low]), people[low], float(loo[high]), people[high], crosses, bool(crosses.any()),
        tuple(p for p, crossed in zip(people, crosses, strict=True) if crossed),
    )  # fmt: skip


def crosses_alpha(p: float, loo_p: npt.ArrayLike, alpha: float) -> Bools:
    """Return for whom leaving out changes the decision ``p <= alpha``; works for p of a voxel, a cluster or a person
    test.

    A NaN, where the contrast cannot be estimated without them, counts as not significant.

    Parameters
    ----------
    p : with everybody.
    loo_p : (n,) without each.
    alpha : level of the decision.
    """
    return np.asarray((np.asarray(loo_p, dtype=np.float64) <= alpha) != (p <= alpha))


def t_p(t: npt.ArrayLike, df: npt.ArrayLike, alternative: Alternative) -> Floats:
    """Return the p value of t in the direction of the question."""
    value = np.asarray(t, dtype=np.float64)
    if alternative == "two-sided":
        return np.asarray(2.0 * stats.t.sf(np.abs(value), df))
    return np.asarray(stats.t.sf(value if alternative == "greater" else -value, df))


class _Parts:
    """The pieces of a fit that influence is made of."""

    def __init__(self, y: Floats, X: npt.ArrayLike, weights: npt.ArrayLike, df: float | None) -> None:
        fit = fit_ols(y, X, df=df)
        c = np.asarray(weights, dtype=np.float64).reshape(-1)
        self.effect, _, _ = t_contrast(fit, c)
        self.a = fit.X @ (fit.xtx_inv @ c)
        self.factor = float(c @ fit.xtx_inv @ c)
        self.leverage = np.einsum("ij,jk,ik->i", fit.X, fit.xtx_inv, fit.X)
        self.residual = fit.residuals(y)
        self.rss = fit.resms * fit.df
        self.df = fit.df


def _alone(X: Floats) -> Bools:
    pinv, _ = scaled_pinv(X)
    return np.asarray(np.einsum("ij,ji->i", X, pinv) > 1 - ALONE)
