"""How an image was made, from its sidecars: images of one stack should be made alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.bids.raw import DESCRIPTION, image_stem, read_json
from voxcloud.bids.sidecars import Folders
from voxcloud.errors import ImageError

KEYS = (
    "Preset",
    "B1Method",
    "B1mapProvided",
    "B1Unwarped",
    "SpoilingCorrection",
    "ReceiveCorrection",
    "Denoising",
    "Unringing",
    "SusceptibilityCorrection",
    "MotionCorrection",
    "EddyCorrection",
    "BiasCorrection",
    "ChangedSettings",
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "DistortionCorrection",
    "NonlinearGradientCorrection",
)
"""Sidecar entries that change the numbers in a map: settings, corrections, scanner."""

GENERATED_BY = "GeneratedBy"

Signature = Mapping[str, Any]
# A derivatives data set is at most this many folders above its images: dataset/sub-/ses-/anat.
_LEVELS = 4


def processing_signature(path: str | Path) -> dict[str, Any] | None:
    """Return how an image was made: the entries ``KEYS`` of its sidecars and the programs with their major versions.

    Sidecars are read by BIDS inheritance: ``<image>.json``, then files of the same suffix with a part of its entities
    in the folders above, up to the one with ``dataset_description.json``; the nearest wins. ``GeneratedBy`` comes from
    the sidecar or else from the data set's description.

    Returns
    -------
    dict or None
        None where no sidecar says anything.

    Raises
    ------
    ImageError
        If a sidecar cannot be read as JSON.
    """
    return Sidecars().signature(path)


class Sidecars:
    """Reads the signatures of many images, each folder and each file once."""

    def __init__(self) -> None:
        self._folders = Folders()
        self._trees: dict[Path, dict[str, Any]] = {}
        self._chains: dict[Path, list[Path]] = {}

    def signature(self, path: str | Path) -> dict[str, Any] | None:
        """Return what ``processing_signature`` returns."""
        found: dict[str, Any] = {}
        for sidecar in self._beside(Path(path)):
            for key, value in self._entries(sidecar).items():
                found.setdefault(key, value)
        return found or None

    def _entries(self, path: Path) -> dict[str, Any]:
        if path not in self._trees:
            tree = read_json(path)
            entries = {key: tree[key] for key in KEYS if key in tree}
            programs = _programs(tree.get(GENERATED_BY))
            self._trees[path] = entries | ({GENERATED_BY: programs} if programs else {})
        return self._trees[path]

    def _beside(self, image: Path) -> Iterator[Path]:
        """Yield the JSON files that speak about an image, the nearest first."""
        chain = self._chain(image.parent)
        if not chain:  # no data set around it: nothing is inherited
            own = f"{image_stem(image.name) or image.stem}.json"
            if self._folders.has(image.parent, own):
                yield image.with_name(own)
            return
        for found in self._folders.applicable(image, chain):
            yield from found
        yield chain[-1] / DESCRIPTION

    def _chain(self, folder: Path) -> list[Path]:
        """Return a folder and those above it up to the one that describes the data set; none where there is none."""
        if folder not in self._chains:
            folders = [folder, *folder.parents][: _LEVELS + 1]
            root = next((k for k, f in enumerate(folders) if self._folders.has(f, DESCRIPTION)), None)
            self._chains[folder] = [] if root is None else folders[: root + 1]
        return self._chains[folder]


def compare_signatures(images: Sequence[tuple[str, str, Signature | None]], stack: str) -> list[str]:
    """Compare the signatures of one stack's images; see ``differences_within`` and ``differences_between``.

    Returns
    -------
    list of str
        One warning per entry that differs between participants, with the participants of each value.

    Raises
    ------
    ImageError
        If two sessions of a participant differ; names participant, sessions, entry and both values.
    """
    within = differences_within(images, stack)
    if within:
        raise ImageError(*within)
    return differences_between(images, stack)


def differences_within(images: Sequence[tuple[str, str, Signature | None]], stack: str) -> list[str]:
    """Return a sentence per participant and entry that differs between sessions: it would look like change over time.

    An entry that only one of two sidecars states is not a difference.

    Parameters
    ----------
    images
        (participant_id, session_id, signature) of each image.
    stack
        Name of the stack for the messages, e.g. ``R1map GM``.
    """
    found = []
    first: dict[tuple[str, str], tuple[str, Any]] = {}
    refused: set[tuple[str, str]] = set()
    for participant, session, signature in sorted(images, key=lambda image: (image[0], image[1])):
        for key, value in (signature or {}).items():
            place = (participant, key)
            earlier, other = first.setdefault(place, (session, value))
            if place not in refused and comparable(other) != comparable(value):
                refused.add(place)
                found.append(
                    f"sub-{participant}, {stack}: expected sessions made alike, found {key} {other!r} in ses-{earlier} "
                    f"and {value!r} in ses-{session}; the difference would look like change. Process the sessions "
                    "alike, or leave one out."
                )
    return found


def differences_between(images: Sequence[tuple[str, str, Signature | None]], stack: str) -> list[str]:
    """Return a sentence per entry that differs between participants: it may look like a difference between groups."""
    values: dict[str, dict[str, list[str]]] = {}
    for participant, _, signature in sorted(images, key=lambda image: (image[0], image[1])):
        for key, value in (signature or {}).items():
            owners = values.setdefault(key, {}).setdefault(comparable(value), [])
            if participant not in owners:
                owners.append(participant)
    return [_warning(stack, key, values[key]) for key in (*KEYS, GENERATED_BY) if len(values.get(key, {})) > 1]


def _warning(stack: str, key: str, found: Mapping[str, Sequence[str]]) -> str:
    parts = [
        f"{value} ({len(who)} participants: {', '.join(who[:5])}{', ...' if len(who) > 5 else ''})"
        for value, who in sorted(found.items())
    ]
    return (
        f"{stack}: {key} differs between participants: {'; '.join(parts)}. Groups may differ by how they were measured."
    )


def comparable(value: Any) -> str:
    """Return a value as text in which 3 equals 3.0 and SIEMENS equals Siemens."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{float(value):g}"
    if isinstance(value, str):
        return value.strip().casefold()
    return json.dumps(value, sort_keys=True)


def _programs(made_by: Any) -> str:
    """Return ``name major-version`` of each program, in order."""
    entries = made_by if isinstance(made_by, list) else [made_by]
    words = []
    for entry in entries:
        if isinstance(entry, dict) and entry.get("Name"):
            major = str(entry.get("Version", "")).lstrip("v").split(".")[0]
            words.append(f"{entry['Name']} {major}".strip())
    return ", ".join(words)
