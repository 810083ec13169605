"""A study's arrays in a notebook say what they are and hold what the images hold."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import voxcloud
from voxcloud.errors import CorruptStoreError
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.testing import SimulatedStudy, tiny_study

STATMAP = "map-R1map_label-GM_contrast-linearPatientsMinusUntrained_stat-t_statmap.nii.gz"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    made = tiny_study(tmp_path_factory.mktemp("opening") / "study")
    assert not run_study(made.study_file, RunOptions(engine="serial")).failed
    return made


@pytest.fixture(scope="module")
def output(study: SimulatedStudy) -> Path:
    return study.folder / "derivatives" / "voxcloud"


def test_open_stack__rows_are_the_images_by_participant_and_session(study: SimulatedStudy, output: Path) -> None:
    stack = voxcloud.open_stack(output, "R1map", "GM")
    assert stack.dims == ("image", "voxel")
    assert stack.attrs["units"] == "1/s"
    inside = study.anatomy.mask
    for row, (participant, session, path, volume) in enumerate(study.image_paths("R1map", "GM")):
        assert (stack["participant_id"].item(row), stack["session_id"].item(row)) == (participant, session)
        image = nib.load(path).get_fdata()
        expected = image if volume is None else image[..., volume]
        np.testing.assert_array_equal(stack[row].to_numpy(), expected[inside].astype(np.float32))


def test_open_fit__a_test_by_name_is_the_statistic_map(output: Path) -> None:
    fit = voxcloud.open_fit(output, "training", "R1map", "GM")
    t = voxcloud.to_nifti(fit["statistic"].sel(test="linear:patients_minus_untrained"))
    (path,) = (output / "stats").rglob(STATMAP)
    expected = nib.load(path)
    np.testing.assert_allclose(t.affine, expected.affine)
    tested = np.isfinite(t.get_fdata())
    np.testing.assert_array_equal(t.get_fdata()[tested], expected.get_fdata()[tested])
    assert (expected.get_fdata()[~tested] == 0).all()
    assert int(fit["valid"].sum()) == tested.sum()


def test_open_fit__coefficients_carry_their_participants(study: SimulatedStudy, output: Path) -> None:
    fit = voxcloud.open_fit(output, "training", "R1map", "GM")
    assert fit["value_linear"].dims == ("participant_linear", "voxel")
    assert list(fit["participant_linear"].values) == sorted(study.participants["participant_id"])


def test_open_fit__names_what_there_is(output: Path) -> None:
    with pytest.raises(CorruptStoreError, match=r"Did you mean 'training'\?"):
        voxcloud.open_fit(output, "training-2", "R1map", "GM")
    with pytest.raises(CorruptStoreError, match="Stacks: R1map_label-GM"):
        voxcloud.open_stack(output, "R1map")


def test_to_nifti__wants_one_row(output: Path) -> None:
    with pytest.raises(CorruptStoreError, match="Select one image"):
        voxcloud.to_nifti(voxcloud.open_stack(output, "R1map", "GM"))
