"""A small grid with no symmetry, and a writer of images for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.images import MaskGrid

SHAPE = (5, 6, 7)
AFFINE = np.array([[2.0, 0, 0, -4.5], [0, 3.0, 0, -9.0], [0, 0, 1.5, 2.25], [0, 0, 0, 1]])


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Return the image stored along other axes (e.g. LAS), in the same place in space."""
    target = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    return image.as_reoriented(change)


@pytest.fixture
def grid() -> MaskGrid:
    """Return a mask with a third of the voxels."""
    mask = np.random.default_rng(1).random(SHAPE) < 0.35
    return MaskGrid.from_array(mask, AFFINE)


@pytest.fixture
def values() -> np.ndarray:
    """Return one number per voxel, none twice."""
    return np.random.default_rng(2).normal(1.0, 0.2, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an image with sform and qform."""

    def write(
        data: np.ndarray, name: str = "image.nii.gz", *, affine: np.ndarray = AFFINE, code: int = 4, axes: str = ""
    ) -> Path:
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code)
        image.set_qform(affine, code)
        image.header.set_xyzt_units("mm")
        if axes:
            image = reoriented(image, axes)
        path = tmp_path / name
        nib.save(image, path)
        return path

    return write
