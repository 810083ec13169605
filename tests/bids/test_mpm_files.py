"""Files of a session that are not what they should be: links without content, strays, damage."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from voxcloud.bids.mpm import read_mpm
from voxcloud.bids.sidecars import Metadata

PDW, T1W, MTW = "flip-1_mt-off", "flip-2_mt-off", "flip-1_mt-on"


def test_read_mpm__content_that_git_annex_has_not_fetched(raw: Any) -> None:
    for path in sorted(raw.root.rglob("*_flip-2_mt-off_MPM.nii")):
        path.unlink()
        path.symlink_to("../../../.git/annex/objects/xy/SHA256E-s1--ab.nii")
    assert raw.problem() == (
        "sub-01_ses-1: sub-01_ses-1_echo-1_flip-2_mt-off_MPM.nii and 7 more: expected an image, found a git-annex link "
        "whose content is not here. Get it with: git annex get 'sub-01/ses-1/anat'"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"/annex/objects/SHA256E-s1--ab.nii\n",
            "git-annex pointer whose content is not here. Get it with: git annex get",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Get it with: git lfs pull --include"),
        (b"", "expected a NIfTI file, found 0 bytes"),
        (b"not an image", "expected a NIfTI header"),
    ],
)
def test_read_mpm__what_is_no_image(raw: Any, content: bytes, said: str) -> None:
    next(iter(raw.root.rglob("*_echo-1_flip-2_mt-off_MPM.nii"))).write_bytes(content)
    assert said in raw.problem()


def test_read_mpm__a_broken_link_elsewhere(raw: Any) -> None:
    path = next(iter(raw.root.rglob("*_echo-1_flip-2_mt-off_MPM.nii")))
    path.unlink()
    path.symlink_to("/scratch/gone.nii")
    assert "found a link to a file that is not there. Copy what 'sub-01/ses-1/anat/sub-01_ses-1_echo-1" in raw.problem()


def test_read_mpm__links_that_lead_somewhere_are_followed(raw: Any) -> None:
    path = next(iter(raw.root.rglob("*_echo-1_flip-2_mt-off_MPM.nii")))
    path.rename(raw.root / "stored")
    path.symlink_to(raw.root / "stored")
    assert len(raw.read().series["T1w"].echoes) == 8


def test_read_mpm__an_image_of_another_session_in_the_folder(raw: Any) -> None:
    raw.image("sub-01/ses-1/anat/sub-02_ses-1_echo-1_flip-1_mt-off_MPM", {})
    assert "sub-02_ses-1_echo-1_flip-1_mt-off_MPM.nii: expected sub-01_ses-1 in the name" in raw.problem()


def test_read_mpm__nothing_there(bare: Any) -> None:
    assert "expected images *_MPM.nii[.gz] in sub-01/ses-9/anat, found none" in bare.problems(session="9")[0]


def test_read_mpm__a_damaged_sidecar_is_named_once(raw: Any) -> None:
    raw.root.joinpath("MPM.json").write_text("{")
    problems = raw.problems()
    assert len(problems) == 1
    assert "MPM.json: expected a JSON sidecar" in problems[0]


def test_read_mpm__two_people_read_one_after_the_other(raw: Any) -> None:
    shutil.copytree(raw.root / "sub-01", raw.root / "sub-02")
    for path in sorted((raw.root / "sub-02").rglob("sub-01_*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    raw.edit("sub-02*_flip-2_mt-off_MPM.json", FlipAngle=20)
    metadata = Metadata(raw.root)
    angles = [read_mpm(metadata, p, "1").series["T1w"].flip_angle_deg for p in ("01", "02", "01")]
    assert angles == [21, 20, 21]


def test_read_mpm__sidecars_of_one_folder_that_both_apply_are_told_once(raw: Any) -> None:
    raw.json("flip-2_MPM.json", {})
    raw.json("mt-off_MPM.json", {})
    assert (
        "sub-01_ses-1_echo-1_flip-2_mt-off_MPM.nii and 7 more: expected at most one sidecar that applies to it per "
        "folder (BIDS inheritance), found flip-2_MPM.json and mt-off_MPM.json in ."
    ) in raw.problem()
