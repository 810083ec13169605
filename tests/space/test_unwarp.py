"""Unwarping against forward models of the distortion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError
from voxcloud.space.unwarp import displacement, resample_field, unwarp_epi

SHAPE = (12, 64, 10)
READOUT_S = 0.040
DIRECTIONS = ["i", "i-", "j", "j-", "k", "k-"]


def field_of(shape: tuple[int, ...], axis: int, peak_hz: float = 100.0) -> Any:
    """Smooth field along an axis, up to 4 voxels of displacement in 40 ms."""
    n = shape[axis]
    along = np.moveaxis(np.broadcast_to(np.arange(n), np.moveaxis(np.empty(shape), axis, -1).shape), -1, axis)
    other = np.moveaxis(np.empty(shape), axis, 0)[0]
    strength = np.expand_dims(np.linspace(0.6, 1.0, other.size).reshape(other.shape), axis)
    return peak_hz * strength * (np.exp(-(((along - 0.65 * n) / (0.12 * n)) ** 2)) - 0.3)


def move_values(values: Any, moved: Any, axis: int) -> Any:
    """Forward model of a ratio: what belongs at y is seen at y + d(y), not scaled."""
    along, d = np.moveaxis(values, axis, -1), np.moveaxis(moved, axis, -1)
    out, at = np.empty(along.shape), np.arange(along.shape[-1])
    for line in np.ndindex(along.shape[:-1]):
        out[line] = np.interp(at, at + d[line], along[line])
    return np.moveaxis(out, -1, axis)


def move_mass(density: Any, moved: Any, axis: int, fine: int = 20) -> Any:
    """Forward model of a magnitude: the signal in front of y ends up in front of y + d(y)."""
    along, d = np.moveaxis(density, axis, -1), np.moveaxis(moved, axis, -1)
    n = along.shape[-1]
    out = np.empty(along.shape)
    places = (np.arange(n * fine) + 0.5) / fine - 0.5
    edges = np.arange(n * fine + 1) / fine - 0.5
    for line in np.ndindex(along.shape[:-1]):
        fill = ndimage.map_coordinates(along[line], [places], order=3, mode="mirror")
        before = np.concatenate([[0], np.cumsum(fill) / fine])
        arrives = edges + ndimage.map_coordinates(d[line], [edges], order=3, mode="nearest")
        out[line] = np.diff(np.interp(np.arange(n + 1) - 0.5, arrives, before))
    return np.moveaxis(out, -1, axis)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_displacement__sign_and_scale(direction: str) -> None:
    found = displacement(np.full((8, 40, 6), 25.0), 0.04, direction)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, -1.0 if direction.endswith("-") else 1.0)


@pytest.mark.parametrize(("direction", "seen_at"), [("j", 23), ("j-", 17)])
def test_unwarp_epi__a_positive_field_moves_signal_to_higher_indices_for_j(direction: Any, seen_at: int) -> None:
    image, field = np.zeros((3, 40, 3)), np.full((3, 40, 3), 100.0)
    image[:, seen_at] = 1.0  # a sheet that belongs at 20; 100 Hz in 30 ms are 3 voxels
    found = unwarp_epi(image, field, 0.030, direction, interpolation="linear")
    np.testing.assert_array_equal(found.argmax(axis=1), 20)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("interpolation", ["cubic", "linear"])
def test_unwarp_epi__values_come_back_to_their_place(direction: Any, interpolation: Any) -> None:
    axis = "ijk".index(direction[0])
    shape = tuple(np.roll(SHAPE, axis - 1))
    field = field_of(shape, axis)
    moved = displacement(field, READOUT_S, direction)
    assert np.abs(moved).max() > 2.5
    n = shape[axis]
    where = np.moveaxis(np.broadcast_to(np.arange(float(n)), np.moveaxis(field, axis, -1).shape), -1, axis)
    found = unwarp_epi(move_values(where, moved, axis), field, READOUT_S, direction, interpolation=interpolation)
    inside = np.moveaxis(np.ones(shape, bool), axis, 0)
    inside[:4], inside[-4:] = False, False
    error = np.abs(found - where)[np.moveaxis(inside, 0, axis)]  # the image holds its own coordinate: voxels
    assert error.max() < 0.05
    assert np.percentile(error, 95) < (0.02 if interpolation == "cubic" else 0.03)


def test_unwarp_epi__modulation_brings_magnitudes_back() -> None:
    y = np.arange(SHAPE[1])
    density = np.broadcast_to((100 + 60 * np.cos(y / 4.0) * np.exp(-(((y - 32) / 18) ** 2)))[:, None], SHAPE).copy()
    field = field_of(SHAPE, 1)
    inner = np.s_[:, 5:-5]
    for direction in ("j", "j-"):
        moved = displacement(field, READOUT_S, direction)  # type: ignore[arg-type]
        seen, plain = move_mass(density, moved, 1), move_mass(density, 0 * moved, 1)
        assert np.abs(seen / plain - 1)[inner].max() > 0.5
        found = unwarp_epi(seen, field, READOUT_S, direction, modulate=True)  # type: ignore[arg-type]
        assert np.abs(found / plain - 1)[inner].max() < 0.03
        without = unwarp_epi(seen, field, READOUT_S, direction)  # type: ignore[arg-type]
        assert np.abs(without / plain - 1)[inner].max() > 0.3


def test_unwarp_epi__volumes_types_and_memory_order() -> None:
    rng = np.random.default_rng(3)
    images, field = rng.normal(size=(*SHAPE, 3)).astype(np.float32), field_of(SHAPE, 1)
    found = unwarp_epi(images, field, READOUT_S, "j")
    assert found.dtype == np.float32
    assert unwarp_epi(images[..., 0].astype(np.float64), field, READOUT_S, "j").dtype == np.float64
    for v in range(3):
        np.testing.assert_array_equal(found[..., v], unwarp_epi(images[..., v], field, READOUT_S, "j"))
    np.testing.assert_array_equal(found, unwarp_epi(np.asfortranarray(images), field, READOUT_S, "j"))


def test_unwarp_epi__no_field_changes_nothing() -> None:
    image = np.random.default_rng(4).normal(size=SHAPE)
    np.testing.assert_allclose(unwarp_epi(image, np.zeros(SHAPE), READOUT_S, "k"), image, atol=1e-12)


def test_unwarp_epi__nan_stays_where_it_belongs() -> None:
    image = np.broadcast_to(np.linspace(1, 2, SHAPE[1])[:, None], SHAPE).copy()
    image[:, 30] = np.nan
    found = unwarp_epi(image, np.full(SHAPE, 50.0), READOUT_S, "j")  # 2 voxels
    assert np.isnan(found[:, 28]).all()
    assert np.isnan(found).sum() == SHAPE[0] * SHAPE[2]
    half = unwarp_epi(image, np.full(SHAPE, 62.5), READOUT_S, "j")  # 2.5 voxels: two neighbours know nothing
    assert np.isnan(half).sum() == 2 * SHAPE[0] * SHAPE[2]


def test_unwarp_epi__refuses_by_name() -> None:
    image, field = np.ones(SHAPE), np.full(SHAPE, 10.0)
    with pytest.raises(ImageError, match=r"sub-01: .*readout time in s.*found 34\.5\. 34\.5 where 0\.0345 is meant"):
        unwarp_epi(image, field, 34.5, "j", name="sub-01")
    with pytest.raises(ImageError, match=r"sub-01: .*found 'AP'.*sidecar"):
        unwarp_epi(image, field, 0.03, "AP", name="sub-01")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"on the grid of the field, \(12, 64, 10\), found \(11, 64, 10\)"):
        unwarp_epi(image[1:], field, 0.03, "j")
    with pytest.raises(ImageError, match=r"without NaN, found shape .* 7680 voxels"):
        unwarp_epi(image, field * np.nan, 0.03, "j")
    with pytest.raises(ImageError, match=r"under 16 voxels \(a quarter of 64\), found 18"):
        unwarp_epi(image, field * 60, 0.03, "j")
    with pytest.raises(ImageError, match="cubic or linear, found 'sinc'"):
        unwarp_epi(image, field, 0.03, "j", interpolation="sinc")  # type: ignore[arg-type]


def test_resample_field__linear_field_between_oblique_grids() -> None:
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    source, target = np.eye(4), np.eye(4)
    source[:3, :3], source[:3, 3] = turn * [-3.0, 3.0, 3.5], [40, -50, -30]
    target[:3, :3], target[:3, 3] = np.diag([2.0, 2.0, 2.0]), [-5, -5, -8]

    def linear(affine: Any, shape: tuple[int, ...]) -> Any:
        grid = np.stack([*np.indices(shape), np.ones(shape)])
        return np.einsum("a,axyz->xyz", [1.0, -2.0, 0.5, 20.0], np.einsum("ab,bxyz->axyz", affine, grid))

    found = resample_field(linear(source, (40, 40, 20)), source, (12, 13, 9), target)
    np.testing.assert_allclose(found, linear(target, (12, 13, 9)), atol=1e-3)
    far = target.copy()
    far[:3, 3] = 500
    assert np.isfinite(resample_field(linear(source, (40, 40, 20)), source, (4, 4, 4), far)).all()


def test_resample_field__refuses() -> None:
    with pytest.raises(ImageError, match="invertible"):
        resample_field(np.ones((4, 4, 4)), np.zeros((4, 4)), (4, 4, 4), np.eye(4))
    with pytest.raises(ImageError, match="three dimensions"):
        resample_field(np.ones((4, 4)), np.eye(4), (4, 4, 4), np.eye(4))
