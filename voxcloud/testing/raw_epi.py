"""Spin-echo EPI of the simulated head: what one volume looks like before there is noise in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from voxcloud.testing.fields import Float32, Float64, generator
from voxcloud.testing.raw_diffusion import DiffusionHead, Mixture, chunks
from voxcloud.testing.raw_fields import CoilFields, static_field_hz
from voxcloud.testing.raw_geometry import Grid
from voxcloud.testing.raw_sampling import push_along

PHASE_AXIS = 1
FINER = 2  # times the matrix in both directions of the plane, where k-space is cut
EDDY_TERMS = ("1", "x", "y", "z", "x^2", "y^2", "z^2", "x y", "x z", "y z")
"""Polynomial of an eddy field in Hz; x, y and z are the scanner's mm (RAS+, isocentre at 0)."""
EDDY_SD = (8.0, 0.12, 0.12, 0.12, *((6e-4,) * 6))
"""Per component of a gradient at b = 1000 s/mm2."""
EDDY_SCATTER = 0.03  # of these, from volume to volume
WEAKEST, STRONGEST = 0.1, 0.5  # what a dropped slice keeps


def finer_grid(grid: Grid, factor: int) -> Grid:
    """Return a grid with so many times the voxels in the plane; the first voxel of both has the same middle."""
    affine = grid.affine.copy()
    affine[:3, :2] /= factor
    return Grid((factor * grid.shape[0], factor * grid.shape[1], grid.shape[2]), affine)


def cut_k_space(image: Float32, partial_fourier: float) -> Float32:
    """Return the magnitude of an image of half the matrix in the plane, read from the middle of its k-space.

    Edges ring, as the signal between its samples is what the sinc makes of it; the mean of a slice is kept. With
    partial Fourier below 1 the first lines along phase encoding are not read and left at 0.

    Parameters
    ----------
    image
        (x, y, z), x and y divisible by 4.
    partial_fourier
        Part of the lines that is read.
    """
    rows, lines = image.shape[0] // FINER, image.shape[1] // FINER
    spectrum = fft.fft(image, axis=PHASE_AXIS)[:, _lowest(lines, image.shape[1])]
    missing = lines - round(partial_fourier * lines)
    spectrum[:, lines // 2 : lines // 2 + missing] = 0.0
    spectrum = fft.fft(spectrum, axis=0)[_lowest(rows, image.shape[0])]
    image = np.abs(fft.ifft2(spectrum, axes=(0, PHASE_AXIS), overwrite_x=True))
    return np.asarray(image / np.float32(FINER**2), dtype=np.float32)


def _lowest(count: int, total: int) -> npt.NDArray[np.int64]:
    """Return indices of frequencies -count/2 to count/2 - 1, in the order of the transform."""
    return np.concatenate([np.arange(count // 2), np.arange(total - count // 2, total)])


def eddy_matrix(seed: int, *names: str) -> Float64:
    """Draw what a session's gradients leave behind, (3, term): per component of the gradient at b = 1000 s/mm2."""
    return np.asarray(generator(seed, "eddy", *names).standard_normal((3, len(EDDY_TERMS))) * EDDY_SD)


def eddy_coefficients(matrix: Float64, bval: float, direction: Float64, rng: np.random.Generator) -> Float64:
    """Return the polynomial's coefficients (term,) of a volume: Hz, Hz/mm, Hz/mm2.

    ``sqrt(b / 1000) (g' matrix + scatter)``: with fixed timing the gradient's strength grows with the root of b.
    """
    strength = np.sqrt(bval / 1000.0)
    scatter = EDDY_SCATTER * rng.standard_normal(len(EDDY_TERMS)) * EDDY_SD
    return np.asarray(strength * (direction @ matrix + scatter))


def eddy_field_hz(coefficients: Float64, scanner_mm: Float64) -> Float64:
    """Return the polynomial's value in Hz at points (point, 3)."""
    x, y, z = scanner_mm.T
    c = coefficients
    linear = c[0] + c[1] * x + c[2] * y + c[3] * z
    return np.asarray(linear + x * (c[4] * x + c[7] * y + c[8] * z) + y * (c[5] * y + c[9] * z) + c[6] * z * z)


@dataclass(frozen=True)
class _Seen:
    """A head in one pose: voxels of the fine grid in which it is (flat indices), and what is there."""

    pose: Float64
    index: npt.NDArray[np.int64]
    mixture: Mixture
    static_hz: Float32


@dataclass
class EpiScanner:
    """Takes volumes of one head in one session.

    Attributes
    ----------
    head
        Who lies there.
    coils
        Its receive field stays where it is.
    grid
        Of the images.
    readout_s
        BIDS ``TotalReadoutTime``.
    partial_fourier
        Part of the lines that is read.
    gibbs
        Whether k-space is cut; otherwise the head is seen at the middles of voxels.
    field_scale
        Factor on the static field.
    """

    head: DiffusionHead
    coils: CoilFields
    grid: Grid
    readout_s: float
    partial_fourier: float
    gibbs: bool
    field_scale: float
    _fine: Grid = field(init=False)
    _receive: Float32 = field(init=False)
    _last: _Seen | None = field(init=False, default=None)
    _first: tuple[Float64, npt.NDArray[np.bool_]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._fine = finer_grid(self.grid, FINER if self.gibbs else 1)
        everywhere = np.arange(int(np.prod(self._fine.shape)))
        parts = [self.coils.receive(_world_mm(part, self._fine)) for part in np.array_split(everywhere, 16)]
        self._receive = np.concatenate(parts)

    def volume(self, pose: Float64, bval: float, direction: Float64, eddy: Float64, sign: int) -> Float32:
        """Return one volume (x, y, z) without noise; signal is that of ``DiffusionHead`` times the receive field.

        Parameters
        ----------
        pose
            Head mm to scanner mm, (4, 4), rigid.
        bval, direction
            s/mm2 and unit vector (3,) of the scanner's frame.
        eddy
            (term,) coefficients, see ``EDDY_TERMS``.
        sign
            1 or -1: which way phase is encoded.
        """
        seen = self._see(pose)
        signal = self.head.signal(seen.mixture, bval, pose[:3, :3].T @ direction) * self._receive[seen.index]
        image = self._scattered(seen, signal)
        shift = np.float32(self.field_scale) * seen.static_hz
        if eddy.any():
            for part in chunks(len(shift)):
                shift[part] += eddy_field_hz(eddy, _world_mm(seen.index[part], self._fine)).astype(np.float32)
        if shift.any():
            voxels = sign * self.readout_s * self._fine.shape[PHASE_AXIS] / self.grid.shape[PHASE_AXIS]
            moved = self._scattered(seen, np.float32(voxels) * shift)
            image = push_along(image, moved, PHASE_AXIS).astype(np.float32)
        return cut_k_space(image, self.partial_fourier) if self.gibbs else image

    def _scattered(self, seen: _Seen, values: Float32) -> Float32:
        out = np.zeros(self._fine.shape, dtype=np.float32)
        out.reshape(-1)[seen.index] = values
        return out

    def _see(self, pose: Float64) -> _Seen:
        if self._last is not None and np.array_equal(self._last.pose, pose):
            return self._last
        back = np.linalg.inv(pose)
        candidates, parts = self._candidates(pose), []
        for part in chunks(len(candidates)):
            head_mm = _world_mm(candidates[part], self._fine) @ back[:3, :3].T + back[:3, 3]
            found = self.head.mixture(head_mm)
            keep = np.flatnonzero(found.s0 > 0)
            tissue = (found.template_mm[keep], found.fractions[keep], found.s0[keep])
            parts.append((candidates[part][keep], *tissue, static_field_hz(head_mm[keep])))
        index, template_mm, fractions, s0, static_hz = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._last = _Seen(pose, index, Mixture(template_mm, fractions, s0), static_hz)
        return self._last

    def _candidates(self, pose: Float64) -> npt.NDArray[np.int64]:
        """Return fine voxels in which the head may be: those around where it was when it was first seen."""
        if self._first is None:
            self._first = (pose, self._coarsely(np.asarray(np.linalg.inv(pose), dtype=np.float64)))
        since = pose @ np.linalg.inv(self._first[0])
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.grid.shape) - 1)
        world = corners @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
        furthest = np.abs(world @ (since[:3, :3] - np.eye(3)).T + since[:3, 3]).max()
        reach = 1 + int(np.ceil(np.sqrt(3.0) * furthest / np.linalg.norm(self.grid.affine[:3, 0])))
        near = ndimage.maximum_filter(self._first[1], size=2 * reach + 1)
        times = self._fine.shape[0] // self.grid.shape[0]
        return np.flatnonzero(near.repeat(times, axis=0).repeat(times, axis=1))

    def _coarsely(self, back: Float64) -> npt.NDArray[np.bool_]:
        """Return the voxels in whose middle the head gives signal, (x, y, z); ``back`` is scanner mm to head mm."""
        index = np.arange(int(np.prod(self.grid.shape)))
        filled = np.empty(len(index), dtype=bool)
        for part in chunks(len(index)):
            head_mm = _world_mm(index[part], self.grid) @ back[:3, :3].T + back[:3, 3]
            filled[part] = self.head.head.may_fill(head_mm)
            filled[part][filled[part]] = self.head.mixture(head_mm[filled[part]]).s0 > 0
        return filled.reshape(self.grid.shape)


def _world_mm(index: npt.NDArray[np.int64], grid: Grid) -> Float64:
    ijk = np.stack(np.unravel_index(index, grid.shape), axis=1)
    return np.asarray(ijk @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def drop_slices(
    image: Float32, probability: float, multiband: int, rng: np.random.Generator
) -> tuple[tuple[int, float], ...]:
    """Weaken slices in place, all that one excitation makes at once; return them with what they keep.

    Parameters
    ----------
    image
        (x, y, z), z divisible by ``multiband``.
    """
    excitations = image.shape[2] // multiband
    lost, kept = rng.random(excitations) < probability, rng.uniform(WEAKEST, STRONGEST, excitations)
    found = [
        (int(first + k * excitations), float(kept[first])) for first in np.flatnonzero(lost) for k in range(multiband)
    ]
    for at, part in found:
        image[:, :, at] *= np.float32(part)
    return tuple(sorted(found))
