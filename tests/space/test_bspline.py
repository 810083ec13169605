"""Splines against scipy's, and what must not change: samples under transforms from voxels to voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from voxcloud.errors import ImageError
from voxcloud.space.bspline import SplineImages, sample_linear

Array = npt.NDArray[Any]
sizes = st.tuples(*[st.integers(1, 40)] * 3)


def near_identity(rng: np.random.Generator, shift: float = 2.0) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.1, (3, 3))
    matrix[:3, 3] = rng.normal(0, shift, 3)
    return matrix


def by_scipy(image: Array, matrix: Array, shape: tuple[int, ...], order: int, outside: float) -> Array:
    positions = matrix[:3, :3] @ np.indices(shape).reshape(3, -1) + matrix[:3, 3:]
    last = np.array(image.shape)[:, None] - 1
    inside = np.all((positions >= 0) & (positions <= last), axis=0)
    found = map_coordinates(image.astype(np.float64), positions, order=order, mode="mirror")
    return np.where(inside, found, outside)


def on_edge(matrix: Array, shape: tuple[int, ...], size: tuple[int, ...]) -> Array:
    positions = matrix[:3, :3] @ np.indices(shape).reshape(3, -1) + matrix[:3, 3:]
    last = np.array(size)[:, None] - 1
    near = np.minimum(np.abs(positions), np.abs(positions - last)) < 1e-5
    return np.asarray(near.any(axis=0))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=sizes, shape=sizes, images=st.sampled_from([1, 3, 6]), layout=st.booleans())
def test_sample__equals_scipy(
    seed: int, size: tuple[int, ...], shape: tuple[int, ...], images: int, layout: bool
) -> None:
    rng = np.random.default_rng(seed)
    matrix = near_identity(rng)
    values = [rng.normal(0, 1, size).astype(np.float32) for _ in range(images)]
    stored = [np.asarray(v, order="F" if layout else "C") for v in values]
    found = SplineImages(stored, matrix, shape, outside=-7.0).sample()
    expected = np.array([by_scipy(v, matrix, shape, 3, -7.0) for v in values])
    assert found.dtype == np.float32
    # Positions within rounding of the image's edge count as on it here, and by their sign in the reference.
    decided = ~on_edge(matrix, shape, size)
    np.testing.assert_allclose(found[:, decided], expected[:, decided], rtol=0, atol=1e-5)


def test_sample__passes_through_samples_of_16_bit_images() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, (12, 13, 14), dtype=np.int16)
    matrix = np.eye(4)
    matrix[2, 2] = 0.5  # every second voxel of the finer grid is a sample
    found = SplineImages([image], matrix, (12, 13, 27)).sample().reshape(12, 13, 27)
    np.testing.assert_allclose(found[..., ::2], image, rtol=0, atol=4000 * 1e-6)


def test_sample__order_of_indices_is_the_grids() -> None:
    rng = np.random.default_rng(1)
    images = [rng.normal(size=(9, 10, 11)) for _ in range(2)]
    seen = SplineImages(images, near_identity(rng), (6, 7, 8))
    by_c, by_f = seen.sample(order="C"), seen.sample(order="F")
    for c, f in zip(by_c, by_f, strict=True):
        assert np.array_equal(c.reshape(6, 7, 8), f.reshape((6, 7, 8), order="F"))


def test_sample__parts_equal_the_whole() -> None:
    rng = np.random.default_rng(2)
    images = [rng.normal(size=(60, 50, 40)).astype(np.float32) for _ in range(4)]
    seen = SplineImages(images, near_identity(rng), (55, 50, 45))
    whole = seen.sample()
    assert np.array_equal(seen.sample(slice(1000, 90_000)), whole[:, 1000:90_000])
    chosen = rng.permutation(whole.shape[1])[:5000]
    assert np.array_equal(seen.sample(chosen), whole[:, chosen])
    assert seen.sample(np.empty(0, np.int64)).shape == (4, 0)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_sample__identity_gives_the_samples_bit_for_bit(layout: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    images = [np.asarray(rng.normal(0, 1e3, (7, 8, 9)).astype(dtype), order=layout) for _ in range(3)]
    affine = np.array([[0.8, 0.1, 0, -90], [-0.1, 0.8, 0, -120], [0, 0, 1, -70], [0, 0, 0, 1]])
    seen = SplineImages(images, np.linalg.inv(affine) @ affine, (7, 8, 9))  # an identity up to rounding
    assert seen.exact
    assert np.array_equal(seen.sample(), np.array([i.ravel() for i in images], np.float32))


@settings(max_examples=30, deadline=None)
@given(shift=st.tuples(*[st.integers(-4, 4)] * 3), flip=st.booleans(), order=st.permutations([0, 1, 2]))
def test_sample__moves_whole_voxels_bit_for_bit(shift: tuple[int, ...], flip: bool, order: list[int]) -> None:
    image = np.random.default_rng(4).normal(0, 1e3, (6, 6, 6)).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[order]
    if flip:
        matrix[0, :3] *= -1
        matrix[0, 3] = 5
    matrix[:3, 3] += shift
    found = SplineImages([image], matrix, (6, 6, 6), outside=np.nan).sample()[0]
    positions = np.rint(matrix[:3, :3] @ np.indices((6, 6, 6)).reshape(3, -1) + matrix[:3, 3:]).astype(int)
    inside = np.all((positions >= 0) & (positions < 6), axis=0)
    assert np.array_equal(found[inside], image[tuple(positions[:, inside])])
    assert np.isnan(found[~inside]).all()


def test_sample__does_not_change_the_images() -> None:
    image = np.random.default_rng(5).normal(size=(10, 10, 10)).astype(np.float32)
    before = image.copy()
    SplineImages([image], near_identity(np.random.default_rng(0)), (10, 10, 10)).sample()
    assert np.array_equal(image, before)


def test_spline_images__refuse_what_cannot_be_interpolated() -> None:
    image = np.zeros((5, 5, 5), np.float32)
    half = np.eye(4)
    half[0, 3] = 0.5
    hole = image.copy()
    hole[2, 2, 2] = np.nan
    with pytest.raises(ImageError, match="image 2 of 2"):
        SplineImages([image, hole], half, (5, 5, 5))
    with pytest.raises(ImageError, match="one shape"):
        SplineImages([image, image[1:]], half, (5, 5, 5))
    with pytest.raises(ImageError, match="none"):
        SplineImages([], half, (5, 5, 5))
    with pytest.raises(ImageError, match="last row"):
        SplineImages([image], half[:3], (5, 5, 5))
    with pytest.raises(ImageError, match="from 0 to 124"):
        SplineImages([image], half, (5, 5, 5)).sample(np.array([125]))
    with pytest.raises(ImageError, match="step 1"):
        SplineImages([image], half, (5, 5, 5)).sample(slice(0, 10, 2))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=sizes, shape=sizes, order=st.sampled_from(["C", "F"]))
def test_sample_linear__equals_scipy(seed: int, size: tuple[int, ...], shape: tuple[int, ...], order: Any) -> None:
    rng = np.random.default_rng(seed)
    matrix = near_identity(rng)
    image = rng.normal(0, 1, size).astype(np.float32)
    found = sample_linear(image, matrix, shape, order=order, outside=-7.0).reshape(shape, order=order)
    np.testing.assert_allclose(found.ravel(), by_scipy(image, matrix, shape, 1, -7.0), rtol=0, atol=1e-5)


def test_sample_linear__unknown_voxels_stay_where_they_are() -> None:
    image = np.ones((4, 4, 4))
    image[1, 2, 3] = np.nan
    assert np.array_equal(sample_linear(image, np.eye(4), (4, 4, 4)), image.ravel(), equal_nan=True)
    half = np.eye(4)
    half[0, 3] = 0.5
    found = sample_linear(image, half, (4, 4, 4)).reshape(4, 4, 4)
    unknown = np.zeros((4, 4, 4), bool)
    unknown[0:2, 2, 3] = True  # both neighbours of the hole
    unknown[3] = True  # beyond the last sample
    assert np.array_equal(np.isnan(found), unknown)
