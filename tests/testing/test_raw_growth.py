"""Growth of a soft ball: its volumes against the integral, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.testing.raw_growth import Growth, origin_of

CENTRE = (10.0, -20.0, 30.0)


def points(seed: int, reach_mm: float, count: int = 400) -> npt.NDArray[np.float64]:
    drawn = np.random.default_rng(seed).uniform(-reach_mm, reach_mm, (count, 3))
    return np.asarray(drawn + CENTRE)


def jacobian(growth: Growth, at: npt.NDArray[np.float64], step: float = 0.2) -> npt.NDArray[np.float64]:
    """Return the determinant of the derivative of where things were, by differences."""
    columns = [(growth.origin(at + step * e) - growth.origin(at - step * e)) / (2 * step) for e in np.eye(3)]
    return np.asarray(np.linalg.det(np.stack(columns, axis=-1)))


@pytest.mark.parametrize("log_jacobian", [0.05, -0.07, 0.4])
def test_growth__every_element_of_volume_was_smaller_by_the_profile(log_jacobian: float) -> None:
    growth = Growth(CENTRE, 12.0, 6.0, log_jacobian)
    at = points(0, 30.0)
    np.testing.assert_allclose(
        np.log(jacobian(growth, at)), -log_jacobian * growth.profile(at), atol=2e-3 * abs(log_jacobian) + 1e-6
    )


def test_growth__a_ball_with_a_hard_edge_has_a_closed_form() -> None:
    growth = Growth(CENTRE, 10.0, 0.1, np.log(1.331))
    direction = np.array([2.0, -1.0, 2.0]) / 3.0
    radii = np.array([2.0, 8.0, 30.0])
    was = np.linalg.norm(growth.origin(CENTRE + radii[:, None] * direction) - CENTRE, axis=1)
    # 1.331 = 1.1^3: inside everything is 1.1 times as far; outside the gain in volume is carried along.
    np.testing.assert_allclose(was, [2.0 / 1.1, 8.0 / 1.1, (30.0**3 - 10.0**3 * (1 - 1 / 1.331)) ** (1 / 3)], rtol=1e-3)


def test_growth__far_away_hardly_moves_and_no_growth_moves_nothing() -> None:
    far = np.asarray(CENTRE) + np.array([[90.0, 0.0, 0.0], [0.0, 0.0, -90.0]])
    moved = Growth(CENTRE, 12.0, 6.0, 0.05).origin(far) - far
    assert np.linalg.norm(moved, axis=1).max() < 0.005
    at = points(1, 30.0)
    np.testing.assert_array_equal(Growth(CENTRE, 12.0, 6.0, 0.0).origin(at), at)


def test_origin_of__balls_that_lie_apart_keep_their_own_growth() -> None:
    one, other = Growth(CENTRE, 8.0, 4.0, 0.06), Growth((-50.0, -20.0, 30.0), 8.0, 4.0, -0.06)
    for growth in (one, other):
        middle = np.asarray(growth.centre_mm) + points(2, 3.0, 50) - np.asarray(CENTRE)
        step = 0.2
        columns = [
            (origin_of(middle + step * e, (one, other)) - origin_of(middle - step * e, (one, other))) / (2 * step)
            for e in np.eye(3)
        ]
        found = np.linalg.det(np.stack(columns, axis=-1))
        np.testing.assert_allclose(np.log(found), -growth.log_jacobian * growth.profile(middle), atol=2e-4)
