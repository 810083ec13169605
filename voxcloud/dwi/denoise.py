"""MP-PCA: thermal noise taken out of diffusion images by what random matrices tell of their spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.denoise_kernel import denoise_slice
from voxcloud.errors import ImageError, MaskError

Floats = npt.NDArray[np.floating[Any]]
Estimator = Literal["exp1", "exp2"]
ESTIMATORS = ("exp1", "exp2")
OUTSIDE = -1
NEXT = "Denoise the images as they came from the scanner, before anything interpolates or fills them."


@dataclass(frozen=True)
class Denoised:
    """Denoised images and what was taken out.

    Attributes
    ----------
    data : (x, y, z, volume), in units of the images; 0 outside the mask.
    noise : (x, y, z), noise level (standard deviation) in units of the images; NaN outside the mask.
    rank : (x, y, z) int16, number of signal components; -1 outside the mask.
    residuals : (x, y, z, volume), images less denoised images; 0 outside the mask.
    extent : voxels of the patch along (x, y, z).
    """

    data: Floats
    noise: Floats
    rank: npt.NDArray[np.int16]
    residuals: Floats
    extent: tuple[int, int, int]


def default_extent(volumes: int) -> tuple[int, int, int]:
    """Return the smallest odd cube with at least as many voxels as there are volumes."""
    side = 1
    while side**3 < volumes:
        side += 2
    return side, side, side


def denoise(
    data: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    extent: int | Sequence[int] | None = None,
    estimator: Estimator = "exp2",
) -> Denoised:
    """Denoise diffusion images by principal components of patches, cut where the spectrum becomes that of noise.

    A patch around a voxel is a matrix X of M volumes x N voxels (neither centred nor scaled). With r = min(M, N),
    q = max(M, N) and the eigenvalues ``l_1 >= ... >= l_r`` of ``X X' / q``, the number of signal components is the
    smallest p with

    ``(l_(p+1) - l_r) / (4 sqrt(gamma)) < s2``, ``s2 = (l_(p+1) + ... + l_r) / (r - p)``,

    as the Marchenko-Pastur law has it for noise alone: ``gamma = (r - p) / (q - p)`` for exp2, ``(r - p) / q`` for
    exp1. The noise level is the root of s2. The voxel becomes its projection on the first p components. At edges the
    patch is moved into the image. The mask says where, patches extend beyond it.

    Parameters
    ----------
    data : (x, y, z, volume) magnitudes, all volumes, as reconstructed.
    mask : (x, y, z), true where to denoise; everywhere if None.
    extent : voxels of the patch along each axis, odd; the smallest odd cube with at least as many voxels as volumes if
        None.
    estimator : ``exp2`` or ``exp1``, above.

    Returns
    -------
    float32 if the images are float32 or 16-bit integers, else float64. Computed in float64.

    Raises
    ------
    ImageError
        If the images are not four-dimensional and real, hold NaN or infinite values, or are smaller than the patch;
        if the extent is not odd or the estimator is unknown.
    MaskError
        If the mask has another shape.

    References
    ----------
    1. Veraart et al. (2016), doi:10.1016/j.neuroimage.2016.08.016.
    2. Cordero-Grande et al. (2019), exp2, doi:10.1016/j.neuroimage.2019.06.039.
    """
    images = np.asarray(data)
    patch = _checked_extent(images, extent, estimator)
    wanted = _checked_mask(images, mask)
    dtype = np.dtype(np.float32 if np.result_type(np.float32, images.dtype) == np.float32 else np.float64)
    nz = images.shape[2]
    denoised, residuals = np.zeros(images.shape, dtype), np.zeros(images.shape, dtype)
    noise, rank = np.full(images.shape[:3], np.nan, dtype), np.full(images.shape[:3], OUTSIDE, np.int16)
    for z in range(nz):
        if not wanted[:, :, z].any():
            continue
        first = min(max(z - patch[2] // 2, 0), nz - patch[2])
        slab = np.ascontiguousarray(images[:, :, first : first + patch[2]], dtype=np.float64)
        _check_finite(slab, first)
        part, where = np.zeros((*slab.shape[:2], slab.shape[3])), np.ascontiguousarray(wanted[:, :, z])
        levels, ranks = np.full(where.shape, np.nan), np.full(where.shape, OUTSIDE)
        done = denoise_slice(slab, where, patch[:2], z - first, estimator == "exp2", part, levels, ranks)
        if not done:
            raise ImageError(
                f"denoise: expected values whose squares can be summed, found some up to {np.abs(slab).max():.3g} in "
                f"slice z = {z}. Look at the scaling of the images."
            )
        denoised[:, :, z], noise[:, :, z], rank[:, :, z] = part, levels, ranks
        residuals[:, :, z] = np.where(where[:, :, None], slab[:, :, z - first] - part, 0.0)
    return Denoised(denoised, noise, rank, residuals, patch)


def _checked_extent(
    images: npt.NDArray[Any], extent: int | Sequence[int] | None, estimator: str
) -> tuple[int, int, int]:
    if images.ndim != 4 or images.shape[3] < 2 or np.iscomplexobj(images):
        raise ImageError(
            f"denoise: expected real images of shape (x, y, z, volume) with at least 2 volumes, found "
            f"{images.dtype} of shape {images.shape}. Give all volumes of the acquisition in one array."
        )
    if estimator not in ESTIMATORS:
        raise ImageError(f"denoise: expected the estimator exp1 or exp2, found {estimator!r}. Name one of them.")
    if extent is None:
        sides: tuple[int, ...] = default_extent(images.shape[3])
    else:
        sides = (extent,) * 3 if isinstance(extent, int) else tuple(int(side) for side in extent)
    if len(sides) != 3 or any(side < 1 or side % 2 == 0 for side in sides) or np.prod(sides) < 2:
        raise ImageError(f"denoise: expected an odd extent for each of three axes, found {sides}. Try (5, 5, 5).")
    if any(side > size for side, size in zip(sides, images.shape[:3], strict=True)):
        raise ImageError(
            f"denoise: expected images of at least the extent of the patch, {sides}, found {images.shape[:3]}. "
            "Give a smaller odd extent, such as (7, 7, 3) for three slices."
        )
    return sides[0], sides[1], sides[2]


def _checked_mask(images: npt.NDArray[Any], mask: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(images.shape[:3], bool)
    wanted = np.asarray(mask).astype(bool)
    if wanted.shape != images.shape[:3]:
        raise MaskError(
            f"denoise: expected a mask of shape {images.shape[:3]}, like the images, found {wanted.shape}. "
            "Bring the mask onto their grid."
        )
    return wanted


def _check_finite(slab: npt.NDArray[np.float64], first: int) -> None:
    bad = ~np.isfinite(slab)
    if bad.any():
        x, y, z, volume = (int(i) for i in np.argwhere(bad)[0])
        raise ImageError(
            f"denoise: expected finite values, found {int(bad.sum()):,} NaN or infinite ones around slice z = {first}, "
            f"the first at voxel ({x}, {y}, {z + first}) of volume {volume}: they would spread over whole patches. "
            + NEXT
        )
