"""What a reader must know about a design: rank, collinearity, leverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.models.formula import INTERCEPT, Design

# Beyond these a term's estimate rests on very little; the conventional limits.
HIGH_VIF = 10.0
HIGH_LEVERAGE = 0.5


def design_diagnostics(design: Design) -> dict[str, Any]:
    """Return the diagnostics of a design as plain numbers and names (JSON).

    Keys: n, columns, rank, rank_deficient, df, formula, factor_levels, covariate_means; ``alone``, factor, level and
    participant where a level has one row; ``vif`` per column but the
    intercept, ``1 / (1 - R^2)`` on all other columns (None where it is infinite or the column is constant);
    ``leverage`` per participant, ``diag X (X'X)^- X'`` (per row where a participant has several); ``condition``, the
    ratio of the largest to the smallest singular value above zero of the columns scaled to unit length;
    ``correlation`` of the columns, None for a constant one; ``sentences`` for what deserves a remark.

    References
    ----------
    Belsley, Kuh, Welsch (1980), Regression Diagnostics, doi:10.1002/0471725153.
    """
    X = design.matrix
    length = np.sqrt((X**2).sum(axis=0))
    scaled = X / np.where(length > 0, length, 1.0)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    u, s = u[:, : design.rank], s[: design.rank]
    leverage = [float(h) for h in (u**2).sum(axis=1)]
    vif = {name: _vif(scaled, j) for j, name in enumerate(design.columns) if name != INTERCEPT}
    people = design.participant_ids
    unique = len(set(people)) == len(people)
    labels = people if unique else tuple(f"{p} row {i + 1}" for i, p in enumerate(people))
    return {
        "n": len(X),
        "columns": list(design.columns),
        "formula": design.formula,
        "factor_levels": {f: list(levels) for f, levels in design.factor_levels.items()},
        "covariate_means": dict(design.covariate_means),
        "alone": [{"factor": f, "level": level, "participant_id": p} for f, level, p in design.alone],
        "rank": design.rank,
        "rank_deficient": design.rank < X.shape[1],
        "df": len(X) - design.rank,
        "vif": vif,
        "leverage": dict(zip(labels, leverage, strict=True)),
        "condition": float(s[0] / s[-1]) if s.size else None,
        "correlation": _correlation(X),
        "sentences": _sentences(design, vif, dict(zip(labels, leverage, strict=True))),
    }


def _vif(scaled: npt.NDArray[np.float64], column: int) -> float | None:
    own, others = scaled[:, column], np.delete(scaled, column, axis=1)
    total = float(((own - own.mean()) ** 2).sum())
    if total <= 1e-20:
        return None
    residual = own - others @ np.linalg.lstsq(others, own, rcond=None)[0] if others.size else own - own.mean()
    left = float((residual**2).sum())
    return total / left if left > total * 1e-12 else None


def _correlation(X: npt.NDArray[np.float64]) -> list[list[float | None]]:
    centred = X - X.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    constant = spread <= 1e-10 * np.sqrt((X**2).sum(axis=0))
    unit = centred / np.where(constant, 1.0, spread)
    found = unit.T @ unit
    return [
        [None if constant[i] or constant[j] else float(np.clip(found[i, j], -1.0, 1.0)) for j in range(len(found))]
        for i in range(len(found))
    ]


def _sentences(design: Design, vif: dict[str, float | None], leverage: dict[str, float]) -> list[str]:
    words = []
    if design.rank < design.matrix.shape[1]:
        words.append(
            f"The design has {design.matrix.shape[1]} columns and rank {design.rank}; contrasts that cannot be "
            "estimated are refused."
        )
    high = [f"{name} ({v:.1f})" for name, v in vif.items() if v is not None and v > HIGH_VIF]
    if high:
        words.append(
            f"Variance inflation above {HIGH_VIF:g}: {', '.join(high)}. Their effects can hardly be told from the "
            "other columns'."
        )
    strong = [f"{p} ({h:.2f})" for p, h in leverage.items() if h > HIGH_LEVERAGE and not math.isclose(h, 0.5)]
    if strong:
        words.append(
            f"Leverage above {HIGH_LEVERAGE:g}: {', '.join(strong)}. A fitted value there rests mostly on that row "
            "itself."
        )
    return words
