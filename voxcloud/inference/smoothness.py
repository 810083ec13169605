"""Smoothness of a map of statistics, from the standardised residuals of its model.

The residuals never have to be in memory together: slabs of voxels with a halo are read through a callable, and the
result has the same bits for any slab size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from voxcloud.errors import DesignError, MaskError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MAX_RESIDUAL_IMAGES = 64
SLAB_BYTES = 16_000_000
FOUR_LOG_TWO = 4.0 * np.log(2.0)
MIN_SUM_OF_SQUARES = float(np.sqrt(np.finfo(np.float64).eps))  # below: a constant voxel, which has no smoothness


@dataclass(frozen=True)
class Smoothness:
    """Smoothness of the residual field.

    Attributes
    ----------
    fwhm_voxels
        (3,), full width at half maximum per axis in voxels; 1 along an axis of one voxel.
    n_voxels_used
        Voxels whose forward neighbours are all in the mask; the estimate is their mean.
    erdf
        Error degrees of freedom of the model.
    resels_per_voxel
        (v,), NaN where the voxel was not used.
    """

    fwhm_voxels: tuple[float, float, float]
    n_voxels_used: int
    erdf: float
    resels_per_voxel: Float64

    @property
    def voxels_per_resel(self) -> float:
        """Volume of one resolution element in voxels: the product of the three widths."""
        return float(np.prod(self.fwhm_voxels))

    def fwhm_mm(self, voxel_mm: npt.ArrayLike) -> tuple[float, float, float]:
        """Return the widths in mm."""
        x, y, z = np.asarray(voxel_mm, dtype=np.float64) * np.asarray(self.fwhm_voxels)
        return float(x), float(y), float(z)

    def nonstationarity(self) -> float:
        """Return the 95th over the 5th percentile of resels per voxel: how uneven the smoothness is.

        Much of it is estimation noise: compare with ``stationary_ratio``.
        """
        known = self.resels_per_voxel[np.isfinite(self.resels_per_voxel)]
        low, high = np.percentile(known, [5, 95])
        return float(high / low) if low > 0 else float("inf")

    def stationary_ratio(self) -> float:
        """Return about what ``nonstationarity`` gives for even smoothness: estimation noise alone.

        The logarithm of resels per voxel is half that of the determinant of a 3 x 3 Wishart matrix less three halves
        of that of a chi squared variable (the residual variance); its standard deviation s gives exp(2 x 1.645 s).
        """
        half = 0.5 * np.maximum(self.erdf - np.arange(3), 1.0)
        determinant, variance = special.polygamma(1, half).sum(), special.polygamma(1, half[0])
        return float(np.exp(2 * 1.6449 * np.sqrt(0.25 * determinant + 2.25 * variance)))


def residual_rows(n: int, limit: int = MAX_RESIDUAL_IMAGES) -> Int64:
    """Return which of n residual images enter the smoothness, as row numbers: all, or ``limit`` evenly spaced."""
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    # Halves go up, as in MATLAB's round; numpy's would go to the even neighbour.
    return np.floor(np.linspace(1, n, limit) + 0.5).astype(np.int64) - 1


def estimate_smoothness(
    read: Callable[[int, int], npt.NDArray[np.floating]],
    n_images: int,
    voxel_index: npt.ArrayLike,
    shape: tuple[int, int, int],
    erdf: float,
    *,
    n_scans: int | None = None,
    slab_voxels: int | None = None,
) -> Smoothness:
    r"""Estimate the smoothness of a field from standardised residuals, slab by slab.

    With s = r / sqrt(ResMS) and forward differences d_a s along axis a, the roughness matrix at a voxel is
    Lambda_ab = (n_scans / n_images) sum_i d_a s_i d_b s_i / erdf. Resels per voxel are
    sqrt(det Lambda / (4 ln 2)^3); the widths keep the ratio of the means of sqrt(Lambda_aa) and have the mean number
    of resels per voxel as their product: 1 / (F_x F_y F_z) = mean(resels per voxel).

    Parameters
    ----------
    read
        ``read(start, stop)`` gives (n_images, stop - start): standardised residuals of voxels start to stop of
        ``voxel_index``. Residuals kept in less than float64 limit the result to their precision.
    n_images
        Images that ``read`` gives, those of ``residual_rows``.
    voxel_index
        (v,), increasing indices of the mask's voxels in the flattened (C order) grid.
    shape
        Grid.
    erdf
        Error degrees of freedom of the model.
    n_scans
        Rows of the model, when only some of their residuals are read; default ``n_images``.
    slab_voxels
        Voxels per slab; the default keeps a slab's residuals under 16 MB. The result does not depend on it.

    Raises
    ------
    MaskError
        If no voxel has all its forward neighbours in the mask, or the indices do not fit the grid.
    DesignError
        If the residuals are all zero or there are no degrees of freedom.

    References
    ----------
    1. Kiebel et al., NeuroImage 10:756 (1999), doi:10.1006/nimg.1999.0508
    2. Hayasaka et al., NeuroImage 22:676 (2004), doi:10.1016/j.neuroimage.2004.01.041
    """
    index = np.asarray(voxel_index, dtype=np.int64)
    _check(index, shape, erdf, n_images)
    axes = [axis for axis in range(3) if shape[axis] > 1]
    reach, usable = _forward_reach(index, shape, axes)
    scale = (n_images if n_scans is None else n_scans) / n_images / erdf
    step = max(1, SLAB_BYTES // (8 * n_images)) if slab_voxels is None else slab_voxels
    resels = np.full(index.size, np.nan)
    per_axis = np.full((len(axes), index.size), np.nan)
    for start in range(0, index.size, step):
        stop = min(start + step, index.size)
        inside = start + np.flatnonzero(usable[start:stop])
        if inside.size == 0:
            continue
        last = int(reach[inside].max()) + 1
        block = np.asarray(read(start, last))
        if block.shape != (n_images, last - start):
            raise DesignError(f"Residuals {start} to {last}: expected {(n_images, last - start)}, found {block.shape}.")
        roughness, squares = _roughness(block, index, start, inside, shape, axes)
        known = np.isfinite(squares) & (squares >= MIN_SUM_OF_SQUARES)
        inside, roughness = inside[known], roughness[:, :, known] * scale
        resels[inside] = np.sqrt(np.maximum(_determinant(roughness), 0.0) / FOUR_LOG_TWO ** len(axes))
        for k in range(len(axes)):
            per_axis[k, inside] = np.sqrt(roughness[k, k] / FOUR_LOG_TWO)
    return _summarise(resels, per_axis, axes, erdf)


def smoothness_of_array(
    residuals: npt.NDArray[np.floating],
    voxel_index: npt.ArrayLike,
    shape: tuple[int, int, int],
    erdf: float,
    *,
    n_scans: int | None = None,
) -> Smoothness:
    """Estimate the smoothness of standardised residuals (n_images, v) that are in memory.

    Parameters and errors as in :func:`estimate_smoothness`.
    """
    values = np.asarray(residuals)
    return estimate_smoothness(
        lambda start, stop: values[:, start:stop], values.shape[0], voxel_index, shape, erdf, n_scans=n_scans
    )


def _check(index: Int64, shape: tuple[int, int, int], erdf: float, n_images: int) -> None:
    if index.size == 0:
        raise MaskError("Smoothness: the mask holds no voxel. Check the mask and its threshold.")
    if index[0] < 0 or index[-1] >= int(np.prod(shape)) or np.any(np.diff(index) <= 0):
        raise MaskError(f"Smoothness: expected increasing voxel indices within the grid {shape}.")
    if erdf <= 0 or n_images < 1:
        raise DesignError(
            f"Smoothness: expected residuals and error degrees of freedom above 0, found {n_images} images and "
            f"{erdf:g} degrees of freedom. Take terms out of the formula or add participants."
        )


def _offset(step: tuple[int, ...], shape: tuple[int, int, int]) -> int:
    return step[0] * shape[1] * shape[2] + step[1] * shape[2] + step[2]


def _corners(axes: list[int]) -> list[tuple[int, ...]]:
    """Return the forward corners of the unit cell, the far one last."""
    sides = [(0, 1) if axis in axes else (0,) for axis in range(3)]
    return [(x, y, z) for x in sides[0] for y in sides[1] for z in sides[2]]


def _forward_reach(index: Int64, shape: tuple[int, int, int], axes: list[int]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the position of each voxel's far corner in ``index`` and whether its whole forward cell is in the mask."""
    inside = np.zeros(int(np.prod(shape)), dtype=bool)
    inside[index] = True
    place = np.array(np.unravel_index(index, shape))
    usable = np.ones(index.size, dtype=bool)
    for axis in axes:  # the flattened index would wrap round at the far face of the grid
        usable &= place[axis] < shape[axis] - 1
    corners = _corners(axes)
    for corner in corners:
        neighbour = np.minimum(index + _offset(corner, shape), inside.size - 1)
        usable &= inside[neighbour]
    far = np.searchsorted(index, index + _offset(corners[-1], shape))
    if not usable.any():
        raise MaskError(
            f"Smoothness: none of the {index.size} voxels of the mask has all its forward neighbours in the mask. "
            "Use a thicker mask."
        )
    return np.asarray(far, dtype=np.int64), usable


def _roughness(
    block: npt.NDArray[np.floating],
    index: Int64,
    start: int,
    inside: Int64,
    shape: tuple[int, int, int],
    axes: list[int],
) -> tuple[Float64, Float64]:
    """Return sums over images of products of forward differences (axes, axes, voxels), and of squares (voxels,)."""
    here = inside - start
    forward = []
    for axis in axes:
        step = tuple(int(a == axis) for a in range(3))
        forward.append(np.searchsorted(index, index[inside] + _offset(step, shape)) - start)
    roughness = np.zeros((len(axes), len(axes), inside.size))
    squares = np.zeros(inside.size)
    # One image after the other: the order of the sum, and so its last bit, does not depend on the slab.
    for image in block:
        row = image.astype(np.float64, copy=False)
        value = row[here]
        slopes = [row[there] - value for there in forward]
        squares += value * value
        for a, slope in enumerate(slopes):
            for b in range(a + 1):
                roughness[a, b] += slope * slopes[b]
    for a in range(len(axes)):
        for b in range(a):
            roughness[b, a] = roughness[a, b]
    return roughness, squares


def _determinant(m: Float64) -> Float64:
    """Return the determinant of symmetric (k, k, voxels) matrices written out, k <= 3."""
    if m.shape[0] == 1:
        return np.asarray(m[0, 0])
    if m.shape[0] == 2:
        return np.asarray(m[0, 0] * m[1, 1] - m[0, 1] * m[0, 1])
    return np.asarray(
        m[0, 0] * m[1, 1] * m[2, 2]
        + 2.0 * m[0, 1] * m[1, 2] * m[0, 2]
        - m[0, 0] * m[1, 2] * m[1, 2]
        - m[0, 1] * m[0, 1] * m[2, 2]
        - m[0, 2] * m[1, 1] * m[0, 2]
    )


def _summarise(resels: Float64, per_axis: Float64, axes: list[int], erdf: float) -> Smoothness:
    known = np.isfinite(resels)
    if not known.any():
        raise DesignError(
            "Smoothness: the residuals are zero or not finite in every voxel. The model fits the data exactly, or the "
            "images are constant: check the images and take terms out of the formula."
        )
    mean_resels = float(resels[known].mean())
    means = np.array([per_axis[k, known].mean() for k in range(len(axes))])
    dimensions = len(axes)
    width = np.ones(3)
    width[axes] = 1.0 / (mean_resels ** (1.0 / dimensions) * means / np.prod(means) ** (1.0 / dimensions))
    return Smoothness(
        fwhm_voxels=(float(width[0]), float(width[1]), float(width[2])),
        n_voxels_used=int(known.sum()),
        erdf=float(erdf),
        resels_per_voxel=resels,
    )
