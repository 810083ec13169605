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
SUBSAMPLES = 8  # per voxel along phase encoding; a field gradient of 1 voxel per voxel is still drawn without gaps


def _compiled(function: Function) -> Function:
    """Compile without the interpreter's lock; the result keeps the function's type."""
    return cast(Function, numba.njit(cache=True, nogil=True, fastmath=False)(function))


@_compiled
def _weights(t: float, out: npt.NDArray[Any]) -> None:
    s = 1.0 - t
    out[0] = s * s * s / 6.0
    out[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    out[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    out[3] = t * t * t / 6.0


@_compiled
def _spline(coefficients: Float32, points: Float64, out: Float32) -> None:
    nx, ny, nz, channels = coefficients.shape
    wx, wy, wz = np.empty(4), np.empty(4), np.empty(4)
    total = np.empty(channels)
    for n in range(points.shape[0]):
        # Outside, the outermost sample goes on for ever.
        x = min(max(points[n, 0], 0.0), nx - 1.0)
        y = min(max(points[n, 1], 0.0), ny - 1.0)
        z = min(max(points[n, 2], 0.0), nz - 1.0)
        i, j, k = int(x), int(y), int(z)
        _weights(x - i, wx)
        _weights(y - j, wy)
        _weights(z - k, wz)
        total[:] = 0.0
        for a in range(4):
            ia = min(max(i + a - 1, 0), nx - 1)
            for b in range(4):
                jb = min(max(j + b - 1, 0), ny - 1)
                w = wx[a] * wy[b]
                for c in range(4):
                    kc = min(max(k + c - 1, 0), nz - 1)
                    weight = w * wz[c]
                    for channel in range(channels):
                        total[channel] += weight * coefficients[ia, jb, kc, channel]
        for channel in range(channels):
            out[n, channel] = total[channel]


def sample_spline(coefficients: Float32, points: Float64) -> Float32:
    """Return the values of cubic B-splines.

    Parameters
    ----------
    coefficients
        (x, y, z, channel), float32.
    points
        (point, 3) in voxels of the coefficients' grid; beyond its edge the outermost coefficient goes on.

    Returns
    -------
    (point, channel).
    """
    out = np.empty((len(points), coefficients.shape[3]), dtype=np.float32)
    _spline(np.ascontiguousarray(coefficients), np.ascontiguousarray(points, dtype=np.float64), out)
    return out


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
