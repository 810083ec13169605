"""Images on the grid of a mask."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxcloud.bids.images import MaskGrid, image_statistics, load_mask, read_header, read_masked, read_masked_image
from voxcloud.bids.nifti import check_complete, open_nifti
from voxcloud.errors import ImageError, MaskError

Save = Callable[..., Path]

SHAPE = (5, 6, 7)  # those of the fixtures
AFFINE = np.array([[2.0, 0, 0, -4.5], [0, 3.0, 0, -9.0], [0, 0, 1.5, 2.25], [0, 0, 0, 1]])

ALL_AXES = ["".join(a) for p in itertools.permutations(("LR", "PA", "IS")) for a in itertools.product(*p)]


def scaled(path: Path, slope: float, intercept: float) -> Path:
    """Write slope and intercept into the header of an uncompressed file."""
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    path.write_bytes(bytes(content))
    return path


def test_read_masked__is_the_image_at_the_mask_in_c_order(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    assert np.array_equal(read_masked(save(values), None, grid), values[grid.mask])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_read_masked__reads_plain_and_compressed_files(
    save: Save, grid: MaskGrid, values: np.ndarray, name: str
) -> None:
    assert np.array_equal(read_masked(save(values, name), None, grid), values[grid.mask])


def test_read_masked__reads_nifti_2(grid: MaskGrid, values: np.ndarray, tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(values, AFFINE), tmp_path / "two.nii.gz")
    assert np.array_equal(read_masked(tmp_path / "two.nii.gz", None, grid), values[grid.mask])


@pytest.mark.parametrize("axes", ALL_AXES)
def test_read_masked__gives_the_same_bits_along_all_48_axes(
    save: Save, grid: MaskGrid, values: np.ndarray, axes: str
) -> None:
    saved = save(values, axes=axes)
    assert "".join(nib.aff2axcodes(nib.load(saved).affine)) == axes
    assert np.array_equal(read_masked(saved, None, grid), values[grid.mask])


def test_read_masked__follows_a_mask_that_is_not_ras(save: Save, values: np.ndarray) -> None:
    mask = np.random.default_rng(3).random(SHAPE) < 0.5
    turned = load_mask(save(mask.astype(np.uint8), "mask.nii", axes="PSL"))
    straight = MaskGrid.from_array(mask, AFFINE)
    places = {tuple(np.round(p, 6)): v for p, v in zip(straight.to_mm(straight.voxel_index), values[mask], strict=True)}
    found = read_masked(save(values), None, turned)
    assert [places[tuple(np.round(p, 6))] for p in turned.to_mm(turned.voxel_index)] == found.tolist()


@pytest.mark.parametrize("dtype", ["u1", "i2", "<f4", ">f4", ">i2", "f8", "i4", "u2"])
def test_read_masked__agrees_with_nibabel_for_every_stored_type(
    save: Save, grid: MaskGrid, values: np.ndarray, dtype: str
) -> None:
    data = (np.abs(values) * 60).astype(dtype)
    image = nib.Nifti1Image(data, AFFINE, nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"))
    path = save(values, "x.nii").with_name(f"type-{dtype.strip('<>')}.nii")
    nib.save(image, path)
    expected = nib.load(scaled(path, 0.1, 3.5) if dtype[0] != ">" else path).get_fdata()[grid.mask].astype(np.float32)
    assert np.array_equal(read_masked(path, None, grid), expected)


@given(slope=st.floats(0.0009765625, 1024, width=32), intercept=st.floats(-1000, 1000, width=32))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_masked__scales_in_float64_as_nibabel_does(
    save: Save, grid: MaskGrid, slope: float, intercept: float
) -> None:
    data = np.random.default_rng(4).integers(-32768, 32767, SHAPE).astype(np.int16)
    path = scaled(save(data, "scaled.nii"), slope, intercept)
    expected = nib.load(path).get_fdata()[grid.mask].astype(np.float32)
    assert np.array_equal(read_masked(path, None, grid), expected)


@pytest.mark.parametrize("name", ["four.nii", "four.nii.gz"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 0, 2, 1), (1, 1, 4, 4, 0), (2, 4)])
def test_read_masked__reads_any_volume_in_any_order(
    save: Save, grid: MaskGrid, values: np.ndarray, name: str, order: tuple[int, ...]
) -> None:
    series = np.stack([values * k for k in range(1, 6)], axis=3)
    path = save(series, name)
    for k in order:
        assert np.array_equal(read_masked(path, k, grid), series[..., k][grid.mask])


def test_read_masked__sees_that_a_file_was_replaced_between_two_volumes(
    save: Save, grid: MaskGrid, values: np.ndarray
) -> None:
    path = save(np.stack([values] * 3, axis=3))
    read_masked(path, 0, grid)
    path = save(np.stack([values * 2] * 3, axis=3))
    assert np.array_equal(read_masked(path, 1, grid), 2 * values[grid.mask])


def test_read_masked__reads_a_gzip_of_several_members(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    import gzip

    plain = save(values, "p.nii").read_bytes()
    path = save(values, "members.nii.gz")
    path.write_bytes(b"".join(gzip.compress(plain[k : k + 100]) for k in range(0, len(plain), 100)))
    assert np.array_equal(read_masked(path, None, grid), values[grid.mask])


def test_read_masked_image__infinite_becomes_nan_and_is_counted(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    place = np.unravel_index(grid.voxel_index[:4], SHAPE)
    values[tuple(p[:3] for p in place)] = [np.inf, -np.inf, np.nan]
    found = read_masked_image(save(values), None, grid)
    assert found.n_infinite == 2
    assert np.isnan(found.values[:3]).all()
    assert np.isfinite(found.values[3:]).all()


def test_read_masked__a_series_needs_its_volume_named(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected one volume, found 2\. Name the volume \(0 to 1\)"):
        read_masked(save(np.stack([values, values], axis=3)), None, grid)


def test_read_masked__refuses_a_volume_that_is_not_there(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected volume 3 \(counted from 0\), found 1 volumes"):
        read_masked(save(values), 3, grid)


def test_read_masked__refuses_another_shape(save: Save, grid: MaskGrid) -> None:
    with pytest.raises(ImageError, match=r"shape 5 x 6 x 7, voxels 2 x 3 x 1\.5 mm.*found shape 5 x 6 x 8.*Resample"):
        read_masked(save(np.ones((5, 6, 8), np.float32)), None, grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_read_masked__refuses_a_grid_that_is_half_a_voxel_away(
    save: Save, grid: MaskGrid, values: np.ndarray, axis: int
) -> None:
    moved = AFFINE.copy()
    moved[axis, 3] += 0.75
    with pytest.raises(ImageError, match=r"corners lie up to 0\.75 mm apart"):
        read_masked(save(values, affine=moved), None, grid)


def test_read_masked__refuses_a_mirrored_image(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    mirrored = AFFINE.copy()
    mirrored[0] *= -1  # says that the first voxel lies on the right: another place, not another way to store it
    with pytest.raises(ImageError, match="mm apart"):
        read_masked(save(values, affine=mirrored), None, grid)


def test_read_masked__refuses_a_rotated_grid(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    with pytest.raises(ImageError, match="expected the mask's grid"):
        read_masked(save(values, affine=turn @ AFFINE), None, grid)


def test_read_masked__accepts_the_rounding_of_a_header(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    nearly = AFFINE.copy()
    nearly[:3, 3] += 1e-4
    assert np.array_equal(read_masked(save(values, affine=nearly), None, grid), values[grid.mask])


def test_read_masked__refuses_another_template_space(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected the space of the mask, mni, found talairach"):
        read_masked(save(values, code=3), None, grid)


def test_read_masked__names_a_missing_file(grid: MaskGrid, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.nii\.gz: expected a NIfTI file, found no file"):
        read_masked(tmp_path / "gone.nii.gz", None, grid)


def test_read_masked__names_a_folder(grid: MaskGrid, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a readable NIfTI file"):
        read_masked(tmp_path, None, grid)


def test_read_masked__names_an_empty_file(grid: MaskGrid, tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(ImageError, match=r"empty\.nii\.gz: expected a NIfTI file, found 0 bytes"):
        read_masked(tmp_path / "empty.nii.gz", None, grid)


@pytest.mark.parametrize("content", [b"participant_id\tage\n" * 40, b"\x1f\x8b" + b"junk" * 200, b"short"])
def test_read_masked__refuses_what_is_not_nifti(grid: MaskGrid, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"other\.nii\.gz"):
        read_masked(path, None, grid)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_read_masked__says_how_much_of_a_plain_file_is_there(
    save: Save, grid: MaskGrid, values: np.ndarray, keep: float
) -> None:
    path = save(values, "cut.nii")
    whole = path.read_bytes()
    path.write_bytes(whole[: 352 + int(keep * (len(whole) - 352))])
    with pytest.raises(ImageError, match=rf"expected {len(whole)} bytes, found {path.stat().st_size}: the file is cut"):
        read_header(path)


@pytest.mark.parametrize("cut", [1, 4, 8, 50, 300])
def test_read_masked__finds_a_truncated_gzip_even_in_its_checksum(
    save: Save, grid: MaskGrid, values: np.ndarray, cut: int
) -> None:
    path = save(values)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ImageError, match=r"expected 1192 bytes of header and voxels, found \d+ before.*cut short"):
        read_masked(path, None, grid)


def test_read_masked__finds_one_changed_byte_in_a_gzip(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    path = save(values)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="damaged"):
        read_masked(path, None, grid)


def test_read_masked__a_series_cut_short_gives_its_whole_volumes_and_refuses_the_others(
    save: Save, grid: MaskGrid, values: np.ndarray
) -> None:
    series = np.random.default_rng(5).normal(size=(*SHAPE, 6)).astype(np.float32)
    path = save(series)
    path.write_bytes(path.read_bytes()[:-2500])
    assert np.array_equal(read_masked(path, 0, grid), series[..., 0][grid.mask])
    with pytest.raises(ImageError, match="cut short"):
        read_masked(path, 5, grid)


def test_read_header__reads_shape_sizes_units_and_space(save: Save, values: np.ndarray) -> None:
    header = read_header(save(np.stack([values, values], axis=3).astype(np.int16)), 1)
    assert (header.shape, header.n_volumes, header.dtype) == (SHAPE, 2, "int16")
    assert (header.units, header.space) == ("mm", "mni")
    assert header.zooms == (2.0, 3.0, 1.5)
    assert np.array_equal(header.affine, AFFINE)


def test_read_header__refuses_sform_and_qform_that_disagree(save: Save, values: np.ndarray) -> None:
    path = save(values)
    image = nib.load(path)
    moved = AFFINE.copy()
    moved[0, 3] += 1.0
    image.set_qform(moved, 1)
    nib.save(image, path.with_name("two.nii.gz"))
    with pytest.raises(ImageError, match=r"agree within 0\.01 mm, found corners 1 mm apart.*code 4.*code 1"):
        read_header(path.with_name("two.nii.gz"))


def turned(about_x_deg: float) -> np.ndarray:
    """Return an affine of an image stored from right to left, of a head turned a little about x."""
    angle = np.deg2rad(about_x_deg)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(turn @ np.diag([-1.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("degrees", [0.0, 0.01, 0.05, 0.2, 1.0, 10.0])
def test_read_header__takes_half_turns_that_a_quaternion_cannot_hold_exactly(tmp_path: Path, degrees: float) -> None:
    affine = turned(degrees) @ turned_about_z(degrees)
    image = nib.Nifti1Image(np.zeros((192, 256, 4), np.int8), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "flipped.nii.gz")
    assert np.allclose(read_header(tmp_path / "flipped.nii.gz").affine, affine, atol=1e-5)


def turned_about_z(degrees: float) -> np.ndarray:
    turn = np.eye(4)
    angle = np.deg2rad(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def test_read_header__refuses_half_turns_that_disagree_by_more_than_rounding(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((192, 256, 4), np.int8), turned(0.0))
    image.set_sform(turned(0.0), 1)
    image.set_qform(turned(0.5), 1)
    nib.save(image, tmp_path / "apart.nii.gz")
    with pytest.raises(ImageError, match="expected sform and qform to agree within"):
        read_header(tmp_path / "apart.nii.gz")


def test_read_header__takes_the_form_that_has_a_code(save: Save, values: np.ndarray, tmp_path: Path) -> None:
    image = nib.Nifti1Image(values, AFFINE)
    image.set_sform(np.eye(4), 0)
    image.set_qform(AFFINE, 1)
    image.header["srow_x"] = [9, 9, 9, 9]
    nib.save(image, tmp_path / "q.nii")
    assert np.allclose(read_header(tmp_path / "q.nii").affine, AFFINE, atol=1e-5)


def test_read_header__refuses_an_image_without_orientation(save: Save, values: np.ndarray) -> None:
    with pytest.raises(ImageError, match="leaves left and right open"):
        read_header(save(values, code=0))


def test_read_header__refuses_analyze(grid: MaskGrid, values: np.ndarray, tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(values, AFFINE), tmp_path / "old.img")
    (tmp_path / "old.hdr").rename(tmp_path / "old.nii")
    with pytest.raises(ImageError, match=r"Analyze 7\.5"):
        read_header(tmp_path / "old.nii")


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_read_header__refuses_other_lengths_than_mm(save: Save, values: np.ndarray, unit: str, tmp_path: Path) -> None:
    image = nib.load(save(values))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "unit.nii")
    with pytest.raises(ImageError, match=f"expected lengths in mm, found {unit}"):
        read_header(tmp_path / "unit.nii")


def test_read_header__refuses_complex_numbers(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.complex64), AFFINE), tmp_path / "c.nii")
    with pytest.raises(ImageError, match="expected one real number per voxel"):
        read_header(tmp_path / "c.nii")


def test_read_header__refuses_five_dimensions(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 1, 3), np.float32), AFFINE), tmp_path / "five.nii")
    with pytest.raises(ImageError, match="expected a 3D or 4D image"):
        read_header(tmp_path / "five.nii")


@pytest.mark.parametrize("name", ["pair.hdr", "pair.img"])
def test_read_header__refuses_pairs_whose_second_file_no_digest_covers(
    values: np.ndarray, tmp_path: Path, name: str
) -> None:
    nib.save(nib.Nifti1Pair(values, AFFINE), tmp_path / "pair.img")
    with pytest.raises(ImageError, match=r"expected one file, \.nii or \.nii\.gz, found one of a"):
        read_header(tmp_path / name)


def test_check_grid__needs_the_header_only(save: Save, grid: MaskGrid, values: np.ndarray) -> None:
    series = np.stack([values, values], axis=3)
    read_header(save(series, axes="LAS")).check_grid(grid)
    with pytest.raises(ImageError, match="expected the mask's grid"):
        read_header(save(series[1:])).check_grid(grid)


def test_read_masked__threads_share_a_grid_and_a_file(save: Save, grid: MaskGrid) -> None:
    series = np.random.default_rng(8).normal(size=(*SHAPE, 12)).astype(np.float32)
    path = save(series)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda k: read_masked(path, k, grid), [*range(12), *range(11, -1, -1)]))
    for k, vector in zip([*range(12), *range(11, -1, -1)], found, strict=True):
        assert np.array_equal(vector, series[..., k][grid.mask])


def test_mask_grid__travels_to_another_process(grid: MaskGrid) -> None:
    copy = pickle.loads(pickle.dumps(grid))
    assert np.array_equal(copy.voxel_index, grid.voxel_index)
    assert np.array_equal(copy.affine, grid.affine)


def test_load_mask__keeps_c_order_of_positive_values(save: Save) -> None:
    mask = np.random.default_rng(6).random(SHAPE) < 0.5
    grid = load_mask(save(mask.astype(np.uint8)))
    assert np.array_equal(grid.voxel_index, np.flatnonzero(mask.ravel()))
    assert grid.voxel_index.dtype == np.int64
    assert (grid.shape, grid.binary, grid.space_code) == (SHAPE, True, 4)


def test_load_mask__cuts_probabilities_above_zero_and_leaves_nan_out(save: Save) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[0, 0, :4] = [0.2, np.nan, -1.0, 1.0]
    grid = load_mask(save(data))
    assert grid.voxel_index.tolist() == [0, 3]
    assert not grid.binary


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_load_mask__refuses_an_empty_mask(save: Save, value: float) -> None:
    with pytest.raises(MaskError, match="expected voxels above 0, found none"):
        load_mask(save(np.full(SHAPE, value, np.float32)))


def test_load_mask__refuses_a_series(save: Save) -> None:
    with pytest.raises(MaskError, match="found 2 volumes"):
        load_mask(save(np.ones((*SHAPE, 2), np.uint8)))


def test_image_statistics__counts_and_percentiles() -> None:
    vector = np.concatenate([np.arange(101, dtype=np.float32), [np.nan, np.nan]])
    found = image_statistics(vector)
    assert (found.n_finite, found.n_nan, found.n_zero) == (101, 2, 1)
    assert (found.p01, found.median, found.p99) == (1.0, 50.0, 99.0)


def test_image_statistics__of_nothing_finite_warns_of_nothing() -> None:
    found = image_statistics(np.full(4, np.nan))
    assert (found.n_finite, found.n_nan) == (0, 4)
    assert np.isnan(found.median)


def test_read_masked__reads_the_spm_cohort_as_nibabel_does(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("group_emotion")
    path = folder / "sub-01_contrast-reappraise_effect.nii.gz"
    image = nib.load(path)
    grid = MaskGrid.from_array(np.isfinite(image.get_fdata()), image.affine)
    assert np.array_equal(read_masked(path, None, grid), image.get_fdata()[grid.mask].astype(np.float32))


def test_check_complete__costs_four_bytes_where_the_file_is_whole(
    save: Callable[..., Path], values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_nifti(save(values, "a.nii.gz"))
    monkeypatch.setattr("voxcloud.bids.nifti.read_volume", lambda *args: pytest.fail("the file was read"))
    check_complete(whole)
    check_complete(open_nifti(save(values, "a.nii")))


@pytest.mark.parametrize("lost", [1, 4, 30, 200])
def test_check_complete__finds_what_is_cut_off(lost: int, save: Callable[..., Path], values: np.ndarray) -> None:
    path = save(values, "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ImageError, match="cut short"):
        check_complete(open_nifti(path))
