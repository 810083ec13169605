"""People, visits and learning data of the simulated studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from voxcloud.testing.fields import generator

REFERENCE_DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
GROUP_SIZES = {"sci_arm": 9, "sci_leg": 8, "con_arm": 9, "con_leg": 9, "con_none": 14}
UNTRAINED = ("con_none",)
TRAINING_DAYS = tuple(float(7 * week + day) for week in range(4) for day in (1, 3, 5, 6))

MISSING_VISITS: dict[tuple[str, int], tuple[float, ...]] = {
    ("sci_arm", 3): (84.0,),
    ("sci_leg", 5): (14.0,),
    ("sci_leg", 2): (7.0,),
    ("con_arm", 2): (28.0,),
    ("con_leg", 6): (0.0,),
    ("con_none", 4): (7.0, 14.0, 84.0),
    ("con_none", 9): (84.0,),
    ("con_none", 11): (7.0,),
}
"""Visits that never took place: (group, number within the group) -> nominal days.

Three people lack day 84; one of them came only twice."""

MISSING_DIFFUSION: tuple[tuple[str, int, float], ...] = (("sci_arm", 7, 84.0), ("con_leg", 1, 28.0))
"""Visits at which only the diffusion scan is missing."""


@dataclass(frozen=True)
class LearningScore:
    """Learning curve y = alpha - delta exp(-gamma day) of one score: means and SDs between people, and noise."""

    alpha: tuple[float, float]
    delta: tuple[float, float]
    gamma: tuple[float, float]
    noise: float
    limits: tuple[float, float]
    better: str


SCORES = {
    "percent_correct": LearningScore((82.0, 5.0), (42.0, 9.0), (0.12, 0.03), 2.5, (0.0, 100.0), "higher"),
    "response_time": LearningScore((34.0, 4.0), (-26.0, 6.0), (0.10, 0.03), 1.5, (0.0, 200.0), "lower"),
}
"""percent_correct: responses within 90 ms of the cue, %; response_time: mean absolute deviation from the cue, ms."""


@dataclass(frozen=True)
class Cohort:
    """Tables of a simulated cohort; identifiers are bare ("01", "day00").

    Attributes
    ----------
    participants
        participant_id, group, age (years), sex, tiv (ml).
    sessions
        participant_id, session_id, day (actual), nominal_day; one row per visit that took place.
    learning
        True curve parameters: participant_id, score, alpha, delta, gamma, improvement (larger is better).
    behaviour
        participant_id, day and one column per score, trained people only.
    without_diffusion
        (participant_id, session_id) of visits without diffusion maps.
    reference_days
        Days of the complete design.
    """

    participants: pd.DataFrame
    sessions: pd.DataFrame
    learning: pd.DataFrame
    behaviour: pd.DataFrame
    without_diffusion: frozenset[tuple[str, str]]
    reference_days: tuple[float, ...]

    def score(self, name: str, parameter: str = "improvement") -> dict[str, float]:
        """Return a true learning parameter by participant."""
        rows = self.learning[self.learning["score"] == name]
        return dict(zip(rows["participant_id"], rows[parameter].astype(float), strict=True))


def make_cohort(
    *,
    seed: int = 0,
    group_sizes: Mapping[str, int] | None = None,
    reference_days: Sequence[float] = REFERENCE_DAYS,
    missing_visits: Mapping[tuple[str, int], Sequence[float]] | None = None,
    missing_diffusion: Sequence[tuple[str, int, float]] = (),
    jitter_days: bool = True,
) -> Cohort:
    """Draw a cohort.

    Parameters
    ----------
    seed
        Seed of every draw.
    group_sizes
        People per group; default: the 49 of the model study.
    reference_days
        Planned days of the visits.
    missing_visits
        (group, number within the group from 1) -> planned days without a visit.
    missing_diffusion
        (group, number, planned day) of visits without diffusion maps.
    jitter_days
        Actual days differ from planned ones by a day (by up to three after day 28); the first visit is always day 0.
    """
    sizes = dict(GROUP_SIZES if group_sizes is None else group_sizes)
    members = [(group, number) for group, n in sizes.items() for number in range(1, n + 1)]
    order = generator(seed, "order").permutation(len(members))
    width = max(2, len(str(len(members))))
    ids = {members[int(k)]: str(place + 1).zfill(width) for place, k in enumerate(order)}
    rng = generator(seed, "participants")
    rows = []
    for member in members:
        rows.append(
            {
                "participant_id": ids[member],
                "group": member[0],
                "age": round(float(np.clip(rng.normal(46.0, 11.0), 20.0, 70.0)), 1),
                "sex": "M",
                "tiv": round(float(rng.normal(1520.0, 110.0)), 1),
            }
        )
    participants = pd.DataFrame(rows).sort_values("participant_id", ignore_index=True)
    gone = {ids[member]: tuple(days) for member, days in (missing_visits or {}).items() if member in ids}
    sessions = _visits(seed, participants, tuple(reference_days), gone, jitter_days)
    absent = frozenset(
        (ids[(group, number)], session_label(day)) for group, number, day in missing_diffusion if (group, number) in ids
    )
    learning, behaviour = _learning(seed, participants)
    return Cohort(participants, sessions, learning, behaviour, absent, tuple(float(d) for d in reference_days))


def session_label(nominal_day: float) -> str:
    """Return the session label of a planned day, e.g. ``day07``."""
    return f"day{int(nominal_day):02d}"


def _visits(
    seed: int, participants: pd.DataFrame, days: tuple[float, ...], gone: Mapping[str, tuple[float, ...]], jitter: bool
) -> pd.DataFrame:
    rows = []
    for pid in participants["participant_id"]:
        rng = generator(seed, "visits", pid)
        for day in days:
            shift = float(rng.integers(-3, 4) if day > 28 else rng.integers(-1, 2))
            if day in gone.get(pid, ()):
                continue
            actual = day + shift if jitter and day != days[0] else day
            rows.append({"participant_id": pid, "session_id": session_label(day), "day": actual, "nominal_day": day})
    return pd.DataFrame(rows)


def _learning(seed: int, participants: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    days = np.array(sorted({0.0, *TRAINING_DAYS, 28.0, 84.0}))
    truth, tables = [], []
    trained = participants[~participants["group"].isin(UNTRAINED)]
    for pid in trained["participant_id"]:
        table = {"participant_id": [pid] * len(days), "day": days}
        for name, spec in SCORES.items():
            rng = generator(seed, "learning", pid, name)
            alpha, delta, gamma = (
                mean + sd * float(rng.standard_normal()) for mean, sd in (spec.alpha, spec.delta, spec.gamma)
            )
            gamma = max(gamma, 0.04)
            curve = alpha - delta * np.exp(-gamma * days)
            table[name] = np.round(np.clip(curve + spec.noise * rng.standard_normal(len(days)), *spec.limits), 2)
            improvement = delta if spec.better == "higher" else -delta
            truth.append(
                {
                    "participant_id": pid,
                    "score": name,
                    "alpha": alpha,
                    "delta": delta,
                    "gamma": gamma,
                    "improvement": improvement,
                }
            )
        tables.append(pd.DataFrame(table))
    columns = ["participant_id", "score", "alpha", "delta", "gamma", "improvement"]
    behaviour = (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["participant_id", "day", *SCORES])
    )
    return pd.DataFrame(truth, columns=columns), behaviour
