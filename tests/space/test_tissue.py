"""Rough tissue masks: right enough for medians, on a head that lies askew, with scalp; refused where there is none."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from voxcloud.errors import MaskError
from voxcloud.space.affine import rigid_matrix, voxel_to_voxel
from voxcloud.space.bspline import sample_linear
from voxcloud.space.tissue import rough_tissue


@functools.cache
def template() -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    t1 = datasets.load_mni152_template(resolution=3)
    gm, wm = datasets.load_mni152_gm_template(resolution=3), datasets.load_mni152_wm_template(resolution=3)
    values = [np.asarray(image.get_fdata(dtype=np.float32)) for image in (t1, gm, wm)]
    return values[0], {"GM": values[1], "WM": values[2]}, np.asarray(t1.affine)


def head(noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A map like MTsat of a head that is 8 % larger, turned by ten degrees, with a scalp; and its true tissue."""
    t1, priors, affine = template()
    shape = (70, 84, 72)
    grid = np.diag([3.0, 3.0, 3.0, 1.0])
    grid[:3, 3] = (-105.0, -140.0, -90.0)
    move = rigid_matrix((5, -8, 6), (10, -4, 6), (0, -18, 10)) @ np.diag([1.08, 1.06, 1.1, 1.0])
    to_template = voxel_to_voxel(grid, np.linalg.inv(move), affine)
    own = {name: sample_linear(p, to_template, shape, outside=0.0).reshape(shape) for name, p in priors.items()}
    brain = sample_linear((t1 > 0.2 * t1.max()).astype(np.float32), to_template, shape, outside=0.0).reshape(shape)
    skull = ndimage.binary_dilation(brain > 0.5, iterations=2)
    scalp = ndimage.binary_dilation(skull, iterations=2) & ~skull
    values = 0.85 * own["GM"] + 1.7 * own["WM"] + 0.3 * scalp
    values += noise * np.random.default_rng(0).standard_normal(shape)
    values[~ndimage.binary_dilation(scalp | skull)] = np.nan
    return values.astype(np.float32), grid, own


def test_rough_tissue__white_and_grey_matter_are_what_they_are_called() -> None:
    values, affine, own = head()
    t1, priors, template_affine = template()
    found = rough_tissue(values, affine, t1, priors, template_affine)
    assert (own["WM"][found.wm] > 0.5).mean() > 0.96
    assert (own["GM"][found.gm] > 0.5).mean() > 0.8
    assert found.wm[own["WM"] > 0.9].mean() > 0.8
    overlap = found.brain & (own["GM"] + own["WM"] > 0.5)
    dice = 2 * overlap.sum() / (found.brain.sum() + (own["GM"] + own["WM"] > 0.5).sum())
    assert dice > 0.9
    assert np.median(values[found.wm]) == pytest.approx(1.7, rel=0.12)
    assert np.median(values[found.gm]) == pytest.approx(0.85, rel=0.12)


def test_rough_tissue__refuses_what_is_no_brain() -> None:
    t1, priors, affine = template()
    nothing = np.full(t1.shape, np.nan, np.float32)
    nothing[5:15, 5:15, 5:15] = 1.0
    nothing[5, 5, 5] = 0.0
    with pytest.raises(MaskError, match=r"expected (a brain|white and grey matter)"):
        rough_tissue(nothing, affine, t1, priors, affine)
