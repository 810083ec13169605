"""The head: mixtures, what people differ in, what changes, and that nothing of it is left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.testing.raw_geometry import Movement, grid, movement
from voxcloud.testing.raw_head import HeadTissues, VisitChange, mixed_parameters, person_head, phantom_head
from voxcloud.testing.raw_tissue import PARAMETERS, TISSUES, VALUES


@pytest.fixture(scope="module")
def phantom() -> HeadTissues:
    return phantom_head(8.0)


@pytest.fixture(scope="module")
def points() -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).uniform(-110.0, 110.0, (20_000, 3))


def test_mixed_parameters__of_one_tissue_are_its_values() -> None:
    mixed = mixed_parameters(np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32))
    for at, tissue in enumerate(TISSUES):
        np.testing.assert_allclose(mixed[at], [VALUES[tissue][name] for name in PARAMETERS], rtol=1e-6)


def test_mixed_parameters__average_rates_and_add_up_pd() -> None:
    half_air = np.array([[0.25, 0.25, 0.0, 0.0]], dtype=np.float32)
    r1, pd, _, mtsat = mixed_parameters(half_air, np.zeros((1, 4), np.float32))[0]
    assert r1 == pytest.approx((0.61 + 1.04) / 2, rel=1e-6)
    assert mtsat == pytest.approx((0.85 + 1.70) / 2, rel=1e-6)
    assert pd == pytest.approx((82 + 69) / 4, rel=1e-6)


def test_mixed_parameters__vary_in_the_brain_only() -> None:
    ten_percent = np.full((4, 4), 0.1, dtype=np.float32)
    varied = mixed_parameters(np.eye(4, dtype=np.float32), ten_percent)
    plain = mixed_parameters(np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(varied[:2], 1.1 * plain[:2], rtol=1e-6)
    np.testing.assert_array_equal(varied[2:], plain[2:])
    assert (mixed_parameters(np.zeros((1, 4), np.float32), ten_percent[:1]) == 0).all()


def test_head__fractions_are_fractions(phantom: HeadTissues, points: npt.NDArray[np.float64]) -> None:
    fractions, parameters = person_head(phantom, 0, "01").sample(points)
    assert fractions.min() >= 0
    assert fractions.sum(axis=1).max() <= 1 + 1e-5
    for tissue in range(4):
        assert (fractions[:, tissue] > 0.5).any()
    assert np.isfinite(parameters).all()
    assert parameters.min() >= 0


def test_head__is_nowhere_but_where_it_may_be(phantom: HeadTissues, points: npt.NDArray[np.float64]) -> None:
    for participant in ("01", "02", "03"):
        head = person_head(phantom, 0, participant)
        fractions, _ = head.sample(points)
        assert (fractions[~head.may_fill(points)] == 0).all()
        assert 0.1 < head.may_fill(points).mean() < 0.9


def test_person_head__differs_between_people_and_not_between_visits(
    phantom: HeadTissues, points: npt.NDArray[np.float64]
) -> None:
    first, again, other = (
        person_head(phantom, 0, name, visit).sample(points) for name, visit in (("01", 0), ("01", 1), ("02", 0))
    )
    np.testing.assert_array_equal(first[1], again[1])
    white = (first[0][:, 1] > 0.95) & (other[0][:, 1] > 0.95)
    spread = (other[1][white] / first[1][white]).std(axis=0)
    assert (spread > 0.004).all()
    assert (spread < 0.15).all()
    assert np.abs(first[0] - other[0]).max() > 0.3  # size and shape


def test_visit_change__changes_one_parameter_in_a_ball(phantom: HeadTissues) -> None:
    points = np.random.default_rng(0).uniform(-60.0, 60.0, (20_000, 3))
    middle = (0.0, -28.0, -12.0)
    change = VisitChange("R1map", middle, 16.0, 4.0, 0.05)
    before, after = (person_head(phantom, 0, "01", visit, (change,)) for visit in (0, 2))
    fractions, plain = before.sample(points)
    _, changed = after.sample(points)
    white = fractions[:, 1] > 0.999
    ratio = changed[white] / plain[white]
    distance = np.linalg.norm(points[white] - middle, axis=1)
    # The ball is in the template's space; a person's shape moves it by millimetres.
    deep, far = distance < 8, distance > 30
    assert deep.sum() > 10
    assert far.sum() > 100
    np.testing.assert_allclose(ratio[deep, 0], 1.10, atol=2e-3)
    np.testing.assert_allclose(ratio[far], 1.0, atol=1e-5)
    np.testing.assert_array_equal(ratio[:, 1:], 1.0)


def test_movement__turns_about_the_axes_as_the_right_hand_does() -> None:
    for axis, (start, end) in enumerate((([0, 1, 0], [0, 0, 1]), ([0, 0, 1], [1, 0, 0]), ([1, 0, 0], [0, 1, 0]))):
        angles = [0.0, 0.0, 0.0]
        angles[axis] = 90.0
        moved = Movement((angles[0], angles[1], angles[2]), (1.0, 2.0, 3.0)).matrix() @ [*start, 1.0]
        np.testing.assert_allclose(moved[:3], np.add(end, (1.0, 2.0, 3.0)), atol=1e-12)


def test_movement__is_rigid_and_drawn_from_its_names() -> None:
    drawn = movement(0, "01", "1", "T1w", degrees=1.0, mm=1.0)
    turn = drawn.matrix()[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert drawn == movement(0, "01", "1", "T1w", degrees=1.0, mm=1.0)
    assert drawn != movement(0, "01", "2", "T1w", degrees=1.0, mm=1.0)


def test_grid__has_its_middle_at_the_isocentre() -> None:
    cells = grid((100.0, 120.0, 80.0), 2.0, Movement((5.0, 0.0, 0.0)))
    assert cells.shape == (50, 60, 40)
    middle = cells.affine @ [*((np.array(cells.shape) - 1) / 2), 1.0]
    np.testing.assert_allclose(middle[:3], 0.0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(cells.affine[:3, :3], axis=0), 2.0)
