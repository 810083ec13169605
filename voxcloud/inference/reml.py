"""Unequal variances: one covariance of the rows for the whole map, by restricted maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.errors import DesignError
from voxcloud.inference.distributions import critical_value

Float64 = npt.NDArray[np.float64]

SELECTION_P = 0.001
PRIOR_PRECISION = float(np.exp(-8.0))  # variances ~ N(0, e^8) for data scaled to unit residual variance
STOP_CHANGE = 0.1
FIRST_LOG_RATE = 4.0
MAX_ITERATIONS = 128


@dataclass(frozen=True)
class PooledCovariance:
    """Second moment of the rows, summed over the voxels that the model explains.

    Attributes
    ----------
    sum_yy
        (n, n), sum over chosen voxels of y y' / (residual mean square).
    n_voxels
        How many voxels were chosen.
    """

    sum_yy: Float64
    n_voxels: int

    def __add__(self, other: PooledCovariance) -> PooledCovariance:
        return PooledCovariance(self.sum_yy + other.sum_yy, self.n_voxels + other.n_voxels)


@dataclass(frozen=True)
class Covariance:
    """Covariance of the rows and what follows from it.

    Attributes
    ----------
    v
        (n, n), scaled to a trace of n.
    whitener
        (n, n), symmetric W with W V W' = I.
    hyperparameters
        One variance per component, before scaling.
    erdf
        Error degrees of freedom after whitening.
    n_voxels
        Voxels that entered.
    """

    v: Float64
    whitener: Float64
    hyperparameters: tuple[float, ...]
    erdf: float
    n_voxels: int


def group_components(groups: Sequence[str]) -> tuple[tuple[str, ...], list[Float64]]:
    """Return one diagonal component per group, groups in order of first appearance, for unequal variances."""
    names = tuple(dict.fromkeys(groups))
    return names, [np.diag(np.array([float(g == name) for g in groups])) for name in names]


def pool_covariance(
    y: npt.ArrayLike,
    x: npt.ArrayLike,
    *,
    null_columns: Sequence[int] = (),
    selection_p: float = SELECTION_P,
) -> PooledCovariance:
    """Sum y y' over the voxels of a block whose effects of interest pass an F test.

    Each chosen voxel is divided by its residual standard deviation, so that voxels count alike; this draws the ratio
    of two groups' variances towards one, by about a tenth for ratios of 4 to 9. Blocks add up.

    Parameters
    ----------
    y
        (n, v), the data.
    x
        (n, p), the design.
    null_columns
        Columns that are not of interest; default none, the F test is of the whole design.
    selection_p
        Voxels with a larger p do not enter.

    Raises
    ------
    DesignError
        If the F test has no degrees of freedom left.

    References
    ----------
    1. Friston et al., NeuroImage 16:484 (2002), doi:10.1006/nimg.2002.1091
    """
    data, design = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
    n = data.shape[0]
    basis = _column_space(design)
    null = _column_space(design[:, list(null_columns)]) if null_columns else np.zeros((n, 0))
    df1, df2 = basis.shape[1] - null.shape[1], n - basis.shape[1]
    if df1 < 1 or df2 < 1:
        raise DesignError(f"Unequal variances: the F test needs degrees of freedom, found {df1} and {df2}.")
    fitted = basis @ (basis.T @ data)
    residual = np.sum((data - fitted) ** 2, axis=0)
    explained = np.sum((fitted - null @ (null.T @ data)) ** 2, axis=0)
    limit = critical_value(selection_p, (float(df1), float(df2)), "F")
    chosen = (explained / df1 > limit * residual / df2) & (residual > 0)
    scaled = data[:, chosen] * np.sqrt(df2 / residual[chosen])
    return PooledCovariance(scaled @ scaled.T, int(chosen.sum()))


def _column_space(design: Float64) -> Float64:
    u, s, _ = np.linalg.svd(design, full_matrices=False)
    rank = int(np.sum(s > max(design.shape) * np.finfo(np.float64).eps * s[0]))
    return np.asarray(u[:, :rank])


def estimate_covariance(
    pooled: PooledCovariance, x: npt.ArrayLike, components: Sequence[Float64], *, stop_change: float = STOP_CHANGE
) -> Covariance:
    """Estimate V = sum_i h_i Q_i by restricted maximum likelihood from the pooled second moment.

    Fisher scoring on the restricted log likelihood of C = sum y y' / s, as one effective observation, with a weak
    prior of precision l = exp(-8) on h: dF/dh_i = -tr(P Q_i (I - P C)) / 2 - l h_i and
    E[d2F/dh_i dh_j] = -tr(P Q_i P Q_j) / 2 - l [i = j], where P projects out the design under the current V.

    Parameters
    ----------
    components
        (n, n) each, e.g. those of ``group_components``.
    stop_change
        The last step is the first whose predicted gain in log likelihood is below this. The default, 0.1, is SPM12's:
        variances are then within about 1e-3 of the maximum. Take 1e-12 for the maximum itself.

    Raises
    ------
    DesignError
        If no voxel was chosen or a variance comes out at zero or below.

    References
    ----------
    1. Friston et al., NeuroImage 16:484 (2002), doi:10.1006/nimg.2002.1091
    2. Friston et al., NeuroImage 34:220 (2007), doi:10.1016/j.neuroimage.2006.08.035
    """
    if pooled.n_voxels == 0:
        raise DesignError(
            f"Unequal variances: no voxel passes the F test of the design at p < {SELECTION_P:g}, so there is nothing "
            "to estimate the variances from. Use equal variances."
        )
    design = np.asarray(x, dtype=np.float64)
    q = [np.asarray(c, dtype=np.float64) for c in components]
    h = _fisher_scoring(pooled.sum_yy / pooled.n_voxels, _column_space(design), q, stop_change)
    v = _weighted_sum(h, q)
    v = v * (v.shape[0] / np.trace(v))
    whitener = _inverse_root(v)
    return Covariance(
        v=v,
        whitener=whitener,
        hyperparameters=tuple(float(value) for value in h),
        erdf=effective_df(whitener @ v @ whitener.T, whitener @ design),
        n_voxels=pooled.n_voxels,
    )


def _weighted_sum(h: Float64, q: list[Float64]) -> Float64:
    return np.asarray(sum((hi * qi for hi, qi in zip(h, q, strict=True)), np.zeros_like(q[0])))


def _inverse_root(v: Float64) -> Float64:
    """Return the symmetric W with W V W = I."""
    if not np.any(v - np.diag(np.diag(v))):
        return np.diag(1.0 / np.sqrt(np.diag(v)))
    values, vectors = np.linalg.eigh(v)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def _fisher_scoring(c: Float64, basis: Float64, q: list[Float64], stop_change: float) -> Float64:
    h = np.array([float(np.any(np.diag(qi))) for qi in q])
    log_rate, last_gain = FIRST_LOG_RATE, np.inf
    for _ in range(MAX_ITERATIONS):
        v = _weighted_sum(h, q)
        if np.linalg.eigvalsh(v)[0] <= 0:
            break
        gradient, information = _derivatives(c, basis, q, h, v)
        step = _damped_step(gradient, information, log_rate)
        h = h + step
        gain = float(gradient @ step)
        log_rate += -1.0 if gain > last_gain else 0.25
        last_gain = gain
        if gain < stop_change:
            if np.linalg.eigvalsh(_weighted_sum(h, q))[0] > 0:
                return h
            break
    shown = ", ".join(f"{value:.4g}" for value in h)
    raise DesignError(
        f"Unequal variances: expected variances above 0 after at most {MAX_ITERATIONS} steps, found {shown}. A group "
        "may be too small or its images constant: use equal variances."
    )


def _derivatives(c: Float64, basis: Float64, q: list[Float64], h: Float64, v: Float64) -> tuple[Float64, Float64]:
    """Return the gradient of the log likelihood and the expected information."""
    inverse = np.linalg.inv(v)
    inverse_x = inverse @ basis
    p = inverse - inverse_x @ np.linalg.solve(basis.T @ inverse_x, inverse_x.T)
    pq = [p @ qi for qi in q]
    residual = np.eye(c.shape[0]) - p @ c
    gradient = np.array([-0.5 * np.sum(m * residual.T) for m in pq]) - PRIOR_PRECISION * h
    information = np.array([[0.5 * np.sum(a * b.T) for b in pq] for a in pq])
    return gradient, information + PRIOR_PRECISION * np.eye(len(q))


def _damped_step(gradient: Float64, information: Float64, log_rate: float) -> Float64:
    """Return the Fisher step, shortened where the information is small.

    It is where dh/dt = gradient - information (h - h0) stands at t = exp(log_rate) / geometric mean of the
    information: the full step for a large rate, steepest ascent for a small one.
    """
    values, vectors = np.linalg.eigh(information)
    time = np.exp(log_rate - np.mean(np.log(values)))
    return np.asarray(vectors @ (-np.expm1(-values * time) / values * (vectors.T @ gradient)))


def effective_df(v: npt.ArrayLike, x: npt.ArrayLike) -> float:
    """Return the Satterthwaite degrees of freedom tr(RV)^2 / tr(RVRV), R = I - X X^+.

    n - rank for V = I, and so after whitening.

    Parameters
    ----------
    v
        (n, n), covariance of the rows.
    x
        (n, p), design; rank deficiency is allowed.

    References
    ----------
    1. Worsley and Friston, NeuroImage 2:173 (1995), doi:10.1006/nimg.1995.1023
    """
    covariance = np.asarray(v, dtype=np.float64)
    basis = _column_space(np.asarray(x, dtype=np.float64))
    rv = covariance - basis @ (basis.T @ covariance)
    return float(np.trace(rv) ** 2 / np.sum(rv * rv.T))
