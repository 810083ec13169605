"""Raw data sets by name: find_sessions and what is in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxcloud.bids.mpm import find_sessions
from voxcloud.bids.raw import check_dataset, parse_image_name
from voxcloud.errors import BidsError


@pytest.fixture
def cohort(bare: Any) -> Any:
    """Return three people: two visits, one visit, no session folders."""
    for name in (
        "sub-02/ses-2/anat/sub-02_ses-2",
        "sub-02/ses-1/anat/sub-02_ses-1",
        "sub-01/ses-1/anat/sub-01_ses-1",
        "sub-10/anat/sub-10",
    ):
        bare.image(f"{name}_echo-1_flip-1_mt-off_MPM", {})
    bare.image("sub-03/ses-1/anat/sub-03_ses-1_T1w", {})
    bare.image("sub-02/ses-3/anat/sub-02_ses-3_T1w", {})
    return bare


def test_find_sessions__in_order_and_only_those_with_mpm(cohort: Any) -> None:
    assert find_sessions(cohort.root) == [("01", "1"), ("02", "1"), ("02", "2"), ("10", "")]


def test_find_sessions__chosen_with_or_without_prefix(cohort: Any) -> None:
    assert find_sessions(cohort.root, ["sub-02", "01"], ["ses-2"]) == [("02", "2")]
    assert find_sessions(cohort.root, ["01"]) == [("01", "1")]


def test_find_sessions__labels_that_do_not_exist_are_all_told_with_the_nearest(cohort: Any) -> None:
    with pytest.raises(BidsError) as caught:
        find_sessions(cohort.root, ["1", "02"], ["22"])
    first, second = caught.value.problems
    assert "sub-1: expected a participant of the data set, found no folder sub-1. Did you mean '01'?" in first
    assert "ses-22: expected a session of the data set, found no folder ses-22. Did you mean '2'?" in second


def test_find_sessions__a_participant_asked_for_without_mpm_is_refused(cohort: Any) -> None:
    with pytest.raises(BidsError, match=r"sub-03: expected images \*_MPM\.nii\[\.gz\] in anat, found none"):
        find_sessions(cohort.root, ["03", "01"])


def test_find_sessions__a_session_in_which_nobody_has_mpm_is_refused(cohort: Any) -> None:
    with pytest.raises(BidsError, match=r"in the sessions 3, found none\. Sessions that have some: 1, 2\."):
        find_sessions(cohort.root, [], ["3"])


def test_find_sessions__says_which_other_images_there_are(bare: Any) -> None:
    bare.image("sub-01/anat/sub-01_T1w", {})
    with pytest.raises(BidsError, match=r"found none among 1 participants \(anat has T1w\)"):
        find_sessions(bare.root)


def test_find_sessions__compressed_capitals_and_files_of_macos(bare: Any) -> None:
    folder = bare.root / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (folder / "sub-01_echo-1_flip-1_mt-off_MPM.NII.GZ").touch()
    other = bare.root / "sub-02" / "anat"
    other.mkdir(parents=True)
    (other / "._sub-02_echo-1_flip-1_mt-off_MPM.nii").touch()
    (bare.root / "sub-03.tar").touch()
    assert find_sessions(bare.root) == [("01", "")]


def test_find_sessions__a_folder_whose_label_is_not_allowed_is_named(cohort: Any) -> None:
    cohort.image("sub-04_old/anat/sub-04_echo-1_flip-1_mt-off_MPM", {})
    with pytest.raises(BidsError, match=r"sub-04_old: expected a label of letters and digits, found '04_old'\. Rename"):
        find_sessions(cohort.root)


def test_check_dataset__missing(tmp_path: Path) -> None:
    with pytest.raises(BidsError, match="expected the folder of a BIDS data set, found no such folder"):
        check_dataset(tmp_path / "nowhere")


def test_check_dataset__a_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(BidsError, match="found a file"):
        check_dataset(tmp_path / "x")


def test_check_dataset__empty(tmp_path: Path) -> None:
    with pytest.raises(BidsError, match="found an empty folder"):
        check_dataset(tmp_path)


def test_check_dataset__not_described(tmp_path: Path) -> None:
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(
        BidsError, match=r"with dataset_description\.json, found none \(1 folders sub-\*\)\..*write the file"
    ):
        check_dataset(tmp_path)


def test_check_dataset__the_folder_above_is_told_from_it(bare: Any) -> None:
    with pytest.raises(BidsError, match=r"no folder sub-\* either\)\. Did you mean .*ds\?"):
        check_dataset(bare.root.parent)


def test_check_dataset__derivatives(bare: Any) -> None:
    bare.edit("dataset_description.json", DatasetType="derivative")
    with pytest.raises(BidsError, match="expected a raw BIDS data set, found DatasetType 'derivative'"):
        check_dataset(bare.root)


def test_check_dataset__nobody(bare: Any) -> None:
    with pytest.raises(BidsError, match="expected folders sub-<label>, found none"):
        check_dataset(bare.root)


@pytest.mark.parametrize(
    ("name", "entities"),
    [
        ("sub-01_echo-1_MPM.nii.gz", {"sub": "01", "echo": "1"}),
        ("sub-01_echo-1_MPM.NII", {"sub": "01", "echo": "1"}),
        ("sub-01_acq-1.5T_MPM.nii", None),
        ("sub-01_acq-a+b_MPM.nii", None),
        ("sub-01_echo1_MPM.nii", None),
        ("sub-01_echo-1_MPM.json", None),
    ],
)
def test_parse_image_name__labels_hold_letters_and_digits(name: str, entities: dict[str, str] | None) -> None:
    parsed = parse_image_name(name)
    assert (parsed[0] if parsed else None) == entities
