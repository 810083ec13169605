"""Values along the lines of one image axis: cubic B-splines in one dimension, read where a displacement points.

EPI distorts along the phase-encode axis only, so that unwarping never needs the neighbouring lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Float64 = npt.NDArray[np.float64]

# Pole of the cubic B-spline (Unser 1999, doi:10.1109/79.799930).
POLE = np.sqrt(3.0) - 2.0


@njit(cache=True, nogil=True)
def filter_lines(values: Any) -> None:
    """Make coefficients of a cubic B-spline of samples (lines, n), in place; samples are mirrored at both ends."""
    n = values.shape[1]
    if n < 2:
        return
    last = POLE / (POLE * POLE - 1.0)
    for i in range(values.shape[0]):
        c = values[i]
        # Start value of the causal filter: the sum over the mirrored, periodic line.
        power, total = POLE, c[0]
        for k in range(1, n - 1):
            total += power * c[k]
            power *= POLE
        total += power * c[n - 1]
        for k in range(n - 2, 0, -1):
            power *= POLE
            total += power * c[k]
        c[0] = total / (1.0 - power * POLE)
        for k in range(1, n):
            c[k] += POLE * c[k - 1]
        c[n - 1] = last * (c[n - 1] + POLE * c[n - 2])
        for k in range(n - 2, -1, -1):
            c[k] = POLE * (c[k + 1] - c[k])
        for k in range(n):
            c[k] *= 6.0


@njit(cache=True, nogil=True)
def mirror(k: int, n: int) -> int:
    """Index of a sample up to two places beyond either end."""
    if k < 0:
        k = -k
    if k >= n:
        k = 2 * n - 2 - k
    return min(max(k, 0), n - 1)


@njit(cache=True, nogil=True)
def value_at(c: Any, p: float) -> Any:
    """Value of the spline with coefficients c (n,) at position p in samples; beyond the ends that of the end."""
    n = c.size
    p = min(max(p, 0.0), n - 1.0)
    k = min(int(p), max(n - 2, 0))
    f = p - k
    g = 1.0 - f
    w0, w3 = g * g * g / 6.0, f * f * f / 6.0
    w1, w2 = 2.0 / 3.0 - f * f * (1.0 - 0.5 * f), 2.0 / 3.0 - g * g * (1.0 - 0.5 * g)
    return w0 * c[mirror(k - 1, n)] + w1 * c[k] + w2 * c[mirror(k + 1, n)] + w3 * c[mirror(k + 2, n)]


@njit(cache=True, nogil=True)
def slope_at(c: Any, p: float) -> Any:
    """Derivative of the spline per sample; zero beyond the ends."""
    n = c.size
    if p <= 0.0 or p >= n - 1.0:
        return 0.0
    k = min(int(p), max(n - 2, 0))
    f = p - k
    g = 1.0 - f
    w0, w3 = -0.5 * g * g, 0.5 * f * f
    w1, w2 = f * (1.5 * f - 2.0), g * (2.0 - 1.5 * g)
    return w0 * c[mirror(k - 1, n)] + w1 * c[k] + w2 * c[mirror(k + 1, n)] + w3 * c[mirror(k + 2, n)]


@njit(cache=True, nogil=True)
def read_cubic(coefficients: Any, positions: Any, out: Any) -> None:
    """Write the spline's values at positions (lines, m) to out (lines, m)."""
    for i in range(positions.shape[0]):
        for k in range(positions.shape[1]):
            out[i, k] = value_at(coefficients[i], positions[i, k])


@njit(cache=True, nogil=True)
def read_linear(values: Any, positions: Any, out: Any) -> None:
    """Write linearly interpolated values at positions (lines, m) to out (lines, m)."""
    n = values.shape[1]
    for i in range(positions.shape[0]):
        for k in range(positions.shape[1]):
            p = min(max(positions[i, k], 0.0), n - 1.0)
            below = min(int(p), max(n - 2, 0))
            f = p - below
            out[i, k] = (1.0 - f) * values[i, below] + (f * values[i, below + 1] if f > 0.0 else 0.0)


@njit(cache=True, nogil=True)
def bridge_gaps(values: Any) -> None:
    """Replace NaN by the nearest known value of the line (the one before, where both are as near); none known: 0."""
    n = values.shape[1]
    for i in range(values.shape[0]):
        v = values[i]
        before = -1
        for k in range(n):
            if not np.isnan(v[k]):
                before = k
                continue
            after = k + 1
            while after < n and np.isnan(v[after]):
                after += 1
            # All gaps up to here are closed; this one reaches to the next known value.
            for gap in range(k, after):
                if before >= 0 and (after == n or gap - before <= after - gap):
                    v[gap] = v[before]
                else:
                    v[gap] = v[after] if after < n else 0.0


@njit(cache=True, nogil=True)
def mark_unknown(unknown: Any, positions: Any, out: Any) -> None:
    """Write NaN to out where either of the two samples around a position is unknown and has weight."""
    n = unknown.shape[1]
    for i in range(positions.shape[0]):
        for k in range(positions.shape[1]):
            p = min(max(positions[i, k], 0.0), n - 1.0)
            below = int(p)
            f = p - below
            if (f < 1.0 - 1e-6 and unknown[i, below]) or (f > 1e-6 and unknown[i, below + 1]):
                out[i, k] = np.nan
