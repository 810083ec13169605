"""Pictures of volumes for quality control: slices side by side, one window per map, left and right named."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.report.ramps import LESS, MORE
from voxcloud.report.svg import tick_text, ticks

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Box = list[tuple[int, int]]

# One window per map, so that sessions can be compared by eye: low, high, units. M0map is in arbitrary units: see
# ``window``.
WINDOWS: dict[str, tuple[float, float, str]] = {
    "R1map": (0.0, 1.6, "1/s"),
    "R2starmap": (0.0, 50.0, "1/s"),
    "MTsat": (0.0, 2.6, "p.u."),
    "PDmap": (40.0, 110.0, "p.u."),
    "TB1map": (60.0, 140.0, "percent"),
}
# Some sequences' MT pulses saturate twice as much; then all of white matter would be white.
DOUBLED = "MTsat"
DOUBLED_PERCENTILE = 90.0
# A field has a middle, 100 %: less and more must look different.
COLOURS = {"TB1map": "field"}
CONVENTION = "left of the picture is the person's left"

PICTURE_WIDTH = 930
BAR_WIDTH, HEADER, GAP = 62, 22, 2
LEVELS = 64  # shades: more are not told apart by eye, and compress worse
# Slices are taken from the crown down as far as a brain reaches; below are neck and jaw.
CROWN_MM, REACH_MM = 14.0, 128.0
THUMBNAIL_MM = 66.0  # below the crown: the lateral ventricles
M0_PERCENTILE = 99.0
PAPER, INK, BLACK, WHITE = (255, 255, 255), (31, 41, 51), (0, 0, 0), (255, 255, 255)
UNKNOWN, OUTLINE = (204, 121, 167), (255, 176, 0)  # holes inside the head, contours and edges
EDGE_SIGMA, LOCAL_SIGMA, RIM = 1.2, 8.0, 3
STEEP = 80.0  # percentile of the slope within the head from which it is an edge
COARSE = 2.0  # voxels that are drawn larger than this are shown as they are


def window(name: str, volume: Values) -> tuple[float, float, str]:
    """Return low, high and units of a map's pictures: fixed, or by the data where a map is in arbitrary units.

    MTsat has a second window, twice as wide, for MT pulses that saturate more.
    """
    if name in WINDOWS:
        low, high, units = WINDOWS[name]
        if name != DOUBLED or not np.isfinite(volume).any():
            return low, high, units
        strong = float(np.nanpercentile(volume, DOUBLED_PERCENTILE)) > high
        return low, 2.0 * high if strong else high, units
    known = volume[np.isfinite(volume)]
    high = float(np.percentile(known, M0_PERCENTILE)) if known.size else 1.0
    return 0.0, high if high > 0 else 1.0, "arbitrary"


@dataclass(frozen=True, eq=False)
class _Turned:
    """A volume whose axes go right, forward and up, as nearly as its own axes allow (a view, nothing is copied)."""

    data: Values
    affine: Floats
    size_mm: tuple[float, float, float]

    def millimetre(self, axis: int, index: float) -> float:
        """Return where the middle of a slice lies, in world coordinates."""
        middle = [(n - 1) / 2 for n in self.data.shape]
        middle[axis] = index
        return float((self.affine @ [*middle, 1.0])[axis])

    def plane(self, axis: int, index: int) -> Values:
        """Return a slice as it is drawn: up or front on top; left, or back in a sagittal slice, at the left."""
        place: tuple[slice | int, ...] = tuple(index if k == axis else slice(None) for k in range(3))
        return np.asarray(self.data[place].T[::-1])

    @cached_property
    def box(self) -> Box:
        """First and last index with a value on each axis; of every second voxel, which is near enough."""
        seen = self.data[::2, ::2, ::2]
        known = np.isfinite(seen) & (seen != 0) if seen.dtype.kind == "f" else seen != 0
        found = []
        for axis, n in enumerate(self.data.shape):
            there = np.flatnonzero(known.any(axis=tuple(k for k in range(3) if k != axis)))
            found.append((2 * int(there[0]), min(2 * int(there[-1]) + 1, n - 1)) if there.size else (0, n - 1))
        return found


def _turn(volume: Values, affine: npt.ArrayLike) -> _Turned:
    """Turn a volume to the axes nearest to right, anterior and superior.

    Raises
    ------
    ImageError
        If it is not a volume, or the affine is none.
    """
    data, matrix = np.asarray(volume), np.asarray(affine, dtype=np.float64)
    if data.ndim != 3 or matrix.shape != (4, 4) or not np.linalg.det(matrix[:3, :3]):
        raise ImageError(
            f"picture: expected a volume (x, y, z) and a 4 x 4 affine with three axes, found shape {data.shape} and "
            f"affine {matrix.tolist()}. Give the image as it was loaded."
        )
    own = orientations.io_orientation(matrix)
    turned = matrix @ orientations.inv_ornt_aff(own, data.shape)
    x, y, z = np.sqrt((turned[:3, :3] ** 2).sum(axis=0))
    return _Turned(orientations.apply_orientation(data, own), turned, (float(x), float(y), float(z)))


@dataclass(frozen=True)
class _Cut:
    """Which part of a slice is drawn, and at what size."""

    axis: int
    index: int
    rows: slice
    columns: slice
    width: int
    height: int

    def of(self, turned: _Turned) -> Values:
        """Return the slice's values, not resized."""
        return turned.plane(self.axis, self.index)[self.rows, self.columns]

    def sample(self, turned: _Turned) -> tuple[Values, Bools]:
        """Return values at the picture's size, and where they are known."""
        values = self.of(turned).astype(np.float32)
        known = np.isfinite(values)
        values[~known] = 0.0
        coarse = self.width > COARSE * values.shape[1]
        how = Image.Resampling.NEAREST if coarse else Image.Resampling.BILINEAR
        size = (self.width, self.height)
        drawn = np.asarray(Image.fromarray(values).resize(size, how))
        if known.all():
            return drawn, np.ones(drawn.shape, dtype=bool)
        share = np.asarray(Image.fromarray(known.astype(np.float32)).resize(size, how))
        with np.errstate(all="ignore"):
            drawn = drawn / share  # so that the dark outside does not run into the edge
        return drawn, share > 0.5

    def mask(self, turned: _Turned) -> Bools:
        """Return a mask at the picture's size."""
        values = self.of(turned).astype(np.uint8) * 255
        drawn = Image.fromarray(np.ascontiguousarray(values)).resize((self.width, self.height))
        return np.asarray(np.asarray(drawn) > 127)


def _cut(turned: _Turned, box: Box, axis: int, index: int, per_mm: float) -> _Cut:
    """Return a slice cut to the head's box, at ``per_mm`` dots of the picture to a millimetre."""
    across, up = [k for k in range(3) if k != axis]
    (left, right), (low, high) = box[across], box[up]
    n = turned.data.shape[up]
    width = max(1, round((right - left + 1) * turned.size_mm[across] * per_mm))
    height = max(1, round((high - low + 1) * turned.size_mm[up] * per_mm))
    return _Cut(axis, index, slice(n - 1 - high, n - low), slice(left, right + 1), width, height)


def _axial_places(turned: _Turned, n: int) -> list[int]:
    """Return slices from the lowest to the highest, evenly through where a brain is."""
    low, high = turned.box[2]
    size = turned.size_mm[2]
    reach = (high - low) * size
    top = high - min(CROWN_MM, 0.12 * reach) / size
    bottom = max(low + 0.1 * (high - low), high - REACH_MM / size)
    return [round(float(k)) for k in np.linspace(bottom, top, n)]


def _table(colours: str) -> Bytes:
    """Return the colours of the shades from low to high."""
    at = np.linspace(0.0, 1.0, LEVELS)
    if colours == "gray":
        grey = np.round(255 * at)
        return np.stack([grey] * 3, axis=1).astype(np.uint8)
    if colours != "field":
        raise ValueError(f"expected the colours gray or field, found {colours!r}")
    stops = [*LESS[::-1], "#f7f7f7", *MORE]
    rgb = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in stops], dtype=np.float64)
    places = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.round(np.interp(at, places, rgb[:, c])) for c in range(3)], axis=1).astype(np.uint8)


def _shades(values: Values, low: float, high: float) -> npt.NDArray[np.intp]:
    with np.errstate(invalid="ignore"):
        scaled = (np.nan_to_num(values, nan=low) - low) / (high - low)
    return np.clip(np.round(scaled * (LEVELS - 1)), 0, LEVELS - 1).astype(np.intp)


def _painted(values: Values, known: Bools, low: float, high: float, table: Bytes) -> Bytes:
    """Return a slice in colour: black outside the head, pink where a value is missing inside it."""
    picture = table[_shades(values, low, high)]
    if not known.all():
        picture[~known] = BLACK
        picture[ndimage.binary_fill_holes(known) & ~known] = UNKNOWN
    return picture


def _rim(mask: Bools) -> Bools:
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def _check_window(low: float, high: float, title: str) -> None:
    if not low < high:
        raise ImageError(f"picture of {title}: expected a window low < high, found {low:g} and {high:g}")


class _Sheet:
    """A picture with a heading, on which slices are placed from left to right, row by row."""

    def __init__(self, heading: str, cell: tuple[int, int], columns: int, rows: int, bar: bool, side: int = 0) -> None:
        self.cell, self.columns, self.side = cell, columns, side
        self.inner = (side + columns * (cell[0] + GAP) - GAP, rows * (cell[1] + GAP) - GAP)
        self.image = Image.new("RGB", (self.inner[0] + (BAR_WIDTH if bar else 0), self.inner[1] + HEADER), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.rectangle((side, HEADER, self.inner[0] - 1, HEADER + self.inner[1] - 1), fill=BLACK)
        self.text((1, 3), heading, INK, 13)

    def text(
        self, place: tuple[float, float], words: str, ink: tuple[int, int, int], size: int, at: str = "la"
    ) -> None:
        """Write at a place; dark behind white letters, so that they can be read on any slice."""
        around: dict[str, Any] = {"stroke_width": 1, "stroke_fill": BLACK} if ink == WHITE else {}
        words = words.replace("\u2212", "-")  # the letters that come with Pillow have no minus sign
        self.draw.text(place, words, fill=ink, font=ImageFont.load_default(size), anchor=at, **around)

    def corner(self, position: int) -> tuple[int, int]:
        """Return the upper left corner of a cell."""
        row, column = divmod(position, self.columns)
        return self.side + column * (self.cell[0] + GAP), HEADER + row * (self.cell[1] + GAP)

    def place(self, position: int, picture: Bytes, label: str, sides: tuple[str, str] | None) -> None:
        """Put a slice into the middle of a cell, with its label and the letters of its sides."""
        x, y = self.corner(position)
        width, height = self.cell
        inset = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
        self.image.paste(Image.fromarray(np.ascontiguousarray(picture)), (x + inset[0], y + inset[1]))
        self.text((x + 4, y + height - 3), label, WHITE, 11, "ld")
        if sides is not None:
            self.text((x + 4, y + 3), sides[0], WHITE, 13, "la")
            self.text((x + width - 4, y + 3), sides[1], WHITE, 13, "ra")

    def bar(self, low: float, high: float, units: str, table: Bytes) -> None:
        """Draw the colours of the values, low below and high on top."""
        x, top = self.inner[0] + 10, HEADER + 20
        height = max(24, self.inner[1] - 34)
        strip = table[np.round(np.linspace(LEVELS - 1, 0, height)).astype(int)]
        self.image.paste(Image.fromarray(np.repeat(strip[:, None, :], 12, axis=1)), (x, top))
        self.draw.rectangle((x - 1, top - 1, x + 12, top + height), outline=INK)
        self.text((x - 4, HEADER), units, INK, 11)
        at = ticks(low, high, 5)
        step = at[1] - at[0] if len(at) > 1 else abs(high) or 1.0
        for value in at:
            y = top + height - 1 - (value - low) / (high - low) * (height - 1)
            self.draw.line((x + 12, y, x + 15, y), fill=INK)
            self.text((x + 18, y), tick_text(value, step), INK, 11, "lm")

    def png(self) -> bytes:
        """Return the bytes; equal pictures are equal bytes."""
        colours = self.image.quantize(128, dither=Image.Dither.NONE)
        return _png(colours)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=9)
    return out.getvalue()


def _per_mm(turned: _Turned, columns: int) -> float:
    left, right = turned.box[0]
    cell = (PICTURE_WIDTH - BAR_WIDTH + GAP) / columns - GAP
    return cell / ((right - left + 1) * turned.size_mm[0])


def mosaic_png(
    volume: Values,
    affine: npt.ArrayLike,
    *,
    low: float,
    high: float,
    title: str,
    units: str,
    colours: str = "gray",
    contour: Bools | None = None,
    columns: int = 6,
    rows: int = 2,
) -> bytes:
    """Return axial slices of a map as PNG, from below to the crown, with a colour bar.

    Parameters
    ----------
    volume : (x, y, z); NaN outside the head (black). NaN inside it is pink.
    affine : (4, 4), voxel to RAS+ mm. Slices follow the volume's own axes that are nearest to right, anterior and
        superior, as nothing may be interpolated; an oblique volume looks tilted by as much as it is.
    low, high : values that have the first and the last colour.
    title, units : of the map, written on the picture.
    colours : ``gray``, or ``field`` for values around a middle: blue less, orange more.
    contour : a mask to outline.

    Raises
    ------
    ImageError
        If volume, affine, contour or window cannot be drawn.
    """
    _check_window(low, high, title)
    turned = _turn(volume, affine)
    if contour is not None and contour.shape != volume.shape:
        raise ImageError(f"picture of {title}: expected a contour of shape {volume.shape}, found {contour.shape}")
    outline = None if contour is None else _turn(contour, affine)
    per_mm, table = _per_mm(turned, columns), _table(colours)
    cuts = [_cut(turned, turned.box, 2, index, per_mm) for index in _axial_places(turned, columns * rows)]
    sheet = _Sheet(f"{title} ({units}), {CONVENTION}", (cuts[0].width, cuts[0].height), columns, rows, bar=True)
    for position, cut in enumerate(cuts):
        picture = _painted(*cut.sample(turned), low, high, table)
        if outline is not None:
            picture[_rim(cut.mask(outline))] = OUTLINE
        label = f"z {turned.millimetre(2, cut.index):.0f}"
        sheet.place(position, picture, label, ("L", "R") if position % columns == 0 else None)
    sheet.bar(low, high, units, table)
    return sheet.png()


def thumbnail_png(
    volume: Values, affine: npt.ArrayLike, *, low: float, high: float, width: int = 72, colours: str = "gray"
) -> bytes:
    """Return one small axial slice through the middle of the brain as PNG, left of the person on the left.

    Raises
    ------
    ImageError
        If volume, affine or window cannot be drawn.
    """
    _check_window(low, high, "a thumbnail")
    turned = _turn(volume, affine)
    (first, last), size = turned.box[2], turned.size_mm[2]
    index = round(max(last - THUMBNAIL_MM / size, (first + last) / 2))
    left, right = turned.box[0]
    cut = _cut(turned, turned.box, 2, index, width / ((right - left + 1) * turned.size_mm[0]))
    values, known = cut.sample(turned)
    picture = Image.fromarray(_painted(values, known, low, high, _table(colours)[:: LEVELS // 32].repeat(2, axis=0)))
    return _png(picture.quantize(40, dither=Image.Dither.NONE))


def _edge_views(turned: _Turned) -> Sequence[tuple[int, float, str, tuple[str, str]]]:
    """Return axis, place (share of the head's box), name and sides of the views that show a movement best."""
    return (
        (2, 0.5, "axial", ("L", "R")),
        (2, 0.7, "axial", ("L", "R")),
        (1, 0.4, "coronal", ("L", "R")),
        (1, 0.6, "coronal", ("L", "R")),
        (0, 0.42, "sagittal", ("P", "A")),
        (0, 0.58, "sagittal", ("P", "A")),
    )


def _edges(values: Values, known: Bools) -> Bools:
    """Return the strongest edges of a slice, one dot wide.

    Contrast is evened out first (less the local mean, over the local SD), or scalp and skull had all of them.
    """
    inside = values[known]
    if inside.size < 2 or inside.min() == inside.max():
        return np.zeros(values.shape, dtype=bool)
    weight = np.maximum(ndimage.gaussian_filter(known.astype(np.float32), LOCAL_SIGMA), 1e-6)
    filled = np.where(known, values, 0.0).astype(np.float32)
    centred = np.where(known, filled - ndimage.gaussian_filter(filled, LOCAL_SIGMA) / weight, 0.0)
    local = np.sqrt(ndimage.gaussian_filter(centred**2, LOCAL_SIGMA) / weight)
    even = centred / (local + 0.5 * float(np.median(local[known])) + 1e-12)
    within = ndimage.binary_erosion(known, iterations=RIM)  # where the head mask ends is no edge
    if not within.any():
        return np.zeros(values.shape, dtype=bool)
    down, across = (ndimage.gaussian_filter(even, EDGE_SIGMA, order=order) for order in ((1, 0), (0, 1)))
    slope = np.hypot(down, across)
    steep, steepest = np.percentile(slope[within], (STEEP, 99.0))
    # The second bound is for pictures with few edges, where even flat parts belong to the steepest fifth.
    found = within & (slope > max(steep, 0.25 * steepest))
    # Of a slope only its steepest line is the edge: no neighbour up or down the slope is steeper.
    rows, columns = np.indices(slope.shape)
    length = np.maximum(slope, 1e-12)
    for sign in (-1.0, 1.0):
        beside = [rows + sign * down / length, columns + sign * across / length]
        found &= slope >= ndimage.map_coordinates(slope, beside, order=1, mode="nearest")
    return np.asarray(found, dtype=bool)


def edges_png(fixed: Values, before: Values, after: Values, affine: npt.ArrayLike, *, title: str) -> bytes:
    """Return the edges of a moving image on the fixed one as PNG: before registration above, after it below.

    Parameters
    ----------
    fixed, before, after : volumes on one grid; ``before`` is the moving image as its header places it, ``after`` as
        registration does. NaN outside the head.
    affine : (4, 4), voxel to RAS+ mm.
    title : e.g. ``T1w to PDw``.

    Raises
    ------
    ImageError
        If the volumes are on different grids or cannot be drawn.
    """
    if not np.shape(fixed) == np.shape(before) == np.shape(after):
        raise ImageError(
            f"picture of {title}: expected three volumes of one shape, found {np.shape(fixed)}, {np.shape(before)} and "
            f"{np.shape(after)}. Resample them onto the fixed image first."
        )
    still, moving = _turn(fixed, affine), (_turn(before, affine), _turn(after, affine))
    views = _edge_views(still)
    head = moving[1].box  # the fixed image has air around the head
    longest = max((b - a + 1) * s for (a, b), s in zip(head, still.size_mm, strict=True))
    per_mm = (PICTURE_WIDTH / len(views) - GAP) / longest
    cuts = [
        _cut(still, head, axis, round(head[axis][0] + share * (head[axis][1] - head[axis][0])), per_mm)
        for axis, share, _, _ in views
    ]
    seen = still.data[::3, ::3, ::3][np.isfinite(moving[1].data[::3, ::3, ::3])]
    seen = seen[np.isfinite(seen)]
    low, high = (float(v) for v in np.percentile(seen, (10.0, 99.5))) if seen.size else (0.0, 1.0)
    cell = max(c.width for c in cuts), max(c.height for c in cuts)
    heading = f"{title}: edges of the moving image (orange) on the fixed one; above before, below after registration"
    sheet = _Sheet(heading, cell, len(views), 2, bar=False)
    table = _table("gray")
    for row, turned in enumerate(moving):
        for column, (cut, (axis, _, name, sides)) in enumerate(zip(cuts, views, strict=True)):
            values, known = cut.sample(still)
            picture = _painted(values, known, low, max(high, low + 1e-6), table)
            picture[_edges(*cut.sample(turned))] = OUTLINE
            label = f"{name} {'xyz'[axis]} {still.millimetre(axis, cut.index):.0f}"
            sheet.place(row * len(views) + column, picture, label, sides)
    return sheet.png()
