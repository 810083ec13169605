"""A simulated brain that moves and is distorted by known fields while diffusion images are taken.

The brain is an ellipsoid with a folded cortical ribbon, fluid around it and in two ventricles, grey nuclei, and white
matter whose fibres turn smoothly. Everything is a function of the place in mm, so that it can be seen from anywhere; a
voxel is the mean of eight points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.dwi.motion import VolumeAcquisition
from voxcloud.space.affine import rigid_matrix

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RADII_MM = np.array([62.0, 78.0, 54.0])
UNIT_MM = 70.0
READOUT_S = 0.05


@dataclass(frozen=True, eq=False)
class MovingBrain:
    """Images, how they were taken, and the truth.

    Attributes
    ----------
    data : (x, y, z, v) float32.
    affine : (4, 4).
    b, g : (v,) s/mm2 and (3, v) unit vectors in RAS+, as the scanner played them.
    acquisitions : of each volume.
    mask : (x, y, z) brain in the reference, a little generous; brain : without what is generous.
    movement : (v, 4, 4), reference to scanner.
    eddy : (v, 9), Hz at 70 mm from the origin of world coordinates.
    offset : (v,), Hz everywhere.
    field_hz : (x, y, z) static field in the reference.
    dropped : (v, slices).
    clean : (x, y, z, v) what a head that lies still would give, without noise, with ``turned`` vectors.
    turned : (3, v), vectors in the frame of the head.
    """

    data: Float32
    affine: Float64
    b: Float64
    g: Float64
    acquisitions: tuple[VolumeAcquisition, ...]
    mask: npt.NDArray[np.bool_]
    brain: npt.NDArray[np.bool_]
    movement: Float64
    eddy: Float64
    offset: Float64
    field_hz: Float32
    dropped: npt.NDArray[np.bool_]
    clean: Float32
    turned: Float64


def spread(n: int, seed: int) -> Float64:
    """Return (3, n) unit vectors that repel each other and their opposites, of random sign."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(n, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    for step in range(300):
        force = np.zeros_like(g)
        for sign in (-1.0, 1.0):
            apart = g[:, None] + sign * g[None]
            distance = np.linalg.norm(apart, axis=2) + 1e6 * np.eye(n)
            force += (apart / distance[..., None] ** 3).sum(axis=1)
        g += force / np.linalg.norm(force, axis=1).max() * 0.1 * (1 - step / 300)
        g /= np.linalg.norm(g, axis=1, keepdims=True)
    return np.asarray((g * rng.choice([-1.0, 1.0], (n, 1))).T)


def protocol(shells: dict[float, int], b0s: int, seed: int) -> tuple[Float64, Float64]:
    """Return b-values and vectors of interleaved shells with b = 0 spread among them."""
    rng = np.random.default_rng(seed)
    b = np.concatenate([np.full(n, value) for value, n in shells.items()])
    g = np.concatenate([spread(n, seed + k) for k, n in enumerate(shells.values())], axis=1)
    order = rng.permutation(b.size)
    total = b.size + b0s
    unweighted = np.arange(b0s) * total // b0s
    weighted = np.setdiff1d(np.arange(total), unweighted)
    all_b, all_g = np.zeros(total), np.zeros((3, total))
    all_b[weighted], all_g[:, weighted] = b[order], g[:, order]
    return all_b, all_g


def _step(values: Float64, width: float) -> Float64:
    return 0.5 * (1.0 + np.tanh(values / width))


def tissues(mm: Float64) -> tuple[Float64, Float64, Float64]:
    """Return fractions of white matter, grey matter and fluid, each (n,), at (3, n) in mm."""
    x, y, z = mm
    rho = np.sqrt(((mm / RADII_MM[:, None]) ** 2).sum(axis=0))
    depth = (1.0 - rho) * 62.0
    folds = (
        np.sin(x / 4.1 + 0.6 * np.sin(y / 9.0)) + np.sin(y / 4.6 + 0.7 * np.sin(z / 8.0)) + np.sin(z / 4.3 + x / 15.0)
    )
    outer = depth - 3.0 + 2.2 * folds
    inner = depth - 8.0 + 3.4 * folds
    inside, white = _step(depth, 0.8), _step(inner, 0.8)
    brain = _step(outer, 0.8) * inside
    ventricle = np.zeros_like(x)
    for side in (-1.0, 1.0):
        r = np.sqrt(((x - side * 12.0 - side * 0.1 * y) / 6.0) ** 2 + ((y + 2.0) / 30.0) ** 2 + ((z - 8.0) / 9.0) ** 2)
        ventricle = np.maximum(ventricle, _step((1.0 - r) * 6.0, 0.8))
    nuclei = np.zeros_like(x)
    for side in (-1.0, 1.0):
        r = np.sqrt(((x - side * 22.0) / 8.0) ** 2 + ((y - 4.0) / 17.0) ** 2 + ((z + 2.0) / 9.0) ** 2)
        nuclei = np.maximum(nuclei, _step((1.0 - r) * 8.0, 0.8))
    white = white * brain * (1.0 - nuclei)
    grey = brain - white
    fluid = inside * (1.0 - brain)
    return white * (1 - ventricle), grey * (1 - ventricle), fluid * (1 - ventricle) + ventricle


def fibres(mm: Float64) -> tuple[Float64, Float64]:
    """Return principal directions (3, n) and FA-like anisotropy (n,) of white matter."""
    x, y, z = mm
    v = np.stack(
        [
            np.cos(x / 40.0) + 0.4 * np.sin(z / 21.0),
            np.sin(y / 33.0 + x / 50.0),
            0.7 * np.sin(x / 28.0) + 0.6 * np.cos(y / 45.0) * np.sin(z / 30.0 + 0.5),
        ]
    )
    v /= np.linalg.norm(v, axis=0)
    return v, 0.65 + 0.35 * np.sin(x / 17.0 + z / 23.0) * np.cos(y / 19.0)


class Tissue:
    """What signal is made of at some points."""

    def __init__(self, mm: Float64) -> None:
        self.white, self.grey, self.fluid = tissues(mm)
        self.v, part = fibres(mm)
        self.axial = 0.75e-3 + 0.9e-3 * part
        self.radial = 0.75e-3 - 0.45e-3 * part

    def signal(self, b: float, direction: Float64) -> Float64:
        """Return signal with b along a direction of the head's frame: unrestricted tissue in each compartment."""
        across = (direction @ self.v) ** 2
        white = 0.7 * np.exp(-b * (self.radial + (self.axial - self.radial) * across))
        # Part of white matter is slow: signal at high b falls less than a tensor says.
        slow = 0.3 * np.exp(-b * (0.2e-3 + 0.9e-3 * across))
        return np.asarray(
            700.0 * self.white * (white + slow)
            + 900.0 * self.grey * np.exp(-b * 0.8e-3)
            + 1900.0 * self.fluid * np.exp(-b * 3e-3)
        )


def static_field(mm: Float64) -> Float64:
    """Return a field in Hz at (3, n) mm: two bumps, as of sinuses and ears, and a slope."""
    x, y, z = mm
    front = 55.0 * np.exp(-(x**2 + (y - 60.0) ** 2 + (z + 45.0) ** 2) / (2 * 22.0**2))
    side = -30.0 * np.exp(-((np.abs(x) - 55.0) ** 2 + (y + 10.0) ** 2 + (z + 35.0) ** 2) / (2 * 18.0**2))
    return np.asarray(front + side + 0.05 * y)


def eddy_field(c: Float64, offset: float, mm: Float64) -> Float64:
    """Return the field of eddy currents in Hz at (3, n) mm of the scanner."""
    x, y, z = mm / UNIT_MM
    terms = np.stack([x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])
    return np.asarray(offset + np.tensordot(c, terms, axes=1))


def sources(
    brain_affine: Float64,
    seen: Float64,
    movement: Float64,
    c: Float64,
    offset: float,
    axis: int,
    scale: float,
    *,
    static: bool,
) -> tuple[Float64, Float64]:
    """Return where (3, n) voxels' signal comes from in the head's mm, and the Jacobian, by Newton with differences."""
    u = seen.astype(np.float64).copy()
    back = np.linalg.inv(movement)

    def shift(at: Float64) -> Float64:
        mm = brain_affine[:3, :3] @ at + brain_affine[:3, 3:]
        hertz = eddy_field(c, offset, mm)
        if static:
            hertz = hertz + static_field(back[:3, :3] @ mm + back[:3, 3:])
        return scale * hertz

    unit = np.zeros((3, 1))
    unit[axis] = 1e-3
    for _ in range(4):
        slope = (shift(u + unit) - shift(u - unit)) / 2e-3
        u[axis] -= (u[axis] + shift(u) - seen[axis]) / (1.0 + slope)
    slope = (shift(u + unit) - shift(u - unit)) / 2e-3
    mm = brain_affine[:3, :3] @ u + brain_affine[:3, 3:]
    return back[:3, :3] @ mm + back[:3, 3:], 1.0 + slope


def simulate(
    *,
    voxel_mm: float = 3.0,
    shells: dict[float, int] | None = None,
    b0s: int = 4,
    seed: int = 1,
    snr: float = 22.0,
    translation_mm: float = 1.2,
    rotation_deg: float = 1.2,
    linear_hz: float = 6.0,
    quadratic_hz: float = 3.0,
    scatter_hz: float = 0.3,
    dropped: int = 3,
    phase_encoding: tuple[str, ...] = ("j",),
    static: bool = False,
    drift: float = 0.01,
) -> MovingBrain:
    """Simulate a session; SNR is that of grey matter at b = 0, standard deviations are of normal draws per volume."""
    rng = np.random.default_rng(seed + 1000)
    b, g = protocol(shells or {1000.0: 30}, b0s, seed)
    n = b.size
    shape = tuple(int(2 * np.ceil((r + 9.0) / voxel_mm)) for r in RADII_MM)
    affine = np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    acquisitions = tuple(VolumeAcquisition(phase_encoding[v % len(phase_encoding)], READOUT_S) for v in range(n))
    movement = np.stack(
        [
            rigid_matrix(rng.normal(0, translation_mm, 3), rng.normal(0, rotation_deg, 3), (0.0, -20.0, -30.0))
            for _ in range(n)
        ]
    )
    first = int(np.flatnonzero(b < 50)[0])
    movement = movement @ np.linalg.inv(movement[first])
    weighting = b / 1000.0 * g / max(b.max() / 1000.0, 1.0) ** 0.5
    mixing = np.concatenate([rng.normal(0, linear_hz, (3, 3)), rng.normal(0, quadratic_hz, (6, 3))])
    eddy = (mixing @ weighting).T + np.where(b[:, None] > 50, rng.normal(0, scatter_hz, (n, 9)), 0.0)
    offset = weighting.T @ rng.normal(0, 2.0, 3)
    lost = np.zeros((n, shape[2]), bool)
    weighted = np.flatnonzero(b > 50)
    for v in rng.choice(weighted, dropped, replace=False):
        lost[v, int(rng.integers(shape[2] // 3, 2 * shape[2] // 3))] = True
    grid = np.stack(np.meshgrid(*(np.arange(m, dtype=np.float64) for m in shape), indexing="ij")).reshape(3, -1)
    turned = np.stack([movement[v, :3, :3].T @ g[:, v] for v in range(n)], axis=1)
    data, clean = np.zeros((*shape, n), np.float32), np.zeros((*shape, n), np.float32)
    corners = np.stack(np.meshgrid(*([-0.25, 0.25],) * 3, indexing="ij")).reshape(3, -1)
    sigma = 900.0 / snr
    still = [Tissue(affine[:3, :3] @ (grid + corner[:, None]) + affine[:3, 3:]) for corner in corners.T]
    for v in range(n):
        axis = "ijk".index(acquisitions[v].phase_encoding[0])
        scale = READOUT_S * (-1.0 if acquisitions[v].phase_encoding.endswith("-") else 1.0)
        total = np.zeros(grid.shape[1])
        for corner in corners.T:
            mm, room = sources(
                affine, grid + corner[:, None], movement[v], eddy[v], offset[v], axis, scale, static=static
            )
            near = ((mm / RADII_MM[:, None]) ** 2).sum(axis=0) < 1.2
            total[near] += Tissue(mm[:, near]).signal(b[v], turned[:, v]) / room[near]
        clean[..., v] = (sum(t.signal(b[v], turned[:, v]) for t in still) / 8).reshape(shape)
        image = (total / 8 * (1.0 + drift * rng.standard_normal())).reshape(shape)
        image[:, :, lost[v]] *= 0.25
        noise = sigma * rng.standard_normal((2, *shape))
        data[..., v] = np.hypot(image + noise[0], noise[1])
    centre = affine[:3, :3] @ grid + affine[:3, 3:]
    rho = np.sqrt(((centre / RADII_MM[:, None]) ** 2).sum(axis=0)).reshape(shape)
    field = static_field(centre).reshape(shape) if static else np.zeros(shape)
    return MovingBrain(
        data,
        affine,
        b,
        g,
        acquisitions,
        rho < 1.06,
        rho < 1.0,
        movement,
        eddy,
        offset,
        field.astype(np.float32),
        lost,
        clean,
        turned,
    )


def true_displacement(brain: MovingBrain, volume: int) -> Float64:
    """Return by how many mm each reference voxel is seen elsewhere in a volume, (3, x, y, z), static field left out."""
    return _displacement(
        brain, volume, brain.movement[volume], brain.eddy[volume], float(brain.offset[volume]), np.zeros(3)
    )


def displacement(brain: MovingBrain, volume: int, movement: Float64, eddy: Float64, centre: Float64) -> Float64:
    """Return the same for an estimate; ``eddy`` has the constant first."""
    return _displacement(brain, volume, movement, eddy[1:], float(eddy[0]), centre)


def _displacement(
    brain: MovingBrain, volume: int, movement: Float64, eddy: Float64, offset: float, centre: Float64
) -> Float64:
    shape = brain.brain.shape
    grid = np.stack(np.meshgrid(*(np.arange(m, dtype=np.float64) for m in shape), indexing="ij")).reshape(3, -1)
    mm = brain.affine[:3, :3] @ grid + brain.affine[:3, 3:]
    q = movement[:3, :3] @ mm + movement[:3, 3:]
    full = np.zeros(9)
    full[: len(eddy)] = eddy
    acquired = brain.acquisitions[volume]
    axis = "ijk".index(acquired.phase_encoding[0])
    scale = READOUT_S * (-1.0 if acquired.phase_encoding.endswith("-") else 1.0)
    shift = scale * eddy_field(full, offset, q - centre[:, None])
    q = q + brain.affine[:3, axis][:, None] * shift
    return np.asarray((q - mm).reshape(3, *shape))


def errors_mm(brain: MovingBrain, movement: Float64, eddy: Float64, centre: Float64) -> tuple[Float64, Float64]:
    """Return mean displacement over the brain before correction, and the mean error of an estimate; (v,) each, mm."""
    before, after = [], []
    for v in range(brain.b.size):
        true = true_displacement(brain, v)
        found = displacement(brain, v, movement[v], eddy[v], centre)
        before.append(np.sqrt((true**2).sum(axis=0))[brain.brain].mean())
        after.append(np.sqrt(((true - found) ** 2).sum(axis=0))[brain.brain].mean())
    return np.array(before), np.array(after)
