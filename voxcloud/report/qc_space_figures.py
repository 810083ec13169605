"""Figures of a participant over visits: change of volume, and how the head lay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report.qc_page import TISSUE_COLOURS, TISSUE_DASHES
from voxcloud.report.qc_space_measures import TISSUES
from voxcloud.report.svg import PALETTE, Panel, row
from voxcloud.report.words import count, fixed, number

Quality = Mapping[str, Any]
WIDTH, HEIGHT = 430, 210
# Less than half a percent is nothing that anybody sees: axes are never finer.
LEAST_REACH_PERCENT = 0.5
LETTER_HEIGHT = 12.0
JOIN = "#9aa5b1"


def change_figure(visits: Sequence[Quality]) -> str:
    """Return each tissue's change of volume over visits, percent; empty for a single visit or none."""
    labels = [label for label in TISSUES if any(v["change"].get(label) is not None for v in visits)]
    if len(visits) < 2 or not labels:
        return ""
    known = [float(v["change"][label]) for v in visits for label in labels if v["change"].get(label) is not None]
    reach = 1.15 * max(LEAST_REACH_PERCENT, max(abs(value) for value in known))
    panel = _panel("Change of volume from the midpoint of all visits", "%", visits, (-reach, reach))
    panel.line(list(panel.x), [0.0, 0.0], JOIN, 1.0, "4 3")
    ends = {}
    for label in labels:
        ink = _ink(label)
        at = [(float(k), float(v["change"][label])) for k, v in enumerate(visits) if v["change"].get(label) is not None]
        panel.line([x for x, _ in at], [y for _, y in at], ink, 1.6, TISSUE_DASHES.get(label, "2 3"))
        for x, y in at:
            panel.dot(x, y, ink, 3.2, f"{_name(visits[int(x)])}, {label}: {fixed(y)} %")
        ends[label] = at[-1]
    _named(panel, ends)
    words = f"Change of volume of {' and '.join(TISSUES[label] for label in labels)} over {count(len(visits), 'visit')}"
    return row([panel], f"{words}: from {number(min(known))} to {number(max(known))} percent")


def _named(panel: Panel, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write the names of lines at their ends, one below the other where they would touch."""
    low, high = panel.y
    gap = LETTER_HEIGHT * (high - low) / (panel.height - panel.top - panel.bottom)
    last = -math.inf
    for label, (x, y) in sorted(ends.items(), key=lambda item: (item[1][1], item[0])):
        last = max(y, last + gap)
        panel.text(x + 0.1, last - 0.3 * gap, label, ink=_ink(label))


def _ink(label: str) -> str:
    return TISSUE_COLOURS.get(label, PALETTE[2])


def movement_figure(visits: Sequence[Quality]) -> str:
    """Return how far each visit's head lay from the midpoint; empty for a single visit."""
    places = [v["place"] for v in visits]
    if len(visits) < 2 or not all(p.get("translation_mm") for p in places):
        return ""
    moved = [_length(p["translation_mm"]) for p in places]
    turned = [_length(p["rotation_deg"]) for p in places]
    panels = []
    for title, units, values in (("Translation", "mm", moved), ("Rotation", "degrees", turned)):
        panel = _panel(title, units, visits, (0.0, 1.15 * max(*values, 0.1)), WIDTH // 2 + 20)
        panel.line(list(range(len(values))), values, PALETTE[0], 1.4)
        for k, value in enumerate(values):
            panel.dot(k, value, PALETTE[0], 3.2, f"{_name(visits[k])}: {fixed(value)} {units}")
        panels.append(panel)
    alt = f"How the head lay at {count(len(visits), 'visit')}: translation up to {fixed(max(moved))} mm, "
    return row(panels, alt + f"rotation up to {fixed(max(turned))} degrees from the midpoint")


def _panel(title: str, units: str, visits: Sequence[Quality], y: tuple[float, float], width: int = WIDTH) -> Panel:
    return Panel(
        (-0.4, len(visits) - 0.5),
        y,
        width=width,
        height=HEIGHT,
        title=title,
        y_label=units,
        x_ticks=[float(k) for k in range(len(visits))],
        x_tick_labels=[str(v["session_id"]) for v in visits],
        x_label="session",
        left=56,
    )


def _name(visit: Quality) -> str:
    return f"ses-{visit['session_id']}"


def _length(values: Sequence[float]) -> float:
    return math.sqrt(sum(float(v) ** 2 for v in values))
