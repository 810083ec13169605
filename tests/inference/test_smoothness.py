"""Smoothness: against a direct formula, known smoothness, any slab size, and small memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from voxcloud.errors import DesignError, MaskError
from voxcloud.inference.smoothness import Smoothness, estimate_smoothness, residual_rows, smoothness_of_array
from voxcloud.testing.fields import SmoothNoise

SHAPE = (14, 12, 10)


def ball(shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.bool_]:
    grid = np.indices(shape) - (np.array(shape) - 1)[:, None, None, None] / 2
    return np.asarray((grid**2).sum(axis=0) < (min(shape) / 2) ** 2)


def fields(n: int, fwhm: tuple[float, float, float], shape: tuple[int, int, int], seed: int = 0) -> npt.NDArray:
    noise, rng = SmoothNoise(shape, fwhm), np.random.default_rng(seed)
    return np.stack([noise.sample(rng).astype(np.float64) for _ in range(n)])


def direct(volumes: npt.NDArray, mask: npt.NDArray[np.bool_], erdf: float) -> tuple[npt.NDArray, npt.NDArray]:
    """Widths and resels per voxel, voxel by voxel as the definition reads."""
    resels, roots = [], []
    for x, y, z in np.argwhere(mask):
        if not (x + 1 < mask.shape[0] and y + 1 < mask.shape[1] and z + 1 < mask.shape[2]):
            continue
        if not mask[x : x + 2, y : y + 2, z : z + 2].all():
            continue
        here = volumes[:, x, y, z]
        steps = np.stack([volumes[:, x + 1, y, z], volumes[:, x, y + 1, z], volumes[:, x, y, z + 1]]) - here
        roughness = steps @ steps.T / erdf
        resels.append(np.sqrt(max(np.linalg.det(roughness), 0) / (4 * np.log(2)) ** 3))
        roots.append(np.sqrt(np.diag(roughness) / (4 * np.log(2))))
    mean, axes = np.mean(resels), np.mean(roots, axis=0)
    return 1 / (mean ** (1 / 3) * axes / np.prod(axes) ** (1 / 3)), np.array(resels)


def test_estimate_smoothness__equals_the_definition_voxel_by_voxel() -> None:
    mask, volumes = ball(), fields(9, (2.0, 3.0, 4.0), SHAPE)
    index = np.flatnonzero(mask.ravel())
    found = smoothness_of_array(volumes[:, mask], index, SHAPE, 7.0)
    width, resels = direct(volumes, mask, 7.0)
    np.testing.assert_allclose(found.fwhm_voxels, width, rtol=1e-12)
    known = found.resels_per_voxel[np.isfinite(found.resels_per_voxel)]
    np.testing.assert_allclose(known, resels, rtol=1e-9)
    assert found.n_voxels_used == resels.size
    assert found.voxels_per_resel == pytest.approx(1 / known.mean(), rel=1e-12)


@pytest.mark.parametrize("slab", [1, 7, 64, 333, 10_000])
def test_estimate_smoothness__has_the_same_bits_for_any_slab(slab: int) -> None:
    mask, volumes = ball(), fields(6, (2.0, 3.0, 2.5), SHAPE)
    values, index = volumes[:, mask], np.flatnonzero(mask.ravel())
    whole = smoothness_of_array(values, index, SHAPE, 5.0)
    reads: list[int] = []

    def read(start: int, stop: int) -> npt.NDArray[np.float64]:
        reads.append(stop - start)
        return np.ascontiguousarray(values[:, start:stop])

    slabs = estimate_smoothness(read, 6, index, SHAPE, 5.0, slab_voxels=slab)
    assert slabs.fwhm_voxels == whole.fwhm_voxels
    np.testing.assert_array_equal(slabs.resels_per_voxel, whole.resels_per_voxel)
    halo = SHAPE[1] * SHAPE[2] + SHAPE[2] + 2
    assert max(reads) <= slab + halo


def test_estimate_smoothness__finds_the_smoothness_that_was_made() -> None:
    shape, made = (40, 40, 40), (3.0, 4.0, 5.0)
    volumes = fields(30, made, shape, seed=3)
    residual = volumes - volumes.mean(axis=0)
    scaled = residual / np.sqrt((residual**2).sum(axis=0) / 29)
    found = smoothness_of_array(scaled.reshape(30, -1), np.arange(40**3), shape, 29.0)
    # A finite difference over one voxel sees a little less roughness than the derivative.
    np.testing.assert_allclose(found.fwhm_voxels, made, rtol=0.06)
    assert all(width > kernel for width, kernel in zip(found.fwhm_voxels, made, strict=True))


def test_estimate_smoothness__scales_with_the_share_of_images_read() -> None:
    mask, volumes = ball(), fields(8, (3.0, 3.0, 3.0), SHAPE)
    index = np.flatnonzero(mask.ravel())
    eight = smoothness_of_array(volumes[:, mask], index, SHAPE, 6.0)
    twice = smoothness_of_array(volumes[:, mask], index, SHAPE, 12.0, n_scans=16)
    np.testing.assert_allclose(twice.fwhm_voxels, eight.fwhm_voxels, rtol=1e-13)


def test_estimate_smoothness__leaves_out_constant_and_missing_voxels() -> None:
    mask, volumes = np.ones(SHAPE, dtype=bool), fields(8, (3.0, 3.0, 3.0), SHAPE)
    volumes[:, 5, 5, 5] = 0.0
    volumes[:, 2, 2, 2] = np.nan
    found = smoothness_of_array(volumes.reshape(8, -1), np.arange(mask.size), SHAPE, 6.0)
    cell = found.resels_per_voxel.reshape(SHAPE)
    assert np.isnan(cell[5, 5, 5])
    assert np.isfinite(cell[4, 5, 5])
    assert np.isnan(cell[2, 2, 2])
    assert np.isnan(cell[1, 2, 2])
    assert all(np.isfinite(found.fwhm_voxels))


def test_estimate_smoothness__takes_a_plane() -> None:
    shape = (30, 1, 30)
    volumes = fields(20, (3.0, 0.0, 4.0), shape, seed=5)
    found = smoothness_of_array(volumes.reshape(20, -1), np.arange(900), shape, 20.0)
    assert found.fwhm_voxels[1] == 1.0
    np.testing.assert_allclose(np.array(found.fwhm_voxels)[[0, 2]], (3.0, 4.0), rtol=0.1)


def test_estimate_smoothness__does_not_wrap_round_the_grid() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1:3, 1:3, 3] = True  # beyond the last z the flattened index goes on in the next row
    mask[1:3, 1:4, 0] = True
    with pytest.raises(MaskError, match="thicker mask"):
        smoothness_of_array(np.ones((3, int(mask.sum()))), np.flatnonzero(mask.ravel()), (4, 4, 4), 3.0)


def test_estimate_smoothness__stays_far_below_all_residuals_in_memory() -> None:
    shape, n = (64, 64, 64), 64
    index = np.arange(64**3)
    rng = np.random.default_rng(0)
    row = 10.0 + rng.standard_normal(index.size)

    def read(start: int, stop: int) -> npt.NDArray[np.float32]:
        shifts = np.linspace(0.5, 1.5, n, dtype=np.float32)[:, None]
        return shifts * row[start:stop].astype(np.float32)

    tracemalloc.start()
    found = estimate_smoothness(read, n, index, shape, 60.0, slab_voxels=20_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.n_voxels_used == 63**3
    assert peak < 0.5 * n * index.size * 8


def test_estimate_smoothness__refuses_what_it_cannot_use() -> None:
    index = np.arange(27)
    ones = np.ones((3, 27))
    with pytest.raises(MaskError, match="no voxel"):
        smoothness_of_array(np.ones((3, 0)), np.array([], dtype=int), (3, 3, 3), 3.0)
    with pytest.raises(MaskError, match="increasing voxel indices"):
        smoothness_of_array(ones, index[::-1], (3, 3, 3), 3.0)
    with pytest.raises(DesignError, match="degrees of freedom"):
        smoothness_of_array(ones, index, (3, 3, 3), 0.0)
    with pytest.raises(DesignError, match="zero or not finite"):
        smoothness_of_array(0 * ones, index, (3, 3, 3), 3.0)
    with pytest.raises(DesignError, match="expected"):
        estimate_smoothness(lambda start, stop: ones[:2, start:stop], 3, index, (3, 3, 3), 3.0)


def test_nonstationarity__sees_two_halves_of_unlike_smoothness() -> None:
    shape = (40, 20, 20)
    even = fields(30, (3.0, 3.0, 3.0), shape)
    uneven = even.copy()
    uneven[:, 20:] = fields(30, (6.0, 6.0, 6.0), shape, seed=9)[:, 20:]
    index = np.arange(16_000)
    one, two = (smoothness_of_array(v.reshape(30, -1), index, shape, 30.0) for v in (even, uneven))
    assert one.nonstationarity() < 1.2 * one.stationary_ratio()
    assert two.nonstationarity() > 2.0 * two.stationary_ratio()


@pytest.mark.parametrize("n", [10, 30, 60])
def test_stationary_ratio__is_about_what_an_even_field_gives(n: int) -> None:
    shape = (30, 30, 30)
    volumes = fields(n, (4.0, 4.0, 4.0), shape, seed=n)
    scaled = volumes / np.sqrt((volumes**2).mean(axis=0))
    found = smoothness_of_array(scaled.reshape(n, -1), np.arange(27_000), shape, float(n))
    assert found.nonstationarity() == pytest.approx(found.stationary_ratio(), rel=0.3)


@pytest.mark.parametrize("n", [1, 12, 64])
def test_residual_rows__takes_all_of_few(n: int) -> None:
    np.testing.assert_array_equal(residual_rows(n), np.arange(n))


@pytest.mark.parametrize("n", [65, 245, 1225])
def test_residual_rows__spaces_64_evenly(n: int) -> None:
    rows = residual_rows(n)
    assert rows.size == 64
    assert rows[0] == 0
    assert rows[-1] == n - 1
    assert np.diff(rows).min() >= 1
    assert np.ptp(np.diff(rows)) <= 1


def test_fwhm_mm__multiplies_by_the_voxel_size() -> None:
    found = smoothness_of_array(fields(5, (2.0, 2.0, 2.0), SHAPE).reshape(5, -1), np.arange(1680), SHAPE, 5.0)
    np.testing.assert_allclose(found.fwhm_mm([2.0, 3.0, 4.0]), np.array(found.fwhm_voxels) * [2, 3, 4])


@pytest.mark.parametrize("df", [12, 27, 60, 200])
def test_stationary_ratio__is_that_of_wishart_determinants_over_residual_variances(df: int) -> None:
    rng = np.random.default_rng(df)
    slopes = stats.wishart(df, np.eye(3)).rvs(40_000, random_state=rng)
    variance = rng.chisquare(df, 40_000)
    low, high = np.percentile(np.sqrt(np.linalg.det(slopes)) / variance**1.5, [5, 95])
    found = Smoothness((3.0, 3.0, 3.0), 1, float(df), np.ones(1)).stationary_ratio()
    assert np.log(found) == pytest.approx(np.log(high / low), rel=0.04)
