"""Sessions that stand out: from published values, from the cohort, from the same person's other visits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from voxcloud.report.qc_ranges import published_range
from voxcloud.report.words import MAP_NAMES, number

Quality = Mapping[str, Any]

# From so many sessions on the cohort itself says what is usual; of fewer the spread is anybody's guess.
FEWEST_SESSIONS = 8
# Robust z (median and 1.4826 MAD) beyond which a session is named: of a large normal sample one in 2,100.
LARGEST_Z = 3.5
# A person's white matter differs by no more than this from the same person's other visits at one scanner. In the table
# of means of Cooper et al. 2020 (doi:10.3389/fnins.2020.611194; six people scanned three times) the largest
# differences are 4.7 % (R1), 3.0 % (MTsat) and 1.2 % (R2*).
LARGEST_CHANGE = {"R1map": 0.05, "MTsat": 0.05, "R2starmap": 0.05}
MAD_TO_SD = 1.4826
# Where all sessions are alike, differences below this part of the median are none.
LEAST_SPREAD = 0.005
FAR_Z = 20.0  # beyond, the number says no more than that


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
    bad
        The side that is bad: high, low or either.
    least_spread
        Smallest robust SD, in its units: of measures that are zero in most sessions.
    most
        Above this a session is named whatever the others are; None for no such value.
    """

    key: str
    title: str
    units: str
    value: Callable[[Quality], float | None]
    bad: Literal["high", "low", "either"] = "either"
    least_spread: float = 0.0
    most: float | None = None


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
    return lambda qc: _percent((qc["b1"] or {}).get(key))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * float(share)


def _missing(qc: Quality) -> float | None:
    found = [m["WM"]["missing"] for m in qc["maps"].values() if m["WM"].get("missing") is not None]
    return _percent(max(found, default=None))


def _cut_off(qc: Quality) -> float | None:
    return _percent(max((s["saturated_share"] for s in qc["signal"].values()), default=None))


MEASURES: tuple[Measure, ...] = (
    *(
        Measure(f"{name}_{tissue}", f"{MAP_NAMES[name]} in {tissue}, median", units, _median(name, tissue))
        for name, units in (("R1map", "1/s"), ("MTsat", "p.u."), ("R2starmap", "1/s"))
        for tissue in ("WM", "GM")
    ),
    *(
        Measure(f"motion_{contrast}", f"Motion degradation of {contrast}", "1/s", _motion(contrast), "high")
        for contrast in ("PDw", "T1w", "MTw")
    ),
    Measure(
        "displacement", "Largest movement between acquisitions", "mm", _displacement, "high", least_spread=0.1, most=5.0
    ),
    Measure("snr_R1", "R1 over its error in WM, median", "1", lambda qc: qc["maps"]["R1map"].get("snr_WM"), "low"),
    Measure("b1_median", "B1+ in the brain, median", "percent", _b1("median")),
    Measure("b1_p01", "B1+ in the brain, 1st percentile", "percent", _b1("p01")),
    Measure("b1_p99", "B1+ in the brain, 99th percentile", "percent", _b1("p99")),
    Measure("b1_missing", "Brain without B1+", "percent", _b1("missing_share"), "high", least_spread=0.2, most=5.0),
    Measure("missing_WM", "White matter without a map", "percent", _missing, "high", least_spread=0.1, most=2.0),
    Measure("cut_off", "Signals cut off in the head", "percent", _cut_off, "high", least_spread=0.005),
)


def find_outliers(qcs: Sequence[Quality]) -> list[Outlier]:
    """Return what stands out, a session at a time; the same measure may be named for several reasons."""
    found = [*_beyond_published(qcs), *_too_large(qcs), *_beyond_cohort(qcs), *_between_visits(qcs)]
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


def _too_large(qcs: Sequence[Quality]) -> list[Outlier]:
    found = []
    for measure in MEASURES:
        for qc in qcs:
            value = measure.value(qc)
            if measure.most is not None and value is not None and value > measure.most:
                reference = f"up to {measure.most:g}"
                reason = "more than is good for maps, whatever the other sessions are"
                found.append(Outlier(who_of(qc), measure.title, value, measure.units, reference, reason))
    return found


def _beyond_cohort(qcs: Sequence[Quality]) -> list[Outlier]:
    found = []
    for measure in MEASURES:
        known = [(qc, value) for qc in qcs if (value := measure.value(qc)) is not None]
        if len(known) < FEWEST_SESSIONS:
            continue
        values = np.array([value for _, value in known])
        middle = float(np.median(values))
        spread = MAD_TO_SD * float(np.median(np.abs(values - middle)))
        spread = max(spread, LEAST_SPREAD * abs(middle), measure.least_spread, 1e-12)
        for qc, value in known:
            z = (value - middle) / spread
            side = "high" if z > 0 else "low"
            if abs(z) > LARGEST_Z and measure.bad in (side, "either"):
                far = f"{abs(z):.1f}" if abs(z) < FAR_Z else f"over {FAR_Z:.0f}"
                found.append(
                    Outlier(
                        who_of(qc),
                        measure.title,
                        value,
                        measure.units,
                        f"median of the sessions {number(middle)}",
                        f"{far} robust SD {'above' if z > 0 else 'below'} the other sessions",
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
