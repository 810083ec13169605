"""Tail probabilities of t, F and z that stay finite and exact however far out the statistic lies.

Everything goes through the natural logarithm of the survival function: a p-value of 1e-400 cannot be held in a
double, its logarithm and the z-value that belongs to it can.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Float64 = npt.NDArray[np.float64]
Statistic = Literal["T", "F", "Z"]

LOG10 = float(np.log(10.0))
SAFE_P = 1e-280  # below this the library's incomplete beta function is near the end of the double's range
FRACTION_TERMS = 400


def t_log_sf(t: npt.ArrayLike, df: float) -> Float64:
    """Return ln P(T >= t) for Student's t.

    Parameters
    ----------
    t
        Statistic, any shape. NaN gives NaN.
    df
        Degrees of freedom, > 0; need not be whole.
    """
    value = np.asarray(t, dtype=np.float64)
    tail = np.asarray(special.stdtr(df, -np.abs(value)), dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_tail = np.asarray(np.log(tail))
    far = (tail < SAFE_P) & np.isfinite(value)
    if np.any(far):
        log_tail[far] = _log_betainc(0.5 * df, 0.5, 2.0 * np.log(np.abs(value[far])) - np.log(df)) - np.log(2.0)
    return np.asarray(np.where(value >= 0, log_tail, np.log1p(-tail)), dtype=np.float64)


def f_log_sf(f: npt.ArrayLike, df: tuple[float, float]) -> Float64:
    """Return ln P(F >= f) for Fisher's F.

    Parameters
    ----------
    f
        Statistic, any shape; below 0 counts as 0. NaN gives NaN.
    df
        (numerator, denominator) degrees of freedom, > 0; need not be whole.
    """
    numerator, denominator = df
    value = np.maximum(np.asarray(f, dtype=np.float64), 0.0)
    tail = np.asarray(special.fdtrc(numerator, denominator, value), dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_tail = np.asarray(np.log(tail))
    far = (tail < SAFE_P) & np.isfinite(value)
    if np.any(far):
        log_tail[far] = _log_betainc(
            0.5 * denominator, 0.5 * numerator, np.log(value[far]) + np.log(numerator / denominator)
        )
    return log_tail


def z_log_sf(z: npt.ArrayLike) -> Float64:
    """Return ln P(Z >= z) for the standard normal distribution."""
    return np.asarray(special.log_ndtr(-np.asarray(z, dtype=np.float64)), dtype=np.float64)


def log_sf(value: npt.ArrayLike, df: float | tuple[float, float], statistic: Statistic = "T") -> Float64:
    """Return ln P(S >= value) for S distributed as ``statistic``.

    Parameters
    ----------
    value
        Statistic, any shape.
    df
        A number for "T", a pair (numerator, denominator) for "F", not used for "Z".
    statistic
        "T", "F" or "Z".

    Raises
    ------
    ValueError
        If "F" comes without a pair of degrees of freedom.
    """
    if statistic == "T":
        return t_log_sf(value, denominator_df(df))
    if statistic == "F":
        if not isinstance(df, tuple):
            raise ValueError(f"F needs a pair of degrees of freedom (numerator, denominator), found {df!r}.")
        return f_log_sf(value, df)
    return z_log_sf(value)


def denominator_df(df: float | tuple[float, float]) -> float:
    """Return the error degrees of freedom of a t (a number, or (1, df) as some programs write it) or an F."""
    return float(df[1]) if isinstance(df, tuple) else float(df)


def p_from_log(log_p: npt.ArrayLike) -> Float64:
    """Return p; values below about 1e-308 come out as 0, which is why maps store -log10 p."""
    return np.asarray(np.exp(np.asarray(log_p, dtype=np.float64)), dtype=np.float64)


def neglog10_from_log(log_p: npt.ArrayLike) -> Float64:
    """Return -log10 p from ln p."""
    return np.asarray(np.asarray(log_p, dtype=np.float64) / -LOG10 + 0.0, dtype=np.float64)


def z_from_log(log_p: npt.ArrayLike) -> Float64:
    """Return the z with P(Z >= z) = p from ln p: positive for p < 0.5."""
    return np.asarray(-special.ndtri_exp(np.asarray(log_p, dtype=np.float64)) + 0.0, dtype=np.float64)


def t_to_z(t: npt.ArrayLike, df: float) -> Float64:
    """Return the z-value with the same tail probability as t.

    z = Phi^-1(1 - P(T >= t)), computed on the side of zero where the tail is small, so that z(-t) = -z(t).
    """
    value = np.asarray(t, dtype=np.float64)
    return np.asarray(np.copysign(z_from_log(t_log_sf(np.abs(value), df)), value), dtype=np.float64)


def t_p(t: npt.ArrayLike, df: float) -> Float64:
    """Return the one-sided p = P(T >= t)."""
    return p_from_log(t_log_sf(t, df))


def t_neglog10p(t: npt.ArrayLike, df: float) -> Float64:
    """Return -log10 of the one-sided p of t."""
    return neglog10_from_log(t_log_sf(t, df))


def critical_value(p: float, df: float | tuple[float, float], statistic: Statistic = "T") -> float:
    """Return the u with P(S >= u) = p.

    Parameters
    ----------
    p
        One-sided, between 0 and 1.
    df, statistic
        As in :func:`log_sf`.

    Raises
    ------
    ValueError
        If "F" comes without a pair of degrees of freedom.
    """
    if statistic == "T":
        return float(-special.stdtrit(denominator_df(df), p))
    if statistic == "F":
        if not isinstance(df, tuple):
            raise ValueError(f"F needs a pair of degrees of freedom (numerator, denominator), found {df!r}.")
        x = float(special.betaincinv(0.5 * df[1], 0.5 * df[0], p))  # not fdtri: it takes 1 - p, which loses digits
        return df[1] * (1.0 - x) / (df[0] * x)
    return float(-special.ndtri(p))


def _log_betainc(a: float, b: float, log_odds: Float64) -> Float64:
    """Return ln I_x(a, b) at x = 1 / (1 + exp(log_odds)), for x far below the mean of the beta distribution.

    x and 1 - x are formed apart, so that neither loses digits or overflows. The continued fraction of the incomplete
    beta function is evaluated by the modified Lentz algorithm.
    """
    log_x = -np.logaddexp(0.0, log_odds)
    x = np.exp(log_x)
    log_front = a * log_x + b * (log_odds + log_x) - np.log(a) - special.betaln(a, b)
    tiny = 1e-290
    c = np.ones_like(x)
    d = 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / np.where(np.abs(d) < tiny, tiny, d)
    value = d.copy()
    for m in range(1, FRACTION_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = np.ones_like(x)
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / np.where(np.abs(d) < tiny, tiny, d)
            c = 1.0 + term / c
            c = np.where(np.abs(c) < tiny, tiny, c)
            step = c * d
            value = value * step
        if np.all(np.abs(step - 1.0) < 1e-15):
            break
    return np.asarray(log_front + np.log(value), dtype=np.float64)
