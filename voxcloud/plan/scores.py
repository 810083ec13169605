"""Learning curves as covariates: fitted when the study is planned, because designs need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.behaviour.learning_curve import LearningCurve, fit_learning_curves
from voxcloud.bids.tables import Cohort, read_table
from voxcloud.config.load import LoadedStudy
from voxcloud.config.study import Model
from voxcloud.errors import TableError, nearest
from voxcloud.plan.selection import LeftOut
from voxcloud.plan.unit import digest_json

PARAMETERS = ("alpha", "delta", "gamma", "improvement")


@dataclass(frozen=True)
class BehaviourFits:
    """The learning curves of every participant and score."""

    curves: dict[str, dict[str, LearningCurve]]
    data: dict[str, dict[str, tuple[list[float], list[float]]]]
    better: dict[str, str]
    digest: str

    def join(self, participants: pd.DataFrame) -> pd.DataFrame:
        """Add ``<score>_<parameter>`` columns; NaN where a curve is missing or cannot be used."""
        joined = participants.copy()
        for score, curves in self.curves.items():
            for parameter in PARAMETERS:
                joined[f"{score}_{parameter}"] = [
                    getattr(curves[p], parameter) if p in curves and usable(curves[p]) else np.nan
                    for p in joined["participant_id"].astype(str)
                ]
        return joined

    def without_unusable(self, participants: pd.DataFrame, model: Model) -> tuple[pd.DataFrame, list[LeftOut]]:
        """Leave out of a model whoever has no usable curve of a score that the model's formula names."""
        names = [f"{s}_{p}" for s in self.curves for p in PARAMETERS if f"{s}_{p}" in model.formula]
        if not names:
            return participants, []
        bad = participants[names].isna().any(axis=1)
        gone = [
            LeftOut(str(p), None, f"model {model.name}", self._why(str(p), names)) for p in participants.loc[bad, "participant_id"]
        ]
        keep = participants[~bad].reset_index(drop=True)
        return keep, [item for item in gone if any(item.participant_id in curves for curves in self.curves.values())]

    def _why(self, participant: str, names: list[str]) -> str:
        for score in dict.fromkeys(n.rsplit("_", 1)[0] for n in names):
            curve = self.curves[score].get(participant)
            if curve is None:
                return f"has no learning data for {score}"
            if not usable(curve):
                return f"learning curve of {score}: {', '.join(curve.flags)}"
        return "has no usable learning curve"


def usable(curve: LearningCurve) -> bool:
    """Whether a curve's parameters may stand for the participant."""
    return not curve.flags


def fit_behaviour(loaded: LoadedStudy, cohort: Cohort) -> BehaviourFits | None:
    """Fit y = alpha - delta exp(-gamma day) for every participant and score of the study, or return None."""
    section = loaded.study.behaviour
    if section is None:
        return None
    path = Path(loaded.resolve(section.table))
    table = read_table(path, required=("participant_id", "day"))
    known = set(cohort.participants["participant_id"].astype(str))
    curves: dict[str, dict[str, LearningCurve]] = {}
    data: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for score, spec in section.scores.items():
        if score not in table.columns:
            raise TableError(f"{path}: expected a column {score}, found {', '.join(table.columns)}.{nearest(score, table.columns)}")
        rows = table[["participant_id", "day", score]].dropna()
        rows = rows[rows["participant_id"].astype(str).isin(known)].sort_values(["participant_id", "day"])
        data[score] = {
            str(p): (sub["day"].astype(float).tolist(), sub[score].astype(float).tolist())
            for p, sub in rows.groupby("participant_id")
        }
        curves[score] = fit_learning_curves(data[score], larger_is_better=spec.better == "higher")
    better = {name: spec.better for name, spec in section.scores.items()}
    plain: Any = {s: {p: [d, v] for p, (d, v) in people.items()} for s, people in data.items()}
    return BehaviourFits(curves, data, better, digest_json({"data": plain, "better": better}))
