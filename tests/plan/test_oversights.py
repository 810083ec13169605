"""Slips that no rule forbids: nobody drops out of a study, and no image comes in twice, without a word."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from voxcloud.pipeline.study import plan_study
from voxcloud.plan.build import StudyPlan
from voxcloud.testing import SimulatedStudy, tiny_study


@pytest.fixture
def study(tmp_path: Path) -> SimulatedStudy:
    return tiny_study(tmp_path / "study")


def plan(study: SimulatedStudy, **changes: Any) -> StudyPlan:
    tree = yaml.safe_load(study.study_file.read_text()) | changes
    study.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return plan_study(study.study_file).plan


def regroup(study: SimulatedStudy, row: int, group: str) -> str:
    path = study.folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table.loc[row, "group"] = group
    table.to_csv(path, sep="\t", index=False)
    return str(table.loc[row, "participant_id"]).removeprefix("sub-")


def test_oversights__a_plain_study_has_none(study: SimulatedStudy) -> None:
    found = plan(study)
    assert found.warnings == ()
    assert found.left_out == ()


@pytest.mark.parametrize("slip", ["Sci_arm", "sci_arn", "sci-arm"])
def test_unasked__a_group_that_looks_like_a_wanted_one_is_named_with_its_people(
    study: SimulatedStudy, slip: str
) -> None:
    who = regroup(study, 0, slip)
    found = plan(study)
    assert [(i.participant_id, i.reason) for i in found.left_out] == [(who, f"group '{slip}' is named by no model")]
    (sentence,) = found.warnings
    assert f"'{slip}' (sub-{who})" in sentence
    assert "Did you mean 'sci_arm'?" in sentence


def test_unasked__a_group_that_nobody_asks_for_is_left_out_without_alarm(study: SimulatedStudy) -> None:
    who = regroup(study, 0, "pilot")
    found = plan(study)
    assert [i.participant_id for i in found.left_out] == [who]
    assert found.warnings == ()


def test_unasked__somebody_without_a_group_is_named(study: SimulatedStudy) -> None:
    who = regroup(study, 0, "n/a")
    found = plan(study)
    assert [(i.participant_id, i.what) for i in found.left_out] == [(who, "all models")]
    assert any(f"found none for sub-{who}" in sentence for sentence in found.warnings)


def test_oversights__the_same_image_in_two_sessions_is_named_once(study: SimulatedStudy) -> None:
    first, second = study.image_paths("R1map", "GM")[:2]
    shutil.copy(first[2], second[2])
    (sentence,) = plan(study).warnings
    assert f"sub-{first[0]} ses-{first[1]} and sub-{second[0]} ses-{second[1]}" in sentence
    assert "R1map GM" in sentence


def test_oversights__two_sessions_on_one_day_are_named(study: SimulatedStudy) -> None:
    path = study.folder / "sessions.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table.loc[1, "day"] = table.loc[0, "day"]
    table.to_csv(path, sep="\t", index=False)
    (sentence,) = plan(study).warnings
    assert "expected one session a day, found ses-day00 and ses-day07 on day 0" in sentence


def test_oversights__a_volume_that_no_map_is_searched_in_is_named(study: SimulatedStudy) -> None:
    found = plan(study, search_volumes={"tract": {"path": "mask.nii.gz", "label": "WM"}})
    assert any("search_volumes.tract" in sentence and "found WM" in sentence for sentence in found.warnings)
