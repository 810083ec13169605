"""Rigid movements as matrices and as numbers that people read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def voxel_to_voxel(fixed_affine: npt.ArrayLike, matrix: npt.ArrayLike, moving_affine: npt.ArrayLike) -> Float64:
    """Return the transform from voxels of the fixed grid to voxels of the moving one.

    ``inv(A_moving) M A_fixed`` with M from mm of the fixed image to mm of the moving one.
    """
    fixed, own, moving = (np.asarray(a, dtype=np.float64) for a in (fixed_affine, matrix, moving_affine))
    return np.asarray(np.linalg.inv(moving) @ own @ fixed)


def rigid_matrix(translation_mm: Sequence[float], rotation_deg: Sequence[float], centre_mm: Sequence[float]) -> Float64:
    """Return (4, 4): rotations about x, then y, then z through a centre, then a shift."""
    x, y, z = np.deg2rad(np.asarray(rotation_deg, dtype=np.float64))
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    found = np.eye(4)
    found[:3, :3] = about_z @ about_y @ about_x
    centre = np.asarray(centre_mm, dtype=np.float64)
    found[:3, 3] = centre - found[:3, :3] @ centre + np.asarray(translation_mm, dtype=np.float64)
    return found


def rigid_parameters(matrix: npt.ArrayLike, centre_mm: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Return shift (3,) in mm and rotations (3,) in degrees of the rigid part of a transform; see ``rigid_matrix``.

    The rigid part is the nearest rotation (polar decomposition); the shift is that of the centre.
    """
    own, centre = np.asarray(matrix, dtype=np.float64), np.asarray(centre_mm, dtype=np.float64)
    u, _, vt = np.linalg.svd(own[:3, :3])
    r = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    y = np.arcsin(np.clip(-r[2, 0], -1.0, 1.0))
    x, z = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    shift = own[:3, :3] @ centre + own[:3, 3] - centre
    return np.asarray(shift), np.rad2deg(np.array([x, y, z]))


def displacement_mm(
    matrix: npt.ArrayLike,
    affine: npt.ArrayLike,
    shape: Sequence[int],
    mask: npt.NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """Return mean and largest distance in mm that a transform moves the voxels of a mask (or of the grid)."""
    to_mm = np.asarray(affine, dtype=np.float64)
    step = (np.asarray(matrix, dtype=np.float64) - np.eye(4)) @ to_mm
    # Every fourth voxel will do: the displacement is linear in the place.
    thin = tuple(slice(0, None, 4 if n >= 32 else 1) for n in shape)
    axes = np.meshgrid(*(np.arange(n)[s] for n, s in zip(shape, thin, strict=True)), indexing="ij")
    places = np.stack([a.reshape(-1) for a in axes] + [np.ones(axes[0].size)])
    if mask is not None and mask[thin].any():
        places = places[:, mask[thin].reshape(-1)]
    distance = np.sqrt(((step[:3] @ places) ** 2).sum(axis=0))
    return float(distance.mean()), float(distance.max())
