"""Figures of a diffusion session over its volumes, and histograms of its maps."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report.qc_dwi_measures import MAPS, scaled, unit_of
from voxcloud.report.qc_page import histogram_panel, unit
from voxcloud.report.svg import DASHES, PALETTE, Panel, row
from voxcloud.report.words import count, number

Quality = Mapping[str, Any]
WIDTH, HEIGHT = 540, 210
AXES = ("right", "front", "up")
TISSUE_COLOURS = {"WM": PALETTE[0], "brain": PALETTE[1]}
TISSUE_DASHES = {"WM": "", "brain": "5 2"}
MARK = PALETTE[1]
LETTER = 6.6  # width of one in a key, about


def volume_figures(qc: Quality) -> list[str]:
    """Return movement, framewise displacement, eddy currents and residuals over volumes, where they are known."""
    motion, found = qc["motion"] or {}, []
    for key, title, units in (
        ("translation_mm", "Translation of the head", "mm"),
        ("rotation_deg", "Rotation of the head", "degrees"),
    ):
        if motion.get(key):
            lines = {axis: [float(volume[k]) for volume in motion[key]] for k, axis in enumerate(AXES)}
            found.append(_figure(title, units, lines, from_zero=False))
    odd = {int(s["volume"]) for s in (qc["outliers"] or {}).get("slices", ())}
    displacement = (motion.get("fd_mm") or {}).get("per_volume")
    if displacement:
        title = "Movement since the volume before (FD)"
        found.append(_figure(title, "mm", {"": displacement}, from_zero=True))
    eddy = (motion.get("eddy_rms_mm") or {}).get("per_volume")
    if eddy:
        found.append(_figure("Eddy-current distortion", "mm", {"": eddy}, from_zero=True))
    residual = qc["residual"]["per_volume_percent"]
    if residual:
        title = "What the tensor leaves, of S0" + ("; diamonds: outlier slices" if odd else "")
        found.append(_figure(title, "percent", {"": residual}, from_zero=True, marked=odd))
    return found


def _figure(
    title: str, units: str, lines: Mapping[str, Sequence[float]], *, from_zero: bool, marked: set[int] | None = None
) -> str:
    known = [v for values in lines.values() for v in values if v is not None]
    low, high = (0.0 if from_zero else min(known)), max(known)
    pad = 0.08 * (high - low) or 0.5
    n = max(len(values) for values in lines.values())
    panel = Panel(
        (-0.5, n - 0.5),
        (low if from_zero else low - pad, high + pad),
        width=WIDTH,
        height=HEIGHT,
        title=title,
        y_label=unit(units),
        x_label="volume",
    )
    for k, values in enumerate(lines.values()):
        there = [(v, float(value)) for v, value in enumerate(values) if value is not None]
        panel.line([v for v, _ in there], [value for _, value in there], PALETTE[k], 1.6, DASHES[k])
    if len(lines) > 1:
        _key(panel, list(lines))
    for v, value in enumerate(next(iter(lines.values()))):
        if value is not None and v in (marked or ()):
            panel.dot(v, float(value), MARK, 4.0, f"volume {v}: {number(float(value))} {units}", shape=3)
    reach = f"from {number(min(known))} to {number(max(known))} {units}"
    return row([panel], f"{title} of {count(n, 'volume')}: {reach}")


def _key(panel: Panel, names: Sequence[str]) -> None:
    """Name lines on the right of the title, each with a piece of it."""
    x = float(panel.width - panel.right)
    for k in reversed(range(len(names))):
        x -= LETTER * len(names[k])
        dashed = f' stroke-dasharray="{DASHES[k]}"' if DASHES[k] else ""
        panel.parts.append(
            f'<text x="{x:.0f}" y="15" font-size="11">{html.escape(names[k])}</text>'
            f'<path d="M{x - 26:.0f} 11h22" stroke="{PALETTE[k]}" stroke-width="2"{dashed}/>'
        )
        x -= 38


def histograms(qcs: Sequence[Quality], opacity: float, named: Mapping[str, Sequence[bool]] | None = None) -> list[str]:
    """Return histograms of FA and diffusivities over the brain and over what has an FA of at least .4.

    ``named``: map to whether each session of those that have it is drawn in black.
    """
    found = []
    for name, title in MAPS.items():
        own = [qc["maps"][name]["histogram"] for qc in qcs if name in qc["maps"]]
        shown = [h | {"low": scaled(name, h["low"]), "high": scaled(name, h["high"])} for h in own]
        marks = (named or {}).get(name, ())
        panel = histogram_panel(
            title, unit(unit_of(name)), shown, {}, opacity, marks, colours=TISSUE_COLOURS, dashes=TISSUE_DASHES
        )
        if panel is not None:
            found.append(row([panel], f"Histogram of {title} over the brain and over white matter"))
    return found
