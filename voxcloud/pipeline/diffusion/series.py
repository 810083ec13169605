"""The images of a session in one array, with the gradient table and how each volume was acquired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.volumes import load_volume
from voxcloud.dwi.gradients import GradientTable, bvecs_to_bids, bvecs_to_world
from voxcloud.dwi.motion import VolumeAcquisition
from voxcloud.errors import ImageError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
NAMED = 5
# Without a field map nothing rests on the readout time but the unit of the eddy currents' field.
NOMINAL_READOUT_S = 0.05


@dataclass(eq=False)
class DiffusionImages:
    """All volumes of a session, series after series; the array is replaced step by step.

    Attributes
    ----------
    data
        (x, y, z, volume) float32.
    affine
        (4, 4), voxel to RAS+ mm.
    table
        The joint gradient table; vectors in the frame of BIDS.
    acquisitions
        How each volume was encoded.
    parts
        Which volumes are of which series.
    """

    data: Float32
    affine: Float64
    table: GradientTable
    acquisitions: tuple[VolumeAcquisition, ...]
    parts: tuple[slice, ...]

    @property
    def voxel_mm(self) -> Float64:
        """Voxel sizes in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def world_vectors(self) -> Float64:
        """b-vectors in RAS+, (3, volume)."""
        return bvecs_to_world(self.table.bvecs, self.affine)

    def turn(self, world_vectors: Float64) -> None:
        """Take other b-vectors in RAS+ (3, volume): those of a head that moved."""
        self.table = replace(self.table, bvecs=bvecs_to_bids(world_vectors, self.affine))

    def mean_b0(self, volumes: npt.ArrayLike | None = None) -> Float32:
        """Return the mean of volumes without weighting, of all or of those among ``volumes`` (boolean)."""
        chosen = self.table.b0 if volumes is None else self.table.b0 & np.asarray(volumes)
        found: Float32 = self.data[..., chosen].mean(axis=3, dtype=np.float64).astype(np.float32)
        return found


def load_series(session: DwiSession, table: GradientTable) -> DiffusionImages:
    """Read every volume of a session.

    Raises
    ------
    ImageError
        If an image cannot be read, or holds values that are not finite.
    """
    total = sum(series.n_volumes for series in session.series)
    data: Float32 | None = None
    parts: list[slice] = []
    acquisitions: list[VolumeAcquisition] = []
    affine = np.eye(4)
    start = 0
    for series in session.series:
        for k in range(series.n_volumes):
            volume = load_volume(series.path, k)
            if data is None:
                # Volumes lie one after the other while they are read, which is how they come.
                data, affine = np.empty((total, *volume.values.shape), np.float32), volume.affine
            data[start + k] = volume.values
            _refuse_unknown(session.who, series.path, k, data[start + k], series.slice_axis)
        acquired = VolumeAcquisition(series.phase_encoding, series.readout_s or NOMINAL_READOUT_S)
        parts.append(slice(start, start + series.n_volumes))
        acquisitions += [acquired] * series.n_volumes
        start += series.n_volumes
    assert data is not None
    joined = np.ascontiguousarray(np.moveaxis(data, 0, 3))
    return DiffusionImages(joined, affine, table, tuple(acquisitions), tuple(parts))


def _refuse_unknown(who: str, path: str, k: int, volume: Float32, slice_axis: int) -> None:
    bad = ~np.isfinite(volume)
    if not bad.any():
        return
    slices = np.flatnonzero(bad.any(axis=tuple(a for a in range(3) if a != slice_axis)))
    named = ", ".join(str(int(i)) for i in slices[:NAMED]) + (" and more" if slices.size > NAMED else "")
    raise ImageError(
        f"{who}, {Path(path).name}: expected finite values, found {int(bad.sum()):,} NaN or infinite ones in volume "
        f"{k}, slices {named} (both from 0): they would spread in denoising. Convert the scanner's files again; a lost "
        "slice belongs in the images as zeros, which are found and replaced."
    )
