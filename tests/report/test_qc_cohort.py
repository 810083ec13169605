"""What the cohort's page groups and leaves out; its strips."""

from __future__ import annotations

import re
from copy import deepcopy
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from voxcloud.report import qc_cohort
from voxcloud.report.qc_cohort import cohort_page
from voxcloud.report.qc_outliers import MEASURES, find_outliers, who_of
from voxcloud.report.qc_strips import b1_strip, places, strip

Quality = dict[str, Any]
BY_KEY = {m.key: m for m in MEASURES}


@pytest.fixture(scope="module")
def twenty(fake_quality: ModuleType) -> list[Quality]:
    """Ten people with two visits each."""
    found: list[Quality] = fake_quality.fake_cohort(10, 2)
    return found


@pytest.fixture
def cohort(twenty: list[Quality]) -> list[Quality]:
    """The same, to be changed."""
    return deepcopy(twenty)


def text_of(page: str) -> str:
    """Return what a reader sees."""
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", " ", body, flags=re.S)).split())


def test_find_outliers__a_long_tail_of_movements_is_none(cohort: list[Quality]) -> None:
    rng = np.random.default_rng(3)
    rest = [deepcopy(qc) | {"participant_id": f"9{k}"} for k in range(10) for qc in cohort]
    for qc in rest:
        for move in qc["registration"]:
            move["displacement_mm"] = float(np.exp(rng.normal(-0.5, 0.6)))
    measure = BY_KEY["displacement"]
    values = np.array([measure.value(qc) for qc in rest], dtype=float)
    linear = np.abs(values - np.median(values)) / (1.4826 * np.median(np.abs(values - np.median(values))))
    assert (linear > 3.5).sum() >= 5  # what a rule for normal values would name
    assert sum(o.measure == measure.title and o.kind == "cohort" for o in find_outliers(rest)) <= 1
    rest[7]["registration"][0]["displacement_mm"] = 30.0
    assert who_of(rest[7]) in {o.who for o in find_outliers(rest) if o.measure == measure.title}


def test_cohort_page__what_most_sessions_share_names_none_of_them(cohort: list[Quality]) -> None:
    for qc in cohort:
        qc["maps"]["MTsat"]["WM"]["median"] *= 2.0
    text = text_of(cohort_page("study", cohort, {}, []))
    assert "0 sessions stand out" in text
    assert "20 of 20 sessions" in text
    assert "look at the protocol" in text


def test_cohort_page__one_session_outside_published_values_is_named(cohort: list[Quality]) -> None:
    cohort[3]["maps"]["R2starmap"]["GM"]["median"] = 40.0
    page = cohort_page("study", cohort, {}, [])
    below = page[page.index("Outside published values") : page.index('id="strips"')]
    assert "1 of 20 sessions" in below
    assert f'<a href="{cohort[3]["page"]}">{who_of(cohort[3])}</a>' in below


def test_cohort_page__warnings_that_differ_in_numbers_are_one(cohort: list[Quality]) -> None:
    for qc, share in zip(cohort[:3], (0.31, 0.32, 0.4), strict=True):
        qc["warnings"] = [f"{who_of(qc)}, T1w: {share} % of the head at 4095 (/raw/{who_of(qc)}.nii.gz): cut off."]
    cohort[4]["warnings"] = [f"{who_of(cohort[4])}, B1 by AFI: no magnitude."]
    text = text_of(cohort_page("study", cohort, {}, ["One sentence for all."]))
    assert text.count("of the head at 4095") == 1
    assert "3 sessions, with their own numbers" in text
    assert text.count("no magnitude") == 1
    assert "One sentence for all." in text


def test_cohort_page__two_ways_of_making_maps_within_a_person_are_told(cohort: list[Quality]) -> None:
    assert "in different ways" not in cohort_page("study", cohort, {}, [])
    for qc in cohort[10:]:
        qc["made"] = {"Preset": "hmri-0.x", "B1Method": "AFI", "SpoilingCorrection": True}
    assert "in different ways for different people" in cohort_page("study", cohort, {}, [])
    cohort[1]["made"] = {"Preset": "hmri-1.0", "B1Method": "none", "SpoilingCorrection": True}
    assert "Maps of one person were made in different ways (sub-01)" in cohort_page("study", cohort, {}, [])


def test_cohort_page__pictures_that_do_not_fit_are_named(
    cohort: list[Quality], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cohort_page("study", cohort, {}, [])
    assert whole.count("<img ") == 5 * len(cohort)
    one = sum(len(qc["thumbnails"]["R1map"]) for qc in cohort)
    monkeypatch.setattr(qc_cohort, "PICTURE_BYTES", int(2.5 * one))
    page = cohort_page("study", cohort, {}, [])
    assert page.count("<img ") == 2 * len(cohort)
    assert "R2*, B1+, amplitude are shown on the sessions' pages only" in text_of(page).replace("&#39;", "'")


def test_places__people_stand_apart(cohort: list[Quality]) -> None:
    at, starts, people = places(cohort)
    assert people == [f"{k:02d}" for k in range(1, 11)]
    assert starts == at[::2]
    assert at[1] - at[0] == 1.0
    assert at[2] - at[1] > 1.0


def test_strip__joins_a_persons_sessions_and_marks_the_named(cohort: list[Quality]) -> None:
    figure = strip(BY_KEY["R1map_WM"], cohort, {"sub-03_ses-2"})
    assert figure is not None
    assert figure.svg.count("<title>sub-") == len(cohort)
    assert len(re.findall(r'<polyline[^>]*stroke-width="1.2"', figure.svg)) == 10
    marked = re.findall(r"<polygon[^>]*><title>(sub-\S+):", figure.svg)
    assert marked == ["sub-03_ses-2"]


def test_strip__nothing_but_zeros_is_no_figure(cohort: list[Quality]) -> None:
    assert strip(BY_KEY["cut_off"], cohort, set()) is None
    cohort[2]["signal"]["T1w"]["saturated_share"] = 0.002
    assert strip(BY_KEY["cut_off"], cohort, set()) is not None


def test_strip__many_sessions_have_a_row_of_their_own(cohort: list[Quality], fake_quality: ModuleType) -> None:
    few, many = strip(BY_KEY["motion_PDw"], cohort[:6], set()), strip(BY_KEY["motion_PDw"], cohort * 6, set())
    assert few is not None
    assert many is not None
    assert not few.wide
    assert many.wide


def test_b1_strip__sessions_without_b1_leave_a_gap(cohort: list[Quality]) -> None:
    cohort[5]["b1"] = None
    figure = b1_strip(cohort, set())
    assert figure is not None
    assert figure.svg.count("<title>sub-") == len(cohort) - 1
    assert who_of(cohort[5]) not in figure.svg
    assert b1_strip([qc | {"b1": None} for qc in cohort], set()) is None


def test_cohort_page__what_an_older_run_did_not_tell_is_no_difference(cohort: list[Quality]) -> None:
    cohort[0]["made"] = cohort[0]["made"] | {"B1Unwarped": False, "ChangedSettings": {}}
    page = cohort_page("study", cohort, {}, [])
    assert "in different ways" not in page
    assert "preset hmri-1.0, B1+ by AFI, spoiling correction (20 sessions)" in text_of(page)
    cohort[0]["made"]["ChangedSettings"] = {"angles": "small"}
    assert "in different ways (sub-01)" in cohort_page("study", cohort, {}, [])
