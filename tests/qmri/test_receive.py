"""Receive sensitivity, proton density, smoothing of fields and quality numbers."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.errors import ImageError, MaskError
from voxcloud.qmri.fields import smooth_field
from voxcloud.qmri.quality import map_snr, motion_degradation
from voxcloud.qmri.receive import calibrate_pd, receive_sensitivity

SHAPE = (24, 20, 16)
X, Y, Z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
HEAD = X**2 + Y**2 + Z**2 < 0.8
FIELD = 2.0 + 0.6 * X - 0.3 * Y


def test_receive_sensitivity__recovers_the_field_of_the_head_coil() -> None:
    rng = np.random.default_rng(0)
    body = np.where(HEAD, rng.uniform(600, 1200, SHAPE), 0.0)
    air = np.abs(rng.normal(0, 5, SHAPE))
    found = receive_sensitivity(body * FIELD + air, body + air, (4, 4, 4))
    np.testing.assert_allclose(found[HEAD], FIELD[HEAD], rtol=0.07)
    assert np.corrcoef(found[HEAD], FIELD[HEAD])[0, 1] > 0.995
    exact = receive_sensitivity(body * FIELD, body, (4, 4, 4), fwhm_mm=0)
    np.testing.assert_allclose(exact[HEAD], FIELD[HEAD], rtol=1e-12)
    assert np.isnan(exact[~HEAD]).all()


def test_receive_sensitivity__refuses_an_empty_image() -> None:
    with pytest.raises(ImageError, match="body coil: expected an image of a head"):
        receive_sensitivity(np.ones(SHAPE), np.zeros(SHAPE), (1, 1, 1))


def test_smooth_field__keeps_a_constant_and_fills_from_around() -> None:
    field = np.full(SHAPE, 3.0)
    field[10, 10, 8] = np.nan
    found = smooth_field(field, (2, 2, 2), 8, HEAD)
    known = np.isfinite(found)
    assert known[HEAD].all()
    assert known.sum() > HEAD.sum()
    np.testing.assert_allclose(found[known], 3.0, rtol=1e-12)


def test_smooth_field__has_the_width_asked_for() -> None:
    point = np.zeros((61, 5, 5))
    point[30] = 1.0
    line = smooth_field(point, (1.5, 1.5, 1.5), 12.0)[:, 2, 2]
    variance = np.sum(line * (np.arange(61) - 30) ** 2) / line.sum()
    assert np.sqrt(8 * np.log(2) * variance) * 1.5 == pytest.approx(12.0, rel=0.01)


def test_smooth_field__is_nan_far_from_known_voxels() -> None:
    field = np.full((31, 31, 31), np.nan)
    field[15, 15, 15] = 2.0
    found = smooth_field(field, (1, 1, 1), 4.0)
    # One voxel in a kernel whose centre weighs 1.3 %: it counts for 1 % up to 1.1 voxels away.
    assert np.isfinite(found).sum() == 7
    np.testing.assert_allclose(found[np.isfinite(found)], 2.0)


def test_smooth_field__refuses_other_grids() -> None:
    with pytest.raises(ImageError, match="3 positive voxel sizes"):
        smooth_field(np.ones(SHAPE), (1, 1), 8)


def test_calibrate_pd__puts_white_matter_at_69() -> None:
    probability = np.where(X < 0, 0.97, 0.5)
    pd = np.where(X < 0, 69.0, 82.0)
    found, factor = calibrate_pd(pd * 12 * FIELD, probability, receive_field=FIELD)
    np.testing.assert_allclose(found, pd, rtol=1e-12)
    assert factor == pytest.approx(1 / 12)


def test_calibrate_pd__needs_white_matter() -> None:
    with pytest.raises(MaskError, match=r"at least 20 voxels .* found 0"):
        calibrate_pd(np.ones(SHAPE), np.full(SHAPE, 0.5))
    with pytest.raises(MaskError, match="mean of -1"):
        calibrate_pd(-np.ones(SHAPE), np.ones(SHAPE))
    with pytest.raises(ImageError, match="white matter: expected an image"):
        calibrate_pd(np.ones(SHAPE), np.ones(3))


def test_map_snr__is_map_over_error() -> None:
    found = map_snr(np.array([2.0, 2.0, np.nan], np.float32), np.array([0.1, 0.0, 0.1], np.float32))
    np.testing.assert_allclose(found, [20, np.nan, np.nan], rtol=1e-6)
    assert found.dtype == np.float32


def test_motion_degradation__is_the_sd_over_white_matter() -> None:
    rng = np.random.default_rng(1)
    rate = 20 + rng.normal(0, 3, 500)
    mask = np.arange(500) < 400
    rate[:5] = np.nan
    assert motion_degradation(rate, mask) == pytest.approx(np.std(rate[5:400], ddof=1))
    with pytest.raises(MaskError, match="found 3"):
        motion_degradation(rate, np.arange(500) < 8)
