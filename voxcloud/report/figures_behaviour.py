"""Learning curves of the participants, one panel per score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from voxcloud.report.figures_trajectories import by_visit, places_of
from voxcloud.report.svg import DASHES, Panel, colour, row, spread


def curve(person: Mapping[str, Any], days: np.ndarray) -> np.ndarray | None:
    """Return alpha - delta exp(-gamma day), None where the curve has no parameters."""
    parameters = [person.get(k) for k in ("alpha", "delta", "gamma")]
    if any(p is None for p in parameters):
        return None
    alpha, delta, gamma = (float(p) for p in parameters if p is not None)
    return np.asarray(alpha - delta * np.exp(-gamma * days))


def learning_figure(
    name: str, score: Mapping[str, Any], groups: Mapping[str, str], places: Mapping[str, int]
) -> str | None:
    """Return the measured scores, each participant's fitted curve and the median of each group."""
    people = {str(p): entry for p, entry in score.get("participants", {}).items() if entry.get("days")}
    if not people:
        return None
    days = sorted({float(d) for entry in people.values() for d in entry["days"]})
    values = [float(v) for entry in people.values() for v in entry["values"]]
    better = f"{score.get('better', '')} is better".strip()
    measured = Panel(
        spread(days, 0.03),
        spread(values),
        width=400,
        height=280,
        title="Measured, with group medians",
        x_label="day",
        y_label=name,
    )
    fitted = Panel(
        spread(days, 0.03),
        spread(values),
        width=400,
        height=280,
        title=f"Fitted curves ({better})",
        x_label="day",
        y_label=name,
    )
    # Daily scores would run into one another at the size that five visits have.
    radius = 3.6 if len(days) <= 8 else 2.0
    fine = np.linspace(min(days), max(days), 60)
    for group, position in places_of(groups, list(people), places).items():
        own = [p for p in people if groups.get(p, "") == group]
        for person in own:
            entry = people[person]
            measured.line(entry["days"], entry["values"], colour(position), 0.7, opacity=0.3)
            line = curve(entry, fine)
            if line is not None and not entry.get("flags"):
                low, high = fitted.y
                inside = (line >= low) & (line <= high)
                fitted.line(fine[inside].tolist(), line[inside].tolist(), colour(position), 0.8, opacity=0.45)
        lines = {p: list(zip(people[p]["days"], people[p]["values"], strict=True)) for p in own}
        medians = {day: float(np.median([v for _, v in seen])) for day, seen in by_visit(lines, own, days).items()}
        for panel in (measured, fitted):
            if panel is measured:
                panel.line(list(medians), list(medians.values()), colour(position), 2.4, DASHES[position % len(DASHES)])
            for day, median in medians.items():
                panel.dot(day, median, colour(position), radius, f"{group}, day {day:g}: median {median:.4g}", position)
    return row(
        [measured, fitted], f"Learning curves of {len(people)} participants for {name}, with the median of each group."
    )
