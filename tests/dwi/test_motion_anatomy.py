"""Displacement of a shell against the anatomy without weighting: known movement of images of other contrast."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxcloud.dwi.motion_anatomy import Place, patterns_displaced, shell_displaced
from voxcloud.dwi.motion_model import RADIUS_MM
from voxcloud.space.affine import rigid_matrix

VOXEL_MM = 3.0
CENTRE = np.array([2.0, -5.0, 3.0])
# Shifts in mm, turns in mm at 70 mm.
MOVED = np.array([0.3, -0.25, 0.2, -0.3, 0.35, 0.25])


def _simulator() -> Any:
    spec = importlib.util.spec_from_file_location("moving_brain", Path(__file__).with_name("moving_brain.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moving_brain"] = module
    spec.loader.exec_module(module)
    return module


moving_brain = _simulator()


class Head:
    """Tissue of the simulated brain, seen where it lies or displaced; a voxel is the mean of eight points."""

    def __init__(self) -> None:
        shape = tuple(int(2 * np.ceil((r + 9.0) / VOXEL_MM)) for r in moving_brain.RADII_MM)
        affine = np.diag([-VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
        self.shape, self.affine = shape, affine
        radius = np.sqrt(((self.points(np.zeros(3)) / moving_brain.RADII_MM[:, None]) ** 2).sum(axis=0))
        self.place = Place((radius < 1.06).reshape(shape), affine, CENTRE)

    def points(self, corner: np.ndarray) -> np.ndarray:
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij")).reshape(3, -1)
        found: np.ndarray = self.affine[:3, :3] @ (grid + corner[:, None]) + self.affine[:3, 3:]
        return found

    def tissues(self, numbers: np.ndarray) -> np.ndarray:
        """Return fractions (3, x, y, z) that an image displaced by ``numbers`` shows: that of M x at x."""
        turn = np.rad2deg(numbers[3:] / RADIUS_MM)
        matrix = rigid_matrix(numbers[:3].tolist(), turn.tolist(), CENTRE.tolist())
        total = np.zeros((3, np.prod(self.shape)))
        for corner in np.stack(np.meshgrid(*([-0.25, 0.25],) * 3, indexing="ij")).reshape(3, -1).T:
            total += np.stack(moving_brain.tissues(matrix[:3, :3] @ self.points(corner) + matrix[:3, 3:])) / 8
        return total.reshape(3, *self.shape)


@pytest.fixture(scope="module")
def head() -> Head:
    return Head()


def image(
    fractions: np.ndarray, signals: tuple[float, float, float], seed: int, sd: float, slope: float = 0.0
) -> np.ndarray:
    """Return an image with noise; white matter becomes brighter from one side of the head to the other."""
    white = signals[0] * np.linspace(1.0 - slope, 1.0 + slope, fractions.shape[1])[:, None, None]
    clean = white * fractions[0] + signals[1] * fractions[1] + signals[2] * fractions[2]
    return np.asarray(clean + np.random.default_rng(seed).normal(0, sd, clean.shape), np.float32)


def test_shell_displaced__finds_a_movement_of_a_tenth_of_a_voxel_between_contrasts(head: Head) -> None:
    """Slopes of coarse images are somewhat too small, so that one step goes too far by up to a third."""
    still = image(head.tissues(np.zeros(6)), (700.0, 900.0, 1900.0), 1, 15.0)
    numbers = []
    for moved in (np.zeros(6), MOVED, -MOVED):
        mean = image(head.tissues(moved), (300.0, 400.0, 95.0), 2, 6.0, 0.2)
        found = shell_displaced(mean, still, head.place)
        assert found is not None
        assert found.sd.max() < 0.3
        numbers.append(found.numbers[:, 0])
    assert np.abs(numbers[0]).max() < VOXEL_MM / 15
    for one, moved in ((numbers[1], MOVED), (numbers[2], -MOVED)):
        share = (one - numbers[0]) / moved
        assert share.min() > 0.9
        assert share.max() < 1.45


def test_patterns_displaced__tells_movement_from_diffusion_of_the_same_pattern(head: Head) -> None:
    """Diffusion of white matter that changes slowly, noise, and in one of two images a movement on top of them."""
    signals = (300.0, 400.0, 95.0)
    at_rest = head.tissues(np.zeros(6))
    still, mean = image(at_rest, (700.0, 900.0, 1900.0), 1, 15.0), image(at_rest, signals, 2, 6.0)
    there, back = (image(head.tissues(sign * MOVED), signals, 0, 0.0) for sign in (1.0, -1.0))
    fibres = 80.0 * at_rest[0] * np.sin(np.linspace(-1.5, 1.5, head.shape[1]))[:, None]
    noise = np.random.default_rng(3).normal(0, 12.0, head.shape)
    targets = np.stack([fibres + noise, fibres + 0.5 * (there - back) + noise]).astype(np.float32)
    found = patterns_displaced(targets, mean, still, head.place)
    assert found is not None
    assert np.abs(found.numbers[:, 0]).max() < 0.08
    share = (found.numbers[:, 1] - found.numbers[:, 0]) / MOVED
    assert share.min() > 0.9
    assert share.max() < 1.6


def test_displaced__gives_none_where_the_brain_is_too_small(head: Head) -> None:
    still = image(head.tissues(np.zeros(6)), (700.0, 900.0, 1900.0), 1, 15.0)
    few = np.zeros(head.shape, bool)
    few[10:14, 10:14, 10:14] = True
    place = Place(few, head.affine, CENTRE)
    assert shell_displaced(still, still, place) is None
    assert patterns_displaced(still[None], still, still, place) is None
