"""Pictures of diffusion: fibre directions in colour, images before and after correction, outliers of slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from voxcloud.errors import ImageError
from voxcloud.report.mosaic import THUMBNAIL_MM
from voxcloud.report.mosaic_sheet import (
    BAR_WIDTH,
    BLACK,
    CONVENTION,
    GAP,
    HEADER,
    INK,
    LEVELS,
    OUTLINE,
    PAPER,
    PICTURE_WIDTH,
    Bytes,
    Sheet,
    colour_table,
    encoded,
    painted,
    per_mm_of,
    rim,
)
from voxcloud.report.mosaic_slices import Bools, Box, Cut, Turned, Values, axial_places, cut_of, turn
from voxcloud.report.svg import ticks

# FA of full brightness: higher is rare, and scaled to 1 most of white matter would be dark.
BRIGHT_FA = 0.7
AXES = (("left", "right", (255, 0, 0)), ("front", "back", (0, 255, 0)), ("up", "down", (0, 0, 255)))
SHADES = 32  # of each colour: a palette of 256 would turn directions by its own errors
BALL = 46
AROUND_MM = 14.0  # what is shown around the brain, so that what was pushed out of it is seen
LARGEST_Z = 6.0
CARPET_LEFT, CARPET_BELOW, STRIPE = 46, 58, 10
CARPET_HEIGHT = (150, 320)
NOT_JUDGED = (213, 218, 225)


def direction_png(
    direction: Values,
    fa: Values,
    affine: npt.ArrayLike,
    *,
    title: str = "Fibre direction",
    columns: int = 6,
    rows: int = 2,
) -> bytes:
    """Return axial slices as PNG in which colour is the direction and brightness is FA.

    Red, green and blue are ``|v_x|``, ``|v_y|`` and ``|v_z|`` times ``min(FA / .7, 1)``: along left and right, front
    and back, up and down. A ball seen from above, as the slices are, shows which is which.

    Parameters
    ----------
    direction : (3, x, y, z), unit vectors in RAS+; their sign means nothing.
    fa : (x, y, z), 0 to 1; NaN outside the brain (black).
    affine : (4, 4), voxel to RAS+ mm; slices as in ``mosaic_png``.

    Raises
    ------
    ImageError
        If shapes do not fit or the affine is none.
    """
    colours = _coloured(direction, fa, affine)
    shown = colours[0]
    box = turn(fa, affine).box
    per_mm = per_mm_of(turn(fa, affine), columns)
    cuts = [cut_of(shown, box, 2, index, per_mm) for index in axial_places(turn(fa, affine), columns * rows)]
    sheet = Sheet(f"{title}, {CONVENTION}", (cuts[0].width, cuts[0].height), columns, rows, bar=True)
    for position, cut in enumerate(cuts):
        label = f"z {shown.millimetre(2, cut.index):.0f}"
        sheet.place(position, _mixed(colours, cut), label, ("L", "R") if position % columns == 0 else None)
    _legend(sheet)
    return encoded(sheet.image)


def direction_thumbnail_png(direction: Values, fa: Values, affine: npt.ArrayLike, *, width: int = 72) -> bytes:
    """Return one small axial slice through the middle of the brain, coloured as in ``direction_png``.

    Raises
    ------
    ImageError
        If shapes do not fit or the affine is none.
    """
    colours, place = _coloured(direction, fa, affine), turn(fa, affine)
    (first, last), size = place.box[2], place.size_mm[2]
    index = round(max(last - THUMBNAIL_MM / size, (first + last) / 2))
    left, right = place.box[0]
    cut = cut_of(place, place.box, 2, index, width / ((right - left + 1) * place.size_mm[0]))
    return encoded(Image.fromarray(_mixed(colours, cut, SHADES // 2)))


def before_after_png(
    before: Values, after: Values, affine: npt.ArrayLike, *, outline: Bools, title: str, columns: int = 3
) -> bytes:
    """Return an image before correction above and after it below, both under the outline of the corrected brain.

    What was distorted does not fill the outline, or runs over it.

    Parameters
    ----------
    before, after : (x, y, z) on one grid, in one unit.
    affine : (4, 4), voxel to RAS+ mm.
    outline : (x, y, z), the brain in ``after``.
    title : e.g. ``b = 0``.
    columns : so many axial and so many sagittal slices.

    Raises
    ------
    ImageError
        If shapes differ or the affine is none.
    """
    if not np.shape(before) == np.shape(after) == np.shape(outline):
        raise ImageError(
            f"picture of {title}: expected two volumes and an outline of one shape, found {np.shape(before)}, "
            f"{np.shape(after)} and {np.shape(outline)}. Give images on one grid."
        )
    rows, line = (turn(before, affine), turn(after, affine)), turn(outline, affine)
    box = _around(line)
    longest = max((b - a + 1) * s for (a, b), s in zip(box, line.size_mm, strict=True))
    per_mm = (PICTURE_WIDTH / (2 * columns) - GAP) / longest
    cuts = [cut_of(line, box, 2, index, per_mm) for index in _spread(box[2], columns, 0.22, 0.72)]
    cuts += [cut_of(line, box, 0, index, per_mm) for index in _spread(box[0], columns, 0.3, 0.56)]
    inside = np.asarray(after)[np.asarray(outline, dtype=bool)]
    inside = inside[np.isfinite(inside)]
    high = float(np.percentile(inside, 97.0)) if inside.size else 1.0
    cell = max(c.width for c in cuts), max(c.height for c in cuts)
    heading = f"{title}: above before, below after correction; outline: brain after correction"
    sheet, table = Sheet(heading, cell, len(cuts), 2, bar=False), colour_table("gray")
    for row, turned in enumerate(rows):
        for column, cut in enumerate(cuts):
            values, known = cut.sample(turned)
            picture = painted(values, known, 0.0, high if high > 0 else 1.0, table)
            picture[rim(cut.mask(line))] = OUTLINE
            sides = ("L", "R") if cut.axis == 2 else ("P", "A")
            label = f"{'xyz'[cut.axis]} {line.millimetre(cut.axis, cut.index):.0f}"
            sheet.place(row * len(cuts) + column, picture, label, sides)
    return sheet.png()


def carpet_png(z: Values, bvals: npt.ArrayLike, *, flagged: Sequence[tuple[int, int]] = (), title: str) -> bytes:
    """Return z of every slice (from bottom to top) of every volume (from left to right) as PNG.

    Parameters
    ----------
    z : (slice, volume), how far a slice's mean residual is from what is usual, in SD; NaN (grey) where there is no
        brain to judge it by.
    bvals : (volume,), s/mm2; shown as a stripe below, darker for more.
    flagged : slice and volume of those that were named outliers: framed.

    Raises
    ------
    ImageError
        If shapes do not fit.
    """
    values, b = np.asarray(z, dtype=np.float64), np.asarray(bvals, dtype=np.float64)
    if values.ndim != 2 or b.shape != values.shape[1:] or not values.size:
        raise ImageError(
            f"picture of {title}: expected z of shape (slice, volume) and a b-value for each volume, found "
            f"{values.shape} and {b.shape}."
        )
    slices, volumes = values.shape
    room = PICTURE_WIDTH - BAR_WIDTH - CARPET_LEFT
    across = max(1, room // volumes)
    down = max(1, min(max(CARPET_HEIGHT[0] // slices, 4), max(1, CARPET_HEIGHT[1] // slices)))
    width, height = across * volumes, down * slices
    sheet = Sheet(f"{title}; blue: signal is missing", (width, height + CARPET_BELOW), 1, 1, bar=True, side=CARPET_LEFT)
    table = colour_table("field")
    picture = painted(values[::-1], np.ones(values.shape, dtype=bool), -LARGEST_Z, LARGEST_Z, table)
    picture[~np.isfinite(values[::-1])] = NOT_JUDGED
    large = np.kron(picture, np.ones((down, across, 1), dtype=np.uint8))
    sheet.image.paste(PAPER, (CARPET_LEFT, HEADER, CARPET_LEFT + width, HEADER + height + CARPET_BELOW))
    sheet.image.paste(Image.fromarray(np.ascontiguousarray(large)), (CARPET_LEFT, HEADER))
    for k, v in flagged:
        left, top = CARPET_LEFT + v * across, HEADER + (slices - 1 - k) * down
        sheet.draw.rectangle((left - 1, top - 1, left + across, top + down), outline=BLACK)
    _axes(sheet, slices, volumes, across, down)
    _stripe(sheet, b, across, HEADER + height + 2)
    # The bar ends where the carpet does.
    sheet.inner = (sheet.inner[0], height)
    sheet.bar(-LARGEST_Z, LARGEST_Z, "z", table)
    return sheet.png()


def _coloured(direction: Values, fa: Values, affine: npt.ArrayLike) -> list[Turned]:
    """Return red, green and blue, 0 to 1."""
    vectors, anisotropy = np.asarray(direction, dtype=np.float32), np.asarray(fa, dtype=np.float32)
    if vectors.ndim != 4 or vectors.shape != (3, *anisotropy.shape):
        raise ImageError(
            f"picture of directions: expected directions (3, x, y, z) and FA (x, y, z), found {vectors.shape} and "
            f"{anisotropy.shape}. Give maps of one tensor fit."
        )
    bright = np.clip(anisotropy / np.float32(BRIGHT_FA), 0.0, 1.0)  # NaN stays NaN
    return [turn(np.abs(vectors[k]) * bright, affine) for k in range(3)]


def _mixed(colours: Sequence[Turned], cut: Cut, shades: int = SHADES) -> Bytes:
    channels = []
    for turned in colours:
        values, known = cut.sample(turned)
        channels.append(np.where(known, np.clip(np.nan_to_num(values), 0.0, 1.0), 0.0))
    steps = np.round((shades - 1) * np.stack(channels, axis=2))
    return np.round(255.0 / (shades - 1) * steps).astype(np.uint8)


def _legend(sheet: Sheet) -> None:
    """Draw the ball, seen from above with the front on top, and name the colours."""
    left, top = sheet.inner[0] + 8, HEADER + 2
    y, x = np.mgrid[1 : -1 : BALL * 1j, -1 : 1 : BALL * 1j]
    inside = x**2 + y**2 <= 1.0
    up = np.sqrt(np.clip(1.0 - x**2 - y**2, 0.0, None))
    ball = np.where(inside[..., None], np.round(255 * np.stack([np.abs(x), np.abs(y), up], axis=2)), 255)
    sheet.image.paste(Image.fromarray(ball.astype(np.uint8)), (left, top))
    for k, (one, other, ink) in enumerate(AXES):
        at = top + BALL + 10 + 32 * k
        sheet.draw.rectangle((left, at + 2, left + 8, at + 24), fill=ink, outline=INK)
        sheet.text((left + 13, at), one, INK, 11)
        sheet.text((left + 13, at + 13), other, INK, 11)


def _around(line: Turned) -> Box:
    """Return the box of the brain and a little around it."""
    return [
        (max(0, a - round(AROUND_MM / size)), min(n - 1, b + round(AROUND_MM / size)))
        for (a, b), size, n in zip(line.box, line.size_mm, line.data.shape, strict=True)
    ]


def _spread(ends: tuple[int, int], n: int, first: float, last: float) -> list[int]:
    return [round(ends[0] + share * (ends[1] - ends[0])) for share in np.linspace(first, last, n)]


def _axes(sheet: Sheet, slices: int, volumes: int, across: int, down: int) -> None:
    bottom = HEADER + slices * down
    for value in ticks(0, slices - 1, 5):
        if value == int(value):
            y = bottom - (value + 0.5) * down
            sheet.draw.line((CARPET_LEFT - 4, y, CARPET_LEFT - 1, y), fill=INK)
            sheet.text((CARPET_LEFT - 7, y), f"{value:.0f}", INK, 11, "rm")
    sheet.text((1, HEADER + 2), "slice", INK, 11)
    for value in ticks(0, volumes - 1, 10):
        if value == int(value):
            x = CARPET_LEFT + (value + 0.5) * across
            sheet.draw.line((x, bottom + STRIPE + 4, x, bottom + STRIPE + 7), fill=INK)
            sheet.text((x, bottom + STRIPE + 8), f"{value:.0f}", INK, 11, "ma")
    middle = CARPET_LEFT + volumes * across / 2
    sheet.text((middle, bottom + STRIPE + 24), "volume", INK, 12, "ma")


def _stripe(sheet: Sheet, b: npt.NDArray[np.float64], across: int, top: int) -> None:
    """Draw b-values: white for 0, dark for the largest."""
    grey = colour_table("gray")[::-1]
    shade = np.round(0.85 * (LEVELS - 1) * b / max(float(b.max()), 1.0)).astype(int)
    for v, level in enumerate(shade):
        left = CARPET_LEFT + v * across
        sheet.draw.rectangle((left, top, left + across - 1, top + STRIPE - 1), fill=tuple(int(c) for c in grey[level]))
    sheet.draw.rectangle((CARPET_LEFT, top, CARPET_LEFT + across * b.size - 1, top + STRIPE - 1), outline=INK)
    sheet.text((CARPET_LEFT - 7, top + STRIPE / 2), "b", INK, 11, "rm")
