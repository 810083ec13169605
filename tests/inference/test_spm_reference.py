"""Agreement with SPM12 on the reference cohort, quantity by quantity, and with a second code of its formulas."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from voxcloud.inference.search import random_field_search
from voxcloud.inference.smoothness import estimate_smoothness, residual_rows, smoothness_of_array
from voxcloud.testing.fields import SmoothNoise

MODELS = (
    "t2_lin_equalvar",
    "t2_lin_unequalvar",
    "t2_quad_equalvar",
    "t2_quad_unequalvar",
    "mreg_lin",
    "mreg_quad",
)


# What agreement with SPM12 means: (equal variances, unequal variances).
PROMISED = {
    "T, every voxel": (1e-5, 1e-3),
    "FWHM, relative": (1e-8, None),
    "resels, relative": (1e-8, None),
    "number of clusters": (0, None),
    "cluster sizes": (0, None),
    "cluster p FWE": (1e-6, None),
    "peak p FWE": (1e-5, None),
}


@pytest.fixture(scope="module")
def report(validation_script: Callable[[str], ModuleType]) -> ModuleType:
    return validation_script("spm_report")


@pytest.mark.parametrize("model", MODELS)
def test_spm_report__every_quantity_is_within_its_tolerance(report: ModuleType, model: str) -> None:
    rows = list(report.compare(model))
    assert len(rows) == (22 if model.endswith("_unequalvar") else 21)
    assert [row for row in rows if not row.holds] == []


def test_spm_report__its_tolerances_are_those_promised(report: ModuleType) -> None:
    for quantity, (equal, unequal) in PROMISED.items():
        assert report.TOLERANCE[quantity][0] <= equal
        assert unequal is None or report.TOLERANCE[quantity][1] <= unequal
    assert set(report.MODELS) == set(report.reference("models")) == set(MODELS)


def test_spm_report__fails_when_the_statistic_is_off(report: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    fitted = report.fit("mreg_quad")
    monkeypatch.setattr(report, "fit", lambda model: replace(fitted, t=fitted.t * 1.001))
    above = {row.quantity for row in report.compare("mreg_quad") if not row.holds}
    assert {"T, every voxel", "peak statistic", "peak p FWE"} <= above


def test_random_field_search__p_values_are_exact_where_spm_rounds(report: ModuleType) -> None:
    found = report.search("t2_lin_equalvar", "con1")
    for cluster in found.clusters:
        for peak in cluster.peaks:
            assert peak.p_uncorrected == pytest.approx(stats.t.sf(peak.value, 27), rel=1e-10)
            assert peak.z == pytest.approx(stats.norm.isf(stats.t.sf(peak.value, 27)), abs=1e-9)


def test_random_field_search__roi_equal_to_the_mask_gives_the_whole_brain_p(report: ModuleType) -> None:
    mask, index, affine, _ = report.cohort()
    fitted = report.fit("t2_lin_equalvar")
    whole, roi = (
        random_field_search(fitted.t, fitted.df, mask, index, affine, fitted.smoothness, roi=volume)
        for volume in (None, mask)
    )
    assert [(c.p_fwe, c.peaks) for c in roi.clusters] == [(c.p_fwe, c.peaks) for c in whole.clusters]
    assert roi.resels == whole.resels


def test_estimate_smoothness__half_of_the_images_estimates_the_same_field(report: ModuleType) -> None:
    mask, index, _, coefficients = report.cohort()
    y = coefficients["linear"] - coefficients["linear"].mean(axis=0)
    residual = y / np.sqrt((y**2).sum(axis=0) / 30.0)
    rows = residual_rows(31, limit=16)
    every = smoothness_of_array(residual, index, mask.shape, 30.0)
    some = estimate_smoothness(lambda a, b: residual[rows, a:b], 16, index, mask.shape, 30.0, n_scans=31)
    np.testing.assert_allclose(some.fwhm_voxels, every.fwhm_voxels, rtol=0.03)


@pytest.mark.parametrize("seed", range(12))
def test_random_field_search__equals_an_independent_code_cohort_by_cohort(
    seed: int, validation_script: Callable[[str], ModuleType]
) -> None:
    shape, n1, n2 = (18, 20, 16), 9, 8
    grid = np.indices(shape) - (np.array(shape) - 1)[:, None, None, None] / 2
    mask = (grid**2).sum(axis=0) < 70
    noise, rng = SmoothNoise(shape, [2.8, 3.2, 3.6]), np.random.default_rng(seed)
    y = np.stack([noise.sample(rng).astype(np.float64) for _ in range(n1 + n2)])
    y[:n1] += 1.2 * (seed % 3) * np.exp(-(grid**2).sum(axis=0) / 9)
    df = n1 + n2 - 2
    residual = np.concatenate([y[:n1] - y[:n1].mean(axis=0), y[n1:] - y[n1:].mean(axis=0)])
    resms = (residual**2).sum(axis=0) / df
    t = (y[:n1].mean(axis=0) - y[n1:].mean(axis=0)) / np.sqrt(resms * (1 / n1 + 1 / n2))
    scaled = residual / np.sqrt(resms)
    index = np.flatnonzero(mask.ravel())
    smoothness = smoothness_of_array(scaled[:, mask], index, shape, float(df))
    found = random_field_search(t[mask], float(df), mask, index, np.diag([4.0, 4, 4, 1]), smoothness, min_extent=0)
    papers = validation_script("formula_from_papers").clusters(t[mask], scaled[:, mask], mask, mask, df)
    ranked = sorted(found.clusters, key=lambda c: -c.size_voxels)
    assert tuple(c.size_voxels for c in ranked) == papers.sizes
    np.testing.assert_allclose([c.p_fwe for c in ranked], papers.p_fwe, rtol=1e-9)
    np.testing.assert_allclose(found.resels, papers.resels, rtol=1e-10)
