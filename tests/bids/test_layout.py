"""Maps in a BIDS derivatives folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxcloud.bids.layout import parse_name
from voxcloud.bids.tables import read_images
from voxcloud.errors import TableError


def tree(folder: Path, *names: str) -> Path:
    """Make empty files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


MNI = "space-MNI152NLin2009aSym"


def test_read_images__finds_maps_by_suffix_parameter_and_label(tmp_path: Path) -> None:
    folder = tree(
        tmp_path,
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_label-GM_R1map.nii.gz",
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_label-WM_R1map.nii",
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_label-GM_probseg.nii.gz",
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_label-CSF_probseg.nii.gz",
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_T1w.nii.gz",
        f"sub-01/ses-1/anat/sub-01_ses-1_{MNI}_R1map.json",
        "sub-01/ses-1/anat/sub-01_ses-1_R1map.nii.gz",
        f"sub-01/ses-1/dwi/sub-01_ses-1_{MNI}_model-tensor_param-fa_dwimap.nii.gz",
        f"sub-01/ses-1/dwi/sub-01_ses-1_{MNI}_model-tensor_param-md_dwimap.nii.gz",
        f"sub-01/ses-1/dwi/sub-01_ses-1_{MNI}_model-tensor_param-color_dwimap.nii.gz",
        f"sub-02/anat/sub-02_{MNI}_label-GM_volume.nii.gz",
        "desc.nii.gz",
    )
    found = read_images(folder)
    assert found[["map", "label", "participant_id", "session_id"]].values.tolist() == [
        ["FA", "", "01", "1"],
        ["MD", "", "01", "1"],
        ["R1map", "GM", "01", "1"],
        ["R1map", "WM", "01", "1"],
        ["probseg", "GM", "01", "1"],
        ["volume", "GM", "02", ""],
    ]
    assert all(Path(p).is_absolute() and Path(p).is_file() for p in found["path"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "expected maps in template space, such as .*, found none"),
        (["sub-01/anat/sub-01_R1map.nii.gz"], r"found 1 maps without space-, such as sub-01_R1map\.nii\.gz"),
        (
            ["sub-01/anat/sub-01_space-A_R1map.nii.gz", "sub-01/anat/sub-01_space-B_MTsat.nii.gz"],
            "expected maps in one template space, found space-A and space-B",
        ),
        (
            ["sub-01/anat/sub-01_space-A_desc-x_R1map.nii.gz", "sub-01/anat/sub-01_space-A_desc-y_R1map.nii.gz"],
            r"sub-01: expected one R1map, found .*desc-x_R1map\.nii\.gz and .*desc-y_R1map\.nii\.gz",
        ),
        (["sub-01/anat/sub-02_space-A_R1map.nii.gz"], "expected sub-01 in the name, as in its folder, found sub-02"),
        (["sub-01/anat/sub-01_space-A_label-thalamus_R1map.nii.gz"], "label expects GM, WM or none, found 'thalamus'"),
    ],
)
def test_read_images__refuses_a_folder_that_is_not_clear(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(TableError, match=words):
        read_images(tree(tmp_path, *names))


@pytest.mark.parametrize(
    "name", ["R1map.nii.gz", "sub-01.nii", "sub-01_x_R1map.nii", "sub-01_sub-02_R1map.nii.gz", "a.txt"]
)
def test_parse_name__leaves_other_files_alone(name: str) -> None:
    assert parse_name(name) is None
