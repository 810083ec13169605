"""Sessions that stand out: from published values, from the cohort, from the same person's other visits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxcloud.report.qc_ranges import published_range
from voxcloud.report.words import MAP_NAMES, number

Quality = Mapping[str, Any]

# From so many sessions on the cohort itself says what is usual; of fewer the spread is anybody's guess.
FEWEST_SESSIONS = 8
# Robust z (median and 1.4826 MAD) beyond which a session is named; about one normal session in 2,000.
LARGEST_Z = 3.5
# A healthy person's medians differ by about this from visit to visit at one scanner.
LARGEST_CHANGE = {"R1map": 0.03, "MTsat": 0.05, "R2starmap": 0.08}
MAD_TO_SD = 1.4826
# Where all sessions are alike, differences below this part of the median are none.
LEAST_SPREAD = 0.005


@dataclass(frozen=True)
class Measure:
    """A number of a session that is compared.

    Attributes
    ----------
    key
        Column of the table.
    title, units
        For people.
    value
        Returns it, or None.
    """

    key: str
    title: str
    units: str
    value: Callable[[Quality], float | None]


@dataclass(frozen=True)
class Outlier:
    """A session that stands out in one measure."""

    who: str
    measure: str
    value: float
    units: str
    reference: str
    reason: str


def who_of(qc: Quality) -> str:
    """Return ``sub-01_ses-2``."""
    session = f"_ses-{qc['session_id']}" if qc["session_id"] else ""
    return f"sub-{qc['participant_id']}{session}"


def _median(name: str, tissue: str) -> Callable[[Quality], float | None]:
    return lambda qc: qc["maps"].get(name, {}).get(tissue, {}).get("median")


def _motion(contrast: str) -> Callable[[Quality], float | None]:
    return lambda qc: qc["motion_degradation"].get(contrast)


def _displacement(qc: Quality) -> float | None:
    found = [r["displacement_mm"] for r in qc["registration"] if r.get("displacement_mm") is not None]
    return max(found) if found else None


def _b1(key: str) -> Callable[[Quality], float | None]:
    def value(qc: Quality) -> float | None:
        found = (qc["b1"] or {}).get(key)
        return None if found is None else 100.0 * float(found)

    return value


MEASURES: tuple[Measure, ...] = (
    *(
        Measure(f"{name}_{tissue}", f"{MAP_NAMES[name]} in {tissue}, median", units, _median(name, tissue))
        for name, units in (("R1map", "1/s"), ("MTsat", "p.u."), ("R2starmap", "1/s"))
        for tissue in ("WM", "GM")
    ),
    *(
        Measure(f"motion_{contrast}", f"Motion degradation of {contrast}", "1/s", _motion(contrast))
        for contrast in ("PDw", "T1w", "MTw")
    ),
    Measure("displacement", "Largest movement between acquisitions", "mm", _displacement),
    Measure("b1_median", "B1+ in the brain, median", "percent", _b1("median")),
    Measure("b1_p01", "B1+ in the brain, 1st percentile", "percent", _b1("p01")),
    Measure("b1_missing", "Brain without B1+", "percent", _b1("missing_share")),
)
# Of these only a large value is bad.
ONE_SIDED = ("motion_PDw", "motion_T1w", "motion_MTw", "displacement", "b1_missing")


def find_outliers(qcs: Sequence[Quality]) -> list[Outlier]:
    """Return what stands out, a session at a time; the same measure may be named for several reasons."""
    found = [*_beyond_published(qcs), *_beyond_cohort(qcs), *_between_visits(qcs)]
    return sorted(found, key=lambda o: (o.who, o.measure))


def _beyond_published(qcs: Sequence[Quality]) -> list[Outlier]:
    found = []
    for qc in qcs:
        for name, numbers in qc["maps"].items():
            for tissue in ("WM", "GM"):
                expected, median = published_range(qc, name, tissue), numbers.get(tissue, {}).get("median")
                if expected is None or median is None or expected.low <= median <= expected.high:
                    continue
                found.append(
                    Outlier(
                        who_of(qc),
                        f"{MAP_NAMES[name]} in {tissue}, median",
                        median,
                        numbers["units"],
                        f"{number(expected.low)} to {number(expected.high)}",
                        f"outside what is published for healthy adults at 3 T ({expected.source})",
                    )
                )
    return found


def _beyond_cohort(qcs: Sequence[Quality]) -> list[Outlier]:
    found = []
    for measure in MEASURES:
        known = [(qc, value) for qc in qcs if (value := measure.value(qc)) is not None]
        if len(known) < FEWEST_SESSIONS:
            continue
        values = np.array([value for _, value in known])
        middle = float(np.median(values))
        spread = max(MAD_TO_SD * float(np.median(np.abs(values - middle))), LEAST_SPREAD * abs(middle), 1e-12)
        for qc, value in known:
            z = (value - middle) / spread
            if z > LARGEST_Z or (z < -LARGEST_Z and measure.key not in ONE_SIDED):
                found.append(
                    Outlier(
                        who_of(qc),
                        measure.title,
                        value,
                        measure.units,
                        f"median of the sessions {number(middle)}",
                        f"{abs(z):.1f} robust SD {'above' if z > 0 else 'below'} the other sessions",
                    )
                )
    return found


def _between_visits(qcs: Sequence[Quality]) -> list[Outlier]:
    """Name sessions whose white matter differs from the same person's other visits by more than people change."""
    people: dict[str, list[Quality]] = {}
    for qc in qcs:
        people.setdefault(str(qc["participant_id"]), []).append(qc)
    found = []
    for own in people.values():
        for name, most in LARGEST_CHANGE.items():
            known = [(qc, value) for qc in own if (value := _median(name, "WM")(qc)) is not None]
            if len(known) < 2:
                continue
            for qc, value in known:
                others = float(np.median([v for other, v in known if other is not qc]))
                change = value / others - 1.0 if others else 0.0
                # Of two visits nobody can say which is wrong: the later one is named.
                if abs(change) > most and (len(known) > 2 or qc is known[-1][0]):
                    found.append(
                        Outlier(
                            who_of(qc),
                            f"{MAP_NAMES[name]} in WM, median",
                            value,
                            qc["maps"][name]["units"],
                            f"other visits {number(others)}",
                            f"{100 * abs(change):.1f} % {'above' if change > 0 else 'below'} this person's other "
                            f"visits; up to {100 * most:.0f} % is usual",
                        )
                    )
    return found
