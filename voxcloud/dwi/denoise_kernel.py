"""MP-PCA of one slice, compiled: Gram matrices of patches, their signal part, and the voxels' projection on it.

A patch is a row of planes across x. The Gram matrix of a plane serves all patches that hold the plane, and a patch's is
the sum of its planes' in a fixed order: nothing runs on from patch to patch, so no error piles up and a voxel's bits
do not depend on which others are asked for. Voxels wait until there are as many as lanes, and are decomposed together.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.dwi.denoise_eigen import diagonalise, reflect, tridiagonalise, turn_back
from voxcloud.dwi.lanes import LANES, add, fma, load, spread, store
from voxcloud.elementary import FUSED

ROWS = 4
# Rotations take about n^2; sweeps 1.7 n to 2 n.
TURNS_PER_SQUARE, SWEEPS_PER_ROW = 4, 30


@njit(**FUSED)
def denoise_slice(slab, wanted, height, depth, exp2, denoised, noise, rank):  # type: ignore[no-untyped-def]
    """Denoise the voxels of one slice.

    Parameters
    ----------
    slab : (x, y, patch's z, volume) float64, the slices of the patches.
    wanted : (x, y) which voxels.
    height : extent of the patch along (x, y).
    depth : which slice of the slab it is.
    exp2 : which estimator.
    denoised, noise, rank : (x, y, volume), (x, y), (x, y), filled where wanted.

    Returns
    -------
    Whether all eigenvalues were found.
    """
    nx, ny, ez, m = slab.shape
    ex, ey = height
    n = min(m, ex * ey * ez)
    wide = m > n
    a, x = np.zeros((n, n, LANES)), np.zeros((n, LANES))
    room = _room(n)
    blocks = (m + LANES - 1) // LANES
    rows = np.zeros((ey * ez, blocks, LANES))
    planes = np.zeros((1, 1, 1, LANES) if wide else (ex, (m + ROWS - 1) // ROWS * ROWS, blocks, LANES))
    held, line = np.full(ex, -1), -1
    places, waiting = np.empty((LANES, 2), np.int64), 0
    for j in range(ny):
        y0 = _moved_in(j, ey, ny)
        if y0 != line:
            held[:], line = -1, y0
        for i in range(nx):
            if not wanted[i, j]:
                continue
            x0 = _moved_in(i, ex, nx)
            if wide:
                _between_voxels(slab, x0, y0, height, a, waiting)
                x[:, waiting] = 0.0
                x[((i - x0) * ey + j - y0) * ez + depth, waiting] = 1.0
            else:
                for at in range(x0, x0 + ex):
                    if held[at % ex] != at:
                        _plane_gram(slab, at, y0, ey, rows, planes[at % ex])
                        held[at % ex] = at
                _sum_planes(planes, x0, a, waiting)
                x[:, waiting] = slab[i, j, depth]
            places[waiting, 0], places[waiting, 1] = i, j
            waiting += 1
            if waiting == LANES:
                if not _finish(slab, height, exp2, a, x, room, places, waiting, denoised, noise, rank):
                    return False
                waiting = 0
    return waiting == 0 or _finish(slab, height, exp2, a, x, room, places, waiting, denoised, noise, rank)


@njit(**FUSED)
def _moved_in(centre, extent, size):  # type: ignore[no-untyped-def]
    """Return where a patch begins along an axis: around its voxel, at edges moved into the image."""
    return min(max(centre - extent // 2, 0), size - extent)


@njit(**FUSED)
def _room(n):  # type: ignore[no-untyped-def]
    """Return arrays to work in: diagonal, other diagonal, two vectors, reflections' scales, rotations, their ranges."""
    d, e, u, p, scale = (
        np.zeros((n, LANES)),
        np.zeros((n, LANES)),
        np.zeros((n, LANES)),
        np.zeros((n, LANES)),
        np.zeros((n, LANES)),
    )
    turns = np.empty((TURNS_PER_SQUARE * n * n + n, 2, LANES))
    return d, e, u, p, scale, turns, np.empty((SWEEPS_PER_ROW * n, 2), np.int64)


@njit(**FUSED)
def _plane_gram(slab, i, y0, ey, rows, gram):  # type: ignore[no-untyped-def]
    """Fill ``gram`` (volumes, blocks, LANES) with sums over a plane's voxels of products of volumes, j <= i."""
    ez, m = slab.shape[2:]
    for b in range(ey):
        for c in range(ez):
            row = rows[b * ez + c].reshape(-1)
            for v in range(m):
                row[v] = slab[i, y0 + b, c, v]
    for group in range(gram.shape[0] // ROWS):
        r = group * ROWS
        for block in range((r + ROWS - 1) // LANES + 1):
            s0, s1, s2, s3 = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
            for k in range(rows.shape[0]):
                values = load(rows[k], block)
                one = rows[k].reshape(-1)
                s0 = fma(spread(one[r]), values, s0)
                s1 = fma(spread(one[r + 1]), values, s1)
                s2 = fma(spread(one[r + 2]), values, s2)
                s3 = fma(spread(one[r + 3]), values, s3)
            store(gram[r], block, s0)
            store(gram[r + 1], block, s1)
            store(gram[r + 2], block, s2)
            store(gram[r + 3], block, s3)


@njit(**FUSED)
def _sum_planes(planes, x0, a, lane):  # type: ignore[no-untyped-def]
    """Fill a lane of ``a`` with the sum of all planes, from the first of the patch to the last."""
    ex, n = planes.shape[0], a.shape[0]
    line = np.empty((planes.shape[2], LANES))
    flat = line.reshape(-1)
    for i in range(n):
        for block in range(i // LANES + 1):
            total = load(planes[x0 % ex, i], block)
            for at in range(x0 + 1, x0 + ex):
                total = add(total, load(planes[at % ex, i], block))
            store(line, block, total)
        for j in range(i + 1):
            a[i, j, lane] = flat[j]


@njit(**FUSED)
def _between_voxels(slab, x0, y0, height, a, lane):  # type: ignore[no-untyped-def]
    """Fill a lane of ``a`` with the products of a patch's voxels: for patches of fewer voxels than volumes."""
    ez, m = slab.shape[2:]
    ex, ey = height
    for i in range(ex * ey * ez):
        one = slab[x0 + i // (ey * ez), y0 + i // ez % ey, i % ez]
        for j in range(i + 1):
            other = slab[x0 + j // (ey * ez), y0 + j // ez % ey, j % ez]
            total = 0.0
            for v in range(m):
                total += one[v] * other[v]
            a[i, j, lane] = total


@njit(**FUSED)
def _finish(slab, height, exp2, a, x, room, places, count, denoised, noise, rank):  # type: ignore[no-untyped-def]
    """Project the waiting voxels on their signals, which overwrites a and x, and put what was found in its place.

    Returns whether all eigenvalues were found.
    """
    nx, ny, ez, m = slab.shape
    ex, ey = height
    d, e, kept, p, scale, turns, ranges = room
    n, q = x.shape[0], max(m, ex * ey * ez)
    a[:, :, count:], x[:, count:] = 0.0, 0.0
    tridiagonalise(a, d, e, kept, p, scale)
    reflect(a, scale, x, True)
    sweeps = diagonalise(d, e, x, turns, ranges)
    if sweeps < 0:
        return False
    for k in range(count):
        i, j = places[k]
        noise[i, j], rank[i, j] = _separate(d, k, q, exp2, kept)
        for v in range(n):
            x[v, k] *= kept[v, k]
    turn_back(x, turns, ranges, sweeps)
    reflect(a, scale, x, False)
    for k in range(count):
        i, j = places[k]
        if m > n:
            _mix(slab, _moved_in(i, ex, nx), _moved_in(j, ey, ny), height, x, k, denoised[i, j])
        else:
            for v in range(m):
                denoised[i, j, v] = x[v, k]
    return True


@njit(**FUSED)
def _separate(d, k, q, exp2, kept):  # type: ignore[no-untyped-def]
    """Return noise level and number of signal components, and mark these by 1, the others by 0.

    Signals are taken off the spectrum, largest first, until the rest is as wide as its mean says for noise alone.
    """
    n = d.shape[0]
    smallest = np.inf
    for i in range(n):
        kept[i, k] = 0.0
        smallest = min(smallest, d[i, k])
    smallest = max(smallest, 0.0) / q
    for signals in range(n):
        total, largest, where = 0.0, -1.0, 0
        for i in range(n):
            if kept[i, k] == 0.0:
                value = max(d[i, k], 0.0) / q
                total += value
                if value > largest:
                    largest, where = value, i
        noises = n - signals
        by_mean = total / noises
        gamma = noises / (q - signals) if exp2 else noises / q
        by_width = (largest - smallest) / (4.0 * np.sqrt(gamma))
        if by_width < by_mean:
            return np.sqrt(by_mean), signals
        if largest == 0.0:
            return 0.0, signals
        kept[where, k] = 1.0
    return 0.0, n  # not reached: the last eigenvalue alone has no width


@njit(**FUSED)
def _mix(slab, x0, y0, height, weights, lane, mixed):  # type: ignore[no-untyped-def]
    """Fill ``mixed`` with the weighted sum of a patch's voxels."""
    ez, m = slab.shape[2:]
    ex, ey = height
    mixed[:] = 0.0
    for b in range(ex * ey * ez):
        one = slab[x0 + b // (ey * ez), y0 + b // ez % ey, b % ez]
        for v in range(m):
            mixed[v] += weights[b, lane] * one[v]
