"""Constant fields of eddy currents told from the head's own movement along phase encoding."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.dwi.offsets import separate_offsets
from voxcloud.space.affine import rigid_matrix

CENTRE = np.array([3.0, -20.0, 10.0])


def scanned(seed: int, step_mm: float, volumes: int = 66, reverse: bool = False):  # type: ignore[no-untyped-def]
    """Return (measured, true movement, true offset, b, g, along, mm per Hz): measured holds both shifts."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(3, volumes))
    g /= np.linalg.norm(g, axis=0)
    b = np.where(np.arange(volumes) % 11 == 0, 0.0, 1000.0)
    g[:, b == 0] = 0.0
    along = np.tile([0.0, 1.0, 0.0], (volumes, 1))
    scale = np.full(volumes, -0.06)
    if reverse:
        scale[volumes // 2 :] *= -1.0
    walk = np.cumsum(step_mm * rng.normal(size=(volumes, 3)), axis=0)
    true = np.array([rigid_matrix(shift, 0.3 * shift, CENTRE) for shift in walk])
    offset = (b / 1000.0) * (np.array([12.0, -25.0, 8.0]) @ g)
    measured = true.copy()
    measured[:, :3, 3] += (scale * offset)[:, None] * along
    return measured, true, offset, b, g, along, scale


@pytest.mark.parametrize("reverse", [False, True])
def test_separate_offsets__of_a_head_at_rest_is_exact(reverse: bool) -> None:
    measured, true, offset, b, g, along, scale = scanned(0, 0.0, reverse=reverse)
    movement, found = separate_offsets(measured, b, g, along, scale, CENTRE)
    np.testing.assert_allclose(found, offset, atol=1e-9)
    np.testing.assert_allclose(movement, true, atol=1e-9)


def test_separate_offsets__of_a_drifting_head_leaves_a_tenth() -> None:
    left, before = [], []
    for seed in range(20):
        measured, true, _, b, g, along, scale = scanned(seed, 0.1)
        movement, _ = separate_offsets(measured, b, g, along, scale, CENTRE)
        left.append(np.sqrt(np.mean((movement[:, 1, 3] - true[:, 1, 3]) ** 2)))
        before.append(np.sqrt(np.mean((measured[:, 1, 3] - true[:, 1, 3]) ** 2)))
    assert np.mean(left) < 0.05 * np.mean(before)
    assert np.mean(before) > 0.7


def test_separate_offsets__distortion_in_sum_stays_what_it_was() -> None:
    measured, _, _, b, g, along, scale = scanned(3, 0.2)
    movement, found = separate_offsets(measured, b, g, along, scale, CENTRE)
    point = np.array([30.0, 40.0, -5.0, 1.0])
    again = np.einsum("vij,j->vi", movement, point)[:, :3] + (scale * found)[:, None] * along
    np.testing.assert_allclose(again, np.einsum("vij,j->vi", measured, point)[:, :3], atol=1e-9)


def test_separate_offsets__leaves_alone_what_it_cannot_tell() -> None:
    measured, _, _, b, g, along, scale = scanned(1, 0.1, volumes=11)
    movement, found = separate_offsets(measured, b, g, along, scale, CENTRE)
    assert not found.any()
    np.testing.assert_array_equal(movement, measured)
    measured, _, _, b, g, along, scale = scanned(1, 0.1)
    flat = g * np.array([[1.0], [1.0], [0.0]])
    assert not separate_offsets(measured, b, flat, along, scale, CENTRE)[1].any()
