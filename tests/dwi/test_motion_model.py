"""Where signal is seen, and the steps that find it: against closed forms, finite differences, scipy and unwarp_epi."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.dwi.motion_model import (
    EDDY_TERMS,
    NO_FIELD,
    RADIUS_MM,
    Box,
    Geometry,
    Motion,
    Predicted,
    bounding_box,
    eddy_displacement,
    encode,
    fit_volume,
    pull_volume,
)
from voxcloud.space.affine import displacement_mm, rigid_matrix
from voxcloud.space.unwarp import unwarp_epi

SHAPE = (30, 34, 28)
AFFINE = np.array([[-3.0, 0, 0, 44.0], [0, 3.0, 0, -50.0], [0, 0, 3.5, -45.0], [0, 0, 0, 1.0]])
CENTRE = (AFFINE @ [14.5, 16.5, 13.5, 1.0])[:3]
READOUT_S = 0.05


def image(seed: int = 0) -> np.ndarray:
    """Return a smooth blob with texture that is 0 near the edges of the grid."""
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2.0)
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    inside = np.clip(1.6 - 2.4 * np.sqrt((at**2).sum(axis=0)), 0, 1)
    return ((2.0 + 8.0 * drawn / drawn.std() * 0.1) * inside * 100).astype(np.float32)


def geometry(field: np.ndarray | None = None) -> Geometry:
    if field is None:
        return Geometry(AFFINE, SHAPE, CENTRE, 2, NO_FIELD, NO_FIELD)
    slope = np.stack([np.gradient(field, axis=a) for a in range(3)]).astype(np.float32)
    return Geometry(AFFINE, SHAPE, CENTRE, 2, field.astype(np.float32), slope)


WHOLE = Box((0, 0, 0), SHAPE)


def smooth_field() -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    return 25.0 * np.exp(-((x - 14) ** 2 + (y - 20) ** 2 + (z - 10) ** 2) / 60.0)


@pytest.mark.parametrize("direction", ["i", "j-", "j", "k-"])
def test_pull_volume__of_a_head_at_rest_is_unwarp_epi_with_modulation(direction: Any) -> None:
    field, seen = smooth_field(), image()
    found, _ = pull_volume(geometry(field), encode(direction, READOUT_S), seen, np.eye(4), np.zeros(9), WHOLE)
    expected = unwarp_epi(seen, field, READOUT_S, direction, modulate=True)
    np.testing.assert_allclose(found[2:-2, 2:-2, 2:-2], expected[2:-2, 2:-2, 2:-2], atol=0.02)


def test_pull_volume__of_a_moved_head_is_scipy_s_cubic_spline() -> None:
    seen, moved = image(), rigid_matrix((1.5, -2.0, 0.7), (2.0, -1.0, 3.0), CENTRE.tolist())
    found, inside = pull_volume(geometry(), encode("j", READOUT_S), seen, moved, np.zeros(9), WHOLE)
    matrix = np.linalg.inv(AFFINE) @ moved @ AFFINE
    expected = ndimage.affine_transform(seen.astype(np.float64), matrix[:3, :3], matrix[:3, 3], order=3, mode="mirror")
    deep = ndimage.binary_erosion(inside, iterations=2)
    np.testing.assert_allclose(found[deep], expected[deep], atol=2e-3)


@pytest.mark.parametrize("direction", ["i", "j", "j-", "k"])
@pytest.mark.parametrize("term", range(9))
def test_eddy_displacement__is_where_pull_volume_reads(direction: str, term: int) -> None:
    """A volume that is a coordinate along phase encoding reads as the coordinate where the signal is seen."""
    c = np.zeros(9)
    c[term] = 7.0
    axis = "ijk".index(direction[0])
    coordinate = np.broadcast_to(
        np.arange(SHAPE[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)]), SHAPE
    ).copy()
    found, _ = pull_volume(geometry(), encode(direction, READOUT_S), coordinate, np.eye(4), c, WHOLE)
    size = np.linalg.norm(AFFINE[:3, axis])
    moved = eddy_displacement([0.0, *c], AFFINE, SHAPE, CENTRE, direction, READOUT_S) / size
    room = 1.0 + np.gradient(moved, axis=axis)
    inner = (slice(6, -6),) * 3
    np.testing.assert_allclose((found / room - coordinate)[inner], moved[inner], atol=2e-3)


def test_eddy_displacement__of_one_hertz_is_a_voxel_per_second_of_readout() -> None:
    constant = eddy_displacement([1.0, 0.0, 0.0, 0.0], AFFINE, SHAPE, CENTRE, "j-", READOUT_S)
    np.testing.assert_allclose(constant, -READOUT_S * 3.0, rtol=1e-12)
    found = eddy_displacement([0.0, 1.0, 0.0, 0.0], AFFINE, SHAPE, CENTRE, "j-", READOUT_S)
    x = AFFINE[0, 0] * np.arange(SHAPE[0]) + AFFINE[0, 3]
    expected = -READOUT_S * 3.0 * (x - CENTRE[0]) / RADIUS_MM
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], SHAPE), atol=1e-12)
    assert len(EDDY_TERMS) == 9


def moved_volume(field: np.ndarray | None = None) -> tuple[np.ndarray, Motion, Predicted]:
    """Return what a volume would see, how the head moved, and the image."""
    motion = Motion.still(1)
    motion.movement[0] = rigid_matrix((1.1, -0.8, 0.9), (1.0, 1.5, -2.0), CENTRE.tolist())
    motion.eddy[0] = np.array([5.0, -4.0, 3.0, 2.0, -2.5, 1.5, 3.0, -2.0, 2.5])
    motion.intensity[0] = 1.05
    true = image()
    predicted = Predicted(geometry(field), WHOLE, true, true > 20)
    seen = np.zeros(SHAPE, np.float32)
    predicted.push(encode("j", READOUT_S), motion, 0, seen)
    return seen, motion, predicted


def test_push__is_undone_by_pull_volume() -> None:
    field = smooth_field()
    seen, motion, _ = moved_volume(field)
    found, _ = pull_volume(geometry(field), encode("j", READOUT_S), seen, motion.movement[0], motion.eddy[0], WHOLE)
    inner = image() > 20
    assert np.sqrt(np.mean((found / 1.05 - image())[inner] ** 2)) < 0.02 * image()[inner].std()


def test_compare__has_the_derivatives_of_finite_differences() -> None:
    seen, motion, predicted = moved_volume()
    seen = seen + np.random.default_rng(3).normal(0, 10, SHAPE).astype(np.float32)
    encoding, weights, still = encode("j", READOUT_S), np.ones(SHAPE[2]), motion.movement[0]
    counted = predicted.counted(encoding, still, motion.eddy[0], (1, 1, 1))

    def cost(p: np.ndarray) -> Any:
        turn = rigid_matrix(p[:3], np.rad2deg(p[3:6] / RADIUS_MM), CENTRE.tolist())
        return predicted.compare(
            encoding, seen, counted, turn @ still, motion.eddy[0] + p[6:15], 1.05 + p[15], 9, weights, (1, 1, 1), 30.0
        )

    at = np.zeros(16)
    analytic = cost(at).right
    for k in range(16):
        h = np.zeros(16)
        h[k] = 1e-3 if k < 15 else 1e-5
        numeric = -(cost(h).cost - cost(-h).cost) / (2 * h[k])
        scale = np.sqrt(cost(at).normal[k, k] * cost(at).cost)
        # Second-order terms of the field are left out of the derivatives.
        assert numeric == pytest.approx(analytic[k], abs=1e-2 * scale), k


@pytest.mark.parametrize("with_field", [False, True])
def test_fit_volume__finds_movement_eddy_currents_and_intensity_without_noise(with_field: bool) -> None:
    field = smooth_field() if with_field else None
    seen, motion, predicted = moved_volume(field)
    true = motion.movement[0].copy(), motion.eddy[0].copy()
    motion.movement[0], motion.eddy[0], motion.intensity[0] = np.eye(4), 0.0, 1.0
    fit_volume(
        predicted,
        geometry(field),
        encode("j", READOUT_S),
        seen,
        motion,
        0,
        terms=9,
        prior=None,
        weights=np.ones(SHAPE[2]),
        stride=(1, 1, 1),
        steps=15,
    )
    assert displacement_mm(motion.movement[0] @ np.linalg.inv(true[0]), AFFINE, SHAPE)[0] < 0.01
    np.testing.assert_allclose(motion.eddy[0], true[1], atol=0.05)
    assert motion.intensity[0] == pytest.approx(1.05, abs=1e-3)


def test_fit_volume__ignores_slices_of_no_weight() -> None:
    seen, motion, predicted = moved_volume()
    true = motion.movement[0].copy()
    seen[..., 12] *= 0.1
    motion.movement[0] = np.eye(4)
    weights = np.ones(SHAPE[2])
    weights[12] = 0.0
    fit_volume(
        predicted,
        geometry(),
        encode("j", READOUT_S),
        seen,
        motion,
        0,
        terms=9,
        prior=None,
        weights=weights,
        stride=(1, 1, 1),
        steps=15,
    )
    assert displacement_mm(motion.movement[0] @ np.linalg.inv(true), AFFINE, SHAPE)[0] < 0.01


def test_bounding_box__stays_on_the_grid() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 10:20, 27] = True
    box = bounding_box(mask, 4)
    assert (box.first, box.last) == ((0, 6, 23), (9, 24, 28))
    assert box.shape == (9, 18, 5)
