"""Smoothing of coil fields: B1 and receive sensitivities vary slowly, noise does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.qmri.arrays import Floats, as_float64, check_shapes, result_dtype

FWHM_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
# Where the kernel finds less than this share of known voxels, the average means nothing.
LEAST_SUPPORT = 0.01


def smooth_field(
    field: npt.ArrayLike, voxel_mm: Sequence[float], fwhm_mm: float, valid: npt.ArrayLike | None = None
) -> Floats:
    """Smooth a field with a Gaussian, over known voxels only.

    ``smooth(field known) / smooth(known)``: what lies outside the head, or was not measured, has no weight and is
    filled in from around.

    Parameters
    ----------
    field : 3-D array, any unit; NaN is unknown.
    voxel_mm : (3,) voxel sizes in mm.
    fwhm_mm : full width at half maximum in mm; 0 leaves the field as it is.
    valid : boolean, of its shape: False counts as unknown.

    Returns
    -------
    Same unit; NaN where no known voxel is near (under 1 % of the kernel).

    Raises
    ------
    ImageError
        If shapes differ, a voxel size is not positive or the width negative.
    """
    values = as_float64(field)
    if len(voxel_mm) != values.ndim or min(voxel_mm) <= 0 or fwhm_mm < 0:
        raise ImageError(
            f"field: expected {values.ndim} positive voxel sizes and a width in mm, found {tuple(voxel_mm)} and "
            f"{fwhm_mm:g}."
        )
    known = np.isfinite(values)
    if valid is not None:
        check_shapes(values.shape, [("field's mask", valid)])
        known &= np.asarray(valid, dtype=bool)
    dtype = result_dtype(field)
    if fwhm_mm == 0:
        return np.where(known, values, np.nan).astype(dtype)
    sigma = [fwhm_mm * FWHM_TO_SIGMA / size for size in voxel_mm]
    total = ndimage.gaussian_filter(np.where(known, values, 0.0), sigma, mode="constant")
    support = ndimage.gaussian_filter(known.astype(np.float64), sigma, mode="constant")
    smoothed = np.full(values.shape, np.nan)
    np.divide(total, support, out=smoothed, where=support >= LEAST_SUPPORT)
    return smoothed.astype(dtype)
