"""Symmetric eigenproblems of several voxels at once, one voxel in each lane of the vector unit.

What is needed of a Gram matrix are its eigenvalues and, for one vector, its projection on some of the eigenvectors;
eigenvectors themselves are never made. ``A = Q T Q'`` by Householder reflections, ``T = W L W'`` by implicit QL
rotations: the vector goes through both as they are found, its components along noise are set to zero, and it goes
back the same way. That takes as many operations as the eigenvalues alone, to the order n^2, and the projection is
orthogonal to the last bits however close eigenvalues are.

Arrays are (..., LANES). No operation mixes lanes, none depends on what others hold: a voxel has the same bits in
whatever lane and company. Sizes are those of the matrices: n x n, of which the lower triangle is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# contract: a * b + c may be rounded once. Lane loops have one length, so that every voxel meets the same instructions.
FUSED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
LANES = 8
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
        _reflection(a, i, e, scale)
        _multiply(a, i, u, q)
        _two_sided(a, i, scale, u, q)
    for i in range(n):
        for k in range(LANES):
            d[i, k] = a[i, i, k]
    for k in range(LANES):
        e[n - 1, k], scale[0, k] = 0.0, 0.0


@njit(**FUSED)
def _reflection(a, i, e, scale):  # type: ignore[no-untyped-def]
    """Turn row i into the vector of its reflection."""
    squares, rest = np.zeros(LANES), np.zeros(LANES)
    for j in range(i - 1):
        for k in range(LANES):
            rest[k] += a[i, j, k] * a[i, j, k]
    for k in range(LANES):
        last = a[i, i - 1, k]
        squares[k] = rest[k] + last * last
        root = np.sqrt(squares[k])
        beta = -root if last > 0.0 else root
        needed = rest[k] > 0.0
        e[i - 1, k] = beta if needed else last
        below = squares[k] - last * beta  # u'u / 2, without cancellation
        scale[i, k] = 1.0 / below if needed and below > 0.0 else 0.0
        a[i, i - 1, k] = last - beta


@njit(**FUSED)
def _multiply(a, i, u, q):  # type: ignore[no-untyped-def]
    """Fill q with the leading i x i block times u, which is row i."""
    sums = np.empty(LANES)
    for j in range(i):
        for k in range(LANES):
            u[j, k] = a[i, j, k]
            sums[k] = a[j, j, k] * u[j, k]
        row = a[j]
        for h in range(j):
            for k in range(LANES):
                value = row[h, k]
                sums[k] += value * u[h, k]
                q[h, k] += value * u[j, k]
        for k in range(LANES):
            q[j, k] = sums[k]


@njit(**FUSED)
def _two_sided(a, i, scale, u, q):  # type: ignore[no-untyped-def]
    """Apply the reflection to the leading block from both sides."""
    inner = np.zeros(LANES)
    for j in range(i):
        for k in range(LANES):
            q[j, k] *= scale[i, k]
            inner[k] += u[j, k] * q[j, k]
    for k in range(LANES):
        inner[k] *= 0.5 * scale[i, k]
    for j in range(i):
        for k in range(LANES):
            q[j, k] -= inner[k] * u[j, k]
    for j in range(i):
        row = a[j]
        for h in range(j + 1):
            for k in range(LANES):
                row[h, k] -= u[j, k] * q[h, k] + q[j, k] * u[h, k]


@njit(**FUSED)
def reflect(a, scale, x, forward):  # type: ignore[no-untyped-def]
    """Apply all reflections to x (n, LANES): ``Q' x`` if forward, else ``Q x``."""
    n = a.shape[0]
    inner = np.empty(LANES)
    for step in range(1, n):
        i = n - step if forward else step
        inner[:] = 0.0
        for j in range(i):
            for k in range(LANES):
                inner[k] += a[i, j, k] * x[j, k]
        for k in range(LANES):
            inner[k] *= scale[i, k]
        for j in range(i):
            for k in range(LANES):
                x[j, k] -= inner[k] * a[i, j, k]


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
    n = d.shape[0]
    low, high = np.zeros(LANES, np.int64), np.empty(LANES, np.int64)
    g, p, c, s = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    used = 0
    for sweep in range(ranges.shape[0]):
        first, last = _find_blocks(d, e, low, high)
        if first < 0:
            return sweep
        if used + last - first > turns.shape[0]:
            return -1
        _shifts(d, e, low, high, g, p, c, s)
        ranges[sweep, 0], ranges[sweep, 1] = first, last
        for i in range(last - 1, first - 1, -1):
            _rotate(d, e, x, i, low, high, g, p, c, s, turns, used)
            used += 1
        for k in range(LANES):
            if low[k] < high[k]:
                d[low[k], k] -= p[k]
                e[low[k], k] = g[k]
    return -1


@njit(**FUSED)
def _find_blocks(d, e, low, high):  # type: ignore[no-untyped-def]
    """Find the unreduced block at the top of each lane; return the rows over which they extend, or -1, -1."""
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
    return (first, last) if last >= 0 else (-1, -1)


@njit(**FUSED)
def _shifts(d, e, low, high, g, p, c, s):  # type: ignore[no-untyped-def]
    """Start a sweep with Wilkinson's shift: the eigenvalue of the leading 2 x 2 block that is closer to its corner."""
    for k in range(LANES):
        p[k], c[k], s[k], g[k] = 0.0, 1.0, 1.0, 0.0
        if low[k] < high[k]:
            at = low[k]
            half = (d[at + 1, k] - d[at, k]) / (2.0 * e[at, k])
            root = np.sqrt(half * half + 1.0)
            g[k] = d[high[k], k] - d[at, k] + e[at, k] / (half + (root if half >= 0.0 else -root))


@njit(**FUSED)
def _rotate(d, e, x, i, low, high, g, p, c, s, turns, at):  # type: ignore[no-untyped-def]
    """Rotate rows i and i + 1 of the lanes whose block holds them."""
    for k in range(LANES):
        active = (i >= low[k]) & (i < high[k])
        f, b = s[k] * e[i, k], c[k] * e[i, k]
        squares = f * f + g[k] * g[k]
        root = np.sqrt(squares)
        inverse = 1.0 / root if squares > 0.0 else 0.0
        sine = f * inverse
        cosine = g[k] * inverse if squares > 0.0 else 1.0
        e[i + 1, k] = root if active & (i + 1 < high[k]) else e[i + 1, k]
        level = d[i + 1, k] - p[k]
        change = (d[i, k] - level) * sine + 2.0 * cosine * b
        moved = sine * change
        d[i + 1, k] = level + moved if active else d[i + 1, k]
        g[k] = cosine * change - b if active else g[k]
        p[k] = moved if active else p[k]
        cosine = cosine if active else 1.0
        sine = sine if active else 0.0
        c[k] = cosine if active else c[k]
        s[k] = sine if active else s[k]
        turns[at, 0, k], turns[at, 1, k] = cosine, sine
        upper, lower = x[i, k], x[i + 1, k]
        x[i + 1, k] = sine * upper + cosine * lower
        x[i, k] = cosine * upper - sine * lower


@njit(**FUSED)
def turn_back(x, turns, ranges, sweeps):  # type: ignore[no-untyped-def]
    """Overwrite x with ``W x``: the rotations of ``diagonalise`` undone, last first."""
    used = 0
    for sweep in range(sweeps):
        used += ranges[sweep, 1] - ranges[sweep, 0]
    for sweep in range(sweeps - 1, -1, -1):
        for i in range(ranges[sweep, 0], ranges[sweep, 1]):
            used -= 1
            for k in range(LANES):
                cosine, sine = turns[used, 0, k], turns[used, 1, k]
                upper, lower = x[i, k], x[i + 1, k]
                x[i, k] = cosine * upper + sine * lower
                x[i + 1, k] = cosine * lower - sine * upper
