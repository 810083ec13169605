"""One pass of Gauss-Newton over the voxels of a registration, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from voxcloud.space.bspline_kernels import weigh

# Factors by which the relation between intensities may change over the head: 1, x, y, z.
FACTORS = 4
# Of freedom: three shifts, three turns.
DEGREES = 6


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(p: float, n: int, w: Any) -> None:
    """Write the derivatives of the weights that ``weigh`` writes, for p between the second and second last sample."""
    f = p - int(p)
    g = 1.0 - f
    w[0], w[3] = -0.5 * g * g, 0.5 * f * f
    w[1], w[2] = -2.0 * f + 1.5 * f * f, 2.0 * g - 1.5 * g * g


@njit(cache=True, nogil=True, error_model="numpy")
def value_and_gradient(coefficients: Any, padded: Any, size: Any, x: float, y: float, z: float, w: Any) -> Any:
    """Return value and derivatives along the axes (per voxel) of one spline; ``w`` is (6, 4) scratch, float32."""
    step_y = padded[2]
    step_x = padded[1] * step_y
    first = weigh(x, size[0], w[0]) * step_x + weigh(y, size[1], w[1]) * step_y + weigh(z, size[2], w[2])
    _slopes(x, size[0], w[3])
    _slopes(y, size[1], w[4])
    _slopes(z, size[2], w[5])
    zero = np.float32(0.0)
    value, along_x, along_y, along_z = zero, zero, zero, zero
    for a in range(4):
        plain, slope_y, slope_z = zero, zero, zero
        for b in range(4):
            o = first + a * step_x + b * step_y
            c0, c1, c2, c3 = coefficients[o], coefficients[o + 1], coefficients[o + 2], coefficients[o + 3]
            s = w[2, 0] * c0 + w[2, 1] * c1 + w[2, 2] * c2 + w[2, 3] * c3
            plain += w[1, b] * s
            slope_y += w[4, b] * s
            slope_z += w[1, b] * (w[5, 0] * c0 + w[5, 1] * c1 + w[5, 2] * c2 + w[5, 3] * c3)
        value += w[0, a] * plain
        along_x += w[3, a] * plain
        along_y += w[0, a] * slope_y
        along_z += w[0, a] * slope_z
    return value, along_x, along_y, along_z


@njit(cache=True, nogil=True, error_model="numpy")
def _motion_row(row: Any, n: int, gradient: Any, place: Any) -> None:
    """Write minus the derivative of the moving image's value by shift and turn, from ``row[n]`` on."""
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        row[n + a] = -gradient[a]
        row[n + 3 + a] = -(place[b] * gradient[c] - place[c] * gradient[b])


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(
    coefficients: Any,
    padded: Any,
    size: Any,
    matrix: Any,
    voxels: Any,
    bins: Any,
    to_world: Any,
    around: Any,
    normal: Any,
    right: Any,
) -> None:
    """Add every voxel's part of the normal equations; voxels outside the moving image have none.

    Parameters
    ----------
    coefficients, padded, size : spline of the moving image.
    matrix : (3, 4) fixed voxel -> moving voxel.
    voxels : (n, 3) on the fixed grid.
    bins : (n,) fixed intensity, as knots from 0 to the number of knots - 1.
    to_world : (3, 3) derivative along moving axes -> along x, y, z (per mm).
    around : (3, 4) moving voxel -> place about the centre, in units of the head.
    normal, right : (m, m) of which the lower half is filled, and (m,); m = knots x FACTORS + DEGREES.
    """
    weights = np.zeros((6, 4), np.float32)
    gradient, place = np.zeros(3), np.ones(FACTORS)
    row, column = np.zeros(2 * FACTORS + DEGREES), np.zeros(2 * FACTORS + DEGREES, np.int64)
    unknown = right.size - DEGREES
    for q in range(DEGREES):
        column[2 * FACTORS + q] = unknown + q
    last = unknown // FACTORS - 2
    for v in range(voxels.shape[0]):
        i, j, k = voxels[v, 0], voxels[v, 1], voxels[v, 2]
        x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
        y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
        z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
        if not (1 <= x < size[0] - 2 and 1 <= y < size[1] - 2 and 1 <= z < size[2] - 2):
            continue
        value, gx, gy, gz = value_and_gradient(coefficients, padded, size, x, y, z, weights)
        for a in range(3):
            gradient[a] = to_world[a, 0] * gx + to_world[a, 1] * gy + to_world[a, 2] * gz
            place[1 + a] = around[a, 0] * x + around[a, 1] * y + around[a, 2] * z + around[a, 3]
        knot = min(int(bins[v]), last)
        part = bins[v] - knot
        for q in range(FACTORS):
            row[q], row[FACTORS + q] = (1.0 - part) * place[q], part * place[q]
            column[q], column[FACTORS + q] = knot * FACTORS + q, (knot + 1) * FACTORS + q
        _motion_row(row, 2 * FACTORS, gradient, place[1:])
        for p in range(2 * FACTORS + DEGREES):
            right[column[p]] += row[p] * value
            for q in range(p + 1):
                normal[column[p], column[q]] += row[p] * row[q]
