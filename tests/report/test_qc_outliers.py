"""Which sessions are named, why, and how often by chance."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from voxcloud.report.qc_outliers import (
    FEWEST_SESSIONS,
    MEASURES,
    Outlier,
    by_session,
    find_outliers,
    largest_z,
    who_of,
)
from voxcloud.report.qc_ranges import RANGES, published_range

Quality = dict[str, Any]
SAME = {"factor": 1.0, "noise": 0.0}


@pytest.fixture(scope="module")
def make(fake_quality: ModuleType) -> Callable[..., Quality]:
    """Give the maker of sessions; thumbnails are left out."""
    session = fake_quality.fake_session

    def made(participant: str = "01", visit: str = "1", seed: int = 0, **changes: Any) -> Quality:
        found: Quality = session(participant, visit, seed, thumbnails={}, **changes)
        return found

    return made


@pytest.fixture(scope="module")
def twelve(make: Callable[..., Quality]) -> list[Quality]:
    """Twelve sessions of twelve people."""
    return [make(f"{k:02d}", "1", seed=k) for k in range(1, 13)]


def named(outliers: list[Outlier], kind: str) -> list[tuple[str, str]]:
    """Return who is named in which measure for one kind of reason."""
    return [(o.who, o.measure) for o in outliers if o.kind == kind]


def test_published_range__only_at_three_tesla(make: Callable[..., Quality]) -> None:
    assert published_range(make(), "R1map", "WM") == RANGES["R1map", "WM"]
    assert published_range(make(field_strength_t=2.89), "R1map", "WM") is not None
    assert published_range(make(field_strength_t=7.0), "R1map", "WM") is None
    assert published_range(make(field_strength_t=None), "R1map", "WM") is None


def test_published_range__the_amplitude_has_none(make: Callable[..., Quality]) -> None:
    assert published_range(make(), "M0map", "WM") is None
    assert {name for name, _ in RANGES} == {"R1map", "MTsat", "R2starmap"}
    assert all(r.source.startswith("doi:10.") and 0 < r.low < r.high for r in RANGES.values())


def test_published_range__white_matter_lies_above_grey() -> None:
    for name in ("R1map", "MTsat", "R2starmap"):
        assert RANGES[name, "WM"].low > RANGES[name, "GM"].low
        assert RANGES[name, "WM"].high > RANGES[name, "GM"].high


def test_find_outliers__a_session_outside_the_published_range_is_named_with_both(make: Callable[..., Quality]) -> None:
    (white,) = [o for o in find_outliers([make(factor=1.3, noise=0.0)]) if "white" in o.measure]
    assert (white.who, white.kind) == ("sub-01_ses-1", "published")
    assert white.value == pytest.approx(1.3)
    assert white.reference == "0.760 to 1.12"
    assert "3 T" in white.reason
    assert "doi:10.3389/fnins.2013.00095" in white.reason
    assert find_outliers([make(factor=1.3, noise=0.0, field_strength_t=7.0)]) == []


def test_find_outliers__a_good_session_alone_is_not_named(make: Callable[..., Quality]) -> None:
    assert find_outliers([make(**SAME)]) == []


def test_find_outliers__the_cohort_speaks_from_ten_sessions_on(twelve: list[Quality]) -> None:
    moved = {"motion_degradation": {"PDw": 9.0, "T1w": 3.1, "MTw": 3.2}}
    for n in (FEWEST_SESSIONS - 1, FEWEST_SESSIONS):
        sessions = [*twelve[: n - 1], twelve[n - 1] | moved]
        found = named(find_outliers(sessions), "cohort")
        expected = [(who_of(sessions[-1]), "Motion degradation of PDw")] if n == FEWEST_SESSIONS else []
        assert found == expected


def test_find_outliers__little_motion_is_no_reason(twelve: list[Quality]) -> None:
    still = twelve[0] | {"motion_degradation": {"PDw": 0.3, "T1w": 0.3, "MTw": 0.3}}
    assert named(find_outliers([still, *twelve[1:]]), "cohort") == []


def test_find_outliers__one_bad_session_does_not_hide_another(twelve: list[Quality]) -> None:
    sessions = list(twelve)
    for k, value in ((2, 300.0), (7, 8.0)):
        sessions[k] = sessions[k] | {"motion_degradation": {"PDw": 3.0, "T1w": value, "MTw": 3.0}}
    assert {who for who, _ in named(find_outliers(sessions), "cohort")} == {"sub-03_ses-1", "sub-08_ses-1"}


def test_find_outliers__sessions_that_are_all_alike_are_not_named(make: Callable[..., Quality]) -> None:
    sessions = [make(f"{k:02d}", seed=5, **SAME) for k in range(1, 21)]
    sessions[3]["signal"]["PDw"]["saturated_share"] = 1e-6
    sessions[4]["b1"]["missing_share"] = 1e-4
    assert find_outliers(sessions) == []


def test_find_outliers__limits_hold_for_a_single_session(make: Callable[..., Quality]) -> None:
    qc = make(**SAME)
    qc["registration"][1]["displacement_mm"] = 6.2
    qc["b1"]["missing_share"] = 0.08
    found = find_outliers([qc])
    assert {o.kind for o in found} == {"limit"}
    assert sorted((o.measure, round(o.value, 6), o.reference) for o in found) == [
        ("Brain without B1+", 8.0, "up to 5"),
        ("Largest movement between scans", 6.2, "up to 5"),
    ]


def test_find_outliers__a_visit_is_compared_with_the_persons_others(make: Callable[..., Quality]) -> None:
    factors = {"1": 1.0, "2": 1.005, "3": 1.07, "4": 0.995}
    visits = [make("01", visit, factor=f, noise=0.0) for visit, f in factors.items()]
    found = find_outliers(visits)
    assert {o.who for o in found} == {"sub-01_ses-3"}
    assert {o.measure for o in found} == {"R1 in white matter, median", "R1 in grey matter, median"}
    assert all("+6.7 %" in o.reason for o in found if o.kind == "visits")


def test_find_outliers__of_two_visits_the_later_one_is_named_beside_the_other(make: Callable[..., Quality]) -> None:
    visits = [make("01", "1", factor=1.0, noise=0.0), make("01", "2", factor=0.92, noise=0.0)]
    found = [o for o in find_outliers(visits) if o.kind == "visits"]
    assert {o.who for o in found} == {"sub-01_ses-2"}
    assert all(o.reference.startswith("ses-1 ") for o in found)


def test_find_outliers__people_may_differ_by_more_than_visits(make: Callable[..., Quality]) -> None:
    people = [make(f"{k:02d}", "1", factor=1.0 + 0.08 * (k % 2), noise=0.0) for k in range(1, 9)]
    assert find_outliers(people) == []


def test_find_outliers__a_change_of_the_whole_cohort_is_not_a_persons(make: Callable[..., Quality]) -> None:
    rng = np.random.default_rng(3)
    sessions = [
        make(f"{k:02d}", visit, factor=base * (1 + 0.003 * rng.standard_normal()), noise=0.0)
        for k in range(1, 13)
        for visit, base in (("1", 1.0), ("2", 0.96))
    ]
    assert named(find_outliers(sessions), "visits") == []
    sessions[5] = make("03", "2", factor=1.0, noise=0.0)  # the only one who does not change with the others
    assert {who for who, _ in named(find_outliers(sessions), "visits")} == {"sub-03_ses-2"}


def test_find_outliers__missing_numbers_are_not_compared(make: Callable[..., Quality]) -> None:
    sessions = [make(f"{k:02d}", seed=k, b1=None) for k in range(1, 13)]
    sessions[0]["motion_degradation"] = dict.fromkeys(("PDw", "T1w", "MTw"))
    sessions[1]["registration"] = [{"name": "sub-02_ses-1, T1w to PDw", "method": "none"}]
    sessions[2]["maps"] = {"R2starmap": sessions[2]["maps"]["R2starmap"]}
    for numbers in sessions[3]["maps"].values():
        numbers["WM"] = {"median": None, "p25": None, "p75": None, "n": 0, "missing": None}
        numbers["snr_WM"] = None
    assert not any(o.measure.startswith("B1+") for o in find_outliers(sessions))


def test_find_outliers__few_normal_sessions_are_named(make: Callable[..., Quality]) -> None:
    sessions = [make(f"{k:03d}", seed=k) for k in range(1, 121)]
    # 17 measures, of a normal sample: about 1 session in 115 with z = 3.5.
    assert len({o.who for o in find_outliers(sessions)}) <= 5


@pytest.mark.parametrize(("n", "chance"), [(10, 0.006), (49, 0.001), (50, 0.003), (245, 0.001)])
def test_largest_z__normal_sessions_are_rarely_beyond(n: int, chance: float) -> None:
    drawn = np.random.default_rng(n).standard_normal((2000, n))
    middle = np.median(drawn, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(drawn - middle), axis=1, keepdims=True)
    assert (np.abs(drawn - middle) / spread > largest_z(n)).mean() < chance


def test_by_session__the_furthest_comes_first(make: Callable[..., Quality]) -> None:
    first = make("01", factor=1.2, noise=0.0)
    second = make("02", factor=1.0, noise=0.0)
    second["registration"][0]["displacement_mm"] = 40.0
    second["b1"]["missing_share"] = 0.06
    gathered = by_session(find_outliers([first, second]))
    assert [who for who, _ in gathered] == ["sub-02_ses-1", "sub-01_ses-1"]
    assert [o.measure for o in gathered[0][1]] == ["Largest movement between scans", "Brain without B1+"]


def test_measures__have_keys_of_their_own_and_units() -> None:
    assert len({m.key for m in MEASURES}) == len(MEASURES)
    assert len({m.title for m in MEASURES}) == len(MEASURES)
    assert all(m.units for m in MEASURES)


def test_find_outliers__the_tail_of_movement_is_no_outlier(twelve: list[Quality]) -> None:
    sessions = []
    for k in range(60):
        qc = twelve[k % 12] | {"participant_id": f"{k:03d}"}
        moved = float(np.exp(0.5 * np.random.default_rng(k).standard_normal()))
        qc["registration"] = [r | {"displacement_mm": 0.8 * moved} for r in qc["registration"]]
        sessions.append(qc)
    largest = max(r["displacement_mm"] for qc in sessions for r in qc["registration"])
    assert largest > 1.8  # far from .8 mm for a symmetric measure
    assert "Largest movement between scans" not in {o.measure for o in find_outliers(sessions)}
    sessions[7]["registration"] = [r | {"displacement_mm": 0.8 * np.exp(3.2)} for r in sessions[7]["registration"]]
    assert ("sub-007_ses-1", "Largest movement between scans") in named(find_outliers(sessions), "cohort")
