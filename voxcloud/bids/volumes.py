"""Whole images in and out: a volume with its affine, and the bytes of a map with its sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from voxcloud.bids.nifti import SAME_PLACE_MM, corner_distance, open_nifti, read_volume
from voxcloud.errors import ImageError

GZIP = 31  # window bits for a gzip wrapper; it holds no time, so equal voxels give equal bytes
LEVEL = 2
SCANNER_CODE = 1


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image.

    Attributes
    ----------
    values
        (x, y, z) in the file's order (x fastest in memory): stored integers where the file has no scaling, else
        float32.
    affine
        (4, 4), voxel to RAS+ mm.
    path
        Where it came from.
    """

    values: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    path: str

    @property
    def voxel_mm(self) -> npt.NDArray[np.float64]:
        """Voxel sizes."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))


def load_volume(path: str | Path, volume: int | None = None) -> Volume:
    """Read a 3-D image, or one volume of a series.

    Raises
    ------
    ImageError
        If it cannot be read, or holds several volumes and none of them is named.
    """
    nifti = open_nifti(path)
    if (volume is None and nifti.n_volumes != 1) or (volume or 0) >= nifti.n_volumes:
        wanted = "one volume" if volume is None else f"at least {volume + 1} volumes"
        raise ImageError(f"{path}: expected {wanted}, found {nifti.n_volumes}. Check the file.")
    stored = read_volume(nifti, volume or 0)
    if nifti.scaled or stored.dtype.kind == "f":
        values = stored.astype(np.float32)
        if nifti.scaled:
            values *= np.float32(nifti.slope)
            values += np.float32(nifti.intercept)
    else:
        values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return Volume(values.reshape(nifti.shape, order="F"), nifti.affine, str(path))


def load_alike(images: Iterable[tuple[str, int | None]]) -> list[Volume]:
    """Read images that belong together: (path, volume or None) of each.

    Raises
    ------
    ImageError
        If one cannot be read, or they are not of one size in one place.
    """
    volumes = [load_volume(path, volume) for path, volume in images]
    first = volumes[0]
    for volume in volumes[1:]:
        same = volume.values.shape == first.values.shape
        apart = corner_distance(first.affine, volume.affine, first.values.shape) if same else 0.0
        if not same or apart > SAME_PLACE_MM:
            raise ImageError(
                f"expected images of one size in one place, found {first.values.shape} ({first.path}) and "
                f"{volume.values.shape}, corners {apart:.3g} mm apart ({volume.path}). Convert them again."
            )
    return volumes


def volume_bytes(values: npt.NDArray[Any], affine: npt.NDArray[np.float64], description: str) -> bytes:
    """Return a float32 image (x, y, z) or (x, y, z, volume) in scanner space as ``.nii.gz`` bytes.

    Equal numbers give equal bytes, NaN too: which of the many NaN a computation gives depends on the order of operands
    that a compiler chose, so that code from its cache may give another than code just compiled.
    """
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(values.shape)
    header.set_zooms([*np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), *[1.0] * (values.ndim - 3)])
    header.set_sform(affine, SCANNER_CODE)
    try:
        header.set_qform(affine, SCANNER_CODE, strip_shears=False)
    except nib.spatialimages.HeaderDataError:
        header.set_qform(None, 0)  # sheared: only an sform can hold it
    header.set_xyzt_units("mm")
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    squeeze = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP)
    parts = [squeeze.compress(bytes(header.binaryblock) + bytes(4))]
    for volume in np.moveaxis(values.reshape(*values.shape[:3], -1), 3, 0):
        stored = volume.reshape(-1, order="F").astype("<f4")
        stored[np.isnan(stored)] = np.nan
        parts.append(squeeze.compress(stored.data.cast("B")))
    return b"".join([*parts, squeeze.flush()])


def sidecar_bytes(tree: Mapping[str, Any]) -> bytes:
    """Return a sidecar's JSON."""
    return f"{json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False)}\n".encode()
