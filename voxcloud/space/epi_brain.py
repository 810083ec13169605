"""Where the brain is in a diffusion series: a mask from its b = 0 images, and a generous one for motion correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from voxcloud.errors import ImageError, MaskError
from voxcloud.space.registration import averaged
from voxcloud.space.unwarp import resample_field

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# SD of the Gaussian that takes noise away before anything is compared with a threshold.
SMOOTH_MM = 1.0
# SD of the Gaussian whose local means stand for the brightness that coils give a place; it is wider than a ventricle,
# and computed on blocks.
LOCAL_MM = 25.0
BLOCK_MM = 8.0
PASSES = 4
# Of the local brightness: darker are skull, air, and scalp with its fat suppressed. A share of .6 has less of the rim,
# but on a measured image, twice as bright at the rim as inside, it lost brain stem and thalami.
SHARE = 0.5
# Of Otsu's threshold: darker is noise wherever it lies.
LEAST = 0.5
# Eyes, nerves and muscle hang on the brain by bridges thinner than twice this.
BRIDGE_MM = 5.0
# Gaps between gyri, and lost signal above the sinuses, are closed where they are narrower than twice this.
GAP_MM = 6.0
GENEROUS_MM = 4.0
LEAST_ML, MOST_ML = 300.0, 2500.0
# Brains of adults and children from two years on; outside, a mask may be right but somebody should look.
USUAL_ML = (800.0, 2000.0)


@dataclass(frozen=True, eq=False)
class BrainMask:
    """The brain in an EPI image.

    Attributes
    ----------
    brain : (x, y, z) bool: brain with its cerebrospinal fluid, without eyes, scalp and neck.
    generous : (x, y, z) bool: the same and 4 mm around it, for motion correction.
    millilitres : volume of ``brain``.
    flagged : why the mask may be wrong, a sentence; empty if nothing speaks against it.
    """

    brain: Bool
    generous: Bool
    millilitres: float
    flagged: str = ""


def brain_mask(
    b0_mean: npt.ArrayLike,
    voxel_mm: Sequence[float],
    *,
    share: float = SHARE,
    margin_mm: float = GENEROUS_MM,
    name: str = "b = 0 image",
) -> BrainMask:
    """Find the brain in the mean b = 0 image of an EPI series.

    Bright is what exceeds a share of the brightness around it, ``s(x) > share m(x)``, with m the mean over the brain
    found before, by a Gaussian of 25 mm SD: coils may shine on one side. The brain is the largest bright part after
    bridges of up to 10 mm have been cut, with gaps of up to 12 mm closed and holes filled.

    Scalp is taken to be darker than brain, as fat suppression makes it; on images with bright fat the mask is too
    large. Voxels beyond 5 mm are too coarse to cut all bridges.

    Parameters
    ----------
    b0_mean : (x, y, z) magnitude, any unit; best the mean of aligned, undistorted b = 0 volumes. NaN is no signal.
    voxel_mm : (3,) voxel sizes in mm.
    share : of the local brightness, 0 to 1.
    margin_mm : how far ``generous`` reaches beyond the brain.
    name : what messages call the image.

    Raises
    ------
    ImageError
        If the image is not 3-D or voxel sizes are not positive.
    MaskError
        If less than 300 or more than 2500 ml are found.

    References
    ----------
    1. Otsu (1979), doi:10.1109/TSMC.1979.4310076.
    """
    image, sizes = _checked(b0_mean, voxel_mm, name)
    if not 0 < share < 1 or not margin_mm >= 0:
        raise ImageError(
            f"{name}: expected a share between 0 and 1 and a margin of 0 mm or more, found {share:g} and {margin_mm:g}."
        )
    brain, generous = np.zeros(image.shape, np.bool_), np.zeros(image.shape, np.bool_)
    if image.max() > max(image.min(), 0.0):
        bright = _bright(_smooth(image, sizes), sizes, share)
        box = _box(bright, np.ceil((GAP_MM + margin_mm) / sizes).astype(int) + 1)
        inner = _largest(_without_bridges(bright[box], sizes))
        brain[box] = ndimage.binary_fill_holes(_closed(inner, sizes, GAP_MM))
        generous[box] = _grown(brain[box], sizes, margin_mm)
    millilitres = float(brain.sum() * sizes.prod() / 1000.0)
    if not LEAST_ML <= millilitres <= MOST_ML:
        raise MaskError(
            f"{name}: expected a brain of {LEAST_ML:g} to {MOST_ML:g} ml, found {millilitres:.0f} ml with voxels of "
            f"{' x '.join(f'{s:g}' for s in sizes)} mm. Look at the image: is it a b = 0 volume of the whole brain, "
            "fat suppressed, its voxel size right? Else give a mask."
        )
    flagged = ""
    if not USUAL_ML[0] <= millilitres <= USUAL_ML[1]:
        flagged = (
            f"expected a brain of {USUAL_ML[0]:g} to {USUAL_ML[1]:g} ml, found {millilitres:.0f} ml. Look at the mask: "
            "is the brain cut off, or scalp in it?"
        )
    return BrainMask(brain, generous, millilitres, flagged)


def _box(mask: Bool, margin: npt.NDArray[np.int_]) -> tuple[slice, ...]:
    """Return the slices around a mask, with a margin in voxels: distances need not be computed in air."""
    found = []
    for axis, n in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(max(inside[0] - margin[axis], 0), min(inside[-1] + 1 + margin[axis], n)))
    return tuple(found)


def _checked(b0_mean: npt.ArrayLike, voxel_mm: Sequence[float], name: str) -> tuple[Float64, Float64]:
    image, sizes = np.asarray(b0_mean, dtype=np.float64), np.asarray(voxel_mm, dtype=np.float64)
    if image.ndim != 3 or sizes.shape != (3,) or not sizes.min() > 0:
        raise ImageError(
            f"{name}: expected (x, y, z) and three positive voxel sizes in mm, found shape {image.shape} and "
            f"{tuple(voxel_mm)}. Give the mean of the b = 0 volumes."
        )
    return np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0), sizes


def _smooth(image: Float64, sizes: Float64) -> Float64:
    # Coarse voxels have little noise, and borders that are coarse enough.
    return np.asarray(ndimage.gaussian_filter(image, np.where(sizes < 4.0, SMOOTH_MM / sizes, 0.0)))


def _bright(smooth: Float64, sizes: Float64, share: float) -> Bool:
    """Return what is brighter than a share of its surroundings' brightness."""
    clipped = np.minimum(smooth, np.percentile(smooth[smooth > 0], 98.0))
    level = threshold_otsu(clipped)
    found = clipped > level
    for _ in range(PASSES):
        sure = _largest(_without_bridges(found, sizes))
        found = (clipped > share * _local(clipped, sure, sizes)) & (clipped > LEAST * level)
    return np.asarray(found)


def _local(image: Float64, mask: Bool, sizes: Float64) -> Float64:
    """Return the mean of the image over the mask around each voxel, by a wide Gaussian, on block means."""
    block = np.maximum(np.rint(BLOCK_MM / sizes), 1.0)
    coarse = []
    for values in (np.where(mask, image, 0.0), mask.astype(np.float64)):
        means, _ = averaged(values, np.diag([*(1.0 / block), 1.0]), 1.0)
        coarse.append(ndimage.gaussian_filter(means.astype(np.float64), LOCAL_MM / (sizes * block), truncate=3.0))
    ratio = coarse[0] / np.maximum(coarse[1], 1e-6)
    affine = np.diag([*block, 1.0])
    affine[:3, 3] = (block - 1) / 2
    return resample_field(ratio, affine, image.shape, np.eye(4)).astype(np.float64)


def _eroded(mask: Bool, sizes: Float64, radius_mm: float) -> Bool:
    # The image may end within the brain: its edge is no border of it.
    return np.asarray(ndimage.distance_transform_edt(mask, sizes) > radius_mm)


def _grown(mask: Bool, sizes: Float64, radius_mm: float) -> Bool:
    return np.asarray(ndimage.distance_transform_edt(~mask, sizes) <= radius_mm)


def _without_bridges(mask: Bool, sizes: Float64) -> Bool:
    """Return what of a mask lies near the largest part of its inside."""
    core = _largest(_eroded(mask, sizes, BRIDGE_MM))
    return mask & _grown(core, sizes, BRIDGE_MM + float(sizes.max()))


def _closed(mask: Bool, sizes: Float64, radius_mm: float) -> Bool:
    # Padding: what grows beyond the image's edge must be taken back from there.
    n = [int(np.ceil(radius_mm / s)) + 1 for s in sizes]
    padded = np.pad(mask, [(k, k) for k in n])
    grown = _grown(padded, sizes, radius_mm)
    back = ndimage.distance_transform_edt(grown, sizes) > radius_mm
    return np.asarray(back[tuple(slice(k, -k) for k in n)]) | mask


def _largest(mask: Bool) -> Bool:
    labels, n = ndimage.label(mask)
    return mask if n == 0 else np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:])))
