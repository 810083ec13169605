"""Ordinary least squares of many voxels at once: the same bits however the voxels are cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from voxcloud.errors import DesignError

Floats = npt.NDArray[np.float64]

# Voxels per matrix product. BLAS picks its kernels by the shape of the product, and those may round differently; every
# product here has this width (the last is padded), so a voxel's numbers do not depend on its neighbours. At 256 voxels
# data and residuals of some hundred rows stay in the cache of one core.
TILE_VOXELS = 256

# Of the integral behind the interval of a standardised effect, and the normal quantile beyond which nothing is left.
QUADRATURE_NODES = 200
NORMAL_REACH = 9.0


@dataclass(frozen=True)
class OLSFit:
    """Least-squares fit of a design to many voxels.

    Attributes
    ----------
    beta : (p, v) coefficients; the minimum-norm solution in the scaled columns where the design is rank deficient.
    resms : (v,) residual sum of squares over ``df``; exactly 0 where the design reproduces the data to rounding.
    df : degrees of freedom of ``resms``, n - rank unless the caller passed effective ones.
    xtx_inv : (p, p) generalised inverse of X'X.
    rank : rank of X.
    X : (n, p) the design that was fitted.
    n_constant : voxels without residual variance (constant, or reproduced by the design); their t and F are NaN.
    """

    beta: Floats
    resms: Floats
    df: float
    xtx_inv: Floats
    rank: int
    X: Floats
    n_constant: int

    def residuals(self, Y: npt.ArrayLike, rows: npt.ArrayLike | None = None) -> Floats:
        """Return ``Y[rows] - X[rows] beta``, shape (rows, v); all rows by default."""
        data = np.asarray(Y)
        chosen = np.arange(len(self.X)) if rows is None else np.asarray(rows, dtype=np.intp)
        out = np.empty((chosen.size, self.beta.shape[1]))
        for i, row in enumerate(chosen):
            np.subtract(data[row], _combine(self.X[row], self.beta), out=out[i])
        return out

    def standardised_residuals(self, Y: npt.ArrayLike, rows: npt.ArrayLike | None = None) -> Floats:
        """Return residuals over ``sqrt(resms)``, shape (rows, v); NaN where a voxel has no residual variance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.residuals(Y, rows) / np.sqrt(_nan_where_constant(self.resms)))


@dataclass(frozen=True)
class PreparedDesign:
    """A design with its generalised inverse: what several calls of ``fit_ols`` on blocks of one map share.

    Attributes
    ----------
    X : (n, p) design.
    pinv : (p, n) generalised inverse.
    xtx_inv : (p, p) generalised inverse of X'X.
    rank : of X.
    """

    X: Floats
    pinv: Floats
    xtx_inv: Floats
    rank: int


def prepare_design(X: npt.ArrayLike) -> PreparedDesign:
    """Decompose a design once.

    Raises
    ------
    DesignError
        If it is not a finite matrix, or has no column that is not zero.
    """
    design = np.asarray(X, dtype=np.float64)
    if design.ndim != 2:
        raise DesignError(f"fit: expected a design of rows and columns, found shape {design.shape}.")
    pinv, rank = scaled_pinv(design)
    return PreparedDesign(design, pinv, pinv @ pinv.T, rank)


def fit_ols(Y: npt.ArrayLike, X: npt.ArrayLike | PreparedDesign, *, df: float | None = None) -> OLSFit:
    """Fit ``Y = X beta + e`` by least squares, ``beta = X^+ Y``, ``resms = |Y - X beta|^2 / df``.

    Arithmetic is float64 in tiles of fixed width, so that a voxel's result has the same bits in any block of voxels and
    memory beyond input and output is two tiles. For generalised least squares pass ``W Y`` and ``W X`` with
    ``W V W' = I`` and the effective ``df``.

    Parameters
    ----------
    Y : (n, v) data, float32 or float64; a NaN makes its own voxel NaN and no other.
    X : (n, p) design, or what ``prepare_design`` made of it; rank deficiency is allowed, inestimable contrasts must
        have been refused before.
    df : degrees of freedom of the residual variance; n - rank by default.

    Raises
    ------
    DesignError
        If shapes do not fit, the design is not finite, or no degree of freedom is left.
    """
    data, prepared = np.asarray(Y), X if isinstance(X, PreparedDesign) else prepare_design(X)
    design, rank = prepared.X, prepared.rank
    if data.ndim != 2 or len(data) != len(design):
        raise DesignError(
            f"fit: expected as many rows of data as of design, found shapes {data.shape} and {design.shape}."
        )
    free = float(len(design) - rank) if df is None else float(df)
    if not free > 0:
        raise DesignError(
            f"fit: {len(design)} rows and a design of rank {rank} leave {free:g} degrees of freedom; simplify the "
            "formula."
        )
    beta = np.empty((design.shape[1], data.shape[1]))
    rss = np.empty(data.shape[1])
    _fit_tiles(data, design, prepared.pinv, beta, rss)
    constant = rss == 0.0
    return OLSFit(beta, rss / free, free, prepared.xtx_inv, rank, design, int(constant.sum()))


def multiply_rows(weights: npt.ArrayLike, data: npt.ArrayLike) -> Floats:
    """Return ``weights @ data``, shape (m, v), with the same bits for a voxel in any block of voxels."""
    left, right = np.asarray(weights, dtype=np.float64), np.asarray(data)
    found = np.empty((len(left), right.shape[1]))
    tile, own = np.zeros((len(right), TILE_VOXELS)), np.empty((len(left), TILE_VOXELS))
    for start in range(0, right.shape[1], TILE_VOXELS):
        width = min(TILE_VOXELS, right.shape[1] - start)
        tile[:, :width] = right[:, start : start + width]
        tile[:, width:] = 0.0
        np.matmul(left, tile, out=own)
        found[:, start : start + width] = own[:, :width]
    return found


def t_contrast(fit: OLSFit, weights: npt.ArrayLike, *, resms_offset: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """Return effect, standard error and t of ``c'beta``, each (v,).

    ``se = sqrt((resms + offset) c'(X'X)^- c)``. The offset is 1e-3 of the largest resms in SPM's 'PET' defaults and 0
    in 'FMRI'. Voxels without residual variance have t = NaN, never infinity.

    Parameters
    ----------
    fit : of the model; t has ``fit.df`` degrees of freedom.
    weights : (p,), one per column of the design.
    resms_offset : added to the residual variance of every voxel, in the squared unit of the map.

    Raises
    ------
    DesignError
        If there is not one weight per column.
    """
    c = np.asarray(weights, dtype=np.float64).reshape(-1)
    _check_length(c.size, fit)
    effect = _combine(c, fit.beta)
    se = np.sqrt((fit.resms + resms_offset) * float(c @ fit.xtx_inv @ c))
    with np.errstate(invalid="ignore", divide="ignore"):
        return effect, se, np.asarray(effect / np.where(fit.resms == 0.0, np.nan, se))


def f_contrast(fit: OLSFit, weights: npt.ArrayLike, *, resms_offset: float = 0.0) -> Floats:
    """Return F of the rows ``C beta = 0``, shape (v,): ``(C b)'(C (X'X)^- C')^- (C b) / (rank(C) resms)``.

    Its degrees of freedom are ``contrast_rank(weights)`` and ``fit.df``; voxels without residual variance are NaN.

    Parameters
    ----------
    fit : of the model.
    weights : (q, p) or (p,), rows of which any may follow from the others.
    resms_offset : as in ``t_contrast``.

    Raises
    ------
    DesignError
        If there is not one weight per column.
    """
    C = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    _check_length(C.shape[1], fit)
    covariance = C @ fit.xtx_inv @ C.T
    spread = np.sqrt(np.diag(covariance))
    # Scaled to correlations first: in raw units a slope per mm3 would pass for zero beside a group difference.
    unit = np.where(spread > 0, spread, 1.0)
    values, vectors = np.linalg.eigh(covariance / np.outer(unit, unit))
    keep = values > values.max() * 1e-10
    # Rows that are independent and of unit variance, so that F is a plain sum of squares.
    rows = (vectors[:, keep] / np.sqrt(values[keep])).T @ (C / unit[:, None])
    total = np.zeros(fit.beta.shape[1])
    for row in rows:
        total += _combine(row, fit.beta) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / len(rows) / (_nan_where_constant(fit.resms) + resms_offset))


def contrast_rank(weights: npt.ArrayLike) -> int:
    """Return the numerator degrees of freedom of an F contrast."""
    return int(np.linalg.matrix_rank(np.atleast_2d(np.asarray(weights, dtype=np.float64))))


def partial_r(t: npt.ArrayLike, df: float, *, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Return the partial correlation ``t / sqrt(t^2 + df)`` and its interval by Fisher's z, each of the shape of t.

    The standard error of z is ``1 / sqrt(df - 1)``: df + 1 is what is left of n after the nuisance columns, less one.
    With df of 1 or less the interval is NaN.

    Parameters
    ----------
    t : statistic, any shape.
    df : its degrees of freedom.
    level : coverage of the interval.

    References
    ----------
    Fisher (1924), The distribution of the partial correlation coefficient, Metron 3:329-332.
    """
    value = np.asarray(t, dtype=np.float64)
    r = value / np.sqrt(value**2 + df)
    if df <= 1:
        return r, np.full_like(r, np.nan), np.full_like(r, np.nan)
    # arcsinh(t / sqrt(df)) is arctanh(r), without the loss near |r| = 1.
    z, half = np.arcsinh(value / np.sqrt(df)), float(special.ndtri(0.5 + level / 2)) / np.sqrt(df - 1)
    return r, np.tanh(z - half), np.tanh(z + half)


@dataclass(frozen=True)
class StandardisedEffect:
    """A contrast in units of the residual standard deviation (Cohen's d for two groups) with its interval.

    Attributes
    ----------
    d : the effect over the residual standard deviation; NaN where t is not finite.
    lower, upper : its interval.
    level : coverage of the interval.
    """

    d: float
    lower: float
    upper: float
    level: float


def standardised_effect(t: float, df: float, variance_factor: float, *, level: float = 0.95) -> StandardisedEffect:
    """Return ``d = c'beta / sigma = t sqrt(c'(X'X)^-1 c)`` with the exact interval from the non-central t.

    ``P(T <= t; nc) = P(t s - Z >= nc)`` with Z normal and ``s = sqrt(chi2_df / df)``, so the bounds of the
    non-centrality nc are quantiles of ``t s + Z``, which exist for every t. With df below 1 the interval is NaN.

    Parameters
    ----------
    t, df : the statistic and its degrees of freedom.
    variance_factor : ``c'(X'X)^-1 c``; for two groups without covariates ``1/n1 + 1/n2``, and d is Cohen's d.
    level : coverage of the interval.

    References
    ----------
    Cumming, Finch (2001), doi:10.1177/0013164401614002.
    """
    scale = float(np.sqrt(variance_factor))
    if not np.isfinite(t):
        return StandardisedEffect(float("nan"), float("nan"), float("nan"), level)
    low, high = _noncentrality(abs(t), df, (1 - level) / 2)
    if t < 0:
        low, high = -high, -low
    return StandardisedEffect(t * scale, low * scale, high * scale, level)


def _noncentrality(t: float, df: float, tail: float) -> tuple[float, float]:
    """Return the non-centralities of which t >= 0 is the upper and the lower quantile ``tail``; NaN where not found."""
    if df < 1:
        return float("nan"), float("nan")
    spread = stats.chi(df, scale=1 / np.sqrt(df))
    # Each of the two summands beyond its own quantile tail / 2 has probability tail / 2: the bounds lie between.
    low = t * float(spread.ppf(tail / 2)) + float(special.ndtri(tail / 2))
    high = t * float(spread.isf(tail / 2)) - float(special.ndtri(tail / 2))
    if not np.isfinite([low, high]).all():
        return float("nan"), float("nan")
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)

    def above(nc: float) -> float:
        # The average over the summand that varies less, of a function as wide as the other: no step to resolve.
        if t < np.sqrt(df):
            start, stop = float(spread.ppf(1e-16)), float(spread.isf(1e-16))
            s = start + (stop - start) * (nodes + 1) / 2
            return float((stop - start) / 2 * (weights @ (spread.pdf(s) * special.ndtr(t * s - nc))))
        stop = min(nc, NORMAL_REACH)  # s is positive: where Z > nc the sum is above nc
        if stop <= -NORMAL_REACH:
            return 1.0
        z = -NORMAL_REACH + (stop + NORMAL_REACH) * (nodes + 1) / 2
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        inner = weights @ (density * spread.sf((nc - z) / t))
        return float(special.ndtr(-nc) + (stop + NORMAL_REACH) / 2 * inner)

    def bound(probability: float) -> float:
        if not above(low) > probability > above(high):
            return float("nan")
        precision = 1e-12 * max(1.0, high - low)
        found: Any = optimize.brentq(lambda nc: above(nc) - probability, low, high, xtol=precision)
        return float(found)

    return bound(1 - tail), bound(tail)


def scaled_pinv(X: Floats) -> tuple[Floats, int]:
    """Return a generalised inverse (p, n) of a design and its rank, found after scaling columns to unit length.

    Without the scaling a volume in mm3 beside an intercept would decide what counts as rank deficient.

    Raises
    ------
    DesignError
        If the design (n, p) is not finite or all zero.
    """
    if not np.isfinite(X).all():
        raise DesignError("fit: expected a finite design, found a value that is not. Check the covariates.")
    length = np.sqrt((X**2).sum(axis=0))
    scale = np.where(length > 0, length, 1.0)
    u, s, vt = np.linalg.svd(X / scale, full_matrices=False)
    keep = s > (s.max(initial=0.0) * max(X.shape) * np.finfo(np.float64).eps * 8)
    rank = int(keep.sum())
    if rank == 0:
        raise DesignError("fit: the design has no column that is not zero. Add an intercept or a covariate.")
    return (vt[keep].T / s[keep]) @ u[:, keep].T / scale[:, None], rank


def _fit_tiles(data: npt.NDArray[Any], design: Floats, pinv: Floats, beta: Floats, rss: Floats) -> None:
    n, voxels = data.shape
    tile, residual = np.zeros((n, TILE_VOXELS)), np.empty((n, TILE_VOXELS))
    own, total = np.empty((len(pinv), TILE_VOXELS)), np.empty(TILE_VOXELS)
    largest = np.abs(design).max(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, voxels, TILE_VOXELS):
            width = min(TILE_VOXELS, voxels - start)
            tile[:, :width] = data[:, start : start + width]
            tile[:, width:] = 0.0
            np.matmul(pinv, tile, out=own)
            np.matmul(design, own, out=residual)
            np.subtract(tile, residual, out=residual)
            np.multiply(residual, residual, out=residual)
            np.add.reduce(residual, axis=0, out=total)
            # What rounding leaves of a voxel that the design reproduces: residuals of n eps times its own size.
            size = np.add.reduce(largest[:, None] * np.abs(own), axis=0)
            total[total <= n * (n * np.finfo(np.float64).eps * size) ** 2] = 0.0
            beta[:, start : start + width] = own[:, :width]
            rss[start : start + width] = total[:width]


def _combine(weights: Floats, rows: Floats) -> Floats:
    """Return ``weights @ rows`` summed row by row: BLAS would round by shape."""
    total = np.zeros(rows.shape[1])
    for weight, row in zip(weights, rows, strict=True):
        if weight != 0.0:
            total += weight * row
    return total


def _nan_where_constant(resms: Floats) -> Floats:
    return np.where(resms == 0.0, np.nan, resms)


def _check_length(columns: int, fit: OLSFit) -> None:
    if columns != len(fit.beta):
        raise DesignError(
            f"contrast: expected {len(fit.beta)} weights, one per column, found {columns}. Write the contrast in names."
        )
