"""Proton density is scaled by white matter: closed form, what does not count, and what is refused or flagged."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.errors import ImageError
from voxcloud.qmri.pd_calibration import calibrate_pd


def test_calibrate_pd__white_matter_has_69_pu_and_other_tissue_keeps_its_ratio() -> None:
    wm = np.zeros((20, 20, 20))
    wm[:10] = 1.0
    wm[10] = 0.94  # not sure enough
    amplitude = np.where(wm == 1.0, 700.0, 900.0)
    found = calibrate_pd(amplitude, wm, voxel_mm=2.0)
    assert found.factor * 700 == pytest.approx(69.0, rel=1e-7)
    assert found.factor * 900 == pytest.approx(69.0 * 9 / 7, rel=1e-7)
    assert found.report["white_matter_ml"] == pytest.approx(32.0)
    assert found.flagged == ""


def test_calibrate_pd__unknown_voxels_do_not_count() -> None:
    wm = np.ones((20, 20, 20))
    amplitude = np.full(wm.shape, 500.0)
    amplitude[0], amplitude[1] = np.nan, 0.0
    assert calibrate_pd(amplitude, wm, voxel_mm=(2, 2, 2)).factor == pytest.approx(69 / 500)


def test_calibrate_pd__scales_with_the_unit_of_the_amplitude() -> None:
    rng = np.random.default_rng(0)
    wm = np.ones((20, 20, 20))
    amplitude = rng.normal(700, 30, wm.shape)
    one, other = calibrate_pd(amplitude, wm, voxel_mm=2), calibrate_pd(10 * amplitude, wm, voxel_mm=2)
    assert one.factor == pytest.approx(10 * other.factor, rel=1e-6)
    assert float((one.factor * amplitude.astype(np.float32)).mean()) == pytest.approx(69, rel=1e-5)


def test_calibrate_pd__flags_little_or_uneven_white_matter() -> None:
    few = np.zeros((20, 20, 20))
    few[:1] = 1.0
    assert "3.2 ml" in calibrate_pd(np.full(few.shape, 7.0), few, voxel_mm=2).flagged
    whole = np.ones((20, 20, 20))
    uneven = np.linspace(10, 200, whole.size).reshape(whole.shape)
    assert "receive field" in calibrate_pd(uneven, whole, voxel_mm=2).flagged


def test_calibrate_pd__refuses_what_cannot_be_scaled() -> None:
    with pytest.raises(ImageError, match="found none"):
        calibrate_pd(np.ones((4, 4, 4)), np.full((4, 4, 4), 0.5), voxel_mm=1)
    with pytest.raises(ImageError, match=r"\(4, 4, 4\), found \(4, 4, 5\)"):
        calibrate_pd(np.ones((4, 4, 4)), np.ones((4, 4, 5)), voxel_mm=1)
