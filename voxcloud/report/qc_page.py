"""What the pages on quality share: the template's surroundings, and figures of histograms."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report import words
from voxcloud.report.qc_ranges import PublishedRange
from voxcloud.report.svg import INK, Panel

TISSUE_COLOURS = {"WM": "#0072B2", "GM": "#D55E00"}


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
    environment.filters.update(num=words.number, fixed=words.fixed)
    return environment.get_template(template).render(**values)


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
) -> Panel | None:
    """Return histograms of a map in white and grey matter, one line per session and tissue, as share per bin.

    Published ranges of the medians are bands. None where no session has a voxel.
    """
    shares: list[tuple[str, list[float]]] = []
    low = high = 0.0
    for histogram in sessions:
        low, high = float(histogram["low"]), float(histogram["high"])
        for tissue in TISSUE_COLOURS:
            total = sum(histogram[tissue])
            if total:
                shares.append((tissue, [100.0 * count / total for count in histogram[tissue]]))
    if not shares or not high > low:
        return None
    top = max(max(values) for _, values in shares) * 1.08
    bins = len(shares[0][1])
    centres = [low + (k + 0.5) * (high - low) / bins for k in range(bins)]
    panel = Panel((low, high), (0.0, top), width=380, height=230, title=name, x_label=units, y_label="% of voxels")
    for tissue, expected in ranges.items():
        if expected is not None:
            edges = [max(expected.low, low), min(expected.high, high)]
            panel.band(edges, [0.0, 0.0], [top, top], TISSUE_COLOURS[tissue])
    for tissue, values in shares:
        panel.line(centres, values, TISSUE_COLOURS[tissue], 1.4, opacity=opacity)
    places = {tissue: centres[max(range(bins), key=v.__getitem__)] for tissue, v in shares}
    for tissue, place in places.items():
        panel.text(place, top * 0.97, tissue, anchor="middle", ink=TISSUE_COLOURS[tissue] or INK)
    return panel
