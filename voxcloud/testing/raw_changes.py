"""Changes that are planted in the people of the simulated raw study, and what the truth file says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from voxcloud.errors import PlanError, nearest
from voxcloud.schema import variable
from voxcloud.testing.cohort import Cohort
from voxcloud.testing.design import GroupModel, PolynomialTime
from voxcloud.testing.effects import PATIENTS, coefficient_units, induced, shows_in
from voxcloud.testing.raw_diffusion import DIFFUSION_PARAMETERS
from voxcloud.testing.raw_growth import EDGE_FWHM, Growth
from voxcloud.testing.raw_head import VisitChange
from voxcloud.testing.raw_people import QUADRATIC_OVER_LINEAR, SLOPE_SD, TERMS
from voxcloud.testing.raw_tissue import PARAMETERS
from voxcloud.testing.tissue import DERIVED, MAP_MODELS

VOLUME = "volume"
CHANGING = (*PARAMETERS, *DIFFUSION_PARAMETERS, VOLUME)
LARGEST = 0.5
SCAN_SD: Mapping[str, float] = {
    "R1map": 0.011,
    "PDmap": 0.01,
    "R2starmap": 0.009,
    "MTsat": 0.015,
    "FA": 0.019,
    "MD": 0.005,
    VOLUME: 0.010,
}
"""Relative SD of one scan about a person's course, median over voxels of maps at 4 mm that were brought into the
template by their true displacement and smoothed with 3 to 5 mm; that of PD and of volume is assumed. What a design lets
one expect is said with these."""


@dataclass(frozen=True)
class RawChange:
    """A true change in a soft ball of the template, carried into each person by their warp.

    Attributes
    ----------
    map
        R1map, PDmap, R2starmap, MTsat, FA or MD: the parameter of GM and WM within the ball; or volume: the ball grows.
    label
        GM or WM: the tissue that is most of the ball, in whose maps the change should show. It is in both.
    term
        linear or quadratic.
    excursion
        Largest relative change since day 0 on the reference days, signed, for a multiplier of one: that of the last day
        for linear; for quadratic, which comes and goes, that of the day furthest from day 0.
    weights
        Multiplier by group; None is 1 for everybody.
    fwhm_mm
        Blur of the ball's edge.
    """

    name: str
    map: str
    label: str
    term: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    excursion: float
    weights: Mapping[str, float] | None = None
    fwhm_mm: float = 6.0

    def coefficient(self, time: PolynomialTime) -> float:
        """Return the relative change per unit of the term: that which the time basis of a two-stage model estimates."""
        course = time.course(self.term, np.asarray(time.reference_days))
        return self.excursion / float(course[int(np.argmax(np.abs(course)))])

    def amount(self, time: PolynomialTime, day: float) -> float:
        """Return the relative change on a day for a multiplier of one."""
        return self.coefficient(time) * float(time.course(self.term, np.array([day]))[0])

    def multipliers(self, cohort: Cohort) -> dict[str, float]:
        """Return the multiplier of every participant."""
        people = cohort.participants
        groups = zip(people["participant_id"], people["group"], strict=True)
        return {pid: 1.0 if self.weights is None else float(self.weights.get(group, 0.0)) for pid, group in groups}

    def visit_change(self, amount: float) -> VisitChange:
        """Return a change of a parameter that has come to this amount."""
        return VisitChange(self.map, self.centre_mm, self.radius_mm, self.fwhm_mm, amount)

    def growth(self, amount: float) -> Growth:
        """Return a growth that has come to this amount: volumes in the middle of the ball are 1 + amount as large."""
        return Growth(self.centre_mm, self.radius_mm, self.fwhm_mm, float(np.log1p(amount)))


STUDY_CHANGES: tuple[RawChange, ...] = (
    RawChange("r1_right_corona_radiata", "R1map", "WM", "linear", (26.0, -22.0, 30.0), 12.0, 0.08, PATIENTS),
    RawChange("r1_left_cerebellum", "R1map", "GM", "quadratic", (-28.0, -62.0, -36.0), 13.0, 0.08, PATIENTS),
    RawChange("mtsat_right_cerebellum", "MTsat", "GM", "linear", (28.0, -62.0, -36.0), 13.0, -0.12, PATIENTS),
    RawChange("mtsat_left_frontal", "MTsat", "WM", "quadratic", (-24.0, 30.0, 14.0), 12.0, 0.12, PATIENTS),
    RawChange("fa_left_corona_radiata", "FA", "WM", "linear", (-26.0, -22.0, 30.0), 12.0, 0.15, PATIENTS),
    RawChange("fa_right_frontal", "FA", "WM", "quadratic", (24.0, 30.0, 14.0), 12.0, -0.15, PATIENTS),
    RawChange("volume_right_insula", VOLUME, "GM", "linear", (38.0, 0.0, 0.0), 13.0, 0.07, PATIENTS),
    RawChange("volume_left_temporal", VOLUME, "GM", "quadratic", (-50.0, -28.0, -4.0), 13.0, -0.08, PATIENTS),
)
"""The planted changes of the simulated raw study; R2starmap and MD hold none."""


def check_changes(changes: Sequence[RawChange]) -> None:
    """Refuse changes that cannot be.

    Raises
    ------
    PlanError
        With what was expected and found.
    """
    for change in changes:
        for key, value, known in (
            ("map", change.map, CHANGING),
            ("label", change.label, ("GM", "WM")),
            ("term", change.term, TERMS),
        ):
            if value not in known:
                raise PlanError(
                    f"simulation: {key} of change {change.name} is expected to be one of {', '.join(known)}, found "
                    f"{value}.{nearest(value, known)}"
                )
        if not abs(change.excursion) <= LARGEST:
            raise PlanError(
                f"simulation: excursion of change {change.name} is expected to be -{LARGEST:g} to {LARGEST:g}, found "
                f"{change.excursion:g}. 0.05 is 5 %."
            )
    names = [change.name for change in changes]
    if len(set(names)) < len(names):
        raise PlanError(f"simulation: names of changes are expected to differ, found {', '.join(names)}.")
    growing = [change for change in changes if change.map == VOLUME]
    for one, other in combinations(growing, 2):
        apart = float(np.linalg.norm(np.subtract(one.centre_mm, other.centre_mm)))
        needed = sum(change.radius_mm + EDGE_FWHM / 2.0 * change.fwhm_mm for change in (one, other))
        if apart < needed:
            raise PlanError(
                f"simulation: volume changes are expected to lie apart, so that each is known, found {one.name} and "
                f"{other.name} {apart:.0f} mm apart. Place them at least {needed:.0f} mm from one another."
            )


def planted_entries(
    changes: Sequence[RawChange],
    maps: Sequence[str],
    cohort: Cohort,
    tiv: Mapping[str, float],
    smooth_mm: float,
    models: Sequence[GroupModel],
) -> list[dict[str, object]]:
    """Return one entry per change, map in which it shows, and tissue, as the truth of the simulated maps has them.

    A change is in all tissue of its ball; in the maps of the other tissue than its label's it is not said to be
    expected, as few of their voxels are there.

    Parameters
    ----------
    maps
        Of the study file; FA carries over to AD and RD.
    tiv
        True TIV by participant, ml.
    smooth_mm
        How far outside its ball a change still shows once the maps are smoothed.
    models
        Those of the study file.
    """
    time = PolynomialTime(cohort.reference_days)
    known = Cohort(
        cohort.participants.assign(tiv=cohort.participants["participant_id"].map(dict(tiv))),
        cohort.sessions,
        cohort.learning,
        cohort.behaviour,
        cohort.without_diffusion,
        cohort.reference_days,
    )
    entries: list[dict[str, object]] = []
    for change in changes:
        relative, multipliers = change.coefficient(time), change.multipliers(cohort)
        size = relative / coefficient_sd(change.map, change.term, time)
        for label in ("GM", "WM"):
            shown = [(change.map, 1.0, 1.0)]
            if change.map in ("FA", "MD"):
                shown += [(d, *induced(d, change.map, label, change.term, time)) for d in DERIVED]
            for name, gain, size_gain in shown:
                if name not in maps:
                    continue
                rows = shows_in(change.term, multipliers, size * size_gain, known, models)
                for row in rows:
                    row["expected"] = bool(row["expected"]) and label == change.label
                value = relative * gain
                entries.append(
                    {
                        "name": change.name,
                        "map": name,
                        "label": label,
                        "effect": "group",
                        "coefficient": change.term,
                        "sign": "positive" if value > 0 else "negative",
                        "centre_mm": list(change.centre_mm),
                        "radius_mm": change.radius_mm,
                        "reach_mm": change.radius_mm + smooth_mm,
                        "amplitude": float(f"{value * _level(name, label):.6g}"),
                        "relative_amplitude": float(f"{value:.6g}"),
                        "units": coefficient_units(variable(name).units, change.term, max(cohort.reference_days)),
                        "induced_by": "" if name == change.map else change.map,
                        "excursion": change.excursion * gain,
                        "fwhm_mm": change.fwhm_mm,
                        "main_label": change.label,
                        "multipliers": {pid: value for pid, value in multipliers.items() if value},
                        "mask": f"truth/{change.name}.nii.gz",
                        "shows_in": rows,
                    }
                )
    return entries


def coefficient_sd(name: str, term: str, time: PolynomialTime) -> float:
    """Return the relative SD between people of an estimated coefficient: their slopes, and the noise of a scan."""
    slope = SLOPE_SD[name] * (QUADRATIC_OVER_LINEAR if term == "quadratic" else 1.0)
    return float(np.sqrt(slope**2 + SCAN_SD[name] ** 2 * time.unit_variance(term)))


def _level(name: str, label: str) -> float:
    if name in MAP_MODELS:
        return MAP_MODELS[name].level(label)
    return MAP_MODELS["MD"].level(label)  # AD and RD: of the order of MD
