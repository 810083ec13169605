"""The head: generous, whole, without what is not the head, on any grid."""

from __future__ import annotations

import numpy as np
import pytest

from voxcloud.errors import MaskError
from voxcloud.space.head import head_mask


def ellipsoid(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], radii_mm: tuple[float, ...]
) -> np.ndarray:
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    centred = [(g - (n - 1) / 2) * mm for g, n, mm in zip(grids, shape, voxel_mm, strict=True)]
    return np.asarray(sum((c / r) ** 2 for c, r in zip(centred, radii_mm, strict=True)) <= 1.0)


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 1.0, 5.0), (7.0, 7.0, 7.0)])
def test_head_mask__holds_the_head_with_a_margin_and_little_else(voxel_mm: tuple[float, float, float]) -> None:
    shape = tuple(int(np.ceil(n / mm)) for n, mm in zip((200.0, 230.0, 190.0), voxel_mm, strict=True))
    head = ellipsoid(shape, voxel_mm, (70.0, 90.0, 75.0))
    skull = ellipsoid(shape, voxel_mm, (66.0, 86.0, 71.0)) & ~ellipsoid(shape, voxel_mm, (60.0, 80.0, 65.0))
    noise = np.abs(np.random.default_rng(1).normal(0.0, 15.0, shape))
    image = np.where(head & ~skull, 600.0, 0.0) + noise
    found = head_mask(image, voxel_mm)
    assert found[ellipsoid(shape, voxel_mm, (60.0, 80.0, 65.0))].all()
    assert found[head].mean() > 0.98
    reach = 12.0 + 2 * max(voxel_mm)
    assert not found[~ellipsoid(shape, voxel_mm, (70.0 + reach, 90.0 + reach, 75.0 + reach))].any()


def test_head_mask__leaves_a_bright_speck_beside_the_head_out() -> None:
    head = ellipsoid((80, 90, 70), (2.0, 2.0, 2.0), (60.0, 70.0, 55.0))
    image = head * 500.0
    image[1:4, 1:4, 1:4] = 2000.0
    found = head_mask(image, (2.0, 2.0, 2.0))
    assert found[head].all()
    assert not found[1:4, 1:4, 1:4].any()


def test_head_mask__refuses_an_empty_image() -> None:
    with pytest.raises(MaskError, match="20 ml of bright voxels, found 0 ml"):
        head_mask(np.zeros((40, 40, 40), np.int16), (2.0, 2.0, 2.0))
