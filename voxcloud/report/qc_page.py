"""What the pages on quality share: the template's surroundings, pictures, and figures of histograms."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxcloud.report import words
from voxcloud.report.qc_ranges import PublishedRange
from voxcloud.report.svg import Panel

TISSUE_COLOURS = {"WM": "#0072B2", "GM": "#D55E00"}
TISSUE_DASHES = {"WM": "", "GM": "5 2"}
# Half of a letter in dots, and the part of the axis by which names that would touch are moved away from their places.
HALF_LETTER, NAMES_GAP = 3.5, 0.015
MAP_TITLES = words.MAP_NAMES | {"M0map": "amplitude", "TB1map": "B1+"}


def render(template: str, **values: Any) -> str:
    """Return a page; everything that came from tables and names is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("voxcloud.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=words.number, fixed=words.fixed, unit=unit)
    return environment.get_template(template).render(**values)


def unit(name: str) -> str:
    """Return a unit as it is printed behind a number."""
    return {"percent": "%", "1": ""}.get(name, name)


def data_url(png: bytes | str) -> str:
    """Return a picture (bytes, or base64 of them) as what an ``img`` can show."""
    text = png if isinstance(png, str) else base64.b64encode(png).decode()
    return f"data:image/png;base64,{text}"


def histogram_panel(
    name: str,
    units: str,
    sessions: Sequence[Mapping[str, Any]],
    ranges: Mapping[str, PublishedRange | None],
    opacity: float,
    named: Sequence[bool] = (),
    colours: Mapping[str, str] = TISSUE_COLOURS,
    dashes: Mapping[str, str] = TISSUE_DASHES,
) -> Panel | None:
    """Return histograms of a map in white and grey matter, one line per session and tissue, as share per bin.

    Published ranges of the medians are bars under the curves; sessions that are ``named`` are drawn in black, on top.
    None where no session has a voxel. ``colours`` and ``dashes`` may be of other tissues.
    """
    low = min((float(h["low"]) for h in sessions), default=0.0)
    high = max((float(h["high"]) for h in sessions), default=0.0)
    marks = list(named) or [False] * len(sessions)
    lines: list[tuple[bool, str, list[float], list[float]]] = []
    for histogram, marked in zip(sessions, marks, strict=True):
        for tissue in colours:
            total = sum(histogram[tissue])
            if total:
                places = _centres(histogram, len(histogram[tissue]))
                # Per 1/100 of the axis, so that histograms with other limits have the same area.
                width = (float(histogram["high"]) - float(histogram["low"])) / len(histogram[tissue])
                scale = (high - low) / 100.0 / width
                lines.append((marked, tissue, places, [100.0 * scale * n / total for n in histogram[tissue]]))
    if not lines or not high > low:
        return None
    top = max(max(values) for *_, values in lines) * 1.12
    panel = Panel((low, high), (0.0, top), width=340, height=220, title=name, x_label=units, y_label="% of voxels")
    for tissue, expected in ranges.items():
        if expected is not None and expected.low < high:
            ends = [max(expected.low, low), min(expected.high, high)]
            panel.line(ends, [0.0, 0.0], colours[tissue], 6.0, opacity=0.55)
    for marked, tissue, places, values in sorted(lines, key=lambda line: line[0]):
        ink = "#000000" if marked else colours[tissue]
        panel.line(places, values, ink, 1.3, dashes[tissue], 1.0 if marked else opacity)
    # Named over the highest curve of the tissue that is nearest to the middle of all; names that would touch part.
    names = {}
    for tissue in colours:
        peaks = sorted(p[v.index(max(v))] for _, t, p, v in lines if t == tissue)
        if peaks:
            names[tissue] = peaks[len(peaks) // 2]
    apart = abs(float(np.ptp([panel.px(at) for at in names.values()])))
    near = len(names) == 2 and apart < HALF_LETTER * len("".join(names))
    for tissue, at in names.items():
        anchor, shift = "middle", 0.0
        if near:
            anchor, shift = ("end", -NAMES_GAP) if at == min(names.values()) else ("start", NAMES_GAP)
        panel.text(at + shift * (high - low), top * 0.96, tissue, anchor=anchor, ink=colours[tissue])
    return panel


def _centres(histogram: Mapping[str, Any], bins: int) -> list[float]:
    low, high = float(histogram["low"]), float(histogram["high"])
    return [low + (k + 0.5) * (high - low) / bins for k in range(bins)]


def without_name(text: str, who: str) -> str:
    """Return a sentence without the session's name in front of it, on a page that is about that session."""
    for ending in (": ", ", "):
        if text.startswith(who + ending):
            rest = text[len(who) + len(ending) :]
            return rest[:1].upper() + rest[1:]
    return text
