"""Slices of a volume as a picture shows them: which, from which side, how large."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations
from PIL import Image

from voxcloud.errors import ImageError

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Box = list[tuple[int, int]]

# Slices are taken from the crown down as far as a brain reaches; below are neck and jaw.
CROWN_MM, REACH_MM = 14.0, 128.0
COARSE = 2.0  # voxels that are drawn larger than this are shown as they are


@dataclass(frozen=True, eq=False)
class Turned:
    """A volume whose axes go right, forward and up, as nearly as its own axes allow (a view, nothing is copied)."""

    data: Values
    affine: Floats
    size_mm: tuple[float, float, float]

    def millimetre(self, axis: int, index: float) -> float:
        """Return where the middle of a slice lies, in world coordinates."""
        middle = [(n - 1) / 2 for n in self.data.shape]
        middle[axis] = index
        return float((self.affine @ [*middle, 1.0])[axis])

    def plane(self, axis: int, index: int) -> Values:
        """Return a slice as it is drawn: up or front on top; left, or back in a sagittal slice, at the left."""
        place: tuple[slice | int, ...] = tuple(index if k == axis else slice(None) for k in range(3))
        return np.asarray(self.data[place].T[::-1])

    @cached_property
    def box(self) -> Box:
        """First and last index with a value on each axis; of every second voxel, which is near enough."""
        seen = self.data[::2, ::2, ::2]
        known = np.isfinite(seen) & (seen != 0) if seen.dtype.kind == "f" else seen != 0
        found = []
        for axis, n in enumerate(self.data.shape):
            there = np.flatnonzero(known.any(axis=tuple(k for k in range(3) if k != axis)))
            found.append((2 * int(there[0]), min(2 * int(there[-1]) + 1, n - 1)) if there.size else (0, n - 1))
        return found


def turn(volume: Values, affine: npt.ArrayLike) -> Turned:
    """Turn a volume to the axes nearest to right, anterior and superior.

    Raises
    ------
    ImageError
        If it is not a volume, or the affine is none.
    """
    data, matrix = np.asarray(volume), np.asarray(affine, dtype=np.float64)
    if data.ndim != 3 or matrix.shape != (4, 4) or not np.linalg.det(matrix[:3, :3]):
        raise ImageError(
            f"picture: expected a volume (x, y, z) and a 4 x 4 affine with three axes, found shape {data.shape} and "
            f"affine {matrix.tolist()}. Give the image as it was loaded."
        )
    own = orientations.io_orientation(matrix)
    turned = matrix @ orientations.inv_ornt_aff(own, data.shape)
    x, y, z = np.sqrt((turned[:3, :3] ** 2).sum(axis=0))
    return Turned(orientations.apply_orientation(data, own), turned, (float(x), float(y), float(z)))


@dataclass(frozen=True)
class Cut:
    """Which part of a slice is drawn, and at what size."""

    axis: int
    index: int
    rows: slice
    columns: slice
    width: int
    height: int

    def of(self, turned: Turned) -> Values:
        """Return the slice's values, not resized."""
        return turned.plane(self.axis, self.index)[self.rows, self.columns]

    def sample(self, turned: Turned) -> tuple[Values, Bools]:
        """Return values at the picture's size, and where they are known."""
        values = self.of(turned).astype(np.float32)
        known = np.isfinite(values)
        values[~known] = 0.0
        coarse = self.width > COARSE * values.shape[1]
        how = Image.Resampling.NEAREST if coarse else Image.Resampling.BILINEAR
        size = (self.width, self.height)
        drawn = np.asarray(Image.fromarray(values).resize(size, how))
        if known.all():
            return drawn, np.ones(drawn.shape, dtype=bool)
        share = np.asarray(Image.fromarray(known.astype(np.float32)).resize(size, how))
        with np.errstate(all="ignore"):
            drawn = drawn / share  # so that the dark outside does not run into the edge
        return drawn, share > 0.5

    def mask(self, turned: Turned) -> Bools:
        """Return a mask at the picture's size."""
        values = self.of(turned).astype(np.uint8) * 255
        drawn = Image.fromarray(np.ascontiguousarray(values)).resize((self.width, self.height))
        return np.asarray(np.asarray(drawn) > 127)


def cut_of(turned: Turned, box: Box, axis: int, index: int, per_mm: float) -> Cut:
    """Return a slice cut to the head's box, at ``per_mm`` dots of the picture to a millimetre."""
    across, up = [k for k in range(3) if k != axis]
    (left, right), (low, high) = box[across], box[up]
    n = turned.data.shape[up]
    width = max(1, round((right - left + 1) * turned.size_mm[across] * per_mm))
    height = max(1, round((high - low + 1) * turned.size_mm[up] * per_mm))
    return Cut(axis, index, slice(n - 1 - high, n - low), slice(left, right + 1), width, height)


def axial_places(turned: Turned, n: int) -> list[int]:
    """Return slices from the lowest to the highest, evenly through where a brain is."""
    low, high = turned.box[2]
    size = turned.size_mm[2]
    reach = (high - low) * size
    top = high - min(CROWN_MM, 0.12 * reach) / size
    bottom = max(low + 0.1 * (high - low), high - REACH_MM / size)
    return [round(float(k)) for k in np.linspace(bottom, top, n)]
