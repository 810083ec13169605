"""Gibbs unringing against its definition, known truth and two peers."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from voxcloud.dwi.gibbs import FULL_FOURIER, PartialFourierError, unring
from voxcloud.errors import ImageError

Float64 = npt.NDArray[np.float64]
FINE = 16


def phantom(n: int, m: int) -> tuple[Float64, Float64]:
    """Return an n x m image measured by the lowest frequencies of a fine one, and the fine one averaged over voxels."""
    x, y = np.meshgrid(
        (np.arange(n * FINE) + 0.5) / FINE - n / 2, (np.arange(m * FINE) + 0.5) / FINE - m / 2, indexing="ij"
    )
    fine = np.zeros(x.shape)
    fine[(x / (0.4 * n)) ** 2 + (y / (0.45 * m)) ** 2 < 1] = 1.0
    fine[((x - 0.1 * n) / (0.12 * n)) ** 2 + ((y + 0.05 * m) / (0.2 * m)) ** 2 < 1] = 0.4
    fine[(abs(x + 0.2 * n) < 0.07 * n) & (abs(y) < 0.15 * m)] = 0.7
    truth = fine.reshape(n, FINE, m, FINE).mean(axis=(1, 3))
    spectrum = np.fft.fftshift(np.fft.fft2(fine))
    first, second = (n * FINE - n) // 2, (m * FINE - m) // 2
    spectrum = np.fft.ifftshift(spectrum[first : first + n, second : second + m])
    # Voxels are centred between fine points.
    middle = (FINE - 1) / 2 / FINE
    spectrum *= np.exp(2j * np.pi * middle * np.fft.fftfreq(n))[:, None]
    spectrum *= np.exp(2j * np.pi * middle * np.fft.fftfreq(m))[None, :]
    return np.abs(np.fft.ifft2(spectrum)) / FINE**2, truth


def near_edges(truth: Float64) -> npt.NDArray[np.bool_]:
    """Voxels beside edges, where it rings, without those that an edge runs through or past."""

    def contrast(side: int) -> Float64:
        found: Float64 = maximum_filter(truth, side) - minimum_filter(truth, side)
        return found

    return (contrast(9) > 0.05) & (contrast(3) < 0.05)


def rmse(image: Float64, truth: Float64, where: npt.NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean((image - truth)[where] ** 2)))


def by_definition(image: Float64) -> Float64:
    """Unring a slice as the docstring has it: no interpolation, every shift by the Fourier series."""
    n, m = image.shape
    kx, ky = np.meshgrid(2 * np.pi * np.fft.fftfreq(n), 2 * np.pi * np.fft.fftfreq(m), indexing="ij")
    a, b = 1 + np.cos(kx), 1 + np.cos(ky)
    share = np.where(a + b > 1e-12, b / np.maximum(a + b, 1e-12), 0.5)
    spectrum = np.fft.fft2(image)
    parts = [np.fft.ifft2(spectrum * g).real for g in (share, 1 - share)]
    return lines_by_definition(parts[0]) + lines_by_definition(parts[1].T).T


def lines_by_definition(image: Float64) -> Float64:
    """Unring along the first axis."""
    k = np.fft.fftfreq(len(image))[:, None]
    spectrum = np.fft.fft(image, axis=0)
    least = np.full(image.shape, np.inf)
    best = np.zeros(image.shape)
    for j in [0, *(sign * i for i in range(1, 21) for sign in (1, -1))]:
        s = j / 40
        shifted = np.fft.ifft(spectrum * np.exp(2j * np.pi * k * s), axis=0).real

        def at(step: int, image: Float64 = shifted) -> Float64:
            return np.roll(image, -step, axis=0)

        right = sum(abs(at(i) - at(i + 1)) for i in (1, 2, 3))
        left = sum(abs(at(-i) - at(-i - 1)) for i in (1, 2, 3))
        value = (1 - abs(s)) * shifted + abs(s) * at(-1 if s > 0 else 1)
        now = np.minimum(left, right)
        best, least = np.where(now < least, value, best), np.minimum(now, least)
    return best


@pytest.mark.parametrize("shape", [(40, 30), (33, 24), (27, 31)])
def test_unring__is_its_definition(shape: tuple[int, int]) -> None:
    image = phantom(*shape)[0] + np.random.default_rng(3).normal(0, 0.02, shape)
    difference = abs(unring(image[:, :, None])[:, :, 0] - by_definition(image))
    # Where two shifts oscillate equally to the last digits, the other one may be taken.
    assert np.mean(difference > 2e-5) < 2e-3


def test_unring__brings_images_nearer_to_the_truth() -> None:
    for n, m in ((96, 80), (65, 72)):
        ringing, truth = phantom(n, m)
        where = near_edges(truth)
        before, after = (rmse(image, truth, where) for image in (ringing, unring(ringing[:, :, None])[:, :, 0]))
        assert after < 0.75 * before


@pytest.mark.parametrize("first, last", [(0, 0), (12, 4)])
def test_unring__takes_the_ringing_of_straight_edges(first: int, last: int) -> None:
    fine = np.zeros(64 * FINE)
    fine[12 * FINE + first : 41 * FINE + last] = 1.0
    line = np.fft.irfft(np.fft.rfft(fine)[:33], 64) / FINE
    image = np.repeat(line[:, None, None], 16, axis=1)
    voxel = np.arange(64)
    apart = (abs(voxel - 12) > 2) & (abs(voxel - 41) > 2)
    truth = (voxel > 12) & (voxel < 41)
    found = unring(image)
    assert abs(line - truth)[apart].max() > 0.03
    assert abs(found[:, 8, 0] - truth)[apart].max() < 0.0075
    assert np.allclose(unring(image.transpose(1, 0, 2)).transpose(1, 0, 2), found, atol=1e-12)


def test_unring__leaves_flat_images_alone() -> None:
    image = np.full((20, 17, 2), 731.0)
    assert np.allclose(unring(image), image, rtol=1e-12)


def test_unring__gives_a_volume_the_same_bits_in_any_company() -> None:
    data = np.random.default_rng(4).normal(100, 20, (24, 26, 5, 11)).astype(np.float32)
    whole = unring(data)
    assert np.array_equal(unring(data[..., 3]), whole[..., 3])
    assert np.array_equal(unring(data[:, :, 2:3, :4]), whole[:, :, 2:3, :4])
    assert np.array_equal(unring(np.asfortranarray(data)), whole)


def test_unring__takes_slices_across_any_axis() -> None:
    data = np.random.default_rng(5).normal(100, 20, (20, 24, 9, 2))
    expected = unring(data)
    assert np.array_equal(unring(np.moveaxis(data, 2, 0), slice_axis=0), np.moveaxis(expected, 2, 0))
    assert np.array_equal(unring(np.moveaxis(data, 2, 1), slice_axis=1), np.moveaxis(expected, 2, 1))


def test_unring__keeps_the_type() -> None:
    data = np.random.default_rng(6).integers(0, 900, (12, 12, 2))
    assert unring(data.astype(np.int16)).dtype == unring(data.astype(np.float32)).dtype == np.float32
    assert unring(data.astype(np.float64)).dtype == np.float64


def test_unring__refuses_partial_fourier_by_name() -> None:
    with pytest.raises(PartialFourierError, match=FULL_FOURIER) as caught:
        unring(np.ones((16, 16, 2)), partial_fourier=0.75, unit="sub-03_ses-2")
    assert str(caught.value).startswith("sub-03_ses-2: ")
    assert "0.75" in str(caught.value)
    with pytest.raises(ImageError, match="above 0 and at most 1"):
        unring(np.ones((16, 16, 2)), partial_fourier=75)


def test_unring__refuses_what_it_cannot_hold() -> None:
    holed = np.ones((16, 16, 3, 2))
    holed[4, 5, 1, 1] = np.nan
    with pytest.raises(ImageError, match=r"1 NaN or infinite ones, the first at \(4, 5, 1, 1\)"):
        unring(holed)
    with pytest.raises(ImageError, match="at least 8 x 8 voxels, found 16 x 3"):
        unring(holed, slice_axis=1)
    for wrong in (np.ones((16, 16)), np.ones((16, 16, 2), complex)):
        with pytest.raises(ImageError, match="expected real images of shape"):
            unring(wrong)


def test_unring__is_as_near_to_the_truth_as_dipy() -> None:
    gibbs_removal = pytest.importorskip("dipy.denoise.gibbs").gibbs_removal
    ringing, truth = phantom(96, 80)
    where = near_edges(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = gibbs_removal(np.repeat(ringing[:, :, None], 2, axis=2), slice_axis=2, num_processes=1)[:, :, 0]
    ours = unring(ringing[:, :, None])[:, :, 0]
    everywhere = np.ones(truth.shape, bool)
    assert rmse(ours, truth, where) < 1.02 * rmse(theirs, truth, where)
    assert rmse(ours, truth, everywhere) < 1.02 * rmse(theirs, truth, everywhere)


@pytest.fixture
def mrdegibbs(tmp_path: Path) -> Callable[[Float64], Float64]:
    """Return a function that runs MRtrix's program in double precision on one slice."""
    program = shutil.which("mrdegibbs")
    if program is None:
        pytest.skip("needs mrdegibbs of MRtrix (Debian: mrtrix3)")

    def run(image: Float64) -> Float64:
        source, target = str(tmp_path / "in.nii"), str(tmp_path / "out.nii")
        two = np.repeat(image[:, :, None], 2, axis=2)
        nibabel.save(nibabel.Nifti1Image(two, np.diag([2.0, 2.0, 2.0, 1.0])), source)
        options = ["-quiet", "-force", "-nthreads", "0", "-axes", "0,1", "-datatype", "float64"]
        subprocess.run([program, *options, source, target], check=True)
        return np.asarray(nibabel.load(target).dataobj)[:, :, 0]

    return run


@pytest.mark.service
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_unring__has_the_numbers_of_mrdegibbs_for_odd_sides(
    mrdegibbs: Callable[[Float64], Float64], noise: float
) -> None:
    image = phantom(97, 81)[0] + np.random.default_rng(1).normal(0, noise, (97, 81))
    difference = abs(unring(image[:, :, None])[:, :, 0] - mrdegibbs(image))
    assert np.mean(difference > 1e-5) < 1e-3
    assert difference.max() < 0.02


@pytest.mark.service
def test_unring__is_as_near_to_the_truth_as_mrdegibbs_for_even_sides(
    mrdegibbs: Callable[[Float64], Float64],
) -> None:
    # It drops the highest frequency of shifted lines, which only even sides have.
    for n, m in ((96, 80), (110, 110)):
        ringing, truth = phantom(n, m)
        ours, theirs = unring(ringing[:, :, None])[:, :, 0], mrdegibbs(ringing)
        for where in (near_edges(truth), np.ones(truth.shape, bool)):
            assert rmse(ours, truth, where) < 1.01 * rmse(theirs, truth, where)
