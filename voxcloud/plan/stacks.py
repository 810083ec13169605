"""The cohort stacks of a study: which images each holds, how they were made, and the rows they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from voxcloud.bids.images import MaskGrid
from voxcloud.bids.signatures import Sidecars, Signature, differences_between, differences_within
from voxcloud.bids.tables import Cohort
from voxcloud.config.load import LoadedStudy
from voxcloud.config.space import VOLUME
from voxcloud.config.study import Model, Study
from voxcloud.errors import DesignError, StudyFileError, VoxcloudError, nearest
from voxcloud.plan import units as make
from voxcloud.plan.selection import ImageRef, Selection
from voxcloud.plan.space import Made
from voxcloud.plan.unit import digest_json
from voxcloud.schema import stack_name, variable
from voxcloud.storage.stack import Allocation, StackSpec, allocate_rows, latest_manifest
from voxcloud.storage.store import Store, file_digest

MISSING_FILE = "missing"


@dataclass(frozen=True)
class Stack:
    """One (map, label) of the study: its images, its place and the rows they take."""

    map: str
    label: str
    spec: StackSpec
    images: tuple[ImageRef, ...]
    allocation: Allocation
    made: Mapping[str, Made] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return stack_name(self.map, self.label)


class Problems:
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


class Signatures:
    """How the images of the stacks were made, by their sidecars."""

    def __init__(self, stacks: Mapping[str, Stack]) -> None:
        self._stacks = stacks
        sidecars = Sidecars()
        self._of = {
            i.path: stack.made[i.path].signature if i.path in stack.made else sidecars.signature(i.path)
            for stack in stacks.values()
            for i in stack.images
        }

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

    def _rows(self, images: Sequence[ImageRef]) -> list[tuple[str, str, Signature | None]]:
        return [(i.participant_id, i.session_id, self._of[i.path]) for i in images]


def plan_stacks(
    loaded: LoadedStudy,
    store: Store,
    cohort: Cohort,
    grid: MaskGrid,
    made: Mapping[str, Made],
    problems: Problems,
) -> dict[str, Stack]:
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
                _check_change(study, model, map_name)
            except VoxcloudError as error:
                problems.add(model.name, map_name, error)
                continue
            needed += [p for p in pairs if p not in needed]
    masks = study.tissue_masks
    wrong = [
        f"masks.{label}: expected images of map '{mask.map}' with label {label} in the images table, found none. Add "
        f"the tissue probability images, or take masks.{label} out to analyse every voxel of `mask`."
        for label, mask in masks.items()
        if (mask.map, label) not in have
    ]
    if wrong:
        raise StudyFileError(*wrong)
    for tissue, mask in masks.items():
        label: str = tissue
        if any(lab == label for _, lab in needed) and (mask.map, label) not in needed:
            needed.append((mask.map, label))
    digests = {path: image.digest for path, image in made.items()}
    stacks: dict[str, Stack] = {}
    for map_name, label in needed:
        rows = table[(table["map"] == map_name) & (table["label"] == label)]
        images = tuple(_image_ref(row, digests) for row in rows.itertuples(index=False))
        spec = make.stack_spec(map_name, label, grid)
        allocation = allocate_rows(latest_manifest(store, spec), [image.identity for image in images])
        own = {image.path: made[image.path] for image in images if image.path in made}
        stacks[stack_name(map_name, label)] = Stack(map_name, label, spec, images, allocation, own)
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


def _check_change(study: Study, model: Model, map_name: str) -> None:
    """Refuse to look for change in what the study makes the same at all visits."""
    space = study.space
    if space is not None and space.longitudinal == "none" and map_name == VOLUME and model.estimator != "ols":
        raise StudyFileError(
            "volume is the same at all visits with space.longitudinal: none, and cannot change. Use deformation, or "
            "estimator ols."
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


def missing_files(stacks: Mapping[str, Stack]) -> dict[tuple[str, str, str], str]:
    """Return the images whose file is not there, with what to do about it."""
    return {
        image.identity: f"{image.who}, {stack.name}: expected the image {image.path}, found no file. Correct the "
        "images table, or exclude the image (on_bad_image: exclude)."
        for stack in stacks.values()
        for image in stack.images
        if image.digest.startswith(MISSING_FILE)
    }
