"""The step ``template-maps``: one session's maps of one modality in template space, as they are and smoothed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_names import dwi_file_name, dwi_map_name
from voxcloud.bids.templates import Template, load_template
from voxcloud.bids.volumes import Volume, load_volume
from voxcloud.config.space import DWI_MAPS, TEMPLATE, TISSUES, VOLUME
from voxcloud.errors import RegistrationError, VoxcloudError
from voxcloud.pipeline.execute import CHILD_CPU
from voxcloud.pipeline.phases import Phases
from voxcloud.pipeline.spatial.outputs import REFERENCES, Change, Way, read_change, read_way, write_image
from voxcloud.pipeline.spatial.quality import session_quality
from voxcloud.plan.paths import anatomy_images, session_map_path, session_qc_path, session_stem, space_map_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.qmri.receive import WHITE_MATTER_PD, WHITE_MATTER_PROBABILITY, calibrate_pd
from voxcloud.schema import variable
from voxcloud.space.registration import Registration, register_rigid
from voxcloud.space.sampling import resample
from voxcloud.space.smoothing import smooth, smooth_tissue_weighted
from voxcloud.storage.store import Store

Float32 = npt.NDArray[np.float32]

# PD comes of the amplitude once white matter is known.
NATIVE_NAMES = {"PDmap": "M0map"}
# Splines overshoot beside edges: what cannot be is set to the limit.
LIMITS = {"FA": (0.0, 1.0), "MD": (0.0, None), "AD": (0.0, None), "RD": (0.0, None)}


# SD over mean of the amplitude in white matter, above which the receive field is not taken out.
WIDEST_SPREAD = 0.25


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scale of proton density: p.u. per unit of the amplitude, what it rests on, and what speaks against it."""

    factor: float
    report: Mapping[str, Any]
    flagged: str


@dataclass(frozen=True, eq=False)
class SessionMaps:
    """What a session has in template space.

    Attributes
    ----------
    maps
        Map to its values on the template's grid, not smoothed.
    smoothed
        (map, label) to its values, smoothed within that tissue.
    calibration
        Of PD; None where there is none.
    registration
        Of diffusion to the midpoint; None where there is none.
    """

    maps: Mapping[str, Float32]
    smoothed: Mapping[tuple[str, str], Float32]
    calibration: Calibration | None = None
    registration: Registration | None = None


def template_maps(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Bring one session's maps into template space, with quality control and page. Every error names the session."""
    who = session_stem(unit.params["participant_id"], unit.params["session_id"])
    try:
        return _make(unit, store)
    except VoxcloudError as error:
        error.args = tuple(text if who in text else f"{who}: {text}" for text in error.problems)
        raise


def _make(unit: WorkUnit, store: Store) -> dict[str, Any]:
    phases = Phases()
    template = load_template(unit.params["resolution_mm"])
    way = read_way(store, unit.params["participant_id"], unit.params["contrast"])
    phases.end("read")
    change = _change(unit, store, way)
    # Tissue that grew or shrank is followed, so that its edges do not look like a change of the maps.
    displacement = way.deformed(change)
    read = _of_diffusion if unit.params["modality"] == "dwi" else _of_mpm
    found = read(unit, store, template, way, displacement)
    phases.end("resample")
    smoothed = dict(_smoothed(unit, template, way, change, found.maps))
    found = SessionMaps(found.maps, smoothed, found.calibration, found.registration)
    phases.end("smooth")
    quality, page = session_quality(unit, template, way, found)
    phases.end("quality")
    _write(unit, store, template, found)
    who = unit.params["participant_id"], unit.params["session_id"]
    kind = f"space{unit.params['modality']}"
    store.write_bytes(session_qc_path(*who, kind, "json"), json.dumps(quality, allow_nan=False, indent=1).encode())
    store.write_bytes(session_qc_path(*who, kind, "html"), page.encode())
    phases.end("write")
    children = found.registration.cpu_s if found.registration is not None else 0.0
    return {
        "warnings": list(quality["warnings"]),
        "phases_cpu_s": phases.seconds | {"registrations": round(children, 3)},
        CHILD_CPU: children,
    }


def _change(unit: WorkUnit, store: Store, way: Way) -> Change | None:
    """Return how the visit is deformed against the midpoint; a visit without such an image is taken as it."""
    participant, session = unit.params["participant_id"], unit.params["session_id"]
    if unit.params["longitudinal"] != "deformation" or session not in way.visits:
        return None
    return read_change(store, participant, session)


def _of_mpm(unit: WorkUnit, store: Store, template: Template, way: Way, displacement: Float32) -> SessionMaps:
    """Read a session's quantitative maps through the way from the template; PD is calibrated first."""
    who = unit.params["participant_id"], unit.params["session_id"]
    native = {
        name: load_volume(store.local_path(session_map_path(*who, NATIVE_NAMES.get(name, name))))
        for name in unit.params["maps"]
    }
    to_visit = way.visits[unit.params["session_id"]]
    there = next(iter(native.values()))
    values = resample(
        [np.asarray(volume.values, np.float32) for volume in native.values()],
        there.affine,
        template.affine,
        template.t1.shape,
        (way.matrix, to_visit),
        displacement=displacement,
    )
    maps = dict(zip(native, values, strict=True))
    calibration = None
    if "PDmap" in maps:
        calibration = _calibrated(unit, store, native["PDmap"], to_visit)
        maps["PDmap"] = maps["PDmap"] * np.float32(calibration.factor)
        scaled = np.asarray(native["PDmap"].values, np.float32) * np.float32(calibration.factor)
        tree = _told(unit, "PDmap") | {"Calibration": calibration.report}
        tree |= {"SpatialReference": "as PDw was acquired"}
        write_image(store, session_map_path(*who, "PDmap"), scaled, there.affine, tree)
    return SessionMaps(maps, {}, calibration)


def _calibrated(unit: WorkUnit, store: Store, amplitude: Volume, to_visit: npt.NDArray[np.float64]) -> Calibration:
    """Scale the amplitude so that white matter has 69 p.u., measured on the midpoint's grid."""
    paths = anatomy_images(unit.params["participant_id"], unit.params["contrast"])
    white = load_volume(store.local_path(paths["WM"]))
    (there,) = resample(
        [np.asarray(amplitude.values, np.float32)],
        amplitude.affine,
        white.affine,
        white.values.shape,
        (to_visit,),
        order=1,
    )
    share = np.asarray(white.values, np.float32)
    scaled, factor = calibrate_pd(there, share)
    inside = scaled[(share >= WHITE_MATTER_PROBABILITY) & np.isfinite(scaled)]
    spread = float(inside.std() / inside.mean())
    report = {
        "white_matter_pu": WHITE_MATTER_PD,
        "factor": factor,
        "relative_sd": spread,
        "white_matter_ml": round(inside.size * float(np.prod(white.voxel_mm)) / 1000, 3),
    }
    flagged = (
        f"expected amplitudes within {WIDEST_SPREAD:.0%} of each other in white matter (SD over mean), found "
        f"{spread:.0%}: the receive field was not corrected, or the segmentation is wrong. Look at M0map."
    )
    return Calibration(factor, report, flagged if spread > WIDEST_SPREAD else "")


def _of_diffusion(unit: WorkUnit, store: Store, template: Template, way: Way, displacement: Float32) -> SessionMaps:
    """Register the images without weighting to the midpoint, and read diffusion maps through both."""
    who = unit.params["participant_id"], unit.params["session_id"]
    paths = anatomy_images(unit.params["participant_id"], unit.params["contrast"])
    fixed, brain = (load_volume(store.local_path(paths[name])) for name in ("midpoint", "brain"))
    moving = load_volume(store.local_path(dwi_file_name(*who, "reference")))
    found = register_rigid(
        np.nan_to_num(np.asarray(fixed.values, np.float32)),
        fixed.affine,
        np.nan_to_num(np.asarray(moving.values, np.float32)),
        moving.affine,
        fixed_mask=np.asarray(brain.values) > 0.5,
    )
    if found.flagged:
        raise RegistrationError(f"diffusion to {unit.params['contrast']}: {found.flagged}")
    native = {name: load_volume(store.local_path(dwi_map_name(*who, name.lower()))) for name in DWI_MAPS}
    values = resample(
        [np.asarray(volume.values, np.float32) for volume in native.values()],
        next(iter(native.values())).affine,
        template.affine,
        template.t1.shape,
        (way.matrix, found.matrix),
        displacement=displacement,
    )
    maps = {name: np.clip(v, *LIMITS[name]) for name, v in zip(native, values, strict=True)}
    return SessionMaps(maps, {}, registration=found)


def _smoothed(
    unit: WorkUnit, template: Template, way: Way, change: Change | None, maps: Mapping[str, Float32]
) -> Iterator[tuple[tuple[str, str], Float32]]:
    """Yield every map smoothed within each tissue, and the tissues' volumes.

    All visits of a participant share their weights, so that a change of a map cannot change its own.
    """
    size = unit.params["resolution_mm"]
    widths = unit.params["fwhm_mm"]
    for label in TISSUES:
        weights = way.probability[label] * way.jacobian
        groups: dict[float, list[str]] = {}
        for name in (n for n in maps if n in widths):
            groups.setdefault(widths[name][label], []).append(name)
        for fwhm, names in groups.items():
            own = {name: maps[name] for name in names}
            for name, values in smooth_tissue_weighted(own, weights, template.priors[label], fwhm, size).items():
                yield (name, label), values
        if unit.params["volume"]:
            # Volume of the tissue in this visit per volume of the template.
            volume = weights if change is None else weights * change.ratio
            yield (VOLUME, label), smooth(volume, widths[VOLUME][label], size)


def _write(unit: WorkUnit, store: Store, template: Template, found: SessionMaps) -> None:
    who = unit.params["participant_id"], unit.params["session_id"]
    for name, values in found.maps.items():
        write_image(store, space_map_path(*who, name), values, template.affine, _told(unit, name))
    for (name, label), values in found.smoothed.items():
        write_image(store, space_map_path(*who, name, label), values, template.affine, _told(unit, name, label))


def _told(unit: WorkUnit, name: str, label: str = "") -> dict[str, Any]:
    about = variable(name)
    tree: dict[str, Any] = {
        "Description": about.prose,
        "Units": about.units,
        "SpatialReference": TEMPLATE,
        "MissingValue": "NaN: nothing was measured, or there is too little of the tissue",
    }
    if label:
        tree |= {
            "Label": label,
            "SmoothingFwhm_mm": unit.params["fwhm_mm"][name][label],
            "Smoothing": "tissue volume, smoothed" if name == VOLUME else "weighted by tissue volume: S(m w) / S(w)",
            "References": list(REFERENCES["volume" if name == VOLUME else "smoothing"]),
        }
    return tree
