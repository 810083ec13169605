"""The receive field of a diffusion series: one smooth factor for all volumes, by N4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import ImageError, MaskError
from voxcloud.space.registration import averaged

Float64 = npt.NDArray[np.float64]

# N4 looks for a field far smoother than this. 4 mm takes three times longer for .3 instead of .5 % of error.
WORKING_MM = 6.0
# Iterations per level of control points; each level halves the distance between them.
ITERATIONS = (50, 50, 50)
CONVERGENCE = 1e-4
# Distance of the control points of the first level, about.
SPACING_MM = 100.0
FEWEST_VOXELS = 200
# Largest and smallest value of a receive field in one brain.
LARGEST_RATIO = 10.0


@dataclass(frozen=True, eq=False)
class BiasField:
    """The receive field of a series.

    Attributes
    ----------
    field : (x, y, z) float32, no unit, above 0, geometric mean 1 in the mask; smooth and finite everywhere.
    report : plain values (JSON): percentiles in the mask, coefficient of variation of the image in the mask before and
        after, voxels that the field was estimated from.
    flagged : why the field may be wrong, a sentence; empty if nothing speaks against it.
    """

    field: npt.NDArray[np.float32]
    report: dict[str, Any]
    flagged: str = ""


def estimate_bias(
    b0_mean: npt.ArrayLike,
    mask: npt.NDArray[np.bool_],
    voxel_mm: Sequence[float],
    *,
    working_mm: float = WORKING_MM,
    name: str = "b = 0 image",
) -> BiasField:
    """Estimate the receive field of a series by N4 on its mean b = 0 image.

    ``S(x) = B(x) S'(x)``, log B a cubic B-spline that makes the histogram of S' sharpest. Dividing every volume by the
    same B changes neither FA nor diffusivities, for ln(S_b / S_0) is as before; it evens out S0, and what is seen and
    measured in it. B is fitted on block means of 6 mm within the mask and read on the full grid; its geometric mean in
    the mask is 1. N4 runs with one thread: the same input gives the same bits.

    N4 cannot tell a smooth change of anatomy from a receive field: the field's flattest component is undetermined.

    Parameters
    ----------
    b0_mean : (x, y, z) magnitude, any unit.
    mask : (x, y, z) bool, brain.
    voxel_mm : (3,) voxel sizes in mm.
    working_mm : size of the blocks.
    name : what messages call the image.

    Raises
    ------
    ImageError
        If shapes differ or voxel sizes are not positive.
    MaskError
        If the mask has fewer than 200 blocks with signal.

    References
    ----------
    1. Tustison et al. (2010), N4ITK, doi:10.1109/TMI.2010.2046908.
    """
    image, sizes = np.asarray(b0_mean, dtype=np.float64), np.asarray(voxel_mm, dtype=np.float64)
    inside = np.asarray(mask, dtype=np.bool_)
    if image.ndim != 3 or image.shape != inside.shape or sizes.shape != (3,) or not sizes.min() > 0:
        raise ImageError(
            f"{name}: expected (x, y, z), a mask of its shape and three positive voxel sizes in mm, found shapes "
            f"{image.shape} and {inside.shape} and {tuple(voxel_mm)}. Give the mean of the b = 0 volumes and its mask."
        )
    counted = inside & np.isfinite(image) & (image > 0)
    blocks = np.diag([*sizes, 1.0])
    share, to_mm = averaged(counted, blocks, working_mm)
    total, _ = averaged(np.where(counted, image, 0.0), blocks, working_mm)
    coarse_mask = share >= 0.5
    if coarse_mask.sum() < FEWEST_VOXELS:
        raise MaskError(
            f"{name}: expected a mask with signal in at least {FEWEST_VOXELS} blocks of about {working_mm:g} mm, found "
            f"{int(coarse_mask.sum())} (of {int(inside.sum())} voxels in the mask). Look at image and mask."
        )
    means = np.where(coarse_mask, total / np.maximum(share, 1e-6), 0.0)
    log_field = _n4(means, coarse_mask, to_mm, image.shape, sizes)
    log_field -= log_field[counted].mean()
    field = np.exp(log_field).astype(np.float32)
    low, middle, high = (float(p) for p in np.percentile(field[counted], (1, 50, 99)))
    flagged = ""
    if not high <= LARGEST_RATIO * low:
        flagged = (
            f"expected a receive field that differs by at most {LARGEST_RATIO:g} times in the brain, found {low:.3g} "
            f"to {high:.3g} (1st and 99th percentile). Look at the mask and at the corrected image."
        )
    report = {
        "field": {"1": low, "50": middle, "99": high},
        "variation_before": _variation(image[counted]),
        "variation_after": _variation(image[counted] / field[counted]),
        "blocks": int(coarse_mask.sum()),
    }
    return BiasField(field, report, flagged)


def remove_bias(images: npt.NDArray[Any], bias: BiasField, *, name: str = "diffusion series") -> npt.NDArray[Any]:
    """Divide images (x, y, z) or (x, y, z, volumes) by the field; the result is of their type, float32 for integers.

    Raises
    ------
    ImageError
        If the images are on another grid.
    """
    if images.ndim not in (3, 4) or images.shape[:3] != bias.field.shape:
        raise ImageError(
            f"{name}: expected images (x, y, z) or (x, y, z, volumes) on the grid of the field, {bias.field.shape}, "
            f"found {images.shape}. Estimate the field on the grid of the series."
        )
    dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
    field = bias.field if images.ndim == 3 else bias.field[..., None]
    return np.asarray(np.divide(images, field, dtype=dtype))


def _n4(
    means: npt.NDArray[Any], mask: npt.NDArray[np.bool_], to_mm: Float64, shape: tuple[int, ...], sizes: Float64
) -> Float64:
    """Return the logarithm of the field on the full grid (x, y, z)."""
    import SimpleITK as sitk

    def as_image(values: npt.NDArray[Any], spacing: Float64, origin: Float64) -> Any:
        # SimpleITK has x last in arrays; axes without direction will do, for nothing here depends on the scanner.
        image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin.tolist())
        return image

    spacing, origin = np.diag(to_mm)[:3].copy(), to_mm[:3, 3].copy()
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    # One thread: sums in another order are other bits.
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(list(ITERATIONS))
    n4.SetConvergenceThreshold(CONVERGENCE)
    extent = spacing * (np.array(means.shape) - 1)
    n4.SetNumberOfControlPoints([int(n) for n in np.maximum(np.rint(extent / SPACING_MM), 1) + 3])
    n4.Execute(as_image(means.astype(np.float32), spacing, origin), as_image(mask.astype(np.uint8), spacing, origin))
    # Read on the grid of the blocks, and from there: beyond the outermost centres the spline has no values.
    coarse = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(as_image(means.astype(np.float32), spacing, origin))).T
    return np.asarray(_spread(np.asarray(coarse, dtype=np.float64), to_mm, shape, sizes))


def _spread(coarse: Float64, to_mm: Float64, shape: tuple[int, ...], sizes: Float64) -> Float64:
    """Read values on the grid of blocks at every voxel, by cubic splines; beyond the outermost blocks as at them."""
    axes = (
        np.clip((np.arange(n) * size - to_mm[a, 3]) / to_mm[a, a], 0.0, m - 1.0)
        for a, (n, m, size) in enumerate(zip(shape, coarse.shape, sizes, strict=True))
    )
    places = np.meshgrid(*axes, indexing="ij")
    return np.asarray(ndimage.map_coordinates(coarse, places, order=3, mode="mirror"))


def _variation(values: npt.NDArray[Any]) -> float:
    return float(values.std() / values.mean())
