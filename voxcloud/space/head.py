"""Where the head is: the voxels in which something can be computed at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import MaskError

Bool = npt.NDArray[np.bool_]

# The head is looked for on a grid about this coarse: noise averages out, and a whole session takes a tenth of a second.
COARSE_MM = 3.0
MARGIN_MM = 6.0
# A threshold between noise and tissue: this part of a bright voxel's value. Skull and air in the head lie below it and
# are filled in.
SHARE_OF_BRIGHT = 0.12
BRIGHT_PERCENTILE = 98.0
SMALLEST_HEAD_ML = 20.0


def head_mask(image: npt.NDArray[Any], voxel_mm: npt.ArrayLike) -> Bool:
    """Return the voxels of the head, with a margin: the largest bright region, holes filled.

    Generous on purpose: it only saves computing air. Bright means above 12 % of the 98th percentile of block means.

    Parameters
    ----------
    image : 3-D magnitude image.
    voxel_mm : (3,) voxel sizes in mm.

    Raises
    ------
    MaskError
        If less than 20 ml is bright, e.g. in an empty image.
    """
    size = np.asarray(voxel_mm, dtype=np.float64)
    step = np.maximum(np.rint(COARSE_MM / size).astype(int), 1)
    coarse = _block_means(image, step)
    coarse_mm = size * step
    bright = coarse > SHARE_OF_BRIGHT * np.percentile(coarse, BRIGHT_PERCENTILE)
    ball = _ball(MARGIN_MM, coarse_mm)
    # Closing joins brain and scalp across the skull; opening takes away specks of ghosting.
    joined = ndimage.binary_closing(_padded(bright, ball), structure=ball)
    opened = ndimage.binary_opening(joined, structure=_ball(COARSE_MM, coarse_mm))
    labels, n = ndimage.label(opened)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:])) if n else np.zeros_like(opened)
    millilitres = float(largest.sum() * np.prod(coarse_mm) / 1000.0)
    if millilitres < SMALLEST_HEAD_ML or not np.any(coarse > 0):
        raise MaskError(
            f"expected a head of at least {SMALLEST_HEAD_ML:g} ml of bright voxels, found {millilitres:.3g} ml. Look "
            "at the image: is it empty, or its voxel size wrong?"
        )
    grown = ndimage.binary_dilation(ndimage.binary_fill_holes(largest), structure=ball)
    inner = grown[tuple(slice(n, -n) for n in ball.shape)]
    return _spread(inner, step, image.shape)


def _block_means(image: npt.NDArray[Any], step: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Return means over blocks of ``step`` voxels; what is left over at the far sides counts by itself."""
    found: Any = image
    for axis, n in enumerate(step):
        starts = np.arange(0, found.shape[axis], n)
        counts = np.diff(np.append(starts, found.shape[axis]))
        total = np.add.reduceat(found, starts, axis=axis, dtype=np.float64)
        found = total / counts.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(np.nan_to_num(found), dtype=np.float64)


def _padded(mask: Bool, ball: Bool) -> Bool:
    return np.pad(mask, [(n, n) for n in ball.shape])


def _ball(radius_mm: float, voxel_mm: npt.NDArray[np.float64]) -> Bool:
    reach = np.maximum(np.floor(radius_mm / voxel_mm).astype(int), 1)
    axes = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    squared = sum((axis * mm) ** 2 for axis, mm in zip(axes, voxel_mm, strict=True))
    # An axis whose voxels are larger than the radius still reaches to its neighbour.
    least = max(radius_mm, float(voxel_mm.min())) ** 2
    return np.asarray(squared <= least * (1 + 1e-9))


def _spread(coarse: Bool, step: npt.NDArray[np.int_], shape: tuple[int, ...]) -> Bool:
    found = coarse
    for axis, n in enumerate(step):
        found = np.repeat(found, n, axis=axis)
    return np.ascontiguousarray(found[tuple(slice(0, n) for n in shape)])
