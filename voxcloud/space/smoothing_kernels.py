"""Inner loops of separable smoothing: all three axes in one pass over memory.

Plane after plane (x fixed) is weighted, smoothed along z and along y, and kept in a ring of 2 r + 1 planes, from which
the result along x is summed: the image is read once and written once, everything else stays in a cache of the second
level. Rows end in zeros, so that smoothing along z, along y and along x are the same loop over flat memory, and every
tap is a vector instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Floats summed at a time: the sums and the pieces they are made of stay in a cache of the first level.
BLOCK = 1024
# Rows start at multiples of this many floats.
LANES = 16


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _sum_pairs(buffer: Any, low: Any, high: Any, taps: Any, out: Any) -> None:
    """Write taps[0] b[low[0] + q] + sum_j taps[j] (b[low[j] + q] + b[high[j] + q]) to out[q].

    Both neighbours at a distance are added first: a mirrored image has the mirrored result, bit for bit. The sum goes
    from the outermost pair to the centre, so that small terms are added while the sum is small, and each term is added
    to the sum before it, because then multiplication and addition can be fused in one way only, in vector instructions
    and out of them.
    """
    reach = taps.size - 1
    alone = reach % 4
    for first in range(0, out.size, BLOCK):
        size = min(BLOCK, out.size - first)
        sums = out[first : first + size]
        sums[:] = np.float32(0.0)
        for j in range(reach, reach - alone, -1):
            t1 = taps[j]
            a1 = buffer[low[j] + first : low[j] + first + size]
            b1 = buffer[high[j] + first : high[j] + first + size]
            for q in range(size):
                sums[q] = sums[q] + t1 * (a1[q] + b1[q])
        for j in range(reach - alone, 0, -4):
            t1, t2, t3, t4 = taps[j], taps[j - 1], taps[j - 2], taps[j - 3]
            a1 = buffer[low[j] + first : low[j] + first + size]
            b1 = buffer[high[j] + first : high[j] + first + size]
            a2 = buffer[low[j - 1] + first : low[j - 1] + first + size]
            b2 = buffer[high[j - 1] + first : high[j - 1] + first + size]
            a3 = buffer[low[j - 2] + first : low[j - 2] + first + size]
            b3 = buffer[high[j - 2] + first : high[j - 2] + first + size]
            a4 = buffer[low[j - 3] + first : low[j - 3] + first + size]
            b4 = buffer[high[j - 3] + first : high[j - 3] + first + size]
            for q in range(size):
                s = sums[q] + t1 * (a1[q] + b1[q])
                s = s + t2 * (a2[q] + b2[q])
                s = s + t3 * (a3[q] + b3[q])
                sums[q] = s + t4 * (a4[q] + b4[q])
        middle = buffer[low[0] + first : low[0] + first + size]
        for q in range(size):
            sums[q] = sums[q] + taps[0] * middle[q]


@njit(cache=True, nogil=True, error_model="numpy")
def _load(image: Any, weights: Any, margin: int, pitch: int, rows: Any) -> None:
    """Copy a plane (y, z), times its weights where there are any, into rows that end in zeros; unknown voxels are 0."""
    n_z = image.shape[1]
    for j in range(image.shape[0]):
        start = margin + j * pitch
        row, values = rows[start : start + n_z], image[j]
        if weights.size:
            w = weights[j]
            for k in range(n_z):
                v = values[k] * max(w[k], np.float32(0.0))
                row[k] = v if abs(v) < np.inf else np.float32(0.0)
        else:
            for k in range(n_z):
                row[k] = values[k] if abs(values[k]) < np.inf else np.float32(0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _store(sums: Any, pitch: int, scale_x: Any, scale_y: Any, scale_z: Any, out: Any) -> None:
    for j in range(out.shape[0]):
        row, target = sums[j * pitch : j * pitch + out.shape[1]], out[j]
        scale = scale_x * scale_y[j]
        for k in range(out.shape[1]):
            target[k] = row[k] * (scale * scale_z[k])


@njit(cache=True, nogil=True, error_model="numpy")
def smooth_volume(image: Any, weights: Any, taps: Any, scale_x: Any, scale_y: Any, scale_z: Any, out: Any) -> None:
    """Smooth an image, times its weights, along its three axes; beyond the edges there is nothing.

    Parameters
    ----------
    image, out
        (x, y, z) float32, C order.
    weights
        (x, y, z) float32, or (0, 0, 0) for none; below 0 is 0.
    taps
        Three arrays (r + 1,) float32: half a kernel for each axis, from its centre; r below the size of the axis.
    scale_x, scale_y, scale_z
        (x,), (y,), (z,) float32: factors of the result.
    """
    n_x, n_y, n_z = image.shape
    taps_x, taps_y, taps_z = taps
    r_x, r_y, r_z = taps_x.size - 1, taps_y.size - 1, taps_z.size - 1
    pitch = (n_z + r_z + LANES - 1) // LANES * LANES
    plane = n_y * pitch
    margin = (r_z + LANES - 1) // LANES * LANES
    rows = np.zeros(margin + plane + r_z, dtype=np.float32)
    along_z = np.zeros((n_y + 2 * r_y) * pitch, dtype=np.float32)
    slots = 2 * r_x + 1
    ring = np.zeros((slots + 1) * plane, dtype=np.float32)  # the last plane stays zero: what lies beyond the edge
    sums = np.empty(plane, dtype=np.float32)
    steps = np.arange(max(r_x, r_y, r_z) + 1)
    low, high = np.empty(r_x + 1, dtype=np.int64), np.empty(r_x + 1, dtype=np.int64)
    middle = along_z[r_y * pitch : (r_y + n_y) * pitch]
    for i in range(n_x + r_x):
        if i < n_x:
            _load(image[i], weights[i] if weights.size else weights[:, 0], margin, pitch, rows)
            _sum_pairs(rows, margin - steps, margin + steps, taps_z, middle)
            centre = r_y * pitch
            smoothed = ring[i % slots * plane : (i % slots + 1) * plane]
            _sum_pairs(along_z, centre - steps * pitch, centre + steps * pitch, taps_y, smoothed)
        at = i - r_x
        if at >= 0:
            for j in range(r_x + 1):
                low[j] = ((at - j) % slots if at - j >= 0 else slots) * plane
                high[j] = ((at + j) % slots if at + j < n_x else slots) * plane
            _sum_pairs(ring, low, high, taps_x, sums)
            _store(sums, pitch, scale_x[at], scale_y, scale_z, out[at])


@njit(cache=True, nogil=True, error_model="numpy")
def mark_known(image: Any, weights: Any, known: Any) -> int:
    """Write the weights of known voxels (flat) to ``known``, 0 elsewhere; return how many with a weight are unknown."""
    missing = 0
    for q in range(image.size):
        finite = abs(image[q]) < np.inf
        known[q] = weights[q] if finite else np.float32(0.0)
        missing += not finite and weights[q] > 0
    return missing


@njit(cache=True, nogil=True, error_model="numpy")
def divide(values: Any, weights: Any, prior: Any, min_prior: float, min_weight: float) -> None:
    """Divide smoothed values by smoothed weights (flat), in place; NaN where prior or weight are not above a limit."""
    for q in range(values.size):
        inside = prior[q] > min_prior and weights[q] > min_weight
        values[q] = values[q] / weights[q] if inside else np.float32(np.nan)
