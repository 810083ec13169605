"""The glass brain: significant clusters seen through the brain from four sides, as a small vector figure."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from voxcloud.report.figures_brain import Found
from voxcloud.report.ramps import Floats, picture
from voxcloud.report.svg import INK, figure

# Outline of nilearn's glass brain -> mm of the MNI152 template: scale and shift across and up.
OUTLINES: Mapping[str, tuple[str, float, float, float, float]] = {
    "side": ("brain_schematics_side.json", 0.38, -108.0, 0.38, -70.0),
    "back": ("brain_schematics_back.json", 0.39, -73.0, 0.39, -73.0),
    "top": ("brain_schematics_top.json", 0.36, -71.0, 0.37, -107.0),
}
# (outline, axis looked along, axis across, axis up, hemisphere shown, mirrored, words below)
VIEWS = (
    ("side", 0, 1, 2, -1, True, "left hemisphere"),
    ("back", 1, 0, 2, 0, False, "from behind"),
    ("side", 0, 1, 2, 1, False, "right hemisphere"),
    ("top", 2, 0, 1, 0, False, "from above"),
)
# Room of an outline in mm: lowest and highest across, and how far down the page its origin lies.
ROOM = {"side": (-112.0, 82.0, 106.0), "back": (-78.0, 78.0, 106.0), "top": (-76.0, 76.0, 84.0)}
GAP, HEIGHT = 10.0, 206.0


@lru_cache(maxsize=1)
def outline_symbols() -> str:
    """Return the outlines of the brain as SVG symbols in mm (up is negative y), once per page."""
    parts = [
        f'<symbol id="glass-{name}" overflow="visible" fill="none" stroke-linecap="round">{_paths(*entry)}</symbol>'
        for name, entry in OUTLINES.items()
    ]
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true">{"".join(parts)}</svg>'


def _paths(name: str, across: float, left: float, up: float, low: float) -> str:
    place = resources.files("nilearn.plotting").joinpath("glass_brain_files", name)
    found = []
    for path in json.loads(place.read_text(encoding="utf-8"))["paths"]:
        strokes = []
        for item in path["items"]:
            points = [f"{across * x + left:.1f} {-(up * y + low):.1f}" for x, y in item["pts"]]
            strokes.append(f"M{points[0]}{'LLQC'[len(points) - 1]}{' '.join(points[1:])}")
        ink = html.escape(str(path["edgecolor"]), quote=True)
        found.append(
            f'<path d="{"".join(strokes)}" stroke="{ink}" stroke-width="{0.45 * float(path["linewidth"]):.2f}"/>'
        )
    return "".join(found)


def glass_brain(found: Found, name: str, title: str) -> str:
    """Return the significant clusters through the brain: the strongest statistic along each line of sight.

    The outlines stand in the page once (see :func:`outline_symbols`); left and right are named at every view.
    """
    indices = np.argwhere(found.volume != 0)
    values = found.volume[tuple(indices.T)]
    places = indices @ found.affine[:3, :3].T + found.affine[:3, 3]
    parts: list[str] = []
    left = 0.0
    for outline, looked, across, up, side, mirrored, words in VIEWS:
        low, high, down = ROOM[outline]
        # A voxel in the midplane belongs to both hemispheres.
        kept = places[:, looked] * side >= 0 if side else np.ones(len(values), dtype=bool)
        drawn = _drawn(found, places[kept][:, [across, up]], values[kept], (across, up))
        start = left + (high if mirrored else -low)
        parts.append(
            f'<g transform="translate({start:.1f} {down:.1f}) scale({-1 if mirrored else 1} 1)">{drawn}'
            f'<use href="#glass-{outline}"/></g>'
        )
        parts += _names(left, high - low, side, words)
        left += high - low + GAP
    parts.append(found.ramp.bar(left + 4, 22, 150, html.escape(name), 11))
    return figure("".join(parts), left + 46, HEIGHT, f"Glass brain of the significant clusters of {title}.")


def _names(left: float, width: float, side: int, words: str) -> list[str]:
    middle = left + width / 2
    parts = [f'<text x="{middle:.1f}" y="202" text-anchor="middle" font-size="11" fill="{INK}">{words}</text>']
    if not side:
        parts += [
            f'<text x="{left + 6:.1f}" y="14" font-size="13" fill="{INK}">L</text>',
            f'<text x="{left + width - 6:.1f}" y="14" text-anchor="end" font-size="13" fill="{INK}">R</text>',
        ]
    return parts


def _drawn(found: Found, places: Floats, values: Floats, axes: Sequence[int]) -> str:
    """Return the projected voxels as a picture of 1 mm pixels at its place in mm."""
    if values.size == 0:
        return ""
    half = [float(np.abs(found.affine[a, :3]).sum()) / 2 for a in axes]
    low = np.floor(places.min(axis=0) - half).astype(int)
    high = np.ceil(places.max(axis=0) + half).astype(int)
    strongest = np.zeros((high[1] - low[1], high[0] - low[0]))
    for order in np.argsort(np.abs(values), kind="stable"):
        (x, y), value = places[order], values[order]
        strongest[_span(y, half[1], low[1]), _span(x, half[0], low[0])] = value
    uri = picture(found.ramp.colours(strongest[::-1]), lossless=True)
    return (
        f'<image href="{uri}" x="{low[0]}" y="{-high[1]}" width="{high[0] - low[0]}" height="{high[1] - low[1]}" '
        'style="image-rendering:pixelated"/>'
    )


def _span(centre: float, half: float, low: Any) -> slice:
    first = round(float(centre - half))
    return slice(first - int(low), max(round(float(centre + half)), first + 1) - int(low))
