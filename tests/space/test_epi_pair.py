"""The field from a pair of EPI images: against a known field, and on a measured pair."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space import epi_pair
from voxcloud.space import epi_pair_kernels as kernels
from voxcloud.space.epi_pair import NOT_BETTER, EpiPair, field_from_pair
from voxcloud.space.unwarp import unwarp_epi

READOUT_S = 0.030
FINE = 20

Simulated = Callable[[float, float], tuple[Any, Any, Any, Any]]


def move_mass(density: Any, moved: Any) -> Any:
    """Distort along the second axis: the signal in front of y ends up in front of y + d(y)."""
    n = density.shape[1]
    out = np.empty(density.shape)
    places, edges = (np.arange(n * FINE) + 0.5) / FINE - 0.5, np.arange(n * FINE + 1) / FINE - 0.5
    for i, k in np.ndindex(density.shape[0], density.shape[2]):
        before = np.concatenate([[0], np.cumsum(np.interp(places, np.arange(n), density[i, :, k])) / FINE])
        arrives = edges + np.interp(edges, np.arange(n), moved[i, :, k])
        out[i, :, k] = np.diff(np.interp(np.arange(n + 1) - 0.5, arrives, before))
    return out


@pytest.fixture(scope="module")
def simulate() -> Simulated:
    """Give images with j and j-, displacement in voxels and mask, for a largest displacement and noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

        template = load_mni152_template(resolution=3).get_fdata()
        brain = load_mni152_brain_mask(resolution=3).get_fdata() > 0
    density = template / template[brain].mean()
    x, y, z = (3.0 * (g - c) for g, c in zip(np.indices(brain.shape), ndimage.center_of_mass(brain), strict=True))
    # Above the sinuses, above both ear canals, and a shim that is a little off; in mm.
    shape = np.exp(-((x / 25) ** 2 + ((y - 50) / 22) ** 2 + ((z + 35) / 20) ** 2)) + 0.001 * y
    shape -= 0.5 * np.exp(-(((np.abs(x) - 45) / 18) ** 2 + ((y + 5) / 20) ** 2 + ((z + 35) / 16) ** 2))
    shape /= np.abs(shape[brain]).max()

    def make(peak: float, noise: float) -> tuple[Any, Any, Any, Any]:
        rng = np.random.default_rng(0)
        images = [
            np.hypot(
                move_mass(density, sign * peak * shape) + noise * rng.standard_normal(brain.shape),
                noise * rng.standard_normal(brain.shape),
            )
            for sign in (1, -1)
        ]
        return images[0], images[1], peak * shape, brain

    return make


def error_voxels(pair: EpiPair, moved: Any, brain: Any) -> Any:
    return np.abs(pair.field_hz * READOUT_S - moved)[brain]


# The mean signal of the brain is 1.
@pytest.mark.parametrize(
    ("peak", "noise", "median", "p95", "largest"),
    [(4.0, 0.03, 0.03, 0.10, 0.6), (8.0, 0.03, 0.03, 0.12, 1.2), (4.0, 0.10, 0.06, 0.20, 1.2)],
)
def test_field_from_pair__known_field(
    simulate: Simulated, peak: float, noise: float, median: float, p95: float, largest: float
) -> None:
    positive, negative, moved, brain = simulate(peak, noise)
    pair = field_from_pair(positive * 700, negative * 730, (3, 3, 3), "j", READOUT_S)
    error = error_voxels(pair, moved, brain)
    assert np.median(error) < median
    assert np.percentile(error, 95) < p95
    assert error.max() < largest
    assert np.abs(moved)[brain].max() == pytest.approx(peak)
    assert pair.report["gain"] == pytest.approx(700 / 730, rel=0.01)
    assert pair.report["least_jacobian"] > 0
    assert np.isfinite(pair.field_hz).all()
    undistorted, _, _, _ = simulate(0.0, 0.0)
    assert np.corrcoef(pair.corrected[brain], undistorted[brain])[0, 1] > (0.985 if noise < 0.1 else 0.92)


def test_field_from_pair__each_direction_and_axis(simulate: Simulated) -> None:
    positive, negative, moved, brain = simulate(4.0, 0.03)
    positive, negative, moved, brain = (a[::2, :, 8:32] for a in (positive, negative, moved, brain))
    voxel_mm = (6.0, 3.0, 3.0)
    first = field_from_pair(positive, negative, voxel_mm, "j", READOUT_S)
    assert np.median(error_voxels(first, moved, brain)) < 0.05
    swapped = field_from_pair(negative, positive, voxel_mm, "j-", READOUT_S)
    np.testing.assert_allclose(swapped.field_hz, first.field_hz, atol=1e-3)
    flipped = field_from_pair(positive[:, ::-1], negative[:, ::-1], voxel_mm, "j-", READOUT_S)
    assert np.median(error_voxels(flipped, moved[:, ::-1], brain[:, ::-1])) < 0.05
    for axis, direction in ((0, "i"), (2, "k")):
        turned = [np.swapaxes(a, 1, axis) for a in (positive, negative)]
        sizes = np.array(voxel_mm)
        sizes[[1, axis]] = sizes[[axis, 1]]
        found = field_from_pair(turned[0], turned[1], sizes, direction, READOUT_S)  # type: ignore[arg-type]
        error = error_voxels(found, np.swapaxes(moved, 1, axis), np.swapaxes(brain, 1, axis))
        assert np.median(error) < 0.05
        assert found.doubt == ""
        assert found.corrected.shape == turned[0].shape


def test_field_from_pair__undistorted_images_have_no_field(simulate: Simulated) -> None:
    positive, _, _, brain = simulate(0.0, 0.0)
    with pytest.warns(UserWarning, match=NOT_BETTER):
        pair = field_from_pair(positive, positive.copy(), (3, 3, 3), "j", READOUT_S)
    assert NOT_BETTER in pair.doubt
    assert np.abs(pair.field_hz).max() < 1e-6
    np.testing.assert_allclose(pair.corrected[brain], positive[brain], rtol=1e-5)


def test_field_from_pair__measured_pair(shared_data: Callable[[str], Path]) -> None:
    import nibabel as nib

    def load(name: str) -> Any:
        return np.asarray(nib.load(shared_data(f"dwi/DWI_dir80_{name}.nii.gz")).dataobj, dtype=np.float32)  # type: ignore[attr-defined]

    pa, ap = load("PA"), load("AP")
    assert nib.aff2axcodes(nib.load(shared_data("dwi/DWI_dir80_PA.nii.gz")).affine) == ("L", "A", "S")  # type: ignore[attr-defined]
    pair = field_from_pair(pa[..., 0], ap[..., 0], (3, 3, 3), "j", READOUT_S)
    assert pair.report["correlation_before"] < 0.60
    assert pair.report["correlation_after"] > 0.95
    assert pair.report["least_jacobian"] > 0
    head = pair.corrected > 0.5 * np.percentile(pair.corrected, 90)
    # Diffusion-weighted volumes of both series, which the estimate has not seen.
    mean_pa, mean_ap = pa[..., 1:].mean(axis=-1), ap[..., 1:].mean(axis=-1)
    one = unwarp_epi(mean_pa, pair.field_hz, READOUT_S, "j", modulate=True)
    two = unwarp_epi(mean_ap, pair.field_hz, READOUT_S, "j-", modulate=True)
    before, after = (np.corrcoef(a[head], b[head])[0, 1] for a, b in ((mean_pa, mean_ap), (one, two)))
    assert before < 0.80
    assert after > 0.90
    # Plausible: a few voxels, and smooth (a step between neighbours is mostly under a tenth of a voxel).
    moved = pair.field_hz * READOUT_S
    assert 1.5 < np.percentile(np.abs(moved[head]), 99) < 6
    for axis in (0, 2):
        steps = np.abs(np.diff(moved, axis=axis))
        assert np.median(steps) < 0.1
        assert np.percentile(steps, 99) < 1.0
    # Air in the sphenoid and frontal sinuses makes the field above them positive; index 50 is in front of the centre.
    assert moved[33:40, 47:54, 12:16].mean() > 1.0


def test_field_from_pair__refuses_by_name() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 2, (10, 12, 9))
    with pytest.raises(ImageError, match=r"sub-01: .*one shape, found \(10, 12, 9\) and \(10, 11, 9\)"):
        field_from_pair(image, image[:, 1:], (3, 3, 3), "j", 0.03, name="sub-01")
    with pytest.raises(ImageError, match=r"found 30\. 30 where 0\.03 is meant"):
        field_from_pair(image, image, (3, 3, 3), "j", 30)
    with pytest.raises(ImageError, match="found 'y'"):
        field_from_pair(image, image, (3, 3, 3), "y", 0.03)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"at least 8 voxels along phase encoding \(axis k\)"):
        field_from_pair(image[..., :6], image[..., :6], (3, 3, 3), "k", 0.03)
    with pytest.raises(ImageError, match="three positive voxel sizes"):
        field_from_pair(image, image, (3, 3, 0), "j", 0.03)
    with pytest.raises(ImageError, match=r"negative image .* 1080 voxels that are not finite"):
        field_from_pair(image, image * np.nan, (3, 3, 3), "j", 0.03)
    with pytest.raises(ImageError, match=r"positive image .* a sum of 0"):
        field_from_pair(image * 0, image, (3, 3, 3), "j", 0.03)
    with pytest.raises(ImageError, match=r"found a ratio of 0\.333"):
        field_from_pair(image, 3 * image, (3, 3, 3), "j", 0.03)
    with pytest.raises(ImageError, match="stiffness and barrier above 0"):
        field_from_pair(image, image, (3, 3, 3), "j", 0.03, stiffness=0)


@pytest.fixture
def level() -> Any:
    rng = np.random.default_rng(5)
    images = [ndimage.gaussian_filter(rng.uniform(0, 4, (4, 5, 14)), 1) for _ in range(2)]
    splines = [epi_pair._spline(image) for image in images]
    return epi_pair._Level(splines[0], splines[1], np.array([0.02, 0.03, 0.05]), 1e-2)


def system(level: Any, u: Any) -> tuple[Any, Any, Any]:
    gradient, diagonal, beside = np.empty(u.shape), np.empty(u.shape), np.empty(level.plus.shape)
    kernels.linearise(level.plus, level.minus, u, level.stiffness, level.barrier, gradient, diagonal, beside)
    return gradient, diagonal, beside


def test_linearise__gradient_is_the_derivative_of_the_misfit(level: Any) -> None:
    rng = np.random.default_rng(6)
    u = 0.1 * rng.normal(size=(4, 5, 15))
    gradient, _, _ = system(level, u)
    for _ in range(5):
        way, h = rng.normal(size=u.shape), 1e-6
        ahead, behind = (
            kernels.misfit(level.plus, level.minus, u + s * h * way, level.stiffness, level.barrier) for s in (1, -1)
        )
        assert (gradient * way).sum() == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_misfit__a_fold_is_never_accepted(level: Any) -> None:
    u = np.zeros((4, 5, 15))
    u[2, 2, 7] = 1.0
    assert kernels.misfit(level.plus, level.minus, u, level.stiffness, level.barrier) == np.inf


def test_solve__the_system_and_its_lines(level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    _, diagonal, beside = system(level, 0.1 * rng.normal(size=(4, 5, 15)))
    n = diagonal.size
    matrix = np.empty((n, n))
    for k in range(n):
        unit, column = np.zeros(n), np.empty(diagonal.shape)
        unit[k] = 1
        kernels.multiply(diagonal, beside, level.stiffness, unit.reshape(diagonal.shape), column)
        matrix[:, k] = column.ravel()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0
    right = rng.normal(size=diagonal.shape)
    monkeypatch.setattr(epi_pair, "SOLVED", 1e-10)
    monkeypatch.setattr(epi_pair, "MOST_PRODUCTS", 500)
    found = epi_pair._solve(diagonal, beside, level.stiffness, right)
    np.testing.assert_allclose(found.ravel(), np.linalg.solve(matrix, right.ravel()), rtol=1e-6, atol=1e-8)
    line = np.diag(diagonal[1, 2]) + np.diag(beside[1, 2], 1) + np.diag(beside[1, 2], -1)
    out = np.empty(right.shape)
    kernels.solve_lines(diagonal, beside, right, out)
    np.testing.assert_allclose(out[1, 2], np.linalg.solve(line, right[1, 2]), rtol=1e-9)
