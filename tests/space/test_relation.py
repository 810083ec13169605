"""Movements found by the relation between two contrasts, and the measure that says how alike images are."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from voxcloud.space.affine import rigid_matrix, voxel_to_voxel
from voxcloud.space.bspline import SplineImages
from voxcloud.space.relation import align_by_relation, mutual_information

Array = np.ndarray


def make_pair(shift: tuple[float, ...], turn: tuple[float, ...], shading: float) -> tuple[Array, Array, Array, Array]:
    """Return a head in two contrasts (the second inverted, shaded and moved), their affine and the movement."""
    affine = np.asarray(datasets.load_mni152_template(resolution=4).affine, np.float64)
    gm, wm, t1 = (
        np.asarray(load(resolution=4).get_fdata(dtype=np.float32))
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template, datasets.load_mni152_template)
    )
    brain = np.pad((t1 > 0.2 * t1.max()).astype(np.float32), 4)
    gm, wm = np.pad(gm, 4), np.pad(wm, 4)
    csf = np.clip(brain - gm - wm, 0, 1)
    scalp = ndimage.binary_dilation(brain > 0.5, iterations=3) & ~ndimage.binary_dilation(brain > 0.5, iterations=1)
    fixed = 800 * gm + 700 * wm + 950 * csf + 500 * scalp
    other = 400 * gm + 620 * wm + 150 * csf + 900 * scalp
    centre = (affine @ [*((n - 1) / 2 for n in fixed.shape), 1.0])[:3]
    truth = rigid_matrix(shift, turn, centre)
    back = voxel_to_voxel(affine, np.linalg.inv(truth), affine)
    x = np.linspace(-1, 1, fixed.shape[0])[:, None, None]
    moving = SplineImages([other.astype(np.float32)], back, fixed.shape).sample()[0].reshape(fixed.shape)
    rng = np.random.default_rng(0)
    noisy = [np.abs(a + rng.normal(0, 10, a.shape)).astype(np.float32) for a in (fixed, moving * (1 - shading * x))]
    return noisy[0], noisy[1], affine, truth


def head(fixed: Array) -> Array:
    return np.asarray(ndimage.binary_dilation(fixed > 150, iterations=2))


def error_mm(matrix: Array, truth: Array, affine: Array, mask: Array) -> float:
    world = affine @ np.c_[np.argwhere(mask), np.ones(int(mask.sum()))].T
    return float(np.sqrt((((matrix - truth) @ world)[:3] ** 2).sum(axis=0)).mean())


@pytest.mark.parametrize(
    ("shift", "turn", "shading"),
    [((1.5, -1.0, 0.8), (1.5, -1.0, 2.0), 0.0), ((4, -5, 6), (6, -4, 5), 0.25), ((0, 0, 0), (0, 0, 0), 0.25)],
)
def test_align_by_relation__finds_a_movement_within_a_tenth_of_a_voxel(
    shift: tuple, turn: tuple, shading: float
) -> None:
    fixed, moving, affine, truth = make_pair(shift, turn, shading)
    mask = head(fixed)
    found = align_by_relation(fixed, affine, moving, affine, mask, np.eye(4))
    assert error_mm(found, truth, affine, mask) < 0.4


def test_align_by_relation__the_same_input_gives_the_same_bits() -> None:
    fixed, moving, affine, _ = make_pair((1.5, -1.0, 0.8), (1.5, -1.0, 2.0), 0.1)
    mask = head(fixed)
    first, second = (align_by_relation(fixed, affine, moving, affine, mask, np.eye(4)) for _ in range(2))
    assert np.array_equal(first, second)


def test_align_by_relation__without_anything_to_go_by_the_start_comes_back() -> None:
    flat, start = np.full((12, 12, 12), 5.0, np.float32), rigid_matrix((1, 2, 3), (0, 0, 0), (0, 0, 0))
    rng = np.random.default_rng(0)
    assert np.array_equal(align_by_relation(flat, np.eye(4), flat, np.eye(4), flat > 0, start), start)
    image = rng.normal(size=flat.shape).astype(np.float32)
    assert np.array_equal(align_by_relation(image, np.eye(4), image, np.eye(4), flat < 0, start), start)
    far = rigid_matrix((1e4, 0, 0), (0, 0, 0), (0, 0, 0))  # the moving image is elsewhere
    assert np.array_equal(align_by_relation(image, np.eye(4), image, np.eye(4), flat > 0, far), far)


def test_mutual_information__is_2_for_the_same_image_and_1_for_unrelated_ones() -> None:
    rng = np.random.default_rng(0)
    image, other = rng.uniform(size=(2, 40, 40, 40)).astype(np.float32)
    everywhere = np.ones(image.shape, bool)

    def between(a: Array, b: Array) -> float:
        return mutual_information(a, np.eye(4), b, np.eye(4), everywhere, np.eye(4))

    assert between(image, image) == pytest.approx(2.0, abs=1e-12)
    assert between(image, 1.0 - 3.0 * image) == pytest.approx(2.0, abs=1e-6)  # any relation, also an inverted one
    assert 1.0 <= between(image, other) < 1.005
    assert mutual_information(image, np.eye(4), other, np.eye(4), ~everywhere, np.eye(4)) == 1.0


def test_mutual_information__falls_with_the_distance_from_the_truth() -> None:
    fixed, moving, affine, truth = make_pair((1.5, -1.0, 0.8), (1.5, -1.0, 2.0), 0.0)
    mask = head(fixed)
    values = [
        mutual_information(fixed, affine, moving, affine, mask, rigid_matrix((mm, 0, 0), (0, 0, 0), (0, 0, 0)) @ truth)
        for mm in (0.0, 2.0, 4.0, 8.0, 16.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1] + 0.02
