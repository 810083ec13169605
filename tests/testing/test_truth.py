"""Comparison of results with the planted changes."""

from __future__ import annotations

from typing import Any

import pytest

from voxcloud.testing import SimulatedStudy, compare_with_truth, summarise_truth

SHOWN = {"coefficient": "linear", "expected_t": 6.0, "expected_z": 4.8, "df": 24}
TRUTH: dict[str, Any] = {
    "fwhm_mm": 12.0,
    "planted": [
        {
            "name": "hand",
            "map": "R1map",
            "label": "GM",
            "centre_mm": [40.0, -24.0, 54.0],
            "radius_mm": 12.0,
            "shows_in": [
                {**SHOWN, "model": "training", "contrast": "a", "direction": "greater", "expected": True},
                {**SHOWN, "model": "trained", "contrast": "b", "direction": "less", "expected": False},
            ],
        }
    ],
}


def cluster(x: float, p_fwe: float = 0.001, significant: bool = True) -> dict[str, Any]:
    peak = {"t": 7.0, "z": 5.0, "x": x, "y": -24.0, "z_mm": 54.0}
    return {"size_voxels": 50, "p_fwe": p_fwe, "significant": significant, "peaks": [peak]}


def result(direction: str, *clusters: dict[str, Any], **other: Any) -> dict[str, Any]:
    found = {"direction": direction, "volume": "GM_right", "clusters": list(clusters)}
    rest = {"direction": "less" if direction == "greater" else "greater", "volume": "GM_right", "clusters": []}
    names = {"model": "training", "map": "R1map", "label": "GM", "coefficient": "linear", "contrast": "a"}
    return {**names, **other, "searches": [found, rest]}


def outcomes(*results: dict[str, Any]) -> list[str]:
    return [row["outcome"] for row in compare_with_truth(TRUTH, results)]


def test_compare_with_truth__cluster_near_the_centre_is_found():
    (row,) = compare_with_truth(TRUTH, [result("greater", cluster(44.0))])
    assert (row["outcome"], row["name"], row["distance_mm"], row["p_fwe"]) == ("found", "hand", 4.0, 0.001)
    assert row["peak_mm"] == (44.0, -24.0, 54.0)


def test_compare_with_truth__no_significant_cluster_is_missed():
    assert outcomes(result("greater")) == ["missed"]
    assert outcomes(result("greater", cluster(40.0, 0.3, significant=False))) == ["missed"]


def test_compare_with_truth__other_direction_is_the_wrong_sign_and_not_explained():
    assert outcomes(result("less", cluster(40.0))) == ["wrong sign", "false"]


def test_compare_with_truth__distant_cluster_is_false():
    assert outcomes(result("greater", cluster(40.0), cluster(-40.0))) == ["found", "false"]
    assert outcomes(result("greater", cluster(40.0 + 12 + 12.1))) == ["missed", "false"]
    assert outcomes(result("greater", cluster(40.0 + 12 + 11.9))) == ["found"]


def test_compare_with_truth__weak_change_is_not_missed_when_absent_and_not_false_when_present():
    weak = {"model": "trained", "contrast": "b"}
    assert outcomes(result("less", **weak)) == ["not expected"]
    assert outcomes(result("less", cluster(40.0), **weak)) == ["found"]


@pytest.mark.parametrize("other", [{"map": "MTsat"}, {"label": "WM"}, {"coefficient": "quadratic"}, {"model": "m2"}])
def test_compare_with_truth__same_place_in_another_search_is_false(other: dict[str, str]):
    assert outcomes(result("greater", cluster(40.0), **other)) == ["false"]


def test_compare_with_truth__best_volume_is_reported_once():
    file = result("greater", cluster(44.0, 0.02))
    file["searches"].append({"direction": "greater", "volume": "whole mask", "clusters": [cluster(44.0, 0.01)]})
    (row,) = compare_with_truth(TRUTH, [file])
    assert (row["volume"], row["p_fwe"]) == ("whole mask", 0.01)


def test_summarise_truth__expected_changes_add_up():
    rows = compare_with_truth(
        TRUTH,
        [result("greater", cluster(40.0), cluster(-40.0)), result("less", model="trained", contrast="b")],
    )
    counts = summarise_truth(rows)
    assert counts["found_expected"] + counts["missed"] + counts["wrong_sign_expected"] == counts["expected"] == 1
    assert (counts["weak"], counts["found_weak"], counts["false_clusters"]) == (1, 0, 1)
    assert counts["sentence"] == (
        "1 of 1 planted changes that the designs can show were found, none missed, none with the wrong sign; 0 of 1 "
        "weaker one was found; 1 significant cluster lies where nothing is planted."
    )


def test_summarise_truth__says_when_nothing_could_be_expected():
    sentence = summarise_truth([])["sentence"]
    assert sentence == (
        "No planted change is so large that the designs should show it; no significant cluster lies "
        "where nothing is planted."
    )


def test_truth__every_model_has_a_change_that_it_can_show(coarse_study: SimulatedStudy):
    shown = [s for entry in coarse_study.truth["planted"] for s in entry["shows_in"]]
    assert {s["model"] for s in shown if s["expected"]} == {"training", "arm_leg", "learning", "trained", "baseline"}
    assert {s["coefficient"] for s in shown} == {"linear", "quadratic", "value"}
    assert all((s["expected_t"] > 0) == (s["direction"] == "greater") for s in shown)


def test_truth__induced_changes_are_listed_with_their_source(coarse_study: SimulatedStudy):
    induced = {(e["map"], e["induced_by"]) for e in coarse_study.truth["planted"] if e["induced_by"]}
    assert induced == {("AD", "FA"), ("RD", "FA"), ("AD", "MD"), ("RD", "MD")}
