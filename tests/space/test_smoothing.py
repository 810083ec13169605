"""Smoothing, against SPM12, the hMRI toolbox and scipy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, ndimage, stats

from voxcloud.errors import ImageError
from voxcloud.space.smoothing import smooth, smooth_tissue_weighted, smoothing_kernel

REFERENCE = Path(__file__).resolve().parent.parent / "reference" / "hmri" / "smooth_reference.npz"
SHAPE = (13, 17, 11)
EVERY = 3  # one voxel in three of the results is kept


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    with np.load(REFERENCE) as content:
        return dict(content)


def random_image(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Any:
    return np.random.default_rng(seed).gamma(4.0, 0.5, shape).astype(np.float32)


def tissue(seed: int = 5) -> tuple[Any, Any]:
    """Return a weight that falls off towards the edges, and a prior that is wider."""
    distance = np.sqrt(sum(((g - (n - 1) / 2) / n) ** 2 for g, n in zip(np.indices(SHAPE), SHAPE, strict=True)))
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, SHAPE)
    return (np.clip(1.4 - 3 * distance, 0, 1) * noise).astype(np.float32), (distance < 0.45).astype(np.float32)


def in_float64(image: Any, fwhm_mm: Any, voxel_mm: Any, kernel: Any, *, renormalise: bool = True) -> Any:
    """Smooth with scipy, in float64."""
    found, inside = np.asarray(image, dtype=np.float64), np.ones(np.shape(image))
    for axis in range(3):
        weights = smoothing_kernel(fwhm_mm[axis] / voxel_mm[axis], kernel)
        found, inside = (ndimage.correlate1d(f, weights, axis=axis, mode="constant") for f in (found, inside))
    return found / inside if renormalise else found


# ---- reference numbers


def test_kernel__is_spms(reference: dict[str, Any]) -> None:
    np.testing.assert_allclose(smoothing_kernel(4.0), reference["kern_fwhm4"].ravel(), atol=1e-10)  # not scaled there


def test_kernel__is_a_gaussian_applied_to_interpolated_samples() -> None:
    sigma = 1.3
    found = smoothing_kernel(sigma * np.sqrt(8 * np.log(2)))
    assert found.size == 2 * 8 + 1

    def value(x: float) -> float:
        return integrate.quad(lambda u: (1 - abs(u)) * stats.norm.pdf(x - u, scale=sigma), -1, 1, points=[0])[0]

    np.testing.assert_allclose(found, [value(x) for x in range(-8, 9)], atol=1e-9)
    x = np.arange(-8, 9)
    assert (found * x**2).sum() == pytest.approx(sigma**2 + 1 / 6, abs=1e-6)


def test_smooth__spm_edges_as_spm(reference: dict[str, Any]) -> None:
    found = smooth(reference["spm_smooth_X"], reference["spm_smooth_fwhm"], 1.0, edges="spm")
    np.testing.assert_allclose(found, reference["spm_smooth_Q"], atol=1e-8)


@pytest.mark.parametrize("tissue_class", ["1", "2"])
def test_smooth__modulated_tissue_as_the_toolbox(reference: dict[str, Any], tissue_class: str) -> None:
    found = smooth(reference[f"in_mwc{tissue_class}sub01"], 5.0, float(reference["voxel_mm"]), edges="spm")
    np.testing.assert_allclose(found.ravel()[::EVERY], reference[f"out_fwhm5_smwc{tissue_class}"], atol=1e-6)


@pytest.mark.parametrize("tissue_class", ["1", "2"])
def test_tissue_weighted__as_the_toolbox(reference: dict[str, Any], tissue_class: str) -> None:
    found = smooth_tissue_weighted(
        {"MTsat": reference["in_wsub01_MTsat"]},
        reference[f"in_mwc{tissue_class}sub01"],
        reference[f"tpm{tissue_class}_above"],
        5.0,
        float(reference["voxel_mm"]),
        edges="spm",
        prior_mask="numerator",
    )["MTsat"].ravel()[::EVERY]
    expected = reference[f"out_fwhm5_wap{tissue_class}"]
    if tissue_class == "1":
        expected = np.where(expected == 0, np.nan, expected)
    assert np.isfinite(expected).sum() > 10_000
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---- plain smoothing


@pytest.mark.parametrize("renormalise", [True, False])
def test_smooth__anisotropic_voxels_and_widths_as_scipy(renormalise: bool) -> None:
    image, fwhm, voxel = random_image(), (4.0, 2.5, 7.0), (1.0, 1.5, 2.0)
    expected = in_float64(image, fwhm, voxel, "spm", renormalise=renormalise)
    if not renormalise:  # along z always
        weights = smoothing_kernel(3.5)
        expected = expected / ndimage.correlate1d(np.ones(SHAPE[2]), weights, mode="constant")
    found = smooth(image, fwhm, voxel, edges="renormalise" if renormalise else "spm")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=6e-7)


def test_smooth__gaussian_as_scipy() -> None:
    image = random_image()
    sigma = 5.0 / 1.5 / np.sqrt(8 * np.log(2))
    filtered = [
        ndimage.gaussian_filter(f.astype(np.float64), sigma, mode="constant", truncate=6.0)
        for f in (image, image * 0 + 1)
    ]
    np.testing.assert_allclose(smooth(image, 5.0, 1.5, kernel="gaussian"), filtered[0] / filtered[1], rtol=6e-7)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 2), (3, 1, 1), (2, 2, 40)])
@pytest.mark.parametrize("fwhm", [0.0, 0.4, 3.0, 200.0])
def test_smooth__tiny_images_and_wide_kernels_as_scipy(shape: tuple[int, int, int], fwhm: float) -> None:
    image = random_image(3, shape)
    weights = smoothing_kernel(fwhm / 1.5)

    def along(values: Any, axis: int) -> Any:
        return np.apply_along_axis(lambda row: np.convolve(row, weights)[weights.size // 2 :][: row.size], axis, values)

    expected, inside = image.astype(np.float64), np.ones(shape)
    for axis in range(3):
        expected, inside = along(expected, axis), along(inside, axis)
    np.testing.assert_allclose(smooth(image, fwhm, 1.5), expected / inside, rtol=6e-7)


def test_smooth__no_width_changes_nothing() -> None:
    image = random_image()
    np.testing.assert_array_equal(smooth(image, 0.0, 1.5), image)
    along_y = smooth(image, (0.0, 4.0, 0.0), 1.5)
    np.testing.assert_array_equal(along_y[3:4], smooth(image[3:4], 4.0 * np.array([0, 1, 0]), 1.5))


@pytest.mark.parametrize("fwhm", [3.0, 5.0, 60.0])
def test_smooth__a_constant_stays_constant_up_to_the_edges(fwhm: float) -> None:
    image = np.full(SHAPE, 7.3, np.float32)
    np.testing.assert_allclose(smooth(image, fwhm, 1.5), 7.3, rtol=4e-7)
    at_the_edge = smooth(image, fwhm, 1.5, edges="spm")
    assert at_the_edge[0, 8, 5] < 0.8 * 7.3  # half of the kernel lies outside
    if fwhm == 3.0:
        assert at_the_edge[6, 8, 0] == pytest.approx(7.3, rel=1e-6)


@pytest.mark.parametrize("edges", ["renormalise", "spm"])
@pytest.mark.parametrize("flipped", [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)])
def test_smooth__is_the_same_bits_in_a_mirror(edges: Any, flipped: tuple[int, ...]) -> None:
    # Rows longer than a block, and of a length that vector instructions do not divide.
    image = random_image(1, (9, 41, 67))
    expected = np.flip(smooth(image, 5.0, 1.5, edges=edges), flipped)
    np.testing.assert_array_equal(smooth(np.flip(image, flipped), 5.0, 1.5, edges=edges), expected)


def test_smooth__unknown_voxels_have_no_weight() -> None:
    image = random_image()
    image[4:7, 5, 5:8] = np.nan
    image[0, 0, 0] = np.inf
    known = np.isfinite(image)
    filled = np.where(known, image, 0)
    voxel, fwhm = (1.5, 1.5, 1.5), (5.0, 5.0, 5.0)
    share = in_float64(known, fwhm, voxel, "spm", renormalise=False)
    expected = np.where(known, in_float64(filled, fwhm, voxel, "spm", renormalise=False) / share, np.nan)
    np.testing.assert_allclose(smooth(image, 5.0, 1.5), expected, rtol=1e-6)
    np.testing.assert_array_equal(smooth(image, 5.0, 1.5, edges="spm"), smooth(filled, 5.0, 1.5, edges="spm"))
    assert np.isnan(smooth(np.full(SHAPE, np.nan), 5.0, 1.5)).all()


def test_smooth__any_layout_of_memory_gives_the_same_bits() -> None:
    image = random_image()
    expected = smooth(image, 5.0, 1.5)
    np.testing.assert_array_equal(smooth(np.asfortranarray(image), 5.0, 1.5), expected)
    np.testing.assert_array_equal(smooth(image.astype(">f4"), 5.0, 1.5), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.ones((2, 2)), 5.0, 1.5), r"image: expected an image \(x, y, z\), found shape \(2, 2\)"),
        ((np.ones((2, 0, 2)), 5.0, 1.5), "image: expected an image"),
        ((np.ones(SHAPE), -1.0, 1.5), "fwhm_mm: expected one number or three, 0 or more"),
        ((np.ones(SHAPE), (1, 2), 1.5), "fwhm_mm: expected one number or three"),
        ((np.ones(SHAPE), np.nan, 1.5), "fwhm_mm: expected"),
        ((np.ones(SHAPE), 5.0, (1.5, 0, 1.5)), "voxel_mm: expected one number or three, above 0"),
    ],
)
def test_smooth__says_what_is_wrong(arguments: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        smooth(*arguments)


# ---- within a tissue


def weighted(m: Any, w: Any, prior: Any, **options: Any) -> Any:
    return smooth_tissue_weighted({"m": m}, w, prior, 5.0, 1.5, **options)["m"]


def test_tissue_weighted__is_the_weighted_mean() -> None:
    m, (w, prior) = random_image(), tissue()
    voxel, fwhm = (1.5, 1.5, 1.5), (5.0, 5.0, 5.0)
    product, weight = (in_float64(f, fwhm, voxel, "spm") for f in (m.astype(np.float64) * w, w))
    expected = np.where((prior > 0.05) & (weight > 0.05), product / weight, np.nan)
    assert 0.1 < np.isfinite(expected).mean() < 0.9
    np.testing.assert_allclose(weighted(m, w, prior), expected, rtol=1e-6)


@pytest.mark.parametrize("edges", ["renormalise", "spm"])
def test_tissue_weighted__a_constant_map_stays_constant(edges: Any) -> None:
    w, prior = tissue()
    found = weighted(np.full(SHAPE, 0.83), w, prior, edges=edges)
    np.testing.assert_allclose(found[np.isfinite(found)], 0.83, rtol=8e-7)
    # The toolbox's way does not: voxels below the prior's limit are in the denominator alone.
    prior[:7] = 0
    theirs = weighted(np.full(SHAPE, 0.83), w, prior, edges=edges, prior_mask="numerator")
    assert theirs[7, 8, 5] < 0.7 * 0.83
    assert weighted(np.full(SHAPE, 0.83), w, prior, edges=edges)[7, 8, 5] == pytest.approx(0.83, rel=8e-7)


def test_tissue_weighted__is_linear_in_the_map() -> None:
    (first, second), (w, prior) = (random_image(1), random_image(2)), tissue()
    both = weighted(2 * first - 0.5 * second, w, prior)
    np.testing.assert_allclose(both, 2 * weighted(first, w, prior) - 0.5 * weighted(second, w, prior), atol=4e-6)


def test_tissue_weighted__values_outside_the_tissue_do_not_matter() -> None:
    m, (w, prior) = random_image(), tissue()
    expected = weighted(m, w, prior)
    for value in (1e6, np.nan, -np.inf):
        np.testing.assert_array_equal(weighted(np.where(w > 0, m, value), w, prior), expected)
    # Nor what is no weight: overshoot of interpolation, unknown tissue.
    for value in (-0.01, np.nan):
        np.testing.assert_array_equal(weighted(m, np.where(w > 0, w, value), prior), expected)


def test_tissue_weighted__unknown_voxels_have_no_weight_for_their_map_only() -> None:
    m, (w, prior) = random_image(), tissue()
    holes = m.copy()
    holes[5:8, 8, 4:7] = np.nan
    found = smooth_tissue_weighted({"whole": m, "holes": holes, "again": 3 * holes}, w, prior, 5.0, 1.5)
    np.testing.assert_array_equal(found["whole"], weighted(m, w, prior))
    expected = weighted(np.nan_to_num(holes), np.where(np.isfinite(holes), w, 0), prior)
    np.testing.assert_array_equal(found["holes"], expected)
    np.testing.assert_array_equal(found["again"], weighted(3 * holes, w, prior))
    assert np.isfinite(found["holes"][6, 8, 5])  # filled from around it, as the mean of what is known
    assert not np.allclose(found["whole"], found["holes"], equal_nan=True)


def test_tissue_weighted__nothing_known_gives_nothing() -> None:
    w, prior = tissue()
    assert np.isnan(weighted(np.full(SHAPE, np.nan), w, prior)).all()
    assert np.isnan(weighted(random_image(), np.zeros(SHAPE), prior)).all()
    assert np.isnan(weighted(random_image(), w, np.full(SHAPE, 0.05))).all()
    assert np.isnan(weighted(random_image(), w, np.full(SHAPE, np.nan))).all()
    assert smooth_tissue_weighted({}, w, prior, 5.0, 1.5) == {}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tissue_weighted__is_the_same_bits_in_a_mirror(axis: int) -> None:
    m, (w, prior) = random_image(), tissue()
    m[3, 4:9, 5] = np.nan
    expected = np.flip(weighted(m, w, prior), axis)
    np.testing.assert_array_equal(weighted(*(np.flip(f, axis) for f in (m, w, prior))), expected)


def test_tissue_weighted__changes_none_of_its_inputs() -> None:
    m, (w, prior) = random_image(), tissue()
    before = [f.copy() for f in (m, w, prior)]
    weighted(m, w, prior)
    for now, then in zip((m, w, prior), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_tissue_weighted__names_the_map_that_does_not_fit() -> None:
    w, prior = tissue()
    with pytest.raises(ImageError, match=r"R1map: expected the shape of the weights, \(13, 17, 11\), found shape"):
        smooth_tissue_weighted({"R1map": np.ones((2, 2, 2))}, w, prior, 5.0, 1.5)
    with pytest.raises(ImageError, match="prior: expected the shape of the weights"):
        smooth_tissue_weighted({}, w, prior[:3], 5.0, 1.5)
