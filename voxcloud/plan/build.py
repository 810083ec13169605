"""From a study file to work units: pure bookkeeping over tables, digests and designs; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.bids.images import MaskGrid, load_mask
from voxcloud.bids.tables import Cohort, build_cohort, read_images, read_participants, read_sessions
from voxcloud.config.load import LoadedStudy
from voxcloud.config.study import Model
from voxcloud.errors import DesignError, StudyFileError, nearest
from voxcloud.plan import units as make
from voxcloud.plan.design import build_design
from voxcloud.plan.scores import BehaviourFits, fit_behaviour
from voxcloud.plan.selection import ImageRef, LeftOut, Selection, group_of, select
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.schema import stack_name, variable
from voxcloud.storage.stack import Allocation, StackSpec, allocate_rows, latest_manifest
from voxcloud.storage.store import Store, file_digest

MISSING_FILE = "missing"
BadImages = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Stack:
    """One (map, label) of the study: its images, its place and the rows they take."""

    map: str
    label: str
    spec: StackSpec
    images: tuple[ImageRef, ...]
    allocation: Allocation

    @property
    def name(self) -> str:
        return stack_name(self.map, self.label)


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a run would do."""

    loaded: LoadedStudy
    cohort: Cohort
    grid: MaskGrid
    stacks: Mapping[str, Stack]
    designs: Mapping[str, dict[str, Any]]
    units: tuple[WorkUnit, ...]
    left_out: tuple[LeftOut, ...]
    behaviour: BehaviourFits | None
    searches: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_key: Mapping[str, WorkUnit] = field(default_factory=dict)


def read_cohort(loaded: LoadedStudy) -> Cohort:
    """Read and join the study's tables."""
    study = loaded.study
    images = read_images(Path(loaded.resolve(study.images)))
    participants = read_participants(Path(loaded.resolve(study.participants)))
    sessions = read_sessions(Path(loaded.resolve(study.sessions))) if study.sessions else None
    return build_cohort(images, participants, sessions)


def build_plan(loaded: LoadedStudy, store: Store, bad_images: BadImages) -> StudyPlan:
    """Plan a study.

    Parameters
    ----------
    loaded
        The study file.
    store
        The study's output; only read here (manifests of earlier runs).
    bad_images
        (participant, session, digest) to reason, for images that stacking found unusable and the study excludes.
    """
    study = loaded.study
    cohort = read_cohort(loaded)
    grid = load_mask(loaded.resolve(study.mask))
    behaviour = fit_behaviour(loaded, cohort)
    participants = cohort.participants if behaviour is None else behaviour.join(cohort.participants)
    stacks = _stacks(loaded, store, cohort, grid)
    left_out = [LeftOut(i.participant_id, i.session_id, i.what, i.reason) for i in cohort.left_out]
    left_out += [
        LeftOut(p, s, stack.name, bad_images[(p, s, d)])
        for stack in stacks.values()
        for (p, s, d) in (i.identity for i in stack.images)
        if (p, s, d) in bad_images
    ]
    designs, selections, problems = _designs(loaded, stacks, participants, bad_images, behaviour, left_out)
    searches = count_searches(loaded, list(designs.values()))
    context = make.Context(loaded, store.url, grid, searches)
    units = make.stack_units(context, stacks)
    for design, selection in zip(designs.values(), selections, strict=True):
        tissue = stacks.get(_tissue_stack(loaded, selection.label))
        units += make.model_units(context, stacks[selection.stack], selection.model, design, tissue, bad_images)
    if behaviour is not None:
        units.append(make.behaviour_unit(context, behaviour))
    units += make.closing_units(context, units, [])
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
        problems=tuple(problems),
        warnings=tuple(getattr(cohort, "warnings", ())),
        by_key={unit.key: unit for unit in units},
    )


def _distinct(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    return list({unit.key: unit for unit in units}.values())


def _tissue_stack(loaded: LoadedStudy, label: str) -> str:
    mask = loaded.study.masks.get(label) if label in ("GM", "WM") else None  # type: ignore[call-overload]
    return stack_name(mask.map, label) if mask else ""


def _stacks(loaded: LoadedStudy, store: Store, cohort: Cohort, grid: MaskGrid) -> dict[str, Stack]:
    """Return the stacks that some model or mask needs, with a row for each image."""
    study = loaded.study
    table = cohort.images
    have = {(str(m), str(lab)) for m, lab in table[["map", "label"]].drop_duplicates().itertuples(index=False)}
    needed: list[tuple[str, str]] = []
    for model in study.models:
        for map_name in model.maps:
            _check_map(model, map_name, {m for m, _ in have})
            pairs = [
                (m, lab) for m, lab in sorted(have) if m == map_name and (model.labels is None or lab in model.labels)
            ]
            needed += [p for p in pairs if p not in needed]
    for tissue, mask in study.masks.items():
        label: str = tissue
        if (mask.map, label) not in have:
            raise StudyFileError(
                f"masks.{label}: the images table has no map '{mask.map}' with label {label}. Add the tissue "
                "probability "
                f"images, or take masks.{label} out to analyse every voxel of `mask`."
            )
        if any(lab == label for _, lab in needed) and (mask.map, label) not in needed:
            needed.append((mask.map, label))
    digests: dict[str, str] = {}
    stacks: dict[str, Stack] = {}
    for map_name, label in needed:
        rows = table[(table["map"] == map_name) & (table["label"] == label)]
        images = tuple(_image_ref(row, digests) for row in rows.itertuples(index=False))
        spec = make.stack_spec(map_name, label, grid)
        allocation = allocate_rows(latest_manifest(store, spec), [image.identity for image in images])
        stacks[stack_name(map_name, label)] = Stack(map_name, label, spec, images, allocation)
    return stacks


def _check_map(model: Model, map_name: str, have: set[str]) -> None:
    entry = variable(map_name)
    if map_name not in have:
        raise StudyFileError(
            f"model {model.name}: the images table has no map '{map_name}'.{nearest(map_name, have)} It has: "
            f"{', '.join(sorted(have))}."
        )
    if not entry.analysable:
        raise StudyFileError(f"model {model.name}: {map_name} cannot be tested: {entry.hint}. Take it out of `maps`.")


def _image_ref(row: Any, digests: dict[str, str]) -> ImageRef:
    path = str(row.path)
    if path not in digests:
        digests[path] = file_digest(path) if Path(path).is_file() else MISSING_FILE
    volume = None if row.volume is None or pd.isna(row.volume) else int(row.volume)
    digest = digests[path] if volume is None else f"{digests[path]}#{volume}"
    day = None if row.day is None or pd.isna(row.day) else float(row.day)
    return ImageRef(str(row.participant_id), str(row.session_id), day, digest, path, volume)


def _designs(
    loaded: LoadedStudy,
    stacks: Mapping[str, Stack],
    participants: pd.DataFrame,
    bad_images: BadImages,
    behaviour: BehaviourFits | None,
    left_out: list[LeftOut],
) -> tuple[dict[str, dict[str, Any]], list[Selection], list[str]]:
    """Return a design file per (model, stack); a model that cannot be built is a problem by name, others go on."""
    designs: dict[str, dict[str, Any]] = {}
    selections: list[Selection] = []
    problems: list[str] = []
    study = loaded.study
    for model in study.models:
        people = participants
        if behaviour is not None:
            people, gone = behaviour.without_unusable(participants, model)
            members = group_of(study, model, participants)
            left_out += [item for item in gone if item.participant_id in members]
        for stack in stacks.values():
            if stack.map not in model.maps or (model.labels is not None and stack.label not in model.labels):
                continue
            images = [image for image in stack.images if image.identity not in bad_images]
            try:
                selection = select(study, model, stack.map, stack.label, stack.name, images, people)
                design, gone = build_design(study, selection)
            except (DesignError, ValueError) as error:
                problems.append(str(error))
                continue
            left_out += [*selection.left_out, *gone]
            designs[f"{model.name}/{stack.name}"] = design
            selections.append(selection)
    return designs, selections, problems


def count_searches(loaded: LoadedStudy, designs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the searches of the study and of each model: stacks x coefficients x contrasts x directions x volumes."""
    counts = {"study": 0}
    for design in designs:
        volumes = len(volumes_of(loaded, design["label"])) or 1
        for coefficient in design["coefficients"].values():
            directions = sum(
                2 if test["alternative"] == "two-sided" and test["kind"] == "t" else 1
                for test in coefficient["tests"].values()
            )
            counts["study"] += volumes * directions
            counts[design["model"]] = counts.get(design["model"], 0) + volumes * directions
    return counts


def volumes_of(loaded: LoadedStudy, label: str) -> list[str]:
    """Return the names of the search volumes in which a label's maps are searched; none means the whole mask."""
    return [name for name, volume in loaded.study.search_volumes.items() if volume.label in ("", label)]


def as_array(values: Any) -> np.ndarray:
    """Return a design file's numbers as float64."""
    return np.asarray(values, dtype=np.float64)
