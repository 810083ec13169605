"""From a study file to work units: pure bookkeeping over tables, digests and designs; nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.bids.images import MaskGrid, load_mask, read_header
from voxcloud.bids.signatures import Sidecars, differences_between, differences_within
from voxcloud.bids.tables import Cohort, build_cohort, read_images, read_participants, read_sessions
from voxcloud.config.load import LoadedStudy
from voxcloud.config.study import Model
from voxcloud.errors import DesignError, MaskError, PlanError, StudyFileError, TableError, VoxcloudError, nearest
from voxcloud.plan import units as make
from voxcloud.plan.closing import behaviour_unit
from voxcloud.plan.design import build_design
from voxcloud.plan.modality import SessionChoice, SessionPlan
from voxcloud.plan.oversights import oversights, time_slips, unasked
from voxcloud.plan.scores import BehaviourFits, fit_behaviour
from voxcloud.plan.selection import ImageRef, LeftOut, Selection, excluded_image, select, without_exclusion
from voxcloud.plan.sessions import all_sentences, plan_sessions
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.schema import stack_name, variable
from voxcloud.storage.stack import Allocation, StackSpec, allocate_rows, latest_manifest
from voxcloud.storage.store import Store, file_digest

MISSING_FILE = "missing"
EVERY_SESSION = SessionChoice()
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
    """Everything that a run would do; the units that gather results come last (``plan.closing``).

    A study without models has neither cohort nor grid, one without raw images no sessions.
    """

    loaded: LoadedStudy
    units: tuple[WorkUnit, ...]
    sessions: tuple[SessionPlan, ...] = ()
    cohort: Cohort | None = None
    grid: MaskGrid | None = None
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    designs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    behaviour: BehaviourFits | None = None
    searches: int = 0
    problems: tuple[str, ...] = ()
    missing_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_key: Mapping[str, WorkUnit] = field(default_factory=dict)


class _Problems:
    """What is wrong with models, gathered: one sentence for all models and stacks that a reason concerns."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[str, str]]] = {}

    def add(self, model: str, stack: str, error: Exception) -> None:
        """Keep every problem of an error."""
        for text in error.problems if isinstance(error, VoxcloudError) else [str(error)]:
            reason = text.removeprefix(f"model {model}, {stack}: ").removeprefix(f"model {model}: ")
            self._found.setdefault(reason, []).append((model, stack))

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence per reason."""
        return tuple(
            f"model{'s' if len({model for model, _ in where}) > 1 else ''} {_some([m for m, _ in where], 3)}, "
            f"{_some([stack for _, stack in where], 3)}: {text}"
            for text, where in self._found.items()
        )


def _some(found: Sequence[str], most: int) -> str:
    names = list(dict.fromkeys(found))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_cohort(loaded: LoadedStudy) -> Cohort:
    """Read and join the study's tables.

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

    images = read(read_images, study.images)
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
    if not Path(place).exists():
        raise MaskError(f"{key}: expected a NIfTI mask, found no file at {place}. Correct the path in the study file.")
    return load_mask(place)


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
    assert loaded.study.mask is not None  # the study file has seen to it where there are models
    return read_mask(loaded, loaded.study.mask)


def build_plan(
    loaded: LoadedStudy, store: Store, bad_images: BadImages, choice: SessionChoice = EVERY_SESSION
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

    Raises
    ------
    VoxcloudError
        If tables, masks or volumes cannot be used, or no model is left that can be fitted. A model that cannot be
        fitted beside others that can is a problem of the plan, and the others go on.
    """
    sessions = plan_sessions(loaded, store, choice)
    if loaded.study.models:
        plan = _plan_models(loaded, store, bad_images)
    elif any(of.units for of in sessions):
        plan = StudyPlan(loaded=loaded, units=())
    else:
        raise PlanError(*all_sentences(sessions))
    units = tuple(unit for of in sessions for unit in of.units)
    return replace(
        plan,
        units=(*units, *plan.units),
        sessions=sessions,
        problems=(*all_sentences(sessions), *plan.problems),
        warnings=(*dict.fromkeys(text for of in sessions for text in of.warnings), *plan.warnings),
        by_key={unit.key: unit for unit in units} | dict(plan.by_key),
    )


def _plan_models(loaded: LoadedStudy, store: Store, bad_images: BadImages) -> StudyPlan:
    study = loaded.study
    cohort = read_cohort(loaded)
    grid = read_study_mask(loaded)
    wrong = check_volumes(loaded, grid)
    if wrong:
        raise StudyFileError(*wrong)
    behaviour = fit_behaviour(loaded, cohort)
    participants = cohort.participants if behaviour is None else behaviour.join(cohort.participants)
    problems = _Problems()
    stacks = _stacks(loaded, store, cohort, grid, problems)
    absent = _missing_files(stacks)
    if study.on_bad_image == "exclude":
        bad_images = absent | dict(bad_images)
    left_out = [LeftOut(i.participant_id, i.session_id, i.what, i.reason) for i in cohort.left_out]
    left_out += unasked(study, participants, {item.participant_id for item in left_out if item.what == "participant"})
    left_out += [
        excluded_image(image, stack.name, bad_images[image.identity])
        for stack in stacks.values()
        for image in stack.images
        if image.identity in bad_images
    ]
    signatures = _Signatures(stacks)
    designs, selections = _designs(loaded, stacks, participants, bad_images, behaviour, signatures, left_out, problems)
    if not designs and not bad_images:
        raise PlanError(*time_slips(study, stacks.values()), *problems.sentences())
    searches = count_searches(loaded, list(designs.values()))
    context = make.Context(loaded, store.url, grid, searches)
    units = make.stack_units(context, stacks)
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


def _distinct(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    return list({unit.key: unit for unit in units}.values())


def _tissue_stack(loaded: LoadedStudy, label: str) -> str:
    mask = loaded.study.masks.get(label) if label in ("GM", "WM") else None  # type: ignore[call-overload]
    return stack_name(mask.map, label) if mask else ""


def _visit_means(loaded: LoadedStudy, cohort: Cohort) -> list[str]:
    named = {name for model in loaded.study.models for name in re.findall(r"\w+", model.formula)}
    return [
        f"The participants table has no column {name}; each participant's value is the mean over the visits with an "
        "image in the sessions table."
        for name in cohort.visit_means
        if name in named
    ]


def _missing_files(stacks: Mapping[str, Stack]) -> dict[tuple[str, str, str], str]:
    """Return the images whose file is not there, with what to do about it."""
    return {
        image.identity: f"{image.who}, {stack.name}: expected the image {image.path}, found no file. Correct the "
        "images table, or exclude the image (on_bad_image: exclude)."
        for stack in stacks.values()
        for image in stack.images
        if image.digest.startswith(MISSING_FILE)
    }


class _Signatures:
    """How the images of the stacks were made, by their sidecars."""

    def __init__(self, stacks: Mapping[str, Stack]) -> None:
        self._stacks = stacks
        sidecars = Sidecars()
        self._of = {i.path: sidecars.signature(i.path) for stack in stacks.values() for i in stack.images}

    def refuse_differences(self, selection: Selection) -> None:
        """Refuse images of one participant that were made in different ways: the difference would look like change."""
        within = differences_within(self._rows(selection.images), selection.stack)
        if within:
            raise DesignError(*within)

    def warnings(self) -> list[str]:
        """Return where participants of one stack differ."""
        return [
            text
            for stack in self._stacks.values()
            for text in differences_between(self._rows(stack.images), stack.name)
        ]

    def _rows(self, images: Sequence[ImageRef]) -> list[tuple[str, str, dict[str, Any] | None]]:
        return [(i.participant_id, i.session_id, self._of[i.path]) for i in images]


def _stacks(loaded: LoadedStudy, store: Store, cohort: Cohort, grid: MaskGrid, problems: _Problems) -> dict[str, Stack]:
    """Return the stacks that some model or mask needs, with a row for each image."""
    study = loaded.study
    table = cohort.images
    have = {(str(m), str(lab)) for m, lab in table[["map", "label"]].drop_duplicates().itertuples(index=False)}
    needed: list[tuple[str, str]] = []
    for model in study.models:
        for map_name in model.maps:
            pairs = [
                (m, lab) for m, lab in sorted(have) if m == map_name and (model.labels is None or lab in model.labels)
            ]
            try:
                _check_map(model, map_name, have, pairs)
            except VoxcloudError as error:
                problems.add(model.name, map_name, error)
                continue
            needed += [p for p in pairs if p not in needed]
    wrong = [
        f"masks.{label}: expected images of map '{mask.map}' with label {label} in the images table, found none. Add "
        f"the tissue probability images, or take masks.{label} out to analyse every voxel of `mask`."
        for label, mask in study.masks.items()
        if (mask.map, label) not in have
    ]
    if wrong:
        raise StudyFileError(*wrong)
    for tissue, mask in study.masks.items():
        label: str = tissue
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


def _check_map(model: Model, map_name: str, have: set[tuple[str, str]], pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a map that cannot be tested, or of which there is no image."""
    entry = variable(map_name)
    if not entry.analysable:
        raise StudyFileError(f"{map_name} cannot be tested: {entry.hint}. Take it out of `maps`.")
    maps = {m for m, _ in have}
    if map_name not in maps:
        raise StudyFileError(
            f"expected images of map '{map_name}' in the images table, found {', '.join(sorted(maps))}."
            f"{nearest(map_name, maps)} Correct `maps`, or add the images."
        )
    if not pairs:
        labels = sorted(lab or "none" for m, lab in have if m == map_name)
        asked = ", ".join(lab or "none" for lab in model.labels or ())
        raise StudyFileError(
            f"expected images of {map_name} with label {asked}, found label {', '.join(labels)}. Correct `labels`."
        )


def _image_ref(row: Any, digests: dict[str, str]) -> ImageRef:
    path = str(row.path)
    if path not in digests:
        # Of two images that are missing each is known by its own place.
        missing = f"{MISSING_FILE}-{digest_json(path)[:16]}"
        digests[path] = file_digest(path) if Path(path).is_file() else missing
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
    signatures: _Signatures,
    left_out: list[LeftOut],
    problems: _Problems,
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
