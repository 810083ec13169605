"""The units that take maps into template space: one per participant for the anatomy, one per session for its maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.bids.nifti import open_nifti
from voxcloud.bids.tables import IMAGE_COLUMNS
from voxcloud.bids.templates import brain_place as template_place
from voxcloud.bids.templates import study_mask
from voxcloud.config.load import LoadedStudy
from voxcloud.config.space import DWI_MAPS, MPM_MAPS, TISSUES, VOLUME, Space
from voxcloud.plan.dwi_sessions import DWI
from voxcloud.plan.modality import TOLD, SessionPlan
from voxcloud.plan.mpm_sessions import MPM
from voxcloud.plan.paths import (
    anatomy_outputs,
    participant_path,
    session_map_path,
    session_stem,
    space_map_path,
    space_outputs,
)
from voxcloud.plan.sessions import MAPS_STEPS
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.plan.units import SLACK_BYTES
from voxcloud.storage.records import list_records, read_record
from voxcloud.storage.store import Store

ANATOMY, TEMPLATE_MAPS = "anatomy", "template-maps"
SPACE_STEPS = (ANATOMY, TEMPLATE_MAPS)
SESSION_STEPS = (*MAPS_STEPS, *SPACE_STEPS)
SPACE_QC = "space-qc"
TIV = "tiv"
PROBABILITY = "probseg"

# Memory of a participant and of a session (tests/pipeline/test_memory.py holds them to this): libraries and compiled
# kernels; the registration, a process beside it, on the template's grid; images of every visit; the template's grid.
LIBRARIES_BYTES = 500_000_000
REGISTRATION_BYTES_PER_VOXEL = 400
VISIT_BYTES_PER_VOXEL = 24
MIDPOINT_BYTES_PER_VOXEL = 120
GRID_BYTES_PER_VOXEL = 150
CPU_S_PER_GRID_VOXEL = 8e-5
CPU_S_PER_VISIT = 20.0


@dataclass(frozen=True)
class Made:
    """An image that a unit of the plan makes: known by its unit's fingerprint, since it may not be there yet."""

    unit: WorkUnit
    output: str
    signature: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What stands for the digest of its bytes."""
        return digest_json([self.unit.fingerprint, self.output])


@dataclass(frozen=True)
class SpacePlan:
    """What is to be made in template space.

    Attributes
    ----------
    units
        ``anatomy`` and ``template-maps``.
    images
        One row per image of the group models, as ``bids.tables.read_images`` gives them.
    made
        Path of such an image to how it is made.
    tiv
        Participant to total intracranial volume in ml, once it is known.
    left_out
        (participant, session) to why it has no maps, where the others go on.
    problems
        Sentences: participants of whom nothing can be made.
    """

    units: tuple[WorkUnit, ...] = ()
    images: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(IMAGE_COLUMNS)))
    made: Mapping[str, Made] = field(default_factory=dict)
    tiv: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass
class _Visit:
    participant: str
    session: str
    mpm: WorkUnit | None = None
    dwi: WorkUnit | None = None


def plan_space(
    loaded: LoadedStudy, store: Store, sessions: Sequence[SessionPlan], failed: Mapping[str, str]
) -> SpacePlan:
    """Plan what brings the maps of all sessions into template space.

    Parameters
    ----------
    sessions
        The units that make maps, of each modality.
    failed
        Key of a unit to why it failed, where the study goes on without it.
    """
    space = loaded.study.space
    if space is None:
        return SpacePlan()
    visits, left_out = _visits(sessions, failed)
    contrast = _contrast(space, visits.values())
    voxels = len(study_mask(template_place(space.resolution_mm)).mask.ravel())
    units: list[WorkUnit] = []
    problems: list[str] = []
    rows: list[tuple[Any, ...]] = []
    made: dict[str, Made] = {}
    people: dict[str, list[_Visit]] = {}
    for visit in visits.values():
        people.setdefault(visit.participant, []).append(visit)
    for participant, own in sorted(people.items()):
        with_anatomy = [visit for visit in own if visit.mpm is not None]
        if not with_anatomy:
            problems.append(
                f"sub-{participant}: expected a session with {contrast}, by which diffusion maps come into template "
                "space, found none. Make maps of its multi-parameter mapping, or leave the participant out."
            )
            continue
        anatomy = _anatomy_unit(space, store, participant, with_anatomy, contrast, voxels)
        units.append(anatomy)
        if anatomy.key in failed:
            left_out |= {(participant, visit.session): failed[anatomy.key] for visit in own}
            continue
        for visit in own:
            for modality in ("mpm", "dwi"):
                maker: WorkUnit | None = getattr(visit, modality)
                if maker is None:
                    continue
                unit = _maps_unit(space, store, visit, modality, maker, anatomy, voxels)
                units.append(unit)
                if unit.key in failed:
                    left_out[participant, visit.session] = failed[unit.key]
                    continue
                for map_name, label, output, made_by in _images(visit, unit, anatomy):
                    path = str(store.local_path(output))
                    rows.append((participant, visit.session, map_name, label, path, None))
                    made[path] = Made(made_by, output, _signature(visit, map_name))
    images = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS), dtype=object).astype({"volume": "Int64"})
    return SpacePlan(tuple(units), images, made, head_volumes(store, units), left_out, tuple(problems))


def _visits(
    sessions: Sequence[SessionPlan], failed: Mapping[str, str]
) -> tuple[dict[tuple[str, str], _Visit], dict[tuple[str, str], str]]:
    """Return the sessions with maps by participant and session, and those that have none although they were scanned."""
    visits: dict[tuple[str, str], _Visit] = {}
    left_out: dict[tuple[str, str], str] = {}
    for plan in sessions:
        for unit in plan.units:
            who = unit.params["session"]["participant_id"], unit.params["session"]["session_id"]
            if unit.key in failed:
                left_out[who] = failed[unit.key]
                continue
            visit = visits.setdefault(who, _Visit(*who))
            setattr(visit, plan.modality.name, unit)
        for stem, texts in plan.problems.items():
            participant, _, session = stem.removeprefix("sub-").partition("_ses-")
            left_out[participant, session] = "; ".join(texts)
    return dict(sorted(visits.items())), left_out


def _contrast(space: Space, visits: Iterator[_Visit] | Any) -> str:
    """Return the image by which all visits of all people are aligned: one for the whole study."""
    if space.anatomy != "auto":
        return space.anatomy
    units = [visit.mpm for visit in visits if visit.mpm is not None]
    return "MTsat" if all("MTw" in unit.params["session"]["series"] for unit in units) else "R1map"


def _anatomy_unit(
    space: Space, store: Store, participant: str, visits: Sequence[_Visit], contrast: str, voxels: int
) -> WorkUnit:
    makers = {visit.session: visit.mpm for visit in visits if visit.mpm is not None}
    n = max(_voxels(unit) for unit in makers.values())
    outputs = anatomy_outputs(participant, list(makers), contrast, space.longitudinal)
    return WorkUnit(
        step=ANATOMY,
        name=f"sub-{participant}",
        params={
            "participant_id": participant,
            "sessions": list(makers),
            "contrast": contrast,
            "resolution_mm": space.resolution_mm,
            "registration": space.registration,
            "longitudinal": space.longitudinal,
        },
        inputs={f"ses-{session}": unit.fingerprint for session, unit in makers.items()},
        places={
            "output": store.url,
            "images": {session: session_map_path(participant, session, contrast) for session in makers},
        },
        upstream=tuple(unit.key for unit in makers.values()),
        outputs=outputs,
        projected_mem=LIBRARIES_BYTES
        + voxels * (REGISTRATION_BYTES_PER_VOXEL + GRID_BYTES_PER_VOXEL)
        + n * (VISIT_BYTES_PER_VOXEL * len(makers) + MIDPOINT_BYTES_PER_VOXEL),
        bytes_read=4 * n * len(makers),
        bytes_written=4 * (5 * n + 6 * voxels),
        objects_read=len(makers),
        expected_s=CPU_S_PER_GRID_VOXEL * voxels + CPU_S_PER_VISIT * len(makers),
    )


def _maps_unit(
    space: Space, store: Store, visit: _Visit, modality: str, maker: WorkUnit, anatomy: WorkUnit, voxels: int
) -> WorkUnit:
    maps = _maps_of(modality, maker)
    volume = modality == "mpm"
    smoothed = (*(name for name in maps if name != "PDmap"), *[VOLUME] * volume)
    fwhm = {name: {label: space.fwhm(name, label) for label in TISSUES} for name in smoothed}
    size = _voxels(maker)
    outputs = space_outputs(visit.participant, visit.session, modality, maps, smoothed)
    return WorkUnit(
        step=TEMPLATE_MAPS,
        name=f"{session_stem(visit.participant, visit.session)}_{modality}",
        params={
            "participant_id": visit.participant,
            "session_id": visit.session,
            "modality": modality,
            "maps": list(maps),
            "volume": volume,
            "contrast": anatomy.params["contrast"],
            "resolution_mm": space.resolution_mm,
            "longitudinal": space.longitudinal,
            "fwhm_mm": fwhm,
            "field_strength_t": maker.params["session"]["scanner"].get("MagneticFieldStrength"),
        },
        inputs={"maps": maker.fingerprint, "anatomy": anatomy.fingerprint},
        places={"output": store.url},
        upstream=(anatomy.key, maker.key),
        outputs=outputs,
        projected_mem=LIBRARIES_BYTES + voxels * GRID_BYTES_PER_VOXEL + size * MIDPOINT_BYTES_PER_VOXEL,
        bytes_read=4 * size * (len(maps) + 1),
        bytes_written=2 * voxels * len(outputs),
        objects_read=len(maps) + 4,
        expected_s=10.0 + voxels * len(maps) * 3e-6,
    )


def _maps_of(modality: str, maker: WorkUnit) -> tuple[str, ...]:
    """Return the maps that a session has in template space."""
    if modality == "dwi":
        return DWI_MAPS
    # PD, scaled in every session, cannot show change: it is there to be looked at, and is not smoothed.
    return tuple(name for name in (*MPM_MAPS, "PDmap") if name != "MTsat" or "MTw" in maker.params["session"]["series"])


def _images(visit: _Visit, unit: WorkUnit, anatomy: WorkUnit) -> Iterator[tuple[str, str, str, WorkUnit]]:
    """Yield map, label, path and maker of every image of a session that group models can use."""
    who = visit.participant, visit.session
    for label in TISSUES:
        for name in unit.params["fwhm_mm"]:
            yield name, label, space_map_path(*who, name, label), unit
        if unit.params["volume"]:
            yield PROBABILITY, label, participant_path(visit.participant, PROBABILITY, label=label), anatomy


def _signature(visit: _Visit, map_name: str) -> dict[str, Any]:
    """Return how an image was made, in the words of sidecars (``bids.signatures``)."""
    if map_name in DWI_MAPS:
        return DWI.how_made(visit.dwi) if visit.dwi is not None else {}
    return MPM.how_made(visit.mpm) if visit.mpm is not None and map_name in MPM_MAPS else {}


def _voxels(unit: WorkUnit) -> int:
    """Return the voxels of the images that a session's maps are made of."""
    root, inputs = Path(unit.places["bids"]), list(unit.inputs)
    names = [name for name in inputs if name.endswith((".nii", ".nii.gz")) and (root / name).is_file()]
    shape = open_nifti(root / names[0]).shape if names else (256, 256, 256)
    return int(np.prod(shape))


def head_volumes(store: Store, units: Sequence[WorkUnit]) -> dict[str, float]:
    """Return the total intracranial volume of every participant whose anatomy is done, ml."""
    wanted = [unit for unit in units if unit.step == ANATOMY]
    known = list_records(store) if wanted else {}
    found: dict[str, float] = {}
    for unit in wanted:
        mine = unit.fingerprint[:16]
        if (mine, "done") in known.get((unit.step, unit.name), []):
            record = read_record(store, unit.step, unit.name, mine, "done")
            if record is not None and record.fingerprint == unit.fingerprint:
                found[unit.params["participant_id"]] = float(record.result["volumes_ml"]["TIV"])
    return found


def with_tiv(participants: pd.DataFrame, tiv: Mapping[str, float]) -> pd.DataFrame:
    """Return the participants with a column ``tiv`` (ml); a column of the tables goes before.

    Before a participant's anatomy is done its volume is not known, and a value stands in for it that no design with
    volumes can have: whatever is planned with it waits for the anatomy, and is planned anew after it.
    """
    if TIV in participants.columns:
        return participants
    stand_in = {str(p): -1.0 - k - 0.37 * (k % 7) ** 2 for k, p in enumerate(participants["participant_id"])}
    values = [tiv.get(str(p), stand_in[str(p)]) for p in participants["participant_id"]]
    return participants.assign(**{TIV: values})


def space_qc_unit(
    loaded: LoadedStudy, store_url: str, plan: SpacePlan, failed: Mapping[str, str], other: str
) -> WorkUnit:
    """Return the unit that looks at all participants in template space together.

    Parameters
    ----------
    failed
        The reason of each unit without results.
    other
        The page on the maps themselves.
    """
    made = [unit for unit in plan.units if unit.key not in failed]
    without = {unit.name: failed[unit.key] for unit in plan.units if unit.key in failed}
    without |= {session_stem(*who): reason for who, reason in plan.left_out.items()}
    told = {"failed": without, "warnings": list(plan.problems)}
    pages = {
        step: [next(path for path in unit.outputs if path.endswith("_qc.json")) for unit in made if unit.step == step]
        for step in SPACE_STEPS
    }
    return WorkUnit(
        step=SPACE_QC,
        name="cohort",
        params={"study": loaded.study.name, **({"other_page": other} if other else {})},
        inputs={unit.key: unit.fingerprint for unit in made} | {TOLD: digest_json(told)},
        places={
            "output": store_url,
            "anatomies": pages[ANATOMY],
            "sessions": pages[TEMPLATE_MAPS],
            "told": told,
        },
        upstream=tuple(unit.key for unit in made),
        outputs=("qc_space.html", "tables/qc_space.tsv", "tables/qc_space.json"),
        projected_mem=SLACK_BYTES + 400_000 * len(plan.units),
        expected_s=2.0 + 0.05 * len(plan.units),
    )
