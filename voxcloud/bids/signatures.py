"""How an image was made, from its sidecars: images of one stack should be made alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.bids.layout import parse_name
from voxcloud.errors import ImageError

KEYS = (
    "Preset",
    "B1Method",
    "B1mapProvided",
    "SpoilingCorrection",
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "DistortionCorrection",
    "NonlinearGradientCorrection",
)
"""Sidecar entries that change the numbers in a map: preset, B1 method, spoiling, scanner, distortion."""

GENERATED_BY = "GeneratedBy"
DESCRIPTION = "dataset_description.json"

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
    found: dict[str, Any] = {}
    for sidecar in _sidecars(Path(path)):
        tree = _read(sidecar)
        for key in KEYS:
            if key in tree:
                found.setdefault(key, tree[key])
        programs = _programs(tree.get(GENERATED_BY))
        if programs:
            found.setdefault(GENERATED_BY, programs)
    return found or None


def compare_signatures(images: Sequence[tuple[str, str, Signature | None]], stack: str) -> list[str]:
    """Compare the signatures of one stack's images.

    A difference within a participant would look like change over time and is refused; a difference between
    participants may look like a difference between groups and is warned about. An entry that only one of two
    sidecars states is not a difference.

    Parameters
    ----------
    images
        (participant_id, session_id, signature) of each image.
    stack
        Name of the stack for the messages, e.g. ``R1map GM``.

    Returns
    -------
    list of str
        One warning per entry that differs between participants, with the participants of each value.

    Raises
    ------
    ImageError
        If two sessions of a participant differ; names participant, sessions, entry and both values.
    """
    ordered = sorted(images, key=lambda image: (image[0], image[1]))
    values: dict[str, dict[str, list[str]]] = {}
    for key in (*KEYS, GENERATED_BY):
        first: dict[str, tuple[str, Any]] = {}
        for participant, session, signature in ordered:
            if signature is None or key not in signature:
                continue
            value = signature[key]
            earlier, other = first.setdefault(participant, (session, value))
            if _comparable(other) != _comparable(value):
                raise ImageError(
                    f"sub-{participant}, {stack}: expected sessions made alike, found {key} {other!r} in ses-{earlier} "
                    f"and {value!r} in ses-{session}; the difference would look like change. Process the sessions "
                    "alike, or exclude one."
                )
            owners = values.setdefault(key, {}).setdefault(_comparable(value), [])
            if participant not in owners:
                owners.append(participant)
    return [_warning(stack, key, found) for key, found in values.items() if len(found) > 1]


def _warning(stack: str, key: str, found: Mapping[str, Sequence[str]]) -> str:
    parts = [
        f"{value} ({len(who)} participants: {', '.join(who[:5])}{', ...' if len(who) > 5 else ''})"
        for value, who in sorted(found.items())
    ]
    return (
        f"{stack}: {key} differs between participants: {'; '.join(parts)}. Groups may differ by how they were measured."
    )


def _comparable(value: Any) -> str:
    """Return a value as text in which 3 equals 3.0 and SIEMENS equals Siemens."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{float(value):g}"
    if isinstance(value, str):
        return value.strip().casefold()
    return json.dumps(value, sort_keys=True)


def _sidecars(image: Path) -> Iterator[Path]:
    """Yield the JSON files that speak about an image, the nearest first."""
    stem = image.name.removesuffix(".gz").rsplit(".", 1)[0]
    own = image.with_name(f"{stem}.json")
    if own.is_file():
        yield own
    folders = [image.parent, *image.parent.parents][: _LEVELS + 1]
    root = next((k for k, folder in enumerate(folders) if (folder / DESCRIPTION).is_file()), None)
    if root is None:
        return
    parsed = parse_name(image.name)
    for folder in folders[: root + 1]:
        yield from _inherited(folder, parsed, own)
    yield folders[root] / DESCRIPTION


def _inherited(folder: Path, parsed: tuple[dict[str, str], str] | None, own: Path) -> Iterator[Path]:
    if parsed is None:
        return
    entities, suffix = parsed
    found = []
    for path in folder.glob(f"*{suffix}.json"):
        *parts, kind = path.stem.split("_")
        stated = dict(part.split("-", 1) for part in parts if "-" in part)
        if path != own and kind == suffix and stated.items() <= entities.items():
            found.append((-len(stated), path))
    yield from (path for _, path in sorted(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: expected a JSON sidecar, found: {error}. Write the sidecar again.") from None
    return tree if isinstance(tree, dict) else {}


def _programs(made_by: Any) -> str:
    """Return ``name major-version`` of each program, in order."""
    entries = made_by if isinstance(made_by, list) else [made_by]
    words = []
    for entry in entries:
        if isinstance(entry, dict) and entry.get("Name"):
            major = str(entry.get("Version", "")).lstrip("v").split(".")[0]
            words.append(f"{entry['Name']} {major}".strip())
    return ", ".join(words)
