"""People of the simulated raw study: anatomies that differ and do not fold, and drift between visits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from voxcloud.testing.raw_head import HeadTissues, phantom_head
from voxcloud.testing.raw_people import (
    LEAST_JACOBIAN,
    SLOPE_SD,
    Person,
    draw_person,
    roomier,
    warp_jacobian,
)
from voxcloud.testing.raw_tissue import PARAMETERS


@pytest.fixture(scope="module")
def tissues() -> HeadTissues:
    return roomier(phantom_head(8.0))


@pytest.fixture(scope="module")
def people(tissues: HeadTissues) -> list[Person]:
    return [draw_person(tissues, 3, f"{k:02d}") for k in range(1, 9)]


@pytest.fixture(scope="module")
def brain() -> npt.NDArray[np.float64]:
    """Points of the phantom's brain, every 5 mm."""
    axes = np.meshgrid(*(np.arange(-half, half + 1, 5.0) for half in (65, 80, 65)), indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, 3)
    return np.asarray(points[np.sqrt((points**2 / np.array([66.0, 84.0, 68.0]) ** 2).sum(axis=1)) < 0.95])


def test_draw_person__warps_move_points_by_some_mm_and_do_not_fold(
    people: list[Person], brain: npt.NDArray[np.float64]
) -> None:
    for person in people:
        u = person.head_points(brain) @ person.to_template[:3, :3].T + person.to_template[:3, 3]
        distance = np.linalg.norm(brain - u, axis=1)
        assert 3.0 < np.sqrt((distance**2).mean()) < 9.0
        dense = np.concatenate([u + shift for shift in (0.0, 2.5, np.array([2.5, 0.0, 0.0]))])
        assert warp_jacobian(person.warp, dense).min() > 0.8 * LEAST_JACOBIAN
        assert person.least_jacobian >= LEAST_JACOBIAN


def test_draw_person__a_velocity_that_would_fold_is_lowered(tissues: HeadTissues) -> None:
    wild = draw_person(tissues, 3, "01", spread=4.0)
    assert wild.least_jacobian >= LEAST_JACOBIAN


def test_person__points_of_the_head_and_of_the_template_are_each_others_inverse(
    people: list[Person], brain: npt.NDArray[np.float64]
) -> None:
    for person in people:
        np.testing.assert_allclose(person.template_points(person.head_points(brain)), brain, atol=1e-4)


def test_person__the_volume_ratio_adds_up_to_the_volume_of_the_head(tissues: HeadTissues, people: list[Person]) -> None:
    step = 4.0
    axes = np.meshgrid(*(np.arange(-half, half + 1, step) for half in (92, 112, 92)), indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, 3)
    inside = points[np.sqrt((points**2 / np.array([66.0, 84.0, 68.0]) ** 2).sum(axis=1)) < 1.2]
    for person in people[:3]:
        head = person.head(tissues, {})
        native = head.sample(points)[0][:, :3].sum() * step**3
        fractions = person_at_template(tissues, inside)
        assert (fractions * person.volume_ratio(person.head_points(inside))).sum() * step**3 == pytest.approx(
            native, rel=2e-3
        )


def person_at_template(tissues: HeadTissues, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from voxcloud.testing.raw_sampling import sample_spline

    return sample_spline(tissues.coefficients, tissues.voxels(points))[:, :3].sum(axis=1).astype(np.float64)


def test_draw_person__people_differ_in_volume_and_the_same_seed_makes_the_same_person(
    tissues: HeadTissues, people: list[Person]
) -> None:
    sizes = [np.linalg.det(person.to_template[:3, :3]) ** (-1 / 3) for person in people]
    assert 0.01 < np.std(sizes) < 0.04
    again, other = draw_person(tissues, 3, "01"), draw_person(tissues, 4, "01")
    np.testing.assert_array_equal(again.warp, people[0].warp)
    np.testing.assert_array_equal(again.to_template, people[0].to_template)
    assert np.abs(other.warp - people[0].warp).max() > 1.0


def test_person__drifts_only_between_visits_and_not_without_slopes(
    tissues: HeadTissues, people: list[Person], brain: npt.NDArray[np.float64]
) -> None:
    still = draw_person(tissues, 3, "01", slopes=0.0)
    person = people[0]
    np.testing.assert_array_equal(still.warp, person.warp)
    first, last = person.head(tissues, {"linear": 0.0}), person.head(tissues, {"linear": 1.0, "quadratic": 0.0})
    np.testing.assert_array_equal(still.head(tissues, {"linear": 1.0}).warp, first.warp)
    at = person.head_points(brain)
    change = last.sample(at)[1] / np.maximum(first.sample(at)[1], 1e-6) - 1.0
    deep = first.sample(at)[0][:, 1] > 0.99
    spread = change[deep].std(axis=0)
    assert spread[PARAMETERS.index("R1map")] == pytest.approx(SLOPE_SD["R1map"], rel=0.5)
    assert spread[PARAMETERS.index("PDmap")] < 2e-4  # its own variation, moved along with volumes


def test_person__volumes_drift_with_the_stated_spread(people: list[Person], brain: npt.NDArray[np.float64]) -> None:
    drifted = []
    for person in people:
        u = person.head_points(brain) @ person.to_template[:3, :3].T + person.to_template[:3, 3]
        later = person.warp + person.drift["linear"].displacement
        drifted.append(np.log(warp_jacobian(later, u) / warp_jacobian(person.warp, u)))
    assert np.std(drifted) == pytest.approx(SLOPE_SD["volume"], rel=0.2)
