"""Gradient tables: frames, and what is refused with which words."""

from __future__ import annotations

import itertools
import re

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from voxcloud.dwi.gradients import (
    FEW_DIRECTIONS,
    NO_B0,
    bids_to_world,
    bvecs_to_bids,
    bvecs_to_world,
    check_gradients,
    compare_shells,
    count_directions,
    find_shells,
)
from voxcloud.dwi.tensor_design import GradientError

Float64 = npt.NDArray[np.float64]
SIGNED = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", [17, -24, 9], degrees=True).as_matrix()


def affine_of(linear: Float64) -> Float64:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-91.0, 3.5, 20.0)
    return affine


def table(weighted: int = 30, *, b0: int = 3, bval: float = 1000.0, seed: int = 2) -> tuple[Float64, Float64]:
    """Return b-values, the ones without weighting first, and b-vectors."""
    g = np.random.default_rng(seed).normal(size=(3, b0 + weighted))
    g /= np.linalg.norm(g, axis=0)
    g[:, :b0] = 0.0
    return np.repeat([0.0, bval], [b0, weighted]), g


@pytest.mark.parametrize("tilt", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_bvecs_to_world__follows_the_physical_direction_for_every_order_of_axes(tilt: Float64) -> None:
    # A gradient along a known physical direction, written as BIDS says: its parts along the voxel axes, the first one
    # negated where the axes are right-handed.
    physical = np.random.default_rng(1).normal(size=(3, 12))
    physical /= np.linalg.norm(physical, axis=0)
    for axes in SIGNED:
        columns = tilt @ axes
        written = np.array([columns[:, axis] @ physical for axis in range(3)])
        if np.linalg.det(columns) > 0:
            written[0] *= -1
        affine = affine_of(columns * [1.5, 2.0, 3.1])
        assert np.allclose(bvecs_to_world(written, affine), physical, atol=1e-12)
        assert np.allclose(bvecs_to_bids(physical, affine), written, atol=1e-12)


@pytest.mark.parametrize(
    "codes, expected",
    [("RAS", (-1, 1, 1)), ("LAS", (-1, 1, 1)), ("RPI", (-1, -1, -1)), ("LPS", (1, -1, 1)), ("LPI", (-1, -1, -1))],
)
def test_bids_to_world__has_the_signs_of_known_orientations(codes: str, expected: tuple[int, int, int]) -> None:
    signs = [1.0 if code in "RAS" else -1.0 for code in codes]
    assert np.allclose(bids_to_world(np.diag([*signs, 1.0])), np.diag(expected))


def test_bids_to_world__is_orthogonal_for_a_sheared_affine() -> None:
    sheared = affine_of(OBLIQUE @ np.array([[2.0, 0.05, 0.0], [0.0, 2.0, 0.02], [0.0, 0.0, 2.5]]))
    found = bids_to_world(sheared)
    assert np.allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.allclose(found @ np.diag([-1, 1, 1]), OBLIQUE, atol=0.03)


def test_bids_to_world__refuses_a_flat_affine() -> None:
    with pytest.raises(GradientError, match="three independent voxel axes"):
        bids_to_world(np.diag([2.0, 2.0, 0.0, 1.0]))
    with pytest.raises(GradientError, match=r"Transpose them"):
        bvecs_to_world(np.zeros((30, 3)), np.eye(4))


def test_check_gradients__returns_what_it_found() -> None:
    b, g = table()
    b[20:] = np.random.default_rng(3).uniform(2480, 2520, 13)
    b[1], g[:, 1] = 5.0, np.nan
    g[:, 7] = g[:, 5] * 1.004
    g[:, 25] = -g[:, 22]
    found = check_gradients(b, g, 33)
    assert [shell.bval for shell in found.shells] == pytest.approx([1000.0, b[20:].mean()])
    assert [(len(shell.volumes), shell.directions) for shell in found.shells] == [(17, 16), (13, 12)]
    assert found.duplicates == ((5, 7),)
    assert found.antipodal == ((22, 25),)
    assert len(found.notes) == 2
    assert "the same direction in volumes 5 and 7" in found.notes[0]
    assert "opposite directions in volumes 22 and 25" in found.notes[1]
    assert np.array_equal(found.b0, np.arange(33) < 3)
    assert np.allclose(np.linalg.norm(found.bvecs, axis=0), ~found.b0)


def test_check_gradients__says_nothing_of_a_good_table() -> None:
    assert check_gradients(*table(64), 67).notes == ()


@pytest.mark.parametrize(
    "volumes, words",
    [
        (32, "expected 32 b-values, one for each volume, found 33. One volume fewer"),
        (34, "One volume more"),
        (20, "Do"),
    ],
)
def test_check_gradients__refuses_other_counts(volumes: int, words: str) -> None:
    with pytest.raises(GradientError, match=re.escape(words)) as caught:
        check_gradients(*table(), volumes, unit="sub-01_ses-1")
    assert len(caught.value.problems) == 2
    assert all(problem.startswith("sub-01_ses-1: ") for problem in caught.value.problems)


def test_check_gradients__refuses_tables_that_do_not_fit_each_other() -> None:
    b, g = table()
    with pytest.raises(GradientError, match="as many b-vectors as b-values, found 32 and 33"):
        check_gradients(b, g[:, 1:], 33)
    with pytest.raises(GradientError, match="transposed"):
        check_gradients(b, g.T, 33)


@pytest.mark.parametrize(
    "scale, words",
    [
        (1e-3, "ms/um2 (1 where 1000 is meant): multiply them by 1000."),
        (1e-6, "(0.001 where 1000 is meant): multiply them by 1e+06."),
        (1e6, "s/m2: multiply them by 1e-06."),
        (0.08, "Look at the table."),
    ],
)
def test_check_gradients__names_the_unit_of_b_values(scale: float, words: str) -> None:
    b, g = table()
    with pytest.raises(GradientError, match=re.escape(words)):
        check_gradients(b * scale, g, 33)


def test_check_gradients__refuses_negative_and_absent_b_values() -> None:
    b, g = table()
    b[[4, 9]] = -1.0, np.nan
    with pytest.raises(GradientError, match="found -1 at volume 4, 9"):
        check_gradients(b, g, 33)
    with pytest.raises(GradientError, match="found 33 with b = 0"):
        check_gradients(np.zeros(33), g, 33)


def test_check_gradients__tells_all_that_is_wrong_with_vectors() -> None:
    b, g = table()
    g[:, 10], g[:, 11], g[:, 12] = 0.0, np.nan, g[:, 12] * 1.2
    with pytest.raises(GradientError) as caught:
        check_gradients(b, g, 33)
    unknown, none, longer = caught.value.problems
    assert "NaN or infinite ones with b = 1000 s/mm2 at volume 11" in unknown
    assert "none (0, 0, 0) with b = 1000 s/mm2 at volume 10" in none
    assert "length 1, found 1.2 to 1.2 at volume 12" in longer
    assert "Divide the vectors by their lengths" in longer


def test_check_gradients__sees_b_values_in_the_lengths_of_vectors() -> None:
    b, g = table(40, bval=3000.0)
    g[:, 3:20] *= np.sqrt(1 / 3)
    with pytest.raises(GradientError, match=r"these are b = 1000, 3000 s/mm2; ask for that with scale_by_length"):
        check_gradients(b, g, 43)
    found = check_gradients(b, g, 43, scale_by_length=True)
    assert [round(shell.bval) for shell in found.shells] == [1000, 3000]
    assert np.allclose(np.linalg.norm(found.bvecs[:, 3:], axis=0), 1)


def test_check_gradients__wants_a_volume_without_weighting() -> None:
    b, g = table(30, b0=0)
    with pytest.raises(GradientError, match=NO_B0):
        check_gradients(b, g, 30)


@pytest.mark.parametrize("repeated", [1, 4])
def test_check_gradients__wants_six_directions(repeated: int) -> None:
    b, g = table(5)
    b, g = np.tile(b, repeated), np.concatenate([g * (-1) ** i for i in range(repeated)], axis=1)
    with pytest.raises(GradientError, match=f"at least 6 {FEW_DIRECTIONS} .*found 5 in {5 * repeated} volumes"):
        check_gradients(b, g, b.size)
    assert check_gradients(*table(6), 9).shells[0].directions == 6


def test_find_shells__bears_scatter_but_not_neighbours() -> None:
    b = np.array([0, 5, 995, 1005, 700, 1000, 2990, 3010, 3100, 200, 50])
    assert [part.tolist() for part in find_shells(b)] == [[9], [4], [2, 3, 5], [6, 7, 8]]
    assert find_shells([0.0, 0.0]) == []


def test_check_gradients__notes_what_is_no_shell() -> None:
    b, g = table(60)
    b[3:] = np.linspace(300, 2500, 60)
    assert "expected shells, found b-values spread from 300 to 2500" in check_gradients(b, g, 63).notes[0]


def test_compare_shells__names_the_image_that_differs() -> None:
    one, near, other = (check_gradients(*table(30, bval=bval), 33) for bval in (1000.0, 1010.0, 1500.0))
    assert compare_shells({"a": one, "b": near}) == ()
    (message,) = compare_shells({"a": one, "b": near, "c": other})
    assert message.startswith("c: expected the shells of a (1000 s/mm2), found 1500 s/mm2.")


def test_count_directions__ignores_signs() -> None:
    g = table(8, b0=0)[1]
    assert count_directions(np.concatenate([g, -g, g], axis=1)) == 8
