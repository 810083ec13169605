"""The receive field: a known one is found, ratios of volumes stay as they are, the same input gives the same bits."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError, MaskError
from voxcloud.space.bias import estimate_bias, remove_bias

VOXEL_MM = (3.0, 3.0, 3.0)


@functools.cache
def head() -> tuple[Any, Any, Any]:
    """Two tissues in patches, under a field that nothing but its formula knows."""
    shape = (60, 66, 44)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.85) ** 2 < 1
    rng = np.random.default_rng(0)
    tissue = np.where(ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0, 1.0, 1.5)
    field = np.exp(0.3 * y - 0.25 * x * z + 0.3 * (x * x + y * y + z * z))
    return 500 * tissue * field * mask + 5 * np.abs(rng.normal(size=shape)), mask, field


@pytest.mark.slow
def test_estimate_bias__known_field() -> None:
    image, mask, field = head()
    found = estimate_bias(image, mask, VOXEL_MM)
    error = np.log(found.field[mask] / field[mask])
    assert np.log(field[mask]).std() > 0.1
    assert error.std() < 0.02
    assert np.log(found.field[mask]).mean() == pytest.approx(0.0, abs=1e-5)
    assert found.field.dtype == np.float32
    assert np.isfinite(found.field).all()
    assert found.field.min() > 0
    assert found.report["variation_after"] < found.report["variation_before"]
    assert found.flagged == ""
    # The same bits again, and any unit will do.
    again = estimate_bias(image, mask, VOXEL_MM)
    assert again.field.tobytes() == found.field.tobytes()
    # Two tissues of 1 and 1.5 vary by .2; what is left above that is error.
    assert found.report["variation_after"] == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_remove_bias__ratios_of_volumes_are_unchanged() -> None:
    image, mask, _ = head()
    bias = estimate_bias(image, mask, VOXEL_MM)
    series = np.stack([image, 0.5 * image, 0.125 * image], axis=3).astype(np.float32)
    flat = remove_bias(series, bias)
    assert flat.dtype == np.float32
    # Powers of two: the ratios are the same bits, and so is every diffusivity made of them.
    np.testing.assert_array_equal(flat[mask][:, 1], 0.5 * flat[mask][:, 0])
    np.testing.assert_array_equal(flat[mask][:, 2], 0.125 * flat[mask][:, 0])
    np.testing.assert_allclose(flat[..., 0] * bias.field, series[..., 0], rtol=1e-6)
    assert remove_bias(series[..., 0].astype(np.int16), bias).dtype == np.float32


def test_estimate_bias__refuses_by_name() -> None:
    image, mask, _ = head()
    with pytest.raises(ImageError, match=r"sub-01: expected \(x, y, z\), a mask of its shape"):
        estimate_bias(image, mask[1:], VOXEL_MM, name="sub-01")
    with pytest.raises(MaskError, match=r"sub-01: .* found 0 \(of 0 voxels in the mask\)"):
        estimate_bias(image, np.zeros_like(mask), VOXEL_MM, name="sub-01")
    bias = estimate_bias(image, mask, VOXEL_MM, working_mm=12.0)
    with pytest.raises(ImageError, match="on the grid of the field"):
        remove_bias(image[1:], bias)
