"""The transmit field of a session on the grid of PDw, and receive sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.acquisitions import B1Acquisition, MpmSession
from voxcloud.bids.volumes import Volume, load_alike
from voxcloud.errors import ImageError, VoxcloudError
from voxcloud.pipeline.mapping.b0 import field_on, to_hertz
from voxcloud.pipeline.mapping.moves import Move, find_move
from voxcloud.pipeline.mapping.signals import SessionSignals
from voxcloud.qmri.b1 import b1_from_afi, b1_from_double_angle, b1_from_percent, b1_from_rf_map, b1_from_tfl
from voxcloud.qmri.fields import smooth_field
from voxcloud.qmri.receive import receive_sensitivity
from voxcloud.qmri.seste import T1_AT_3T_S, b1_from_seste
from voxcloud.space.affine import voxel_to_voxel
from voxcloud.space.bspline import sample_linear
from voxcloud.space.unwarp import unwarp_epi

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# Below this part of a bright voxel's signal lies air, where a ratio of signals is noise over noise.
SHARE_OF_BRIGHT = 0.12
BRIGHT_PERCENTILE = 98.0
# What B1 in a head can be, and what its median can be: beyond, the images are not what they are taken for.
B1_LIMITS = (0.2, 2.5)
MEDIAN_LIMITS = (0.6, 1.5)
MOST_UNKNOWN = 0.4
NOTED_MISSING = 0.02
# SE/STE: pairs that disagree by more (ratio) say nothing about B1.
SESTE_LARGEST_SD = 0.05
FIELD_STRENGTH_T = 3.0


@dataclass(frozen=True, eq=False)
class SessionB1:
    """B1+ in the head's voxels.

    Attributes
    ----------
    values
        (voxels,) ratio of actual to nominal flip angle; NaN where it is not known.
    move
        Its registration to PDw; None where there was no image to register.
    record
        Method, smoothing, unwarping and what was found (JSON).
    warnings
        Sentences.
    """

    values: Float32
    move: Move | None
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Ratio:
    """B1 on its own grid, and what it can be registered by."""

    values: npt.NDArray[Any]
    known: Bool
    grid: Volume
    reference: npt.NDArray[Any] | None
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()


def map_b1(session: MpmSession, signals: SessionSignals, mpm: Mapping[str, Any]) -> SessionB1 | None:
    """Compute a session's B1 map, smooth it and bring it to the voxels of PDw; None where the session has none.

    Raises
    ------
    ImageError
        If the images cannot be what they are taken for; the message names session, method, expected and found values.
    """
    b1 = session.b1
    if b1 is None:
        return None
    name = f"{session.who}, B1 by {b1.method}"
    try:
        ratio = _ratio(b1, session, mpm)
    except VoxcloudError as error:
        raise ImageError(*(f"{name}: {text}" for text in error.problems)) from None
    _check(name, b1, ratio)
    fwhm = 0.0 if b1.method == "TB1map" else float(mpm["b1_smoothing_mm"])
    smooth = smooth_field(ratio.values, ratio.grid.voxel_mm.tolist(), fwhm, ratio.known)
    move = None
    warnings = list(ratio.warnings)
    if ratio.reference is not None:
        move = find_move(
            f"{name} to PDw",
            signals.fixed,
            signals.affine,
            ratio.reference,
            ratio.grid.affine,
            signals.head,
            mpm["registration"],
        )
    elif mpm["registration"] != "none":
        warnings.append(f"{name}: has no magnitude image beside it to register; it lies where its header says.")
    to_b1 = voxel_to_voxel(signals.affine, np.eye(4) if move is None else move.matrix, ratio.grid.affine)
    values = sample_linear(smooth, to_b1, signals.shape, signals.positions, order="F")
    missing = float(np.isnan(values[signals.means["PDw"] > np.nanmedian(signals.means["PDw"])]).mean())
    if missing > NOTED_MISSING:
        warnings.append(
            f"{name}: expected B1+ all over the head, found none in {missing:.0%} of its bright voxels: there R1, "
            "MTsat and M0 are NaN. Does the acquisition cover the head?"
        )
    record = {"method": b1.method, "smoothing_fwhm_mm": fwhm, **ratio.record}
    return SessionB1(values, move, record, tuple(warnings))


def _check(name: str, b1: B1Acquisition, ratio: _Ratio) -> None:
    inside = ratio.values[ratio.known]
    bright = int(np.count_nonzero(ratio.known)) + int(ratio.record.get("implausible_voxels", 0))
    unknown = 1.0 - inside.size / max(bright, 1)
    median = float(np.median(inside)) if inside.size else float("nan")
    low, high = MEDIAN_LIMITS
    if inside.size and low <= median <= high and unknown <= MOST_UNKNOWN:
        return
    hint = "Check the flip angle in the sidecar, and that the files are the signals and not a map made of them"
    if b1.method == "TB1map":
        hint = "Is it in tenths of a degree? Divide by 10 times the nominal flip angle and write percent"
    elif b1.method == "AFI":
        hint += " (a flip-angle map in tenths of a degree is a TB1map once divided by its nominal angle, in percent)"
    first = next(iter(b1.images.values()))
    raise ImageError(
        f"{name}: expected actual over nominal flip angle with a median of {low:g} to {high:g} in the head and at "
        f"least {1 - MOST_UNKNOWN:.0%} of it computable, found a median of {median:.3g} and {1 - unknown:.0%} "
        f"({first}). {hint}."
    )


def _ratio(b1: B1Acquisition, session: MpmSession, mpm: Mapping[str, Any]) -> _Ratio:
    if b1.method == "SESTE":
        return _seste(b1, session)
    volumes = load_alike((path, None) for path in b1.images.values())
    grid = volumes[0]
    data = {role: volume.values for role, volume in zip(b1.images, volumes, strict=True)}
    if b1.method == "TB1map":
        return _ready_made(b1, grid, data)
    angle = float(np.deg2rad(b1.parameters["flip_angle_deg"]))
    if b1.method == "AFI":
        short, long = b1.parameters["repetition_times_s"]
        t1_s = mpm["afi_t1_s"]
        values = b1_from_afi(data["short"], data["long"], angle, (short, long), t1_s=t1_s)
        return _within_head(values, grid, data["short"], {"afi_t1_s": t1_s})
    if b1.method == "DAM":
        values, reference = b1_from_double_angle(data["single"], data["double"], angle), data["single"]
    else:
        compute = b1_from_tfl if b1.method == "TFL" else b1_from_rf_map
        values, reference = compute(data["famp"], angle), data["anat"]
    return _within_head(values, grid, reference, {})


def _within_head(
    values: npt.NDArray[Any],
    grid: Volume,
    reference: npt.NDArray[Any],
    record: dict[str, Any],
    warnings: tuple[str, ...] = (),
    trusted: Bool | None = None,
) -> _Ratio:
    """Take B1 where there is signal and the value is possible."""
    bright = reference > SHARE_OF_BRIGHT * np.percentile(reference, BRIGHT_PERCENTILE)
    low, high = B1_LIMITS
    with np.errstate(invalid="ignore"):
        known = bright & (values > low) & (values < high)
    if trusted is not None:
        known &= trusted
    counts = {"voxels": int(known.sum()), "implausible_voxels": int(bright.sum() - known.sum())}
    return _Ratio(values, known, grid, reference, record | counts, warnings)


def _ready_made(b1: B1Acquisition, grid: Volume, data: Mapping[str, npt.NDArray[Any]]) -> _Ratio:
    units = str(b1.parameters.get("units") or "percent")
    values = np.asarray(data["map"], dtype=np.float32)
    # Only what is outside the head, which is zero or NaN, has no B1: a ready-made map is smooth already.
    known = np.isfinite(values) & (values > 0)
    ratio = values if units in ("1", "ratio") else b1_from_percent(np.where(known, values, np.nan))
    return _Ratio(np.where(known, ratio, np.nan), known, grid, data.get("anat"), {"units": units})


def _seste(b1: B1Acquisition, session: MpmSession) -> _Ratio:
    numbers = sorted(role.removeprefix("se-") for role in b1.images if role.startswith("se-"))
    volumes = load_alike((b1.images[f"{kind}-{k}"], None) for kind in ("se", "ste") for k in numbers)
    spin, stimulated = volumes[: len(numbers)], volumes[len(numbers) :]
    grid = spin[0]
    parameters = b1.parameters
    found = b1_from_seste(
        np.stack([v.values for v in spin], axis=3),
        np.stack([v.values for v in stimulated], axis=3),
        np.deg2rad(parameters["flip_angle_deg"]),
        float(parameters["mixing_time_s"]),
    )
    values, sd, magnitude = found.b1, found.sd, found.magnitude
    record: dict[str, Any] = {"unwarped": False}
    stated = session.scanner.get("MagneticFieldStrength")
    strength = float(stated or FIELD_STRENGTH_T)
    warnings: tuple[str, ...] = ()
    if stated is None:
        warnings = (
            f"{session.who}, B1 by SESTE: no sidecar states MagneticFieldStrength; {FIELD_STRENGTH_T:g} T is taken for "
            f"decay during the mixing time (T1 of {T1_AT_3T_S:g} s) and for the range of the field map. Write it into "
            "the sidecars.",
        )
    if abs(strength - FIELD_STRENGTH_T) > 0.3:
        warnings = (
            f"{session.who}, B1 by SESTE: decay during the mixing time is corrected for a T1 of {T1_AT_3T_S:g} s, "
            f"which holds at 3 T, found {strength:g} T.",
        )
    if b1.b0 is None:
        warnings += (
            f"{session.who}, B1 by SESTE: has no field map; its images are used as distorted as they are "
            "(mpm.missing_b0: skip).",
        )
    else:
        hertz = to_hertz(b1.b0, strength)
        warnings += tuple(f"{session.who}, B1 by SESTE: {text}" for text in hertz.warnings)
        on_grid = field_on(hertz, grid)
        # The map is unwarped and not each of its images: interpolated once, and a ratio needs no intensity change.
        # What is unknown stays so, with its neighbours along the phase-encode axis.
        stacked = np.stack([values, sd, magnitude], axis=3)
        moved = unwarp_epi(stacked, on_grid, float(parameters["readout_s"]), parameters["phase_encoding"])
        values, sd, magnitude = (moved[..., i] for i in range(3))
        record = {"unwarped": True, "b0": hertz.record}
    with np.errstate(invalid="ignore"):
        trusted = sd <= SESTE_LARGEST_SD
    return _within_head(values, grid, magnitude, record, warnings, trusted)


def map_receive(session: MpmSession, signals: SessionSignals, mpm: Mapping[str, Any]) -> dict[str, Float32] | None:
    """Return the receive sensitivity of each contrast in the head's voxels; None where it was not measured.

    The coil stays where it is when the head moves: a voxel of PDw has the sensitivity of the place at which it lay
    during the contrast, which registration of the contrast tells. So the pairs themselves are not registered.

    Raises
    ------
    ImageError
        If a contrast has no pair, or the images of a pair cannot be used.
    """
    if not session.receive or mpm["receive"] == "none":
        return None
    found: dict[str, Float32] = {}
    for contrast in session.series:
        key = contrast if contrast in session.receive else "all"
        pair = session.receive.get(key)
        if pair is None:
            raise ImageError(
                f"{session.who}: expected receive sensitivities (RB1COR) of every contrast, found none for {contrast}. "
                "Add the pair, or set mpm.receive: none."
            )
        try:
            head, body = load_alike([(pair["head"], None), (pair["body"], None)])
            sensitivity = receive_sensitivity(head.values, body.values, head.voxel_mm.tolist())
        except VoxcloudError as error:
            raise ImageError(*(f"{session.who}, RB1COR {key}: {text}" for text in error.problems)) from None
        matrix = signals.moves[contrast].matrix if contrast in signals.moves else np.eye(4)
        to_pair = voxel_to_voxel(signals.affine, matrix, head.affine)
        found[contrast] = sample_linear(sensitivity, to_pair, signals.shape, signals.positions, order="F")
    return found
