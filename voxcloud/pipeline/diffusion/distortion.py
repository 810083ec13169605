"""The static field on the grid of a session's diffusion images, for the head as it lay in the first of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.volumes import Volume, load_volume
from voxcloud.errors import ImageError
from voxcloud.pipeline.diffusion.series import DiffusionImages
from voxcloud.pipeline.mapping.b0 import to_hertz
from voxcloud.pipeline.mapping.moves import find_move
from voxcloud.space.epi_pair_moved import MovedPair, field_from_moved_pair
from voxcloud.space.unwarp import PhaseEncoding, resample_field, unwarp_epi

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
# T; only the range in which a measured field is plausible depends on it.
USUAL_FIELD_T = 3.0


@dataclass(frozen=True, eq=False)
class StaticField:
    """The field and how it was found.

    Attributes
    ----------
    hz
        (x, y, z) in Hz on the grid of the diffusion images.
    record
        Plain values (JSON).
    warnings
        Sentences.
    cpu_s
        CPU seconds of registrations in processes of their own.
    """

    hz: Float32
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    cpu_s: float = 0.0


def static_field(images: DiffusionImages, session: DwiSession, head: npt.NDArray[np.bool_]) -> StaticField | None:
    """Find the field from whatever a session has of it; None where it has nothing.

    Raises
    ------
    ImageError
        If images cannot be read, do not fit each other, or no field makes them alike.
    """
    b0 = session.b0
    if b0 is None:
        return None
    if b0.method != "epi":
        return _from_map(images, session, head)
    own = {series.path: part for series, part in zip(session.series, images.parts, strict=True)}
    readout, axis = float(b0.parameters["readout_s"]), str(b0.parameters["phase_encoding"])[0]
    halves = {role: _half(images, own, b0.images[role], _volumes(b0.parameters, role)) for role in b0.images}
    first = session.series[0].phase_encoding
    # The field is that of the head as it lay in the half which is the first series, or was acquired like it.
    role = next((r for r in halves if b0.images[r] == session.series[0].path), None)
    inside = role is not None
    role = role or ("negative" if first.endswith("-") else "positive")
    other = "positive" if role == "negative" else "negative"
    direction = axis + ("-" if role == "negative" else "")
    reference, against = halves[role], halves[other]
    if reference.values.shape != against.values.shape:
        raise ImageError(
            f"{session.who}: expected images of opposite phase encoding on one grid, found {reference.values.shape} "
            f"({reference.path}) and {against.values.shape} ({against.path}). Convert them again, or link another pair."
        )
    pair = _estimate(reference, against, direction, readout, session.who)  # type: ignore[arg-type]
    told = (f"{session.who}, field from images of opposite phase encoding: {pair.doubt}",) if pair.doubt else ()
    record = {"method": "epi", "readout_s": readout, "phase_encoding": direction, **pair.report}
    if inside:
        return StaticField(pair.field_hz, record, told)
    return _brought(images, session, head, pair.field_hz, pair.corrected, reference.affine, record, told)


def _volumes(parameters: Mapping[str, Any], role: str) -> Sequence[int]:
    found: Sequence[int] = parameters.get("volumes", {}).get(role, ())
    return found


def _half(images: DiffusionImages, own: dict[str, slice], path: str, volumes: Sequence[int]) -> Volume:
    """Return the mean of one half's volumes without weighting; those of the session's own series as cleaned."""
    if path in own:
        start = own[path].start
        chosen = np.zeros(images.table.b0.size, bool)
        chosen[[start + k for k in volumes] if volumes else own[path]] = True
        return Volume(images.mean_b0(chosen), images.affine, path)
    loaded = [load_volume(path, k) for k in volumes or (0,)]
    mean = np.mean([volume.values for volume in loaded], axis=0, dtype=np.float64)
    return Volume(np.asarray(mean, np.float32), loaded[0].affine, path)


def _estimate(reference: Volume, against: Volume, direction: PhaseEncoding, readout: float, who: str) -> MovedPair:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it doubts is told with the session
        return field_from_moved_pair(
            reference.values, against.values, reference.affine, direction, readout, name=f"{who}, EPI pair"
        )


def _from_map(images: DiffusionImages, session: DwiSession, head: npt.NDArray[np.bool_]) -> StaticField:
    assert session.b0 is not None
    strength = float(session.scanner.get("MagneticFieldStrength", USUAL_FIELD_T))
    hertz = to_hertz(session.b0, strength)
    magnitude = session.b0.images.get("magnitude")
    shown = None if magnitude is None else np.asarray(load_volume(magnitude).values, np.float32)
    told = tuple(f"{session.who}: {text}" for text in hertz.warnings)
    return _brought(images, session, head, hertz.hz, shown, hertz.affine, hertz.record, told)


def _brought(
    images: DiffusionImages,
    session: DwiSession,
    head: npt.NDArray[np.bool_],
    hz: Float32,
    shown: Float32 | None,
    affine: Float64,
    record: dict[str, Any],
    told: tuple[str, ...],
) -> StaticField:
    """Bring a field measured elsewhere to the head as it lay in the first diffusion image.

    The image that belongs to the field is registered to the mean without weighting, unwarped by the field as the
    headers have it; without such an image the headers are taken at their word.
    """
    shape = images.data.shape[:3]
    on_grid = resample_field(hz, affine, shape, images.affine)
    if shown is None:
        return StaticField(on_grid, {**record, "registration": "by the headers"}, told)
    acquired = images.acquisitions[0]
    first = np.zeros(images.table.b0.size, bool)
    first[images.parts[0]] = True
    direction: Any = acquired.phase_encoding
    unwarped = unwarp_epi(images.mean_b0(first), on_grid, acquired.readout_s, direction, modulate=True)
    move = find_move("field map to diffusion", np.asarray(unwarped), images.affine, shown, affine, head, "rigid")
    moved = resample_field(hz, affine, shape, move.matrix @ images.affine)
    return StaticField(moved, {**record, "registration": move.record}, told, move.cpu_s)


def unwarp_all(images: DiffusionImages, field: StaticField | None) -> None:
    """Bring the signal of all volumes back where it belongs, without any movement; in place."""
    if field is None:
        return
    for part in images.parts:
        acquired = images.acquisitions[part.start]
        direction: Any = acquired.phase_encoding
        images.data[..., part] = unwarp_epi(
            images.data[..., part], field.hz, acquired.readout_s, direction, modulate=True
        )
