"""Statistical maps as NIfTI that SPM, FSL, nilearn and niivue open with the right left and right."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from voxcloud.bids.images import MaskGrid
from voxcloud.errors import ImageError, nearest

INTENTS = {
    "t": "t test",
    "F": "f test",
    "z": "z score",
    "p": "p value",
    "effect": "estimate",
    "variance": "estimate",
    "r": "correlation",
    "rLower": "estimate",
    "rUpper": "estimate",
    "n": "estimate",
    "resels": "estimate",
}
"""Statistics that are written, and the NIfTI intent of each."""

SMALLEST_P = float(np.finfo(np.float32).tiny)
"""p values below this (1.2e-38) are stored as this: -log10 p stays finite."""

_GZIP = 31  # zlib window bits for a gzip wrapper; zlib writes neither time nor file name into it
_DESCRIPTION_BYTES = 79


class Statmap(NamedTuple):
    """The bytes of a statistical map and of its sidecar."""

    image: bytes
    sidecar: bytes


def vector_to_volume(vector: npt.ArrayLike, grid: MaskGrid, outside: float = 0.0) -> npt.NDArray[np.float32]:
    """Return the values of the mask's voxels, shape (voxels,), as a volume of the grid's shape.

    Voxels outside the mask become ``outside``.
    """
    values = np.asarray(vector)
    assert values.shape == grid.voxel_index.shape
    volume = np.full(int(np.prod(grid.shape)), outside, dtype=np.float32)
    volume[grid.voxel_index] = values
    return volume.reshape(grid.shape)


def write_statmap(
    vector: npt.ArrayLike,
    grid: MaskGrid,
    *,
    stat: str,
    df: float | tuple[float, float] | None = None,
    description: str = "",
    sidecar: Mapping[str, Any] | None = None,
) -> Statmap:
    """Return a statistical map as ``.nii.gz`` bytes with its JSON sidecar; equal numbers give equal bytes.

    The volume is stored in the mask's own voxel order with sform = qform and the mask's space code, so that no program
    has to choose between the two and left stays left in all of them (a sheared affine, which a qform cannot hold, is
    written as sform alone).

    Where there is no test (outside the mask, and NaN in ``vector``) the map holds 0, and p maps hold 1: SPM and
    nilearn read 0 and NaN as "nothing here", but FSL's tools carry NaN into their sums and WebGL viewers differ in how
    they draw it. No threshold on t, F, z or p lets such a voxel through. The sidecar repeats the value.

    Parameters
    ----------
    vector
        (voxels,), in the order of ``grid.voxel_index``; NaN where nothing was tested.
    grid
        The mask's grid.
    stat
        t, F, z, p, effect, variance, r, rLower, rUpper, n (images with a value) or resels (per voxel).
    df
        Degrees of freedom: error df of t and r; (numerator, error) of F.
    description
        What the map shows; up to 79 bytes of it go into the header, behind ``SPM{T_[df]}`` or
        ``SPM{F_[df1,df2]}`` for t and F maps, where SPM and its add-ons look for the degrees of freedom.
    sidecar
        Entries of the JSON file.

    Raises
    ------
    ImageError
        If the statistic is not known.

    References
    ----------
    NIfTI-1 data format, intent codes: https://nifti.nimh.nih.gov/nifti-1
    """
    if stat not in INTENTS:
        raise ImageError(f"stat '{stat}' is not known.{nearest(stat, INTENTS)} Expected one of: {', '.join(INTENTS)}.")
    values = np.asarray(vector, dtype=np.float64)
    tested = np.isfinite(values)
    outside = 1.0 if stat == "p" else 0.0
    if stat == "p":
        values = np.where(tested, np.maximum(values, SMALLEST_P), outside)
    volume = vector_to_volume(np.where(tested, values, outside), grid, outside)
    header = _header(grid, stat, df, description)
    content = bytes(header.binaryblock) + bytes(4) + volume.astype("<f4").tobytes(order="F")
    squeeze = zlib.compressobj(4, zlib.DEFLATED, _GZIP)
    tree: dict[str, Any] = {
        "Statistic": stat,
        "Description": description,
        "DegreesOfFreedom": list(df) if isinstance(df, tuple) else df,
        "OutsideAnalysisMask": outside,
        "AnalysedVoxels": int(np.count_nonzero(tested)),
        **(sidecar or {}),
    }
    text = json.dumps(tree, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return Statmap(squeeze.compress(content) + squeeze.flush(), f"{text}\n".encode())


def save_statmap(path: str | Path, vector: npt.ArrayLike, grid: MaskGrid, **options: Any) -> Path:
    """Write a map and its sidecar to a folder; ``path`` ends in ``.nii.gz``, options as for ``write_statmap``.

    Raises
    ------
    ImageError
        If the path does not end in ``.nii.gz``.
    """
    place = Path(path)
    if not place.name.endswith(".nii.gz"):
        raise ImageError(f"{path}: expected a name that ends in .nii.gz, found {place.name}. Add the extension.")
    made = write_statmap(vector, grid, **options)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(made.image)
    place.with_name(place.name.removesuffix(".nii.gz") + ".json").write_bytes(made.sidecar)
    return place


def _header(grid: MaskGrid, stat: str, df: float | tuple[float, float] | None, description: str) -> Any:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(grid.shape)
    header.set_zooms(grid.zooms)
    code = max(1, grid.space_code)
    header.set_sform(grid.affine, code)
    try:
        header.set_qform(grid.affine, code, strip_shears=False)
    except nib.spatialimages.HeaderDataError:
        header.set_qform(None, 0)
    header.set_xyzt_units("mm")
    parameters = tuple(float(d) for d in (df if isinstance(df, tuple) else () if df is None else (df,)))
    prefix = ""
    if stat == "F" and len(parameters) == 2:
        header.set_intent("f test", parameters, name=stat)
        prefix = f"SPM{{F_[{parameters[0]:.1f},{parameters[1]:.1f}]}} - "
    elif stat in ("t", "r") and len(parameters) == 1:
        header.set_intent(INTENTS[stat], parameters, name=stat)
        prefix = f"SPM{{T_[{parameters[0]:.1f}]}} - " if stat == "t" else ""
    elif stat in ("t", "r", "F"):
        header.set_intent("none", name=stat)  # NIfTI defines these intents by their degrees of freedom only
    else:
        header.set_intent(INTENTS[stat], (), name=stat)
    header["descrip"] = (prefix + description).encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header
