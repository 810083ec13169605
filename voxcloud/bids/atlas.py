"""Region names from an atlas in FSL's layout: a NIfTI image and a label XML that the user has.

The atlases of FSL and the Juelich atlas are for non-commercial use: none is shipped, none is needed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from voxcloud.bids.nifti import NiftiFile, open_nifti, read_volume
from voxcloud.errors import ImageError

MIN_PROBABILITY = 5.0
"""Percent below which no region is named: what lies there is the blur of resampling, not anatomy."""

MAX_XML_BYTES = 10_000_000


@dataclass(frozen=True)
class RegionShare:
    """One region's share of a cluster, 0 to 1."""

    region: str
    share: float


@dataclass(frozen=True, eq=False)
class AtlasLabels:
    """An atlas in memory: the most probable region of each voxel, and the names.

    Parameters
    ----------
    best
        (x, y, z) int16: index of the most probable region; -1 where none reaches ``MIN_PROBABILITY``.
    probability
        (x, y, z) uint8: its probability in percent; 100 inside the regions of an atlas of labels.
    affine
        (4, 4), voxel to RAS+ mm.
    names
        Region names by index.
    """

    best: npt.NDArray[np.int16]
    probability: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    names: tuple[str, ...]

    def region_at(self, xyz_mm: npt.ArrayLike) -> str:
        """Return the most probable region at a place in mm (RAS+), or "" where none reaches 5 %."""
        index = int(self._indices(np.atleast_2d(np.asarray(xyz_mm, dtype=np.float64)))[0])
        return self.names[index] if index >= 0 else ""

    def region_shares(self, xyz_mm: npt.ArrayLike) -> tuple[RegionShare, ...]:
        """Return the share of places, shape (n, 3) in mm, that lie in each region; the largest first.

        Each place counts for its most probable region; "" stands for places in none. The shares sum to 1.
        """
        indices = self._indices(np.atleast_2d(np.asarray(xyz_mm, dtype=np.float64)))
        found, counts = np.unique(indices, return_counts=True)
        shares = [
            RegionShare(self.names[i] if i >= 0 else "", float(n / len(indices)))
            for i, n in zip(found.tolist(), counts.tolist(), strict=True)
        ]
        return tuple(sorted(shares, key=lambda s: (-s.share, s.region)))

    def _indices(self, xyz_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
        """Return the region of the voxel in which each place lies; -1 for none and outside the atlas."""
        inverse = np.linalg.inv(self.affine)
        voxels = np.rint(xyz_mm @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
        inside = ((voxels >= 0) & (voxels < self.best.shape)).all(axis=1)
        found = np.full(len(voxels), -1, dtype=np.int16)
        found[inside] = self.best[tuple(voxels[inside].T)]
        return found


def load_atlas(image: str | Path | None, labels: str | Path) -> AtlasLabels:
    """Read an atlas; the last two atlases are kept, because every table of a study asks for the same one.

    Parameters
    ----------
    image
        4D probabilities (percent or 0 to 1), or 3D labels: value = index for an atlas of type ``Label``, index + 1 for
        the summary image of a probabilistic one, as FSL counts. None: the image that the XML names, looked for beside
        the XML.
    labels
        Label XML: ``<atlas><header><type>..., <data><label index="0">name</label>``.

    Raises
    ------
    ImageError
        If the XML is none of these (document type declarations are refused unread), the image cannot be read, or it
        has other regions than the XML names.
    """
    definition = read_labels(Path(labels))
    place = Path(image) if image is not None else image_beside(Path(labels), definition)
    state = place.stat() if place.is_file() else None
    identity = (state.st_size, state.st_mtime_ns, state.st_ino) if state else ()
    return _load(str(place), str(labels), definition, identity)


@dataclass(frozen=True)
class AtlasDefinition:
    """What a label XML says."""

    kind: str
    names: tuple[tuple[int, str], ...]
    images: tuple[str, ...]


@functools.lru_cache(maxsize=2)
def _load(image: str, labels: str, definition: AtlasDefinition, identity: tuple[int, ...]) -> AtlasLabels:
    del identity  # only part of the key: a file that was replaced is read again
    nifti = open_nifti(image)
    probabilistic = nifti.n_volumes > 1
    best, probability = _most_probable(nifti) if probabilistic else labelled(nifti, definition.kind)
    highest = max(index for index, _ in definition.names)
    count = nifti.n_volumes if probabilistic else int(best.max()) + 1
    if highest >= count if probabilistic else count > highest + 1:
        raise ImageError(
            f"{labels}: names {len(definition.names)} regions up to index {highest}, expected those of {image}, found "
            f"{count} in it. Give the label file that belongs to the image."
        )
    names = [""] * max(count, highest + 1)
    for index, name in definition.names:
        names[index] = name
    return AtlasLabels(best, probability, nifti.affine, tuple(names))


def _most_probable(nifti: NiftiFile) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Return index and percent of the most probable region; one volume is in memory at a time.

    The Juelich atlas at 1 mm is 870 MB unpacked; this needs 30 MB.
    """
    size = int(np.prod(nifti.shape))
    best = np.full(size, -1, dtype=np.int16)
    highest = np.zeros(size, dtype=np.float32 if nifti.scaled else nifti.dtype.newbyteorder("="))
    for index in range(nifti.n_volumes):
        volume: npt.NDArray[Any] = read_volume(nifti, index)
        if nifti.scaled:
            volume = (volume.astype(np.float64) * nifti.slope + nifti.intercept).astype(np.float32)
        above = np.flatnonzero(volume > highest)
        best[above], highest[above] = index, volume[above]
    fractions = highest.dtype.kind == "f" and highest.max(initial=0) <= 1.0
    percent = highest.astype(np.float32) * np.float32(100.0 if fractions else 1.0)
    best[percent < MIN_PROBABILITY] = -1
    rounded = np.clip(np.rint(percent), 0, 100).astype(np.uint8)
    return best.reshape(nifti.shape, order="F"), rounded.reshape(nifti.shape, order="F")


def labelled(nifti: NiftiFile, kind: str) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    values = read_volume(nifti, 0).astype(np.float64) * nifti.slope + nifti.intercept
    first = 0 if kind == "label" else 1
    inside = np.isfinite(values) & (values > 0)
    best = np.where(inside, np.rint(np.where(inside, values, 0)) - first, -1).astype(np.int16)
    percent = np.where(inside, 100, 0).astype(np.uint8)
    return best.reshape(nifti.shape, order="F"), percent.reshape(nifti.shape, order="F")


def image_beside(labels: Path, definition: AtlasDefinition) -> Path:
    """Return the first image that the XML names and that exists, in FSL's folders or in one folder."""
    for name in definition.images:
        relative = Path(name.lstrip("/"))
        if ".." in relative.parts:
            continue
        for place in (labels.parent / relative, labels.parent / relative.name):
            for extension in (".nii.gz", ".nii"):
                found = place.with_name(place.name + extension)
                if found.is_file():
                    return found
    raise ImageError(
        f"{labels}: expected one of its images beside it ({', '.join(definition.images) or 'it names none'}), found "
        "none. Name the image in the study file (atlas: image)."
    )


def read_labels(path: Path) -> AtlasDefinition:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: expected a label XML, found: {error.strerror}. Check the path.") from None
    reader = _LabelReader(path)
    if len(content) > MAX_XML_BYTES:
        raise ImageError(f"{path}: expected a label XML of at most {MAX_XML_BYTES} bytes, found {len(content)}.")
    try:
        reader.parser.Parse(content, True)
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: expected a label XML in FSL's layout, found: {error}. Check the file.") from None
    indices = [index for index, _ in reader.names]
    if not indices or len(set(indices)) != len(indices) or min(indices) < 0:
        raise ImageError(f"{path}: expected labels with an index each, found {len(indices)} labels. Check the file.")
    return AtlasDefinition(reader.kind.strip().lower(), tuple(reader.names), tuple(reader.images))


class _LabelReader:
    """Collects labels, type and images of an atlas XML; declarations of types and entities are never read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = ""
        self.names: list[tuple[int, str]] = []
        self.images: list[str] = []
        self._text: list[str] = []
        self._index = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append

    def _refuse(self, *_: object) -> None:
        raise ImageError(
            f"{self.path}: expected a plain label XML, found a document type declaration, which can name other files. "
            "Remove it."
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._text.clear()
        if name == "label":
            self._index = int(attributes["index"])

    def _end(self, name: str) -> None:
        text = " ".join("".join(self._text).split())
        if name == "label":
            self.names.append((self._index, text))
        elif name == "imagefile":
            self.images.append(text)
        elif name == "type":
            self.kind = text
        self._text.clear()
