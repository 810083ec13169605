"""Statistical maps as files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.images import MaskGrid, load_mask, read_masked
from voxcloud.bids.statmaps import INTENTS, SMALLEST_P, save_statmap, vector_to_volume, write_statmap
from voxcloud.errors import ImageError


def opened(image: bytes) -> Any:
    """Return the image that the bytes hold."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(image))


@pytest.fixture
def vector(grid: MaskGrid) -> np.ndarray:
    """Return one value per voxel of the mask."""
    return np.random.default_rng(7).normal(size=len(grid.voxel_index))


def test_vector_to_volume__puts_each_value_at_its_voxel(grid: MaskGrid, vector: np.ndarray) -> None:
    volume = vector_to_volume(vector, grid, outside=-7.0)
    assert np.array_equal(volume[grid.mask], vector.astype(np.float32))
    assert (volume[~grid.mask] == -7).all()


def test_vector_to_volume__refuses_another_number_of_voxels(grid: MaskGrid, vector: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        vector_to_volume(vector[:-1], grid)


@pytest.mark.parametrize("stat", list(INTENTS))
def test_write_statmap__values_come_back(grid: MaskGrid, vector: np.ndarray, stat: str) -> None:
    values = np.abs(vector) + 0.1
    found = opened(write_statmap(values, grid, stat=stat, df=(1.0, 27.0) if stat == "F" else 27.0).image)
    assert np.array_equal(found.get_fdata()[grid.mask], values.astype(np.float32))
    assert np.array_equal(found.affine, grid.affine)


@pytest.mark.parametrize(
    ("stat", "df", "code", "parameters", "text"),
    [
        ("t", 27.0, 3, (27, 0, 0), b"SPM{T_[27.0]} - trained"),
        ("F", (2.0, 27.0), 4, (2, 27, 0), b"SPM{F_[2.0,27.0]} - trained"),
        ("F", 27.0, 0, (0, 0, 0), b"trained"),
        ("z", 27.0, 5, (0, 0, 0), b"trained"),
        ("p", None, 22, (0, 0, 0), b"trained"),
        ("effect", 27.0, 1001, (0, 0, 0), b"trained"),
        ("variance", 27.0, 1001, (0, 0, 0), b"trained"),
        ("r", 27.0, 2, (27, 0, 0), b"trained"),
    ],
)
def test_write_statmap__intent_holds_statistic_and_df(
    grid: MaskGrid, vector: np.ndarray, stat: str, df: Any, code: int, parameters: tuple[int, ...], text: bytes
) -> None:
    header = opened(write_statmap(vector, grid, stat=stat, df=df, description="trained").image).header
    assert int(header["intent_code"]) == code
    assert tuple(int(header[f"intent_p{k}"]) for k in (1, 2, 3)) == parameters
    assert bytes(header["descrip"].item()) == text
    assert header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("code", [1, 2, 4])
def test_write_statmap__both_forms_agree_and_carry_the_masks_space(
    grid: MaskGrid, vector: np.ndarray, code: int
) -> None:
    own = MaskGrid.from_array(grid.mask, grid.affine, space_code=code)
    header = opened(write_statmap(vector, own, stat="z").image).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (code, code)
    assert np.allclose(header.get_sform(), header.get_qform(), atol=1e-5)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PIR"])
def test_write_statmap__a_peak_on_the_right_is_on_the_right_by_either_form(tmp_path: Path, axes: str) -> None:
    signs = {"R": 1, "L": -1, "A": 1, "P": -1, "S": 1, "I": -1}
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(axes):
        affine[{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter], column] = 2.0 * signs[letter]
    affine[:3, 3] = -affine[:3, :3] @ [5, 5, 5]
    grid = MaskGrid.from_array(np.ones((11, 11, 11)), affine)
    mm = grid.to_mm(grid.voxel_index)
    vector = np.exp(-((mm - [6.0, -4.0, 8.0]) ** 2).sum(axis=1) / 8)
    image = nib.load(save_statmap(tmp_path / "t.nii.gz", vector, grid, stat="t", df=27.0))
    peak = np.unravel_index(image.get_fdata().argmax(), image.shape)
    for form in (image.get_sform(), image.get_qform()):
        assert np.allclose(form @ [*peak, 1], [6, -4, 8, 1], atol=1e-4)


def test_write_statmap__nilearn_reads_the_same_values_at_the_same_places(
    grid: MaskGrid, vector: np.ndarray, tmp_path: Path
) -> None:
    from nilearn.image import load_img
    from nilearn.image.resampling import coord_transform

    image = load_img(save_statmap(tmp_path / "z.nii.gz", vector, grid, stat="z"))
    i, j, k = np.unravel_index(grid.voxel_index[np.abs(vector).argmax()], grid.shape)
    assert np.abs(image.get_fdata()).argmax() == np.ravel_multi_index((i, j, k), grid.shape)
    place = grid.to_mm(grid.voxel_index[[np.abs(vector).argmax()]])[0]
    assert np.allclose(coord_transform(i, j, k, image.affine), place)


def test_write_statmap__where_nothing_was_tested_no_threshold_is_passed(grid: MaskGrid, vector: np.ndarray) -> None:
    vector[3] = np.nan
    place = np.unravel_index(grid.voxel_index[3], grid.shape)
    for stat, outside in (("t", 0.0), ("effect", 0.0), ("p", 1.0)):
        made = write_statmap(np.abs(vector), grid, stat=stat)
        data = opened(made.image).get_fdata()
        assert data[place] == outside
        assert (data[~grid.mask] == outside).all()
        assert json.loads(made.sidecar)["OutsideAnalysisMask"] == outside
        assert json.loads(made.sidecar)["AnalysedVoxels"] == len(vector) - 1


def test_write_statmap__tiny_p_values_stay_above_zero(grid: MaskGrid, vector: np.ndarray) -> None:
    vector[:] = 1e-60
    data = opened(write_statmap(vector, grid, stat="p").image).get_fdata()
    assert data.min() == np.float32(SMALLEST_P) > 0


def test_write_statmap__equal_numbers_give_equal_bytes(grid: MaskGrid, vector: np.ndarray) -> None:
    first, second = (write_statmap(vector.copy(), grid, stat="t", df=27.0, sidecar={"b": 1, "a": 2}) for _ in range(2))
    assert first == second
    assert first.image[4:8] == bytes(4)  # no time in the gzip header
    assert first.image[3] == 0  # and no file name


def test_write_statmap__a_sheared_grid_has_no_qform(grid: MaskGrid, vector: np.ndarray) -> None:
    sheared = grid.affine.copy()
    sheared[0, 1] = 0.5
    header = opened(write_statmap(vector, MaskGrid.from_array(grid.mask, sheared), stat="t", df=9.0).image).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 0)


def test_write_statmap__long_descriptions_are_cut(grid: MaskGrid, vector: np.ndarray) -> None:
    made = write_statmap(vector, grid, stat="t", df=27.0, description="größer " * 30)
    assert len(opened(made.image).header["descrip"].item()) == 79
    assert json.loads(made.sidecar)["Description"] == "größer " * 30


def test_write_statmap__refuses_an_unknown_statistic(grid: MaskGrid, vector: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"stat 'T' is not known.*Expected one of: t, F"):
        write_statmap(vector, grid, stat="T")


def test_save_statmap__writes_both_files_which_voxcloud_reads_back(
    grid: MaskGrid, vector: np.ndarray, tmp_path: Path
) -> None:
    path = save_statmap(tmp_path / "new" / "contrast-a_stat-t_statmap.nii.gz", vector, grid, stat="t", df=27.0)
    assert np.array_equal(read_masked(path, None, grid), vector.astype(np.float32))
    assert load_mask(path).shape == grid.shape
    sidecar = path.with_name("contrast-a_stat-t_statmap.json")
    assert json.loads(sidecar.read_text())["DegreesOfFreedom"] == 27.0


def test_save_statmap__refuses_another_extension(grid: MaskGrid, vector: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"ends in \.nii\.gz"):
        save_statmap(tmp_path / "a.nii", vector, grid, stat="t")
