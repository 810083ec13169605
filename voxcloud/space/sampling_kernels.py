"""Inner loops of reading images at any points: positions, weights of known voxels, 64 taps or 8."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from voxcloud.space.bspline_kernels import _sum_taps, weigh

# A point this near (voxels) to a sample is on it, which is what a point in mm as float32 can tell: the sample is the
# answer. A point this far beyond the outermost samples is not outside.
ON_SAMPLE = 2e-5
# Known voxels must make up this share of the trilinear weight for the answer to be known.
SHARE_KNOWN = 0.5


@njit(cache=True, nogil=True, error_model="numpy")
def locate(points: Any, matrix: Any, size: Any, v: int) -> Any:
    """Return the state of point v (0 outside the samples, 2 on a sample, 1 between) and its position in voxels."""
    px, py, pz = np.float64(points[v, 0]), np.float64(points[v, 1]), np.float64(points[v, 2])
    x = matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2] * pz + matrix[0, 3]
    y = matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2] * pz + matrix[1, 3]
    z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2] * pz + matrix[2, 3]
    last_x, last_y, last_z = size[0] - 1.0, size[1] - 1.0, size[2] - 1.0
    if not (
        -ON_SAMPLE <= x <= last_x + ON_SAMPLE
        and -ON_SAMPLE <= y <= last_y + ON_SAMPLE
        and -ON_SAMPLE <= z <= last_z + ON_SAMPLE
    ):  # NaN too
        return 0, x, y, z
    x, y, z = min(max(x, 0.0), last_x), min(max(y, 0.0), last_y), min(max(z, 0.0), last_z)
    a, b, c = np.rint(x), np.rint(y), np.rint(z)
    if abs(x - a) <= ON_SAMPLE and abs(y - b) <= ON_SAMPLE and abs(z - c) <= ON_SAMPLE:
        return 2, a, b, c
    return 1, x, y, z


@njit(cache=True, nogil=True, error_model="numpy")
def corner(size: Any, x: float, y: float, z: float) -> Any:
    """Return the flat index of the first of eight samples around a position, steps to the others, and fractions."""
    a, b, c = min(int(x), max(size[0] - 2, 0)), min(int(y), max(size[1] - 2, 0)), min(int(z), max(size[2] - 2, 0))
    step_x, step_y = size[1] * size[2] if size[0] > 1 else 0, size[2] if size[1] > 1 else 0
    first = (a * size[1] + b) * size[2] + c
    return first, step_x, step_y, 1 if size[2] > 1 else 0, x - a, y - b, z - c


@njit(cache=True, nogil=True, error_model="numpy")
def between(v: Any, e: int, at: Any) -> Any:
    """Return the trilinear value of column e of (x * y * z, n) in a ``corner``."""
    i, sx, sy, sz, fx, fy, fz = at
    i00, i01, i10, i11 = i, i + sy, i + sx, i + sx + sy
    v00 = v[i00, e] + fz * (v[i00 + sz, e] - v[i00, e])
    v01 = v[i01, e] + fz * (v[i01 + sz, e] - v[i01, e])
    v10 = v[i10, e] + fz * (v[i10 + sz, e] - v[i10, e])
    v11 = v[i11, e] + fz * (v[i11 + sz, e] - v[i11, e])
    v0, v1 = v00 + fy * (v01 - v00), v10 + fy * (v11 - v10)
    return v0 + fx * (v1 - v0)


@njit(cache=True, nogil=True, error_model="numpy")
def known_everywhere(known: Any, at: Any) -> Any:
    """Return the bits of images that know all eight samples of a ``corner``, and of those that know any."""
    i, sx, sy, sz, _, _, _ = at
    every = some = np.int64(known[i, 0])
    for k in (i + sz, i + sy, i + sy + sz, i + sx, i + sx + sz, i + sx + sy, i + sx + sy + sz):
        every &= np.int64(known[k, 0])
        some |= np.int64(known[k, 0])
    return every, some


@njit(cache=True, nogil=True, error_model="numpy")
def share_known(known: Any, e: int, at: Any) -> Any:
    """Return the trilinear weight of the samples of a ``corner`` that image e knows."""
    i, sx, sy, sz, fx, fy, fz = at
    total = 0.0
    for a in range(2):
        wa = fx if a else 1.0 - fx
        for b in range(2):
            wb = wa * (fy if b else 1.0 - fy)
            for c in range(2):
                if (known[i + a * sx + b * sy + c * sz, 0] >> e) & 1:
                    total += wb * (fz if c else 1.0 - fz)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def read(
    values: Any,
    padded: Any,
    size: Any,
    lanes: Any,
    cubic: bool,
    known: Any,
    matrix: Any,
    points: Any,
    outside: Any,
    out: Any,
    source: Any,
) -> int:
    """Write the images' values at points to out (n, m); return how many points are on samples.

    Parameters
    ----------
    values : (x * y * z * n, 1) spline coefficients with axes ``padded``, or (x * y * z, n) samples to read trilinearly.
    padded, size : samples per axis in memory, and those that are samples.
    lanes : tuple of n values.
    known : (x * y * z, 1), a bit for each image; empty where everything is known.
    matrix : (3, 4) mm to voxel.
    points : (m, 3) in mm.
    outside : value beyond the images.
    source : (m,) gets the flat index of the sample that a point is on, -1 for others; out is left alone there.
    """
    n = len(lanes)
    row = np.zeros(len(lanes), np.float32)
    wx, wy, wz = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32)
    step_y = padded[2] * n
    step_x = padded[1] * step_y
    all_of_them = (1 << n) - 1
    exact = 0
    flat = values.reshape(-1)
    for v in range(points.shape[0]):
        source[v] = -1
        state, x, y, z = locate(points, matrix, size, v)
        if state == 0:
            for e in range(n):
                out[e, v] = outside
            continue
        if state == 2:
            source[v] = (int(x) * size[1] + int(y)) * size[2] + int(z)
            exact += 1
            continue
        at = corner(size, x, y, z)
        every, some = all_of_them, all_of_them
        if known.size:
            every, some = known_everywhere(known, at)
        if some == 0:
            for e in range(n):
                out[e, v] = np.nan
            continue
        if cubic:
            first = weigh(x, size[0], wx) * step_x + weigh(y, size[1], wy) * step_y + weigh(z, size[2], wz) * n
            _sum_taps(flat, first, step_x, step_y, wx, wy, wz, lanes, row)
            for e in range(n):
                out[e, v] = row[e]
        else:
            for e in range(n):
                out[e, v] = between(values, e, at)
        if every != all_of_them:
            for e in range(n):
                if not (every >> e) & 1 and share_known(known, e, at) < SHARE_KNOWN:
                    out[e, v] = np.nan
    return exact


@njit(cache=True, nogil=True, error_model="numpy")
def compose_planes(
    to_mm: Any, first: int, displacement: Any, to_displacement: Any, same: bool, matrix: Any, out: Any
) -> None:
    """Write ``M (x + u(x))`` in mm to out (planes, y, z, 3), x the voxels of a grid from plane ``first`` on.

    Parameters
    ----------
    to_mm : (3, 4) voxel of the grid to mm.
    displacement : (x, y, z, 3) u in mm; empty: none. Beyond its grid that of the nearest voxel counts.
    to_displacement : (3, 4) voxel of the grid to voxel of ``displacement``.
    same : whether both grids are one.
    matrix : (3, 4) M.
    """
    size = displacement.shape[:3]
    flat = displacement.reshape(-1, 3)
    x, place = np.zeros(3), np.zeros(3)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                p = i + first
                for axis in range(3):
                    row = to_mm[axis]
                    x[axis] = row[0] * p + row[1] * j + row[2] * k + row[3]
                if same:
                    for axis in range(3):
                        x[axis] += displacement[p, j, k, axis]
                elif flat.shape[0] > 0:
                    for axis in range(3):
                        row = to_displacement[axis]
                        q = row[0] * p + row[1] * j + row[2] * k + row[3]
                        place[axis] = min(max(q, 0.0), size[axis] - 1.0)
                    at = corner(size, place[0], place[1], place[2])
                    for axis in range(3):
                        x[axis] += between(flat, axis, at)
                for axis in range(3):
                    row = matrix[axis]
                    out[i, j, k, axis] = row[0] * x[0] + row[1] * x[1] + row[2] * x[2] + row[3]


@njit(cache=True, nogil=True, error_model="numpy")
def determinants(displacement: Any, from_mm: Any, factor: float, out: Any) -> None:
    """Write ``factor det(1 + du/dx)`` to out (x, y, z): central differences, one-sided at the faces.

    ``from_mm`` (3, 3) is the inverse of the grid's axes: derivatives per voxel times it are derivatives per mm.
    """
    nx, ny, nz = out.shape
    per_voxel, g = np.zeros((3, 3)), np.zeros((3, 3))
    for i in range(nx):
        i0, i1 = max(i - 1, 0), min(i + 1, nx - 1)
        for j in range(ny):
            j0, j1 = max(j - 1, 0), min(j + 1, ny - 1)
            for k in range(nz):
                k0, k1 = max(k - 1, 0), min(k + 1, nz - 1)
                for c in range(3):
                    dx = np.float64(displacement[i1, j, k, c]) - displacement[i0, j, k, c]
                    dy = np.float64(displacement[i, j1, k, c]) - displacement[i, j0, k, c]
                    dz = np.float64(displacement[i, j, k1, c]) - displacement[i, j, k0, c]
                    per_voxel[c, 0] = dx / max(i1 - i0, 1)
                    per_voxel[c, 1] = dy / max(j1 - j0, 1)
                    per_voxel[c, 2] = dz / max(k1 - k0, 1)
                for c in range(3):
                    for axis in range(3):
                        total = 1.0 if c == axis else 0.0
                        for m in range(3):
                            total += per_voxel[c, m] * from_mm[m, axis]
                        g[c, axis] = total
                out[i, j, k] = factor * (
                    g[0, 0] * (g[1, 1] * g[2, 2] - g[1, 2] * g[2, 1])
                    - g[0, 1] * (g[1, 0] * g[2, 2] - g[1, 2] * g[2, 0])
                    + g[0, 2] * (g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0])
                )
