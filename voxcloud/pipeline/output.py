"""The output folder of a study: a folder of its own, so that no run ever replaces a file of somebody else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxcloud.bids.tables import Cohort
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import CorruptStoreError, StudyFileError
from voxcloud.storage.folder import OWN_FOLDER
from voxcloud.storage.store import RESERVED_PREFIX, Store, open_store

STUDY_COPY = "study.json"
# What systems put into empty folders by themselves.
NOBODYS = (".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini", "lost+found")
ADVICE = "Name a folder of its own that is empty or not there yet, e.g. `output: derivatives/voxcloud`."
_PARTICIPANT = re.compile(r"sub-[A-Za-z0-9]+")


def open_output(loaded: LoadedStudy) -> Store:
    """Open the study's output and refuse a folder that holds anything but this study's output.

    Raises
    ------
    StudyFileError
        If the folder holds the study file, an input that it names, another study or somebody's files, or lies among a
        participant's images. ``refuse_over_images`` looks at the single images.
    CorruptStoreError
        If its copy of the study file cannot be read.
    """
    store = open_store(loaded.resolve(loaded.study.output))
    root = Path(store.local_path("."))
    _refuse_over_inputs(loaded, root)
    if store.exists(STUDY_COPY):
        _refuse_other_study(loaded, store, root)
    elif not (root / OWN_FOLDER).is_dir():
        _refuse_foreign_files(root)
    return store


def refuse_over_images(loaded: LoadedStudy, cohort: Cohort) -> None:
    """Refuse an output that holds an image of the study or lies in the folder of a participant with images.

    Raises
    ------
    StudyFileError
        Naming the first such image.
    """
    root = Path(open_store(loaded.resolve(loaded.study.output)).local_path("."))
    seen: set[str] = set()
    columns = cohort.images[["participant_id", "path"]]
    for participant, path in columns.itertuples(index=False, name=None):
        folder = path.rpartition("/")[0]
        if folder in seen:
            continue
        seen.add(folder)
        places = _places(path)
        if any(_holds(root, place) for place in places):
            _refuse(root, f"that it holds an image of sub-{participant} ({path})")
        for place in places:
            own = next((p for p in place.parents if p.name == f"sub-{participant}"), None)
            if own is not None and _holds(own, root):
                _refuse(root, f"that it lies in the folder of sub-{participant} ({own})")


def _refuse_over_inputs(loaded: LoadedStudy, root: Path) -> None:
    """Refuse an output that is, or contains, the study's folder or an input, or lies in a participant's folder."""
    if any(_holds(root, place) for place in _places(loaded.path)):
        _refuse(root, f"that it holds the study file ({loaded.path})")
    for key, value in _named_files(loaded.study.model_dump()):
        path = loaded.resolve(value)
        if "://" not in path and any(_holds(root, place) for place in _places(path)):
            _refuse(root, f"that it holds `{key}` ({path})")
    for named in (loaded.study.bids, loaded.study.images):
        images = Path(loaded.resolve(named)).resolve() if named else None
        if images is not None and images.is_dir() and root.is_relative_to(images):
            part = next((p for p in root.relative_to(images).parts if _PARTICIPANT.fullmatch(p)), None)
            if part is not None:
                _refuse(root, f"that it lies in the folder of {part} ({images / part})")


def _named_files(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and path of every file that a study file names."""
    for key in ("bids", "images", "participants", "sessions", "mask", "template"):
        if tree.get(key):
            yield key, tree[key]
    for key in ("image", "labels"):
        if tree.get("atlas"):
            yield f"atlas.{key}", tree["atlas"][key]
    if tree.get("regions"):
        yield "regions.folder", tree["regions"]["folder"]
    for name, volume in (tree.get("search_volumes") or {}).items():
        yield f"search_volumes.{name}", volume["path"]
    if tree.get("behaviour"):
        yield "behaviour.table", tree["behaviour"]["table"]


def _places(path: Path | str) -> set[Path]:
    """Return where a file lies: as it is written, and with the links in its folders followed."""
    plain = Path(path).absolute()
    return {plain, plain.parent.resolve() / plain.name}


def _holds(folder: Path, place: Path) -> bool:
    return place.is_relative_to(folder)


def _refuse_other_study(loaded: LoadedStudy, store: Store, root: Path) -> None:
    name = loaded.study.name
    try:
        other = json.loads(store.read_bytes(STUDY_COPY))["name"]
    except (ValueError, KeyError, TypeError):
        raise CorruptStoreError(
            f"{store.url}/{STUDY_COPY}: expected the study file of the last run, found something that cannot be "
            f"read. Delete it if this is the folder of study '{name}', and run the study again."
        ) from None
    if other != name:
        raise StudyFileError(
            f"output {root}: expected the folder of study '{name}' or an empty one, found study '{other}'. "
            "Name another output folder."
        )


def _refuse_foreign_files(root: Path) -> None:
    """Refuse a folder in which something lies that no run wrote; a run marks its folder before everything else."""
    try:
        with os.scandir(root) as entries:
            names = sorted(e.name for e in entries if e.name not in NOBODYS and not e.name.startswith(RESERVED_PREFIX))
    except (FileNotFoundError, NotADirectoryError):
        return  # there is nothing yet; a file at this place is refused where it is to be written to
    except OSError as error:
        raise StudyFileError(
            f"output {root}: expected a folder that can be read, found {error.strerror}. Correct its permissions or "
            "name another folder."
        ) from None
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        _refuse(root, f"that no run of voxcloud made it: it holds {', '.join(names[:3])}{more}")


def _refuse(root: Path, found: str) -> None:
    raise StudyFileError(
        f"output {root}: expected a folder for this study's results and nothing else, found {found}. A run would write "
        f"among these files and replace those of equal name. {ADVICE}"
    )
