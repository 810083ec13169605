"""Files of a simulated study: NIfTI images with the same bytes every time, tables and data dictionaries."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from voxcloud.testing.fields import Float64

GZIP = 31  # zlib window bits for a gzip wrapper; its header holds no time, so equal voxels give equal bytes
MNI_CODE = 4
SCANNER_CODE = 1


def write_nifti(
    path: Path,
    data: npt.NDArray[Any],
    affine: Float64,
    *,
    description: str = "",
    slope: float | None = None,
    in_mni: bool = True,
) -> None:
    """Write a 3D or 4D image; equal input gives equal bytes.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    data
        (x, y, z) or (x, y, z, volume). float32 and int16 are stored as they are, bool as uint8.
    affine
        Voxel to RAS+ mm; stored as sform and qform.
    description
        At most 79 characters.
    slope
        Store int16 = round(data / slope) instead of float32.
    in_mni
        Whether the world is MNI152 (code 4).
    """
    stored: npt.NDArray[Any] = data.astype(np.uint8) if data.dtype == np.bool_ else data
    if slope is not None:
        stored = np.round(np.nan_to_num(data) / slope).astype(np.int16)
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_zooms([*np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), *([1.0] * (stored.ndim - 3))])
    header.set_sform(affine, MNI_CODE if in_mni else SCANNER_CODE)
    header.set_qform(affine, MNI_CODE if in_mni else SCANNER_CODE)
    header.set_xyzt_units("mm")
    header["descrip"] = description.encode()[:79]
    header["scl_slope"], header["scl_inter"] = slope or 1.0, 0.0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    content = bytes(header.binaryblock) + bytes(4) + stored.tobytes(order="F")
    if path.name.endswith(".gz"):
        squeeze = zlib.compressobj(1, zlib.DEFLATED, GZIP)
        content = squeeze.compress(content) + squeeze.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a TSV as BIDS wants it: tabs, ``n/a`` for missing values, prefixes on labels."""
    out = table.copy()
    for column, prefix in (("participant_id", "sub-"), ("session_id", "ses-")):
        if column in out:
            out[column] = prefix + out[column].astype(str)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(out.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with indentation and a newline at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def describe_columns(entries: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """Return a BIDS data dictionary from (column, description, units)."""
    return {column: {"Description": text, **({"Units": units} if units else {})} for column, text, units in entries}
