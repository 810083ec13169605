"""No run writes over a file of somebody else: the output is a folder of its own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxcloud.errors import StudyFileError
from voxcloud.pipeline.study import plan_study
from voxcloud.pipeline.validating import validate_study


def contents(folder: Path) -> dict[str, str]:
    """Return path to digest of everything below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def in_study_folder(study: Any) -> str:
    return "."


def above_study_folder(study: Any) -> str:
    return ".."


def with_tables(study: Any) -> str:
    (study.folder / "mine/tables").mkdir(parents=True)
    shutil.move(study.folder / "participants.tsv", study.folder / "mine/tables/participants.tsv")
    study.change(participants="mine/tables/participants.tsv")
    return "mine"


def with_mask(study: Any) -> str:
    (study.folder / "masks").mkdir()
    shutil.copy(study.folder / "mask.nii.gz", study.folder / "masks/mask.nii.gz")
    study.change(mask="masks/mask.nii.gz")
    return "masks"


def with_volume(study: Any) -> str:
    (study.folder / "rois").mkdir()
    shutil.copy(study.folder / "mask.nii.gz", study.folder / "rois/roi.nii.gz")
    study.change(search_volumes={"roi": {"label": "GM", "path": "rois/roi.nii.gz"}})
    return "rois"


def above_images(study: Any) -> str:
    (study.folder / "sub-01/.voxcloud").mkdir()  # as an older version left it there
    return "sub-01"


def among_images(study: Any) -> str:
    return "sub-01/ses-day07/out"


def among_images_of_a_folder(study: Any) -> str:
    study.change(images=".")
    (study.folder / "sub-77").mkdir()
    return "sub-77/out"


def through_a_link(study: Any) -> str:
    (study.folder / "link").symlink_to(study.folder / "sub-01", target_is_directory=True)
    return "link/out"


def of_somebody(study: Any) -> str:
    (study.folder / "mine").mkdir()
    (study.folder / "mine/report.html").write_text("mine")
    return "mine"


PLACES = {
    in_study_folder: "holds the study file",
    above_study_folder: "holds the study file",
    with_tables: "holds `participants`",
    with_mask: "holds `mask`",
    with_volume: "holds `search_volumes.roi`",
    above_images: "holds an image of sub-01",
    among_images: "lies in the folder of sub-01",
    among_images_of_a_folder: "lies in the folder of sub-77",
    through_a_link: "lies in the folder of sub-01",
    of_somebody: "no run of voxcloud made it: it holds report.html",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
def test_run__refuses_an_output_that_is_not_a_folder_of_its_own(fresh: Any, place: Callable[[Any], str]) -> None:
    fresh.change(output=place(fresh))
    before = contents(fresh.folder)
    for refused in (lambda: fresh.run(), lambda: plan_study(fresh.file)):
        with pytest.raises(StudyFileError, match=PLACES[place]):
            refused()
    assert any(PLACES[place] in problem for problem in validate_study(fresh.file).problems)
    assert contents(fresh.folder) == before


def test_plan__goes_on_in_a_folder_of_a_first_run_that_was_interrupted(fresh: Any) -> None:
    (fresh.output / ".voxcloud").mkdir(parents=True)
    (fresh.output / "half.tsv").write_text("")
    assert plan_study(fresh.file).counts["all"]["waiting"] > 0


def test_plan__takes_a_folder_that_holds_only_what_systems_put_there(fresh: Any) -> None:
    fresh.output.mkdir(parents=True)
    for name in (".DS_Store", ".tmp-clock-1"):
        (fresh.output / name).write_text("")
    assert plan_study(fresh.file).counts["all"]["waiting"] > 0
