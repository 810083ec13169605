"""Counting and adjusting over a family of searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from voxcloud.inference.family import (
    SearchKey,
    adjust_over_family,
    bonferroni,
    count_searches,
    expected_false_positives,
    holm,
)

KEY = SearchKey("training", "R1map", "GM", "linear", "patients_gt_untrained", "greater", "whole mask")


def test_count_searches__counts_every_part_of_the_key_once() -> None:
    others = [
        replace(KEY, **{field: value})
        for field, value in {
            "model": "other",
            "map": "MTsat",
            "label": "WM",
            "coefficient": "quadratic",
            "contrast": "c2",
            "direction": "less",
            "volume": "GM_left",
        }.items()
    ]
    assert count_searches([KEY, KEY, *others]) == 8


def test_expected_false_positives__is_the_sum_of_alpha() -> None:
    assert expected_false_positives([0.05] * 128) == pytest.approx(6.4)


def test_bonferroni__multiplies_and_stops_at_one() -> None:
    np.testing.assert_allclose(bonferroni([1e-4, 0.2], 128), [0.0128, 1.0])
    with pytest.raises(ValueError, match="at least one search"):
        bonferroni([0.1], 0)


# A few lists only: multipletests collects garbage at each call.
@pytest.mark.parametrize(
    "p", [[0.2], [0.0, 0.0, 1.0], [0.04, 0.01, 0.03, 0.04, 0.5], list(np.linspace(1e-6, 0.9, 31) ** 3)]
)
def test_holm__equals_statsmodels(p: list[float]) -> None:
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12, atol=1e-300)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), st.floats(0.001, 0.5))
def test_holm__rejects_as_the_step_down_procedure(p: list[float], alpha: float) -> None:
    rejected = set()
    for step, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[k] * (len(p) - step) > alpha:
            break
        rejected.add(k)
    assert set(np.flatnonzero(holm(p) <= alpha)) == rejected


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_holm__is_never_larger_than_bonferroni(p: list[float]) -> None:
    assert np.all(holm(p) <= bonferroni(p, len(p)))


def test_adjust_over_family__counts_searches_without_a_cluster() -> None:
    empty = [replace(KEY, volume=f"v{k}") for k in range(9)]
    adjusted = adjust_over_family({KEY: 0.004, **dict.fromkeys(empty, 1.0)})
    assert adjusted[KEY] == pytest.approx(0.04)
    assert all(adjusted[key] == 1.0 for key in empty)


def test_search_key__reads_as_words() -> None:
    assert str(replace(KEY, label="")) == "training, R1map, linear, patients_gt_untrained, greater, whole mask"
