"""Gibbs ringing taken out of images by local subvoxel shifts."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from voxcloud.dwi.gibbs_kernel import OVERSAMPLED, TAPS, shift_lines
from voxcloud.errors import ImageError, VoxcloudError

Floats = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
SHIFTS = 20  # on either side
SMALLEST_SIDE = 8
# Numbers that are interpolated at a time: they stay in the processor's cache.
CHUNK = 65_536
FREQUENCIES = 400
FULL_FOURIER = "expected images of full k-space"


class PartialFourierError(VoxcloudError, ValueError):
    """Images were measured with partial Fourier, for which the method does not hold."""


def unring(data: npt.ArrayLike, *, slice_axis: int = 2, partial_fourier: float = 1.0, unit: str = "unring") -> Floats:
    """Remove Gibbs ringing from images, slice by slice.

    A slice I is split by ``G_x = (1 + cos k_y) / ((1 + cos k_x) + (1 + cos k_y))`` and ``G_y = 1 - G_x`` in k-space:
    what rings along x is in I_x = G_x I, what rings along y in I_y. Each line of I_x is shifted along x by
    ``s = j / 40`` voxels, j = -20 ... 20, by its Fourier series. In each voxel the shift is taken under which the
    smaller of

    ``sum_(k = 1..3) |I_s(x + k) - I_s(x + k + 1)|`` and ``sum_(k = 1..3) |I_s(x - k) - I_s(x - k - 1)|``

    is least: there the oscillation is sampled at its zero crossings. The value at the voxel's own place follows
    linearly between the shifted ones on either side of it. I_y is treated alike along y, and both are added.

    Before anything else interpolates the images, and after denoising. Values may become slightly negative.

    Parameters
    ----------
    data : (x, y, z) or (x, y, z, volume), real, as reconstructed.
    slice_axis : axis across slices; ringing is removed along the two others.
    partial_fourier : part of k-space that was measured (BIDS: PartialFourier), 1 for all.
    unit : what messages begin with, such as ``sub-01_ses-1``.

    Returns
    -------
    Like ``data``: float32 if it is float32 or of 16-bit integers, else float64. Computed in float64; shifted values are
    those of the Fourier series to 3e-6 of the highest frequency's part.

    Raises
    ------
    PartialFourierError
        If ``partial_fourier`` is below 1.
    ImageError
        If the images have another shape, fewer than 8 voxels along a side of the slice, or NaN or infinite values.

    References
    ----------
    1. Kellner et al. (2016), doi:10.1002/mrm.26054.
    2. Lee et al. (2021), why partial Fourier is another matter, doi:10.1002/mrm.28830.
    """
    images = np.asarray(data)
    _check(images, slice_axis, partial_fourier, unit)
    dtype = np.dtype(np.float32 if np.result_type(np.float32, images.dtype) == np.float32 else np.float64)
    found = np.empty(images.shape, dtype)
    stacks, results = (np.moveaxis(a.reshape(*a.shape[:3], -1), slice_axis, 0) for a in (images, found))
    for image, result in zip(stacks, results, strict=True):
        part = np.ascontiguousarray(image, np.float64)
        other = np.ascontiguousarray(part.transpose(1, 0, 2))
        result[...] = _along_first(part) + _along_first(other).transpose(1, 0, 2)
    return found


def _check(images: npt.NDArray[Any], slice_axis: int, partial_fourier: float, unit: str) -> None:
    if images.ndim not in (3, 4) or np.iscomplexobj(images) or slice_axis not in (0, 1, 2):
        raise ImageError(
            f"{unit}: expected real images of shape (x, y, z) or (x, y, z, volume) and a slice axis of 0, 1 or 2, "
            f"found {images.dtype} of shape {images.shape} and {slice_axis}. Reshape the images."
        )
    if not 0 < partial_fourier <= 1:
        raise ImageError(
            f"{unit}: expected a part of k-space above 0 and at most 1 (PartialFourier), found {partial_fourier:g}. "
            "Correct the sidecar."
        )
    if partial_fourier < 1:
        raise PartialFourierError(
            f"{unit}: {FULL_FOURIER} for Gibbs unringing, found PartialFourier {partial_fourier:g}. Ringing then has "
            "another period than the method corrects, and unringing would blur: leave the step out."
        )
    sides = [n for axis, n in enumerate(images.shape[:3]) if axis != slice_axis]
    if min(sides) < SMALLEST_SIDE:
        raise ImageError(
            f"{unit}: expected slices of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} voxels, found {sides[0]} x "
            f"{sides[1]}. Name the axis across slices."
        )
    bad = ~np.isfinite(images)
    if bad.any():
        place = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
        raise ImageError(
            f"{unit}: expected finite values, found {int(bad.sum()):,} NaN or infinite ones, the first at ({place}): "
            "they would spread over whole slices. Unring images before anything interpolates or fills them."
        )


def _along_first(image: Float64) -> Float64:
    """Return what rings along the first axis of (n, m, volume), without its ringing."""
    n, m, volumes = image.shape
    spectrum: Complex = scipy.fft.rfft2(image, axes=(1, 0))
    spectrum *= _share(n, m)[:, :, None]
    spectrum = scipy.fft.ifft(spectrum, axis=1, overwrite_x=True)
    found = np.empty_like(image)
    shifts, first, weights = _shifts(SHIFTS)
    step = max(1, CHUNK // (n * OVERSAMPLED * volumes))
    for start in range(0, m, step):
        part = slice(start, start + step)
        fine = _oversample(spectrum[:, part], n)
        result = np.empty((n, fine[0].size))
        shift_lines(fine.reshape(len(fine), -1), shifts, first, weights, result)
        found[:, part] = result.reshape(n, -1, volumes)
    return found


def _oversample(spectrum: Complex, n: int) -> Float64:
    """Return four points per voxel along the first axis from the spectrum of n voxels."""
    padded = spectrum
    if n % 2 == 0:
        # The highest frequency stands for itself and its mirror image, which are two once there is room for both.
        padded = spectrum.copy()
        padded[-1] *= 0.5
    fine: Float64 = scipy.fft.irfft(padded, n=OVERSAMPLED * n, axis=0)
    fine *= OVERSAMPLED
    return fine


@cache
def _share(n: int, m: int) -> Float64:
    """Return G for the first axis, (n // 2 + 1, m): which part of each frequency rings along it."""
    own = 1 + np.cos(2 * np.pi * np.arange(n // 2 + 1) / n)[:, None]
    other = 1 + np.cos(2 * np.pi * np.arange(m) / m)[None, :]
    total = own + other
    # The highest frequency of both axes at once belongs to neither: half each.
    return np.where(total > 1e-12, other / np.maximum(total, 1e-12), 0.5)


@cache
def _shifts(many: int) -> tuple[Float64, npt.NDArray[np.int64], Float64]:
    """Return shifts in voxels, 0 first, then by size, and how to make them of fine points: from which on, weights.

    Weights are the least-squares ones over all frequencies of the voxel grid, which fill a quarter of the fine grid's.
    """
    steps = np.array([0, *(sign * j for j in range(1, many + 1) for sign in (1, -1))])
    shifts = steps / (2 * many)
    places = shifts * OVERSAMPLED
    first = np.floor(places).astype(np.int64) - (TAPS // 2 - 1)
    k = np.linspace(0.0, np.pi / OVERSAMPLED, FREQUENCIES)[:, None]
    weights = []
    for place, begin in zip(places, first, strict=True):
        away = np.arange(TAPS) + begin - place
        waves = np.concatenate([np.cos(k * away), np.sin(k * away)])
        found = np.linalg.lstsq(waves, np.repeat([1.0, 0.0], FREQUENCIES), rcond=1e-14)[0]
        weights.append(found + (1 - found.sum()) / TAPS)  # flat images stay flat
    return shifts, first, np.array(weights)
