"""Search volumes from the labels of atlases in FSL's layout, each on its own side.

The side of a label is what its name says, never its place in the list: the Juelich atlas lists the corticospinal tract
of the right first, the atlas of white-matter tracts that of the left. A name that the image contradicts is refused.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.bids.atlas import AtlasDefinition, image_beside, labelled, read_labels
from voxcloud.bids.nifti import NiftiFile, open_nifti, read_volume
from voxcloud.config.regions import Regions, Tissue
from voxcloud.errors import ImageError, MaskError, nearest

LABELLED_THRESHOLD = 50.0
"""Percent of a voxel that a label of an atlas without probabilities must fill: the larger part of it."""

MIN_OWN_SIDE = 0.75
"""Least share of a label on the side that its name says. The smallest in FSL's atlases is .90 (Left I-IV of the
cerebellum, whose midline lies right of x = 0); a label of both hemispheres has .5, one on the wrong side 0."""

MIDLINE_MM = 0.01
"""A voxel centre nearer to x = 0 than this lies on neither side; above float32 rounding of a header."""

# Interpolation must not lose a voxel whose probability is the threshold to the last digits.
_ROUNDING_PERCENT = 1e-3

_SIDES = {"left": "L", "lh": "L", "l": "L", "right": "R", "rh": "R", "r": "R"}


@dataclass(frozen=True, eq=False)
class Region:
    """One label of a region, in atlas space.

    Parameters
    ----------
    name
        The region in the study file.
    atlas, label
        Where it comes from.
    hemisphere
        L or R where the label's name says so; "" otherwise.
    tissues
        Where it is searched.
    probability
        (x, y, z) float32, percent; only the part of the atlas in which it is above 0, with a margin of one voxel.
    affine
        (4, 4), voxel of that part to RAS+ mm.
    threshold
        Percent from which a place belongs to the label.
    """

    name: str
    atlas: str
    label: str
    hemisphere: str
    tissues: tuple[Tissue, ...]
    probability: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    threshold: float

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Voxels of ``probability`` that belong to the label."""
        return self.probability >= self.threshold - _ROUNDING_PERCENT


@dataclass(frozen=True, eq=False)
class RegionVolume:
    """A search volume on the grid of the template.

    Parameters
    ----------
    mask
        (x, y, z) bool.
    tissue
        GM or WM: whose maps are searched in it.
    hemisphere
        L, R, or "" for both.
    voxels_by_label
        Voxels that each label contributes, by "region: atlas: label"; labels may overlap, and 0 tells of one that
        is nowhere as probable as the threshold.
    """

    mask: npt.NDArray[np.bool_]
    tissue: Tissue
    hemisphere: str
    voxels_by_label: Mapping[str, int]


def side_of_name(label: str) -> str:
    """Return L or R where a label's name says so, "" where it does not.

    ``left``, ``right``, ``lh`` and ``rh`` count anywhere in the name, single letters as its first or last word.

    Raises
    ------
    ValueError
        If the name says both.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", label.casefold()) if word]
    ends = {words[0], words[-1]} if words else set()
    found = {_SIDES[word] for word in words if word in _SIDES and (len(word) > 1 or word in ends)}
    if len(found) > 1:
        raise ValueError("both left and right")
    return found.pop() if found else ""


def choose_labels(wanted: Sequence[str], names: Sequence[str], source: str) -> list[str]:
    """Return the names, in the order of the atlas, that are named or fit a pattern; capitals do not matter.

    Raises
    ------
    ImageError
        If something named fits no label; every one is told.
    """
    plain = {name: " ".join(name.split()).casefold() for name in names}
    chosen: set[str] = set()
    problems: list[str] = []
    for text in wanted:
        pattern = " ".join(text.split()).casefold()
        exact = [name for name, form in plain.items() if form == pattern]
        fitting = exact or [name for name, form in plain.items() if fnmatch.fnmatchcase(form, pattern)]
        chosen.update(fitting)
        if not fitting:
            problems.append(
                f"{source}: expected a label that fits '{text}', found none. {_nearest_labels(text, plain)}"
            )
    if problems:
        raise ImageError(*problems)
    return [name for name in dict.fromkeys(names) if name in chosen]


def _nearest_labels(text: str, plain: Mapping[str, str]) -> str:
    """Return a sentence with the labels that a pattern without its signs is closest to."""
    bare = re.sub(r"[*?\[\]]", "", text).casefold().strip()
    holding = [name for name, form in plain.items() if bare and bare in form]
    scores = {name: difflib.SequenceMatcher(None, bare, form).ratio() for name, form in plain.items()}
    found = [*holding, *sorted((name for name in scores if name not in holding), key=lambda name: -scores[name])]
    return f"Nearest labels: {'; '.join(found[:3])}."


def read_regions(spec: Regions, folder: str | Path) -> list[Region]:
    """Read the labels of all regions; each file is read once, from front to end.

    Parameters
    ----------
    spec
        The section of the study file.
    folder
        Folder of the atlases, as a path that can be opened.

    Raises
    ------
    ImageError
        If an atlas or a label is missing, the XML does not belong to the image, or a label lies on the other side than
        its name says. Every problem of the names is told.
    """
    root = Path(folder)
    plans: list[_Plan] = []
    problems: list[str] = []
    for atlas in dict.fromkeys(region.atlas for region in spec.volumes.values()):
        try:
            plans.append(_plan(spec, atlas, _find_labels(root, atlas)))
        except ImageError as error:
            problems += error.problems
    if problems:
        raise ImageError(*problems)
    found = [region for plan in plans for region in _read_atlas(spec, plan)]
    order = list(spec.volumes)
    return sorted(found, key=lambda region: order.index(region.name))  # within a region as the atlas lists them


def atlas_files(spec: Regions, folder: str | Path) -> list[Path]:
    """Return the label XML and the image of every atlas that the regions name.

    Raises
    ------
    ImageError
        If an atlas is not there; every one is told.
    """
    found: list[Path] = []
    problems: list[str] = []
    for atlas in dict.fromkeys(region.atlas for region in spec.volumes.values()):
        try:
            xml = _find_labels(Path(folder), atlas)
            found += [xml, image_beside(xml, read_labels(xml))]
        except ImageError as error:
            problems += error.problems
    if problems:
        raise ImageError(*problems)
    return found


def search_volumes(
    spec: Regions,
    regions: Sequence[Region],
    shape: tuple[int, int, int],
    affine: npt.NDArray[np.float64],
    gm: npt.NDArray[Any],
    wm: npt.NDArray[Any],
) -> dict[str, RegionVolume]:
    """Return search volumes on the grid of the template: the union of regions by tissue and hemisphere, or each region.

    Probabilities are interpolated trilinearly and then cut at the threshold. A label that names its side belongs to
    that side wherever it lies, any other is divided at x = 0 (negative is left). No voxel is in both hemispheres: where
    labels of both claim it, and for labels without a side, its own x decides, and one with x = 0 is in neither.

    Parameters
    ----------
    shape, affine
        Grid of the template, voxel to RAS+ mm.
    gm, wm
        Tissue probabilities of the template on it, 0 to 1.

    Raises
    ------
    MaskError
        If the tissue probabilities are on another grid, or a region has no voxel in a hemisphere.
    """
    for tissue, image in (("GM", gm), ("WM", wm)):
        if image.shape != tuple(shape):
            raise MaskError(f"{tissue} of the template: expected shape {tuple(shape)}, found {image.shape}.")
    x = _x_of_voxels(shape, affine)
    parts = list(_parts(spec, regions, x, affine, {"GM": gm, "WM": wm}))
    problems = _empty_regions(spec, parts)
    if problems:
        raise MaskError(*problems)
    volumes: dict[str, list[_Part]] = {}
    for part in sorted(parts, key=lambda part: _place(spec, part)):
        volumes.setdefault(part.volume, []).append(part)
    masks = {name: np.zeros(shape, dtype=bool) for name in volumes}
    for part in parts:
        masks[part.volume].ravel()[part.voxels] = True
    for name, (first, *_) in volumes.items():
        other = spec.volume_name(first.region, first.tissue, "R")
        if first.hemisphere == "L" and other in masks:
            contested = masks[name] & masks[other]
            masks[name][contested & (x >= -MIDLINE_MM)] = False
            masks[other][contested & (x <= MIDLINE_MM)] = False
    return {
        name: RegionVolume(
            masks[name],
            within[0].tissue,
            within[0].hemisphere,
            {part.text: int(np.count_nonzero(masks[name].ravel()[part.voxels])) for part in within},
        )
        for name, within in volumes.items()
    }


@dataclass(frozen=True, eq=False)
class _Part:
    """What one label gives to one volume: flat indices of voxels of the template."""

    volume: str
    region: str
    tissue: Tissue
    hemisphere: str
    text: str
    voxels: npt.NDArray[np.intp]


def _parts(
    spec: Regions,
    regions: Sequence[Region],
    x: npt.NDArray[np.float64],
    affine: npt.NDArray[np.float64],
    tissue_maps: Mapping[Tissue, npt.NDArray[Any]],
) -> Iterator[_Part]:
    for region in regions:
        whole = np.flatnonzero(_on_grid(region, x.shape, affine))
        here = x.ravel()[whole]
        sides = {"": np.ones(whole.size, dtype=bool)}
        if spec.hemispheres and region.hemisphere:
            sides = {region.hemisphere: sides[""]}
        elif spec.hemispheres:
            sides = {"L": here < -MIDLINE_MM, "R": here > MIDLINE_MM}
        for (hemisphere, chosen), tissue in itertools.product(sides.items(), region.tissues):
            voxels = whole[chosen]
            inside = voxels[tissue_maps[tissue].ravel()[voxels] >= spec.least(tissue)]
            volume = spec.volume_name(region.name, tissue, hemisphere)
            text = f"{region.name}: {region.atlas}: {region.label}"
            yield _Part(volume, region.name, tissue, hemisphere, text, inside)


def _empty_regions(spec: Regions, parts: Sequence[_Part]) -> list[str]:
    counts: Counter[tuple[str, Tissue, str]] = Counter()
    for part in parts:
        counts[part.region, part.tissue, part.hemisphere] += part.voxels.size
    return [
        f"regions.volumes.{region}: expected voxels of {tissue}{f' in hemisphere {side}' if side else ''} (template at "
        f"least {spec.least(tissue):g}, a label at least {spec.threshold:g} %), found none. Check the tissue, or lower "
        "threshold or min_tissue."
        for (region, tissue, side), count in counts.items()
        if not count
    ]


def _place(spec: Regions, part: _Part) -> tuple[int, str, str]:
    """Return where a volume comes in the list: by region where each is a volume, GM before WM, left before right."""
    return (list(spec.volumes).index(part.region) if spec.combine == "single" else 0, part.tissue, part.hemisphere)


def _x_of_voxels(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return x in mm of every voxel centre."""
    i, j, k = (affine[0, axis] * np.arange(n) for axis, n in enumerate(shape))
    return np.asarray(i[:, None, None] + j[:, None] + k + affine[0, 3])


def _on_grid(region: Region, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Interpolate the probability of a label at the voxels of the template and cut it at the threshold."""
    mask = np.zeros(shape, dtype=bool)
    if not region.probability.size:
        return mask
    to_grid = np.linalg.inv(affine) @ region.affine
    corners = np.array(list(itertools.product(*((0, n - 1) for n in region.probability.shape))), dtype=np.float64)
    reached = corners @ to_grid[:3, :3].T + to_grid[:3, 3]
    first = np.maximum(np.floor(reached.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(reached.max(axis=0)).astype(int) + 1, shape)
    if (last <= first).any():
        return mask
    to_atlas = np.linalg.inv(to_grid)
    offset = to_atlas[:3, :3] @ first + to_atlas[:3, 3]
    values = ndimage.affine_transform(
        region.probability, to_atlas[:3, :3], offset, tuple(last - first), order=1, mode="grid-constant", cval=0.0
    )
    mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = values >= region.threshold - _ROUNDING_PERCENT
    return mask


@dataclass(frozen=True)
class _Plan:
    """What to read from one atlas."""

    atlas: str
    xml: Path
    definition: AtlasDefinition
    wanted: Mapping[str, tuple[str, ...]]


def _find_labels(root: Path, atlas: str) -> Path:
    folders = [folder for folder in (root, root / "data" / "atlases") if folder.is_dir()]
    if not folders:
        raise ImageError(f"{root}: expected a folder with atlases (label XML and NIfTI), found none. Check the path.")
    found = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.xml"))}
    by_plain_name = {stem.casefold(): path for stem, path in found.items()}
    path = found.get(atlas) or by_plain_name.get(atlas.casefold())
    if path is None:
        there = ", ".join(sorted(found)) or "no XML"
        raise ImageError(f"{root}: expected the atlas {atlas}.xml, found {there}.{nearest(atlas, found)}")
    return path


def _plan(spec: Regions, atlas: str, xml: Path) -> _Plan:
    definition = read_labels(xml)
    names = [name for _, name in definition.names]
    wanted: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    for name, region in spec.volumes.items():
        if region.atlas != atlas:
            continue
        try:
            wanted[name] = tuple(choose_labels(region.labels, names, f"regions.{name} ({xml})"))
        except ImageError as error:
            problems += error.problems
    if problems:
        raise ImageError(*problems)
    return _Plan(atlas, xml, definition, wanted)


def _read_atlas(spec: Regions, plan: _Plan) -> Iterator[Region]:
    """Yield the labels of an atlas that a region has, in its order."""
    image = image_beside(plan.xml, plan.definition)
    nifti = open_nifti(image)
    needed = [(index, label) for index, label in plan.definition.names if any(label in w for w in plan.wanted.values())]
    probabilistic = nifti.n_volumes > 1
    highest = max(index for index, _ in plan.definition.names)
    if probabilistic and highest >= nifti.n_volumes:
        raise ImageError(
            f"{plan.xml}: names regions up to index {highest}, expected those of {image}, found {nifti.n_volumes} "
            "in it. Give the label file that belongs to the image."
        )
    crops = [_cropped(values, nifti.affine) for values in _label_images(nifti, plan.definition.kind, needed)]
    # As atlas.py reads them: numbers with a fraction that nowhere exceed 1 are fractions, all others percent.
    fractions = nifti.scaled or nifti.dtype.kind == "f"
    fractions = fractions and max((float(crop.max(initial=0)) for crop, _ in crops), default=0.0) <= 1.0
    for (_, label), (crop, affine) in zip(needed, crops, strict=True):
        probability = crop * np.float32(100.0 if fractions and probabilistic else 1.0)
        side = _checked_side(label, probability, affine, f"{plan.xml}: label '{label}'", image)
        for name, labels in plan.wanted.items():
            if label in labels:
                tissues = spec.volumes[name].tissues
                threshold = spec.threshold if probabilistic else LABELLED_THRESHOLD
                yield Region(name, plan.atlas, label, side, tissues, probability, affine, threshold)


def _label_images(nifti: NiftiFile, kind: str, needed: Sequence[tuple[int, str]]) -> Iterator[npt.NDArray[Any]]:
    """Yield probabilities (or 100 inside) of each label on the grid of the atlas; one is in memory at a time."""
    if nifti.n_volumes > 1:
        for index, _ in needed:
            values: npt.NDArray[Any] = read_volume(nifti, index)
            if nifti.scaled:
                values = values * nifti.slope + nifti.intercept
            yield values.reshape(nifti.shape, order="F")
        return
    best, _ = labelled(nifti, kind)
    for index, _ in needed:
        yield np.where(best == index, np.uint8(100), np.uint8(0))


def _cropped(
    values: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the part in which values are above 0, with a margin of one voxel, and its affine; empty if none is."""
    above = values > 0  # NaN is not
    box = []
    for axis in range(3):
        reached = np.flatnonzero(above.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (int(reached[0]), int(reached[-1])) if reached.size else (0, -2)
        box.append(slice(max(first - 1, 0), last + 2))
    start = np.array([part.start for part in box], dtype=np.float64)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return np.where(above, values, 0)[tuple(box)].astype(np.float32), moved


def _checked_side(
    label: str, probability: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], unit: str, image: Path
) -> str:
    """Return the side that a label's name says, after looking where the label lies."""
    try:
        side = side_of_name(label)
    except ValueError as error:
        raise ImageError(f"{unit}: expected a name that says one side or none, found {error}. Rename it.") from None
    x = _x_of_voxels(probability.shape, affine)
    left, right = (float(probability[part].sum(dtype=np.float64)) for part in (x < -MIDLINE_MM, x > MIDLINE_MM))
    own, name, sign = (left, "left", "x < 0") if side == "L" else (right, "right", "x > 0")
    if side and not own >= MIN_OWN_SIDE * (left + right):
        share = 100 * own / (left + right)
        raise ImageError(
            f"{unit}: expected the {name} side ({sign}) as its name says, found {share:.0f} % of it there ({image}). "
            "Image and XML do not belong together, or left and right of the image are swapped."
        )
    return side
