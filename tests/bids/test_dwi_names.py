"""Names of diffusion derivatives, and what the draft wants in their sidecars."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from voxcloud.bids.dwi_names import DWI_MAPS, TENSOR_ORDER, dwi_file_name, dwi_map_name, dwi_map_sidecar
from voxcloud.bids.layout import map_of, parse_name
from voxcloud.errors import StudyFileError


def test_dwi_map_name__golden_list() -> None:
    assert [dwi_map_name("01", "1", parameter) for parameter in DWI_MAPS] == [
        f"sub-01/ses-1/dwi/sub-01_ses-1_model-tensor_param-{parameter}_dwimap.nii.gz"
        for parameter in ("fa", "md", "ad", "rd", "s0", "diffusivity", "direction")
    ]


def test_dwi_map_name__description_and_sidecar_and_no_session() -> None:
    assert dwi_map_name("01", "", "fa", "error") == "sub-01/dwi/sub-01_model-tensor_desc-error_param-fa_dwimap.nii.gz"
    assert dwi_map_name("01", "", "md", extension=".json") == "sub-01/dwi/sub-01_model-tensor_param-md_dwimap.json"


@pytest.mark.parametrize("name", ["FA", "MD", "AD", "RD"])
def test_dwi_map_name__is_found_again_as_the_registered_map(name: str) -> None:
    parsed = parse_name(PurePosixPath(dwi_map_name("01", "1", name.lower())).name)
    assert parsed is not None
    assert map_of(*parsed) == name


def test_dwi_file_name__golden_list() -> None:
    preproc = [dwi_file_name("01", "1", "preproc", ending) for ending in (".nii.gz", ".bval", ".bvec", ".json")]
    stem = "sub-01/ses-1/dwi/sub-01_ses-1"
    assert preproc == [f"{stem}_desc-preproc_dwi{ending}" for ending in (".nii.gz", ".bval", ".bvec", ".json")]
    assert dwi_file_name("01", "1", "noise") == f"{stem}_desc-noise_dwimap.nii.gz"
    assert dwi_file_name("01", "1", "mask") == f"{stem}_desc-brain_mask.nii.gz"
    assert dwi_file_name("01", "1", "reference") == f"{stem}_desc-b0_dwiref.nii.gz"
    assert dwi_file_name("01", "1", "negatives") == f"{stem}_desc-negatives_dwimap.nii.gz"
    assert dwi_file_name("01", "1", "field") == "sub-01/ses-1/fmap/sub-01_ses-1_desc-dwi_fieldmap.nii.gz"
    assert dwi_file_name("01", "", "mask", ".json") == "sub-01/dwi/sub-01_desc-brain_mask.json"


@pytest.mark.parametrize("kind", ["noise", "mask", "reference", "field", "negatives"])
def test_dwi_file_name__gradient_tables_belong_to_series_only(kind: str) -> None:
    with pytest.raises(StudyFileError, match=rf"'{kind}': expected an extension of \.nii\.gz, \.json, found '\.bval'"):
        dwi_file_name("01", "1", kind, ".bval")  # type: ignore[arg-type]


def test_dwi_names__what_is_not_known_is_named_with_the_nearest() -> None:
    with pytest.raises(StudyFileError, match=r"parameter 'directions' is not known. Did you mean 'direction'\?"):
        dwi_map_name("01", "1", "directions")
    with pytest.raises(StudyFileError, match=r"diffusion file 'noises' is not known. Did you mean 'noise'\?"):
        dwi_file_name("01", "1", "noises")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("participant", "session", "description"), [("0_1", "1", ""), ("01", "a-b", ""), ("1", "", "ä")]
)
def test_dwi_names__labels_hold_letters_and_digits(participant: str, session: str, description: str) -> None:
    with pytest.raises(StudyFileError, match="expected letters and digits"):
        dwi_map_name(participant, session, "fa", description)


def test_dwi_map_sidecar__only_images_with_orientations_tell_how_they_are_stored() -> None:
    encoded = {parameter for parameter in DWI_MAPS if "OrientationEncoding" in dwi_map_sidecar(parameter, "wls")}
    assert encoded == {"diffusivity", "direction"}


def test_dwi_map_sidecar__of_the_tensor_as_the_draft_has_it() -> None:
    tree = dwi_map_sidecar("diffusivity", "wls")
    assert tree["OrientationEncoding"] == {
        "EncodingAxis": 3,
        "Reference": "xyz",
        "Type": "tensor",
        "TensorRank": 2,
        "AntipodalSymmetry": True,
    }
    assert tree["Model"]["Parameters"] == {"FitMethod": "wls"}
    assert tree["Units"] == "mm2/s"
    assert TENSOR_ORDER == ("xx", "xy", "xz", "yy", "yz", "zz")


def test_dwi_map_sidecar__a_fraction_has_no_units() -> None:
    assert "Units" not in dwi_map_sidecar("fa", "wls")
    assert dwi_map_sidecar("md", "wls")["Units"] == "mm2/s"
