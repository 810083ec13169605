"""Deformable registration: known deformations of asymmetric anatomy found in mm, whatever the storage of the images."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.deformable import Deformation, register_deformable, upright

# The head as the other scanner holds it, 5 % wider, and the storages in which its image may come.
MATRIX = rigid_matrix((3, -5, 4), (4, -6, 8), (0, -15, 10)) @ np.diag([1.05, 0.97, 1.03, 1.0])
OBLIQUE_LAS = rigid_matrix((0, 0, 0), (10, 5, -7), (0, 0, 0)) @ np.diag([-4.0, 4.0, 4.0, 1.0])
LPI = np.diag([-4.0, -4.0, -4.0, 1.0])


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A brain that is not symmetric, and a deformation of it: a point x lies at MATRIX (x + u(x))."""

    image: np.ndarray
    affine: np.ndarray
    displacement: np.ndarray
    brain: np.ndarray

    def error_mm(self, found: np.ndarray) -> tuple[float, float]:
        """Mean error of a displacement over the brain, and its 95th percentile."""
        error = np.sqrt(((found - self.displacement) ** 2).sum(axis=-1))[self.brain]
        return float(error.mean()), float(np.percentile(error, 95))


def places(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def read(image: np.ndarray, affine: np.ndarray, mm: np.ndarray, order: int) -> np.ndarray:
    back = np.linalg.inv(affine)
    return ndimage.map_coordinates(image, (mm @ back[:3, :3].T + back[:3, 3]).transpose(3, 0, 1, 2), order=order)


@functools.cache
def anatomy() -> Anatomy:
    template = datasets.load_mni152_template(resolution=4)
    image, affine = np.asarray(template.get_fdata(dtype=np.float32)), np.asarray(template.affine)
    mm = places(affine, image.shape)

    def bump(centre: tuple[float, ...], sigma: float) -> np.ndarray:
        return np.asarray(np.exp(-((mm - np.array(centre)) ** 2).sum(axis=-1) / (2 * sigma**2)))

    brain = image > 0.2 * image.max()
    image = image + 0.3 * image.max() * bump((40, -20, 20), 8).astype(np.float32)
    displacement = np.stack(
        [
            4 * bump((30, -30, 10), 25) - 3 * bump((-30, 20, 0), 20),
            5 * bump((-20, -40, 20), 25),
            -4 * bump((10, 30, 30), 25),
        ],
        axis=-1,
    )
    return Anatomy(image, affine, displacement, brain)


@functools.cache
def moving_image(storage: str) -> tuple[np.ndarray, np.ndarray]:
    """The deformed head on a grid of its own, by inverting x + u(x) = z at each of its places."""
    truth, shape = anatomy(), (57, 65, 57)
    affine = {"oblique LAS": OBLIQUE_LAS, "LPI": LPI}[storage].copy()
    affine[:3, 3] = np.array([0, -17, 10]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    back = np.linalg.inv(MATRIX)
    target = places(affine, shape) @ back[:3, :3].T + back[:3, 3]
    x = target
    for _ in range(20):
        x = target - np.stack(
            [read(truth.displacement[..., axis], truth.affine, x, order=1) for axis in range(3)], axis=-1
        )
    return read(truth.image, truth.affine, x, order=3).astype(np.float32), affine


@functools.cache
def found(storage: str) -> Deformation:
    truth = anatomy()
    return register_deformable(truth.image, truth.affine, *moving_image(storage), initial=MATRIX)


def test_register_deformable__finds_a_known_deformation_of_an_oblique_left_handed_image() -> None:
    truth = anatomy()
    mean, high = truth.error_mm(np.zeros_like(truth.displacement))
    assert mean > 1.2
    assert high > 3.0
    mean, high = truth.error_mm(found("oblique LAS").displacement)
    assert mean < 0.6  # an eighth of a voxel
    assert high < 1.2
    assert found("oblique LAS").program.startswith("picsl-greedy ")
    assert found("oblique LAS").cpu_s > 0
    assert found("oblique LAS").peak_bytes > 1e8


def test_register_deformable__the_storage_of_the_image_does_not_matter() -> None:
    truth = anatomy()
    moving, affine = moving_image("LPI")
    # The same samples from right to left, and with axes in another order.
    flipped = affine.copy()
    flipped[:3, 3] += affine[:3, 0] * (moving.shape[0] - 1)
    flipped[:3, 0] *= -1
    for array, own in ((moving[::-1], flipped), (moving.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])):
        other = register_deformable(truth.image, truth.affine, array, own, initial=MATRIX)
        np.testing.assert_array_equal(other.displacement, found("LPI").displacement)
    # Other samples of the same head: the truth is nearer to either than a mirrored answer is.
    assert truth.error_mm(found("LPI").displacement)[0] < 0.6
    mirrored = found("LPI").displacement[::-1] * [-1, 1, 1]
    assert truth.error_mm(mirrored)[0] > 1.2


def test_upright__every_storage_becomes_one_and_no_voxel_moves() -> None:
    image = np.arange(24.0).reshape(2, 3, 4)
    tilt = rigid_matrix((5, 6, 7), (10, -15, 20), (0, 0, 0)) @ np.diag([1.0, 2.0, 3.0, 1.0])
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        affine = tilt.copy()
        affine[:3, 3] += tilt[:3, :3] @ [(n - 1) * (f < 0) for n, f in zip(image.shape, flips, strict=True)]
        affine[:3, :3] *= flips
        stored = image[tuple(slice(None, None, f) for f in flips)].transpose(order)
        (found,), turned = upright([stored], affine[:, [*order, 3]])
        np.testing.assert_array_equal(found, image)
        np.testing.assert_allclose(turned, tilt, atol=1e-12)


def test_register_deformable__the_inverse_leads_back() -> None:
    truth, result = anatomy(), found("oblique LAS")
    mm = places(truth.affine, truth.image.shape)
    there = mm + result.displacement
    back = there + np.stack([read(result.inverse[..., axis], truth.affine, there, order=1) for axis in range(3)], -1)
    gap = np.sqrt(((back - mm) ** 2).sum(axis=-1))[truth.brain]
    assert gap.mean() < 0.02
    assert gap.max() < 0.4
    assert np.abs(result.displacement).max() > 2.0


def test_register_deformable__the_same_input_gives_the_same_bits() -> None:
    truth = anatomy()
    moving, affine = moving_image("LPI")
    again = register_deformable(truth.image, truth.affine, moving, affine, initial=MATRIX)
    np.testing.assert_array_equal(again.displacement, found("LPI").displacement)
    np.testing.assert_array_equal(again.inverse, found("LPI").inverse)


def test_register_deformable__takes_channels_with_weights_and_a_mask() -> None:
    truth = anatomy()
    moving, affine = moving_image("LPI")
    # The second channel says that nothing moved; what it weighs decides.
    still = [truth.image, np.asarray(truth.brain, np.float32)]
    noise = np.random.default_rng(0).normal(size=moving.shape).astype(np.float32)
    mean = {}
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        result = register_deformable(
            still,
            truth.affine,
            [moving, noise],
            affine,
            initial=MATRIX,
            weights=weights,
            fixed_mask=ndimage.binary_dilation(truth.brain, iterations=2),
            iterations="40x10",
        )
        mean[weights] = truth.error_mm(result.displacement)[0]
    assert mean[1.0, 0.0] < 0.9
    assert mean[0.0, 1.0] > 1.2


def test_register_deformable__refuses_what_it_cannot_use() -> None:
    image, affine = anatomy().image, anatomy().affine
    with pytest.raises(RegistrationError, match="as many channels of the moving image as of the fixed, found 2 and 1"):
        register_deformable(image, affine, [image, image], affine)
    with pytest.raises(RegistrationError, match="a weight for each of 1 channels, found 2"):
        register_deformable(image, affine, image, affine, weights=(1, 2))
    with pytest.raises(RegistrationError, match="channels on one grid"):
        register_deformable([image, image[1:]], affine, [image, image], affine)
    bad = image.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(RegistrationError, match="moving image, channel 1: expected finite values, found 1"):
        register_deformable(image, affine, bad, affine)
    with pytest.raises(RegistrationError, match="one value everywhere"):
        register_deformable(image, affine, np.zeros_like(image), affine)
    sheared = affine.copy()
    sheared[0, 1] = 1.0
    with pytest.raises(RegistrationError, match="an affine with shear"):
        register_deformable(image, sheared, image, affine)
