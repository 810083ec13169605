"""Smoothing: SPM's kernel, and tissue-weighted smoothing that leaves no partial volume in the maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from voxcloud.errors import ImageError
from voxcloud.space import smoothing_kernels

Float32 = npt.NDArray[np.float32]
Kernel = Literal["spm", "gaussian"]
Edges = Literal["renormalise", "spm"]
PriorMask = Literal["result", "numerator"]

MIN_PRIOR = 0.05
MIN_WEIGHT = 0.05
"""Template probability and smoothed weight above which a tissue-weighted mean is one (Draganski et al. 2011)."""

SUPPORT_SD = 6.0
"""Reach of the kernels in standard deviations, rounded to whole voxels: 2e-9 of the weight lies beyond."""

_NO_WEIGHTS = np.empty((0, 0, 0), dtype=np.float32)


def smoothing_kernel(fwhm_voxels: float, kernel: Kernel = "spm") -> npt.NDArray[np.float64]:
    """Return a kernel along one axis, 2 r + 1 weights that sum to 1; r = round(6 sigma).

    Parameters
    ----------
    fwhm_voxels
        Full width at half maximum in voxels; 0 is no smoothing.
    kernel
        spm: Gaussian convolved with a linear B-spline (a triangle two voxels wide), i.e. the Gaussian applied to the
        linearly interpolated image; its variance is sigma^2 + 1/6. gaussian: the Gaussian at the voxel centres.
    """
    sigma = fwhm_voxels / math.sqrt(8.0 * math.log(2.0))
    reach = math.floor(SUPPORT_SD * sigma + 0.5)  # halves away from zero, as SPM rounds
    if reach == 0:
        return np.ones(1)
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    if kernel == "gaussian":
        weights = np.exp(-0.5 * (x / sigma) ** 2)
    else:
        # Second difference of the second integral of the Gaussian.
        twice_integrated = [
            0.5 * u * special.erf(u / (sigma * math.sqrt(2.0)))
            + sigma / math.sqrt(2.0 * math.pi) * np.exp(-0.5 * (u / sigma) ** 2)
            for u in (x - 1, x, x + 1)
        ]
        before, here, after = twice_integrated
        weights = np.maximum(before - 2.0 * here + after, 0.0)
        weights = 0.5 * (weights + weights[::-1])
    return np.asarray(weights / weights.sum())


def smooth(
    image: npt.ArrayLike,
    fwhm_mm: float | Sequence[float],
    voxel_mm: float | Sequence[float],
    *,
    kernel: Kernel = "spm",
    edges: Edges = "renormalise",
) -> Float32:
    """Smooth an image (x, y, z).

    Voxels that are not finite are unknown. ``renormalise``: the mean is over what is known, f = S(f known) / S(known),
    at the edges of the image too, and unknown voxels stay NaN. ``spm``: nothing lies beyond the edges along x and y,
    where values fall off, the mean is renormalised along z only, and unknown voxels count as 0, as in SPM12.

    Parameters
    ----------
    image
        (x, y, z), any unit; smoothed in float32.
    fwhm_mm
        Full width at half maximum, one number or one for each axis; 0 leaves the axis as it is.
    voxel_mm
        Size of the voxels, one number or one for each axis.
    kernel
        As in ``smoothing_kernel``.

    Returns
    -------
    (x, y, z) float32.

    Raises
    ------
    ImageError
        If the image is not three-dimensional, or a width or voxel size cannot be one.
    """
    values = _image(image, "image")
    passes = _Passes(values.shape, fwhm_mm, voxel_mm, kernel, edges)
    out = passes.run(values)
    known = np.isfinite(values)
    if edges == "renormalise" and not known.all():
        share = passes.run(known.astype(np.float32))
        with np.errstate(invalid="ignore", divide="ignore"):
            out = np.where(known, out / share, np.float32(np.nan))
    return out


def smooth_tissue_weighted(
    maps: Mapping[str, npt.ArrayLike],
    weights: npt.ArrayLike,
    prior: npt.ArrayLike,
    fwhm_mm: float | Sequence[float],
    voxel_mm: float | Sequence[float],
    *,
    kernel: Kernel = "spm",
    edges: Edges = "renormalise",
    prior_mask: PriorMask = "result",
    min_prior: float = MIN_PRIOR,
    min_weight: float = MIN_WEIGHT,
) -> dict[str, Float32]:
    """Smooth maps within one tissue: S(m w) / S(w) where prior > 0.05 and S(w) > 0.05, NaN elsewhere.

    Each voxel counts as much as there is of the tissue in it, so that neither volume nor other tissues enter the mean
    [1]_. Unknown voxels of a map (not finite) have no weight for that map; S(w) is computed once for all maps that know
    the same voxels.

    Parameters
    ----------
    maps
        Maps (x, y, z) on the grid of the template, each in its own unit.
    weights
        (x, y, z) modulated tissue probability w; unknown or below 0 (overshoot of interpolation) is no tissue.
    prior
        (x, y, z) the template's probability of the tissue.
    fwhm_mm, voxel_mm, kernel, edges
        As in ``smooth``.
    prior_mask
        result: the prior only says where a result is given; a constant map stays constant. numerator: as the hMRI
        toolbox (1.0) does, S(m w [prior > 0.05]) / S(w) where S(w) > 0.05; near the edge of the prior values are too
        small, because the same voxels are missing above the line and not below it.
    min_prior, min_weight
        The two limits.

    Returns
    -------
    Map of the same names to (x, y, z) float32.

    Raises
    ------
    ImageError
        If an image has another shape than the weights, or a width or voxel size cannot be one.

    References
    ----------
    .. [1] Draganski et al. 2011, doi:10.1016/j.neuroimage.2011.01.052
    """
    w = np.nan_to_num(np.maximum(_image(weights, "weights"), np.float32(0.0)), nan=0.0, posinf=0.0, neginf=0.0)
    template = _image(prior, "prior", w.shape)
    passes = _Passes(w.shape, fwhm_mm, voxel_mm, kernel, edges)
    above = np.where(template > min_prior, w, np.float32(0.0)) if prior_mask == "numerator" else w
    lowest: Any = np.float32(min_prior if prior_mask == "result" else -np.inf)
    least: Any = np.float32(min_weight)
    denominators: dict[bytes, Float32] = {}
    smoothed: dict[str, Float32] = {}
    known = np.empty_like(w)
    for name, image in maps.items():
        values = _image(image, name, w.shape)
        missing = smoothing_kernels.mark_known(values.ravel(), w.ravel(), known.ravel())
        key = np.packbits(known > 0).tobytes() if missing else b""
        if key not in denominators:
            denominators[key] = passes.run(known if missing else w)
        result = passes.run(values, above)
        smoothing_kernels.divide(result.ravel(), denominators[key].ravel(), template.ravel(), lowest, least)
        smoothed[name] = result
    return smoothed


class _Passes:
    """Half kernels and factors at the edges for one grid."""

    def __init__(
        self,
        shape: tuple[int, ...],
        fwhm_mm: float | Sequence[float],
        voxel_mm: float | Sequence[float],
        kernel: Kernel,
        edges: Edges,
    ) -> None:
        fwhm, voxel = _three(fwhm_mm, "fwhm_mm", 0.0), _three(voxel_mm, "voxel_mm", 1e-6)
        taps, scales = [], []
        for axis, n in enumerate(shape):
            full = smoothing_kernel(fwhm[axis] / voxel[axis], kernel)
            half = full[full.size // 2 :].astype(np.float32)
            total = 2.0 * half[1:].sum(dtype=np.float64) + half[0]
            half = half[:n]  # what reaches beyond the image from everywhere in it is never read
            taps.append(half)
            renormalised = edges == "renormalise" or axis == 2
            scales.append((1.0 / (_weight_inside(half, n) if renormalised else np.full(n, total))).astype(np.float32))
        self._shape = shape
        self._taps = tuple(taps)
        self._scales = scales

    def run(self, image: Float32, weights: Float32 = _NO_WEIGHTS) -> Float32:
        """Return S(image), or S(image weights)."""
        out = np.empty(self._shape, dtype=np.float32)
        x, y, z = self._scales
        smoothing_kernels.smooth_volume(image, weights, self._taps, x, y, z, out)
        return out


def _weight_inside(half: Float32, n: int) -> npt.NDArray[np.float64]:
    """Return how much of the kernel lies within n voxels, for its centre at each of them."""
    sums = np.concatenate([[0.0], np.cumsum(half[1:], dtype=np.float64)])
    reach = np.minimum(np.arange(n), half.size - 1)
    return np.asarray(half[0] + sums[reach] + sums[reach[::-1]])


def _image(values: npt.ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> Float32:
    found = np.ascontiguousarray(values, dtype=np.float32)
    if found.ndim != 3 or not found.size or (shape is not None and found.shape != shape):
        wanted = "an image (x, y, z)" if shape is None else f"the shape of the weights, {shape}"
        raise ImageError(f"{name}: expected {wanted}, found shape {np.shape(values)}. Resample it to the same grid.")
    return found


def _three(value: float | Sequence[float], name: str, minimum: float) -> list[float]:
    found: Any = [float(v) for v in np.atleast_1d(np.asarray(value, dtype=np.float64))]
    found = found * 3 if len(found) == 1 else found
    if len(found) != 3 or not all(math.isfinite(v) and v >= minimum for v in found):
        least = "0 or more" if minimum == 0 else "above 0"
        raise ImageError(f"{name}: expected one number or three, {least} (mm), found {value}.")
    return list(found)
