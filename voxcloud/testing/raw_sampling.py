"""Functions of space as cubic B-splines, and EPI lines that the static field pushes along: the compiled parts.

A function is ``f(u) = sum_k c_k B(u - k)`` with B the cubic B-spline and c the stored samples, taken as coefficients
without prefiltering: the weights are positive and add up to one, so that probabilities stay probabilities and nothing
rings at the skull. The price is a blur of about 1.4 samples (FWHM) that belongs to the simulated anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from voxcloud.testing.fields import Float32, Float64

Function = TypeVar("Function", bound=Callable[..., Any])
CHANNELS = 4
SUBSAMPLES = 8  # per voxel along phase encoding; a field gradient of 1 voxel per voxel is still drawn without gaps


def _compiled(function: Function) -> Function:
    """Compile without the interpreter's lock; the result keeps the function's type."""
    return cast(Function, numba.njit(cache=True, nogil=True, fastmath=False)(function))


@_compiled
def _spline(coefficients: Float32, points: Float64, out: Float32) -> None:
    nx, ny, nz, _ = coefficients.shape
    w = np.empty((3, 4), dtype=np.float32)
    base = np.empty(3, dtype=np.int64)
    for n in range(points.shape[0]):
        for axis in range(3):
            # Outside, the outermost sample goes on for ever.
            u = min(max(points[n, axis], 0.0), coefficients.shape[axis] - 1.0)
            base[axis] = int(u)
            t = u - base[axis]
            s = 1.0 - t
            w[axis, 0] = s * s * s / 6.0
            w[axis, 1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
            w[axis, 2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
            w[axis, 3] = t * t * t / 6.0
        # Four sums side by side: one vector instruction each.
        p = q = r = s4 = np.float32(0.0)
        for a in range(4):
            ia = min(max(base[0] + a - 1, 0), nx - 1)
            for b in range(4):
                jb = min(max(base[1] + b - 1, 0), ny - 1)
                outer = w[0, a] * w[1, b]
                for c in range(4):
                    kc = min(max(base[2] + c - 1, 0), nz - 1)
                    weight = outer * w[2, c]
                    p += weight * coefficients[ia, jb, kc, 0]
                    q += weight * coefficients[ia, jb, kc, 1]
                    r += weight * coefficients[ia, jb, kc, 2]
                    s4 += weight * coefficients[ia, jb, kc, 3]
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = p, q, r, s4


def sample_spline(coefficients: Float32, points: Float64) -> Float32:
    """Return the values of cubic B-splines.

    Parameters
    ----------
    coefficients
        (x, y, z, channel), float32, at most 4 channels.
    points
        (point, 3) in voxels of the coefficients' grid; beyond its edge the outermost coefficient goes on.

    Returns
    -------
    (point, channel).
    """
    channels = coefficients.shape[3]
    assert channels <= CHANNELS
    if channels < CHANNELS:
        coefficients = np.pad(coefficients, ((0, 0), (0, 0), (0, 0), (0, CHANNELS - channels)))
    out = np.empty((len(points), CHANNELS), dtype=np.float32)
    _spline(np.ascontiguousarray(coefficients), np.ascontiguousarray(points, dtype=np.float64), out)
    return out[:, :channels]


@_compiled
def _push(lines: Float64, shift: Float64, out: Float64) -> None:
    n_lines, n = lines.shape
    for line in range(n_lines):
        for j in range(n):
            for s in range(SUBSAMPLES):
                u = j + (s + 0.5) / SUBSAMPLES - 0.5
                low = min(max(int(np.floor(u)), 0), n - 1)
                high = min(low + 1, n - 1)
                f = min(max(u - low, 0.0), 1.0)
                value = ((1.0 - f) * lines[line, low] + f * lines[line, high]) / SUBSAMPLES
                target = u + (1.0 - f) * shift[line, low] + f * shift[line, high]
                cell = int(np.floor(target))
                part = target - cell
                if 0 <= cell < n:
                    out[line, cell] += value * (1.0 - part)
                if 0 <= cell + 1 < n:
                    out[line, cell + 1] += value * part


def push_along(image: npt.NDArray[Any], shift_voxels: npt.NDArray[Any], axis: int) -> Float64:
    """Return an image whose signal was moved along one axis: what belongs at y appears at y + shift(y).

    Signal is moved, not interpolated: it piles up where the shift falls with y, is thinned where it rises, and its sum
    is kept but for what leaves the field of view.

    Parameters
    ----------
    image, shift_voxels
        (x, y, z); the shift in voxels.
    axis
        Phase-encode axis.
    """
    lines = np.ascontiguousarray(np.moveaxis(image, axis, -1), dtype=np.float64)
    shifts = np.ascontiguousarray(np.moveaxis(shift_voxels, axis, -1), dtype=np.float64)
    flat = np.zeros((lines.size // lines.shape[-1], lines.shape[-1]))
    _push(lines.reshape(flat.shape), shifts.reshape(flat.shape), flat)
    return np.ascontiguousarray(np.moveaxis(flat.reshape(lines.shape), -1, axis))
