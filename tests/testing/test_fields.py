"""Smooth noise and blurred spheres."""

from __future__ import annotations

import numpy as np

from voxcloud.testing.fields import REACH, SmoothNoise, blurred_sphere, distance_mm, generator


def test_smooth_noise__has_unit_variance_also_at_the_edge_of_the_grid():
    noise = SmoothNoise((10, 12, 9), [2.5, 2.5, 2.5])
    fields = np.stack([noise.sample(generator(0, k)) for k in range(600)])
    assert np.isclose(fields.var(), 1.0, rtol=0.03)
    assert np.isclose(fields[:, 0, 0, 0].var(), 1.0, rtol=0.2)


def test_smooth_noise__has_the_smoothness_that_was_asked_for():
    noise = SmoothNoise((24, 24, 24), [4.0, 3.0, 5.0])
    fields = np.stack([noise.sample(generator(1, k)) for k in range(40)]).astype(float)
    for axis, fwhm in enumerate((4.0, 3.0, 5.0)):
        roughness = np.diff(fields, axis=axis + 1).var() / fields.var()
        # The correlation of neighbours under a Gaussian kernel is exp(-1 / (4 sigma^2)).
        estimated = np.sqrt(-1 / (4 * np.log(1 - roughness / 2))) * np.sqrt(8 * np.log(2))
        assert np.isclose(estimated, fwhm, rtol=0.04)


def test_generator__depends_on_the_names_and_the_seed_only():
    first = generator(3, "R1map", "01").standard_normal(5)
    assert np.array_equal(first, generator(3, "R1map", "01").standard_normal(5))
    for other in (generator(4, "R1map", "01"), generator(3, "R1map", "02"), generator(3, "01", "R1map")):
        assert not np.array_equal(first, other.standard_normal(5))


def test_blurred_sphere__is_one_at_the_centre_half_at_the_radius_and_zero_beyond_reach():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -30
    profile = blurred_sphere((61, 61, 61), affine, (0, 0, 0), 12.0, 8.0)
    distance = distance_mm((61, 61, 61), affine, (0, 0, 0))
    assert profile[30, 30, 30] == 1.0
    assert np.isclose(profile[42, 30, 30], 0.5, atol=0.01)
    assert not profile[distance > 12 + REACH * 8].any()
