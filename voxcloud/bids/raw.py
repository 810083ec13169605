"""A raw BIDS data set: its participants, sessions and images by name, before anything is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxcloud.bids.layout import parse_name
from voxcloud.errors import BidsError, ImageError

DESCRIPTION = "dataset_description.json"
LABEL = re.compile(r"[A-Za-z0-9]+")
DATATYPES = ("anat", "fmap")

_IMAGE = re.compile(r"(?P<stem>.+?)\.nii(\.gz)?", re.IGNORECASE)
_POINTER_BYTES = 32_768
_POINTERS = {
    b"/annex/objects": ("git-annex", "git annex get"),
    b"version https://git-lfs": ("Git LFS", "git lfs pull --include"),
}


@dataclass(frozen=True)
class RawImage:
    """An image by its name; two are equal if their paths are.

    Attributes
    ----------
    path
        Absolute, or as the data set's root was given.
    datatype
        Folder: anat, fmap.
    entities
        As in the name, e.g. ``{sub: 01, ses: 1, acq: PDw, echo: 2}``.
    suffix
        E.g. ``MPM``.
    """

    path: Path
    datatype: str
    entities: Mapping[str, str] = field(compare=False, repr=False)
    suffix: str = field(compare=False)

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    def entity(self, key: str) -> str:
        """Return an entity's label, empty where the name has none."""
        return self.entities.get(key, "")

    def without(self, *keys: str) -> tuple[tuple[str, str], ...]:
        """Return the entities but some, sorted: what images that differ only by these have in common."""
        return tuple(sorted((k, v) for k, v in self.entities.items() if k not in {"sub", "ses", *keys}))


@dataclass(frozen=True)
class SessionFiles:
    """The images of one session.

    Attributes
    ----------
    images
        In order of their names.
    misnamed
        NIfTI files whose names BIDS does not allow.
    """

    images: tuple[RawImage, ...]
    misnamed: tuple[Path, ...]

    def of(self, datatype: str, *suffixes: str) -> tuple[RawImage, ...]:
        """Return the images of a folder with one of the suffixes."""
        return tuple(image for image in self.images if image.datatype == datatype and image.suffix in suffixes)


def image_stem(name: str) -> str | None:
    """Return a NIfTI file's name without ``.nii`` or ``.nii.gz`` (in any case), or None for another file."""
    match = _IMAGE.fullmatch(name)
    return match["stem"] if match else None


def parse_image_name(name: str) -> tuple[dict[str, str], str] | None:
    """Return entities and suffix of an image's name; extensions in capitals will do, labels hold letters and digits."""
    stem = image_stem(name)
    parsed = parse_name(f"{stem}.nii") if stem else None
    if parsed is None or not all(LABEL.fullmatch(label) for label in parsed[0].values()):
        return None
    return parsed


def listed(folder: Path) -> list[Path]:
    """Return what a folder holds, by name; hidden files and what macOS leaves (``._x``) are passed over."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BidsError(f"{folder}: expected a readable folder, found: {error.strerror}. Check its rights.") from None
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ImageError
        If the file cannot be read or holds something else; names it.
    """
    absent = absent_content(path)
    if absent is not None:
        advice = absent.advice.replace("%s", f"'{path}'")
        raise ImageError(f"{path}: expected a JSON sidecar, found {absent.what}. {advice}")
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: expected a JSON sidecar, found: {error}. Write the sidecar again.") from None
    except RecursionError:
        raise ImageError(f"{path}: expected a JSON sidecar, found one nested too deeply. Write it again.") from None
    if not isinstance(tree, dict):
        raise ImageError(
            f"{path}: expected a JSON object ({{...}}), found a {type(tree).__name__}. Write the sidecar again."
        )
    return tree


@dataclass(frozen=True)
class Absent:
    """What lies in place of a file's content, and what to do; ``%s`` in it stands for the files."""

    what: str
    advice: str


def absent_content(path: Path) -> Absent | None:
    """Return what is found in place of a file's content (a broken link, a pointer), or None if it is there."""
    if path.is_symlink() and not path.exists():
        if "annex" in str(path.readlink()):
            return Absent("a git-annex link whose content is not here", "Get it with: git annex get %s")
        return Absent("a link to a file that is not there", "Copy what %s should point to, or correct the link.")
    try:
        if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
            return None
        with path.open("rb") as handle:
            start = handle.read(32)
    except OSError:
        return None  # reading it properly says why
    for mark, (program, command) in _POINTERS.items():
        if start.startswith(mark):
            return Absent(f"a {program} pointer whose content is not here", f"Get it with: {command} %s")
    return None


def check_dataset(root: Path) -> None:
    """Check that a folder is a raw BIDS data set.

    Raises
    ------
    BidsError
        If it is missing, empty, not described, described as derivatives, or has no participant.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise BidsError(f"{root}: expected the folder of a BIDS data set, found {found}. Check the path (bids:).")
    inside = listed(root)
    people = [path for path in inside if path.name.startswith("sub-") and path.is_dir()]
    if not inside:
        raise BidsError(f"{root}: expected a BIDS data set, found an empty folder. Check the path (bids:).")
    if not any(path.name == DESCRIPTION for path in inside):
        inner = next((p for p in inside if p.is_dir() and (p / DESCRIPTION).is_file()), None)
        hint = f" Did you mean {inner}?" if inner is not None else ""
        kind = f"{len(people)} folders sub-*" if people else "no folder sub-* either"
        raise BidsError(
            f"{root}: expected a BIDS data set with {DESCRIPTION}, found none ({kind}).{hint} "
            'Name its root, or write the file: {"Name": "...", "BIDSVersion": "1.10.0"}.'
        )
    kind = str(read_json(root / DESCRIPTION).get("DatasetType", "raw"))
    if kind.casefold() == "derivative":
        raise BidsError(
            f"{root}: expected a raw BIDS data set, found DatasetType 'derivative' in {DESCRIPTION}. "
            "Name the data set with the images as scanned."
        )
    if not people:
        raise BidsError(f"{root}: expected folders sub-<label>, found none. Check that this is the data set's root.")


def session_folders(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (participant, session, folder) for every ``sub-*`` and ``sub-*/ses-*``; session is empty for the former."""
    for person in listed(root):
        if person.name.startswith("sub-") and person.is_dir():
            label = person.name.removeprefix("sub-")
            yield label, "", person
            for visit in listed(person):
                if visit.name.startswith("ses-") and visit.is_dir():
                    yield label, visit.name.removeprefix("ses-"), visit


def session_folder(root: Path, participant: str, session: str) -> Path:
    """Return the folder of a session."""
    folder = root / f"sub-{participant}"
    return folder / f"ses-{session}" if session else folder


def session_files(root: Path, participant: str, session: str) -> SessionFiles:
    """List the images of a session in ``anat`` and ``fmap``."""
    images, misnamed = [], []
    folder = session_folder(root, participant, session)
    for datatype in DATATYPES:
        for path in listed(folder / datatype):
            if image_stem(path.name) is None:
                continue
            parsed = parse_image_name(path.name)
            if parsed is None:
                misnamed.append(path)
            else:
                images.append(RawImage(path, datatype, *parsed))
    return SessionFiles(tuple(images), tuple(misnamed))
