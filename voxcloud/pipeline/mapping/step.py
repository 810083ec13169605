"""The step ``mpm-maps``: everything of one session, from raw images to maps, quality control and a page."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from voxcloud.bids.acquisitions import ContrastName, MpmSession
from voxcloud.errors import ImageError, VoxcloudError
from voxcloud.pipeline.execute import CHILD_CPU
from voxcloud.pipeline.mapping.b1 import SessionB1, map_b1, map_receive
from voxcloud.pipeline.mapping.outputs import write_maps
from voxcloud.pipeline.mapping.quality import session_quality
from voxcloud.pipeline.mapping.signals import SessionSignals, gather_signals
from voxcloud.pipeline.phases import Phases, refuse_changed
from voxcloud.plan.mpm_sessions import MPM
from voxcloud.plan.paths import session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.qmri.epg import Spoiling
from voxcloud.qmri.maker import MapMaker
from voxcloud.qmri.presets import PRESETS, Preset
from voxcloud.qmri.protocol import SeriesProtocol
from voxcloud.qmri.spoiling import SpoilingCoefficients, spoiling_coefficients
from voxcloud.storage.store import Store

# Voxels at a time: signals, maps and what lies between stay in the processor's cache.
BLOCK_VOXELS = 1 << 16
# Errors of R1 that the correction for imperfect spoiling may leave: told above the one, refused above the other.
NOTED_SPOILING_PERCENT, MOST_SPOILING_PERCENT = 0.5, 5.0
MOST_CLIPPED = 0.01
OVERRIDES = ("weighted_passes", "angles", "signal", "mtsat_correction", "mtsat_constant")


def mpm_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Make the maps of one session and write them with sidecars, quality control and page.

    Every error names the session.
    """
    session = MpmSession.from_tree(unit.places["session"])
    try:
        return _make_session(unit, store, session)
    except VoxcloudError as error:
        error.args = tuple(text if session.who in text else f"{session.who}: {text}" for text in error.problems)
        raise


def _make_session(unit: WorkUnit, store: Store, session: MpmSession) -> dict[str, Any]:
    phases = Phases()
    names = MpmSession.from_tree({**unit.params["session"], "warnings": ()}).paths
    refuse_changed(unit, session.who, session.paths, names)
    mpm = unit.params["mpm"]
    signals = gather_signals(session, mpm["registration"], find_preset(mpm).signal_floor)
    phases.end("read and resample")
    b1 = map_b1(session, signals, mpm)
    receive = map_receive(session, signals, mpm)
    phases.end("fields")
    maps, record = make_maps(session, mpm, signals, b1, receive)
    told = spoiling_warnings(session, mpm, record)
    _refuse_implausible(session, maps, record)
    phases.end("maps")
    moves = [*signals.moves.values(), *([b1.move] if b1 is not None and b1.move is not None else [])]
    record |= {
        "registration": [move.record for move in moves],
        "b1_map": None if b1 is None else b1.record,
        "warnings": told,
    }
    quality, page, tissue_cpu_s = session_quality(unit, session, signals, maps, b1, record)
    phases.end("quality")
    write_maps(unit, store, signals, maps, None if b1 is None else b1.values, record)
    who = session.participant_id, session.session_id
    store.write_bytes(session_qc_path(*who, MPM.name, "json"), json.dumps(quality, allow_nan=False, indent=1).encode())
    store.write_bytes(session_qc_path(*who, MPM.name, "html"), page.encode())
    phases.end("write")
    registrations = sum(move.cpu_s for move in moves) + tissue_cpu_s
    return {
        "voxels": int(signals.positions.size),
        "registrations": record["registration"],
        "warnings": list(quality["warnings"]),
        "phases_cpu_s": phases.seconds | {"registrations": round(registrations, 3)},
        # Registrations are processes of their own: this thread's clock does not see them.
        CHILD_CPU: registrations,
    }


def find_preset(mpm: Mapping[str, Any]) -> Preset:
    """Return the study's preset with the values that it changes."""
    changed = {key: mpm[key] for key in OVERRIDES if mpm[key] is not None}
    return dataclasses.replace(PRESETS[mpm["preset"]], **changed)


def find_spoiling(mpm: Mapping[str, Any], protocols: Mapping[str, SeriesProtocol]) -> SpoilingCoefficients | None:
    """Simulate the correction for imperfect spoiling that the study asks for."""
    asked = mpm["spoiling"]
    if asked is None:
        return None
    sequence = Spoiling(
        rf_increment_rad=float(np.deg2rad(asked["rf_increment_deg"])),
        lobes=((asked["gradient_mt_per_m"] * 1e-3, asked["duration_ms"] * 1e-3),),
        t2_s=asked["t2_ms"] * 1e-3,
        diffusion_m2_per_s=asked["diffusion_um2_per_ms"] * 1e-9,
    )
    pdw, t1w = protocols["PDw"].excitation, protocols["T1w"].excitation
    return spoiling_coefficients(pdw, t1w, sequence, angles=find_preset(mpm).angles)


def _maker(session: MpmSession, mpm: Mapping[str, Any], b1: SessionB1 | None, with_receive: bool) -> MapMaker:
    protocols: dict[str, SeriesProtocol] = {}
    for name, series in session.series.items():
        with warnings.catch_warnings():
            # Few echoes and large angles were named when the session was planned.
            warnings.simplefilter("ignore", UserWarning)
            protocols[name] = SeriesProtocol(
                name,
                [echo.echo_time_s for echo in series.echoes],
                float(np.deg2rad(series.flip_angle_deg)),
                series.repetition_time_s,
            )
            _ = protocols[name].excitation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its remaining error is told by ``spoiling_warnings``
        spoiling = find_spoiling(mpm, protocols) if b1 is not None else None
    return MapMaker(
        protocols,
        with_b1=b1 is not None,
        preset=find_preset(mpm),
        spoiling=spoiling,
        with_receive=with_receive,
    )


def make_maps(
    session: MpmSession,
    mpm: Mapping[str, Any],
    signals: SessionSignals,
    b1: SessionB1 | None,
    receive: Mapping[str, np.ndarray] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return every map in the head's voxels, and the record of how they were made."""
    maker = _maker(session, mpm, b1, receive is not None)
    n = signals.positions.size
    maps = {name: np.empty(n, np.float32) for name in maker.names}
    for start in range(0, n, BLOCK_VOXELS):
        part = slice(start, min(start + BLOCK_VOXELS, n))
        found = maker.block(
            {name: np.ascontiguousarray(values[:, part]) for name, values in signals.signals.items()},
            None if b1 is None else b1.values[part],
            None if receive is None else {name: values[part] for name, values in receive.items()},
        )
        for name, values in found.items():
            maps[name][part] = values
    return maps, maker.record()


# What the median over a head's brighter half can be (1/s, p.u.); beyond, series were taken for others, or units are
# wrong.
PLAUSIBLE = {"R1map": (0.1, 3.0), "R2starmap": (2.0, 200.0), "MTsat": (0.15, 8.0)}
HINTS: dict[str, str] = {
    "R1map": "Are PDw and T1w what their sidecars say (FlipAngle, RepetitionTimeExcitation)?",
    "R2starmap": "Are the echo times right, and the images magnitudes?",
    "MTsat": "Is MT really on in the series marked MTState true, and off in the others?",
}


def spoiling_warnings(session: MpmSession, mpm: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return what must be told of the correction for imperfect spoiling.

    Raises
    ------
    ImageError
        If it leaves errors that nobody would accept.
    """
    if mpm["spoiling"] is None:
        return []
    found = record["spoiling"]
    if found is None:
        return [f"{session.who}: R1 is not corrected for imperfect spoiling, because that needs a B1+ map."]
    left = found.get("largest_error_percent")
    if left is None or left <= NOTED_SPOILING_PERCENT:
        return []
    text = (
        f"{session.who}: the correction for imperfect spoiling leaves errors of R1 of up to {left:.1f} % with this "
        "protocol's flip angles and repetition times."
    )
    if left > MOST_SPOILING_PERCENT:
        raise ImageError(f"{text} Leave mpm.spoiling out and say so, or check angles and times in the sidecars.")
    return [text]


def _refuse_implausible(session: MpmSession, maps: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Refuse maps that no head can have: the sidecars tell of other images than these."""
    amplitude = maps["A"]
    clipped = record["voxels"]["clipped"]["A"] / max(amplitude.size, 1)
    if clipped > MOST_CLIPPED:
        limit = record["settings"]["amplitude_limit"]
        raise ImageError(
            f"{session.who}, M0map: expected amplitudes below {limit:g} in units of the images, found {clipped:.1%} of "
            "the head above: the images are stored with too large a scale. Divide all of a session's images by one "
            "number."
        )
    with np.errstate(invalid="ignore"):
        inside = amplitude > np.nanmedian(amplitude) / 2
    for name, (low, high) in PLAUSIBLE.items():
        if name not in maps:
            continue
        median = float(np.nanmedian(maps[name][inside]))
        if not low <= median <= high:
            contrast: ContrastName = "MTw" if name == "MTsat" else "PDw"
            raise ImageError(
                f"{session.who}, {name}: expected a median of {low:g} to {high:g} in the head, found {median:.3g}. "
                f"{HINTS[name]} (e.g. {session.series[contrast].echoes[0].path})"
            )
