"""Whole images: read as nibabel reads them, written so that nibabel reads the same, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.volumes import load_alike, load_volume, volume_bytes
from voxcloud.errors import ImageError

AFFINE = np.array([[-1.5, 0.1, 0.0, 90.0], [0.1, 1.4, 0.2, -100.0], [0.0, -0.2, 1.6, -70.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", "<f4", ">f4", "<f8", "u1"])
@pytest.mark.parametrize("slope", [None, 0.25])
def test_load_volume__reads_what_nibabel_reads(tmp_path: Path, dtype: str, slope: float | None) -> None:
    values = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(values.dtype)
    image = nib.Nifti1Image(values, AFFINE, header)
    if slope is not None:
        image.header.set_slope_inter(slope, 3.0)
    nib.save(image, tmp_path / "a.nii.gz")
    found = load_volume(tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(found.values, expected.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(found.affine, expected.affine)
    assert found.values.flags.f_contiguous
    assert found.values.dtype.isnative


def test_load_volume__refuses_a_series(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), AFFINE), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="expected one volume, found 2"):
        load_volume(tmp_path / "a.nii")


def test_load_alike__refuses_another_size_and_another_place(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1.0
    for name, shape, affine in (("a", (3, 4, 5), AFFINE), ("b", (3, 4, 6), AFFINE), ("c", (3, 4, 5), moved)):
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), tmp_path / f"{name}.nii")
    a, b, c = (str(tmp_path / f"{name}.nii") for name in "abc")
    assert [found.path for found in load_alike([(a, None), (a, 0)])] == [a, a]
    with pytest.raises(ImageError, match=r"found \(3, 4, 5\) \(.*a.nii\) and \(3, 4, 6\), .*b.nii"):
        load_alike([(a, None), (b, None)])
    with pytest.raises(ImageError, match=r"corners 1 mm apart \(.*c.nii\)"):
        load_alike([(a, None), (c, None)])


def test_volume_bytes__is_read_back_the_same_and_written_the_same(tmp_path: Path) -> None:
    rigid = nib.affines.from_matvec(np.diag([1.0, 1.2, 2.0]), [-10.0, 5.0, 3.0])
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    values[0, 0, 0] = np.nan
    for affine, codes in ((rigid, (1, 1)), (AFFINE @ np.diag([1, 1, 1, 1.0]), (1, 1))):
        content = volume_bytes(values, affine, "test")
        assert content == volume_bytes(np.asfortranarray(values), affine, "test")
        (tmp_path / "a.nii.gz").write_bytes(content)
        found = nib.load(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), values)
        np.testing.assert_allclose(found.affine, affine, atol=1e-5)
        assert int(found.header["sform_code"]) == codes[0]


def test_volume_bytes__every_nan_is_the_same() -> None:
    values = np.ones((4, 5, 6), np.float32)
    other = values.copy()
    values[0, 0, 0] = np.nan
    other.view(np.uint32)[0, 0, 0] = 0xFFC00001  # negative, with a payload
    assert np.isnan(other[0, 0, 0])
    assert other.tobytes() != values.tobytes()
    assert volume_bytes(other, AFFINE, "map") == volume_bytes(values, AFFINE, "map")


def test_volume_bytes__writes_series(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    (tmp_path / "a.nii.gz").write_bytes(volume_bytes(values, AFFINE, "series"))
    found = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), values)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
