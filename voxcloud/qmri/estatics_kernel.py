"""ESTATICS compiled: one block of voxels, tile by tile, each tile small enough to stay in the first cache.

Every loop over the voxels of a tile has the same length (the last tile is filled up), so that each voxel goes through
the same vector instructions whatever the size of the block: results do not depend on it to the bit. A NaN or infinite
signal makes its logarithm NaN, and with it everything of its voxel.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.elementary import FUSED, exp, log

# Voxels at a time: 22 logarithms of each and their sums stay in the first caches.
TILE = 128


@njit(**FUSED)
def fit_tiles(  # type: ignore[no-untyped-def]
    signals, rows, first, position, group, leader, shifted, gap, gaps, reference, passes, floor, offset, found
):
    """Fit the voxels from ``offset`` on, as many as ``found`` holds; the arrays of a plan are those of ``EchoPlan``.

    Parameters
    ----------
    signals : tuple with one (echoes, v) array per train, all float32 or all float64.
    rows, first, position, group, leader, shifted, gap, gaps, reference : the plan.
    passes, floor : as in ``fit_estatics``.
    found : (2 + 2 trains, v) float64, filled: R2*, its error, TE = 0 signals, residuals.
    """
    n, trains, groups, times = found.shape[1], first.size - 1, leader.size, shifted.size
    last = np.full((rows.size, TILE), floor, signals[0].dtype)
    y, factor, decay = np.empty((rows.size, TILE)), np.empty((times, TILE)), np.empty((times, TILE))
    step, level, weight = np.empty((gaps.size, TILE)), np.empty((trains, TILE)), np.empty((trains, TILE))
    total, centre, spread = np.empty((groups, TILE)), np.empty((groups, TILE)), np.empty((groups, TILE))
    slope, bottom, result = np.empty(TILE), np.empty(TILE), np.empty((found.shape[0], TILE))
    for start in range(0, n, TILE):
        _logarithms(signals, rows, first, offset + start, floor, last, y)
        _unweighted(y, first, position, group, leader, shifted, level, weight, total, centre, slope, bottom, factor)
        for _ in range(passes):
            _progression(slope, -2.0, shifted, gap, gaps, step, factor)
            _time_sums(factor, first, position, leader, shifted, total, centre, spread)
            _weighted(y, factor, first, position, group, shifted, level, weight, total, centre, spread, slope, bottom)
        _progression(slope, -1.0, shifted, gap, gaps, step, decay)
        _influences(factor, decay, first, position, leader, shifted, centre, spread)
        _residuals(signals, rows, first, position, offset + start, floor, last, level, decay, result)
        _rates(group, weight, spread, slope, bottom, reference, result)
        for row in range(found.shape[0]):
            for i in range(min(TILE, n - start)):
                found[row, start + i] = result[row, i]


@njit(**FUSED)
def _logarithms(signals, rows, first, start, floor, last, y):  # type: ignore[no-untyped-def]
    """Fill in the logarithms of a tile; where fewer voxels are left, ``last`` is filled with them and used instead."""
    for c in range(first.size - 1):
        images = signals[c]
        left = images.shape[1] - start
        for e in range(first[c], first[c + 1]):
            if left >= TILE:
                _take_log(images, rows[e], start, floor, y, e)
            else:
                for i in range(left):
                    last[e, i] = images[rows[e], start + i]
                _take_log(last, e, 0, floor, y, e)


@njit(**FUSED)
def _take_log(images, row, start, floor, y, e):  # type: ignore[no-untyped-def]
    first = np.uint64(start)  # an unsigned index is not looked at for counting from the end, which hinders vectors
    for i in range(TILE):
        x = np.float64(images[row, first + np.uint64(i)])
        x = floor if x < floor else x  # NaN stays NaN
        y[e, i] = log(x) + 0.0 * x  # NaN if x is not finite


@njit(**FUSED)
def _unweighted(  # type: ignore[no-untyped-def]
    y, first, position, group, leader, shifted, level, weight, total, centre, slope, bottom, factor
):
    """Ordinary least squares: ``slope = -sum (t - centre) y / sum (t - centre)^2`` over all trains."""
    slope[:], weight[:], factor[:], level[:] = 0.0, 1.0, 1.0, 0.0
    for g in range(leader.size):
        c = leader[g]
        mean = 0.0
        for e in range(first[c], first[c + 1]):
            mean += shifted[position[e]]
        total[g, :] = first[c + 1] - first[c]
        centre[g, :] = mean / (first[c + 1] - first[c])
    below = 0.0
    for c in range(first.size - 1):
        for e in range(first[c], first[c + 1]):
            deviation = shifted[position[e]] - centre[group[c], 0]
            below += deviation * deviation
            for i in range(TILE):
                slope[i] += deviation * y[e, i]
                level[c, i] += y[e, i]
    bottom[:] = below
    for i in range(TILE):
        slope[i] = -slope[i] / bottom[i]
    _levels(group, total, centre, slope, level)


@njit(**FUSED)
def _levels(group, total, centre, slope, level):  # type: ignore[no-untyped-def]
    """Turn sums of logarithms into intercepts at the reference time."""
    for c in range(group.size):
        g = group[c]
        for i in range(TILE):
            level[c, i] = level[c, i] / total[g, i] + slope[i] * centre[g, i]


@njit(**FUSED)
def _progression(slope, times, shifted, gap, gaps, step, out):  # type: ignore[no-untyped-def]
    """Fill in ``exp(times slope t)`` for every echo time: one exponential for the first, one for each distinct gap."""
    for i in range(TILE):
        out[0, i] = exp(times * shifted[0] * slope[i])
    for g in range(gaps.size):
        for i in range(TILE):
            step[g, i] = exp(times * gaps[g] * slope[i])
    for u in range(1, shifted.size):
        g = gap[u - 1]
        for i in range(TILE):
            out[u, i] = out[u - 1, i] * step[g, i]


@njit(**FUSED)
def _time_sums(factor, first, position, leader, shifted, total, centre, spread):  # type: ignore[no-untyped-def]
    """Fill in ``sum w``, the weighted mean of t and ``sum w (t - mean)^2`` for each distinct set of echo times."""
    total[:], centre[:], spread[:] = 0.0, 0.0, 0.0
    for g in range(leader.size):
        for e in range(first[leader[g]], first[leader[g] + 1]):
            u = position[e]
            t = shifted[u]
            for i in range(TILE):
                total[g, i] += factor[u, i]
                centre[g, i] += factor[u, i] * t
                spread[g, i] += factor[u, i] * (t * t)
        for i in range(TILE):
            mean = centre[g, i] / total[g, i]
            spread[g, i] -= centre[g, i] * mean
            centre[g, i] = mean


@njit(**FUSED)
def _weighted(  # type: ignore[no-untyped-def]
    y, factor, first, position, group, shifted, level, weight, total, centre, spread, slope, bottom
):
    """One pass with weights exp(2 fitted), which is a factor of the train times one of the echo time."""
    highest, by_time = np.empty(TILE), np.empty(TILE)
    highest[:] = level[0]
    for c in range(1, group.size):
        for i in range(TILE):
            highest[i] = level[c, i] if level[c, i] > highest[i] else highest[i]
    slope[:], bottom[:] = 0.0, 0.0
    for c in range(group.size):
        g = group[c]
        for i in range(TILE):
            weight[c, i] = exp(2.0 * (level[c, i] - highest[i]))
            bottom[i] += weight[c, i] * spread[g, i]
        level[c], by_time[:] = 0.0, 0.0
        for e in range(first[c], first[c + 1]):
            u = position[e]
            t = shifted[u]
            for i in range(TILE):
                value = factor[u, i] * y[e, i]
                level[c, i] += value
                by_time[i] += value * t
        for i in range(TILE):
            slope[i] += weight[c, i] * (by_time[i] - centre[g, i] * level[c, i])
    for i in range(TILE):
        slope[i] = -slope[i] / bottom[i]
    _levels(group, total, centre, slope, level)


@njit(**FUSED)
def _influences(factor, decay, first, position, leader, shifted, centre, influence):  # type: ignore[no-untyped-def]
    """Fill in, for each set of echo times, the sum of squares of what an echo's relative error does to the slope."""
    for g in range(leader.size):
        influence[g] = 0.0
        for e in range(first[leader[g]], first[leader[g] + 1]):
            u = position[e]
            for i in range(TILE):
                leverage = (shifted[u] - centre[g, i]) * factor[u, i] / decay[u, i]
                influence[g, i] += leverage * leverage


@njit(**FUSED)
def _residuals(signals, rows, first, position, start, floor, last, level, decay, result):  # type: ignore[no-untyped-def]
    """Fill in the signal of each train at the reference time and its root mean square residual, behind two rates."""
    trains = first.size - 1
    scale, squares = np.empty(TILE), np.empty(TILE)
    for c in range(trains):
        images = signals[c]
        squares[:] = 0.0
        for i in range(TILE):
            scale[i] = exp(level[c, i])
        for e in range(first[c], first[c + 1]):
            if images.shape[1] - start >= TILE:
                _add_squares(images, rows[e], start, floor, scale, decay, position[e], squares)
            else:
                _add_squares(last, e, 0, floor, scale, decay, position[e], squares)
        for i in range(TILE):
            result[2 + c, i] = scale[i]
            result[2 + trains + c, i] = np.sqrt(squares[i] / (first[c + 1] - first[c]))


@njit(**FUSED)
def _add_squares(images, row, start, floor, scale, decay, u, squares):  # type: ignore[no-untyped-def]
    first = np.uint64(start)
    for i in range(TILE):
        x = np.float64(images[row, first + np.uint64(i)])
        x = floor if x < floor else x
        difference = x - scale[i] * decay[u, i]
        squares[i] += difference * difference


@njit(**FUSED)
def _rates(group, weight, influence, slope, bottom, reference, result):  # type: ignore[no-untyped-def]
    """Fill in R2* and its standard error, and take the signals from the reference time to TE = 0.

    R2* is a weighted sum of logarithms, ``-sum w (t - centre) ln S / bottom``, and ln S has the error residual / S.
    """
    trains = group.size
    growth = np.empty(TILE)
    result[1] = 0.0
    for i in range(TILE):
        result[0, i] = slope[i]
        growth[i] = exp(slope[i] * reference)
    for c in range(trains):
        g = group[c]
        for i in range(TILE):
            error = weight[c, i] * result[2 + trains + c, i] / result[2 + c, i]
            result[1, i] += error * error * influence[g, i]
        for i in range(TILE):
            result[2 + c, i] *= growth[i]
    for i in range(TILE):
        result[1, i] = np.sqrt(result[1, i]) / bottom[i]
