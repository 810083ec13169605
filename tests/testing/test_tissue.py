"""Tissue values and the tensor behind the diffusion maps."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.testing.tissue import MAP_MODELS, axial_radial


@pytest.mark.parametrize("fa", [0.0, 0.15, 0.45, 0.9])
def test_axial_radial__describe_the_tensor_with_this_fa_and_md(fa: float):
    ad, rd = axial_radial(np.array([fa], np.float32), np.array([0.8e-3], np.float32))
    eigenvalues = np.array([ad[0], rd[0], rd[0]], dtype=float)
    deviation = eigenvalues - eigenvalues.mean()
    # The general definition of FA, not the short form for an axially symmetric tensor.
    back = np.sqrt(1.5 * (deviation**2).sum() / (eigenvalues**2).sum())
    assert np.isclose(eigenvalues.mean(), 0.8e-3, rtol=1e-6)
    assert np.isclose(back, fa, atol=1e-6)
    assert ad[0] >= rd[0]


def test_coefficient_sd__adds_slope_and_noise_variance():
    model = MAP_MODELS["R1map"]
    assert np.isclose(model.coefficient_sd("linear", 4.0), np.hypot(model.linear, 2.0 * model.noise))
