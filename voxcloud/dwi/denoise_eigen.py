"""Symmetric eigenproblems of eight voxels at once, one voxel in each lane.

What is needed of a Gram matrix are its eigenvalues and, for one vector, its projection on some of the eigenvectors;
eigenvectors themselves are never made. ``A = Q T Q'`` by Householder reflections, ``T = W L W'`` by implicit QL
rotations: the vector goes through both as they are found, its components along noise are set to zero, and it goes
back the same way. That takes few operations more than the eigenvalues alone, and the projection is orthogonal to the
last bits however close eigenvalues are.

Arrays are (..., LANES), float64. No operation mixes lanes and none depends on what others hold: a voxel has the same
bits in whatever lane and company. Matrices are n x n, of which the lower triangle is read.
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
from voxcloud.elementary import FUSED

EPSILON = 2.0**-52
# QL takes 1.7 sweeps per eigenvalue on average; this many have never been seen to be needed.
MAX_SWEEPS_PER_VALUE = 30


@njit(**FUSED)
def tridiagonalise(a, d, e, u, q, scale):  # type: ignore[no-untyped-def]
    """Reduce to tridiagonal form by reflections ``1 - u u' scale``, which are left behind.

    Parameters
    ----------
    a : (n, n, LANES), lower triangle; overwritten. Row i then holds u of the reflection that emptied it.
    d, e : (n, LANES), filled: diagonal, and e[i] between i and i + 1.
    u, q : (n, LANES), room.
    scale : (n, LANES), filled: 2 / u'u, or 0 where nothing was to be done.
    """
    n = a.shape[0]
    for i in range(n - 1, 0, -1):
        _reflection(a[i], i, e, scale)
        _multiply(a, i, u, q)
        _two_sided(a, i, scale, u, q)
    for i in range(n):
        store(d, i, load(a[i], i))
    store(e, n - 1, spread(0.0))
    store(scale, 0, spread(0.0))


@njit(**FUSED)
def _reflection(row, i, e, scale):  # type: ignore[no-untyped-def]
    """Turn row i into the vector of its reflection."""
    zero = spread(0.0)
    rest = zero
    for j in range(i - 1):
        value = load(row, j)
        rest = fma(value, value, rest)
    last = load(row, i - 1)
    squares = fma(last, last, rest)
    length = root(squares)
    beta = where_positive(last, negative(length), length)
    half = fma(negative(last), beta, squares)  # u'u / 2, without cancellation
    store(e, i - 1, where_positive(rest, beta, last))
    store(scale, i, where_positive(rest, divide(spread(1.0), half), zero))
    store(row, i - 1, subtract(last, beta))


@njit(**FUSED)
def _multiply(a, i, u, q):  # type: ignore[no-untyped-def]
    """Fill u with row i, and q with the leading i x i block times u."""
    for j in range(i):
        row = a[j]
        factor = load(a[i], j)
        store(u, j, factor)
        total = multiply(load(row, j), factor)
        for h in range(j):
            value = load(row, h)
            total = fma(value, load(u, h), total)
            store(q, h, fma(value, factor, load(q, h)))
        store(q, j, total)


@njit(**FUSED)
def _two_sided(a, i, scale, u, q):  # type: ignore[no-untyped-def]
    """Apply the reflection to the leading block from both sides."""
    factor = load(scale, i)
    inner = spread(0.0)
    for j in range(i):
        value = multiply(load(q, j), factor)
        inner = fma(load(u, j), value, inner)
        store(q, j, value)
    inner = negative(multiply(multiply(inner, factor), spread(0.5)))
    for j in range(i):
        store(q, j, fma(inner, load(u, j), load(q, j)))
    for j in range(i):
        row = a[j]
        minus_u, minus_q = negative(load(u, j)), negative(load(q, j))
        for h in range(j + 1):
            store(row, h, fma(minus_u, load(q, h), fma(minus_q, load(u, h), load(row, h))))


@njit(**FUSED)
def reflect(a, scale, x, forward):  # type: ignore[no-untyped-def]
    """Apply all reflections to x (n, LANES): ``Q' x`` if forward, else ``Q x``."""
    n = a.shape[0]
    for step in range(1, n):
        i = n - step if forward else step
        row = a[i]
        inner = spread(0.0)
        for j in range(i):
            inner = fma(load(row, j), load(x, j), inner)
        inner = negative(multiply(inner, load(scale, i)))
        for j in range(i):
            store(x, j, fma(inner, load(row, j), load(x, j)))


@njit(**FUSED)
def diagonalise(d, e, x, turns, ranges):  # type: ignore[no-untyped-def]
    """Diagonalise by implicit QL with shifts, lanes side by side, each at its own eigenvalue.

    Parameters
    ----------
    d, e : (n, LANES): d is overwritten with the eigenvalues (in no order), e is destroyed.
    x : (n, LANES), overwritten with ``W' x``.
    turns : (m, 2, LANES), filled with cosine and sine of each rotation.
    ranges : (s, 2), filled with the first and last row of each sweep.

    Returns
    -------
    Number of sweeps; -1 if it does not converge, which takes a value that is not finite.
    """
    low, high = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    room = np.empty((5, LANES))
    used = 0
    for sweep in range(ranges.shape[0]):
        first, last = _find_blocks(d, e, low, high)
        if last < 0:
            return sweep
        if used + last - first > turns.shape[0]:
            return -1
        for k in range(LANES):
            room[0, k], room[1, k] = low[k] - 0.5, high[k] - 0.5
            room[2, k] = _shift(d, e, low[k], high[k], k)
        ranges[sweep, 0], ranges[sweep, 1] = first, last
        _sweep(d, e, x, first, last, room, turns, used)
        used += last - first
        for k in range(LANES):
            if low[k] < high[k]:
                d[low[k], k] -= room[3, k]
                e[low[k], k] = room[2, k]
    return -1


@njit(**FUSED)
def _find_blocks(d, e, low, high):  # type: ignore[no-untyped-def]
    """Find the unreduced block at the top of each lane; return the rows over which they extend, or a last of -1."""
    n = d.shape[0]
    first, last = n, -1
    for k in range(LANES):
        at = low[k]
        while at < n - 1 and abs(e[at, k]) <= EPSILON * (abs(d[at, k]) + abs(d[at + 1, k])):
            e[at, k] = 0.0
            at += 1
        low[k] = at
        end = at
        while end < n - 1 and not abs(e[end, k]) <= EPSILON * (abs(d[end, k]) + abs(d[end + 1, k])):
            end += 1
        high[k] = end
        if at < end:
            first, last = min(first, at), max(last, end)
    return first, last


@njit(**FUSED)
def _shift(d, e, low, high, k):  # type: ignore[no-untyped-def]
    """Start a sweep with Wilkinson's shift: the eigenvalue of the leading 2 x 2 block that is closer to its corner."""
    if low >= high:
        return 0.0
    half = (d[low + 1, k] - d[low, k]) / (2.0 * e[low, k])
    length = np.sqrt(half * half + 1.0)
    return d[high, k] - d[low, k] + e[low, k] / (half + (length if half >= 0.0 else -length))


@njit(**FUSED)
def _sweep(d, e, x, first, last, room, turns, used):  # type: ignore[no-untyped-def]
    """Chase the bulge from row ``last`` to row ``first``; lanes whose block ends before take no part there.

    ``room`` holds low - 1/2, high - 1/2 and g of each lane; g and p are left in its rows 2 and 3.
    """
    zero, one, two = spread(0.0), spread(1.0), spread(2.0)
    low, high, g = load(room, 0), load(room, 1), load(room, 2)
    p, c, s = zero, one, one
    for i in range(last - 1, first - 1, -1):
        above, below = subtract(spread(float(i)), low), subtract(high, spread(float(i)))
        active = where_positive(above, below, zero)
        off = load(e, i)
        f, b = multiply(s, off), multiply(c, off)
        squares = fma(f, f, multiply(g, g))
        length = root(squares)
        inverse = divide(one, length)
        sine = where_positive(squares, multiply(f, inverse), zero)
        cosine = where_positive(squares, multiply(g, inverse), one)
        inside = where_positive(active, subtract(below, one), zero)
        store(e, i + 1, where_positive(inside, length, load(e, i + 1)))
        before = load(d, i + 1)
        level = subtract(before, p)
        change = fma(subtract(load(d, i), level), sine, multiply(two, multiply(cosine, b)))
        moved = multiply(sine, change)
        store(d, i + 1, where_positive(active, add(level, moved), before))
        g = where_positive(active, fma(cosine, change, negative(b)), g)
        p = where_positive(active, moved, p)
        c, s = where_positive(active, cosine, c), where_positive(active, sine, s)
        cosine, sine = where_positive(active, cosine, one), where_positive(active, sine, zero)
        store(turns, 2 * used, cosine)
        store(turns, 2 * used + 1, sine)
        used += 1
        upper, lower = load(x, i), load(x, i + 1)
        store(x, i + 1, fma(sine, upper, multiply(cosine, lower)))
        store(x, i, fma(cosine, upper, negative(multiply(sine, lower))))
    store(room, 2, g)
    store(room, 3, p)


@njit(**FUSED)
def turn_back(x, turns, ranges, sweeps):  # type: ignore[no-untyped-def]
    """Overwrite x with ``W x``: the rotations of ``diagonalise`` undone, last first."""
    used = 0
    for sweep in range(sweeps):
        used += ranges[sweep, 1] - ranges[sweep, 0]
    for sweep in range(sweeps - 1, -1, -1):
        for i in range(ranges[sweep, 0], ranges[sweep, 1]):
            used -= 1
            cosine, sine = load(turns, 2 * used), load(turns, 2 * used + 1)
            upper, lower = load(x, i), load(x, i + 1)
            store(x, i, fma(cosine, upper, multiply(sine, lower)))
            store(x, i + 1, fma(cosine, lower, negative(multiply(sine, upper))))
