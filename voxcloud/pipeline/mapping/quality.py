"""Quality control of a session: numbers for programs, a page for people."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.errors import MaskError, VoxcloudError
from voxcloud.pipeline.mapping.b1 import SessionB1
from voxcloud.pipeline.mapping.outputs import FILE_NAMES
from voxcloud.pipeline.mapping.signals import SessionSignals
from voxcloud.pipeline.mapping.template import load_template
from voxcloud.plan.mpm_sessions import MPM, how_made
from voxcloud.plan.paths import session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.qmri.estatics import fit_estatics
from voxcloud.qmri.maker import UNITS
from voxcloud.qmri.quality import motion_degradation, summarise_b1, summarise_map
from voxcloud.report.mosaic import COLOURS, edges_png, mosaic_png, thumbnail_png, window
from voxcloud.report.qc_session import session_page
from voxcloud.space.tissue import RoughTissue, rough_tissue

QC_SCHEMA = 1
# Fat has a higher R1 than any brain tissue; left in, it is what a template would be laid onto.
FAT_R1_PER_S = 1.6
# Below this part of the median amplitude is air or bone, where maps are noise.
LEAST_AMPLITUDE = 0.2
NO_MASKS = "white and grey matter were not found, so there are no medians"


@dataclass(frozen=True, eq=False)
class _Masks:
    """Tissue as vectors over the head's voxels; all empty where none was found."""

    brain: npt.NDArray[np.bool_]
    gm: npt.NDArray[np.bool_]
    wm: npt.NDArray[np.bool_]


def session_quality(
    unit: WorkUnit,
    session: MpmSession,
    signals: SessionSignals,
    maps: Mapping[str, np.ndarray],
    b1: SessionB1 | None,
    record: Mapping[str, Any],
) -> tuple[dict[str, Any], str, float]:
    """Return the numbers (JSON), the page, and the CPU seconds of the registration behind the tissue masks."""
    tissue, problem = _tissue(session, signals, maps)
    masks = _masks(signals, tissue)
    warnings = [
        *session.warnings,
        *signals.warnings,
        *(b1.warnings if b1 is not None else ()),
        *record["warnings"],
        *problem,
    ]
    qc: dict[str, Any] = {
        "schema": QC_SCHEMA,
        "participant_id": session.participant_id,
        "session_id": session.session_id,
        "made": how_made(unit),
        "field_strength_t": session.scanner.get("MagneticFieldStrength"),
        "maps": _maps(maps, masks, record),
        "motion_degradation": _motion(session, signals, masks, record["settings"]),
        "registration": list(record["registration"]),
        "b1": None if b1 is None else b1.record | summarise_b1(b1.values, masks.brain),
        "signal": {
            name: {"saturated_share": signals.saturated[name], "zero_share": signals.zero[name]}
            for name in signals.signals
        },
        "volume_ml": _volumes(signals, masks),
        "masks": f"by the ICBM 2009a template of nilearn {version('nilearn')}",
        "protocol": record["contrasts"],
        "corrections": list(record["corrections"]),
        "warnings": warnings,
        "page": session_qc_path(session.participant_id, session.session_id, MPM.name, "html"),
    }
    volumes = {FILE_NAMES.get(name, name): signals.volume(maps[name]) for name in UNITS if name in maps}
    if b1 is not None:
        volumes["TB1map"] = signals.volume(b1.values * np.float32(100.0))
    qc["thumbnails"] = {
        name: base64.b64encode(_thumbnail(name, volume, signals)).decode() for name, volume in volumes.items()
    }
    page = session_page(qc, _figures(signals, volumes, maps, tissue))
    return qc, page, 0.0 if tissue is None else tissue.registration.cpu_s


def _tissue(
    session: MpmSession, signals: SessionSignals, maps: Mapping[str, np.ndarray]
) -> tuple[RoughTissue | None, list[str]]:
    """Find tissue in MTsat, or in R1 where there is no MTsat; quality control goes on without it."""
    amplitude = maps["A"]
    with np.errstate(invalid="ignore"):
        solid = amplitude > LEAST_AMPLITUDE * np.nanmedian(amplitude)
        if "MTsat" in maps:
            shown = np.where(solid, maps["MTsat"], 0.0)
        else:
            shown = np.where(solid & (maps["R1map"] < FAT_R1_PER_S), maps["R1map"], 0.0)
    template = load_template()
    try:
        found = rough_tissue(signals.volume(shown), signals.affine, template.t1, template.priors, template.affine)
    except VoxcloudError as error:
        return None, [f"{session.who}: {NO_MASKS}: {error}"]
    return found, []


def _masks(signals: SessionSignals, tissue: RoughTissue | None) -> _Masks:
    if tissue is None:
        nothing = np.zeros(signals.positions.size, dtype=bool)
        return _Masks(nothing, nothing, nothing)
    return _Masks(*(m.reshape(-1, order="F")[signals.positions] for m in (tissue.brain, tissue.gm, tissue.wm)))


def _maps(maps: Mapping[str, np.ndarray], masks: _Masks, record: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, units in UNITS.items():
        if name not in maps:
            continue
        file = FILE_NAMES.get(name, name)
        low, high, _ = window(file, maps[name][masks.brain] if masks.brain.any() else maps[name])
        numbers = summarise_map(maps[name], masks.wm, masks.gm, limits=(low, high), error=maps[f"{name}_error"])
        found[file] = {"units": units, **numbers, "clipped": record["voxels"]["clipped"].get(name)}
    return found


def _motion(
    session: MpmSession, signals: SessionSignals, masks: _Masks, settings: Mapping[str, Any]
) -> dict[str, float | None]:
    """Return the motion degradation index of each contrast: SD over white matter of its own R2*.

    None where too little of white matter has signal.
    """
    found: dict[str, float | None] = {}
    inside = np.flatnonzero(masks.wm)
    for name, series in session.series.items():
        own = np.ascontiguousarray(signals.signals[name][:, inside])
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # of few echoes, which the session has been told of
            fit = fit_estatics(
                {name: list(own)},
                {name: [echo.echo_time_s for echo in series.echoes]},
                weighted_passes=settings["weighted_passes"],
                signal_floor=settings["signal_floor"],
            )
        try:
            found[name] = motion_degradation(fit.r2star, np.ones(inside.size, dtype=bool))
        except MaskError:
            found[name] = None
    return found


def _volumes(signals: SessionSignals, masks: _Masks) -> dict[str, float]:
    voxel_ml = float(abs(np.linalg.det(signals.affine[:3, :3]))) / 1000.0
    counts = {"head": signals.positions.size, "brain": masks.brain.sum(), "WM": masks.wm.sum(), "GM": masks.gm.sum()}
    return {name: round(float(n) * voxel_ml, 1) for name, n in counts.items()}


def _thumbnail(name: str, volume: np.ndarray, signals: SessionSignals) -> bytes:
    low, high, _ = window(name, volume)
    return thumbnail_png(volume, signals.affine, low=low, high=high, colours=COLOURS.get(name, "gray"))


def _figures(
    signals: SessionSignals,
    volumes: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    tissue: RoughTissue | None,
) -> dict[str, bytes]:
    found = {}
    for name, volume in volumes.items():
        low, high, units = window(name, volume)
        found[name] = mosaic_png(
            volume,
            signals.affine,
            low=low,
            high=high,
            title=name,
            units=units,
            colours=COLOURS.get(name, "gray"),
            contour=tissue.wm if tissue is not None and name in ("R1map", "MTsat") else None,
        )
    error = signals.volume(maps["R1map_error"])
    # Three times what is usual in white matter (or, without it, in the head): worse than that is white.
    inside = error[tissue.wm] if tissue is not None else error
    high = max(3.0 * float(np.nanmedian(inside)), 1e-6)
    found["R1map error"] = mosaic_png(
        error, signals.affine, low=0.0, high=high, title="R1map error", units=UNITS["R1map"]
    )
    for name, before in signals.unmoved.items():
        found[f"{name} to PDw"] = edges_png(
            signals.fixed,
            signals.volume(before),
            signals.volume(signals.means[name]),
            signals.affine,
            title=f"{name} to PDw",
        )
    return found
