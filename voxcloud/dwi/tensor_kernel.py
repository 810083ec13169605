"""The weighted tensor fit and its scalars compiled: tiles of 64 voxels, eight side by side.

The last tile of a block is filled up with ones, so that each voxel meets the same instructions wherever it lies. A NaN
or infinite signal makes its logarithm NaN, and with it everything of its voxel and of no other.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.dwi.lanes import (
    LANES,
    add,
    divide,
    fma,
    load,
    multiply,
    negative,
    root,
    spread,
    store,
    subtract,
    where_positive,
)
from voxcloud.elementary import FUSED, exp, log

GROUPS = 8
TILE = GROUPS * LANES
TERMS, PAIRS = 7, 28
SUMS = PAIRS + TERMS
# Results: tensor (xx, yy, zz, xy, xz, yz), S0, eigenvalues, FA, MD, direction, number of negative eigenvalues.
TENSOR, S0, VALUES, FA, MD, DIRECTION, NEGATIVES, RESULTS = 0, 6, 7, 10, 11, 12, 15, 16
# Cyclic Jacobi rotations converge quadratically: four sweeps suffice for a 3 x 3 matrix, one more costs little.
SWEEPS = 5
SMALLEST_PIVOT = 1e-13
# Eigenvalues times the largest b-value that are closer to 0 are rounding errors: signals of 0 would have an anisotropy.
NOTHING = 1e-10


@njit(**FUSED)
def fit_tiles(signals, design, inverse, products, floor, per_b, found):  # type: ignore[no-untyped-def]
    """Fit all voxels.

    Parameters
    ----------
    signals : (volumes, v).
    design : (volumes, 7): 1, and what multiplies xx, yy, zz, xy, xz, yz, for b-values scaled by ``per_b``.
    inverse : (7, volumes), the pseudo-inverse of the design.
    products : (volumes, 35), padded with zeros: products of each pair of columns (first >= second), then the columns.
    floor : signals below are raised to it.
    per_b : diffusivities per unit of what is fitted, in mm2/s.
    found : (RESULTS, v), filled.
    """
    volumes, n = signals.shape
    y, w = np.empty((volumes, GROUPS, LANES)), np.empty((volumes, GROUPS, LANES))
    sums, coefficients = np.empty((SUMS, LANES)), np.empty((TERMS, LANES))
    result = np.empty((RESULTS, GROUPS, LANES))
    for start in range(0, n, TILE):
        _logarithms(signals, start, floor, y)
        for g in range(GROUPS):
            _ordinary(y, g, inverse, coefficients)
            _predict(coefficients, g, design, w)
        _exponentials(w)
        for g in range(GROUPS):
            _weighted_sums(y, w, g, products, sums)
            _solve(sums, coefficients)
            _describe(coefficients, per_b, g, result)
        rows = result.reshape(RESULTS, TILE)
        for i in range(TILE):
            rows[S0, i] = exp(rows[S0, i])
        for row in range(RESULTS):
            for i in range(min(TILE, n - start)):
                found[row, start + i] = rows[row, i]


@njit(**FUSED)
def _logarithms(signals, start, floor, y):  # type: ignore[no-untyped-def]
    """Fill y with the logarithms of a tile."""
    n = signals.shape[1]
    last = np.ones(TILE, signals.dtype)
    for v in range(signals.shape[0]):
        out = y[v].reshape(-1)
        if n - start >= TILE:
            _take_log(signals[v], start, floor, out)
        else:
            for i in range(n - start):
                last[i] = signals[v, start + i]
            _take_log(last, 0, floor, out)


@njit(**FUSED)
def _take_log(signal, start, floor, out):  # type: ignore[no-untyped-def]
    first = np.uint64(start)  # an unsigned index is not looked at for counting from the end, which hinders vectors
    for i in range(TILE):
        x = np.float64(signal[first + np.uint64(i)])
        x = floor if x < floor else x  # NaN stays NaN
        out[i] = log(x) + 0.0 * x  # NaN if x is not finite


@njit(**FUSED)
def _exponentials(w):  # type: ignore[no-untyped-def]
    for v in range(w.shape[0]):
        row = w[v].reshape(-1)
        for i in range(TILE):
            row[i] = exp(row[i])


@njit(**FUSED)
def _ordinary(y, g, inverse, coefficients):  # type: ignore[no-untyped-def]
    """Ordinary least squares: the pseudo-inverse times the logarithms."""
    c0 = c1 = c2 = c3 = c4 = c5 = c6 = spread(0.0)
    for v in range(y.shape[0]):
        value = load(y, v * GROUPS + g)
        c0 = fma(spread(inverse[0, v]), value, c0)
        c1 = fma(spread(inverse[1, v]), value, c1)
        c2 = fma(spread(inverse[2, v]), value, c2)
        c3 = fma(spread(inverse[3, v]), value, c3)
        c4 = fma(spread(inverse[4, v]), value, c4)
        c5 = fma(spread(inverse[5, v]), value, c5)
        c6 = fma(spread(inverse[6, v]), value, c6)
    store(coefficients, 0, c0)
    store(coefficients, 1, c1)
    store(coefficients, 2, c2)
    store(coefficients, 3, c3)
    store(coefficients, 4, c4)
    store(coefficients, 5, c5)
    store(coefficients, 6, c6)


@njit(**FUSED)
def _predict(coefficients, g, design, w):  # type: ignore[no-untyped-def]
    """Fill w with twice the predicted logarithm, S0 left out: it would scale all weights alike."""
    two = spread(2.0)
    c1, c2, c3 = load(coefficients, 1), load(coefficients, 2), load(coefficients, 3)
    c4, c5, c6 = load(coefficients, 4), load(coefficients, 5), load(coefficients, 6)
    for v in range(design.shape[0]):
        value = multiply(spread(design[v, 1]), c1)
        value = fma(spread(design[v, 2]), c2, value)
        value = fma(spread(design[v, 3]), c3, value)
        value = fma(spread(design[v, 4]), c4, value)
        value = fma(spread(design[v, 5]), c5, value)
        value = fma(spread(design[v, 6]), c6, value)
        store(w, v * GROUPS + g, multiply(two, value))


@njit(**FUSED)
def _weighted_sums(y, w, g, products, sums):  # type: ignore[no-untyped-def]
    """Fill in ``X'WX`` (a triangle) and ``X'Wy``, seven sums at a time, which is what registers hold."""
    for first in range(0, SUMS, TERMS):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = spread(0.0)
        for v in range(y.shape[0]):
            value = load(w, v * GROUPS + g)
            if first == PAIRS:
                value = multiply(value, load(y, v * GROUPS + g))
            s0 = fma(spread(products[v, first]), value, s0)
            s1 = fma(spread(products[v, first + 1]), value, s1)
            s2 = fma(spread(products[v, first + 2]), value, s2)
            s3 = fma(spread(products[v, first + 3]), value, s3)
            s4 = fma(spread(products[v, first + 4]), value, s4)
            s5 = fma(spread(products[v, first + 5]), value, s5)
            s6 = fma(spread(products[v, first + 6]), value, s6)
        store(sums, first, s0)
        store(sums, first + 1, s1)
        store(sums, first + 2, s2)
        store(sums, first + 3, s3)
        store(sums, first + 4, s4)
        store(sums, first + 5, s5)
        store(sums, first + 6, s6)


@njit(**FUSED)
def _solve(sums, coefficients):  # type: ignore[no-untyped-def]
    """Solve the normal equations by ``L D L'``, the intercept first; what weights leave undetermined is NaN.

    ``sums`` holds the triangle row by row, the right side behind it; it is overwritten by L, and by 1 / D on the
    diagonal.
    """
    unknown = spread(np.nan)
    for i in range(TERMS):
        row = i * (i + 1) // 2
        for j in range(i):
            other = j * (j + 1) // 2
            value = load(sums, row + j)
            for k in range(j):
                value = fma(negative(load(coefficients, k)), load(sums, other + k), value)
            store(coefficients, j, value)  # L_ij D_j
            store(sums, row + j, multiply(value, load(sums, other + j)))
        before = load(sums, row + i)
        value = before
        for k in range(i):
            value = fma(negative(load(coefficients, k)), load(sums, row + k), value)
        enough = subtract(value, multiply(spread(SMALLEST_PIVOT), before))
        store(sums, row + i, divide(spread(1.0), where_positive(enough, value, unknown)))
    for i in range(TERMS):
        row = i * (i + 1) // 2
        value = load(sums, PAIRS + i)
        for k in range(i):
            value = fma(negative(load(sums, row + k)), load(sums, PAIRS + k), value)
        store(sums, PAIRS + i, value)
    for i in range(TERMS - 1, -1, -1):
        value = multiply(load(sums, PAIRS + i), load(sums, i * (i + 1) // 2 + i))
        for k in range(i + 1, TERMS):
            value = fma(negative(load(sums, k * (k + 1) // 2 + i)), load(coefficients, k), value)
        store(coefficients, i, value)


@njit(**FUSED)
def _describe(coefficients, per_b, g, result):  # type: ignore[no-untyped-def]
    """Fill in what a tensor means: eigenvalues, principal direction, FA and MD from eigenvalues raised to 0."""
    zero, one, nothing = spread(0.0), spread(1.0), spread(NOTHING)
    work = np.empty((15, LANES))
    for i in range(6):
        value = load(coefficients, 1 + i)
        store(work, i, value)
        store(result, (TENSOR + i) * GROUPS + g, multiply(value, spread(per_b)))
    store(result, S0 * GROUPS + g, load(coefficients, 0))
    eigen(work)
    known = multiply(add(add(load(work, 0), load(work, 1)), load(work, 2)), zero)  # 0 or NaN
    negatives, total, squares, apart = known, known, zero, zero
    for i in range(3):
        value = load(work, i)
        negatives = add(negatives, where_positive(negative(add(value, nothing)), one, zero))
        value = where_positive(subtract(nothing, value), zero, value)
        store(work, i, value)
        total = add(total, value)
        squares = fma(value, value, squares)
        store(result, (VALUES + i) * GROUPS + g, multiply(value, spread(per_b)))
        store(result, (DIRECTION + i) * GROUPS + g, add(load(work, 6 + i), known))
    mean = multiply(total, spread(1.0 / 3.0))
    for i in range(3):
        value = subtract(load(work, i), mean)
        apart = fma(value, value, apart)
    anisotropy = root(divide(multiply(spread(1.5), apart), squares))
    anisotropy = where_positive(subtract(anisotropy, one), one, anisotropy)
    store(result, FA * GROUPS + g, where_positive(squares, anisotropy, known))
    store(result, MD * GROUPS + g, multiply(mean, spread(per_b)))
    store(result, NEGATIVES * GROUPS + g, negatives)


@njit(**FUSED)
def eigen(work):  # type: ignore[no-untyped-def]
    """Replace symmetric 3 x 3 matrices by their eigenvalues, largest first, and eigenvectors.

    Jacobi rotations: unlike the roots of the cubic, they keep all digits where eigenvalues are close to each other.

    Parameters
    ----------
    work : (15, LANES): xx, yy, zz, xy, xz, yz in the first six rows. Eigenvalues are left in rows 0 to 2, the first
        eigenvector in rows 6 to 8, the second in 9 to 11, the third in 12 to 14.
    """
    for i in range(9):
        store(work, 6 + i, spread(1.0 if i % 4 == 0 else 0.0))
    for _ in range(SWEEPS):
        _turn(work, 0, 1, 3, 4, 5)
        _turn(work, 0, 2, 4, 3, 5)
        _turn(work, 1, 2, 5, 3, 4)
    _order(work, 0, 1)
    _order(work, 1, 2)
    _order(work, 0, 1)


@njit(**FUSED)
def _turn(work, i, j, between, with_i, with_j):  # type: ignore[no-untyped-def]
    """Rotate in the plane of axes i and j; the other rows name what lies between axes: i and j, i and k, j and k."""
    zero, one, two = spread(0.0), spread(1.0), spread(2.0)
    first, second, off = load(work, i), load(work, j), load(work, between)
    apart, twice = subtract(second, first), multiply(two, off)
    length = root(fma(apart, apart, multiply(twice, twice)))
    size = where_positive(apart, apart, negative(apart))
    below = add(size, length)
    tangent = where_positive(below, divide(where_positive(apart, twice, negative(twice)), below), zero)
    cosine = divide(one, root(fma(tangent, tangent, one)))
    sine = multiply(tangent, cosine)
    store(work, i, fma(negative(tangent), off, first))
    store(work, j, fma(tangent, off, second))
    store(work, between, multiply(off, zero))
    _rotate(work, with_i, with_j, cosine, sine)
    for k in range(3):
        _rotate(work, 6 + 3 * i + k, 6 + 3 * j + k, cosine, sine)


@njit(**FUSED)
def _rotate(work, i, j, cosine, sine):  # type: ignore[no-untyped-def]
    one, other = load(work, i), load(work, j)
    store(work, i, fma(cosine, one, negative(multiply(sine, other))))
    store(work, j, fma(sine, one, multiply(cosine, other)))


@njit(**FUSED)
def _order(work, i, j):  # type: ignore[no-untyped-def]
    """Exchange eigenvalues i and j, and their vectors, where the second is larger."""
    first, second = load(work, i), load(work, j)
    wrong = subtract(second, first)
    store(work, i, where_positive(wrong, second, first))
    store(work, j, where_positive(wrong, first, second))
    for k in range(3):
        one, other = load(work, 6 + 3 * i + k), load(work, 6 + 3 * j + k)
        store(work, 6 + 3 * i + k, where_positive(wrong, other, one))
        store(work, 6 + 3 * j + k, where_positive(wrong, one, other))
