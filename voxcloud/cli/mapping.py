"""``voxcloud maps``: the study that a command line without a study file means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.config.load import LoadedStudy, parse_study
from voxcloud.errors import StudyFileError, VoxcloudError, nearest
from voxcloud.plan.sessions import MODALITIES
from voxcloud.schema import STUDY_SCHEMA


def maps_study(
    bids: Path, output: Path, level: str, sections: Mapping[str, Mapping[str, Any]], modalities: Sequence[str]
) -> LoadedStudy:
    """Return a study that makes maps of a data set and nothing else.

    Parameters
    ----------
    sections
        Modality to its settings.
    modalities
        Which to use; empty: those that the data set has images of.

    Raises
    ------
    StudyFileError
        If the level of analysis is another than participant, or a modality or setting is not known.
    BidsError
        If the folder is no raw data set, or has images of no modality.
    """
    if level != "participant":
        raise StudyFileError(
            f"maps: expected the level of analysis `participant`, found `{level}`. Group models need a study file: "
            "voxcloud run study.yaml."
        )
    for name in modalities:
        if name not in sections:
            raise StudyFileError(
                f"--modality: expected {' or '.join(sections)}, found `{name}`.{nearest(name, sections)}"
            )
    root = bids.resolve()
    tree = {
        "schema": STUDY_SCHEMA,
        "name": _name(root),
        "bids": str(root),
        "output": str(output.resolve()),
    }
    tree |= {name: dict(sections[name]) for name in modalities or _there(root)}
    # There is no study file; relative paths, of which there are none, would count from the data set.
    return LoadedStudy(parse_study(tree, "maps"), root / "dataset_description.json")


def _there(root: Path) -> list[str]:
    """Return the modalities that a data set has images of."""
    found: list[str] = []
    errors: list[VoxcloudError] = []
    for modality in MODALITIES:
        try:
            modality.find(root, (), ())
        except VoxcloudError as error:
            errors.append(error)
        else:
            found.append(modality.name)
    if not found:
        first = errors[0]
        first.args = tuple(dict.fromkeys(text for error in errors for text in error.problems))
        raise first
    return found


def _name(root: Path) -> str:
    """Return a study's name made of the data set's folder."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", root.name).strip("-")
    return name if name[:1].isalpha() else f"maps-{name}".rstrip("-")
