"""Pictures in template space: images under the template's edges, tissues beside the template's, volume against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from voxcloud.errors import ImageError
from voxcloud.report.mosaic_sheet import (
    BAR_WIDTH,
    BLACK,
    GAP,
    OUTLINE,
    PICTURE_WIDTH,
    UNKNOWN,
    Bytes,
    Sheet,
    colour_table,
    encoded,
    painted,
    rim,
)
from voxcloud.report.mosaic_slices import Bools, Box, Cut, Turned, Values, cut_of, turn

# The same places for everyone (mm), so that pages can be compared: basal ganglia and cortex, both hemispheres.
PLACES: Mapping[int, tuple[float, ...]] = {
    2: (-28.0, -8.0, 12.0, 32.0, 52.0),
    1: (-70.0, -45.0, -20.0, 5.0, 35.0),
    0: (-44.0, -24.0, -4.0, 24.0, 44.0),
}
AXIAL = (-30.0, -14.0, 2.0, 18.0, 34.0, 50.0)
SIDES = {2: ("L", "R"), 1: ("L", "R"), 0: ("P", "A")}
MARGIN_MM = 8.0  # what is shown around the template's brain, so that what lies beside it is seen
# The edge of grey matter, seen beside that of white matter with every kind of colour vision.
OUTER = (86, 180, 233)
# A template's outline on colours.
DARK = (60, 60, 60)
# Ratios of volume with the first and the last colour, and those that the bar names.
RATIOS, NAMED_RATIOS = (0.25, 4.0), (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
# Small pictures: an axial and a sagittal slice, heights in dots of both beside one another and of the first alone.
THUMBNAIL_PLACES, THUMBNAIL_GAP, THUMBNAIL_SHADES = ((2, 8.0), (0, -20.0)), 3, 40
THUMBNAIL_HEIGHT, SMALLER_HEIGHT = 150, 120


@dataclass(frozen=True, eq=False)
class Edges:
    """The template's edges and brain on one grid.

    Attributes
    ----------
    white
        (x, y, z) probability of white matter; its edge lies at .5.
    tissue
        (x, y, z) probability of white and grey matter together.
    brain
        (x, y, z) bool.
    affine
        (4, 4), voxel to RAS+ mm.
    """

    white: Values
    tissue: Values
    brain: Bools
    affine: Values

    @classmethod
    def of(cls, priors: Mapping[str, Values], brain: Bools, affine: Values) -> Edges:
        """Return the edges of tissue probabilities."""
        return cls(priors["WM"], priors["GM"] + priors["WM"], brain, affine)


def outlines_png(
    volume: Values,
    edges: Edges,
    *,
    low: float,
    high: float,
    title: str,
    units: str,
    outer: bool = False,
    missing: bool = False,
) -> bytes:
    """Return axial, coronal and sagittal slices of an image on the template's grid under the template's edges, as PNG.

    Parameters
    ----------
    volume : (x, y, z) on the grid of ``edges``; NaN where nothing is known.
    edges : of the template.
    low, high : values that are black and white.
    title, units : of the image, written on the picture.
    outer : whether the outer edge of grey matter is drawn beside that of white matter.
    missing : whether voxels of the template's brain without a value are pink.

    Raises
    ------
    ImageError
        If the image is on another grid, or the window is none.
    """
    _check(volume, edges, title, low < high, f"{low:g} and {high:g}")
    turned, brain = turn(np.asarray(volume, dtype=np.float32), edges.affine), turn(edges.brain, edges.affine)
    holes = turn(edges.brain & ~np.isfinite(volume), edges.affine) if missing else None
    key = "orange: edge of the template's white matter" + ("; blue: outer edge of its grey matter" if outer else "")
    sheet, cuts = _three_rows(f"{title} ({units}); {key}", brain)
    table = colour_table("gray")
    lines = _lines(edges, [*([("tissue", OUTER)] if outer else []), ("white", OUTLINE)])
    for position, cut in enumerate(cuts):
        picture = _shaded(cut, turned, holes, low, high, table)
        _draw(picture, cut, lines)
        sheet.place(position, picture, _label(brain, cut), SIDES[cut.axis])
    sheet.bar(low, high, units, table)
    return sheet.png()


def ratio_png(ratio: Values, edges: Edges, *, title: str) -> bytes:
    """Return slices of a ratio of volumes as PNG: blue for less than 1, orange for more, on a scale of logarithms.

    Parameters
    ----------
    ratio : (x, y, z), larger than 0; shown within the template's brain.
    edges : of the template; white matter is outlined.
    title : written on the picture.

    Raises
    ------
    ImageError
        If the ratio is on another grid.
    """
    _check(ratio, edges, title, True, "")
    known = edges.brain & np.isfinite(ratio) & (ratio > 0)
    logs = np.full(edges.brain.shape, np.nan, dtype=np.float32)
    logs[known] = np.log2(np.asarray(ratio)[known])
    turned, brain = turn(logs, edges.affine), turn(edges.brain, edges.affine)
    holes = turn(edges.brain & ~known, edges.affine)
    low, high = (float(np.log2(r)) for r in RATIOS)
    sheet, cuts = _three_rows(f"{title}; dark line: edge of the template's white matter", brain)
    table = colour_table("field")
    lines = _lines(edges, [("white", DARK)])
    for position, cut in enumerate(cuts):
        picture = _shaded(cut, turned, holes, low, high, table)
        _draw(picture, cut, lines)
        sheet.place(position, picture, _label(brain, cut), SIDES[cut.axis])
    marks = [(float(np.log2(r)), f"{r:g}") for r in NAMED_RATIOS]
    sheet.bar(low, high, "ratio", table, marks=marks)
    return sheet.png()


def tissues_png(own: Mapping[str, Values], priors: Mapping[str, Values], edges: Edges, *, title: str) -> bytes:
    """Return axial slices of a participant's tissue probabilities, the template's below each, as PNG.

    Parameters
    ----------
    own, priors : label to probability, (x, y, z), on the template's grid.
    edges : of the template.
    title : written on the picture.

    Raises
    ------
    ImageError
        If a probability is on another grid.
    """
    for label, values in own.items():
        _check(values, edges, f"{title}, {label}", True, "")
    brain = turn(edges.brain, edges.affine)
    box = _around(brain)
    (left, right), size = box[0], brain.size_mm[0]
    per_mm = ((PICTURE_WIDTH - BAR_WIDTH + GAP) / len(AXIAL) - GAP) / ((right - left + 1) * size)
    cuts = [cut_of(brain, box, 2, _index(brain, 2, mm), per_mm) for mm in AXIAL]
    rows = [(f"{label}, {whose}", table[label]) for label in own for whose, table in _whose(own, priors)]
    cell = cuts[0].width, cuts[0].height
    sheet = Sheet(f"{title}; orange: the template's edge at .5", cell, len(cuts), len(rows), bar=True)
    table = colour_table("gray")
    for row, (name, values) in enumerate(rows):
        turned, line = turn(values, edges.affine), turn(priors[name[: name.index(",")]], edges.affine)
        for column, cut in enumerate(cuts):
            picture = painted(*cut.sample(turned), 0.0, 1.0, table)
            _draw(picture, cut, [(line, OUTLINE)])
            label = name if column == 0 else _label(brain, cut)
            sheet.place(row * len(cuts) + column, picture, label, ("L", "R") if column == 0 else None)
    sheet.bar(0.0, 1.0, "share", table)
    return sheet.png()


def outline_thumbnail_png(volume: Values, edges: Edges, *, low: float, high: float, sagittal: bool = True) -> bytes:
    """Return one small axial slice, and a sagittal one beside it, under the edge of the template's white matter.

    Raises
    ------
    ImageError
        If the image is on another grid, or the window is none.
    """
    _check(volume, edges, "a thumbnail", low < high, f"{low:g} and {high:g}")
    turned, brain = turn(np.asarray(volume, dtype=np.float32), edges.affine), turn(edges.brain, edges.affine)
    box = _around(brain)
    (back, front), size = box[1], brain.size_mm[1]
    height = THUMBNAIL_HEIGHT if sagittal else SMALLER_HEIGHT
    per_mm = height / ((front - back + 1) * size)
    table = colour_table("gray")[::2].repeat(2, axis=0)
    parts = []
    for axis, mm in THUMBNAIL_PLACES[: 2 if sagittal else 1]:
        cut = cut_of(brain, box, axis, _index(brain, axis, mm), per_mm)
        picture = painted(*cut.sample(turned), low, high, table)
        _draw(picture, cut, _lines(edges, [("white", OUTLINE)]))
        above = max((height - picture.shape[0]) // 2, 0)
        part = np.zeros((height, picture.shape[1] + THUMBNAIL_GAP, 3), dtype=np.uint8)
        part[above : above + picture.shape[0], : picture.shape[1]] = picture[:height]
        parts.append(part)
    whole = np.concatenate(parts, axis=1)[:, :-THUMBNAIL_GAP]
    return encoded(Image.fromarray(np.ascontiguousarray(whole)).quantize(THUMBNAIL_SHADES, dither=Image.Dither.NONE))


def _check(volume: Values, edges: Edges, title: str, right: bool, found: str) -> None:
    if np.shape(volume) != edges.brain.shape:
        raise ImageError(
            f"picture of {title}: expected an image on the template's grid of {edges.brain.shape} voxels, found "
            f"{np.shape(volume)}. Resample it first."
        )
    if not right:
        raise ImageError(f"picture of {title}: expected a window low < high, found {found}")


def _whose(own: Mapping[str, Values], priors: Mapping[str, Values]) -> tuple[tuple[str, Mapping[str, Values]], ...]:
    return ("person", own), ("template", priors)


def _index(turned: Turned, axis: int, mm: float) -> int:
    """Return the slice of a template's grid that lies nearest to a coordinate."""
    index = round((mm - float(turned.affine[axis, 3])) / turned.size_mm[axis])
    return int(min(max(index, 0), turned.data.shape[axis] - 1))


def _around(brain: Turned) -> Box:
    """Return the box of the brain and a little around it."""
    return [
        (max(0, a - round(MARGIN_MM / size)), min(n - 1, b + round(MARGIN_MM / size)))
        for (a, b), size, n in zip(brain.box, brain.size_mm, brain.data.shape, strict=True)
    ]


def _three_rows(heading: str, brain: Turned) -> tuple[Sheet, list[Cut]]:
    """Return a sheet with rows of axial, coronal and sagittal slices, and these."""
    box, columns = _around(brain), len(PLACES[2])
    longest = max((b - a + 1) * s for (a, b), s in zip(box[:2], brain.size_mm[:2], strict=True))
    per_mm = ((PICTURE_WIDTH - BAR_WIDTH + GAP) / columns - GAP) / longest
    cuts = [cut_of(brain, box, axis, _index(brain, axis, mm), per_mm) for axis, row in PLACES.items() for mm in row]
    cell = max(c.width for c in cuts), max(c.height for c in cuts)
    return Sheet(heading, cell, columns, len(PLACES), bar=True), cuts


def _label(brain: Turned, cut: Cut) -> str:
    at = brain.millimetre(cut.axis, cut.index)
    side = "" if cut.axis != 0 or abs(at) < 1 else (" left" if at < 0 else " right")
    return f"{'xyz'[cut.axis]} {at:.0f}{side}"


def _shaded(cut: Cut, turned: Turned, holes: Turned | None, low: float, high: float, table: Bytes) -> Bytes:
    """Return a slice in colour, black where nothing is known, pink where something should be."""
    values, known = cut.sample(turned)
    picture = painted(values, np.ones(values.shape, dtype=bool), low, high, table)
    picture[~known] = BLACK
    if holes is not None:
        picture[cut.mask(holes)] = UNKNOWN
    return picture


def _lines(edges: Edges, wanted: Sequence[tuple[str, tuple[int, int, int]]]) -> list[tuple[Turned, Any]]:
    return [(turn(getattr(edges, name), edges.affine), ink) for name, ink in wanted]


def _draw(picture: Bytes, cut: Cut, lines: Sequence[tuple[Turned, Any]]) -> None:
    """Draw where probabilities cross one half, smooth however large voxels are."""
    for turned, ink in lines:
        values = Image.fromarray(np.ascontiguousarray(cut.of(turned), dtype=np.float32))
        drawn: npt.NDArray[Any] = np.asarray(values.resize((cut.width, cut.height), Image.Resampling.BICUBIC))
        picture[rim(drawn >= 0.5)] = ink
