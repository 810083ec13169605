"""Volume change between visits: kernels and prediction against dense algebra, growth of balls known in closed form."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from scipy import fft, ndimage

from voxcloud.errors import MaskError, RegistrationError
from voxcloud.space import change_prior
from voxcloud.space import volume_change_kernels as kernels
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.change_prior import KNOT_MM, ChangePrior, Fields
from voxcloud.space.midpoint import Midpoint
from voxcloud.space.volume_change import VolumeChange, volume_change

MM = 2.5
SHAPE = (46, 48, 44)
AFFINE = np.diag([MM, MM, MM, 1.0])
AFFINE[:3, 3] = [-MM * (n - 1) / 2 for n in SHAPE]
FLUID, GREY, WHITE = 0.0, 0.85, 1.7
RADIUS = 42.0
NOISE = WHITE / 50


def radii(scale: float, shift: np.ndarray | None = None) -> np.ndarray:
    """Distance from the middle in a head that grew by ``scale``, seen from where it lay before."""
    index = np.indices(SHAPE).reshape(3, -1)
    places = AFFINE[:3, :3] @ index + AFFINE[:3, 3:]
    if shift is not None:
        places = places - shift[:, None]
    return np.sqrt((places**2).sum(axis=0)).reshape(SHAPE) / scale


def layers(r: np.ndarray) -> np.ndarray:
    """MTsat of nested folds: white and grey in turn every 8 mm, fluid outside, edges as a scan blurs them."""

    def step(at: float) -> np.ndarray:
        return 0.5 * (1 + np.tanh((r - at) / 2.0))

    folds = sum((-1) ** k * step(at) for k, at in enumerate((10.0, 18.0, 26.0)))
    return np.asarray(WHITE - (WHITE - GREY) * folds - (GREY - FLUID) * step(RADIUS))


def midpoint_of(n: int, matrices: np.ndarray | None = None) -> Midpoint:
    """A midpoint whose transforms are given: what is tested here needs nothing else of it."""
    image = layers(radii(1.0)).astype(np.float32)
    known = np.full(SHAPE, n, np.uint8)
    matrices = np.stack([np.eye(4)] * n) if matrices is None else matrices
    return Midpoint(image, AFFINE, matrices, known, {}, ("",) * n)


MASK = radii(1.0) < RADIUS + 6
TISSUE = radii(1.0) < RADIUS


def scans(scales: tuple[float, ...], noise: float = NOISE, gain: float = 1.0) -> list[np.ndarray]:
    """Visits of the head, each grown by a factor in length; the last one's MTsat times ``gain`` within 25 mm."""
    rng = np.random.default_rng(1)
    images = [layers(radii(scale)) for scale in scales]
    images[-1] = images[-1] * (1 + (gain - 1) * 0.5 * (1 - np.tanh((radii(1.0) - 25) / 4)))
    return [(image + noise * rng.standard_normal(SHAPE)).astype(np.float32) for image in images]


def mean_log(found: VolumeChange, visit: int, where: np.ndarray) -> float:
    """Mean log-Jacobian in percent."""
    return float(100 * np.log(found.jacobian(visit, AFFINE, SHAPE)[where]).mean())


@functools.cache
def grown(percent: float, gain: float = 1.0, seeds: int = 3) -> VolumeChange:
    """The last of the visits has grown by so much volume."""
    scales = (1.0,) * (seeds - 1) + (float(np.exp(np.log1p(percent / 100) / 3)),)
    return volume_change(midpoint_of(seeds), scans(scales, gain=gain), [AFFINE] * seeds, MASK)


@pytest.mark.parametrize("percent", [2.0, -2.0, 12.0])
def test_volume_change__finds_growth_of_a_head_in_closed_form(percent: float) -> None:
    found = grown(percent)
    last, others = mean_log(found, 2, TISSUE), np.mean([mean_log(found, k, TISSUE) for k in (0, 1)])
    assert last - others == pytest.approx(100 * np.log1p(percent / 100), rel=0.12, abs=0.05)


def test_volume_change__visits_sum_to_zero_and_no_visit_is_the_reference() -> None:
    found = grown(2.0)
    np.testing.assert_allclose(found.coefficients.sum(axis=0), 0, atol=1e-5)
    assert mean_log(found, 2, TISSUE) == pytest.approx(-2 * mean_log(found, 0, TISSUE), rel=0.15)
    half = grown(1.0)  # and half as much is half as much
    assert mean_log(half, 2, TISSUE) == pytest.approx(mean_log(found, 2, TISSUE) / 2, rel=0.15)


def test_volume_change__more_mtsat_is_not_more_volume() -> None:
    still, brighter = grown(0.0), grown(0.0, 1.03)
    for where in (radii(1.0) < 22, (radii(1.0) > 22) & (radii(1.0) < 32), TISSUE):
        assert abs(mean_log(brighter, 2, where) - mean_log(still, 2, where)) * 1.5 < 0.3


def test_volume_change__noise_alone_changes_regions_by_tenths_of_a_percent() -> None:
    found = grown(0.0)
    assert max(abs(mean_log(found, k, TISSUE)) for k in range(3)) < 0.1
    assert max(abs(mean_log(found, k, radii(1.0) < 15)) for k in range(3)) < 1.0
    assert found.report["noise"] == pytest.approx([NOISE / WHITE * np.sqrt(2 / 3)] * 3, rel=0.1)
    np.testing.assert_allclose(found.report["levels"], [FLUID, GREY, WHITE], atol=0.1)


def test_volume_change__displacement_is_that_of_growth_and_leads_into_the_visit() -> None:
    visits = [
        rigid_matrix((3, -2, 1), (2, -1, 3), (0, 0, 0)),
        rigid_matrix((-2, 1, 2), (-1, 2, 0), (0, 0, 0)),
        np.eye(4),
    ]
    scale = float(np.exp(np.log1p(0.06) / 3))
    images, affines = [], []
    for matrix, size in zip(visits, (1.0, 1.0, scale), strict=True):
        # The visit's own grid is turned and shifted like the head in it: its voxels hold the same points as before.
        images.append(layers(radii(size)).astype(np.float32))
        affines.append(matrix @ AFFINE)
    found = volume_change(midpoint_of(3, np.stack(visits)), images, affines, MASK)
    index = np.indices(SHAPE).reshape(3, -1)
    places = np.moveaxis((AFFINE[:3, :3] @ index + AFFINE[:3, 3:]).reshape(3, *SHAPE), 0, -1)
    between = found.displacement(2, AFFINE, SHAPE) - found.displacement(0, AFFINE, SHAPE)
    along = (between * places).sum(axis=-1) / np.maximum(radii(1.0), 1.0)
    ring = (radii(1.0) > 30) & (radii(1.0) < RADIUS)
    assert along[ring].mean() == pytest.approx(((scale - 1.0) * radii(1.0))[ring].mean(), rel=0.1)


def test_volume_change__the_order_of_the_visits_changes_no_bit() -> None:
    images = scans((1.0, 1.0, 1.006))
    found = grown(100 * (1.006**3 - 1))
    again = volume_change(midpoint_of(3), images, [AFFINE] * 3, MASK)
    order = [2, 0, 1]
    other = volume_change(midpoint_of(3), [images[k] for k in order], [AFFINE] * 3, MASK)
    np.testing.assert_array_equal(other.coefficients, again.coefficients[order])
    np.testing.assert_allclose(found.coefficients, again.coefficients, atol=1e-3)


def test_volume_change__what_a_visit_does_not_know_is_left_to_the_others() -> None:
    images = scans((1.0, 1.0, 1.0, float(np.exp(np.log1p(0.02) / 3))))
    for image in images[:1]:
        image[:, :, 22:] = np.nan
    found = volume_change(midpoint_of(4), images, [AFFINE] * 4, MASK)
    upper = TISSUE.copy()
    upper[:, :, :26] = False
    others = np.mean([mean_log(found, k, upper) for k in (1, 2)])
    assert mean_log(found, 3, upper) - others == pytest.approx(100 * np.log(1.02), rel=0.25)
    assert abs(mean_log(found, 0, upper)) < 0.4
    assert np.isfinite(found.coefficients).all()


def test_volume_change__a_single_visit_did_not_change() -> None:
    found = volume_change(midpoint_of(1), scans((1.0,)), [AFFINE], MASK)
    np.testing.assert_array_equal(found.jacobian(0, AFFINE, SHAPE), 1)
    np.testing.assert_array_equal(found.displacement(0, AFFINE, SHAPE), 0)


def test_volume_change__a_wider_prior_takes_less_away() -> None:
    images = scans((1.0, 1.0, float(np.exp(np.log1p(0.02) / 3))))
    narrow = volume_change(midpoint_of(3), images, [AFFINE] * 3, MASK, change_sd=0.01)
    found = [mean_log(c, 2, TISSUE) - mean_log(c, 0, TISSUE) for c in (narrow, grown(2.0))]
    assert 0.3 < found[0] < found[1] - 0.05


def test_volume_change__refuses_what_cannot_be_used() -> None:
    images = scans((1.0, 1.0))
    with pytest.raises(RegistrationError, match="expected the 3 visits of the midpoint, found 2 images and 2 affines"):
        volume_change(midpoint_of(3), images, [AFFINE] * 2, MASK)
    with pytest.raises(MaskError, match="expected a mask of shape"):
        volume_change(midpoint_of(2), images, [AFFINE] * 2, MASK[1:])
    with pytest.raises(MaskError, match="expected a mask of a brain, found 0 voxels"):
        volume_change(midpoint_of(2), images, [AFFINE] * 2, np.zeros(SHAPE, bool))
    with pytest.raises(RegistrationError, match="expected an image with contrast"):
        volume_change(midpoint_of(2), [np.ones(SHAPE)] * 2, [AFFINE] * 2, MASK)
    with pytest.raises(RegistrationError, match="found no known voxel"):
        volume_change(midpoint_of(2), [images[0], np.full(SHAPE, np.nan)], [AFFINE] * 2, MASK)


def spline_field(matrix: np.ndarray) -> VolumeChange:
    """A field u = M x: cubic B-splines hold straight lines exactly, with coefficients equal to values."""
    knots = (14, 15, 13)
    affine = np.diag([KNOT_MM, KNOT_MM, KNOT_MM, 1.0])
    affine[:3, 3] = [-30.0, -35.0, -28.0]
    index = np.indices(knots).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    u = np.moveaxis((matrix @ places).reshape(3, *knots), 0, -1).astype(np.float32)
    return VolumeChange(np.ascontiguousarray(u)[None], affine, {})


def test_jacobian_and_displacement__of_a_linear_field_are_in_closed_form() -> None:
    matrix = np.array([[0.05, 0.02, 0.0], [-0.01, -0.03, 0.04], [0.03, 0.0, 0.02]])
    found = spline_field(matrix)
    grid = rigid_matrix((1, 2, 3), (5, -10, 20), (0, 0, 0)) @ np.diag([2.0, 1.5, 2.5, 1.0])
    shape = (6, 7, 5)
    index = np.indices(shape).reshape(3, -1)
    places = grid[:3, :3] @ index + grid[:3, 3:]
    expected = np.moveaxis((matrix @ places).reshape(3, *shape), 0, -1)
    np.testing.assert_allclose(found.displacement(0, grid, shape), expected, atol=2e-5)
    np.testing.assert_allclose(found.jacobian(0, grid, shape), np.linalg.det(np.eye(3) + matrix), rtol=1e-5)


def test_jacobian__equals_differences_of_the_displacement_and_is_1_where_nothing_is_known() -> None:
    rng = np.random.default_rng(0)
    found = spline_field(np.zeros((3, 3)))
    found = replace(found, coefficients=rng.normal(0, 0.3, found.coefficients.shape).astype(np.float32))
    place, step = np.array([2.0, -3.0, 1.0]), 0.05
    slopes = np.empty((3, 3))
    for axis in range(3):
        ends = []
        for sign in (-1, 1):
            grid = np.eye(4)
            grid[:3, 3] = place
            grid[axis, 3] += sign * step
            ends.append(found.displacement(0, grid, (1, 1, 1))[0, 0, 0].astype(np.float64))
        slopes[:, axis] = (ends[1] - ends[0]) / (2 * step)
    grid = np.eye(4)
    grid[:3, 3] = place
    assert found.jacobian(0, grid, (1, 1, 1))[0, 0, 0] == pytest.approx(np.linalg.det(np.eye(3) + slopes), rel=1e-3)
    far = np.diag([1.0, 1.0, 1.0, 1.0])
    far[:3, 3] = 500
    assert found.jacobian(0, far, (2, 2, 2)).tolist() == np.ones((2, 2, 2)).tolist()
    assert not found.displacement(0, far, (2, 2, 2)).any()


def small_problem() -> tuple[ChangePrior, Fields, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    prior = ChangePrior((12, 10, 9), 0.04)
    voxels = np.ascontiguousarray(rng.integers(0, 6, (50, 3)).astype(np.int32))
    factors = rng.normal(0, 0.3, (50, kernels.FIELDS)).astype(np.float32)
    fields = Fields(prior, voxels, 2.0, 3.2, factors, 0.02)
    return prior, fields, voxels, factors


def seen_by_scipy(knots: np.ndarray, voxels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    places = voxels.T / 2.0 + 3.2
    values = [ndimage.map_coordinates(f, places, order=3, prefilter=False) for f in np.moveaxis(knots, -1, 0)]
    return np.asarray((np.stack(values, axis=1) * factors).sum(axis=1))


def test_apply_fields__equals_scipy_and_gather_fields_is_its_adjoint() -> None:
    rng = np.random.default_rng(3)
    prior, _, voxels, factors = small_problem()
    knots = rng.normal(size=(*prior.knots, kernels.FIELDS)).astype(np.float32)
    seen, back = np.empty(50, np.float32), np.zeros_like(knots)
    kernels.apply_fields(knots, voxels, 2.0, 3.2, factors, seen)
    np.testing.assert_allclose(seen, seen_by_scipy(knots.astype(np.float64), voxels, factors), atol=1e-5)
    values = rng.normal(size=50).astype(np.float32)
    kernels.gather_fields(values, voxels, 2.0, 3.2, factors, back)
    assert float((knots * back).sum()) == pytest.approx(float(seen @ values), rel=1e-4)


def test_solve__is_the_best_linear_prediction_by_dense_algebra() -> None:
    prior, fields, voxels, factors = small_problem()
    shape = (kernels.FIELDS, *prior.knots)
    size = int(np.prod(shape))
    # Rows of A R: what each voxel sees of white noise, by scipy's Fourier transform and splines.
    design = np.empty((50, size))
    for n in range(size):
        one = np.zeros(size, np.float32)
        one[n] = 1.0
        spectra = np.stack([fft.rfftn(f) for f in one.reshape(shape)])
        rooted = np.stack([fft.irfftn(f, prior.knots) for f in prior.root(spectra)], axis=-1)
        design[:, n] = seen_by_scipy(rooted, voxels, factors)
    values = np.random.default_rng(4).normal(0, 0.05, 50)
    covariance = design @ design.T
    expected = covariance @ np.linalg.solve(covariance + 0.02**2 * np.eye(50), values)
    found, steps = fields.solve(values.astype(np.float32), None, 1e-6, 500)
    assert 5 < steps < 500
    np.testing.assert_allclose(fields.seen(found), expected, atol=2e-4)
    again, more = fields.solve(values.astype(np.float32), found, 1e-4, 500)  # from the answer there is nowhere to go
    assert more == 0
    np.testing.assert_array_equal(again, found)


def test_change_prior__has_the_volume_changes_and_intensities_that_it_says() -> None:
    rng = np.random.default_rng(5)
    prior = ChangePrior((48, 48, 48), 0.04)
    white = np.stack([fft.rfftn(rng.standard_normal(prior.knots)) for _ in range(kernels.FIELDS)])
    fields = np.stack([fft.irfftn(f, prior.knots) for f in prior.root(white)])
    kernel = np.array([1.0, 4.0, 1.0]) / 6.0

    def at_knots(field: np.ndarray, slope: int = -1) -> np.ndarray:
        for axis in range(3):
            taps = np.array([-0.5, 0.0, 0.5]) / KNOT_MM if axis == slope else kernel
            field = ndimage.correlate1d(field, taps, axis=axis, mode="wrap")
        return field

    divergence = sum(at_knots(fields[axis], axis) for axis in range(3))
    assert divergence.std() == pytest.approx(0.04, rel=0.15)  # less by what lies beyond 40 mm
    assert at_knots(fields[4]).std() == pytest.approx(change_prior.INTENSITY_SD, rel=0.1)
