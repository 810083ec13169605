"""From a study file to work units: pure bookkeeping over tables, digests and designs; nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.bids.images import MaskGrid, read_header
from voxcloud.bids.tables import Cohort, build_cohort, read_images, read_participants, read_sessions
from voxcloud.bids.templates import is_brain_place, study_mask
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import MaskError, PlanError, StudyFileError, TableError, VoxcloudError
from voxcloud.plan import units as make
from voxcloud.plan.closing import behaviour_unit
from voxcloud.plan.design import build_design
from voxcloud.plan.modality import SessionChoice, SessionPlan
from voxcloud.plan.oversights import oversights, time_slips, unasked
from voxcloud.plan.paths import session_stem
from voxcloud.plan.scores import BehaviourFits, fit_behaviour
from voxcloud.plan.selection import LeftOut, Selection, excluded_image, select, without_exclusion
from voxcloud.plan.sessions import all_sentences, plan_sessions
from voxcloud.plan.sessions import left_out as asked_out
from voxcloud.plan.space import SpacePlan, plan_space, with_tiv
from voxcloud.plan.stacks import Problems, Signatures, Stack, missing_files, plan_stacks
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.plan.volumes import SearchVolume, VolumesPlan, plan_volumes
from voxcloud.schema import stack_name
from voxcloud.storage.store import Store

EVERY_SESSION = SessionChoice()
BadImages = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a run would do; the units that gather results come last (``plan.closing``).

    A study without models has neither cohort nor grid, one without raw images no sessions.
    """

    loaded: LoadedStudy
    units: tuple[WorkUnit, ...]
    sessions: tuple[SessionPlan, ...] = ()
    space: SpacePlan = field(default_factory=SpacePlan)
    cohort: Cohort | None = None
    grid: MaskGrid | None = None
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    designs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    behaviour: BehaviourFits | None = None
    searches: int = 0
    volumes: VolumesPlan = field(default_factory=VolumesPlan)
    problems: tuple[str, ...] = ()
    missing_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_key: Mapping[str, WorkUnit] = field(default_factory=dict)


def read_cohort(loaded: LoadedStudy, made: pd.DataFrame | None = None) -> Cohort:
    """Read and join the study's tables; ``made`` are the images of a study that makes its own.

    Raises
    ------
    TableError
        Telling of every table that cannot be used, then of every row that has no partner in the other tables.
    """
    study = loaded.study
    problems: list[str] = []

    def read(reader: Callable[[Path], pd.DataFrame], path: str | None) -> pd.DataFrame:
        assert path is not None  # the study file has seen to it where there are models
        try:
            return reader(Path(loaded.resolve(path)))
        except TableError as error:
            problems.extend(error.problems)
            return pd.DataFrame()

    images = read(read_images, study.images) if made is None else made
    participants = read(read_participants, study.participants)
    sessions = None
    if study.sessions:
        sessions = read(lambda path: read_sessions(path, baseline=study.baseline_session), study.sessions)
    if problems:
        raise TableError(*problems)
    return build_cohort(images, participants, sessions)


def read_mask(loaded: LoadedStudy, path: str, key: str = "mask") -> MaskGrid:
    """Read a mask that the study file names, by default the study's own.

    Raises
    ------
    MaskError, ImageError
        If there is no such file, or it is no mask.
    """
    place = loaded.resolve(path)
    if not is_brain_place(path) and not Path(place).exists():
        raise MaskError(f"{key}: expected a NIfTI mask, found no file at {place}. Correct the path in the study file.")
    return study_mask(path if is_brain_place(path) else place)


def check_volumes(loaded: LoadedStudy, grid: MaskGrid) -> list[str]:
    """Return what is wrong with the search volumes and the other files that the study file names."""
    study = loaded.study
    problems = []
    for name, volume in study.search_volumes.items():
        path = loaded.resolve(volume.path)
        try:
            inside = read_mask(loaded, path, "path")
            read_header(path).check_grid(grid)
            if inside.shape != grid.shape or not np.allclose(inside.affine, grid.affine, atol=1e-3):
                raise MaskError(
                    f"{path}: expected its axes in the order of the mask's, found others. Save it as the mask."
                )
            if not (inside.mask & grid.mask).any():
                raise MaskError(
                    f"{path}: expected voxels inside the mask, found none. Check that both are in one space."
                )
        except VoxcloudError as error:
            problems += [f"search_volumes.{name}: {without_exclusion(text)}" for text in error.problems]
    named = {"template": study.template}
    if study.atlas is not None:
        named |= {"atlas.image": study.atlas.image, "atlas.labels": study.atlas.labels}
    problems += [
        f"{key}: expected a file, found none at {loaded.resolve(path)}. Correct the path in the study file."
        for key, path in named.items()
        if path is not None and not Path(loaded.resolve(path)).is_file()
    ]
    return problems


def read_study_mask(loaded: LoadedStudy) -> MaskGrid:
    """Read the study's own mask; see ``read_mask``."""
    return read_mask(loaded, make.mask_place(loaded))


def build_plan(
    loaded: LoadedStudy,
    store: Store,
    bad_images: BadImages,
    choice: SessionChoice = EVERY_SESSION,
    failed: Mapping[str, str] | None = None,
) -> StudyPlan:
    """Plan a study: maps of its raw images, group models, or both.

    Parameters
    ----------
    loaded
        The study file.
    store
        The study's output; only read here (manifests of earlier runs).
    bad_images
        (participant, session, digest) to reason, for images that stacking found unusable and the study excludes.
    choice
        Which sessions to make maps of.
    failed
        Key to reason of the units of single sessions that failed and without which the study goes on.

    Raises
    ------
    VoxcloudError
        If tables, masks or volumes cannot be used, or no model is left that can be fitted. A model that cannot be
        fitted beside others that can is a problem of the plan, and the others go on.
    """
    sessions = plan_sessions(loaded, store, choice)
    space = plan_space(loaded, store, sessions, failed or {})
    if loaded.study.models:
        plan = _plan_models(loaded, store, space, bad_images)
    elif any(of.units for of in sessions):
        plan = StudyPlan(loaded=loaded, units=())
    else:
        raise PlanError(*all_sentences(sessions))
    units = (*(unit for of in sessions for unit in of.units), *space.units)
    return replace(
        plan,
        units=(*units, *plan.units),
        sessions=sessions,
        space=space,
        problems=(*all_sentences(sessions), *space.problems, *plan.problems),
        warnings=(*dict.fromkeys(text for of in sessions for text in of.warnings), *plan.warnings),
        by_key={unit.key: unit for unit in units} | dict(plan.by_key),
    )


def _plan_models(loaded: LoadedStudy, store: Store, space: SpacePlan, bad_images: BadImages) -> StudyPlan:
    study = loaded.study
    if study.space is not None and study.on_bad_image == "stop" and (space.left_out or space.problems):
        return StudyPlan(loaded=loaded, units=(), problems=(_waits_for(space),))
    cohort = read_cohort(loaded, space.images if study.space is not None else None)
    grid = read_study_mask(loaded)
    wrong = check_volumes(loaded, grid)
    if wrong:
        raise StudyFileError(*wrong)
    volumes = plan_volumes(loaded, store, make.mask_digest(grid), make.mask_place(loaded))
    behaviour = fit_behaviour(loaded, cohort)
    participants = cohort.participants if behaviour is None else behaviour.join(cohort.participants)
    if study.space is not None:
        participants = with_tiv(participants, space.tiv)
    problems = Problems()
    stacks = plan_stacks(loaded, store, cohort, grid, space.made, problems)
    absent = missing_files(stacks)
    if study.on_bad_image == "exclude":
        bad_images = absent | dict(bad_images)
    left_out = [LeftOut(i.participant_id, i.session_id, i.what, i.reason) for i in cohort.left_out]
    for (p, s), reason in (asked_out(loaded) | dict(space.left_out)).items():
        left_out.append(LeftOut(p, s or None, "session" if s else "participant", reason))
    left_out += unasked(study, participants, {item.participant_id for item in left_out if item.what == "participant"})
    left_out += [
        excluded_image(image, stack.name, bad_images[image.identity])
        for stack in stacks.values()
        for image in stack.images
        if image.identity in bad_images
    ]
    signatures = Signatures(stacks)
    designs, selections = _designs(loaded, stacks, participants, bad_images, behaviour, signatures, left_out, problems)
    if not designs and not bad_images:
        wrong = [*time_slips(study, stacks.values()), *problems.sentences()]
        if study.space is None:
            raise PlanError(*wrong)
        # Maps are made all the same: early in a study there are too few people for any model.
        return StudyPlan(loaded=loaded, units=(), problems=tuple(wrong), left_out=tuple(dict.fromkeys(left_out)))
    searches = count_searches(volumes.volumes, list(designs.values()))
    context = make.Context(loaded, store.url, grid, searches, volumes.volumes)
    units = [*make.stack_units(context, stacks), *volumes.units]
    for design, selection in zip(designs.values(), selections, strict=True):
        tissue = stacks.get(_tissue_stack(loaded, selection.label))
        units += make.model_units(context, stacks[selection.stack], selection.model, design, tissue, bad_images)
    if behaviour is not None:
        units.append(behaviour_unit(context, behaviour))
    return StudyPlan(
        loaded=loaded,
        cohort=cohort,
        grid=grid,
        stacks=stacks,
        designs={digest_json(d): d for d in designs.values()},
        units=tuple(_distinct(units)),
        left_out=tuple(dict.fromkeys(left_out)),
        behaviour=behaviour,
        searches=searches["study"],
        volumes=volumes,
        problems=problems.sentences(),
        missing_files=() if study.on_bad_image == "exclude" else tuple(absent.values()),
        warnings=(
            *cohort.warnings,
            *_visit_means(loaded, cohort),
            *signatures.warnings(),
            *oversights(study, stacks.values(), participants),
        ),
        by_key={unit.key: unit for unit in units},
    )


def _waits_for(space: SpacePlan) -> str:
    """Say that models wait for sessions that cannot be used, and what to do."""
    names = [session_stem(*who) for who in space.left_out]
    named = f" ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})" if names else ""
    return (
        f"models: expected maps of every session, found {len(names) + len(space.problems)} without{named}; their "
        "reasons stand beside them. Mend these, or let the study go on without them: on_bad_image: exclude."
    )


def _distinct(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    return list({unit.key: unit for unit in units}.values())


def _tissue_stack(loaded: LoadedStudy, label: str) -> str:
    mask = loaded.study.tissue_masks.get(label)
    return stack_name(mask.map, label) if mask else ""


def _visit_means(loaded: LoadedStudy, cohort: Cohort) -> list[str]:
    named = {name for model in loaded.study.models for name in re.findall(r"\w+", model.formula)}
    return [
        f"The participants table has no column {name}; each participant's value is the mean over the visits with an "
        "image in the sessions table."
        for name in cohort.visit_means
        if name in named
    ]


def _designs(
    loaded: LoadedStudy,
    stacks: Mapping[str, Stack],
    participants: pd.DataFrame,
    bad_images: BadImages,
    behaviour: BehaviourFits | None,
    signatures: Signatures,
    left_out: list[LeftOut],
    problems: Problems,
) -> tuple[dict[str, dict[str, Any]], list[Selection]]:
    """Return a design file per (model, stack); a model that cannot be built is a problem by name, others go on."""
    designs: dict[str, dict[str, Any]] = {}
    selections: list[Selection] = []
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    study = loaded.study
    absent = {item.participant_id for item in left_out if item.what == "participant"}
    for model in study.models:
        unusable = behaviour.unusable(participants, model) if behaviour is not None else {}
        for stack in stacks.values():
            if stack.map not in model.maps or (model.labels is not None and stack.label not in model.labels):
                continue
            images = [image for image in stack.images if image.identity not in bad_images]
            try:
                selection = select(study, model, stack.map, stack.label, stack.name, images, participants, unusable)
                signatures.refuse_differences(selection)
                design, gone = build_design(study, selection, known)
            except ValueError as error:  # every error of a design is one
                problems.add(model.name, stack.name, error)
                continue
            # Who has no image at all is named once, not in every model.
            left_out += [i for i in (*selection.left_out, *gone) if i.participant_id not in absent]
            designs[f"{model.name}/{stack.name}"] = design
            selections.append(selection)
    return designs, selections


def count_searches(volumes: Mapping[str, SearchVolume], designs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the searches of the study and of each model: stacks x coefficients x contrasts x directions x volumes."""
    counts = {"study": 0}
    for design in designs:
        places = len([v for v in volumes.values() if v.label in ("", design["label"])]) or 1
        for coefficient in design["coefficients"].values():
            directions = sum(
                2 if test["alternative"] == "two-sided" and test["kind"] == "t" else 1
                for test in coefficient["tests"].values()
            )
            counts["study"] += places * directions
            counts[design["model"]] = counts.get(design["model"], 0) + places * directions
    return counts


def as_array(values: Any) -> np.ndarray:
    """Return a design file's numbers as float64."""
    return np.asarray(values, dtype=np.float64)
