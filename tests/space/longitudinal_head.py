"""A head scanned at several visits: known movements, known changes of volume and of MTsat, noise.

A person of the simulator (``voxcloud.testing.raw_head``) is read at sub-voxel points through a known deformation, so
that nothing of what is under test takes part. A change of volume is a source field s in the frame of the head: the
deformation ``phi(x) = x + u(x)`` has ``div u = s`` and no rotation, by a Poisson equation, so that volumes grow by
about ``exp(s)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from voxcloud.space.affine import rigid_matrix
from voxcloud.testing.raw_head import Head, person_head, template_head
from voxcloud.testing.raw_tissue import PARAMETERS

MTSAT = PARAMETERS.index("MTsat")
WHITE = 1.7
SOURCE_MM = 2.0
LOW, HIGH = np.array([-110.0, -150.0, -110.0]), np.array([110.0, 120.0, 118.0])


@dataclass(frozen=True, eq=False)
class Growth:
    """A deformation of the head: where points go, where they come from, and by how much volumes grow, on a grid."""

    affine: np.ndarray
    displacement: np.ndarray
    inverse: np.ndarray
    jacobian: np.ndarray

    def at(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values of a field of the grid at points (point, 3), linear between its knots."""
        places = ((points - self.affine[:3, 3]) / np.diag(self.affine)[:3]).T
        fields = field[..., None] if field.ndim == 3 else field
        out = [ndimage.map_coordinates(f, places, order=1, mode="nearest") for f in np.moveaxis(fields, -1, 0)]
        return np.stack(out, axis=-1) if field.ndim == 4 else out[0]


def source_grid(step_mm: float = SOURCE_MM) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y, z, 3) of the grid on which sources are given, mm of the head, and its affine."""
    axes = [np.arange(a, b, step_mm) for a, b in zip(LOW, HIGH, strict=True)]
    affine = np.diag([step_mm, step_mm, step_mm, 1.0])
    affine[:3, 3] = LOW
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), affine


def ball(points: np.ndarray, centre: Sequence[float], radius_mm: float, edge_mm: float = 2.0) -> np.ndarray:
    """1 inside a ball, 0 outside, with a soft edge."""
    distance = np.sqrt(((points - np.asarray(centre)) ** 2).sum(axis=-1))
    return 0.5 * (1.0 - np.tanh((distance - radius_mm) / edge_mm))


def grow(source: np.ndarray, affine: np.ndarray) -> Growth:
    """Deformation of which the divergence is the source."""
    step = float(affine[0, 0])
    shape = tuple(fft.next_fast_len(n + 40) for n in source.shape)
    k = np.stack(np.meshgrid(*(2 * np.pi * fft.fftfreq(n, step) for n in shape), indexing="ij"))
    square = (k**2).sum(axis=0)
    square[0, 0, 0] = np.inf
    spectrum = fft.fftn(source, shape) / square
    cut = tuple(slice(n) for n in source.shape)
    u = np.stack([np.real(fft.ifftn(-1j * kc * spectrum))[cut] for kc in k], axis=-1).astype(np.float32)
    slopes = np.stack([np.stack(np.gradient(u[..., a], step), axis=-1) for a in range(3)], axis=-2)
    jacobian = np.linalg.det(np.eye(3) + slopes).astype(np.float32)
    grid = np.indices(source.shape)
    v = -u
    for _ in range(8):
        places = grid + np.moveaxis(v, -1, 0) / step
        v = -np.stack([ndimage.map_coordinates(u[..., a], places, order=1, mode="nearest") for a in range(3)], -1)
    return Growth(affine, u, v, jacobian)


def person(participant: str = "01", seed: int = 0, resolution_mm: float = 2.0) -> Head:
    """A head of the cohort."""
    return person_head(template_head(resolution_mm), seed, participant)


def pose(head: Head, rng: np.random.Generator, size: float = 1.0) -> np.ndarray:
    """A movement of 2 mm and 2 degrees (SD) about the middle of the head: head mm -> scanner mm."""
    shift, turn = 2.0 * size * rng.standard_normal(3), 2.0 * size * rng.standard_normal(3)
    return rigid_matrix(shift.tolist(), turn.tolist(), list(head.tissues.centre_mm))


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and affine of an image."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def head_grid(voxel_mm: float, turn_deg: Sequence[float] = (0, 0, 0), shift_mm: Sequence[float] = (0, 0, 0)) -> Grid:
    """A grid around the head, oblique if asked."""
    low, high = np.array([-100.0, -135.0, -80.0]), np.array([100.0, 100.0, 105.0])
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel_mm))
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = low
    return Grid(shape, rigid_matrix(list(shift_mm), list(turn_deg), [0, 0, 0]) @ affine)


def scan(
    head: Head,
    movement: np.ndarray,
    grid: Grid,
    *,
    growth: Growth | None = None,
    intensity: tuple[np.ndarray, np.ndarray] | None = None,
    noise: float = WHITE / 50,
    seed: int = 0,
    fine: int = 2,
    parameter: int = MTSAT,
) -> np.ndarray:
    """An MTsat map of the head in a position: NaN in air; voxels are means over ``fine`` points per axis.

    Intensity: relative change on the source grid (field, affine), which moves with the tissue.
    """
    rng = np.random.default_rng(seed)
    back = np.linalg.inv(movement) @ grid.affine
    out, total = (np.zeros(int(np.prod(grid.shape)), np.float32) for _ in range(2))
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    index = np.indices(grid.shape).reshape(3, -1).T.astype(np.float64)
    may = head.may_fill(index @ back[:3, :3].T + back[:3, 3])
    places = index[may]
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), axis=-1).reshape(-1, 3):
        points = (places + offset) @ back[:3, :3].T + back[:3, 3]
        if growth is not None:
            points = points + growth.at(growth.inverse, points)
        fractions, values = head.sample(points)
        present = fractions.sum(axis=1)
        value = values[:, parameter]
        if intensity is not None:
            field, affine = intensity
            value = value * (1 + Growth(affine, field, field, field).at(field, points))
        out[may] += value * present
        total[may] += present
    share = total / fine**3
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.where(share > 0.3, out / total, np.nan)
    image += noise * rng.standard_normal(image.shape)
    return image.reshape(grid.shape).astype(np.float32)
