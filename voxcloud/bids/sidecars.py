"""Metadata of images from JSON sidecars, by the inheritance that BIDS defines."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxcloud.bids.raw import image_stem, parse_image_name, read_json
from voxcloud.errors import BidsError

_JSON = ".json"


@dataclass(frozen=True)
class _Sidecar:
    name: str
    stem: str
    suffix: str
    entities: frozenset[tuple[str, str]] | None


class Folders:
    """Knows which sidecars lie in which folder; lists each folder once."""

    def __init__(self) -> None:
        self._listed: dict[Path, Mapping[str, Sequence[_Sidecar]]] = {}
        self._files: dict[Path, frozenset[str]] = {}
        self._images: dict[Path, frozenset[str]] = {}

    def has(self, folder: Path, name: str) -> bool:
        """Say whether a folder holds a JSON file of this name."""
        self._sidecars(folder)
        return name in self._files[folder]

    def images(self, folder: Path) -> frozenset[str]:
        """Return the names of a folder's NIfTI images, without extension."""
        self._sidecars(folder)
        return self._images[folder]

    def forget(self, folder: Path) -> None:
        """Drop what is known of a folder and those inside."""
        for known in [f for f in self._listed if f == folder or folder in f.parents]:
            del self._listed[known], self._files[known], self._images[known]

    def applicable(self, image: Path, folders: Sequence[Path]) -> Iterator[list[Path]]:
        """Yield the sidecars that speak about an image, a list per folder, in the order of the folders.

        In the image's own folder ``<image>.json`` applies; in all of them the files of the same suffix whose entities
        are a part of the image's. Those with more entities come first.
        """
        stem = image_stem(image.name) or image.stem
        parsed = parse_image_name(image.name)
        suffix, entities = (parsed[1], parsed[0].items()) if parsed else (stem.rsplit("_", 1)[-1], ())
        for folder in folders:
            candidates = self._sidecars(folder).get(suffix, ())
            own = [s for s in candidates if s.stem == stem] if folder == image.parent else []
            fitting = [
                s
                for s in candidates
                if parsed and s not in own and s.entities is not None and s.entities <= set(entities)
            ]
            fitting.sort(key=lambda s: (-len(s.entities or ()), s.name))
            yield [folder / s.name for s in (*own, *fitting)]

    def _sidecars(self, folder: Path) -> Mapping[str, Sequence[_Sidecar]]:
        """Return the JSON files of a folder by suffix; none where it cannot be listed."""
        if folder not in self._listed:
            found: dict[str, list[_Sidecar]] = {}
            names = set()
            try:
                entries = sorted(entry.name for entry in os.scandir(folder))
            except OSError:
                entries = []
            for name in entries:
                if name.lower().endswith(_JSON) and not name.startswith("."):
                    names.add(name)
                    stem = name[: -len(_JSON)]
                    *parts, suffix = stem.split("_")
                    entities = frozenset((p.split("-", 1)[0], p.split("-", 1)[1]) for p in parts if "-" in p)
                    known = all("-" in part for part in parts)
                    found.setdefault(suffix, []).append(_Sidecar(name, stem, suffix, entities if known else None))
            self._listed[folder], self._files[folder] = found, frozenset(names)
            self._images[folder] = frozenset(filter(None, map(image_stem, entries)))
        return self._listed[folder]


@dataclass(frozen=True)
class ImageMetadata:
    """What the sidecars say about one image.

    Attributes
    ----------
    values
        Key to value; the nearest sidecar that has the key wins.
    sources
        Key to the sidecar that it came from.
    files
        All sidecars that apply, the nearest first; empty where there is none.
    """

    values: Mapping[str, Any]
    sources: Mapping[str, Path] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value; ``default`` where no sidecar has the key or it is null."""
        value = self.values.get(key)
        return default if value is None else value


class Metadata:
    """Merged metadata of a raw data set's images; every sidecar is read once.

    Sidecars of one participant are forgotten when the next participant's images are asked for, so that memory does
    not grow with the cohort; those at the data set's root are kept. Not for several threads at a time.

    Parameters
    ----------
    root
        Folder with ``dataset_description.json``; nothing above it is looked at.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self._folders = Folders()
        self._trees: dict[Path, dict[str, Any]] = {}
        self._participant: Path | None = None

    def of(self, image: Path) -> ImageMetadata:
        """Return the metadata of an image.

        Raises
        ------
        BidsError
            If two sidecars of one folder apply (BIDS allows one), or the image lies outside the data set.
        ImageError
            If a sidecar cannot be read; names it.
        """
        folders = self._chain(image)
        values: dict[str, Any] = {}
        sources: dict[str, Path] = {}
        files: list[Path] = []
        for found in map(self._single, self._folders.applicable(image, folders), itertools.repeat(image)):
            if len(found) > 1:
                names = " and ".join(path.name for path in found)
                raise BidsError(
                    f"{image.name}: expected at most one sidecar that applies to it per folder (BIDS inheritance), "
                    f"found {names} in {self.relative(found[0].parent)}. Join them, or move the general one up a "
                    "folder."
                )
            for path in found:
                files.append(path)
                for key, value in self._tree(path).items():
                    if key not in values:
                        values[key], sources[key] = value, path
        return ImageMetadata(values, sources, tuple(files))

    def _single(self, found: list[Path], image: Path) -> list[Path]:
        """Leave out what is another image's own sidecar where the image has one too.

        ``sub-01_echo-1_MPM.json`` fits ``sub-01_run-2_echo-1_MPM.nii`` by its entities; if each lies beside its own
        image there is no doubt which is meant.
        """
        if len(found) > 1 and found[0].parent == image.parent and found[0].stem == image_stem(image.name):
            others = self._folders.images(image.parent)
            return [found[0], *(path for path in found[1:] if path.stem not in others)]
        return found

    def relative(self, path: Path) -> str:
        """Return a path as seen from the root."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _chain(self, image: Path) -> list[Path]:
        """Return the image's folder and those above it, up to the root."""
        if not image.is_relative_to(self.root):
            raise BidsError(f"{image}: expected an image in {self.root}, found it elsewhere. Name the right data set.")
        inside = image.relative_to(self.root).parts
        participant = self.root / inside[0]
        if self._participant is not None and participant != self._participant:
            self._folders.forget(self._participant)
            self._trees = {path: tree for path, tree in self._trees.items() if path.parent == self.root}
        self._participant = participant
        return [self.root.joinpath(*inside[:n]) for n in range(len(inside) - 1, -1, -1)]

    def _tree(self, path: Path) -> dict[str, Any]:
        if path not in self._trees:
            self._trees[path] = read_json(path)
        return self._trees[path]
