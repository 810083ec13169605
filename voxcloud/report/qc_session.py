"""The page on one session's quality: pictures of every map, what was done, and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from voxcloud.report.qc_outliers import find_outliers, who_of
from voxcloud.report.qc_page import data_url, histogram_panel, render
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.svg import row
from voxcloud.report.words import MAP_NAMES

CAPTIONS = {
    "R1map": "R1; white matter that went into the numbers is outlined.",
    "MTsat": "MT saturation; white matter that went into the numbers is outlined.",
    "R2starmap": "R2*.",
    "M0map": "Amplitude of the signal, not calibrated and shaded by the receive field.",
    "TB1map": "Transmit field B1+ as used for the maps.",
    "R1map error": "Error of R1 by propagation of the fit's residuals; motion shows as bright edges.",
}


def session_page(qc: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Return the page of a session.

    Parameters
    ----------
    qc
        The session's quality control (``pipeline.mapping.quality``).
    figures
        Name of a map, or of a registration (``T1w to PDw``), to a PNG.
    """
    return render(
        "qc_session.html.j2",
        who=who_of(qc),
        qc=qc,
        notes=[o for o in find_outliers([qc]) if o.who == who_of(qc)],
        protocol=[_series(name, series) for name, series in qc["protocol"].items()],
        registration=[r | {"name": r["name"].partition(", ")[2] or r["name"]} for r in qc["registration"]],
        histograms=_histograms(qc),
        pictures=[
            {"name": name, "src": data_url(png), "caption": CAPTIONS.get(name, _moved(name))}
            for name, png in figures.items()
        ],
        map_names=MAP_NAMES | {"M0map": "M0"},
        ranges={(name, tissue): published_range(qc, name, tissue) for name in qc["maps"] for tissue in ("WM", "GM")},
    )


def _moved(name: str) -> str:
    return f"{name}: edges of the registered image in red. They should lie on the edges below them."


def _series(name: str, series: Mapping[str, Any]) -> dict[str, Any]:
    times = [1e3 * t for t in series["echo_time_s"]]
    return {
        "name": name,
        "angle": math.degrees(series["flip_angle_rad"]),
        "repetition_ms": 1e3 * series["repetition_time_s"],
        "echoes": len(times),
        "first_ms": min(times),
        "last_ms": max(times),
    }


def _histograms(qc: Mapping[str, Any]) -> str:
    panels = []
    for name, numbers in qc["maps"].items():
        ranges = {tissue: published_range(qc, name, tissue) for tissue in ("WM", "GM")}
        panel = histogram_panel(MAP_NAMES.get(name, name), numbers["units"], [numbers["histogram"]], ranges, 1.0)
        if panel is not None:
            panels.append(panel)
    if not panels:
        return ""
    return "".join(row([panel], f"Histogram of {panel.title} in white and grey matter") for panel in panels)
