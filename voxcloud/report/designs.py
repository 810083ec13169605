"""What the page shows of each model's design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report import words
from voxcloud.report.figures_design import basis_figure, design_figure, visits_figure
from voxcloud.report.overview import group_counts
from voxcloud.report.results import Results, Tree
from voxcloud.report.svg import colour
from voxcloud.report.tables import leverage_of

HIGH_VIF = 10.0
HIGH_LEVERAGE = 0.5
MOST_LEVERAGE = 5
# Ordinary scatter of the days; above it a visit is missing or far off.
NEARLY_COMPLETE = 1.2


def design_sections(results: Results) -> list[dict[str, Any]]:
    """Return one section per model."""
    sections = [_section(results, model, design) for model, design in results.designs.items()]
    first: dict[str, str] = {}
    for section in sections:
        same = first.setdefault(str(section["design"].get("time")), section["model"])
        section["time_as"] = same if same != section["model"] and section["basis"] else ""
    return sections


def _section(results: Results, model: str, design: Tree) -> dict[str, Any]:
    time = design.get("time") or {}
    visits = design.get("visits") or []
    drawn = bool(design.get("matrix")) and bool(design.get("columns"))
    columns = [str(c) for c in design.get("columns", [])]
    limit = results.model_settings(model).get("max_variance_ratio")
    return {
        "model": model,
        "key": f"model-{model}",
        "design": design,
        "groups": group_counts(design),
        "rank": design.get("rank"),
        "n": len(design.get("participants", [])),
        "columns": columns,
        "deficient": (design.get("rank") or len(columns)) < len(columns),
        "matrix": design_figure(design, results.group_places) if drawn else None,
        "basis": basis_figure(time) if time else None,
        "terms": [(str(t), colour(k)) for k, t in enumerate(time.get("terms", []))],
        "sentences": [str(s) for s in time.get("sentences", [])],
        "vif": [
            (str(c), words.number(v), v is not None and v > HIGH_VIF) for c, v in (design.get("vif") or {}).items()
        ],
        "time_vif": [
            (t, words.number(v), words.number((time.get("vif_used") or {}).get(t)))
            for t, v in (time.get("vif") or {}).items()
        ],
        "leverage": _leverage(design),
        "correlation": _correlation(columns, design.get("correlation") or []),
        "visits": visits_figure(visits, time.get("reference_days", [])),
        "ratios": _ratios(visits),
        "limit": None if limit is None else f"{float(limit):g}",
        "accepted": bool(design.get("accepted_unequal_variance")),
        "contrasts": [
            (name, words.asked(c, None), c.get("kind", "t"), _weights(columns, c.get("weights", [])))
            for name, c in design.get("contrasts", {}).items()
        ],
        "stacks": [
            (stack, ", ".join(f"{c}: {n}" for c, n in sizes.items()))
            for stack, sizes in (design.get("stacks") or {}).items()
        ],
        "drawn_for": str(design.get("coefficient", "")),
    }


def _leverage(design: Tree) -> dict[str, Any] | None:
    people = [str(p) for p in design.get("participants", [])]
    values = {p: v for p in people if (v := leverage_of(design, p)) is not None}
    if not values:
        return None
    top = sorted(values, key=lambda p: -values[p])[:MOST_LEVERAGE]
    return {
        "mean": words.fixed(sum(values.values()) / len(values)),
        "top": [(p, words.fixed(values[p]), values[p] > HIGH_LEVERAGE) for p in top],
    }


def _correlation(
    columns: Sequence[str], matrix: Sequence[Sequence[float | None]]
) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return named rows of printed correlations with their strength for the shading."""
    if len(matrix) != len(columns):
        return []
    # A constant column correlates with nothing.
    kept = [k for k, row in enumerate(matrix) if any(r is not None for r in row)]
    return [
        (columns[k], [(words.fixed(r), abs(float(r)) if r is not None else 0.0) for r in (matrix[k][j] for j in kept)])
        for k in kept
    ]


def _weights(columns: Sequence[str], weights: Any) -> list[str]:
    rows = weights if weights and isinstance(weights[0], Sequence) else [weights]
    return [
        ", ".join(
            f"{words.number(float(w))} × {c}" for c, w in zip(columns, row, strict=False) if abs(float(w)) > 1e-12
        )
        for row in rows
    ]


def _ratios(visits: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the table of variance ratios: only who lacks a visit or leaves a coefficient; the others are counted."""
    terms = list(dict.fromkeys(t for v in visits for t in (v.get("ratio") or v.get("variance_factor") or {})))
    if not terms:
        return None
    rows = []
    for visit in visits:
        ratio, factor, out = (
            visit.get("ratio") or {},
            visit.get("variance_factor") or {},
            visit.get("left_out_of") or {},
        )
        if not out and all(r is not None and r < NEARLY_COMPLETE for r in ratio.values()):
            continue
        rows.append(
            {
                "person": visit["participant_id"],
                "n": visit.get("n_visits"),
                "days": ", ".join(f"{d:g}" for d in visit.get("days", [])),
                "cells": [
                    (words.number(ratio.get(t)), words.number(factor.get(t)), _heat(ratio.get(t)), t in out)
                    for t in terms
                ],
                "out": ", ".join(map(str, out)),
            }
        )
    return {"terms": terms, "rows": rows, "complete": len(visits) - len(rows)}


def _heat(ratio: float | None) -> int:
    """Return a shade 0..4 for a variance ratio (1, 1.5, 2, 4, more)."""
    if ratio is None:
        return 4
    return sum(ratio >= edge for edge in (1.2, 1.5, 2.0, 4.0))
