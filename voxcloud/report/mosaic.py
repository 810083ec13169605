"""Pictures of volumes for quality control: slices side by side, one window per map, left and right named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.report.mosaic_sheet import (
    CONVENTION,
    GAP,
    HEADER,
    LEVELS,
    OUTLINE,
    PICTURE_WIDTH,
    UNKNOWN,
    Sheet,
    colour_table,
    encoded,
    painted,
    per_mm_of,
    rim,
)
from voxcloud.report.mosaic_slices import Bools, Turned, Values, axial_places, cut_of, turn

__all__ = [
    "COLOURS",
    "HEADER",
    "OUTLINE",
    "PICTURE_WIDTH",
    "UNKNOWN",
    "WINDOWS",
    "edges_png",
    "mosaic_png",
    "thumbnail_png",
    "window",
]

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
THUMBNAIL_MM = 66.0  # below the crown: the lateral ventricles
M0_PERCENTILE = 99.0
EDGE_SIGMA, LOCAL_SIGMA, RIM = 1.2, 8.0, 3
STEEP = 80.0  # percentile of the slope within the head from which it is an edge


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


def _check_window(low: float, high: float, title: str) -> None:
    if not low < high:
        raise ImageError(f"picture of {title}: expected a window low < high, found {low:g} and {high:g}")


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
    turned = turn(volume, affine)
    if contour is not None and contour.shape != volume.shape:
        raise ImageError(f"picture of {title}: expected a contour of shape {volume.shape}, found {contour.shape}")
    outline = None if contour is None else turn(contour, affine)
    per_mm, table = per_mm_of(turned, columns), colour_table(colours)
    cuts = [cut_of(turned, turned.box, 2, index, per_mm) for index in axial_places(turned, columns * rows)]
    sheet = Sheet(f"{title} ({units}), {CONVENTION}", (cuts[0].width, cuts[0].height), columns, rows, bar=True)
    for position, cut in enumerate(cuts):
        picture = painted(*cut.sample(turned), low, high, table)
        if outline is not None:
            picture[rim(cut.mask(outline))] = OUTLINE
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
    turned = turn(volume, affine)
    (first, last), size = turned.box[2], turned.size_mm[2]
    index = round(max(last - THUMBNAIL_MM / size, (first + last) / 2))
    left, right = turned.box[0]
    cut = cut_of(turned, turned.box, 2, index, width / ((right - left + 1) * turned.size_mm[0]))
    values, known = cut.sample(turned)
    picture = Image.fromarray(
        painted(values, known, low, high, colour_table(colours)[:: LEVELS // 32].repeat(2, axis=0))
    )
    return encoded(picture.quantize(40, dither=Image.Dither.NONE))


def _edge_views(turned: Turned) -> Sequence[tuple[int, float, str, tuple[str, str]]]:
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
    still, moving = turn(fixed, affine), (turn(before, affine), turn(after, affine))
    views = _edge_views(still)
    head = moving[1].box  # the fixed image has air around the head
    longest = max((b - a + 1) * s for (a, b), s in zip(head, still.size_mm, strict=True))
    per_mm = (PICTURE_WIDTH / len(views) - GAP) / longest
    cuts = [
        cut_of(still, head, axis, round(head[axis][0] + share * (head[axis][1] - head[axis][0])), per_mm)
        for axis, share, _, _ in views
    ]
    seen = still.data[::3, ::3, ::3][np.isfinite(moving[1].data[::3, ::3, ::3])]
    seen = seen[np.isfinite(seen)]
    low, high = (float(v) for v in np.percentile(seen, (10.0, 99.5))) if seen.size else (0.0, 1.0)
    cell = max(c.width for c in cuts), max(c.height for c in cuts)
    heading = f"{title}: edges of the moving image (orange) on the fixed one; above before, below after registration"
    sheet = Sheet(heading, cell, len(views), 2, bar=False)
    table = colour_table("gray")
    for row, turned in enumerate(moving):
        for column, (cut, (axis, _, name, sides)) in enumerate(zip(cuts, views, strict=True)):
            values, known = cut.sample(still)
            picture = painted(values, known, low, max(high, low + 1e-6), table)
            picture[_edges(*cut.sample(turned))] = OUTLINE
            label = f"{name} {'xyz'[axis]} {still.millimetre(axis, cut.index):.0f}"
            sheet.place(row * len(views) + column, picture, label, sides)
    return sheet.png()
