"""One pass of expectation maximisation over the voxels of a brain, compiled.

Voxels go through in tiles of fixed length, states outside and voxels inside, so that the inner loops are vectors. What
is summed is summed in the order of voxels: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from voxcloud.elementary import FUSED, exp

TISSUES = 3
GM, WM, CSF, OTHER = 0, 1, 2, 3
# Mixtures of two tissues, each in so many steps.
PAIRS = ((GM, WM), (GM, CSF), (WM, CSF))
STEPS = 6
KINDS = TISSUES + len(PAIRS) + 1
STATES = TISSUES + len(PAIRS) * STEPS
TILE = 64
# Sums per block: three of the normal matrix, two of its right side.
SUMS = 5
# Per voxel: fractions, sums, likelihood, squared deviations of pure kinds, two for the mean of CSF.
ROWS = TISSUES + SUMS + 1 + TISSUES + 2
# Beyond so many standard deviations a density is that of this place: no voxel has none at all.
FARTHEST = 9.0


def states() -> tuple[Any, Any]:
    """Return fractions (state, tissue) and the kind of each state (state,); kinds are tissues, then pairs."""
    fractions, kinds = np.zeros((STATES, TISSUES)), np.zeros(STATES, np.int64)
    fractions[:TISSUES], kinds[:TISSUES] = np.eye(TISSUES), np.arange(TISSUES)
    for pair, (first, second) in enumerate(PAIRS):
        for step in range(STEPS):
            s = TISSUES + pair * STEPS + step
            fractions[s, second] = (step + 0.5) / STEPS
            fractions[s, first] = 1.0 - fractions[s, second]
            kinds[s] = TISSUES + pair
    return fractions, kinds


@njit(**FUSED)
def pass_over(  # type: ignore[no-untyped-def]
    values,
    known,
    at,
    log_priors,
    means,
    fractions,
    kinds,
    weights,
    variances,
    other,
    q,
    steps,
    reach,
    new,
    blocks,
    sums,
    totals,
    counts,
):
    """Find the fractions of every voxel, and sum what the next parameters are made of.

    Parameters
    ----------
    values, known : (n,) float64; whether there is a value.
    at : (n,) index in the padded volumes.
    log_priors : (n, 4) float32 of GM, WM, CSF, other.
    means : (n, 2) float32, local mean of GM and WM less the global one.
    fractions, kinds : ``states()``.
    weights : (KINDS,) of the kinds; those of a pair divided by its steps.
    variances : (STATES,) of each state.
    other : (4 + bins,): mean of GM, WM, CSF; lowest value; width of a bin is ``steps[3]``.
    q, new : (3, padded) float32, fractions before and after.
    steps : (4,) weights of neighbours along the axes, in units of the field's strength; then the width of a bin.
    reach : (3,) to the neighbours.
    blocks : (n,) block of each voxel.
    sums : (block, SUMS), added to.
    totals : (KINDS, 3), added to: responsibility and expected prior of each kind, and the squared deviations of the
        pure ones; then the logarithm of the likelihood, and normal matrix and right side of the mean of CSF.
    counts : (bins,), added to: responsibility of what is no brain, by value.
    """
    density, prior = np.zeros((STATES + 1, TILE)), np.zeros((STATES + 1, TILE))
    field = np.zeros((4, TILE))
    y, local = np.zeros(TILE), np.zeros((TISSUES, TILE))
    made = np.zeros((ROWS, TILE))
    for start in range(0, values.size, TILE):
        n = min(TILE, values.size - start)
        for i in range(TILE):
            v = start + min(i, n - 1)
            y[i] = values[v]
            _around(q, at[v], reach, steps, log_priors[v], field, i)
            local[GM, i], local[WM, i] = other[GM] + means[v, 0], other[WM] + means[v, 1]
            local[CSF, i] = other[CSF]
        _priors(field, weights, prior)
        _densities(y, local, fractions, variances, prior, density)
        for i in range(n):
            p = _other(other, steps[3], y[i])
            density[STATES, i] = prior[STATES, i] * p
            if not known[start + i]:
                density[:, i] = prior[:, i]
        _summed(y, local, fractions, variances, prior, density, made)
        _kept(density, prior, made, kinds, known, start, n, totals)
        _counted(density[STATES], y, other, steps[3], known, start, n, counts)
        for i in range(n):
            for k in range(TISSUES):
                new[k, at[start + i]] = made[k, i]
            if known[start + i]:
                for c in range(SUMS):
                    sums[blocks[start + i], c] += made[TISSUES + c, i]


@njit(**FUSED)
def _around(q, centre, reach, steps, log_prior, field, i):  # type: ignore[no-untyped-def]
    """Write the logarithm of each tissue's prior with what the six neighbours say."""
    rest = 2.0 * (steps[0] + steps[1] + steps[2])
    for k in range(TISSUES):
        total = 0.0
        for a in range(3):
            total += steps[a] * (q[k, centre - reach[a]] + q[k, centre + reach[a]])
        field[k, i] = log_prior[k] + total
        rest -= total
    field[OTHER, i] = log_prior[OTHER] + rest


@njit(**FUSED)
def _priors(field, weights, prior):  # type: ignore[no-untyped-def]
    """Write the prior of each state, adding up to 1: geometric between the two tissues of a pair."""
    total, whole = np.zeros(TILE), np.zeros(TILE)
    for k in range(TISSUES):
        for i in range(TILE):
            share = exp(field[k, i])
            whole[i] += share
            prior[k, i] = share * weights[k]
            total[i] += prior[k, i]
    for pair in range(len(PAIRS)):
        first, second = PAIRS[pair]
        w = weights[TISSUES + pair]
        for i in range(TILE):
            ratio = exp((field[second, i] - field[first, i]) / STEPS)
            value = w * exp(field[first, i] + 0.5 * (field[second, i] - field[first, i]) / STEPS)
            for step in range(STEPS):
                prior[TISSUES + pair * STEPS + step, i] = value
                total[i] += value
                value *= ratio
    for i in range(TILE):
        beside = exp(field[OTHER, i]) * weights[KINDS - 1]
        prior[STATES, i] = beside / (beside + whole[i])
        total[i] = whole[i] / (total[i] * (beside + whole[i]))
    for s in range(STATES):
        for i in range(TILE):
            prior[s, i] *= total[i]


@njit(**FUSED)
def _densities(y, local, fractions, variances, prior, density):  # type: ignore[no-untyped-def]
    for s in range(STATES):
        scale, height = -0.5 / variances[s], 0.3989422804014327 / np.sqrt(variances[s])
        f0, f1, f2 = fractions[s, 0], fractions[s, 1], fractions[s, 2]
        for i in range(TILE):
            z = y[i] - (f0 * local[0, i] + f1 * local[1, i] + f2 * local[2, i])
            density[s, i] = prior[s, i] * height * exp(max(scale * z * z, -0.5 * FARTHEST * FARTHEST))


@njit(**FUSED)
def _other(other, width, value):  # type: ignore[no-untyped-def]
    """Return the density of what is no brain: linear between the centres of bins."""
    bins = other.size - 4
    place = (value - other[3]) / width
    place = min(max(place, 0.0), bins - 1.000001)
    low = int(place)
    part = place - low
    return (1.0 - part) * other[4 + low] + part * other[5 + low]


@njit(**FUSED)
def _summed(y, local, fractions, variances, prior, density, made):  # type: ignore[no-untyped-def]
    """Turn densities into responsibilities; write fractions, and each voxel's part of the normal equations."""
    made[:] = 0.0
    total = made[8]
    for s in range(STATES + 1):
        for i in range(TILE):
            total[i] += density[s, i]
    for s in range(STATES + 1):
        for i in range(TILE):
            density[s, i] /= total[i]
    for s in range(STATES):
        f0, f1, f2 = fractions[s, 0], fractions[s, 1], fractions[s, 2]
        precision = 1.0 / variances[s]
        for i in range(TILE):
            r = density[s, i]
            made[0, i] += r * f0
            made[1, i] += r * f1
            made[2, i] += r * f2
            r *= precision
            z = r * (y[i] - (f0 * local[0, i] + f1 * local[1, i] + f2 * local[2, i]))
            made[3, i] += r * f0 * f0
            made[4, i] += r * f0 * f1
            made[5, i] += r * f1 * f1
            made[6, i] += f0 * z
            made[7, i] += f1 * z
            made[12, i] += r * f2 * f2
            made[13, i] += f2 * z
    for k in range(TISSUES):
        for i in range(TILE):
            made[9 + k, i] = density[k, i] * (y[i] - local[k, i]) ** 2


@njit(**FUSED)
def _kept(density, prior, made, kinds, known, start, n, totals):  # type: ignore[no-untyped-def]
    for i in range(n):
        if not known[start + i]:
            continue
        totals[TISSUES, 2] += np.log(made[8, i])
        totals[TISSUES + 1, 2] += made[12, i]
        totals[TISSUES + 2, 2] += made[13, i]
        totals[KINDS - 1, 0] += density[STATES, i]
        totals[KINDS - 1, 1] += prior[STATES, i]
        for k in range(TISSUES):
            totals[k, 2] += made[9 + k, i]
        for s in range(STATES):
            totals[kinds[s], 0] += density[s, i]
            totals[kinds[s], 1] += prior[s, i]


@njit(**FUSED)
def _counted(share, y, other, width, known, start, n, counts):  # type: ignore[no-untyped-def]
    for i in range(n):
        if known[start + i]:
            place = min(max((y[i] - other[3]) / width, 0.0), counts.size - 1.000001)
            low = int(place)
            counts[low] += share[i] * (1.0 - (place - low))
            counts[low + 1] += share[i] * (place - low)


@njit(**FUSED)
def spread(grid, places, means):  # type: ignore[no-untyped-def]
    """Read values on the grid of blocks (x, y, z, 2) at places (n, 3) in blocks, trilinear, into ``means`` (n, 2)."""
    nx, ny, nz = grid.shape[:3]
    for v in range(places.shape[0]):
        x = min(max(places[v, 0], 0.0), nx - 1.0)
        y = min(max(places[v, 1], 0.0), ny - 1.0)
        z = min(max(places[v, 2], 0.0), nz - 1.0)
        i, j, k = min(int(x), max(nx - 2, 0)), min(int(y), max(ny - 2, 0)), min(int(z), max(nz - 2, 0))
        for c in range(2):
            value = 0.0
            for a in range(2):
                for b in range(2):
                    for d in range(2):
                        w = abs(1 - a - (x - i)) * abs(1 - b - (y - j)) * abs(1 - d - (z - k))
                        if w > 0.0:
                            value += w * grid[i + a, j + b, k + d, c]
            means[v, c] = value
