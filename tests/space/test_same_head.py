"""Whether visits are of one head: the same folds, another position and noise, against folds that lie elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.bids.templates import load_template
from voxcloud.space.affine import rigid_matrix
from voxcloud.space.same_head import head_agreement, other_heads

MM = 3.0


def another(image: np.ndarray, seed: int) -> np.ndarray:
    """Return an image with its parts moved by about 4 mm, as those of another person's brain."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in image.shape), indexing="ij"))
    for axis in range(3):
        push = ndimage.gaussian_filter(rng.normal(size=image.shape), 4.0)
        grid[axis] += push / push.std() * 4.0 / MM
    return np.asarray(ndimage.map_coordinates(image, grid, order=1))


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    template = load_template(MM)
    return template.t1, another(template.t1, 0), template.brain, template.affine


def noisy(image: np.ndarray, seed: int, sd: float = 0.08) -> np.ndarray:
    return np.asarray(image + np.random.default_rng(seed).normal(0, sd, image.shape))


def test_head_agreement__one_head_with_noise_and_another(heads: tuple[np.ndarray, ...]) -> None:
    one, other, brain, affine = heads
    same = head_agreement([noisy(one, 1), noisy(one, 2)], [affine] * 2, [np.eye(4)] * 2, brain, affine)
    assert (same > 0.9).all()
    assert other_heads(same) == ("", "")
    unlike = head_agreement([noisy(one, 1), noisy(other, 2)], [affine] * 2, [np.eye(4)] * 2, brain, affine)
    assert (unlike < 0.8).all()
    assert all("one of the two is of another person" in text for text in other_heads(unlike))


def test_head_agreement__names_the_odd_one_of_three(heads: tuple[np.ndarray, ...]) -> None:
    one, other, brain, affine = heads
    images = [noisy(one, 1), noisy(other, 2), noisy(one, 3), noisy(one, 4)]
    found = head_agreement(images, [affine] * 4, [np.eye(4)] * 4, brain, affine)
    flags = other_heads(found)
    assert int(np.argmin(found)) == 1
    assert flags[1].startswith("expected detail")
    assert "it is of another person" in flags[1]
    assert flags[0] == flags[2] == flags[3] == ""


def test_head_agreement__looks_where_the_matrix_says(heads: tuple[np.ndarray, ...]) -> None:
    one, _, brain, affine = heads
    moved = rigid_matrix((6.0, -4.0, 3.0), (0, 0, 0), (0, 0, 0))
    # The head lies elsewhere in the second visit's scanner: its affine says so, and the matrix leads there.
    there = moved @ affine
    right = head_agreement([one, one], [affine, there], [np.eye(4), moved], brain, affine)
    wrong = head_agreement([one, one], [affine, there], [np.eye(4), np.eye(4)], brain, affine)
    assert (right > 0.999).all()
    assert (wrong < 0.85).all()


def test_head_agreement__unknown_voxels_and_a_single_visit(heads: tuple[np.ndarray, ...]) -> None:
    one, _, brain, affine = heads
    holes = one.copy()
    holes[:20] = np.nan
    assert (head_agreement([one, holes], [affine] * 2, [np.eye(4)] * 2, brain, affine) > 0.999).all()
    alone = head_agreement([one], [affine], [np.eye(4)], brain, affine)
    assert np.isnan(alone).all()
    assert other_heads(alone) == ("",)
