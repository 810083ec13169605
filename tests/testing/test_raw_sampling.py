"""Splines and pushed lines against SciPy, closed forms and the unwarping that has to undo them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.space.unwarp import unwarp_epi
from voxcloud.testing.raw_sampling import push_along, sample_spline


def test_sample_spline__equals_scipy_inside_and_goes_on_outside() -> None:
    rng = np.random.default_rng(0)
    coefficients = rng.random((9, 8, 7, 3), dtype=np.float32)
    inside = rng.uniform(1.0, 5.0, (200, 3))
    expected = [
        ndimage.map_coordinates(coefficients[..., c], inside.T, order=3, prefilter=False, mode="nearest")
        for c in range(3)
    ]
    np.testing.assert_allclose(sample_spline(coefficients, inside), np.stack(expected, axis=1), atol=2e-6)
    outside, edge = np.array([[20.0, 3.0, 3.0]]), np.array([[8.0, 3.0, 3.0]])
    np.testing.assert_array_equal(sample_spline(coefficients, outside), sample_spline(coefficients, edge))


def test_sample_spline__keeps_constants_and_slopes() -> None:
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (8, 9, 10)), indexing="ij")
    coefficients = np.stack([np.ones_like(x), 2 * x - y + 0.5 * z], axis=-1)
    points = np.random.default_rng(1).uniform(1.0, 6.0, (100, 3))
    values = sample_spline(coefficients, points)
    np.testing.assert_allclose(values[:, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(values[:, 1], points @ [2.0, -1.0, 0.5], atol=1e-5)


def test_push_along__moves_a_line_by_whole_voxels() -> None:
    image = np.zeros((3, 10, 4))
    image[1, 4, 2] = 8.0
    image[1, 5, 2] = 8.0
    moved = push_along(image, np.full(image.shape, 2.0), axis=1)
    assert moved[1, 6:8, 2] == pytest.approx([8.0, 8.0], rel=0.2)  # a subsample on either side of an edge is shared
    assert moved.sum() == pytest.approx(image.sum())


def test_push_along__piles_up_where_the_shift_falls() -> None:
    y = np.arange(64.0)
    image = np.ones((1, 64, 1))
    shift = np.clip(-0.25 * (y - 32), -3, 3)[None, :, None]
    middle = push_along(image, shift, axis=1)[0, 28:36, 0]
    np.testing.assert_allclose(middle, 1.0 / (1.0 - 0.25), rtol=0.02)


def test_push_along__is_undone_by_unwarping() -> None:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (12, 60, 12)), indexing="ij")
    image = np.exp(-3 * (x**2 + y**2 + z**2)) * (1 + 0.3 * np.cos(6 * y))
    field_hz = 80.0 * np.exp(-4 * ((y - 0.2) ** 2 + x**2))
    for direction, sign in (("j", 1.0), ("j-", -1.0)):
        warped = push_along(image, sign * 0.0243 * field_hz, axis=1)
        assert np.abs(warped - image).max() > 0.15
        unwarped = unwarp_epi(warped, field_hz, 0.0243, direction, modulate=True)
        np.testing.assert_allclose(unwarped[:, 5:-5], image[:, 5:-5], atol=0.02)
