"""Maps in a BIDS derivatives folder, found by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxcloud.errors import TableError
from voxcloud.schema import LABELS, VARIABLES

DATA_TYPES = ("anat", "dwi", "fmap", "func", "perf", "")
_ENTITY = re.compile(r"([A-Za-z]+)-([A-Za-z0-9+.]+)")
_IMAGE = re.compile(r"(?P<entities>sub-[^/]+)_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?")

EXAMPLE = "sub-01/ses-1/anat/sub-01_ses-1_space-MNI152NLin2009aSym_label-GM_R1map.nii.gz"


@dataclass(frozen=True)
class FoundImage:
    """One map found by its name."""

    participant_id: str
    session_id: str
    map: str
    label: str
    path: str
    entities: Mapping[str, str] = field(repr=False)


def parse_name(name: str) -> tuple[dict[str, str], str] | None:
    """Return the entities and the suffix of a BIDS image's file name, or None for another file.

    ``sub-01_ses-2_space-MNI_label-GM_R1map.nii.gz`` gives ``{sub: 01, ses: 2, space: MNI, label: GM}`` and ``R1map``.
    """
    match = _IMAGE.fullmatch(name)
    if match is None:
        return None
    entities: dict[str, str] = {}
    for part in match["entities"].split("_"):
        entity = _ENTITY.fullmatch(part)
        if entity is None or entity[1] in entities:
            return None
        entities[entity[1]] = entity[2]
    return entities, match["suffix"]


def map_of(entities: Mapping[str, str], suffix: str) -> str | None:
    """Return the registered map that entities and suffix name, or None."""
    for variable in VARIABLES.values():
        *wanted, kind = variable.suffix.split("_")
        if kind == suffix and all(entities.get(e.split("-")[0]) == e.split("-")[1] for e in wanted):
            return variable.name
    return None


def find_images(folder: Path) -> list[FoundImage]:
    """Find the maps in template space of a BIDS derivatives folder.

    Every ``sub-*/[ses-*/][anat|dwi|...]/`` is searched for images whose suffix is registered and that have a ``space``
    entity. Tissue probabilities of other tissues than GM and WM are passed over.

    Raises
    ------
    TableError
        If nothing is found, maps of two template spaces lie side by side, or two files are the same map of one image.
    """
    found: list[FoundImage] = []
    without_space: list[str] = []
    for path in _image_files(folder):
        parsed = parse_name(path.name)
        name = map_of(*parsed) if parsed else None
        if parsed is None or name is None:
            continue
        entities = parsed[0]
        label = entities.get("label", "")
        if name == "probseg" and label not in LABELS:
            continue
        if "space" not in entities:
            without_space.append(path.name)
            continue
        if label not in LABELS:
            raise TableError(
                f"{path}: label expects GM, WM or none, found '{label}'. Use an images table to choose maps."
            )
        _check_place(path, entities)
        found.append(FoundImage(entities["sub"], entities.get("ses", ""), name, label, str(path.absolute()), entities))
    if not found:
        seen = f"{len(without_space)} maps without space-, such as {without_space[0]}" if without_space else "none"
        raise TableError(
            f"{folder}: expected maps in template space, such as {EXAMPLE}, found {seen}. Check the folder."
        )
    _refuse_ambiguous(folder, found)
    return found


def _image_files(folder: Path) -> list[Path]:
    files = []
    for participant in _folders(folder, "sub-"):
        for session in [participant, *_folders(participant, "ses-")]:
            for place in [session / kind for kind in DATA_TYPES]:
                if place.is_dir():
                    files += [Path(e.path) for e in os.scandir(place) if e.name.endswith((".nii", ".nii.gz"))]
    return sorted(files)


def _folders(folder: Path, prefix: str) -> list[Path]:
    return sorted(Path(e.path) for e in os.scandir(folder) if e.name.startswith(prefix) and e.is_dir())


def _check_place(path: Path, entities: Mapping[str, str]) -> None:
    """Refuse a file whose folders name another participant or session than its name does."""
    for part in path.parts[:-1]:
        entity = _ENTITY.fullmatch(part)
        if entity and entity[1] in ("sub", "ses") and entities.get(entity[1], entity[2]) != entity[2]:
            raise TableError(
                f"{path}: expected {part} in the name, as in its folder, found {entity[1]}-{entities[entity[1]]}. "
                "Move or rename the file."
            )


def _refuse_ambiguous(folder: Path, found: list[FoundImage]) -> None:
    spaces = sorted({image.entities["space"] for image in found})
    if len(spaces) > 1:
        raise TableError(
            f"{folder}: expected maps in one template space, found space-{' and space-'.join(spaces)}. "
            "Name the maps of one space in an images table."
        )
    seen: dict[tuple[str, str, str, str], str] = {}
    for image in found:
        key = (image.participant_id, image.session_id, image.map, image.label)
        if key in seen:
            who = f"sub-{image.participant_id}" + (f"_ses-{image.session_id}" if image.session_id else "")
            raise TableError(
                f"{who}: expected one {image.map}{f' {image.label}' if image.label else ''}, found {seen[key]} and "
                f"{image.path}. Name the one to use in an images table, or move the other away."
            )
        seen[key] = image.path
