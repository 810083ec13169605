"""Fields that are cubic B-splines on a coarse grid, seen at the voxels of a finer one: values, adjoint, derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Fields at once: three of displacement, three of intensity.
FIELDS = 6


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(position: float, w: Any) -> int:
    """Write the weights of the four knots around a position, at least one knot from either end; return the first."""
    base = int(position)
    f = np.float32(position - base)
    g = np.float32(1.0) - f
    sixth, two_thirds, half, two = np.float32(1.0 / 6.0), np.float32(2.0 / 3.0), np.float32(0.5), np.float32(2.0)
    w[0], w[3] = g * g * g * sixth, f * f * f * sixth
    w[1], w[2] = two_thirds - f * f * (two - f) * half, two_thirds - g * g * (two - g) * half
    return base - 1


@njit(cache=True, nogil=True, error_model="numpy")
def apply_fields(fields: Any, voxels: Any, step: float, first: float, factors: Any, out: Any) -> None:
    """Write sum_e factors[v, e] f_e(x_v) to out[v].

    Parameters
    ----------
    fields : (X, Y, Z, FIELDS) float32, coefficients.
    voxels : (n, 3) int32; a voxel i lies at knot i / step + first.
    factors : (n, FIELDS) float32.
    out : (n,) float32.
    """
    w = np.zeros((3, 4), np.float32)
    for v in range(voxels.shape[0]):
        a = _weights(voxels[v, 0] / step + first, w[0])
        b = _weights(voxels[v, 1] / step + first, w[1])
        c = _weights(voxels[v, 2] / step + first, w[2])
        s0 = s1 = s2 = s3 = s4 = s5 = np.float32(0.0)
        for i in range(4):
            for j in range(4):
                wij = w[0, i] * w[1, j]
                row = fields[a + i, b + j]
                for k in range(4):
                    weight = wij * w[2, k]
                    knot = row[c + k]
                    s0 += weight * knot[0]
                    s1 += weight * knot[1]
                    s2 += weight * knot[2]
                    s3 += weight * knot[3]
                    s4 += weight * knot[4]
                    s5 += weight * knot[5]
        x = factors[v]
        out[v] = s0 * x[0] + s1 * x[1] + s2 * x[2] + s3 * x[3] + s4 * x[4] + s5 * x[5]


@njit(cache=True, nogil=True, error_model="numpy")
def gather_fields(values: Any, voxels: Any, step: float, first: float, factors: Any, out: Any) -> None:
    """Add the adjoint of ``apply_fields`` to out (X, Y, Z, FIELDS)."""
    w = np.zeros((3, 4), np.float32)
    for v in range(voxels.shape[0]):
        a = _weights(voxels[v, 0] / step + first, w[0])
        b = _weights(voxels[v, 1] / step + first, w[1])
        c = _weights(voxels[v, 2] / step + first, w[2])
        x, value = factors[v], values[v]
        s0, s1, s2 = value * x[0], value * x[1], value * x[2]
        s3, s4, s5 = value * x[3], value * x[4], value * x[5]
        for i in range(4):
            for j in range(4):
                wij = w[0, i] * w[1, j]
                row = out[a + i, b + j]
                for k in range(4):
                    weight = wij * w[2, k]
                    knot = row[c + k]
                    knot[0] += weight * s0
                    knot[1] += weight * s1
                    knot[2] += weight * s2
                    knot[3] += weight * s3
                    knot[4] += weight * s4
                    knot[5] += weight * s5


@njit(cache=True, nogil=True, error_model="numpy")
def _all_weights(p: float, n: int, w: Any, d: Any) -> int:
    """Write weights and derivatives of four knots; return the first, -1 if the position has not four knots."""
    base = int(p)
    if p < 1.0 or base + 2 > n - 1:
        return -1
    f = p - base
    g = 1.0 - f
    w[0], w[3] = g * g * g / 6.0, f * f * f / 6.0
    w[1], w[2] = 2.0 / 3.0 - f * f * (1.0 - 0.5 * f), 2.0 / 3.0 - g * g * (1.0 - 0.5 * g)
    d[0], d[3] = -0.5 * g * g, 0.5 * f * f
    d[1], d[2] = -2.0 * f + 1.5 * f * f, 2.0 * g - 1.5 * g * g
    return base - 1


@njit(cache=True, nogil=True, error_model="numpy")
def displace(coefficients: Any, matrix: Any, shape: Any, start: int, out: Any) -> None:
    """Write displacements (n, 3) at the voxels start, start + 1, ... of a grid; zero where the field does not reach.

    Parameters
    ----------
    coefficients : (X, Y, Z, 3).
    matrix : (3, 4) voxel of the grid -> knot.
    shape : of the grid.
    """
    w, d = np.zeros((3, 4)), np.zeros((3, 4))
    for v in range(out.shape[0]):
        rest, k = divmod(start + v, shape[2])
        i, j = divmod(rest, shape[1])
        at = np.empty(3, np.int64)
        inside = True
        for q in range(3):
            p = matrix[q, 0] * i + matrix[q, 1] * j + matrix[q, 2] * k + matrix[q, 3]
            at[q] = _all_weights(p, coefficients.shape[q], w[q], d[q])
            inside = inside and at[q] >= 0
        out[v] = 0.0
        if not inside:
            continue
        for a in range(4):
            for b in range(4):
                for c in range(4):
                    weight = w[0, a] * w[1, b] * w[2, c]
                    knot = coefficients[at[0] + a, at[1] + b, at[2] + c]
                    for e in range(3):
                        out[v, e] += weight * knot[e]


@njit(cache=True, nogil=True, error_model="numpy")
def jacobians(coefficients: Any, matrix: Any, shape: Any, to_mm: Any, start: int, out: Any) -> None:
    """Write det(1 + du/dx) (n,) at the voxels start, start + 1, ... of a grid; 1 where the field does not reach.

    Parameters
    ----------
    to_mm : (3, 3) derivative by knots -> derivative by mm: du/dx = (du/dknot) to_mm.
    """
    w, d = np.zeros((3, 4)), np.zeros((3, 4))
    for v in range(out.size):
        rest, k = divmod(start + v, shape[2])
        i, j = divmod(rest, shape[1])
        at = np.empty(3, np.int64)
        inside = True
        for q in range(3):
            p = matrix[q, 0] * i + matrix[q, 1] * j + matrix[q, 2] * k + matrix[q, 3]
            at[q] = _all_weights(p, coefficients.shape[q], w[q], d[q])
            inside = inside and at[q] >= 0
        out[v] = 1.0
        if not inside:
            continue
        slope = np.zeros((3, 3))
        for a in range(4):
            for b in range(4):
                for c in range(4):
                    knot = coefficients[at[0] + a, at[1] + b, at[2] + c]
                    x = d[0, a] * w[1, b] * w[2, c]
                    y = w[0, a] * d[1, b] * w[2, c]
                    z = w[0, a] * w[1, b] * d[2, c]
                    for e in range(3):
                        slope[e, 0] += knot[e] * x
                        slope[e, 1] += knot[e] * y
                        slope[e, 2] += knot[e] * z
        m = slope @ to_mm
        for e in range(3):
            m[e, e] += 1.0
        out[v] = (
            m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
            - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
            + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
        )
