"""The midpoint template: movements known to hundredths of a millimetre, no visit the reference, strangers named."""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg, ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.midpoint import Midpoint, midpoint_template


def _simulator() -> Any:
    spec = importlib.util.spec_from_file_location("longitudinal_head", Path(__file__).with_name("longitudinal_head.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["longitudinal_head"] = module
    spec.loader.exec_module(module)
    return module


simulator = _simulator()


@dataclass(frozen=True, eq=False)
class Visits:
    """Scans of one or more heads and their true positions."""

    images: tuple[np.ndarray, ...]
    affines: tuple[np.ndarray, ...]
    poses: tuple[np.ndarray, ...]

    def errors_mm(self, matrices: np.ndarray) -> list[float]:
        """Mean error over the brain of every movement from one visit to another."""
        points = np.random.default_rng(0).uniform([-60, -95, -30], [60, 65, 70], (500, 3))
        head = np.c_[points, np.ones(500)].T
        errors = []
        for i in range(len(matrices)):
            for j in range(i):
                found = matrices[j] @ np.linalg.inv(matrices[i])
                wrong = (found - self.poses[j] @ np.linalg.inv(self.poses[i])) @ self.poses[i] @ head
                errors.append(float(np.sqrt((wrong[:3] ** 2).sum(axis=0)).mean()))
        return errors


@functools.cache
def make_visits(people: tuple[str, ...] = ("01", "01", "01"), voxels_mm: tuple[float, ...] = (4.0, 4.0, 3.5)) -> Visits:
    rng = np.random.default_rng(3)
    images, affines, poses = [], [], []
    for k, (name, mm) in enumerate(zip(people, voxels_mm, strict=True)):
        head = simulator.person(name, resolution_mm=4.0)
        grid = simulator.head_grid(mm, (4 * k, -3 * k, 5 * k), (k, 0, -k))
        poses.append(simulator.pose(head, rng))
        images.append(simulator.scan(head, poses[-1], grid, seed=k))
        affines.append(grid.affine)
    return Visits(tuple(images), tuple(affines), tuple(poses))


@functools.cache
def found_of(people: tuple[str, ...] = ("01", "01", "01")) -> Midpoint:
    visits = make_visits(people) if len(people) == 3 else make_visits(people, (4.0,) * len(people))
    return midpoint_template(visits.images, visits.affines)


def test_midpoint_template__visits_agree_within_a_hundredth_of_a_voxel_whatever_their_grids() -> None:
    found, visits = found_of(), make_visits()
    errors = visits.errors_mm(found.matrices)
    assert max(visits.errors_mm(np.stack([np.eye(4)] * 3))) > 2.0
    assert max(errors) < 0.03
    assert found.flagged == ("", "", "")
    assert found.report["last_step_mm"] < 0.01
    assert 0 < found.report["child_cpu_s"] < found.report["cpu_s"]


def test_midpoint_template__no_visit_is_the_reference() -> None:
    found = found_of()
    logarithms = [np.real(linalg.logm(matrix)) for matrix in found.matrices]
    np.testing.assert_allclose(np.sum(logarithms, axis=0), 0, atol=1e-9)
    for matrix in found.matrices:
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(matrix[:3, :3]) > 0
    np.testing.assert_allclose(found.affine[:3, :3], 3.5 * np.eye(3))  # the finest voxel, along the scanner's axes


def test_midpoint_template__two_visits_lie_half_the_movement_from_it() -> None:
    visits = make_visits()
    found = midpoint_template(visits.images[:2], visits.affines[:2])
    # T and its inverse: T T is the movement from the second visit's space to the first one's.
    np.testing.assert_allclose(found.matrices[0] @ found.matrices[1], np.eye(4), atol=1e-9)


def test_midpoint_template__image_and_counts_are_means_of_what_is_known() -> None:
    found, visits = found_of(), make_visits()
    seen = []
    index = np.indices(found.image.shape).reshape(3, -1)
    for image, affine, matrix in zip(visits.images, visits.affines, found.matrices, strict=True):
        known = np.isfinite(image)
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        places = np.linalg.inv(affine) @ matrix @ found.affine @ np.r_[index, np.ones((1, index.shape[1]))]
        values = ndimage.map_coordinates(image[tuple(nearest)].astype(np.float64), places[:3], order=3, mode="mirror")
        share = ndimage.map_coordinates(known.astype(float), places[:3], order=1, mode="constant", cval=0.0)
        seen.append(np.where(share >= 0.5, values, np.nan).reshape(found.image.shape))
    count = np.isfinite(seen).sum(axis=0)
    agree = count == found.known  # but for shares of exactly a half, and rounding at the ends
    assert agree.mean() > 0.999
    inside = agree & (count > 0)
    np.testing.assert_allclose(found.image[inside], np.nansum(seen, axis=0)[inside] / count[inside], atol=2e-5)
    assert np.isnan(found.image[found.known == 0]).all()
    assert {1, 2, 3} <= set(np.unique(found.known))


def test_midpoint_template__the_order_of_the_visits_changes_no_bit() -> None:
    found, visits = found_of(), make_visits()
    order = [2, 0, 1]
    other = midpoint_template([visits.images[k] for k in order], [visits.affines[k] for k in order])
    np.testing.assert_array_equal(other.image, found.image)
    np.testing.assert_array_equal(other.affine, found.affine)
    np.testing.assert_array_equal(other.matrices, found.matrices[order])
    assert [other.report["visits"][k] for k in range(3)] == [found.report["visits"][k] for k in order]


def test_midpoint_template__a_single_visit_stays_where_it_is_and_is_interpolated_too() -> None:
    grid = simulator.head_grid(4.0)
    image = simulator.scan(simulator.person("01", resolution_mm=4.0), np.eye(4), grid)
    found = midpoint_template([image], [grid.affine], voxel_mm=4.0)
    np.testing.assert_array_equal(found.matrices, np.eye(4)[None])
    assert found.flagged == ("",)
    assert found.report["visits"][0]["agreement"] is None
    known = found.image[np.isfinite(found.image)]
    assert np.isin(known, image).mean() < 0.01  # no sample comes through as it is, but for chance
    assert abs(known.mean() - np.nanmean(image)) < 0.02


def test_midpoint_template__masks_keep_what_moves_by_itself_out() -> None:
    visits = make_visits()
    images = [image.copy() for image in visits.images]
    masks = []
    for k, (image, affine, pose) in enumerate(zip(images, visits.affines, visits.poses, strict=True)):
        index = np.indices(image.shape).reshape(3, -1)
        head = np.linalg.inv(pose) @ affine @ np.r_[index, np.ones((1, index.shape[1]))]
        low = (head[2] < -25).reshape(image.shape)
        image[low] = np.random.default_rng(k).uniform(0, 2, int(low.sum()))  # nonsense below the brain
        masks.append(~low & np.isfinite(image))
    found = midpoint_template(images, visits.affines, masks=masks)
    assert max(visits.errors_mm(found.matrices)) < 0.04


def test_midpoint_template__names_a_visit_of_another_person() -> None:
    people = ("01", "02", "01", "01")
    found = found_of(people)
    assert [bool(flag) for flag in found.flagged] == [False, True, False, False]
    assert "of another person" in found.flagged[1]
    agreement = [visit["agreement"] for visit in found.report["visits"]]
    assert agreement[1] < 0.7
    assert min(agreement[k] for k in (0, 2, 3)) > 0.9


def test_midpoint_template__of_two_people_neither_is_right() -> None:
    found = found_of(("01", "02"))
    assert all("one of the two is of another person" in flag for flag in found.flagged)


def test_midpoint_template__refuses_what_cannot_be_used() -> None:
    visits = make_visits()
    with pytest.raises(RegistrationError, match="expected one or more images and as many affines"):
        midpoint_template([], [])
    with pytest.raises(RegistrationError, match="expected one or more images and as many affines"):
        midpoint_template(visits.images, visits.affines[:2])
    with pytest.raises(RegistrationError, match=r"visit 1: expected a 3-D image"):
        midpoint_template([np.zeros((4, 4))], [np.eye(4)])
    with pytest.raises(RegistrationError, match=r"visit 2: expected an image with at least 1000 known voxels"):
        midpoint_template([visits.images[0], np.full((20, 20, 20), np.nan)], [visits.affines[0], np.eye(4)])


@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_midpoint_template__does_not_depend_on_where_the_scanner_has_its_origin(turn: float) -> None:
    visits = make_visits()
    away = rigid_matrix((30, -20, 10), (0, 0, turn), (0, 0, 0))
    found = found_of()
    moved = midpoint_template(visits.images, [away @ affine for affine in visits.affines])
    # The same points of the head, seen in the other frame: T' = A T A^-1.
    expected = away @ found.matrices @ np.linalg.inv(away)
    assert max(visits_error(expected, moved.matrices)) < 0.01


def visits_error(expected: np.ndarray, found: np.ndarray) -> list[float]:
    points = np.c_[np.random.default_rng(0).uniform(-80, 80, (200, 3)), np.ones(200)].T
    return [
        float(np.sqrt((((a - b) @ points)[:3] ** 2).sum(axis=0)).mean()) for a, b in zip(expected, found, strict=True)
    ]
