"""``voxcloud maps``: the study that a command line without a study file means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxcloud.config.load import LoadedStudy, parse_study
from voxcloud.errors import StudyFileError
from voxcloud.schema import STUDY_SCHEMA


def maps_study(bids: Path, output: Path, level: str, mpm: Mapping[str, Any]) -> LoadedStudy:
    """Return a study that makes maps of a data set and nothing else.

    Raises
    ------
    StudyFileError
        If the level of analysis is another than participant, or a setting is not known.
    """
    if level != "participant":
        raise StudyFileError(
            f"maps: expected the level of analysis `participant`, found `{level}`. Group models need a study file: "
            "voxcloud run study.yaml."
        )
    root = bids.resolve()
    tree = {
        "schema": STUDY_SCHEMA,
        "name": _name(root),
        "bids": str(root),
        "output": str(output.resolve()),
        "mpm": dict(mpm),
    }
    # There is no study file; relative paths, of which there are none, would count from the data set.
    return LoadedStudy(parse_study(tree, "maps"), root / "dataset_description.json")


def _name(root: Path) -> str:
    """Return a study's name made of the data set's folder."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", root.name).strip("-")
    return name if name[:1].isalpha() else f"maps-{name}".rstrip("-")
