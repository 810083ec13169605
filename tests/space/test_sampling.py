"""Reading images at points: equal to scipy, exact on samples, honest about the unknown; transforms in closed form."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space import sampling
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.sampling import Sampler, compose, jacobian_determinant, resample, sample

SHAPE = (17, 23, 19)
# Oblique, left-handed, with three different voxel sizes.
AFFINE = rigid_matrix((5, -8, 3), (10, -20, 15), (0, 0, 0)) @ np.diag([-1.5, 2.0, 2.5, 1.0])


def images(n: int, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(n)]


def to_mm(voxels: np.ndarray) -> np.ndarray:
    return voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]


def some_voxels(n: int = 5000) -> np.ndarray:
    return np.random.default_rng(7).uniform(0, np.array(SHAPE) - 1, (n, 3))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_sample__equals_scipy(order: sampling.Order, n: int, layout: str) -> None:
    stored = [np.asarray(image, order=layout) for image in images(n)]
    voxels = some_voxels()
    found = sample(stored, AFFINE, to_mm(voxels).reshape(50, 100, 3), order=order)
    assert len(found) == n
    for image, values in zip(stored, found, strict=True):
        expected = ndimage.map_coordinates(image.astype(np.float64), voxels.T, order=order, mode="mirror")
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_sample__float32_points_are_nearly_as_good(order: sampling.Order) -> None:
    points = to_mm(some_voxels())
    exact, rounded = (sample(images(1), AFFINE, p, order=order)[0] for p in (points, points.astype(np.float32)))
    np.testing.assert_allclose(rounded, exact, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 3, 1), (3, 3, 3), (1, 1, 1)])
def test_sample__thin_images_equal_scipy(shape: tuple[int, ...]) -> None:
    (image,) = images(1, shape)
    voxels = np.random.default_rng(1).uniform(0, np.array(shape) - 1, (200, 3))
    for order in (1, 3):
        (found,) = sample([image], AFFINE, to_mm(voxels), order=order)
        expected = ndimage.map_coordinates(image.astype(np.float64), voxels.T, order=order, mode="mirror")
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_sample__gives_the_stored_values_on_samples(order: sampling.Order, layout: str) -> None:
    stored = [np.asarray(image, order=layout) for image in images(2)]
    stored[0][3, 4, 5] = np.nan
    points = compose(AFFINE, SHAPE)
    for found, image in zip(sample(stored, AFFINE, points, order=order), stored, strict=True):
        np.testing.assert_array_equal(found, image)
    for found, image in zip(sample(stored, AFFINE, points.astype(np.float32), order=order), stored, strict=True):
        np.testing.assert_array_equal(found, image)


def test_sample__outside_and_points_that_are_none() -> None:
    last = np.array(SHAPE) - 1.0
    voxels = np.array([[-0.01, 4, 4], [0, 0, 0], last, last + np.array([0, 0.01, 0]), [4.4, np.nan, 4]])
    for order in (1, 3):
        (found,) = sample(images(1), AFFINE, to_mm(voxels), order=order)
        np.testing.assert_array_equal(np.isnan(found), [True, False, False, True, True])
        (found,) = sample(images(1), AFFINE, to_mm(voxels), order=order, outside=-7.0)
        np.testing.assert_array_equal(found == -7, [True, False, False, True, True])


def test_sample__the_unknown_is_filled_from_the_nearest_known_voxel_and_told() -> None:
    whole = images(2)
    holed = [image.copy() for image in whole]
    unknown = [np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)]
    unknown[0][:, :9], unknown[1][5:8, 5:9, 5:9] = True, True
    voxels = some_voxels()
    for image, gap in zip(holed, unknown, strict=True):
        image[gap] = np.nan
    for order in (1, 3):
        found = sample(holed, AFFINE, to_mm(voxels), order=order)
        for values, image, gap in zip(found, whole, unknown, strict=True):
            share = ndimage.map_coordinates((~gap).astype(np.float64), voxels.T, order=1)
            clear = np.abs(share - 0.5) > 1e-6
            np.testing.assert_array_equal(np.isnan(values)[clear], (share < 0.5)[clear])
            near = ndimage.distance_transform_edt(
                gap, sampling=(1.5, 2.0, 2.5), return_distances=False, return_indices=True
            )
            filled = image[tuple(near)].astype(np.float64)
            expected = ndimage.map_coordinates(filled, voxels.T, order=order, mode="mirror")
            known = ~np.isnan(values)
            assert 0.3 < known.mean() < 1.0
            np.testing.assert_allclose(values[known], expected[known], atol=1e-5)


def test_sample__a_constant_map_stays_constant_up_to_the_edge_of_what_is_known() -> None:
    image = np.full(SHAPE, 0.8, np.float32)
    image[:6] = np.nan
    (found,) = sample([image], AFFINE, to_mm(some_voxels()))
    np.testing.assert_allclose(found[np.isfinite(found)], 0.8, atol=1e-6)


def test_sample__does_not_depend_on_how_the_image_is_stored() -> None:
    (image,) = images(1)
    points = to_mm(some_voxels())
    (expected,) = sample([image], AFFINE, points)
    flipped = AFFINE.copy()
    flipped[:3, 3] = to_mm(np.array([SHAPE[0] - 1, 0, SHAPE[2] - 1]))
    flipped[:3, [0, 2]] *= -1
    (found,) = sample([image[::-1, :, ::-1]], flipped, points)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (found,) = sample([image.transpose(2, 0, 1)], AFFINE[:, [2, 0, 1, 3]], points)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sample__refuses_what_it_cannot_read() -> None:
    a, b = images(2)
    with pytest.raises(ImageError, match="one or more 3-D images of one shape"):
        sample([a, b[1:]], AFFINE, np.zeros((1, 3)))
    with pytest.raises(ImageError, match="image 2: expected at least one known voxel"):
        sample([a, np.full_like(a, np.nan)], AFFINE, np.zeros((1, 3)))
    b[0, 0, 0] = np.inf
    with pytest.raises(ImageError, match="image 2: expected finite values"):
        sample([a, b], AFFINE, np.zeros((1, 3)))


def test_compose__displacement_first_then_matrices_in_order() -> None:
    u = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    first, second = rigid_matrix((1, 2, 3), (4, 5, 6), (0, 0, 0)), np.diag([2.0, 1.0, 0.5, 1.0])
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    x = to_mm(voxels) + u
    y = x @ first[:3, :3].T + first[:3, 3]
    found = compose(AFFINE, SHAPE, [first, second], displacement=u)
    np.testing.assert_allclose(found, y * [2.0, 1.0, 0.5], atol=1e-10)
    part = compose(AFFINE, SHAPE, [first, second], displacement=u, planes=slice(4, 9))
    np.testing.assert_array_equal(part, found[4:9])


def test_compose__reads_a_displacement_on_another_grid() -> None:
    # Linear in x, so that trilinear reading is exact inside; beyond the grid the nearest voxel counts.
    slope = np.random.default_rng(0).normal(size=(3, 3)) * 0.1
    other, shape = np.diag([4.0, 4.0, 4.0, 1.0]), (30, 30, 30)
    other[:3, 3] = -60
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    u = (voxels * 4.0 - 60.0) @ slope.T
    x = compose(AFFINE, SHAPE)
    assert np.abs(x).max() < 56
    found = compose(AFFINE, SHAPE, displacement=u, displacement_affine=other)
    np.testing.assert_allclose(found, x + x @ slope.T, atol=1e-9)
    far = np.diag([1.0, 1.0, 1.0, 1.0])
    far[:3, 3] = 1000.0
    np.testing.assert_allclose(
        compose(far, (1, 1, 1), displacement=u, displacement_affine=other)[0, 0, 0], 1000 + u[-1, -1, -1]
    )


def test_compose__refuses_a_displacement_of_another_grid() -> None:
    with pytest.raises(ImageError, match="expected a displacement of shape"):
        compose(AFFINE, SHAPE, displacement=np.zeros((3, 3, 3, 3)))


def test_resample__is_sample_at_composed_points_and_memory_stays_low(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, u = images(2), np.random.default_rng(0).normal(size=(40, 50, 45, 3)).astype(np.float32)
    grid, matrix = np.diag([1.0, 1.0, 1.0, 1.0]), rigid_matrix((1, 0, 2), (3, 0, 0), (0, 0, 0))
    grid[:3, 3] = (-25, -10, 0)
    expected = sample(stored, AFFINE, compose(grid, u.shape[:3], [matrix], displacement=u))
    monkeypatch.setattr(sampling, "POINTS_AT_ONCE", 50 * 45 * 3)
    tracemalloc.start()
    found = resample(stored, AFFINE, grid, u.shape[:3], [matrix], displacement=u)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert 0.05 < np.isfinite(found[0]).mean() < 0.95
    # Results, coefficients and a few planes; the points of the whole grid alone would be 2.2 MB.
    assert peak < 2 * 4 * 90_000 + 4 * 2 * 4 * 7429 + 1_000_000


def test_sampler__reads_again_without_preparing_again() -> None:
    stored, points = images(3), to_mm(some_voxels())
    sampler = Sampler(stored, AFFINE)
    for half in (points[:2500], points[2500:]):
        for a, b in zip(sampler.at(half), sample(stored, AFFINE, half), strict=True):
            np.testing.assert_array_equal(a, b)


def test_jacobian_determinant__of_a_linear_field_is_exact_everywhere() -> None:
    slope = np.random.default_rng(0).normal(size=(3, 3)) * 0.2
    x = compose(AFFINE, SHAPE)
    found = jacobian_determinant((x @ slope.T + [3, 2, 1]).astype(np.float32), AFFINE)
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) + slope), rtol=1e-4)
    matrix = np.diag([1.1, 0.9, 1.2, 1.0])
    found = jacobian_determinant((x @ slope.T).astype(np.float32), AFFINE, matrix)
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) + slope) * 1.1 * 0.9 * 1.2, rtol=1e-4)


def test_jacobian_determinant__of_a_smooth_field_and_of_a_fold() -> None:
    # u = a sin(k x) along x alone: det = 1 + a k cos(k x) in closed form.
    grid = np.diag([0.5, 2.0, 2.0, 1.0])
    x = compose(grid, (81, 4, 4))
    for amplitude in (2.0, 8.0):
        u = np.zeros((81, 4, 4, 3))
        u[..., 0] = amplitude * np.sin(x[..., 0] / 5)
        found = jacobian_determinant(u, grid)
        expected = 1 + amplitude / 5 * np.cos(x[..., 0] / 5)
        np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=4e-3)
        assert (found.min() < 0) == (amplitude > 5)


def test_jacobian_determinant__integrates_to_the_volume_of_a_moved_body() -> None:
    # A displacement that ends at zero moves no volume through the faces of the grid.
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    x = compose(grid, (40, 40, 40))
    bump = np.exp(-((x - 39.0) ** 2).sum(axis=-1) / (2 * 8.0**2))
    found = jacobian_determinant(np.stack([3 * bump, -2 * bump, bump], axis=-1), grid)
    assert found.std() > 0.02
    assert abs(found[2:-2, 2:-2, 2:-2].mean() - 1.0) < 1e-5
