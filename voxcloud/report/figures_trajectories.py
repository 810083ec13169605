"""Figures of one cluster: its mean over days, the participants' coefficients, and coefficient against score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from voxcloud.report.svg import DASHES, INK, Panel, colour, row, spread
from voxcloud.report.words import map_name

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and its 95 % interval (Student's t); the interval is NaN below 3 values."""
    y = np.asarray(values, dtype=np.float64)
    mean = float(y.mean())
    if y.size < 3:
        return mean, float("nan"), float("nan")
    half = float(stats.t.isf((1 - LEVEL) / 2, y.size - 1) * y.std(ddof=1) / np.sqrt(y.size))
    return mean, mean - half, mean + half


def group_order(groups: Mapping[str, str], people: Sequence[str]) -> list[str]:
    """Return the groups of some participants in order of first appearance."""
    return list(dict.fromkeys(str(groups.get(p, "")) for p in people))


def places_of(groups: Mapping[str, str], people: Sequence[str], places: Mapping[str, int]) -> dict[str, int]:
    """Return colour and mark of each group: the page's, or by first appearance for groups that the page has not."""
    return {g: places.get(g, len(places) + k) for k, g in enumerate(group_order(groups, people))}


def by_visit(
    lines: Mapping[str, Sequence[Sequence[float]]], people: Sequence[str], reference_days: Sequence[float]
) -> dict[float, list[tuple[float, float]]]:
    """Gather (day, value) of some participants under the nearest reference day."""
    reference = np.asarray(sorted(reference_days), dtype=np.float64)
    found: dict[float, list[tuple[float, float]]] = {}
    for person in people:
        for day, value in lines.get(person, ()):
            nearest = float(reference[int(np.argmin(np.abs(reference - day)))])
            found.setdefault(nearest, []).append((float(day), float(value)))
    return dict(sorted(found.items()))


def _from_first(lines: Mapping[str, Sequence[Sequence[float]]], first_day: float) -> dict[str, list[list[float]]]:
    """Return each participant's change from the first reference day, for those who were seen then."""
    found = {}
    for person, visits in lines.items():
        near = [v for d, v in visits if abs(d - first_day) < 1.0]
        if near:
            found[person] = [[float(d), float(v) - float(near[0])] for d, v in visits]
    return found


def _time_panel(
    lines: Mapping[str, Sequence[Sequence[float]]],
    groups: Mapping[str, str],
    reference: Sequence[float],
    title: str,
    units: str,
    places: Mapping[str, int],
) -> Panel:
    points = [(float(d), float(v)) for visits in lines.values() for d, v in visits]
    panel = Panel(
        spread([d for d, _ in points] + list(reference), 0.03),
        spread([v for _, v in points]),
        width=370,
        title=title,
        x_label="day",
        y_label=units,
        x_ticks=list(reference),
    )
    people = list(lines)
    for group, position in places_of(groups, people, places).items():
        own = [p for p in people if str(groups.get(p, "")) == group]
        for person in own:
            visits = sorted((float(d), float(v)) for d, v in lines[person])
            panel.line([v[0] for v in visits], [v[1] for v in visits], colour(position), 0.7, opacity=0.3)
        _mean_line(panel, by_visit(lines, own, reference), position, group)
    return panel


def _mean_line(panel: Panel, visits: Mapping[float, Sequence[tuple[float, float]]], position: int, group: str) -> None:
    days = [float(np.mean([d for d, _ in seen])) for seen in visits.values()]
    made = [mean_interval([v for _, v in seen]) for seen in visits.values()]
    ink = colour(position)
    panel.line(days, [m for m, _, _ in made], ink, 2.4, DASHES[position % len(DASHES)])
    for day, (mean, low, high), (reference, seen) in zip(days, made, visits.items(), strict=True):
        if np.isfinite(low):
            panel.line([day, day], [low, high], ink, 1.6)
        panel.dot(day, mean, ink, 3.6, f"{group}, day {reference:g}: mean {mean:.4g}, n = {len(seen)}", position)


def coefficient_panel(
    values: Mapping[str, float],
    groups: Mapping[str, str],
    units: str,
    places: Mapping[str, int],
    largest: str = "",
    *,
    with_zero: bool = True,
    width: int = 250,
) -> Panel:
    """Draw every participant's coefficient by group, with mean and 95 % interval."""
    people = [p for p in values if np.isfinite(values[p])]
    order = group_order(groups, people)
    looks = places_of(groups, people, places)
    panel = Panel(
        (-0.6, len(order) - 0.4),
        spread([*(values[p] for p in people), *([0.0] if with_zero else [])]),
        width=width,
        title="Coefficient per participant",
        y_label=units,
        x_ticks=range(len(order)),
        x_tick_labels=[str(i + 1) for i in range(len(order))],
        x_label="group (numbers as in the key)",
    )
    if with_zero:
        panel.line(list(panel.x), [0, 0], INK, 0.8, "3 3")
    for position, group in enumerate(order):
        own = sorted((p for p in people if str(groups.get(p, "")) == group), key=lambda p: values[p])
        look = looks[group]
        for rank, person in enumerate(own):
            # A fixed zigzag instead of chance: the same results draw the same figure.
            x = position + 0.22 * ((rank * 0.618034) % 1 - 0.5) - 0.1
            panel.dot(
                x,
                values[person],
                colour(look),
                2.6,
                f"participant {person}: {values[person]:.4g}",
                look,
                hollow=person != largest,
            )
            if person == largest:
                panel.text(x - 0.06, values[person], person, "end", 10)
        mean, low, high = mean_interval([values[p] for p in own])
        if np.isfinite(low):
            panel.line([position + 0.26] * 2, [low, high], colour(look), 2)
        panel.dot(position + 0.26, mean, colour(look), 4, f"{group}: mean {mean:.4g}", look)
    return panel


def score_panel(
    values: Mapping[str, float],
    scores: Mapping[str, float],
    groups: Mapping[str, str],
    name: str,
    units: str,
    places: Mapping[str, int],
) -> Panel:
    """Draw coefficients against a score with the least-squares line of these points."""
    people = [p for p in values if p in scores and np.isfinite(values[p]) and np.isfinite(scores[p])]
    x, y = np.array([scores[p] for p in people]), np.array([values[p] for p in people])
    panel = Panel(
        spread([float(v) for v in x]),
        spread([float(v) for v in y]),
        width=330,
        title="Coefficient against score",
        x_label=name,
        y_label=units,
    )
    looks = places_of(groups, people, places)
    if len(people) >= 3 and float(x.std()) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = [float(x.min()), float(x.max())]
        panel.line(ends, [float(slope * e + intercept) for e in ends], INK, 1.4)
    for person, a, b in zip(people, x, y, strict=True):
        position = looks[str(groups.get(person, ""))]
        panel.dot(
            float(a),
            float(b),
            colour(position),
            3.4,
            f"participant {person}: {name} {a:.4g}, coefficient {b:.4g}",
            position,
        )
    return panel


def cluster_figure(
    cluster: Mapping[str, Any],
    result: Mapping[str, Any],
    reference_days: Sequence[float],
    score: tuple[str, Mapping[str, float]] | None,
    places: Mapping[str, int] | None = None,
) -> tuple[str, list[tuple[str, int]]] | None:
    """Return the figure of one cluster and its groups with their numbers of participants; None without values."""
    values = {str(p): float(v) for p, v in (cluster.get("values") or {}).items()}
    if not values:
        return None
    groups = {str(p): str(g) for p, g in (cluster.get("groups") or {}).items()}
    places = places or {}
    map_units, units = _units(result)
    panels = []
    lines = {
        str(p): [[float(d), float(v)] for d, v in visits]
        for p, visits in (cluster.get("trajectories") or {}).items()
        if visits
    }
    lines = {p: lines[p] for p in values if p in lines}
    if lines:
        days = list(reference_days) or sorted({round(d) for visits in lines.values() for d, _ in visits})
        panels.append(_time_panel(lines, groups, days, "Cluster mean over days", map_units, places))
        change = _from_first(lines, days[0])
        if change:
            panels.append(_time_panel(change, groups, days, f"Change since day {days[0]:g}", map_units, places))
    # Zero says something about a change, not about the value of a map.
    with_zero = str(result.get("coefficient", "")) not in ("value", "mean")
    largest = str((cluster.get("influence") or {}).get("largest_participant", ""))
    panels.append(
        score_panel(values, score[1], groups, score[0], units, places)
        if score
        else coefficient_panel(values, groups, units, places, largest, with_zero=with_zero)
    )
    order = group_order(groups, list(values))
    sizes = [(g, sum(str(groups.get(p, "")) == g for p in values)) for g in order]
    alt = (
        f"{len(panels)} panels for the cluster: "
        + "; ".join(p.title for p in panels)
        + ". Groups: "
        + ", ".join(f"{g or 'all'} (n = {n})" for g, n in sizes)
    )
    return row(panels, alt), sizes


def _units(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return what stands at the axes of the map and of the coefficient; a map without units has its name there."""
    units = str(result.get("units", ""))
    per = units.split(" per ")[0]
    if per not in ("", "1"):
        return per, units
    name = map_name(str(result.get("map", "")))
    return name, f"{name}{units.removeprefix(per)}"
