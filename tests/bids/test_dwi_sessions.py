"""Which sessions have diffusion: find_dwi_sessions."""

from __future__ import annotations

from typing import Any

import pytest

from voxcloud.bids.dwi import find_dwi_sessions
from voxcloud.errors import BidsError


@pytest.fixture
def cohort(bare: Any) -> Any:
    """Return three people with diffusion: two visits, one visit, no session folders; and some without."""
    for name in (
        "sub-02/ses-2/dwi/sub-02_ses-2",
        "sub-02/ses-1/dwi/sub-02_ses-1",
        "sub-01/ses-1/dwi/sub-01_ses-1",
        "sub-10/dwi/sub-10",
    ):
        bare.image(f"{name}_dir-AP_dwi", {})
    bare.image("sub-03/ses-1/dwi/sub-03_ses-1_sbref", {})
    bare.image("sub-02/ses-3/anat/sub-02_ses-3_T1w", {})
    return bare


def test_find_dwi_sessions__in_order_and_only_those_with_diffusion(cohort: Any) -> None:
    assert find_dwi_sessions(cohort.root) == [("01", "1"), ("02", "1"), ("02", "2"), ("10", "")]


def test_find_dwi_sessions__chosen_with_or_without_prefix(cohort: Any) -> None:
    assert find_dwi_sessions(cohort.root, ["sub-02", "01"], ["ses-2"]) == [("02", "2")]
    assert find_dwi_sessions(cohort.root, ["01"]) == [("01", "1")]


def test_find_dwi_sessions__labels_that_do_not_exist_are_all_told_with_the_nearest(cohort: Any) -> None:
    with pytest.raises(BidsError) as caught:
        find_dwi_sessions(cohort.root, ["1", "02"], ["22"])
    first, second = caught.value.problems
    assert "sub-1: expected a participant of the data set, found no folder sub-1. Did you mean '01'?" in first
    assert "There are: 01, 02, 03, 10." in first
    assert "ses-22: expected a session of the data set, found no folder ses-22. Did you mean '2'?" in second


def test_find_dwi_sessions__a_participant_asked_for_without_diffusion_is_refused(cohort: Any) -> None:
    with pytest.raises(BidsError, match=r"sub-03: expected images \*_dwi\.nii\[\.gz\] in dwi, found none\. Leave"):
        find_dwi_sessions(cohort.root, ["03", "01"])


def test_find_dwi_sessions__a_session_in_which_nobody_has_diffusion_is_refused(cohort: Any) -> None:
    with pytest.raises(BidsError, match=r"in the sessions 3, found none\. Sessions that have some: 1, 2\."):
        find_dwi_sessions(cohort.root, [], ["3"])


def test_find_dwi_sessions__nothing_at_all_says_which_other_images_there_are(bare: Any) -> None:
    bare.image("sub-01/dwi/sub-01_sbref", {})
    with pytest.raises(BidsError) as caught:
        find_dwi_sessions(bare.root)
    (text,) = caught.value.problems
    assert "expected images *_dwi.nii[.gz] in sub-*/[ses-*/]dwi, found none among 1 participants (dwi has sbref)." in (
        text
    )
    assert text.endswith("Diffusion images have the suffix dwi in BIDS.")


def test_find_dwi_sessions__compressed_capitals_and_files_of_macos(bare: Any) -> None:
    folder = bare.root / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    (folder / "sub-01_dwi.NII.GZ").touch()
    other = bare.root / "sub-02" / "dwi"
    other.mkdir(parents=True)
    (other / "._sub-02_dwi.nii").touch()
    (other / "sub-02_dwi.bval").touch()
    assert find_dwi_sessions(bare.root) == [("01", "")]


def test_find_dwi_sessions__a_folder_whose_label_is_not_allowed_is_named(cohort: Any) -> None:
    cohort.image("sub-04_old/dwi/sub-04_dwi", {})
    with pytest.raises(BidsError, match=r"sub-04_old: expected a label of letters and digits, found '04_old'\. Rename"):
        find_dwi_sessions(cohort.root)


def test_find_dwi_sessions__not_a_data_set(bare: Any) -> None:
    with pytest.raises(BidsError, match="expected the folder of a BIDS data set, found no such folder"):
        find_dwi_sessions(bare.root / "nowhere")
