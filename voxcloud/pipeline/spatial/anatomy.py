"""The step ``anatomy``: one participant's midpoint over visits, tissues, way to the template and change of volume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.bids.templates import Template, load_template
from voxcloud.bids.volumes import Volume, load_volume
from voxcloud.config.space import TISSUES
from voxcloud.errors import RegistrationError, VoxcloudError
from voxcloud.pipeline.execute import CHILD_CPU
from voxcloud.pipeline.phases import Phases
from voxcloud.pipeline.spatial.outputs import Change, write_anatomy
from voxcloud.pipeline.spatial.quality import anatomy_quality
from voxcloud.plan.paths import anatomy_pages, session_stem
from voxcloud.plan.unit import WorkUnit
from voxcloud.space.midpoint import Midpoint, midpoint_template
from voxcloud.space.normalise import Normalisation, normalise
from voxcloud.space.same_head import head_agreement, other_heads
from voxcloud.space.segmentation import Segmentation, segment
from voxcloud.space.volume_change import volume_change
from voxcloud.storage.store import Store

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# Around the template's brain, in which tissue of this brain is looked for: a first registration is off by this much.
CANDIDATE_MM = 8.0
# Values that no tissue has (1/s, p.u.), which noise at the edge of the head does.
LARGEST = {"MTsat": 5.0, "R1map": 3.0}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What the images of a participant tell.

    Attributes
    ----------
    midpoint
        Mean of the visits, and where each lies.
    agreement
        Of each visit's detail with the others' (``head_agreement``).
    tissues
        Of the midpoint.
    way
        From the template to the midpoint.
    probability
        Label to tissue probability on the template's grid.
    image
        (x, y, z) midpoint on the template's grid.
    changes
        Session to how the visit is deformed against the midpoint; None: not estimated.
    """

    midpoint: Midpoint
    agreement: npt.NDArray[np.float64]
    tissues: Segmentation
    way: Normalisation
    probability: Mapping[str, Float32]
    image: Float32
    changes: Mapping[str, Change] | None


def anatomy(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Find one participant's anatomy and write it, with quality control and page.

    Every error names the participant.
    """
    participant = unit.params["participant_id"]
    try:
        return _make(unit, store)
    except VoxcloudError as error:
        error.args = tuple(
            text if f"sub-{participant}" in text else f"sub-{participant}: {text}" for text in error.problems
        )
        raise


def _make(unit: WorkUnit, store: Store) -> dict[str, Any]:
    phases = Phases()
    sessions = list(unit.params["sessions"])
    visits = {session: load_volume(store.local_path(unit.places["images"][session])) for session in sessions}
    template = load_template(unit.params["resolution_mm"])
    phases.end("read")
    found = find_anatomy(unit, visits, template, phases)
    quality, page = anatomy_quality(unit, template, found)
    phases.end("quality")
    write_anatomy(unit, store, template, found)
    names = anatomy_pages(unit.params["participant_id"])
    for name, data in zip(names, (json.dumps(quality, allow_nan=False, indent=1), page), strict=True):
        store.write_bytes(name, data.encode())
    phases.end("write")
    children = _child_cpu(found)
    return {
        "volumes_ml": {name: round(float(ml), 3) for name, ml in found.tissues.report["volumes_ml"].items()},
        "warnings": list(quality["warnings"]),
        "phases_cpu_s": phases.seconds | {"registrations": round(children, 3)},
        CHILD_CPU: children,
    }


def find_anatomy(
    unit: WorkUnit, visits: Mapping[str, Volume], template: Template, phases: Phases | None = None
) -> Anatomy:
    """Find the anatomy behind a participant's visits.

    Raises
    ------
    RegistrationError
        If a visit is not of the same head as the others, or the head cannot be brought onto the template.
    """
    phases = phases or Phases()
    contrast = unit.params["contrast"]
    images = {session: np.clip(visit.values, 0, LARGEST.get(contrast)) for session, visit in visits.items()}
    midpoint = midpoint_template(list(images.values()), [visit.affine for visit in visits.values()])
    phases.end("midpoint")
    head = np.nan_to_num(midpoint.image, nan=0.0)
    engine = unit.params["registration"]
    own = {"image": template.t1}
    rough = normalise(
        {"image": head}, midpoint.affine, own, template.affine, template_mask=template.brain, engine=engine
    )
    _refuse_lost(rough)
    phases.end("first normalisation")
    tissues = _segmented(midpoint, rough, template, contrast)
    phases.end("segmentation")
    agreement = head_agreement(
        list(images.values()),
        [visit.affine for visit in visits.values()],
        list(midpoint.matrices),
        tissues.brain,
        midpoint.affine,
    )
    _refuse_other_heads(unit, agreement)
    phases.end("same head")
    channels = {"image": head, "GM": tissues.gm, "WM": tissues.wm}
    own |= {label: template.priors[label] for label in TISSUES}
    way = normalise(
        channels,
        midpoint.affine,
        own,
        template.affine,
        template_mask=template.brain,
        mask=tissues.brain,
        engine=engine,
        initial=rough.matrix,
    )
    _refuse_lost(way)
    phases.end("normalisation")
    tissues = _segmented(midpoint, way, template, contrast)
    phases.end("segmentation again")
    image, *probabilities = way.to_template(
        [head, *(np.asarray(getattr(tissues, label.lower())) for label in TISSUES)],
        midpoint.affine,
        order=1,
        outside=0.0,
    )
    probability = {label: np.clip(p, 0, 1) for label, p in zip(TISSUES, probabilities, strict=True)}
    changes = _changes(unit, images, visits, midpoint, tissues, way)
    phases.end("change of volume")
    return Anatomy(midpoint, agreement, tissues, way, probability, image, changes)


def _refuse_other_heads(unit: WorkUnit, agreement: npt.NDArray[np.float64]) -> None:
    participant = unit.params["participant_id"]
    wrong = [
        f"{session_stem(participant, session)}: {flag}"
        for session, flag in zip(unit.params["sessions"], other_heads(agreement), strict=True)
        if flag
    ]
    if wrong:
        raise RegistrationError(*wrong)


def _refuse_lost(way: Normalisation) -> None:
    if way.flagged:
        raise RegistrationError(way.flagged)


def _segmented(midpoint: Midpoint, way: Normalisation, template: Template, contrast: str) -> Segmentation:
    """Segment the midpoint by the template's tissues, brought there."""
    names = ("GM", "WM", "CSF")
    *priors, brain = way.to_participant(
        [*(template.priors[name] for name in names), template.brain.astype(np.float32)],
        midpoint.affine,
        midpoint.image.shape,
    )
    size = np.sqrt((midpoint.affine[:3, :3] ** 2).sum(axis=0))
    near = ndimage.distance_transform_edt(brain < 0.5, sampling=size) <= CANDIDATE_MM
    return segment(
        midpoint.image,
        dict(zip(names, priors, strict=True)),
        mask=near,
        voxel_mm=size.tolist(),
        name=contrast,
    )


def _changes(
    unit: WorkUnit,
    images: Mapping[str, npt.NDArray[Any]],
    visits: Mapping[str, Volume],
    midpoint: Midpoint,
    tissues: Segmentation,
    way: Normalisation,
) -> dict[str, Change] | None:
    """Return how each visit is deformed against the midpoint, on the template's grid."""
    if unit.params["longitudinal"] != "deformation":
        return None
    if len(images) == 1:
        same = Change(np.ones(way.jacobian.shape, np.float32), np.zeros((*way.jacobian.shape, 3), np.float32))
        return dict.fromkeys(images, same)
    found = volume_change(midpoint, list(images.values()), [visit.affine for visit in visits.values()], tissues.brain)
    changes = {}
    for k, session in enumerate(images):
        ratio = found.jacobian(k, midpoint.affine, midpoint.image.shape)
        moved = found.displacement(k, midpoint.affine, midpoint.image.shape)
        (ratio,) = way.to_template([ratio], midpoint.affine, order=1, outside=1.0)
        axes = way.to_template([moved[..., axis] for axis in range(3)], midpoint.affine, order=1, outside=0.0)
        changes[session] = Change(ratio, np.stack(axes, axis=-1))
    return changes


def _child_cpu(found: Anatomy) -> float:
    of_way = found.way.report["cpu_s"]
    return float(found.midpoint.report.get("child_cpu_s", 0.0)) + float(of_way["affine"]) + float(of_way["warp"])
