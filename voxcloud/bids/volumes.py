"""Whole images in and out: a volume with its affine, and the bytes of a map with its sidecar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from voxcloud.bids.nifti import open_nifti, read_volume
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
    ceiling
        Largest value that the file's data type can hold; None for floats.
    """

    values: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    path: str
    ceiling: float | None

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
    ceiling = None
    if stored.dtype.kind in "iu":
        ceiling = float(np.iinfo(stored.dtype).max) * nifti.slope + nifti.intercept
    if nifti.scaled or stored.dtype.kind == "f":
        values = stored.astype(np.float32)
        if nifti.scaled:
            values *= np.float32(nifti.slope)
            values += np.float32(nifti.intercept)
    else:
        values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return Volume(values.reshape(nifti.shape, order="F"), nifti.affine, str(path), ceiling)


def volume_bytes(values: npt.NDArray[Any], affine: npt.NDArray[np.float64], description: str) -> bytes:
    """Return a 3-D float32 image in scanner space as ``.nii.gz`` bytes; equal numbers give equal bytes."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(values.shape)
    header.set_zooms(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
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
    start = squeeze.compress(bytes(header.binaryblock) + bytes(4))
    voxels = squeeze.compress(values.astype("<f4", copy=False).reshape(-1, order="F").data.cast("B"))
    return bytes(start + voxels + squeeze.flush())


def sidecar_bytes(tree: Mapping[str, Any]) -> bytes:
    """Return a sidecar's JSON."""
    return f"{json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False)}\n".encode()
