"""What is measured in template space and who is named for it."""

from __future__ import annotations

import math
from copy import deepcopy
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voxcloud.pipeline.spatial.quality import _changes, dice, told
from voxcloud.report.qc_space_measures import (
    LEAST_DICE,
    MAPS,
    NEXT,
    PEOPLE_MEASURES,
    VISIT_MEASURES,
    beyond_limits,
    find_space_outliers,
    people_of,
    visits_of,
)

Quality = dict[str, Any]
BY_KEY = {m.key: m for m in (*PEOPLE_MEASURES, *VISIT_MEASURES)}


@pytest.fixture
def cohort(fake_space: ModuleType) -> tuple[list[Quality], list[Quality]]:
    """Thirteen people, three visits each, nothing wrong; to be changed."""
    found: tuple[list[Quality], list[Quality]] = deepcopy(fake_space.fake_cohort(13, 3))
    return found


def named(bodies: list[Quality], sessions: list[Quality]) -> set[tuple[str, str]]:
    """Return who is named for which measure."""
    keys = {m.title: key for key, m in BY_KEY.items()}
    return {(o.who, keys[o.measure]) for o in find_space_outliers(people_of(bodies), visits_of(bodies, sessions))}


def session_of(sessions: list[Quality], participant: str, session: str, modality: str) -> Quality:
    """Return one session's tree."""
    return next(
        s for s in sessions if (s["participant_id"], s["session_id"], s["modality"]) == (participant, session, modality)
    )


def test_dice__boxes_that_overlap_by_a_part() -> None:
    one, other = np.zeros((12, 4, 4)), np.zeros((12, 4, 4))
    one[:6], other[2:8] = 1.0, 1.0
    assert dice(one, other) == pytest.approx(4 / 6)
    assert dice(0.5 * one, one) == pytest.approx(2 * 0.5 / 1.5)
    assert dice(one, one) == 1.0


def test_changes__are_of_tissue_volume_and_in_percent() -> None:
    jacobian = np.array([[[1.0, 3.0]]])
    found = SimpleNamespace(
        changes={
            "1": SimpleNamespace(ratio=np.array([[[1.02, 1.02]]])),
            "2": SimpleNamespace(ratio=np.array([[[1.0, 0.9]]])),
        },
        probability={"GM": np.ones((1, 1, 2)), "WM": np.array([[[1.0, 0.0]]])},
        way=SimpleNamespace(jacobian=jacobian),
    )
    table = _changes(found)  # type: ignore[arg-type]
    assert table["1"] == {"GM": pytest.approx(2.0), "WM": pytest.approx(2.0)}
    assert table["2"]["GM"] == pytest.approx(100 * (-0.3 / 4))  # three of four parts shrink by a tenth
    assert table["2"]["WM"] == pytest.approx(0.0)


def test_told__holds_only_what_json_can() -> None:
    tree = {"a": math.nan, "b": [np.float32(1.5), np.int64(2)], 3: np.array([1.0, np.inf]), "c": True, "d": "x"}
    assert told(tree) == {"a": None, "b": [1.5, 2], "3": [1.0, None], "c": True, "d": "x"}


def test_visits_of__brings_place_change_and_maps_of_a_visit_together(cohort: Any) -> None:
    bodies, sessions = cohort
    visits = visits_of(bodies, sessions)
    assert [(v["participant_id"], v["session_id"]) for v in visits] == sorted(
        (b["participant_id"], s) for b in bodies for s in b["sessions"]
    )
    visit, body = visits[4], bodies[1]
    assert visit["place"] == body["midpoint"]["visits"][1]
    assert visit["change"] == body["change_percent"]["2"]
    assert BY_KEY["translation"].value(visit) == pytest.approx(
        float(np.linalg.norm(visit["place"]["translation_mm"])), rel=1e-9
    )
    diffusion = session_of(sessions, "02", "2", "dwi")
    assert BY_KEY["MD_WM"].value(visit) == pytest.approx(1e3 * diffusion["medians"]["MD"]["WM"])
    assert BY_KEY["FA_WM"].value(visit) == diffusion["medians"]["FA"]["WM"]
    assert set(visit["medians"]) == set(MAPS)


def test_visits_of__a_visit_with_diffusion_alone_is_one(cohort: Any) -> None:
    bodies, sessions = cohort
    alone = session_of(sessions, "01", "1", "dwi") | {"session_id": "9"}
    visit = visits_of(bodies, [alone])[3]
    assert (visit["session_id"], visit["page"]) == ("9", alone["page"])
    assert BY_KEY["agreement"].value(visit) is None
    assert BY_KEY["FA_WM"].value(visit) is not None


def test_find_space_outliers__nobody_where_all_are_alike(cohort: Any) -> None:
    assert len(named(*cohort)) <= 1


def test_find_space_outliers__a_head_that_lies_8_mm_away_is_named_for_both_tissues(
    cohort: Any, fake_space: ModuleType
) -> None:
    bodies, sessions = cohort
    before = named(bodies, sessions)
    bodies[8] = fake_space.fake_anatomy("09", shift_mm=8.0)[0]
    assert named(bodies, sessions) - before >= {("sub-09", "dice_GM"), ("sub-09", "dice_WM")}
    assert {who for who, _ in named(bodies, sessions) - before} == {"sub-09"}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("agreement", lambda body: body["midpoint"]["visits"][1].update(agreement=0.92)),
        ("translation", lambda body: body["midpoint"]["visits"][1].update(translation_mm=[0.0, 90.0, 0.0])),
        ("rotation", lambda body: body["midpoint"]["visits"][1].update(rotation_deg=[0.0, 60.0, 0.0])),
        ("change_GM", lambda body: body["change_percent"]["2"].update(GM=-4.9)),
        ("tiv", lambda body: body["volumes_ml"].update(TIV=2600.0)),
        ("correlation", lambda body: body["normalisation"]["correlation"].update(warp=0.75)),
        ("jacobian_p01", lambda body: body["jacobian"].update(p01=0.15)),
        ("jacobian_p99", lambda body: body["jacobian"].update(p99=6.0)),
    ],
)
def test_find_space_outliers__each_measure_names_its_own(cohort: Any, key: str, change: Any) -> None:
    bodies, sessions = cohort
    before = named(bodies, sessions)
    change(bodies[3])
    who = "sub-04" if BY_KEY[key] in PEOPLE_MEASURES else "sub-04_ses-2"
    assert named(bodies, sessions) - before == {(who, key)}


def test_find_space_outliers__diffusion_that_lies_beside_the_anatomy(cohort: Any, fake_space: ModuleType) -> None:
    bodies, sessions = cohort
    wrong = fake_space.fake_maps("05", "2", "dwi", beside_mm=8.0)[0]
    wrong["registration"]["agreement"] = 0.2
    sessions[sessions.index(session_of(sessions, "05", "2", "dwi"))] = wrong
    assert named(bodies, sessions) >= {("sub-05_ses-2", "FA_WM"), ("sub-05_ses-2", "dwi_agreement")}


def test_beyond_limits__hold_for_a_single_participant(cohort: Any) -> None:
    bodies, sessions = cohort
    body = bodies[0]
    assert beyond_limits(people_of([body]), visits_of([body], [])) == []
    body["dice"]["WM"] = LEAST_DICE - 0.01
    body["volumes_ml"]["TIV"] = 800.0
    body["change_percent"]["3"]["WM"] = -7.0
    sessions[0]["missing"] = dict.fromkeys(sessions[0]["missing"], 0.08)
    found = {(o.who, o.measure, o.reference) for o in beyond_limits(people_of([body]), visits_of([body], sessions[:1]))}
    assert found == {
        ("sub-01", BY_KEY["dice_WM"].title, "at least 0.75"),
        ("sub-01", BY_KEY["tiv"].title, "950 to 2100"),
        ("sub-01_ses-3", BY_KEY["change_WM"].title, "−5 to 5"),
        ("sub-01_ses-1", BY_KEY["missing"].title, "up to 5"),
    }


def test_find_space_outliers__what_the_cohort_names_is_not_named_for_a_limit_too(cohort: Any) -> None:
    bodies, sessions = cohort
    bodies[3]["dice"]["GM"] = 0.4
    found = find_space_outliers(people_of(bodies), visits_of(bodies, sessions))
    assert [o.kind for o in found if (o.who, o.measure) == ("sub-04", BY_KEY["dice_GM"].title)] == ["cohort"]


def test_find_space_outliers__a_failed_registration_goes_before_everything_else(cohort: Any) -> None:
    bodies, _ = cohort
    people = people_of(bodies[:3])
    people[1]["dice"]["GM"], people[2]["volumes_ml"]["TIV"] = 0.7, 4200.0
    limits = sorted(beyond_limits(people, []), key=lambda o: -o.strength)
    assert limits[0].who == "sub-02"


def test_next__says_what_to_do_for_every_measure() -> None:
    assert set(NEXT) == {m.title for m in BY_KEY.values()}
    assert len({m.title for m in BY_KEY.values()}) == len(BY_KEY)
