"""Changes that are planted in the simulated maps, and the truth file that describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from voxcloud.schema import variable
from voxcloud.testing.cohort import Cohort
from voxcloud.testing.design import MODELS, SCORE, GroupModel, PolynomialTime, expected_test
from voxcloud.testing.fields import REACH
from voxcloud.testing.tissue import DERIVED, MAP_MODELS, axial_radial

PATIENTS = {"sci_arm": 1.0, "sci_leg": 1.0}
ARMS_OVER_LEGS = {"sci_arm": 0.5, "sci_leg": -0.5}
EXPLAINED_T = 0.75
EXPECTED_Z = 4.25


@dataclass(frozen=True)
class PlantedEffect:
    """A change in one region of one or more maps of a tissue.

    Attributes
    ----------
    size
        Amplitude for a multiplier of one, in SDs between participants of the estimated coefficient; signed.
    weights
        Multiplier by group; people of other groups have none.
    people
        Multiplier by participant, instead of ``weights``: a change that one person makes.
    score
        Name of a learning score: the multiplier is the z-scored true improvement of the patients.
    """

    name: str
    maps: tuple[str, ...]
    label: str
    term: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    size: float
    weights: Mapping[str, float] | None = None
    score: str = ""
    people: Mapping[str, float] | None = None

    def multipliers(self, cohort: Cohort) -> dict[str, float]:
        """Return the multiplier of every participant."""
        groups = dict(zip(cohort.participants["participant_id"], cohort.participants["group"], strict=True))
        if self.people is not None:
            return {pid: float(self.people.get(pid, 0.0)) for pid in groups}
        if not self.score:
            weights = self.weights or {}
            return {pid: float(weights.get(group, 0.0)) for pid, group in groups.items()}
        gain = {pid: v for pid, v in cohort.score(self.score).items() if groups[pid] in PATIENTS}
        values = np.array(list(gain.values()))
        sd = float(values.std(ddof=1)) if len(values) > 1 else 1.0
        return {pid: float((gain[pid] - values.mean()) / sd) if pid in gain else 0.0 for pid in groups}

    def relative_amplitude(self, map_name: str, time: PolynomialTime) -> float:
        """Return the amplitude for a multiplier of one, relative to the value of the map."""
        return self.size * MAP_MODELS[map_name].coefficient_sd(self.term, time.unit_variance(self.term))


MODEL_STUDY_EFFECTS: tuple[PlantedEffect, ...] = (
    PlantedEffect(
        "sustained_right_sensorimotor_wm", ("R1map", "MTsat"), "WM", "linear", (28.0, -24.0, 44.0), 11.0, 2.6, PATIENTS
    ),
    PlantedEffect(
        "sustained_right_sensorimotor_gm", ("R1map", "MTsat"), "GM", "linear", (42.0, -24.0, 54.0), 12.0, 2.6, PATIENTS
    ),
    PlantedEffect(
        "transient_left_cerebellum", ("R1map", "MTsat"), "GM", "quadratic", (-26.0, -62.0, -36.0), 12.0, -2.6, PATIENTS
    ),
    PlantedEffect(
        "sustained_left_corticospinal_fa", ("FA",), "WM", "linear", (-24.0, -18.0, 22.0), 11.0, 2.6, PATIENTS
    ),
    PlantedEffect("transient_right_thalamus_md", ("MD",), "GM", "quadratic", (12.0, -20.0, 8.0), 11.0, -2.7, PATIENTS),
    PlantedEffect(
        "transient_right_hippocampus_volume", ("volume",), "GM", "quadratic", (28.0, -22.0, -14.0), 11.0, 2.6, PATIENTS
    ),
    PlantedEffect(
        "arm_trained_left_hand_area", ("MTsat",), "GM", "linear", (-38.0, -24.0, 54.0), 12.0, 4.4, ARMS_OVER_LEGS
    ),
    PlantedEffect(
        "leg_trained_paracentral_volume", ("volume",), "GM", "linear", (6.0, -28.0, 62.0), 12.0, -4.4, ARMS_OVER_LEGS
    ),
    PlantedEffect(
        "learning_left_sensorimotor", ("R1map",), "WM", "linear", (-28.0, -24.0, 42.0), 12.0, 2.2, score=SCORE
    ),
    PlantedEffect(
        "learning_right_cerebellum", ("MTsat",), "GM", "quadratic", (28.0, -62.0, -36.0), 13.0, -2.2, score=SCORE
    ),
    PlantedEffect(
        "baseline_left_sensorimotor_volume", ("volume",), "GM", "intercept", (-38.0, -24.0, 54.0), 12.0, -2.0, PATIENTS
    ),
    PlantedEffect(
        "baseline_right_corticospinal_fa", ("FA",), "WM", "intercept", (24.0, -18.0, 22.0), 11.0, -2.0, PATIENTS
    ),
)
"""The planted changes of the model study. R2starmap holds none."""


def planted_in(effects: Sequence[PlantedEffect], map_name: str, label: str) -> list[PlantedEffect]:
    """Return the effects planted directly in a map of a tissue."""
    return [e for e in effects if map_name in e.maps and e.label == label]


def truth_entries(
    effects: Sequence[PlantedEffect],
    maps: Sequence[str],
    cohort: Cohort,
    fwhm_mm: float,
    models: Sequence[GroupModel] = MODELS,
) -> list[dict[str, object]]:
    """Return one entry per planted effect and map in which it shows, induced ones in AD and RD included."""
    time = PolynomialTime(cohort.reference_days)
    entries = []
    for effect in effects:
        places = [(m, m, 1.0, 1.0) for m in effect.maps]
        places += [
            (d, m, *induced(d, m, effect.label, effect.term, time))
            for m in effect.maps
            if m in ("FA", "MD")
            for d in DERIVED
        ]
        for shown, source, amplitude_gain, size_gain in places:
            if shown in maps:
                relative = effect.relative_amplitude(source, time) * amplitude_gain
                entries.append(
                    _entry(effect, shown, source, relative, effect.size * size_gain, cohort, fwhm_mm, models)
                )
    return entries


def _entry(
    effect: PlantedEffect,
    shown: str,
    source: str,
    relative: float,
    size: float,
    cohort: Cohort,
    fwhm_mm: float,
    models: Sequence[GroupModel],
) -> dict[str, object]:
    multipliers = effect.multipliers(cohort)
    units = variable(shown).units
    return {
        "name": effect.name,
        "map": shown,
        "label": effect.label,
        "effect": f"score {effect.score}_improvement" if effect.score else "group",
        "coefficient": effect.term,
        "sign": "positive" if relative > 0 else "negative",
        "centre_mm": list(effect.centre_mm),
        "radius_mm": effect.radius_mm,
        "reach_mm": effect.radius_mm + REACH * fwhm_mm,
        "amplitude": float(f"{relative * _level(shown, effect.label):.6g}"),
        "relative_amplitude": float(f"{relative:.6g}"),
        "units": coefficient_units(units, effect.term, max(cohort.reference_days)),
        "induced_by": "" if shown == source else source,
        "multipliers": {pid: round(value, 6) for pid, value in multipliers.items() if value},
        "mask": f"truth/{effect.name}.nii.gz",
        "shows_in": shows_in(effect.term, multipliers, size, cohort, models),
    }


def shows_in(
    term: str, multipliers: Mapping[str, float], size: float, cohort: Cohort, models: Sequence[GroupModel]
) -> list[dict[str, object]]:
    """List the searches that an effect enters, with the t that the design lets one expect there.

    Parameters
    ----------
    multipliers
        By participant; a size of one SD of the coefficient is for a multiplier of one.
    """
    table = cohort.participants.copy()
    for score in sorted(set(cohort.learning["score"])):
        table[f"{score}_improvement"] = table["participant_id"].map(cohort.score(score))
    rows: list[dict[str, object]] = []
    coefficient = "value" if term == "intercept" else term
    for model in models:
        if coefficient not in model.coefficients:
            continue
        test = expected_test(model, _who_enters(model, table, cohort), multipliers, size)
        if abs(test.t) < EXPLAINED_T:
            continue
        rows.append(
            {
                "model": model.name,
                "coefficient": coefficient,
                "contrast": model.contrast,
                "direction": "greater" if test.t > 0 else "less",
                "expected_t": round(test.t, 2),
                "expected_z": round(test.z, 2),
                "df": test.df,
                "expected": abs(test.z) >= EXPECTED_Z,
            }
        )
    return rows


def _who_enters(model: GroupModel, table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    visits = cohort.sessions.groupby("participant_id")["nominal_day"].agg(list)
    last, first = max(cohort.reference_days), min(cohort.reference_days)

    def enters(pid: str) -> bool:
        days = visits.get(pid, [])
        return first in days if model.estimator == "ols" else len(days) >= 3 and last in days

    return table[[enters(pid) for pid in table["participant_id"]]]


def _level(map_name: str, label: str) -> float:
    if map_name not in DERIVED:
        return MAP_MODELS[map_name].level(label)
    fa, md = (np.array([MAP_MODELS[m].level(label)], dtype=np.float32) for m in ("FA", "MD"))
    return float(axial_radial(fa, md)[DERIVED.index(map_name)][0])


def induced(derived: str, source: str, label: str, term: str, time: PolynomialTime) -> tuple[float, float]:
    """Return how an effect in FA or MD carries over to AD or RD: relative amplitude, and size in SDs."""
    which = DERIVED.index(derived)
    fa, md = (MAP_MODELS[m].level(label) for m in ("FA", "MD"))
    step = 1e-3

    def log_value(f: float, d: float) -> float:
        k = (1.0 + f * np.sqrt(3.0 - 2.0 * f**2)) / (1.0 - f**2)
        rd = 3.0 * d / (k + 2.0)
        return float(np.log((k * rd, rd)[which]))

    gains = {"FA": (log_value(fa * (1 + step), md) - log_value(fa * (1 - step), md)) / (2 * step), "MD": 1.0}
    sds = {m: MAP_MODELS[m].coefficient_sd(term, time.unit_variance(term)) for m in gains}
    total = float(np.sqrt(sum((gains[m] * sds[m]) ** 2 for m in gains)))
    return gains[source], gains[source] * sds[source] / total


def coefficient_units(units: str, term: str, scale_days: float) -> str:
    """Return the units of a coefficient of the time basis of a map with these units."""
    per = {"intercept": "", "linear": f" per {scale_days:g} days", "quadratic": f" per ({scale_days:g} days)^2"}
    return f"{units}{per[term]}"
