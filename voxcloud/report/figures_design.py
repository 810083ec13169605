"""Figures of a design: matrix, time basis, visits, correlation of the columns."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.report.svg import DASHES, FAINT, INK, Panel, colour, figure, row, spread

Floats = npt.NDArray[np.float64]
MATRIX_HEIGHT = 420
LABEL_ROOM = 7.0
# Above this many rows participant labels would overlap; the groups stay named.
ROW_LABELS = 60


def _picture(values: Floats, colours: str = "gray", low: float = 0.0, high: float = 1.0) -> str:
    """Return an array as a PNG data URI, one pixel per cell."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, values, cmap=colours, vmin=low, vmax=high, format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def grey_levels(matrix: Floats) -> Floats:
    """Scale each column to 0..1 as SPM draws a design: smallest value black, largest white, a constant one white."""
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.asarray(np.where(high > low, (matrix - low) / span, 1.0))


def design_figure(design: Mapping[str, Any], places: Mapping[str, int]) -> str:
    """Return the design matrix in grey, rows gathered by group."""
    people = [str(p) for p in design["participants"]]
    groups = {str(p): str(g) for p, g in design.get("groups", {}).items()}
    order_of = list(dict.fromkeys(groups.get(p, "") for p in people))
    order = sorted(range(len(people)), key=lambda i: (order_of.index(groups.get(people[i], "")), i))
    levels = grey_levels(np.asarray(design["matrix"], dtype=np.float64))[order]
    columns = [str(c) for c in design["columns"]]
    cell = max(34, min(90, 520 // max(1, len(columns))))
    row_height = min(15.0, MATRIX_HEIGHT / max(1, len(people)))
    left = 190.0
    top = min(150.0, 14 + LABEL_ROOM * max(len(c) for c in columns) * 0.62)
    height = row_height * len(people)
    width = cell * len(columns)
    parts = [
        f'<image href="{_picture(levels)}" x="{left}" y="{top}" width="{width}" height="{height:.1f}" '
        'preserveAspectRatio="none" '
        'style="image-rendering:pixelated"/>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height:.1f}" fill="none" stroke="{INK}"/>',
    ]
    for k, name in enumerate(columns):
        x = left + cell * (k + 0.5)
        parts.append(
            f'<text transform="translate({x:.1f} {top - 6:.1f}) rotate(-38)" '
            f'font-size="11">{html.escape(_short(name, 30))}</text>'
        )
        if k:
            parts.append(f'<path d="M{left + cell * k} {top}v{height:.1f}" stroke="{FAINT}" stroke-width="0.6"/>')
    start = 0
    for position, group in ((places.get(g, k), g) for k, g in enumerate(order_of)):
        n = sum(groups.get(p, "") == group for p in people)
        y = top + row_height * start
        parts.append(
            f'<rect x="{left - 12}" y="{y:.1f}" width="7" height="{row_height * n - 1:.1f}" fill="{colour(position)}"/>'
        )
        words = f"{_short(group, 22)} (n = {n})" if group else f"n = {n}"
        parts.append(
            f'<text x="{left - 38}" y="{y + row_height * n / 2 + 4:.1f}" text-anchor="end" '
            f'font-size="11">{html.escape(words)}</text>'
        )
        start += n
    if len(people) <= ROW_LABELS:
        size = min(10.0, row_height * 0.85)
        parts += [
            f'<text x="{left - 15}" y="{top + row_height * (k + 0.5) + size / 3:.1f}" text-anchor="end" '
            f'font-size="{size:.1f}">{html.escape(_short(people[i], 4))}</text>'
            for k, i in enumerate(order)
        ]
    alt = (
        f"Design matrix: {len(people)} participants by {len(columns)} columns ({', '.join(columns)}), each column "
        "from its smallest value (black) to its largest (white)."
    )
    return figure("".join(parts), left + width + 90, top + height + 8, alt)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def basis_figure(time: Mapping[str, Any]) -> str | None:
    """Return the terms of the time basis over days, with the reference days marked; None where it is not known."""
    if not time.get("matrix") or not time.get("reference_days"):
        return None
    days = np.asarray(time["reference_days"], dtype=np.float64)
    values = np.asarray(time["matrix"], dtype=np.float64)
    terms = [str(t) for t in time["terms"]]
    values = values[:, values.shape[1] - len(terms) :]
    panel = Panel(
        spread([float(d) for d in days], 0.03),
        spread([*values.ravel().tolist(), 0.0]),
        width=430,
        height=250,
        x_label="day",
        y_label=f"term (time in units of {time.get('scale_days', 1):g} days)",
        x_ticks=days.tolist(),
        title="Time basis",
    )
    panel.line(list(panel.x), [0, 0], FAINT, 1)
    for k, term in enumerate(terms):
        fine, curve = _curve(days, values[:, k], str(time.get("kind", "")), 1 + len(terms))
        panel.line(fine, curve, colour(k), 2, DASHES[k % len(DASHES)])
        for day, value in zip(days, values[:, k], strict=True):
            panel.dot(float(day), float(value), colour(k), 3.4, f"{term}, day {day:g}: {value:.4f}", k)
    return row([panel], f"Terms of the time basis over days: {', '.join(terms)}.")


def _curve(days: Floats, values: Floats, kind: str, degree: int) -> tuple[list[float], list[float]]:
    """Fill in between the reference days where the basis is a polynomial."""
    if kind == "polynomial" and len(days) > degree:
        fit = np.polynomial.Polynomial.fit(days, values, degree)
        if np.allclose(fit(days), values, atol=1e-8 * max(1.0, float(np.abs(values).max()))):
            fine = np.linspace(days[0], days[-1], 80)
            return fine.tolist(), np.asarray(fit(fine)).tolist()
    return days.tolist(), values.tolist()


def visits_figure(visits: Sequence[Mapping[str, Any]], reference_days: Sequence[float]) -> str | None:
    """Return who was scanned when: a mark at each actual day, hollow where the participant leaves a coefficient."""
    if not visits:
        return None
    height = max(90, 13 * len(visits) + 60)
    days = [float(d) for v in visits for d in v.get("days", ())]
    panel = Panel(
        spread([*days, *reference_days], 0.04),
        (len(visits) - 0.5, -0.5),
        width=430,
        height=height,
        x_label="day",
        x_ticks=list(reference_days) or None,
        title="Visits that enter, by participant",
        left=70,
    )
    panel.parts.append(
        "".join(
            f'<path d="M{panel.px(d):.1f} {panel.top}V{panel.height - panel.bottom}" stroke="{FAINT}"/>'
            for d in reference_days
        )
    )
    for k, visit in enumerate(visits):
        out = bool(visit.get("left_out_of"))
        panel.parts.append(
            f'<text x="{panel.left - 6}" y="{panel.py(k) + 4:.1f}" text-anchor="end" '
            f'font-size="10">{html.escape(_short(str(visit["participant_id"]), 9))}</text>'
        )
        for day in visit.get("days", ()):
            panel.dot(
                float(day),
                k,
                "#D55E00" if out else "#0072B2",
                3.2,
                f"participant {visit['participant_id']}, day {day:g}",
                1 if out else 0,
                out,
            )
    return _without_y_axis(
        panel, f"Visits of {len(visits)} participants over days; orange squares: participant leaves a coefficient."
    )


def _without_y_axis(panel: Panel, alt: str) -> str:
    bottom = panel.height - panel.bottom
    head = f'<path d="M{panel.left} {bottom}H{panel.width - panel.right}" stroke="{INK}"/>' + "".join(
        panel._x_axis(bottom)
    )
    label = (
        f'<text x="{(panel.left + panel.width) / 2:.0f}" y="{panel.height - 6}" text-anchor="middle" '
        f'font-size="12">{panel.x_label}</text>'
    )
    title = f'<text x="{panel.left}" y="15" font-size="12" font-weight="600">{html.escape(panel.title)}</text>'
    return figure(head + label + title + "".join(panel.parts), panel.width, panel.height, alt)
