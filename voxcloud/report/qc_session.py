"""The page on one session's quality: what stands out, numbers, pictures of every map, registrations, what was done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from voxcloud.report.qc_outliers import find_outliers, who_of
from voxcloud.report.qc_page import MAP_TITLES, data_url, histogram_panel, render, without_name
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.svg import row

Quality = Mapping[str, Any]

OUTLINED = "White matter that went into the numbers is outlined."
CAPTIONS = {
    "R1map": f"R1. {OUTLINED} Look for ripples (motion), shading from side to side (B1+) and holes.",
    "MTsat": f"MT saturation. {OUTLINED} Look for white matter that is evenly bright, and for ripples.",
    "R2starmap": "R2*. Bright above the sinuses and the ears, where air is near; elsewhere, ripples are motion.",
    "M0map": "Amplitude of the signal, not calibrated: smooth shading is the receive coil.",
    "PDmap": "Proton density, 69 p.u. on average in white matter.",
    "TB1map": "Transmit field B1+ as used for the maps: smooth, at 3 T highest in mid-brain. White is 100 %.",
    "R1map error": "Error of R1 by propagation of the fit's residuals. Motion shows as bright edges.",
}
MOVED = "Edges of the registered image should lie on those of the picture below them in the lower row."
MISSING = "In pink: no value inside the head."


def session_page(qc: Quality, figures: Mapping[str, bytes]) -> str:
    """Return the page of a session, complete in itself.

    Parameters
    ----------
    qc
        The session's quality control (``pipeline.mapping.quality``).
    figures
        Name of a map, or of a registration (``T1w to PDw``), to a PNG.
    """
    who = who_of(qc)
    registered = {r["name"].partition(", ")[2] or r["name"] for r in qc["registration"]}
    moved = [name for name in figures if name in registered or " to " in name]
    return render(
        "qc_session.html.j2",
        who=who,
        cohort="qc.html",
        qc=qc,
        notes=find_outliers([qc]),
        warnings=[without_name(text, who) for text in qc["warnings"]],
        facts=_facts(qc),
        rows=_rows(qc),
        histograms=_histograms(qc),
        pictures=[_picture(name, figures[name], CAPTIONS.get(name, "")) for name in figures if name not in moved],
        moved=[_picture(name, figures[name], MOVED) for name in moved],
        missing=MISSING,
        registration=[r | {"name": r["name"].partition(", ")[2] or r["name"]} for r in qc["registration"]],
        protocol=[_series(name, series, qc["signal"].get(name, {})) for name, series in qc["protocol"].items()],
    )


def _picture(name: str, png: bytes, caption: str) -> dict[str, str]:
    return {"name": name, "src": data_url(png), "caption": caption}


def _percent(share: Any, places: int = 1) -> str:
    return "—" if share is None else f"{100.0 * float(share):.{places}f} %"


def _facts(qc: Quality) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first, each with its words."""
    found = [
        (f"{value:.2f}", f"motion degradation of {name}: SD of its R2* over white matter, 1/s")
        for name in ("PDw", "T1w", "MTw")
        if (value := qc["motion_degradation"].get(name)) is not None
    ]
    b1 = qc["b1"]
    if b1 and b1.get("median") is not None:
        reach = f"{100 * b1['p01']:.0f} to {100 * b1['p99']:.0f} % from 1st to 99th percentile"
        unknown = f"; unknown in {_percent(b1['missing_share'])}" if b1.get("missing_share") else ""
        found.append((f"{100 * b1['median']:.0f} %", f"B1+ in the brain, median; {reach}{unknown}"))
    snr = qc["maps"].get("R1map", {}).get("snr_WM")
    if snr is not None:
        found.append((f"{snr:.0f}", "R1 over its error, median in white matter"))
    moved = [r["displacement_mm"] for r in qc["registration"] if r.get("displacement_mm") is not None]
    if moved:
        found.append((f"{max(moved):.1f} mm", "largest movement of the head between scans, mean over the head"))
    volume = qc["volume_ml"]
    if volume["brain"]:
        tissue = f"masks: {volume['WM']:.0f} ml white, {volume['GM']:.0f} ml grey matter"
        found.append((f"{volume['brain']:.0f} ml", f"brain, by the template laid onto it; {tissue}"))
    return found


def _rows(qc: Quality) -> list[dict[str, Any]]:
    found = []
    for name, numbers in qc["maps"].items():
        for tissue, words in (("WM", "white matter"), ("GM", "grey matter")):
            own, expected = numbers[tissue], published_range(qc, name, tissue)
            median = own["median"]
            outside = expected is not None and median is not None and not expected.low <= median <= expected.high
            found.append(
                {
                    "map": MAP_TITLES.get(name, name),
                    "tissue": words,
                    "units": numbers["units"],
                    "own": own,
                    "expected": expected,
                    "outside": outside,
                    "missing": _percent(own["missing"]),
                }
            )
    return found


def _series(name: str, series: Mapping[str, Any], signal: Mapping[str, Any]) -> dict[str, Any]:
    times = [1e3 * t for t in series["echo_time_s"]]
    return {
        "name": name,
        "angle": math.degrees(series["flip_angle_rad"]),
        "repetition_ms": 1e3 * series["repetition_time_s"],
        "echoes": len(times),
        "first_ms": min(times),
        "last_ms": max(times),
        "cut_off": _percent(signal.get("saturated_share"), 2),
        "zero": _percent(signal.get("zero_share"), 2),
    }


def _histograms(qc: Quality) -> list[str]:
    figures = []
    for name, numbers in qc["maps"].items():
        ranges = {tissue: published_range(qc, name, tissue) for tissue in ("WM", "GM")}
        title = MAP_TITLES.get(name, name)
        panel = histogram_panel(title, numbers["units"], [numbers["histogram"]], ranges, 1.0)
        if panel is not None:
            figures.append(row([panel], f"Histogram of {title} in white and grey matter"))
    return figures
