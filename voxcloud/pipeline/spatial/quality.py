"""Quality of what is brought into template space: measures for programs, a page for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.templates import Template
from voxcloud.config.space import TISSUES
from voxcloud.pipeline.spatial.outputs import Way
from voxcloud.plan.paths import anatomy_pages, session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.report.qc_space_measures import SPACE_QC_SCHEMA
from voxcloud.report.qc_space_session import anatomy_page, anatomy_thumbnail, map_thumbnail, maps_page

if TYPE_CHECKING:
    from voxcloud.pipeline.spatial.anatomy import Anatomy
    from voxcloud.pipeline.spatial.session import SessionMaps

Float32 = npt.NDArray[np.float32]

SURE = 0.9


def anatomy_quality(unit: WorkUnit, template: Template, found: Anatomy) -> tuple[dict[str, Any], str]:
    """Return what is measured of a participant's anatomy, and its page."""
    inside = template.brain
    jacobian = found.way.jacobian[inside]
    participant, contrast = unit.params["participant_id"], unit.params["contrast"]
    tree: dict[str, Any] = {
        "schema": SPACE_QC_SCHEMA,
        "participant_id": participant,
        "sessions": list(unit.params["sessions"]),
        "contrast": contrast,
        "volumes_ml": found.tissues.report["volumes_ml"],
        "dice": {label: dice(found.probability[label], template.priors[label]) for label in TISSUES},
        "jacobian": dict(
            zip(
                ("minimum", "p01", "median", "p99", "maximum"),
                (float(v) for v in np.percentile(jacobian, (0, 1, 50, 99, 100))),
                strict=True,
            )
        ),
        "midpoint": _midpoint(found),
        "normalisation": found.way.report,
        "segmentation": {k: v for k, v in found.tissues.report.items() if k != "volumes_ml"},
        "change_percent": {} if found.changes is None else _changes(found),
        "warnings": [found.tissues.flagged] if found.tissues.flagged else [],
        "page": anatomy_pages(participant)[1],
        "thumbnail": anatomy_thumbnail(contrast, template, found.image),
    }
    tree = told(tree)
    return tree, anatomy_page(tree, template, found.image, found.probability, found.way.jacobian)


def told(tree: Any) -> Any:
    """Return a tree of what JSON can hold: numbers of numpy as Python's own, None for what is not finite."""
    if isinstance(tree, Mapping):
        return {str(key): told(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [told(value) for value in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return told(tree.tolist())
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _midpoint(found: Anatomy) -> dict[str, Any]:
    """Return how visits lie and how far each is like the others."""
    report = found.midpoint.report
    visits = [
        dict(visit) | {"agreement": None if np.isnan(value) else round(float(value), 4)}
        for visit, value in zip(report["visits"], found.agreement, strict=True)
    ]
    return dict(report) | {"visits": visits}


def _changes(found: Anatomy) -> dict[str, dict[str, float]]:
    """Return by how much each tissue's volume of a visit differs from the midpoint's, percent."""
    table: dict[str, dict[str, float]] = {}
    for session, change in (found.changes or {}).items():
        table[session] = {}
        for label in TISSUES:
            weights = (found.probability[label] * found.way.jacobian).astype(np.float64)
            whole = float(weights.sum())
            table[session][label] = 100 * (float((weights * change.ratio).sum()) / whole - 1) if whole else math.nan
    return table


def dice(probability: Float32, prior: Float32) -> float:
    """Return the overlap of two tissue probabilities, 2 sum min(p, q) / sum (p + q)."""
    both = np.minimum(probability, prior).sum(dtype=np.float64)
    return float(2 * both / (probability.sum(dtype=np.float64) + prior.sum(dtype=np.float64)))


def session_quality(unit: WorkUnit, template: Template, way: Way, found: SessionMaps) -> tuple[dict[str, Any], str]:
    """Return what is measured of a session's maps in template space, and its page."""
    medians: dict[str, dict[str, float | None]] = {}
    for name, values in found.maps.items():
        medians[name] = {}
        for label in TISSUES:
            own = values[(way.probability[label] > SURE) & np.isfinite(values)]
            medians[name][label] = float(np.median(own)) if own.size else None
    missing = {name: float(np.mean(~np.isfinite(v[template.brain]))) for name, v in found.maps.items()}
    moved, who = found.registration, (unit.params["participant_id"], unit.params["session_id"])
    shown = unit.params["contrast"] if unit.params["contrast"] in found.maps else next(iter(found.maps))
    tree: dict[str, Any] = {
        "schema": SPACE_QC_SCHEMA,
        "participant_id": who[0],
        "session_id": who[1],
        "modality": unit.params["modality"],
        "field_strength_t": unit.params.get("field_strength_t"),
        "medians": medians,
        "missing": missing,
        "calibration": None if found.calibration is None else found.calibration.report,
        "registration": None
        if moved is None
        else {
            "translation_mm": moved.translation_mm.tolist(),
            "rotation_deg": moved.rotation_deg.tolist(),
            "displacement_mm": moved.displacement_mm,
            "displacement_max_mm": moved.displacement_max_mm,
            "agreement": moved.agreement,
        },
        "warnings": [found.calibration.flagged] if found.calibration is not None and found.calibration.flagged else [],
        "page": session_qc_path(*who, f"space{unit.params['modality']}", "html"),
        "shown": shown,
        "thumbnail": map_thumbnail(shown, template, found.maps[shown]),
    }
    tree = told(tree)
    return tree, maps_page(tree, template, found.maps)
