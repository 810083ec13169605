"""Rigid movements: parameters to matrices and back, composition, displacement in mm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from voxcloud.space.affine import displacement_mm, rigid_matrix, rigid_parameters, voxel_to_voxel

SMALL = st.floats(-20.0, 20.0)
THREE = st.tuples(SMALL, SMALL, SMALL)


@given(THREE, THREE, THREE)
def test_rigid_parameters__inverts_rigid_matrix(shift: tuple, turn: tuple, centre: tuple) -> None:
    matrix = rigid_matrix(shift, turn, centre)
    found_shift, found_turn = rigid_parameters(matrix, centre)
    np.testing.assert_allclose(found_shift, shift, atol=1e-9)
    np.testing.assert_allclose(found_turn, turn, atol=1e-9)


def test_rigid_matrix__turns_as_scipy_does() -> None:
    matrix = rigid_matrix((0, 0, 0), (10, -5, 3), (0, 0, 0))
    expected = Rotation.from_euler("xyz", (10, -5, 3), degrees=True).as_matrix()
    np.testing.assert_allclose(matrix[:3, :3], expected, atol=1e-12)


def test_rigid_matrix__keeps_the_centre_where_it_is() -> None:
    centre = np.array([10.0, -20.0, 5.0, 1.0])
    np.testing.assert_allclose(
        rigid_matrix((1, 2, 3), (4, 5, 6), centre[:3]) @ centre, centre + np.array([1.0, 2.0, 3.0, 0.0])
    )


def test_rigid_parameters__takes_the_rigid_part_of_a_scaled_transform() -> None:
    matrix = rigid_matrix((1, 2, 3), (4, 5, 6), (0, 0, 0))
    matrix[:3, :3] *= 1.1
    shift, turn = rigid_parameters(matrix, (0, 0, 0))
    np.testing.assert_allclose(turn, (4, 5, 6), atol=1e-9)
    np.testing.assert_allclose(shift, (1, 2, 3), atol=1e-9)


def test_voxel_to_voxel__goes_through_the_world() -> None:
    fixed = np.diag([2.0, 2.0, 2.0, 1.0])
    moving = np.diag([-1.0, 1.0, 4.0, 1.0])
    moving[:3, 3] = (50.0, 0.0, 0.0)
    move = np.eye(4)
    move[:3, 3] = (10.0, 0.0, 0.0)
    found = voxel_to_voxel(fixed, move, moving) @ [5.0, 3.0, 2.0, 1.0]
    np.testing.assert_allclose(found, [30.0, 6.0, 1.0, 1.0])  # (10, 6, 4) mm -> (20, 6, 4) mm


def test_displacement_mm__of_a_shift_is_its_length() -> None:
    move = np.eye(4)
    move[:3, 3] = (3.0, 4.0, 0.0)
    assert displacement_mm(move, np.eye(4), (40, 41, 42)) == pytest.approx((5.0, 5.0))


def test_displacement_mm__of_a_turn_grows_with_the_distance() -> None:
    turn = rigid_matrix((0, 0, 0), (0, 0, 1), (0, 0, 0))
    near = np.zeros((80, 80, 80), dtype=bool)
    near[:8, :8] = True
    mean, largest = displacement_mm(turn, np.eye(4), near.shape)
    assert largest == pytest.approx(2 * np.sin(np.deg2rad(0.5)) * np.hypot(76, 76), rel=1e-6)
    assert displacement_mm(turn, np.eye(4), near.shape, near)[0] < mean / 3
