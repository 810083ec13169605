"""Agreement with SPM12 on the reference cohort, and with an independent reading of its cluster formula."""

from __future__ import annotations

import importlib.util
import sys
from math import exp, gamma, lgamma, log, pi, sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage, stats

from voxcloud.inference.search import random_field_search
from voxcloud.inference.smoothness import estimate_smoothness, residual_rows, smoothness_of_array
from voxcloud.testing.fields import SmoothNoise

ROOT = Path(__file__).resolve().parents[2]
MODELS = (
    "t2_lin_equalvar",
    "t2_lin_unequalvar",
    "t2_quad_equalvar",
    "t2_quad_unequalvar",
    "mreg_lin",
    "mreg_quad",
)


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spm_report", ROOT / "validation" / "spm_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spm_report"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", MODELS)
def test_spm_report__every_quantity_is_within_its_tolerance(report: ModuleType, model: str) -> None:
    rows = list(report.compare(model))
    assert len(rows) == (21 if model.endswith("_unequalvar") else 20)
    assert [row for row in rows if not row.holds] == []


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
    y = coefficients["lin"] - coefficients["lin"].mean(axis=0)
    residual = y / np.sqrt((y**2).sum(axis=0) / 30.0)
    rows = residual_rows(31, limit=16)
    every = smoothness_of_array(residual, index, mask.shape, 30.0)
    some = estimate_smoothness(lambda a, b: residual[rows, a:b], 16, index, mask.shape, 30.0, n_scans=31)
    np.testing.assert_allclose(some.fwhm_voxels, every.fwhm_voxels, rtol=0.03)


def independent_smallest_p(t: np.ndarray, residual: np.ndarray, mask: np.ndarray, df: int) -> float:
    """Smallest familywise cluster p of a map, written from the papers alone and sharing no code with the package.

    ``residual`` (image, x, y, z) are standardised residuals.
    """
    padded = np.pad(mask, ((0, 1),) * 3)
    cell = mask.copy()
    for x in (0, 1):
        for y in (0, 1):
            for z in (0, 1):
                cell &= padded[x : x + mask.shape[0], y : y + mask.shape[1], z : z + mask.shape[2]]
    slopes = np.stack([np.diff(residual, axis=a + 1, append=0.0)[:, cell] for a in range(3)])
    roughness = np.einsum("aiv,biv->vab", slopes, slopes) / df / (4 * log(2))
    volume = np.sqrt(np.maximum(np.linalg.det(roughness), 0)).mean()
    axes = np.sqrt(np.einsum("vaa->va", roughness)).mean(axis=0)
    fwhm = (axes.prod() / volume) ** (1 / 3) / axes
    counts = np.zeros(4)
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    for shape in corners:  # an elementary cube of every dimension: point, edge, face, cube
        sides = [range(a + 1) for a in shape]
        whole = np.ones_like(mask)
        for x in sides[0]:
            for y in sides[1]:
                for z in sides[2]:
                    whole &= padded[x : x + mask.shape[0], y : y + mask.shape[1], z : z + mask.shape[2]]
        n = whole.sum()
        for sub in corners:  # its share in the volumes of lower dimension, with alternating sign
            if all(b <= a for a, b in zip(shape, sub, strict=True)):
                sign = (-1) ** (sum(shape) - sum(sub))
                counts[sum(sub)] += sign * n * np.prod([1 / f for f, b in zip(fwhm, sub, strict=True) if b])
    u = float(stats.t.isf(0.001, df))
    b, core = 4 * log(2), (1 + u * u / df) ** (-(df - 1) / 2)
    density = [
        float(stats.t.sf(u, df)),
        sqrt(b) / (2 * pi) * core,
        b / (2 * pi) ** 1.5 * exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(df / 2) * u * core,
        b**1.5 / (2 * pi) ** 2 * ((df - 1) / df * u * u - 1) * core,
    ]
    expected = float(counts @ density)
    labels, n = ndimage.label(np.where(mask, t, -np.inf) > u, structure=ndimage.generate_binary_structure(3, 2))
    if n == 0:
        return 1.0
    largest = np.bincount(labels.ravel())[1:].max() / fwhm.prod()
    return 1 - exp(-expected * exp(-((gamma(2.5) * largest * density[3] / density[0]) ** (2 / 3))))


@pytest.mark.parametrize("seed", range(12))
def test_random_field_search__equals_an_independent_code_cohort_by_cohort(seed: int) -> None:
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
    assert found.p_fwe_min == pytest.approx(independent_smallest_p(t, scaled, mask, df), rel=1e-9)
