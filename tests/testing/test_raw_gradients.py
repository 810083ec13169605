"""Gradient tables of the simulated diffusion images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from voxcloud.dwi.gradients import bvecs_to_bids, bvecs_to_world, check_gradients
from voxcloud.testing.raw_gradients import gradient_table, spread_directions, to_voxel_axes, write_gradients

Float64 = npt.NDArray[np.float64]


def nearest_angles(directions: Float64) -> Float64:
    """Angle of each axis with the one next to it, degrees."""
    cosines = np.abs(directions.T @ directions)
    np.fill_diagonal(cosines, 0.0)
    return np.rad2deg(np.arccos(cosines.max(axis=0)))


def test_spread_directions__six_are_the_axes_of_an_icosahedron() -> None:
    np.testing.assert_allclose(nearest_angles(spread_directions(6)), np.rad2deg(np.arctan(2.0)), atol=0.01)


@pytest.mark.parametrize("count", [12, 30, 60])
def test_spread_directions__weigh_all_axes_alike(count: int) -> None:
    g = spread_directions(count)
    np.testing.assert_allclose(np.linalg.norm(g, axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(g @ g.T, count / 3 * np.eye(3), atol=0.005 * count)
    # The densest packing of caps would have this many degrees between neighbours.
    packed = np.rad2deg(2 * np.arccos(1 - 1 / count)) * 0.95
    assert 0.8 * packed < nearest_angles(g).min() <= packed


def test_gradient_table__spreads_volumes_without_weighting_and_mixes_shells() -> None:
    table = gradient_table(0, ((1000.0, 20), (2500.0, 30)), 5)
    assert table.bvals.shape == (55,)
    assert np.flatnonzero(table.bvals == 0).tolist() == [0, 11, 22, 33, 44]
    shells = check_gradients(table.bvals, table.directions, 55).shells
    assert [(round(s.bval, -1), s.directions) for s in shells] == [(1000.0, 20), (2500.0, 30)]
    assert np.array_equal(table.bvals, np.rint(table.bvals))
    assert 1.0 < np.std(table.bvals[list(shells[0].volumes)]) < 8.0
    first = table.bvals[:28] > 2000
    assert 8 < first.sum() < 22
    # Both of g and -g: the mean of vectors on half a sphere has length .5.
    assert np.linalg.norm(table.directions.mean(axis=1)) < 0.3
    assert not np.array_equal(gradient_table(1, ((1000.0, 20),), 1).directions, gradient_table(0, ((1000.0, 20),), 1))


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1.0, 1.0, 1.0]), np.eye(3)[[1, 0, 2]]])
def test_write_gradients__are_in_the_frame_of_bids(axes: Float64, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -20, 5], degrees=True).as_matrix() @ axes * [2.0, 2.0, 3.0]
    table = gradient_table(3, ((1000.0, 12),), 2)
    np.testing.assert_allclose(
        to_voxel_axes(table.directions, affine), bvecs_to_bids(table.directions, affine), atol=1e-12
    )
    write_gradients(tmp_path / "one_dwi", table, affine)
    assert np.array_equal(np.loadtxt(tmp_path / "one_dwi.bval"), table.bvals)
    read = np.loadtxt(tmp_path / "one_dwi.bvec")
    np.testing.assert_allclose(bvecs_to_world(read, affine), table.directions, atol=2e-6)
    assert "-0.000000" not in (tmp_path / "one_dwi.bvec").read_text().splitlines()[0].split()[:1]
