"""The brain in simulated EPI heads of known truth, with eyes, scalp, neck, lost signal and a receive field."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from voxcloud.errors import ImageError, MaskError
from voxcloud.space.epi_brain import brain_mask


@functools.cache
def layers() -> tuple[Any, Any]:
    """b = 0 signal (white matter is 1) on a grid of 2 mm, and the brain with its fluid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn import datasets

        loads = (datasets.load_mni152_brain_mask, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
        mask, gm, wm = (np.asarray(load(resolution=2).dataobj, dtype=np.float32) for load in loads)
    mask, gm, wm = (np.pad(a, ((12, 12), (12, 15), (15, 12))) for a in (mask, gm, wm))
    brain = ndimage.binary_fill_holes(mask > 0)
    gm, wm = np.clip(gm, 0, 1) * brain, np.clip(wm, 0, 1) * brain
    signal = 1.4 * gm + 1.0 * wm + 2.8 * brain * np.clip(1 - gm - wm, 0, 1)
    distance = ndimage.distance_transform_edt(~brain, (2, 2, 2))
    signal[(distance > 0) & (distance <= 5)] = 0.05
    scalp = (distance > 5) & (distance <= 12)
    signal[scalp] = 0.35
    x, y, z = 2.0 * np.indices(brain.shape)
    cx, cy, cz = 2.0 * np.array(ndimage.center_of_mass(brain))
    neck = (np.hypot(x - cx, y - cy + 25) < 45) & (z < cz - 55) & (distance > 3) & ~scalp
    signal[neck] = 0.4
    for side in (-1, 1):
        eye = np.array([cx + 32 * side, cy + 78, cz - 42])
        for step in np.linspace(0, 1, 40):
            px, py, pz = eye + step * np.array([-22 * side, -60, 8])
            nerve = np.maximum(np.maximum(np.abs(x - px), np.abs(y - py)), np.abs(z - pz)) < 2.5
            signal[nerve & ~brain] = 0.9
        ball = (x - eye[0]) ** 2 + (y - eye[1]) ** 2 + (z - eye[2]) ** 2 < 12**2
        signal[ball & (distance > 3)] = 2.8
    lost = 0.9 * np.exp(-(((x - cx) / 14) ** 2 + ((y - cy - 45) / 14) ** 2 + ((z - cz + 28) / 10) ** 2))
    return signal * (1 - lost), brain


def head(voxel_mm: tuple[float, float, float], bias: float) -> tuple[Any, Any]:
    signal, brain = layers()
    sizes = np.asarray(voxel_mm) / 2.0
    shape = (np.array(signal.shape) / sizes).astype(int)
    at = np.meshgrid(*((np.arange(n) + 0.5) * s - 0.5 for n, s in zip(shape, sizes, strict=True)), indexing="ij")
    image, share = (
        ndimage.map_coordinates(ndimage.gaussian_filter(a.astype(float), 0.35 * sizes), at, order=1)
        for a in (signal, brain)
    )
    u, v, w = (g / g.max() - 0.5 for g in at)
    rng = np.random.default_rng(0)
    image *= np.exp(bias * (2 * (u * u + v * v + w * w) - 0.8 * v + 0.4 * u))
    noise = 0.05 * rng.standard_normal((2, *shape))
    return 400 * np.hypot(image + noise[0], noise[1]), share > 0.5


# At 8 mm no skull lies between brain and neck, and a voxel at the rim is 8 % of the radius.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("voxel_mm", "bias", "dice"),
    [
        ((2.0, 2.0, 2.0), 0.0, 0.95),
        ((2.0, 2.0, 2.0), 1.2, 0.95),
        ((3.0, 3.0, 3.0), 1.2, 0.95),
        ((2.0, 2.0, 4.0), 0.8, 0.95),
        ((8.0, 8.0, 8.0), 0.0, 0.93),
    ],
)
def test_brain_mask__known_head(voxel_mm: tuple[float, float, float], bias: float, dice: float) -> None:
    image, truth = head(voxel_mm, bias)
    found = brain_mask(image, voxel_mm)
    assert 2 * (found.brain & truth).sum() / (found.brain.sum() + truth.sum()) > dice
    assert found.brain[truth].mean() > 0.99
    assert found.generous[truth].mean() > 0.999
    assert found.generous[found.brain].all()
    assert found.millilitres == pytest.approx(found.brain.sum() * np.prod(voxel_mm) / 1000)
    assert ndimage.label(found.brain)[1] == 1


@pytest.mark.slow
def test_brain_mask__generous_reaches_as_far_as_asked() -> None:
    image, _ = head((4.0, 4.0, 4.0), 0.0)
    found = brain_mask(image, (4, 4, 4), margin_mm=8.0)
    distance = ndimage.distance_transform_edt(~found.brain, (4, 4, 4))
    np.testing.assert_array_equal(found.generous, distance <= 8.0)
    np.testing.assert_array_equal(brain_mask(7 * image, (4, 4, 4)).brain, found.brain)


def test_brain_mask__refuses_and_flags_volumes() -> None:
    image, _ = head((4.0, 4.0, 4.0), 0.0)
    with pytest.raises(MaskError, match=r"sub-01: expected a brain of 300 to 2500 ml, found \d+ ml with voxels of 2 x"):
        brain_mask(image, (2, 2, 2), name="sub-01")
    with pytest.raises(MaskError, match=r"found \d{4,} ml"):
        brain_mask(image, (5, 5, 5))
    with pytest.raises(MaskError, match="found 0 ml"):
        brain_mask(np.zeros((20, 20, 20)), (4, 4, 4))
    with pytest.raises(ImageError, match="three positive voxel sizes"):
        brain_mask(image, (4, 4, 0))
    with pytest.raises(ImageError, match="a share between 0 and 1"):
        brain_mask(image, (4, 4, 4), share=2.0)
    assert "expected a brain of 800 to 2000 ml" in brain_mask(image, (2.9, 2.9, 2.9)).flagged
