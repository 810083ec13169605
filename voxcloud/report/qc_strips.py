"""Figures of a cohort's quality: one measure of every session from left to right, a person's sessions joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from voxcloud.report.qc_outliers import Measure, who_of
from voxcloud.report.qc_page import unit
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.svg import PALETTE, Panel, row, spread
from voxcloud.report.words import number

Quality = Mapping[str, Any]
PLAIN, NAMED, JOIN, BAND = PALETTE[0], PALETTE[1], "#9aa5b1", "#52606d"
# Few sessions take a third of the page, many all of it; dots never come nearer than this.
SESSION_WIDTH, NARROWEST, WIDEST = 11, 345, 1080
LEFT, RIGHT, HEIGHT = 72, 12, 200


@dataclass(frozen=True)
class Strip:
    """A figure of one measure; wide ones have a row of their own."""

    svg: str
    wide: bool


def places(qcs: Sequence[Quality]) -> tuple[list[float], list[float], list[str]]:
    """Return where each session stands, where a person begins, and the people; people stand a little apart."""
    at: list[float] = []
    starts: list[float] = []
    people: list[str] = []
    x = 0.0
    for qc in qcs:
        person = str(qc["participant_id"])
        if not people or person != people[-1]:
            x += 0.6 if people else 0.0
            people.append(person)
            starts.append(x)
        at.append(x)
        x += 1.0
    return at, starts, people


def _panel(title: str, units: str, qcs: Sequence[Quality], y: tuple[float, float]) -> tuple[Panel, list[float]]:
    at, starts, people = places(qcs)
    end = at[-1] if at else 0.0
    width = round(min(max(LEFT + RIGHT + SESSION_WIDTH * (end + 1.4), NARROWEST), WIDEST))
    panel = Panel(
        (-0.7, end + 0.7),
        y,
        width=width,
        height=HEIGHT,
        title=title,
        y_label=unit(units),
        x_ticks=starts,
        x_tick_labels=people,
        x_label="participant",
    )
    return panel, at


def strip(measure: Measure, qcs: Sequence[Quality], named: Set[str]) -> Strip | None:
    """Return one measure of every session; None where there is nothing, or nothing but zeros, to show.

    ``named`` are the sessions that stand out in this measure. The axis follows the data, as changes within a person are
    the most telling; what of it lies outside the published range is shaded.
    """
    values = [measure.value(qc) for qc in qcs]
    known = [v for v in values if v is not None]
    if not any(known):
        return None
    low, high = spread(known, 0.12)
    if measure.bad == "high":
        low = min(low, 0.0) if min(known) > 0 and min(known) < 0.35 * max(known) else max(low, 0.0)
    ranges = [published_range(qc, measure.map, measure.tissue) for qc in qcs]
    expected = next((r for r in ranges if r is not None), None)
    title = measure.title
    if expected is not None:
        title += f" (published: {expected.words})"
    panel, at = _panel(title, measure.units, qcs, (low, high))
    if panel.width < 1.5 * NARROWEST:
        panel.title = measure.title  # the range would not fit beside it
    if expected is not None:
        _shade(panel, low, min(expected.low, high))
        _shade(panel, max(expected.high, low), high)
    _joined(panel, qcs, at, values)
    for x, qc, value in zip(at, qcs, values, strict=True):
        if value is not None:
            odd = who_of(qc) in named
            hover = f"{who_of(qc)}: {number(value)} {measure.units}"
            panel.dot(x, value, NAMED if odd else PLAIN, 4.5 if odd else 2.6, hover, shape=3 if odd else 0)
    alt = f"{title}: {len(known)} {measure.counted}, from {number(min(known))} to {number(max(known))} {measure.units}"
    return Strip(row([panel], alt), panel.width > 2 * NARROWEST)


def _shade(panel: Panel, low: float, high: float) -> None:
    if high > low:
        panel.band(list(panel.x), [low, low], [high, high], BAND)


def _joined(panel: Panel, qcs: Sequence[Quality], at: Sequence[float], values: Sequence[float | None]) -> None:
    own: dict[str, list[tuple[float, float]]] = {}
    for x, qc, value in zip(at, qcs, values, strict=True):
        if value is not None:
            own.setdefault(str(qc["participant_id"]), []).append((x, value))
    for points in own.values():
        if len(points) > 1:
            panel.line([x for x, _ in points], [y for _, y in points], JOIN, 1.2)


def b1_strip(qcs: Sequence[Quality], named: Set[str]) -> Strip | None:
    """Return B1+ over the brain of every session: a line from the 1st to the 99th percentile, a dot at the median."""
    found = [(qc.get("b1") or {}) for qc in qcs]
    known = [100.0 * float(b[k]) for b in found for k in ("p01", "p99") if b.get(k) is not None]
    if not known:
        return None
    panel, at = _panel("B1+ in the brain: 1st to 99th percentile", "percent", qcs, spread(known, 0.08))
    panel.line(list(panel.x), [100.0, 100.0], JOIN, 1.0, "4 3")
    for x, qc, b1 in zip(at, qcs, found, strict=True):
        if b1.get("median") is None:
            continue
        low, middle, high = (100.0 * float(b1[k]) for k in ("p01", "median", "p99"))
        odd = who_of(qc) in named
        ink = NAMED if odd else PLAIN
        panel.line([x, x], [low, high], ink, 2.4 if odd else 1.4, opacity=1.0 if odd else 0.6)
        hover = f"{who_of(qc)}: {middle:.0f} percent, {low:.0f} to {high:.0f}"
        panel.dot(x, middle, ink, 4.5 if odd else 2.6, hover, shape=3 if odd else 0)
    n = sum(b.get("median") is not None for b in found)
    alt = f"B1+ in the brain of {n} sessions, 1st to 99th percentile from {min(known):.0f} to {max(known):.0f} percent"
    return Strip(row([panel], alt), panel.width > 2 * NARROWEST)
