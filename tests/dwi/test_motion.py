"""Movement, eddy currents and outlier slices: closed forms, a moving brain with known truth, and bad input."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxcloud.dwi.motion import (
    MotionCorrected,
    MotionSettings,
    VolumeAcquisition,
    correct_motion,
    framewise_displacement,
    rotate_bvecs,
)
from voxcloud.dwi.tensor_design import GradientError
from voxcloud.errors import ImageError, MaskError
from voxcloud.space.affine import rigid_matrix

AXES = np.eye(3)


def _simulator() -> Any:
    spec = importlib.util.spec_from_file_location("moving_brain", Path(__file__).with_name("moving_brain.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moving_brain"] = module
    spec.loader.exec_module(module)
    return module


moving_brain = _simulator()


def correct(brain: Any, **changes: Any) -> MotionCorrected:
    given = {"affine": brain.affine, "b": brain.b, "bvecs_world": brain.g, "mask": brain.mask} | changes
    data = given.pop("data", brain.data)
    acquisitions = given.pop("acquisitions", brain.acquisitions)
    return correct_motion(
        data, given.pop("affine"), given.pop("b"), given.pop("bvecs_world"), acquisitions, given.pop("mask"), **given
    )


def angles_deg(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((found * true).sum(axis=0), -1, 1)))


def test_rotate_bvecs__gives_the_signal_of_the_head_at_rest() -> None:
    """A tensor turned with the head, measured along g, is the tensor at rest measured along the turned g."""
    g = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]).T
    movement = np.stack(
        [rigid_matrix((5, 0, 0), (10.0, 0, 0), (0, 0, 0)), rigid_matrix((0, 0, 0), (0, 20.0, 90.0), (1, 2, 3))]
    )
    rest = np.diag([1.7e-3, 0.4e-3, 0.2e-3])
    for v in range(2):
        turn = movement[v, :3, :3]
        seen = g[:, v] @ (turn @ rest @ turn.T) @ g[:, v]
        turned = rotate_bvecs(g, movement)[:, v]
        assert turned @ rest @ turned == pytest.approx(seen, rel=1e-12)
        assert np.linalg.norm(turned) == pytest.approx(1.0)


def test_rotate_bvecs__of_a_head_turned_left_looks_right() -> None:
    """Turned by +90 degrees about z, the head's front points to -x; a gradient along -x measures its front."""
    turned = rotate_bvecs(-AXES[:, :1], rigid_matrix((0, 0, 0), (0, 0, 90.0), (0, 0, 0))[None])
    np.testing.assert_allclose(turned[:, 0], AXES[1], atol=1e-12)


def test_framewise_displacement__of_shifts_is_their_length_and_of_turns_that_of_points_in_a_ball() -> None:
    centre = np.array([5.0, -3.0, 20.0])
    moves = np.stack(
        [np.eye(4), rigid_matrix((3.0, 4.0, 0.0), (0, 0, 0), centre), rigid_matrix((0, 0, 0), (0, 2.0, 1.0), centre)]
    )
    found = framewise_displacement(moves[[0, 1, 0, 2]], centre)
    drawn = np.random.default_rng(0).uniform(-80, 80, (400_000, 3))
    points = drawn[(drawn**2).sum(axis=1) < 80**2] + centre
    moved = points @ moves[2, :3, :3].T + moves[2, :3, 3] - points
    assert found[:3] == pytest.approx([0.0, 5.0, 5.0])
    assert found[3] == pytest.approx(np.sqrt((moved**2).sum(axis=1).mean()), rel=3e-3)


@pytest.fixture(scope="module")
def small() -> Any:
    return moving_brain.simulate(voxel_mm=5.0, shells={1000.0: 16}, b0s=2, seed=31, dropped=1)


@pytest.mark.slow
def test_correct_motion__finds_known_movement_of_a_small_coarse_scan(small: Any) -> None:
    found = correct(small)
    before, after = moving_brain.errors_mm(small, found.movement, found.eddy_hz, found.eddy_centre_mm)
    weighted = small.b > 0
    assert before[weighted].mean() > 2.5
    assert after[weighted].mean() < 0.2 * before[weighted].mean()
    assert angles_deg(found.bvecs, small.turned)[weighted].max() < 0.6
    np.testing.assert_allclose(found.movement[0], np.eye(4), atol=1e-9)  # the first b = 0 is the reference
    assert np.argwhere(small.dropped).tolist() == [
        p for p in np.argwhere(found.outliers).tolist() if small.dropped[tuple(p)]
    ]
    assert found.outliers.sum() <= 2
    assert found.data.shape == small.data.shape
    assert found.data.dtype == np.float32
    assert found.residual[weighted].max() < 0.25
    assert found.covered[small.brain].mean() > 0.9
    volume = int(np.argwhere(small.dropped)[0, 0])
    inside = small.brain & found.covered
    error = (found.data[..., volume] - small.clean[..., volume])[inside]
    assert abs(error.mean()) < 0.05 * small.clean[..., volume][inside].mean()


@pytest.mark.slow
def test_correct_motion__gives_the_same_bits_twice_and_leaves_the_input_alone(small: Any) -> None:
    settings = MotionSettings(eddy="linear", passes=1)
    given = small.data.copy()
    one, other = correct(small, settings=settings), correct(small, settings=settings)
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.movement, other.movement)
    np.testing.assert_array_equal(small.data, given)
    assert one.eddy_terms == ("1", "x", "y", "z")


@pytest.mark.slow
def test_correct_motion__of_few_directions_takes_the_mean_and_says_so() -> None:
    brain = moving_brain.simulate(
        voxel_mm=6.0, shells={1000.0: 6}, b0s=1, seed=5, dropped=0, linear_hz=2.0, quadratic_hz=0.5
    )
    found = correct(brain)
    assert any("found 6: each volume is predicted by the mean of the others" in text for text in found.warnings)
    assert "b = 0: a single volume" in found.model
    before, after = moving_brain.errors_mm(brain, found.movement, found.eddy_hz, found.eddy_centre_mm)
    assert after[1:].mean() < 0.6 * before[1:].mean()
    assert np.isnan(found.residual[0])


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    data = np.random.default_rng(0).uniform(50, 100, (12, 12, 10, 8)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=(3, 8))
    b = np.full(8, 1000.0)
    b[0] = 0.0
    return {
        "data": data,
        "affine": np.diag([3.0, 3.0, 3.0, 1.0]),
        "b": b,
        "bvecs_world": g / np.linalg.norm(g, axis=0),
        "acquisitions": [VolumeAcquisition("j", 0.05)] * 8,
        "mask": np.ones((12, 12, 10), bool),
    }


def nan_slice(given: dict[str, Any]) -> dict[str, Any]:
    data = given["data"].copy()
    data[:, :, 3, 5] = np.nan
    return given | {"data": data}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t | {"data": t["data"][..., 0]}, ImageError, r"expected images \(x, y, z, volume\)"),
        (lambda t: t | {"data": t["data"][:, :, :4], "mask": t["mask"][:, :, :4]}, ImageError, "at least 8 voxels"),
        (nan_slice, ImageError, r"in 1 volumes \(first 5\)"),
        (lambda t: t | {"b": t["b"][:-1]}, GradientError, "Look whether a volume was removed"),
        (lambda t: t | {"bvecs_world": t["bvecs_world"].T}, GradientError, "expected 8 b-values"),
        (lambda t: t | {"bvecs_world": 0.5 * t["bvecs_world"]}, GradientError, "b-vectors of length 1"),
        (lambda t: t | {"b": t["b"] + 1000}, GradientError, "at least one volume with b at most 50"),
        (lambda t: t | {"acquisitions": t["acquisitions"][:3]}, ImageError, "found 3 entries"),
        (lambda t: t | {"acquisitions": [VolumeAcquisition("AP", 0.05)] * 8}, ImageError, "PhaseEncodingDirection"),
        (lambda t: t | {"acquisitions": [VolumeAcquisition("j", 50.0)] * 8}, ImageError, "readout time in s"),
        (lambda t: t | {"mask": t["mask"][1:]}, MaskError, "expected a brain mask"),
        (lambda t: t | {"mask": np.zeros((12, 12, 10), bool)}, MaskError, "with 0"),
        (lambda t: t | {"field_hz": np.zeros((3, 3, 3))}, ImageError, "static field"),
        (lambda t: t | {"affine": np.zeros((4, 4))}, ImageError, "invertible"),
        (lambda t: t | {"slice_axis": 3}, ImageError, "slice axis of 0, 1 or 2"),
        (lambda t: t | {"settings": MotionSettings(passes=0)}, ImageError, "at least 1 pass"),
    ],
)
def test_correct_motion__refuses_what_it_cannot_use(
    tiny: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as told:
        correct_motion(**change(tiny), unit="sub-01_ses-2")
    assert "sub-01_ses-2" in str(told.value)
