"""Exponential learning curves, one per participant.

Two signs are kept apart: ``delta`` is the parameter of the equation (negative where the score falls), ``improvement``
is larger for better learning whichever way the score runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxcloud.errors import DesignError, TableError

Floats = NDArray[np.float64]

# Flags that make a fit unphysical.
GAMMA_NOT_POSITIVE = "gamma not positive: no plateau is approached"
GAMMA_AT_BOUND = "gamma at a bound of the search"
PLATEAU_OUTSIDE_RANGE = "plateau outside the range of the score"
DELTA_SIGN_CONTRARY = "delta has the sign of a loss"
# Flags that a reader should know of.
FLAT = "score does not change: gamma is undetermined"
TOO_FEW = "fewer observations than parameters + 1: no standard errors"
PLATEAU_NOT_REACHED = "95 % of the change lies after the last day: the plateau is extrapolated"
UNPHYSICAL = (GAMMA_NOT_POSITIVE, GAMMA_AT_BOUND, PLATEAU_OUTSIDE_RANGE, DELTA_SIGN_CONTRARY, FLAT)

_GRID = 400
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_REFINEMENTS = 90
_PARAMETERS = 3


@dataclass(frozen=True)
class LearningCurve:
    """The fit y(t) = alpha - delta exp(-gamma t) of one participant.

    ``alpha`` (plateau) and ``delta`` (alpha minus the score at day 0) have the unit of the score, ``gamma`` is per day.
    ``improvement`` is delta where larger scores are better and -delta where smaller ones are. ``days_to_95`` = 3/gamma,
    when 95 % of the change is done (NaN if gamma is not positive). Standard errors are NaN where they are not defined.
    """

    participant_id: str
    alpha: float
    delta: float
    gamma: float
    improvement: float
    days_to_95: float
    alpha_se: float
    delta_se: float
    gamma_se: float
    residual_sd: float
    r_squared: float
    n: int
    flags: tuple[str, ...]

    @property
    def unphysical(self) -> bool:
        """Whether a flag says that the parameters cannot be read as learning."""
        return any(flag in UNPHYSICAL for flag in self.flags)

    def predict(self, days: ArrayLike) -> Floats:
        """Return the curve at ``days``."""
        return np.asarray(self.alpha - self.delta * np.exp(-self.gamma * np.asarray(days, dtype=np.float64)))


@dataclass(frozen=True)
class Exclusion:
    """A value that lies too far from the others, and whose it is."""

    participant_id: str
    parameter: str
    value: float
    mean: float
    sd: float
    distance_sd: float
    reason: str


def _basis(days: Floats, gamma: Floats) -> Floats:
    """(1 - exp(-gamma t)) / gamma, which goes over into t at gamma = 0, where alpha and delta have no value."""
    product = gamma * days
    safe = np.where(np.abs(product) < 1e-12, 1.0, product)
    return np.asarray(days * np.where(np.abs(product) < 1e-12, 1.0, -np.expm1(-product) / safe))


def _profile(scores: Floats, days: Floats, present: Floats, gamma: Floats) -> tuple[Floats, Floats, Floats]:
    """Residual sum of squares, intercept and slope on the basis at given gamma; all arrays end in (..., days)."""
    basis = _basis(days, gamma[..., None])
    n = present.sum(axis=-1)
    mean_basis = (present * basis).sum(axis=-1) / n
    mean_score = (present * scores).sum(axis=-1) / n
    centred_basis = present * (basis - mean_basis[..., None])
    centred_score = present * (scores - mean_score[..., None])
    square = (centred_basis**2).sum(axis=-1)
    slope = (centred_basis * centred_score).sum(axis=-1) / np.where(square > 0, square, 1.0)
    residual = centred_score - slope[..., None] * centred_basis
    return (residual**2).sum(axis=-1), mean_score - slope * mean_basis, slope


def _search_ranges(days: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Lowest and highest gamma to look at, per participant.

    Up to where 99.9 % is learned by the second visit: beyond it the data cannot tell one gamma from another. Down to a
    curve that bends the wrong way as much as one that is 95 % done at the last day bends the right way.
    """
    low, high = np.empty(len(days)), np.empty(len(days))
    for i, (row, present) in enumerate(zip(days, known, strict=True)):
        distinct = np.unique(row[present])
        low[i], high[i] = -3.0 / (distinct[-1] - distinct[0]), 7.0 / (distinct[1] - distinct[0])
    return low, high


def _best_gamma(scores: Floats, days: Floats, present: Floats, low: Floats, high: Floats) -> Floats:
    negative = np.linspace(low, 0.0, _GRID // 4 + 1, axis=1)
    grid = np.concatenate([negative, np.geomspace(1e-3 * np.abs(low), high, _GRID, axis=1)], axis=1)
    best = _profile(scores[:, None], days[:, None], present[:, None], grid)[0].argmin(axis=1)
    rows = np.arange(best.size)
    left, right = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
    for _ in range(_REFINEMENTS):
        inner_left, inner_right = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        lower = _profile(scores, days, present, inner_left)[0] < _profile(scores, days, present, inner_right)[0]
        left, right = np.where(lower, left, inner_left), np.where(lower, inner_right, right)
    return np.asarray((left + right) / 2.0)


def _standard_errors(days: Floats, alpha: float, delta: float, gamma: float, rss: float) -> tuple[float, ...]:
    nothing = (float("nan"),) * (_PARAMETERS + 1)
    spare = days.size - _PARAMETERS
    if spare < 1 or not np.isfinite(alpha):
        return nothing
    decay = np.exp(-gamma * days)
    jacobian = np.column_stack([np.ones_like(days), -decay, delta * days * decay])
    size = np.linalg.norm(jacobian, axis=0)
    if not np.all(size > 0) or np.linalg.cond(jacobian / size) > 1e10:
        return (*nothing[:-1], float(np.sqrt(rss / spare)))
    inverse = np.linalg.inv((jacobian / size).T @ (jacobian / size))
    errors = np.sqrt(np.diag(inverse) * rss / spare) / size
    return (*(float(error) for error in errors), float(np.sqrt(rss / spare)))


def fit_learning_curves(
    participant_ids: Sequence[str],
    days: ArrayLike,
    scores: ArrayLike,
    *,
    larger_is_better: bool,
    score_range: tuple[float, float],
) -> tuple[LearningCurve, ...]:
    """Fit an exponential learning curve to each participant.

    y(t) = alpha - delta exp(-gamma t) by least squares. For a given gamma the model is linear in alpha and delta, so
    gamma alone is searched: on a grid that reaches over zero, then by golden section (variable projection).

    Parameters
    ----------
    participant_ids
        (n,) labels.
    days
        (d,) or (n, d) days since the study's baseline event.
    scores
        (n, d) scores in any one unit; NaN where a participant has none.
    larger_is_better
        True for percent correct, False for a response time.
    score_range
        Smallest and largest score that can occur, e.g. (0, 100) percent, (0, inf) ms.

    Returns
    -------
    tuple of LearningCurve
        In the order of ``participant_ids``; flags say where a fit cannot be read as learning.

    Raises
    ------
    TableError
        If sizes disagree or a participant has scores on fewer than three days.

    References
    ----------
    .. [1] Golub GH, Pereyra V. The differentiation of pseudo-inverses and nonlinear least squares problems whose
       variables separate. SIAM J Numer Anal 1973;10:413-432. doi:10.1137/0710036
    """
    y = np.asarray(scores, dtype=np.float64)
    if y.ndim != 2 or y.shape[0] != len(participant_ids):
        raise TableError(
            f"learning curves: expected scores of {len(participant_ids)} participants by days, found shape {y.shape}. "
            "Give one row per participant."
        )
    given = np.asarray(days, dtype=np.float64)
    if given.shape[-1:] != y.shape[1:] or given.ndim > 2 or (given.ndim == 2 and given.shape != y.shape):
        raise TableError(
            f"learning curves: expected days of shape {y.shape[1:]} or {y.shape}, found {given.shape}. "
            "Give one day per column of the scores."
        )
    t = np.broadcast_to(given, y.shape)
    known = np.isfinite(y) & np.isfinite(t)
    for participant, row, present in zip(participant_ids, t, known, strict=True):
        if np.unique(row[present]).size < _PARAMETERS:
            raise TableError(
                f"participant {participant}: a learning curve needs scores on at least {_PARAMETERS} days, found "
                f"{np.unique(row[present]).size}. Leave the participant out of the learning curves."
            )
    low, high = _search_ranges(t, known)
    filled, day = np.where(known, y, 0.0), np.where(known, t, 0.0)
    present = known.astype(np.float64)
    gamma = _best_gamma(filled, day, present, low, high)
    rss, start, slope = _profile(filled, day, present, gamma)
    return tuple(
        _curve(
            participant_ids[i],
            t[i][known[i]],
            y[i][known[i]],
            (float(gamma[i]), float(start[i]), float(slope[i]), float(rss[i])),
            (float(low[i]), float(high[i])),
            larger_is_better,
            score_range,
        )
        for i in range(len(participant_ids))
    )


def _curve(
    participant_id: str,
    days: Floats,
    scores: Floats,
    fit: tuple[float, float, float, float],
    search: tuple[float, float],
    larger_is_better: bool,
    score_range: tuple[float, float],
) -> LearningCurve:
    gamma, start, slope, rss = fit
    # At gamma = 0 the curve is a straight line: no plateau.
    delta = slope / gamma if gamma != 0.0 else float("nan")
    alpha = start + delta
    total = float(((scores - scores.mean()) ** 2).sum())
    alpha_se, delta_se, gamma_se, residual_sd = _standard_errors(days, alpha, delta, gamma, rss)
    improvement = delta if larger_is_better else -delta
    flat = total <= 1e-20 * float((scores**2).sum())
    flags = []
    if flat:
        flags.append(FLAT)
    else:
        if not gamma > 0.0:
            flags.append(GAMMA_NOT_POSITIVE)
        if gamma - search[0] < 1e-4 * abs(search[0]) or search[1] - gamma < 1e-4 * search[1]:
            flags.append(GAMMA_AT_BOUND)
        if not score_range[0] <= alpha <= score_range[1]:
            flags.append(PLATEAU_OUTSIDE_RANGE)
        if not improvement >= 0.0:
            flags.append(DELTA_SIGN_CONTRARY)
        if gamma > 0.0 and 3.0 / gamma > days.max():
            flags.append(PLATEAU_NOT_REACHED)
    if days.size <= _PARAMETERS:
        flags.append(TOO_FEW)
    nan = float("nan")
    return LearningCurve(
        participant_id=participant_id,
        alpha=float(scores.mean()) if flat else alpha,
        delta=0.0 if flat else delta,
        gamma=nan if flat else gamma,
        improvement=0.0 if flat else improvement,
        days_to_95=3.0 / gamma if gamma > 0.0 and not flat else nan,
        alpha_se=nan if flat else alpha_se,
        delta_se=nan if flat else delta_se,
        gamma_se=nan if flat else gamma_se,
        residual_sd=0.0 if flat else residual_sd,
        r_squared=nan if flat else 1.0 - rss / total,
        n=int(days.size),
        flags=tuple(flags),
    )


def find_outliers(
    participant_ids: Sequence[str], values: ArrayLike, parameter: str, *, n_sd: float = 3.0
) -> tuple[Exclusion, ...]:
    """Name the participants whose value lies more than ``n_sd`` standard deviations from the mean of all.

    One pass; mean and SD include the value itself, so the largest distance possible is (n - 1)/sqrt(n): with 10 people
    or fewer nobody can lie beyond 3 SD. NaN values are left out of mean and SD and are not outliers.

    Parameters
    ----------
    participant_ids
        (n,) labels.
    values
        (n,) values of one parameter.
    parameter
        Its name, for the report.
    n_sd
        Distance beyond which a value is excluded.

    Raises
    ------
    DesignError
        If sizes disagree.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.shape != (len(participant_ids),):
        raise DesignError(
            f"outliers of {parameter}: expected {len(participant_ids)} values, found shape {x.shape}. "
            "Give one value per participant."
        )
    known = x[np.isfinite(x)]
    if known.size < 2 or np.ptp(known) == 0:
        return ()
    mean, sd = float(known.mean()), float(known.std(ddof=1))
    return tuple(
        Exclusion(
            participant_id=participant_ids[i],
            parameter=parameter,
            value=float(x[i]),
            mean=mean,
            sd=sd,
            distance_sd=float((x[i] - mean) / sd),
            reason=f"{parameter} = {x[i]:.4g} lies {abs(x[i] - mean) / sd:.1f} SD from the mean {mean:.4g}",
        )
        for i in range(x.size)
        if np.isfinite(x[i]) and abs(x[i] - mean) > n_sd * sd
    )
