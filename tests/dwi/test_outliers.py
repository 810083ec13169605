"""Scores of slices against known losses."""

from __future__ import annotations

import numpy as np

from voxcloud.dwi.outliers import find_outliers, slice_scores


def simulated_sums(loss: float, *, volumes: int = 30, slices: int = 20, seed: int = 0) -> np.ndarray:
    """Return sums of slices of 400 voxels with signal 100 and noise 20; volume 7 lost a part of its slice 5."""
    rng = np.random.default_rng(seed)
    sums = np.zeros((volumes, slices, 5))
    sums[..., 0] = 400
    sums[..., 1] = rng.normal(0, 20 * np.sqrt(400), (volumes, slices))
    sums[..., 1] += 400 * rng.normal(0, 3, slices)  # what all volumes of a slice have in common is no outlier
    sums[..., 4] = 400 * 100.0
    sums[7, 5, 1] -= loss * 400 * 100.0
    return sums


def test_slice_scores__are_standard_normal_where_nothing_was_lost() -> None:
    scores = slice_scores(simulated_sums(0.0), [range(30)])
    assert np.abs(scores.mean()) < 0.1
    assert 0.8 < scores.std() < 1.05
    assert not find_outliers(scores, simulated_sums(0.0), 4.0).any()


def test_find_outliers__finds_a_slice_that_lost_a_tenth_and_no_other() -> None:
    sums = simulated_sums(0.1)
    found = find_outliers(slice_scores(sums, [range(30)]), sums, 4.0)
    assert np.argwhere(found).tolist() == [[7, 5]]


def test_find_outliers__keeps_slices_that_are_too_bright() -> None:
    sums = simulated_sums(-0.3)
    scores = slice_scores(sums, [range(30)])
    assert scores[7, 5] > 10
    assert not find_outliers(scores, sums, 4.0).any()


def test_find_outliers__keeps_losses_too_small_to_matter_however_sure() -> None:
    sums = simulated_sums(0.02)
    sums[..., 1] = np.where(np.arange(30)[:, None] == 7, sums[..., 1], 0.01 * sums[..., 1])
    scores = slice_scores(sums, [range(30)])
    assert scores[7, 5] < -4
    assert not find_outliers(scores, sums, 4.0)[7, 5]


def test_slice_scores__knows_nothing_of_slices_with_little_brain_or_groups_of_three() -> None:
    sums = simulated_sums(0.5)
    sums[:, 3, 0] = 20
    scores = slice_scores(sums, [range(3), range(3, 30)])
    assert np.isnan(scores[:, 3]).all()
    assert np.isnan(scores[:3]).all()
    assert np.isfinite(scores[3:, 4]).all()
