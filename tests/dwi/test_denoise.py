"""MP-PCA against its definition in dense algebra, against dwidenoise, and what must never change a result."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.dwi.denoise import Denoised, default_extent, denoise
from voxcloud.dwi.denoise_eigen import diagonalise, reflect, tridiagonalise, turn_back
from voxcloud.dwi.lanes import LANES
from voxcloud.errors import ImageError, MaskError


def rmse(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    return float(np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)))


def dense(data: npt.NDArray[Any], at: tuple[int, int, int], extent: tuple[int, int, int], exp2: bool) -> Any:
    """Return denoised values, noise level and rank of one voxel by singular values of its patch."""
    first = [min(max(c - e // 2, 0), n - e) for c, e, n in zip(at, extent, data.shape, strict=False)]
    box = tuple(slice(f, f + e) for f, e in zip(first, extent, strict=True))
    x = data[box].astype(np.float64).reshape(-1, data.shape[3]).T
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    r, q = len(s), max(x.shape)
    values = s**2 / q
    for p in range(r):
        gamma = (r - p) / (q - p) if exp2 else (r - p) / q
        s2 = values[p:].mean()
        if (values[p] - values[-1]) / (4 * np.sqrt(gamma)) < s2:
            break
    signal = u[:, :p]
    return signal @ (signal.T @ data[at].astype(np.float64)), np.sqrt(s2), p


@pytest.mark.parametrize("estimator", ["exp1", "exp2"])
@pytest.mark.parametrize("extent", [(5, 5, 5), (5, 3, 3), (3, 3, 1), (1, 5, 7)])
def test_denoise__is_its_definition(
    simulated: Callable[..., Any], extent: tuple[int, int, int], estimator: Any
) -> None:
    """Patches of more and of fewer voxels (9) than volumes, all edges and corners."""
    data = simulated((7, 8, 7), 13, sigma=25.0).noisy.astype(np.float64)
    found = denoise(data, extent=extent, estimator=estimator)
    for at in np.ndindex(*data.shape[:3]):
        values, noise, rank = dense(data, at, extent, estimator == "exp2")
        assert found.rank[at] == rank
        np.testing.assert_allclose(found.noise[at], noise, rtol=1e-9)
        np.testing.assert_allclose(found.data[at], values, atol=1e-8)
    assert len(np.unique(found.rank)) > 1


def test_denoise__takes_noise_out_and_says_how_much(simulated: Callable[..., Any]) -> None:
    scan = simulated((12, 11, 10), 40, sigma=20.0)
    noisy = scan.truth + np.random.default_rng(2).normal(0, 20.0, scan.truth.shape)
    found = denoise(noisy)
    assert found.extent == (5, 5, 5)
    assert rmse(found.data, scan.truth) < 0.6 * rmse(noisy, scan.truth)
    np.testing.assert_allclose(np.median(found.noise), 20.0, rtol=0.03)
    np.testing.assert_allclose(found.data + found.residuals, noisy, atol=1e-9)
    # Rician noise is not of mean 0 where signals are low, and stays; the rest goes.
    rician = denoise(scan.noisy)
    assert rmse(rician.data, scan.truth) < 0.6 * rmse(scan.noisy, scan.truth)
    # Residuals are noise: no volume is systematically off.
    assert np.abs(found.residuals.mean(axis=(0, 1, 2))).max() < 20.0 / np.sqrt(0.2 * found.noise.size)


def test_denoise__of_noise_alone_finds_no_signal() -> None:
    data = np.random.default_rng(2).normal(0, 7.0, (12, 12, 12, 30))
    found = denoise(data)
    assert np.mean(found.rank <= 1) > 0.95
    np.testing.assert_allclose(np.median(found.noise), 7.0, rtol=0.02)


def test_denoise__leaves_data_without_noise() -> None:
    """Three components and no noise."""
    rng = np.random.default_rng(3)
    data = rng.uniform(1, 2, (7, 7, 7, 3)) @ rng.uniform(1, 2, (3, 20))
    found = denoise(data, extent=3)
    np.testing.assert_allclose(found.data, data, atol=1e-6)
    assert found.noise.max() < 1e-6


def test_denoise__zeros_stay_zeros(simulated: Callable[..., Any]) -> None:
    data = simulated((9, 9, 9), 12).noisy.copy()
    data[:5] = 0.0
    found = denoise(data, extent=3)
    assert not found.data[:5].any()
    assert not found.noise[:4].any()
    assert not found.rank[:4].any()
    assert (found.noise[6:] > 5).all()


def test_denoise__mask_says_where_and_changes_no_bit(simulated: Callable[..., Any]) -> None:
    data = simulated((9, 10, 8), 30).noisy
    mask = np.random.default_rng(4).random(data.shape[:3]) < 0.3
    whole, part = denoise(data, extent=3), denoise(data, mask, extent=3)
    np.testing.assert_array_equal(part.data[mask], whole.data[mask])
    np.testing.assert_array_equal(part.noise[mask], whole.noise[mask])
    np.testing.assert_array_equal(part.rank[mask], whole.rank[mask])
    np.testing.assert_array_equal(part.residuals[mask], whole.residuals[mask])
    assert not part.data[~mask].any()
    assert not part.residuals[~mask].any()
    assert np.isnan(part.noise[~mask]).all()
    assert (part.rank[~mask] == -1).all()


def test_denoise__a_part_of_the_image_has_the_same_bits(simulated: Callable[..., Any]) -> None:
    data = simulated((9, 12, 11), 30).noisy
    whole, part = denoise(data, extent=5), denoise(data[:, 2:, 1:10], extent=5)
    np.testing.assert_array_equal(part.data[:, 2:, 2:-2], whole.data[:, 4:, 3:8])


def test_denoise__order_in_memory_and_scaling_change_nothing(simulated: Callable[..., Any]) -> None:
    data = simulated((7, 6, 5), 30).noisy
    one, other = denoise(data), denoise(np.asfortranarray(data))
    np.testing.assert_array_equal(one.data, other.data)
    large = denoise(data * np.float32(2**20))
    np.testing.assert_array_equal(large.data, one.data * np.float32(2**20))
    assert one.data.dtype == np.float32
    assert denoise(data.astype(np.int16)).data.dtype == np.float32
    assert denoise(data.astype(np.float64)).data.dtype == np.float64


@pytest.mark.parametrize("volumes, side", [(2, 3), (27, 3), (28, 5), (125, 5), (126, 7)])
def test_default_extent__is_the_smallest_that_holds_the_volumes(volumes: int, side: int) -> None:
    assert default_extent(volumes) == (side, side, side)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": np.ones((5, 5, 5))}, "real images of shape"),
        ({"data": np.ones((5, 5, 5, 8), complex)}, "complex128"),
        ({"extent": 4}, "odd extent"),
        ({"extent": (3, 3)}, "odd extent"),
        ({"extent": (7, 5, 5)}, r"\(7, 5, 5\), found \(5, 5, 5\)"),
        ({"estimator": "exp3"}, "exp3"),
    ],
)
def test_denoise__refuses_what_it_cannot_do(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        denoise(**({"data": np.ones((5, 5, 5, 8))} | change))


def test_denoise__refuses_a_mask_of_another_grid() -> None:
    with pytest.raises(MaskError, match=r"\(5, 5, 4\)"):
        denoise(np.ones((5, 5, 5, 8)), np.ones((5, 5, 4)))


def test_denoise__names_the_first_value_that_is_not_finite(simulated: Callable[..., Any]) -> None:
    data = simulated((5, 5, 9), 8).noisy.copy()
    data[2, 1, 7, 3] = np.nan
    with pytest.raises(ImageError, match=r"voxel \(2, 1, 7\) of volume 3"):
        denoise(data)


def test_eigen__projection_agrees_with_lapack_for_close_and_far_values() -> None:
    """Spectra of eight kinds side by side: graded, degenerate, split into blocks, diagonal, zero."""
    n, rng = 23, np.random.default_rng(6)
    base = [rng.normal(size=(n, 40)) for _ in range(LANES)]
    grams = [x @ x.T for x in base]
    grams[1] = grams[1] + 1e8 * np.outer(base[1][:, 0], base[1][:, 0])
    rotation = np.linalg.qr(base[2][:, :n])[0]
    grams[2] = rotation @ np.diag([5.0] * 4 + [5.0 + 1e-12] * 4 + [1.0] * (n - 8)) @ rotation.T
    grams[3] = np.kron(np.eye(2), grams[3][:11, :11])
    grams[3] = np.pad(grams[3], (0, 1))
    grams[4] = np.diag(np.arange(n, dtype=float))
    grams[5] = np.zeros((n, n))
    grams[6] = np.diag(10.0 ** -np.arange(n))
    a, x = np.ascontiguousarray(np.stack(grams, axis=-1)), rng.normal(size=(n, LANES))
    y, (d, e, u, p, scale) = x.copy(), np.empty((5, n, LANES))
    turns, ranges = np.empty((4 * n * n, 2, LANES)), np.empty((30 * n, 2), np.int64)
    tridiagonalise(a, d, e, u, p, scale)
    reflect(a, scale, y, True)
    sweeps = diagonalise(d, e, y, turns, ranges)
    assert 0 < sweeps < 4 * n
    # In the middle of the widest gap of the upper half.
    limits = []
    for gram in grams:
        values = np.linalg.eigvalsh(gram)[n // 2 :]
        widest = int(np.argmax(np.diff(values)))
        limits.append(0.5 * (values[widest] + values[widest + 1]))
    limits[5] = -1.0
    y[d < limits] = 0.0
    turn_back(y, turns, ranges, sweeps)
    reflect(a, scale, y, False)
    for k, gram in enumerate(grams):
        values, vectors = np.linalg.eigh(gram)
        np.testing.assert_allclose(np.sort(d[:, k]), values, atol=1e-14 * max(values[-1], 1e-300) * n)
        kept = vectors[:, values >= limits[k]]
        gap = np.abs(values - limits[k]).min() if k != 5 else 1.0
        # A subspace is known to within the rounding errors of its matrix over its distance from the others.
        tolerance = 1e-12 + n * 2.0**-52 * abs(values[-1]) / gap
        np.testing.assert_allclose(y[:, k], kept @ (kept.T @ x[:, k]), atol=tolerance)


@pytest.fixture
def dwidenoise(tmp_path: Path) -> Callable[..., Denoised]:
    """Return a function that runs MRtrix's program in double precision."""
    program = shutil.which("dwidenoise")
    if program is None:
        pytest.skip("needs dwidenoise of MRtrix (Debian: mrtrix3)")

    def run(data: npt.NDArray[Any], mask: npt.NDArray[Any] | None, *options: str) -> Any:
        names = {name: str(tmp_path / f"{name}.nii") for name in ("in", "out", "noise", "mask")}
        grid = np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(data, grid), names["in"])
        if mask is not None:
            nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), grid), names["mask"])
            options = (*options, "-mask", names["mask"])
        fixed = ["-quiet", "-nthreads", "0", "-datatype", "float64", "-noise", names["noise"]]
        subprocess.run([program, *fixed, *options, names["in"], names["out"]], check=True)
        return (np.asarray(nibabel.load(names[name]).dataobj) for name in ("out", "noise"))

    return run


@pytest.mark.service
@pytest.mark.parametrize(
    "volumes, extent, estimator, masked",
    [
        (66, None, "exp2", False),
        (66, None, "exp1", True),
        (30, (7, 5, 3), "exp2", True),
        (66, (3, 3, 3), "exp2", False),
    ],
)
def test_denoise__has_the_numbers_of_dwidenoise(
    simulated: Callable[..., Any],
    dwidenoise: Callable[..., Any],
    volumes: int,
    extent: tuple[int, int, int] | None,
    estimator: Any,
    masked: bool,
) -> None:
    scan = simulated((13, 12, 9), volumes)
    mask = np.random.default_rng(7).random(scan.noisy.shape[:3]) < 0.5 if masked else None
    options = ["-estimator", estimator.capitalize()]
    if extent is not None:
        options += ["-extent", ",".join(map(str, extent))]
    theirs, noise = dwidenoise(scan.noisy, mask, *options)
    found = denoise(scan.noisy, mask, extent, estimator)
    where = np.ones(scan.noisy.shape[:3], bool) if mask is None else mask
    # Both keep float32: one unit in the last place of the largest value.
    np.testing.assert_allclose(found.data, theirs, atol=2e-4)
    np.testing.assert_allclose(found.noise[where], noise[where], rtol=1e-6)
    assert rmse(found.data[where], theirs[where]) < 2e-5


def test_denoise__a_measured_session_loses_noise_and_no_structure(shared_data: Callable[[str], Path]) -> None:
    image = nibabel.load(shared_data("dwi/small_64D.nii"))
    data = np.asarray(image.dataobj, np.float32)
    found = denoise(data)
    assert found.extent == (5, 5, 5)
    assert (found.rank > 0).all()
    share = found.residuals.std() / np.median(found.noise)
    assert 0.5 < share < 1.1
