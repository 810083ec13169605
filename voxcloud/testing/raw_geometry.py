"""Grids of acquisitions and rigid movements of the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxcloud.testing.fields import Float64, generator


@dataclass(frozen=True)
class Grid:
    """Voxels of an acquisition: shape, and affine from voxel to scanner mm (RAS+)."""

    shape: tuple[int, int, int]
    affine: Float64


@dataclass(frozen=True)
class Movement:
    """A rigid movement about the isocentre: rotations about x, then y, then z (degrees), then a shift (mm)."""

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def matrix(self) -> Float64:
        """Return (4, 4): where a point of the head is after the movement."""
        out = np.eye(4)
        for axis, degrees in enumerate(self.rotation_deg):
            c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            turn, (p, q) = np.eye(4), [a for a in range(3) if a != axis]
            turn[p, p], turn[q, q] = c, c
            turn[p, q], turn[q, p] = (-s, s) if axis != 1 else (s, -s)
            out = turn @ out
        out[:3, 3] = self.translation_mm
        return out

    def to_tree(self) -> dict[str, Any]:
        """Return plain values."""
        return {"rotation_deg": list(self.rotation_deg), "translation_mm": list(self.translation_mm)}


def grid(fov_mm: Sequence[float], voxel_mm: float, tilt: Movement | None = None) -> Grid:
    """Return an isotropic grid centred on the isocentre, tilted and shifted if asked for; counts are even."""
    counts = [2 * max(1, round(fov / voxel_mm / 2.0)) for fov in fov_mm]
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = [-voxel_mm * (n - 1) / 2.0 for n in counts]
    if tilt is not None:
        affine = tilt.matrix() @ affine
    return Grid((counts[0], counts[1], counts[2]), affine)


def movement(seed: int, *names: str, degrees: float, mm: float) -> Movement:
    """Draw a movement with these SDs per axis, rounded to what is written down as truth."""
    rng = generator(seed, "movement", *names)
    turn, shift = np.round(degrees * rng.standard_normal(3), 3), np.round(mm * rng.standard_normal(3), 3)
    return Movement(
        (float(turn[0]), float(turn[1]), float(turn[2])), (float(shift[0]), float(shift[1]), float(shift[2]))
    )
