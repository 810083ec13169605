"""Undo the distortion of EPI images by the static field, along the phase-encode axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space import lines

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
PhaseEncoding = Literal["i", "i-", "j", "j-", "k", "k-"]
Interpolation = Literal["cubic", "linear"]

LONGEST_READOUT_S = 1.0
# Of the number of voxels along phase encoding: nothing that is shifted further can be told from what wraps around.
LARGEST_SHIFT = 0.25


@dataclass(frozen=True)
class PhaseAxis:
    """Axis of the array along which phase is encoded, and the direction: 1, or -1 for a minus sign in BIDS."""

    axis: int
    sign: int


def phase_axis(phase_encoding: str, *, name: str = "EPI") -> PhaseAxis:
    """Read a BIDS ``PhaseEncodingDirection``.

    Raises
    ------
    ImageError
        If it is not one of i, i-, j, j-, k, k-.
    """
    if phase_encoding not in ("i", "i-", "j", "j-", "k", "k-"):
        raise ImageError(
            f"{name}: expected a PhaseEncodingDirection of i, i-, j, j-, k or k- (axis of the image's array), found "
            f"{phase_encoding!r}. AP, PA or y do not tell the axis; take it from the sidecar."
        )
    return PhaseAxis("ijk".index(phase_encoding[0]), -1 if phase_encoding.endswith("-") else 1)


def check_readout(readout_s: float, *, name: str = "EPI") -> None:
    """Refuse a readout time that cannot be in s.

    Raises
    ------
    ImageError
        If it is not above 0 and at most 1 s.
    """
    if not 0 < readout_s <= LONGEST_READOUT_S:
        raise ImageError(
            f"{name}: expected a total readout time in s, above 0 and at most {LONGEST_READOUT_S:g}, found "
            f"{readout_s:g}. {readout_s:g} where {readout_s / 1000:g} is meant? Divide milliseconds by 1000."
        )


def displacement(
    field_hz: npt.ArrayLike, readout_s: float, phase_encoding: PhaseEncoding, *, name: str = "EPI"
) -> Float64:
    """Return by how many voxels the static field moves signal along the phase-encode axis.

    ``d = s field_hz readout_s``, s = 1 for i, j, k and -1 for i-, j-, k-. A positive field moves signal towards higher
    indices for ``j`` and towards lower ones for ``j-``: what belongs at y is seen at y + d(y).

    BIDS defines TotalReadoutTime as (N - 1) times the effective echo spacing; the exact factor is N times it. With 72
    lines d is thus 1.4 % small, as in every tool that follows BIDS.

    Parameters
    ----------
    field_hz : (x, y, z) in Hz, finite.
    readout_s : total readout time in s.
    phase_encoding : BIDS ``PhaseEncodingDirection``.
    name : what messages call the image.

    Returns
    -------
    (x, y, z) in voxels.

    Raises
    ------
    ImageError
        If the field is not 3-D or not finite, the readout time not in s, the direction unknown, or the 99th percentile
        of the displacement above a quarter of the lines.

    References
    ----------
    1. Jezzard and Balaban (1995), doi:10.1002/mrm.1910340111.
    """
    check_readout(readout_s, name=name)
    phase = phase_axis(phase_encoding, name=name)
    field = np.asarray(field_hz, dtype=np.float64)
    if field.ndim != 3 or not np.isfinite(field).all():
        raise ImageError(
            f"{name}: expected a field in Hz with three dimensions and without NaN, found shape {field.shape} and "
            f"{int((~np.isfinite(field)).sum())} voxels that are not finite. Continue it outside its mask first."
        )
    moved = phase.sign * readout_s * field
    far, lines_ = float(np.percentile(np.abs(moved), 99)), field.shape[phase.axis]
    if far > LARGEST_SHIFT * lines_:
        raise ImageError(
            f"{name}: expected displacements of under {LARGEST_SHIFT * lines_:g} voxels (a quarter of {lines_}), found "
            f"{far:.3g} (99th percentile). Check the units of the field (Hz) and of the readout time ({readout_s:g} s)."
        )
    return moved


def unwarp_epi(
    images: npt.ArrayLike,
    field_hz: npt.ArrayLike,
    readout_s: float,
    phase_encoding: PhaseEncoding,
    *,
    interpolation: Interpolation = "cubic",
    modulate: bool = False,
    name: str = "EPI",
) -> Floats:
    """Bring EPI signal back to where it belongs.

    ``unwarped(y) = image(y + d(y)) (1 + d'(y))`` with ``displacement`` d in voxels; the factor, by which stretched
    signal is thinned out and compressed signal piles up, only with ``modulate``. It is off by default because a ratio
    (STE / SE, and the B1 map made of it) does not change when signal is stretched; it belongs to magnitudes that are
    compared with undistorted ones.

    Where d' < -1 signal from several places lies in one voxel; no resampling separates it, and ``modulate`` gives 0.

    Parameters
    ----------
    images : (x, y, z) or (x, y, z, volumes). NaN is unknown and stays with its neighbours.
    field_hz : (x, y, z) in Hz on the grid of the images (``resample_field``), finite, as the undistorted head has it.
    readout_s : total readout time of the images in s.
    phase_encoding : BIDS ``PhaseEncodingDirection`` of the images.
    interpolation : cubic B-spline or linear, along the phase-encode axis; other axes are not interpolated.
    modulate : multiply by the Jacobian determinant.
    name : what messages call the images.

    Returns
    -------
    array of the images' shape, float32 for images that float32 holds, else float64. What would have to come from beyond
    the first or last voxel has its value.

    Raises
    ------
    ImageError
        If shapes differ, and as ``displacement``.

    References
    ----------
    1. Jezzard and Balaban (1995), doi:10.1002/mrm.1910340111.
    """
    values, field = np.asarray(images), np.asarray(field_hz)
    if values.ndim not in (3, 4) or values.shape[:3] != field.shape:
        raise ImageError(
            f"{name}: expected images (x, y, z) or (x, y, z, volumes) on the grid of the field, {field.shape}, found "
            f"{values.shape}. Resample the field to the images with resample_field."
        )
    if interpolation not in ("cubic", "linear"):
        raise ImageError(f"{name}: expected interpolation cubic or linear, found {interpolation!r}.")
    axis = phase_axis(phase_encoding, name=name).axis
    moved = displacement(field, readout_s, phase_encoding, name=name)
    along = _lines(moved, axis)
    positions = along + np.arange(moved.shape[axis])
    factor = np.maximum(1.0 + _slope(along), 0.0) if modulate else None
    dtype = np.float32 if np.result_type(np.float32, values.dtype) == np.float32 else np.float64
    out = np.empty(values.shape, dtype)
    volumes = values[..., None] if values.ndim == 3 else values
    targets = out[..., None] if values.ndim == 3 else out
    for v in range(volumes.shape[3]):
        found = _read(_lines(volumes[..., v], axis), positions, interpolation)
        if factor is not None:
            found *= factor
        shape = np.moveaxis(targets[..., v], axis, 2).shape
        targets[..., v] = np.moveaxis(found.reshape(shape), 2, axis)
    return out


def resample_field(
    field: npt.ArrayLike,
    field_affine: npt.ArrayLike,
    target_shape: Sequence[int],
    target_affine: npt.ArrayLike,
) -> npt.NDArray[np.float32]:
    """Read a smooth field at the voxels of another grid, linearly; beyond its edge it keeps the value of the edge.

    Parameters
    ----------
    field : (x, y, z), any unit, finite.
    field_affine, target_affine : (4, 4) voxel to mm.
    target_shape : (3,) of the other grid.

    Returns
    -------
    float32 of the target shape.

    Raises
    ------
    ImageError
        If the field is not 3-D or an affine not an invertible (4, 4) matrix.
    """
    values = np.asarray(field, dtype=np.float64)
    to_mm, from_mm = np.asarray(target_affine, dtype=np.float64), np.asarray(field_affine, dtype=np.float64)
    good = all(a.shape == (4, 4) and abs(np.linalg.det(a[:3, :3])) > 1e-9 for a in (to_mm, from_mm))
    if values.ndim != 3 or len(target_shape) != 3 or not good:
        raise ImageError(
            f"field: expected three dimensions and invertible (4, 4) affines, found shape {values.shape} to "
            f"{tuple(target_shape)}, affines {from_mm.tolist()} and {to_mm.tolist()}. Check the headers."
        )
    matrix = np.linalg.inv(from_mm) @ to_mm
    found = ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=tuple(target_shape), order=1, mode="nearest"
    )
    return np.asarray(found, dtype=np.float32)


def _lines(values: npt.NDArray[Any], axis: int) -> Float64:
    """Return a copy (lines, n) with the axis last."""
    moved = np.moveaxis(values, axis, 2)
    return np.array(moved, dtype=np.float64, order="C").reshape(-1, moved.shape[2])


def _slope(along: Float64) -> Float64:
    return np.gradient(along, axis=1) if along.shape[1] > 1 else np.zeros_like(along)


def _read(values: Float64, positions: Float64, interpolation: Interpolation) -> Float64:
    out = np.empty_like(positions)
    unknown = np.isnan(values)
    gaps = bool(unknown.any())
    if gaps:
        lines.bridge_gaps(values)
    if interpolation == "cubic":
        lines.filter_lines(values)
        lines.read_cubic(values, positions, out)
    else:
        lines.read_linear(values, positions, out)
    if gaps:
        lines.mark_unknown(unknown, positions, out)
    return out
