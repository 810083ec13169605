"""Which modalities a study plans, and whose sessions: a participant may lack one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from voxcloud.cli.mapping import maps_study
from voxcloud.errors import BidsError, StudyFileError
from voxcloud.pipeline.study import RunOptions, plan_study
from voxcloud.plan.modality import SessionChoice
from voxcloud.testing.raw import tiny_raw
from voxcloud.testing.raw_dwi_protocol import TINY_DWI

SECTIONS = {"mpm": {}, "dwi": {}}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with one visit: the second has no diffusion."""
    folder = tmp_path_factory.mktemp("both") / "raw"
    tiny_raw(folder, participants=2, sessions=1, dwi=TINY_DWI)
    shutil.rmtree(folder / "sub-02" / "ses-1" / "dwi")
    return folder


def steps(folder: Path, *participants: str) -> set[str]:
    options = RunOptions(sessions=SessionChoice(participants))
    return {unit.key for unit in plan_study(folder / "study.yaml", options).plan.units}


def test_plan_study__every_modality_of_every_session(both: Path) -> None:
    tree = yaml.safe_load((both / "study.yaml").read_text())
    assert {"mpm", "dwi"} <= set(tree)
    expected = {
        "mpm-maps/sub-01_ses-1",
        "mpm-maps/sub-02_ses-1",
        "dwi-maps/sub-01_ses-1",
        "mpm-qc/cohort",
        "dwi-qc/cohort",
    }
    assert steps(both) == expected


def test_plan_study__a_chosen_participant_may_lack_a_modality(both: Path) -> None:
    assert steps(both, "02") == {"mpm-maps/sub-02_ses-1", "mpm-qc/cohort", "dwi-qc/cohort"}
    assert plan_study(both / "study.yaml", RunOptions(sessions=SessionChoice(("02",)))).plan.problems == ()
    assert "dwi-maps/sub-01_ses-1" in steps(both, "01", "02")


def test_plan_study__a_participant_that_does_not_exist_is_refused_all_the_same(both: Path) -> None:
    with pytest.raises(BidsError, match="09"):
        steps(both, "01", "09")


def test_plan_study__a_modality_without_any_image_is_a_problem_and_the_other_goes_on(
    both: Path, tmp_path: Path
) -> None:
    shutil.copytree(both, tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "sub-01" / "ses-1" / "dwi")
    found = plan_study(tmp_path / "raw" / "study.yaml").plan
    assert {unit.step for unit in found.units} == {"mpm-maps", "mpm-qc", "dwi-qc"}
    assert any("_dwi" in text for text in found.problems)


def test_maps_study__takes_what_the_data_set_has(both: Path, tmp_path: Path) -> None:
    study = maps_study(both, tmp_path / "out", "participant", SECTIONS, ()).study
    assert study.mpm is not None
    assert study.dwi is not None
    study = maps_study(both, tmp_path / "out", "participant", SECTIONS, ("dwi",)).study
    assert study.mpm is None
    assert study.dwi is not None
    shutil.copytree(both / "sub-02", tmp_path / "raw" / "sub-02")
    shutil.copy(both / "dataset_description.json", tmp_path / "raw")
    study = maps_study(tmp_path / "raw", tmp_path / "out", "participant", SECTIONS, ()).study
    assert study.dwi is None
    with pytest.raises(StudyFileError, match="--modality: expected mpm or dwi, found `dti`"):
        maps_study(both, tmp_path / "out", "participant", SECTIONS, ("dti",))
    shutil.rmtree(tmp_path / "raw" / "sub-02" / "ses-1" / "anat")
    with pytest.raises(BidsError, match="_MPM"):
        maps_study(tmp_path / "raw", tmp_path / "out", "participant", SECTIONS, ())
