"""Subvoxel shifts of lines, compiled: eight lines side by side, one in each lane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core import cgutils

from voxcloud.dwi.lanes import (
    LANES,
    VECTOR,
    add,
    fma,
    intrinsic,
    ir,
    lanes,
    load,
    multiply,
    spread,
    store,
    subtract,
)
from voxcloud.elementary import FUSED

OVERSAMPLED = 4  # points per voxel that come from the Fourier transform
TAPS = 8  # of those that make a value between them
WINDOW = 3  # differences that are added up on either side of a voxel
# Voxels that lines are continued by on either side: a window and one voxel more are looked at, taps reach further.
AROUND = WINDOW + 1
MARGIN = (AROUND + 2) * OVERSAMPLED


@intrinsic
def size(typing_context, a):  # type: ignore[no-untyped-def]
    """Return absolute values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(VECTOR, [VECTOR])
        name = f"llvm.fabs.v{LANES}f64"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return lanes(lanes), generate


@intrinsic
def where_less(typing_context, one, other, a, b):  # type: ignore[no-untyped-def]
    """Return a where ``one < other``, else b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", arguments[0], arguments[1]), arguments[2], arguments[3])

    return lanes(lanes, lanes, lanes, lanes), generate


@njit(**FUSED)
def shift_lines(fine, shifts, first, weights, found):  # type: ignore[no-untyped-def]
    """Give each voxel the value of the shift under which its neighbourhood oscillates least.

    Parameters
    ----------
    fine : (4 n, line), lines with four points per voxel.
    shifts : (k,) in voxels, the first 0; ties go to the earlier one.
    first, weights : (k,) and (k, 8), which of the fine points around a voxel make its shifted value, from which on.
    found : (n, line), filled.
    """
    n, lines = found.shape
    points = np.empty((OVERSAMPLED * n + 2 * MARGIN, LANES))
    y, w = np.empty((n + 2 * AROUND, LANES)), np.empty((n + 2 * AROUND, LANES))
    least, best = np.empty((n, LANES)), np.empty((n, LANES))
    for start in range(0, lines, LANES):
        many = min(LANES, lines - start)
        _take(fine, start, many, points)
        for k in range(shifts.shape[0]):
            _interpolate(points, MARGIN - OVERSAMPLED * AROUND + first[k], weights[k], y, w)
            if k == 0:
                _begin(y, w, least, best)
            else:
                _compare(y, w, shifts[k], least, best)
        for i in range(n):
            for lane in range(many):
                found[i, start + lane] = best[i, lane]


@njit(**FUSED)
def _take(fine, start, many, points):  # type: ignore[no-untyped-def]
    """Copy eight lines and go on around their ends, as the Fourier transform has it."""
    length = fine.shape[0]
    for i in range(points.shape[0]):
        row = (i - MARGIN) % length
        for lane in range(many):
            points[i, lane] = fine[row, start + lane]
        for lane in range(many, LANES):
            points[i, lane] = 0.0


@njit(**FUSED)
def _interpolate(points, at, weights, y, w):  # type: ignore[no-untyped-def]
    """Fill y with shifted values and w with the sums of three differences that begin there."""
    w0, w1, w2, w3 = spread(weights[0]), spread(weights[1]), spread(weights[2]), spread(weights[3])
    w4, w5, w6, w7 = spread(weights[4]), spread(weights[5]), spread(weights[6]), spread(weights[7])
    before = spread(0.0)
    one, two = before, before
    for i in range(y.shape[0]):
        value = multiply(w0, load(points, at))
        other = multiply(w1, load(points, at + 1))
        value = fma(w2, load(points, at + 2), value)
        other = fma(w3, load(points, at + 3), other)
        value = fma(w4, load(points, at + 4), value)
        other = fma(w5, load(points, at + 5), other)
        value = fma(w6, load(points, at + 6), value)
        value = add(value, fma(w7, load(points, at + 7), other))
        at += OVERSAMPLED
        difference = size(subtract(value, before))
        store(y, i, value)
        if i >= WINDOW:
            store(w, i - WINDOW, add(add(one, two), difference))
        one, two, before = two, difference, value


@njit(**FUSED)
def _oscillation(w, i):  # type: ignore[no-untyped-def]
    """Return the smaller of the sums on both sides of voxel i: an edge may lie on one of them."""
    left, right = load(w, i), load(w, i + AROUND + 1)
    return where_less(left, right, left, right)


@njit(**FUSED)
def _begin(y, w, least, best):  # type: ignore[no-untyped-def]
    for i in range(best.shape[0]):
        store(least, i, _oscillation(w, i))
        store(best, i, load(y, i + AROUND))


@njit(**FUSED)
def _compare(y, w, shift, least, best):  # type: ignore[no-untyped-def]
    """Where a shift oscillates less, take the value between its neighbours at the voxel's own place."""
    side = -1 if shift > 0.0 else 1
    part = spread(abs(shift))
    for i in range(best.shape[0]):
        here = load(y, i + AROUND)
        value = fma(part, subtract(load(y, i + AROUND + side), here), here)
        now, before = _oscillation(w, i), load(least, i)
        store(best, i, where_less(now, before, value, load(best, i)))
        store(least, i, where_less(now, before, now, before))
