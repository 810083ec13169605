"""Clusters and peaks on small grids where the answer can be read off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxcloud.inference import clusters as cl


def grid(*points: tuple[tuple[int, int, int], float], shape: tuple[int, int, int] = (7, 7, 7)) -> np.ndarray:
    volume = np.zeros(shape)
    for place, value in points:
        volume[place] = value
    return volume


@pytest.mark.parametrize("step, n", [((1, 0, 0), 1), ((1, 1, 0), 1), ((0, -1, 1), 1), ((1, 1, 1), 2), ((2, 0, 0), 2)])
def test_label_clusters__joins_faces_and_edges_but_not_corners(step: tuple[int, int, int], n: int) -> None:
    other = (3 + step[0], 3 + step[1], 3 + step[2])
    _, found = cl.label_clusters(grid(((3, 3, 3), 5.0), (other, 4.0)), np.ones((7, 7, 7)), 3.0)
    assert found == n


def test_label_clusters__takes_what_is_above_not_at_the_threshold_and_in_the_mask() -> None:
    stat = grid(((1, 1, 1), 3.0), ((3, 3, 3), 3.0001), ((5, 5, 5), 9.0))
    mask = np.ones((7, 7, 7))
    mask[5, 5, 5] = 0
    labels, n = cl.label_clusters(stat, mask, 3.0)
    assert n == 1
    assert labels[3, 3, 3] == 1
    assert np.count_nonzero(labels) == 1


def test_label_clusters__takes_nan_as_outside() -> None:
    stat = np.full((3, 3, 3), np.nan)
    stat[1, 1, 1] = 4.0
    assert cl.label_clusters(stat, np.ones((3, 3, 3)), 3.0)[1] == 1


def test_find_peaks__compares_with_18_neighbours() -> None:
    stat = grid(((3, 3, 3), 5.0), ((4, 4, 3), 6.0), ((1, 1, 1), 4.0), ((2, 2, 2), 4.5))
    peaks = cl.find_peaks(stat, stat > 0)
    # (3,3,3) meets (4,4,3) by an edge; (1,1,1) and (2,2,2) meet by a corner only.
    assert [tuple(p) for p in peaks.T] == [(4, 4, 3), (2, 2, 2), (1, 1, 1)]


def test_find_peaks__takes_one_of_equal_neighbours() -> None:
    stat = grid(((3, 3, 3), 5.0), ((3, 3, 4), 5.0), ((3, 4, 4), 5.0))
    assert [tuple(p) for p in cl.find_peaks(stat, stat > 0).T] == [(3, 3, 3)]


def test_find_peaks__at_the_corner_of_the_grid() -> None:
    stat = grid(((0, 0, 0), 5.0), ((6, 6, 6), 4.0))
    assert [tuple(p) for p in cl.find_peaks(stat, stat > 0).T] == [(0, 0, 0), (6, 6, 6)]


@given(st.integers(0, 2**32 - 1))
def test_find_peaks__of_random_maps_are_no_lower_than_any_neighbour(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stat = rng.standard_normal((5, 4, 6))
    above = stat > 0.3
    peaks = {tuple(p) for p in cl.find_peaks(stat, above).T.tolist()}
    for place in map(tuple, np.argwhere(above).tolist()):
        around = [
            stat[q]
            for step in cl.NEIGHBOURS
            if all(
                0 <= (q := tuple(a + b for a, b in zip(place, step, strict=True)))[k] < stat.shape[k] for k in range(3)
            )
        ]
        assert (place in peaks) == (stat[place] > max(around))


def test_spaced_peaks__keeps_the_highest_that_are_far_enough_apart() -> None:
    mm = np.array([[0.0, 0, 0], [8.0, 0, 0], [8.1, 0, 0], [9.0, 0, 0], [0, 0, 30.0], [0, 30, 0]])
    assert cl.spaced_peaks(mm, min_distance_mm=8.0, max_peaks=3) == [0, 2, 4]
    assert cl.spaced_peaks(mm, min_distance_mm=0.0, max_peaks=99) == [0, 1, 2, 3, 4, 5]


def test_touching__sees_faces_outside_the_volume_or_the_grid() -> None:
    volume = np.zeros((7, 7, 7), dtype=bool)
    volume[1:6, 1:6, 1:6] = True
    stat = grid(((3, 3, 3), 5.0), ((1, 3, 3), 5.0), ((5, 5, 5), 5.0))
    labels, n = cl.label_clusters(stat, volume, 3.0)
    by_place = {(3, 3, 3): False, (1, 3, 3): True, (5, 5, 5): True}
    found = cl.touching(labels, n, volume)
    assert {place: bool(found[labels[place] - 1]) for place in by_place} == by_place
    whole, n = cl.label_clusters(grid(((0, 3, 3), 5.0)), np.ones((7, 7, 7)), 3.0)
    assert cl.touching(whole, n, np.ones((7, 7, 7))).tolist() == [True]


def test_continuing__sees_what_goes_on_outside() -> None:
    volume = np.zeros((7, 7, 7), dtype=bool)
    volume[:4] = True
    stat = grid(((3, 3, 3), 5.0), ((4, 4, 3), 5.0), ((1, 1, 1), 5.0))
    labels, n = cl.label_clusters(stat, volume, 3.0)
    found = cl.continuing(labels, n, (stat > 3.0) & ~volume)
    assert bool(found[labels[3, 3, 3] - 1])
    assert not bool(found[labels[1, 1, 1] - 1])
