"""What a simulated study found of what had been planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report import words

ORDER = ("false", "wrong sign", "missed", "found", "not expected")


def truth_section(truth: Any) -> dict[str, Any] | None:
    """Return sentence and rows of the comparison with a simulation's truth; None where a study is real."""
    if not truth:
        return None
    from voxcloud.testing.truth import summarise_truth

    rows: Sequence[Mapping[str, Any]] = truth["rows"] if isinstance(truth, Mapping) else truth
    printed = [
        _row(row)
        for row in sorted(rows, key=lambda r: ORDER.index(r["outcome"]) if r["outcome"] in ORDER else len(ORDER))
    ]
    return {"sentence": str(summarise_truth(rows)["sentence"]), "rows": printed}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    peak = row.get("peak_mm")
    where = "(" + ", ".join(f"{v:g}".replace("-", words.MINUS) for v in peak) + ")" if peak else words.NONE
    return {
        **row,
        "stack": f"{words.map_name(str(row['map']))} {row.get('label', '')}".strip(),
        "expected_t": words.fixed(row.get("expected_t"), 1),
        "p": words.p_text(row.get("p_fwe")),
        "size": words.number(row.get("size_voxels")),
        "t": words.fixed(row.get("peak_t")),
        "where": where,
        "distance": words.fixed(row.get("distance_mm"), 1),
    }
