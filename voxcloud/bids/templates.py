"""The template: ICBM 2009a non-linear symmetric, as nilearn ships it, on a grid of any voxel size."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.images import MaskGrid, load_mask
from voxcloud.config.space import TEMPLATE

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Around the brain: what is smoothed and what is warped must not end at the edge of the grid.
MARGIN_MM = 9.0
# A mask that is the template's brain is named by template and voxel size in place of a path.
_BRAIN = re.compile(rf"{TEMPLATE}@(\d+(?:\.\d+)?)mm")


@dataclass(frozen=True, eq=False)
class Template:
    """A T1-weighted brain with tissue probabilities on one grid.

    Attributes
    ----------
    t1
        (x, y, z), 0 outside the brain.
    priors
        Label (GM, WM, CSF) to its probability, (x, y, z), 0 to 1. CSF is what the brain leaves beside the other two.
    brain
        (x, y, z) bool.
    affine
        (4, 4), voxel to RAS+ mm.
    """

    t1: Float32
    priors: dict[str, Float32]
    brain: npt.NDArray[np.bool_]
    affine: Float64


@functools.lru_cache(maxsize=2)
def load_template(resolution_mm: float) -> Template:
    """Read the template on a grid of cubic voxels, once in each process.

    Voxel centres lie at multiples of the voxel size: the plane between the hemispheres is one of voxels, and both
    sides are alike; the grid holds the brain and a margin. Larger voxels hold the mean of what lies in them.
    """
    from nilearn import datasets

    grid = _brain_grid(resolution_mm)
    t1, grey, white = (
        _resampled(load(resolution=1), grid.affine, grid.shape, resolution_mm)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
        )
    )
    priors = {"GM": np.clip(grey, 0, 1), "WM": np.clip(white, 0, 1)}
    priors["CSF"] = (np.clip(1 - priors["GM"] - priors["WM"], 0, 1) * grid.mask).astype(np.float32)
    return Template(t1, priors, grid.mask, grid.affine)


@functools.lru_cache(maxsize=2)
def _brain_grid(resolution_mm: float) -> MaskGrid:
    from nilearn import datasets

    brain = datasets.load_mni152_brain_mask(resolution=1)
    affine, shape = _grid_around(np.asarray(brain.dataobj) > 0, np.asarray(brain.affine), resolution_mm)
    inside = _resampled(brain, affine, shape, resolution_mm) >= 0.5
    return MaskGrid.from_array(inside, affine, path=brain_place(resolution_mm))


def _resampled(source: Any, affine: Float64, shape: tuple[int, int, int], resolution_mm: float) -> Float32:
    """Return an image of 1 mm on another grid, blurred to its voxels first."""
    from nilearn import image

    blur = float(np.sqrt(max(resolution_mm**2 - 1.0, 0.0)))
    smooth = image.smooth_img(source, blur) if blur else source
    moved = image.resample_img(smooth, affine, shape, interpolation="linear", copy_header=True, force_resample=True)
    return np.ascontiguousarray(moved.get_fdata(dtype=np.float32))


def _grid_around(
    brain: npt.NDArray[np.bool_], affine: Float64, resolution_mm: float
) -> tuple[Float64, tuple[int, int, int]]:
    """Return affine and shape of the grid of multiples of the voxel size that holds the brain and a margin."""
    corners = np.argwhere(brain)
    ends = np.stack([corners.min(axis=0), corners.max(axis=0)]) @ affine[:3, :3].T + affine[:3, 3]
    low = np.floor((ends.min(axis=0) - MARGIN_MM) / resolution_mm)
    high = np.ceil((ends.max(axis=0) + MARGIN_MM) / resolution_mm)
    side = max(-low[0], high[0])  # the same on both sides of the middle
    low[0], high[0] = -side, side
    made = np.diag([resolution_mm] * 3 + [1.0])
    made[:3, 3] = low * resolution_mm
    x, y, z = (int(n) for n in high - low + 1)
    return made, (x, y, z)


def priors_on(shape: tuple[int, int, int], affine: Float64) -> tuple[Float32, Float32]:
    """Return the template's probabilities of grey and white matter on another grid in its space."""
    from nilearn import datasets

    size = float(np.cbrt(abs(np.linalg.det(affine[:3, :3]))))
    grey, white = (
        np.clip(_resampled(load(resolution=1), affine, shape, size), 0, 1)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    return grey, white


def brain_place(resolution_mm: float) -> str:
    """Return what a unit's places name in place of the path of a mask: the template's brain."""
    return f"{TEMPLATE}@{resolution_mm:g}mm"


def is_brain_place(place: str) -> bool:
    """Whether a mask is the template's brain rather than a file."""
    return _BRAIN.fullmatch(place) is not None


def study_mask(place: str | Path) -> MaskGrid:
    """Return the mask of a study: the template's brain (``brain_place``), or one that is read from a file.

    Raises
    ------
    MaskError, ImageError
        If the file cannot be read or no voxel is inside.
    """
    found = _BRAIN.fullmatch(str(place))
    return load_mask(place) if found is None else _brain_grid(float(found.group(1)))
