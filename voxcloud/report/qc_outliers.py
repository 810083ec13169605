"""Sessions that stand out: from the same person's other visits, from the cohort, from published values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from voxcloud.report.qc_ranges import LARGEST_CHANGE, published_range
from voxcloud.report.words import MAP_NAMES, MINUS, number

Quality = Mapping[str, Any]
Kind = Literal["visits", "limit", "cohort", "published"]

# From so many sessions on the cohort itself says what is usual; of fewer the spread is anybody's guess.
FEWEST_SESSIONS = 10
# Robust z (median and 1.4826 MAD) beyond which a session is named: 3.5 (Iglewicz and Hoaglin 1993) from 50 sessions
# on, where a normal session has a chance of .0022 per measure, .0007 at 245; with fewer sessions the MAD itself is
# uncertain (.016 at 10), so that 5 is asked for: .0039 at 10 sessions, .0008 at 20 (simulated).
LARGEST_Z, LARGEST_Z_OF_FEW, FEW = 3.5, 5.0, 50
MAD_TO_SD = 1.4826
FAR_Z = 20.0  # beyond, the number says no more than that
# Changes between visits below this are never named, however alike the cohort's visits are.
LEAST_CHANGE = 0.02


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
        Smallest robust SD that is believed, in its units: differences of that size mean nothing.
    skewed
        Whether it is positive with a long tail to large values, so that logarithms are compared.
    most
        Above this a session is named whatever the others are; None for no such value.
    map, tissue
        What it is the median of; empty for other measures.
    largest_change
        Relative difference between two visits of a person from which a visit is named; None if visits are not compared.
    counted
        What has one value each, in words.
    """

    key: str
    title: str
    units: str
    value: Callable[[Quality], float | None]
    bad: Literal["high", "low", "either"] = "either"
    least_spread: float = 0.0
    skewed: bool = False
    most: float | None = None
    map: str = ""
    tissue: str = ""
    largest_change: float | None = None
    counted: str = "sessions"


@dataclass(frozen=True)
class Outlier:
    """A session that stands out in one measure.

    Attributes
    ----------
    who
        ``sub-01_ses-2``.
    measure, value, units
        What was found.
    reference
        What it is compared with, with numbers.
    reason
        How far it is away, in words.
    kind
        Compared with the person's other visits, a fixed limit, the other sessions, or published values.
    strength
        How far beyond the limit: 1 at the limit.
    """

    who: str
    measure: str
    value: float
    units: str
    reference: str
    reason: str
    kind: Kind = "cohort"
    strength: float = 1.0


def who_of(qc: Quality) -> str:
    """Return ``sub-01_ses-2``."""
    session = f"_ses-{qc['session_id']}" if qc["session_id"] else ""
    return f"sub-{qc['participant_id']}{session}"


def visit_of(qc: Quality) -> str:
    """Return ``ses-2``."""
    return f"ses-{qc['session_id']}" if qc["session_id"] else f"sub-{qc['participant_id']}"


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


def _missing(qc: Quality) -> float | None:
    """Return the largest share (percent) of white matter in which a map has no value."""
    known = [100.0 * float(m["WM"]["missing"]) for m in qc["maps"].values() if m["WM"].get("missing") is not None]
    return max(known) if known else None


def _cut_off(qc: Quality) -> float | None:
    shares = [100.0 * float(s["saturated_share"]) for s in qc["signal"].values()]
    return max(shares) if shares else None


def _snr(qc: Quality) -> float | None:
    found = qc["maps"].get("R1map", {}).get("snr_WM")
    return None if found is None else float(found)


_TISSUES = {"WM": "white matter", "GM": "grey matter"}
# The least spread is what two scans of a person differ by, a part of a voxel, or a share that nobody would look at.
MEASURES: tuple[Measure, ...] = (
    *(
        Measure(
            f"{name}_{tissue}",
            f"{MAP_NAMES[name]} in {_TISSUES[tissue]}, median",
            units,
            _median(name, tissue),
            least_spread=least,
            map=name,
            tissue=tissue,
            largest_change=LARGEST_CHANGE[name],
        )
        for name, units, least in (("R1map", "1/s", 0.005), ("MTsat", "p.u.", 0.01), ("R2starmap", "1/s", 0.1))
        for tissue in _TISSUES
    ),
    *(
        Measure(f"motion_{name}", f"Motion degradation of {name}", "1/s", _motion(name), "high", 0.1, skewed=True)
        for name in ("PDw", "T1w", "MTw")
    ),
    Measure("displacement", "Largest movement between scans", "mm", _displacement, "high", 0.1, skewed=True, most=5.0),
    Measure("snr_R1", "R1 over its error in white matter", "1", _snr, "low", least_spread=0.5),
    Measure("b1_median", "B1+ in the brain, median", "percent", _b1("median"), least_spread=0.5),
    Measure("b1_p01", "B1+ in the brain, 1st percentile", "percent", _b1("p01"), least_spread=1.0),
    Measure("b1_p99", "B1+ in the brain, 99th percentile", "percent", _b1("p99"), least_spread=1.0),
    Measure("b1_missing", "Brain without B1+", "percent", _b1("missing_share"), "high", least_spread=0.2, most=5.0),
    Measure("missing_WM", "White matter without a value", "percent", _missing, "high", least_spread=0.1, most=2.0),
    Measure("cut_off", "Head's signal cut off at the largest value", "percent", _cut_off, "high", least_spread=0.005),
)


def find_outliers(qcs: Sequence[Quality], measures: Sequence[Measure] = MEASURES) -> list[Outlier]:
    """Return what stands out, by session; the same measure may be named for several reasons.

    A median is compared with the same person's other visits (most sensitive: a person changes by less than people
    differ), every measure with the cohort (median and MAD, from 10 sessions on), and medians at 3 T with what is
    published (least sensitive). Being named says that somebody should look, not that anything is wrong.
    """
    cohort = _beyond_cohort(qcs, measures)
    told = {(o.who, o.measure) for o in cohort}
    limit = [o for o in _too_large(qcs, measures) if (o.who, o.measure) not in told]
    found = [*_between_visits(qcs, measures), *limit, *cohort, *_beyond_published(qcs, measures)]
    return sorted(found, key=lambda o: (o.who, o.kind, o.measure))


def by_session(outliers: Iterable[Outlier]) -> list[tuple[str, list[Outlier]]]:
    """Return outliers gathered by session, the session that is furthest out first, and its furthest measure first."""
    gathered: dict[str, list[Outlier]] = {}
    for outlier in outliers:
        gathered.setdefault(outlier.who, []).append(outlier)
    for own in gathered.values():
        own.sort(key=lambda o: -o.strength)
    return sorted(gathered.items(), key=lambda item: (-item[1][0].strength, item[0]))


def _beyond_published(qcs: Sequence[Quality], measures: Sequence[Measure]) -> list[Outlier]:
    found = []
    for measure in measures:
        for qc in qcs:
            expected, median = published_range(qc, measure.map, measure.tissue), measure.value(qc)
            if expected is None or median is None or expected.low <= median <= expected.high:
                continue
            away = median / expected.high if median > expected.high else expected.low / max(median, 1e-9)
            note = f"; {expected.note}" if expected.note else ""
            found.append(
                Outlier(
                    who_of(qc),
                    measure.title,
                    median,
                    measure.units,
                    f"{number(expected.low)} to {number(expected.high)}",
                    f"outside what is published for healthy adults at 3 T ({expected.source}){note}",
                    "published",
                    away,
                )
            )
    return found


def _too_large(qcs: Sequence[Quality], measures: Sequence[Measure]) -> list[Outlier]:
    found = []
    for measure in measures:
        for qc in qcs:
            value = measure.value(qc)
            if measure.most is not None and value is not None and value > measure.most:
                reference = f"up to {measure.most:g}"
                reason = "more than is good for maps, whatever the other sessions are"
                found.append(
                    Outlier(
                        who_of(qc),
                        measure.title,
                        value,
                        measure.units,
                        reference,
                        reason,
                        "limit",
                        value / measure.most,
                    )
                )
    return found


def largest_z(n: int) -> float:
    """Return the robust z beyond which one of n sessions is named."""
    return LARGEST_Z if n >= FEW else LARGEST_Z_OF_FEW


def _beyond_cohort(qcs: Sequence[Quality], measures: Sequence[Measure]) -> list[Outlier]:
    found = []
    for measure in measures:
        known = [(qc, value) for qc in qcs if (value := measure.value(qc)) is not None]
        if len(known) < FEWEST_SESSIONS:
            continue
        limit = largest_z(len(known))
        scale = _Scale.of(measure, [value for _, value in known])
        usual = scale.usual(measure, limit)
        for qc, value in known:
            z = scale.z(value)
            if abs(z) <= limit or measure.bad not in ("high" if z > 0 else "low", "either"):
                continue
            far = f"{abs(z):.1f}" if abs(z) < FAR_Z else f"over {FAR_Z:.0f}"
            found.append(
                Outlier(
                    who_of(qc),
                    measure.title,
                    value,
                    measure.units,
                    f"median of {len(known)} {measure.counted} {number(scale.back(scale.middle))}, usual {usual}",
                    f"{far} robust SD {'above' if z > 0 else 'below'} the other {measure.counted}",
                    "cohort",
                    abs(z) / limit,
                )
            )
    return found


@dataclass(frozen=True)
class _Scale:
    """Where the middle of a measure lies and how far values spread, of logarithms for skewed ones."""

    middle: float
    spread: float
    logarithmic: bool

    @classmethod
    def of(cls, measure: Measure, values: Sequence[float]) -> _Scale:
        if not measure.skewed or min(values) <= 0:
            return cls(*_robust(values, measure.least_spread), False)
        # At the middle, a spread of logarithms is one of values relative to it.
        middle = float(np.median(values))
        return cls(*_robust([float(np.log(v)) for v in values], measure.least_spread / middle), True)

    def z(self, value: float) -> float:
        """Return by how many robust SD a value lies above the middle."""
        if self.logarithmic:
            value = float(np.log(value))
        return (value - self.middle) / self.spread

    def back(self, place: float) -> float:
        """Return the value at a place of the scale."""
        return float(np.exp(place)) if self.logarithmic else place

    def usual(self, measure: Measure, limit: float) -> str:
        """Return the range of what is usual, in words."""
        low, high = (number(self.back(self.middle + sign * limit * self.spread)) for sign in (-1, 1))
        return {"high": f"up to {high}", "low": f"from {low}", "either": f"{low} to {high}"}[measure.bad]


def _robust(values: Sequence[float], least: float) -> tuple[float, float]:
    """Return median and spread (1.4826 MAD, at least ``least``)."""
    array = np.asarray(values, dtype=np.float64)
    middle = float(np.median(array))
    return middle, max(MAD_TO_SD * float(np.median(np.abs(array - middle))), least)


@dataclass(frozen=True)
class _Change:
    """How a session differs (relative) from the same person's visits."""

    qc: Quality
    value: float
    usual: float
    visits: str
    relative: float

    @property
    def whose(self) -> str:
        """What it is compared with, in words."""
        return (
            f"this person's {self.visits}" if self.visits.startswith("median") else f"the same person's {self.visits}"
        )


def _changes(qcs: Sequence[Quality], measure: Measure) -> list[_Change]:
    people: dict[str, list[tuple[Quality, float]]] = {}
    for qc in qcs:
        value = measure.value(qc)
        if value:
            people.setdefault(str(qc["participant_id"]), []).append((qc, value))
    found = []
    for own in people.values():
        if len(own) == 2:
            # Of two visits nobody can say which is wrong: the later one is named, and the other beside it.
            (first, before), (second, value) = own
            found.append(_Change(second, value, before, visit_of(first), value / before - 1.0))
        elif len(own) > 2:
            # The median of all visits: one bad visit does not move it, so that no good one is named for it.
            usual = float(np.median([v for _, v in own]))
            visits = f"median of {len(own)} visits"
            found += [_Change(qc, value, usual, visits, value / usual - 1.0) for qc, value in own]
    return found


def _between_visits(qcs: Sequence[Quality], measures: Sequence[Measure]) -> list[Outlier]:
    """Name sessions that differ from the same person's other visits by more than scans of one person do."""
    found = []
    for measure in measures:
        if measure.largest_change is None:
            continue
        changes = _changes(qcs, measure)
        most, middle = measure.largest_change, 0.0
        usual = f"two scans of a person agree within {100 * most:.0f} %"
        if len(changes) >= FEWEST_SESSIONS:
            # What the whole cohort does from visit to visit is no outlier: the middle is its own median change.
            # The visit that is a person's median differs by nothing, which says nothing of the others' spread.
            middle, spread = _robust([c.relative for c in changes if c.relative] or [0.0], 0.0)
            own = max(largest_z(len(changes)) * spread, LEAST_CHANGE)
            if own < most:
                most, usual = own, f"usual in this cohort is {_percent(middle - own)} to {_percent(middle + own)}"
        for change in changes:
            if abs(change.relative - middle) <= most:
                continue
            found.append(
                Outlier(
                    who_of(change.qc),
                    measure.title,
                    change.value,
                    measure.units,
                    f"{change.visits} {number(change.usual)}",
                    f"{_percent(change.relative)} against {change.whose}; {usual}",
                    "visits",
                    abs(change.relative - middle) / most,
                )
            )
    return found


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", MINUS)
