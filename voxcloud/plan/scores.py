"""Learning curves as covariates: fitted when the study is planned, because designs need them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.behaviour.learning_curve import Exclusion, LearningCurve, find_outliers, fit_learning_curves
from voxcloud.bids.tables import Cohort, read_table
from voxcloud.config.load import LoadedStudy
from voxcloud.config.study import Model, Score, Study
from voxcloud.errors import TableError, nearest
from voxcloud.plan.selection import group_of
from voxcloud.plan.unit import digest_json

# A curve has three parameters.
FEWEST_DAYS = 3
PARAMETERS = ("alpha", "delta", "gamma", "improvement")


@dataclass(frozen=True)
class BehaviourFits:
    """The learning curves of every participant and score, and which groups the study compares.

    ``groups`` holds the participants of each group that a model names, ``pairs`` the groups that stand in one model.
    """

    curves: dict[str, dict[str, LearningCurve]]
    data: dict[str, dict[str, tuple[list[float], list[float]]]]
    better: dict[str, str]
    outliers: dict[tuple[str, str, str], str]
    retention: tuple[float, float] | None
    groups: dict[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...]
    digest: str

    def join(self, participants: pd.DataFrame) -> pd.DataFrame:
        """Add ``<score>_<parameter>`` columns; NaN where a curve is missing or cannot be used."""
        joined = participants.copy()
        for score, curves in self.curves.items():
            for parameter in PARAMETERS:
                joined[f"{score}_{parameter}"] = [
                    getattr(curves[p], parameter) if p in curves and not self.reason(score, parameter, p) else np.nan
                    for p in joined["participant_id"].astype(str)
                ]
        return joined

    def reason(self, score: str, parameter: str, participant: str) -> str:
        """Why a participant's parameter is not used, or an empty string."""
        curve = self.curves[score].get(participant)
        if curve is None:
            days = len(set(self.data[score].get(participant, ([], []))[0]))
            return f"has {score} on {days} days, a learning curve needs {FEWEST_DAYS}"
        if curve.unphysical:
            return f"learning curve of {score}: {', '.join(curve.flags)}"
        return self.outliers.get((score, parameter, participant), "")

    def unusable(self, participants: pd.DataFrame, model: Model) -> dict[str, str]:
        """Return why participants have no usable curve of a score that the model's formula names."""
        words = set(re.findall(r"\w+", model.formula))
        names = [f"{s}_{p}" for s in self.curves for p in PARAMETERS if f"{s}_{p}" in words]
        if not names:
            return {}
        bad = participants[names].isna().any(axis=1)
        return {str(p): self._why(str(p), names) for p in participants.loc[bad, "participant_id"]}

    def _why(self, participant: str, names: list[str]) -> str:
        reasons = []
        for name in names:
            score, _, parameter = name.rpartition("_")
            reasons.append(self.reason(score, parameter, participant))
        return "; ".join(dict.fromkeys(r for r in reasons if r))


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
            raise TableError(
                f"{path}: expected a column {score}, found {', '.join(table.columns)}.{nearest(score, table.columns)} "
                "Correct behaviour.scores or the table."
            )
        rows = table[["participant_id", "day", score]].dropna()
        rows = rows[rows["participant_id"].astype(str).isin(known)].sort_values(["participant_id", "day"])
        data[score] = {
            str(p): (sub["day"].astype(float).tolist(), sub[score].astype(float).tolist())
            for p, sub in rows.groupby("participant_id")
        }
        curves[score] = _curves(data[score], spec)
    better: dict[str, str] = {name: spec.better for name, spec in section.scores.items()}
    plain: Any = {s: {p: [d, v] for p, (d, v) in people.items()} for s, people in data.items()}
    outliers = {
        (score, parameter, found.participant_id): found.reason
        for score, people in curves.items()
        for parameter in PARAMETERS
        for found in _outliers(people, parameter)
    }
    ranges = {name: spec.range for name, spec in section.scores.items()}
    groups, pairs = _compared_groups(loaded.study, cohort.participants)
    digest = digest_json(
        {
            "data": plain,
            "better": better,
            "ranges": ranges,
            "retention": section.retention,
            "groups": groups,
            "pairs": pairs,
        }
    )
    return BehaviourFits(curves, data, better, outliers, section.retention, groups, pairs, digest)


def _compared_groups(
    study: Study, participants: pd.DataFrame
) -> tuple[dict[str, tuple[str, ...]], tuple[tuple[str, str], ...]]:
    """Return the participants of the groups that models compare, and the pairs of groups in one model."""
    groups: dict[str, tuple[str, ...]] = {}
    pairs: list[tuple[str, str]] = []
    for model in study.models:
        names = model.where_groups or ()
        if len(names) < 2:
            continue
        try:
            owner = group_of(study, model, participants)
        except TableError:
            continue  # the model itself is a problem by name
        for name in names:
            groups[name] = tuple(sorted(p for p, group in owner.items() if group == name))
        pairs += [pair for pair in itertools.combinations(names, 2) if pair not in pairs]
    return groups, tuple(pairs)


def _curves(data: dict[str, tuple[list[float], list[float]]], spec: Score) -> dict[str, LearningCurve]:
    people = [p for p, (days, _) in data.items() if len(set(days)) >= FEWEST_DAYS]
    if not people:
        return {}
    longest = max(len(data[p][0]) for p in people)
    days, scores = (np.full((len(people), longest), np.nan) for _ in range(2))
    for row, participant in enumerate(people):
        count = len(data[participant][0])
        days[row, :count], scores[row, :count] = data[participant]
    fitted = fit_learning_curves(
        people, days, scores, larger_is_better=spec.better == "higher", score_range=spec.range or (-np.inf, np.inf)
    )
    return {curve.participant_id: curve for curve in fitted}


def _outliers(people: dict[str, LearningCurve], parameter: str) -> tuple[Exclusion, ...]:
    """Find values beyond three standard deviations among the curves that can be read as learning."""
    sound = [curve for curve in people.values() if not curve.unphysical]
    return (
        find_outliers([c.participant_id for c in sound], [getattr(c, parameter) for c in sound], parameter)
        if sound
        else ()
    )
