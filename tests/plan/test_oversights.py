"""Slips that no rule forbids: nobody drops out of a study, and no image comes in twice, without a word."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from voxcloud.errors import PlanError, StudyFileError
from voxcloud.pipeline.study import plan_study
from voxcloud.plan.build import StudyPlan
from voxcloud.plan.selection import ImageRef, excluded_image
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
    assert [(i.participant_id, i.reason) for i in found.left_out] == [
        (who, f"group '{slip}' is named by no model; the nearest that is named is 'sci_arm'")
    ]
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
    assert f"sub-{first[0]}_ses-{first[1]} and sub-{second[0]}_ses-{second[1]}: " in sentence
    assert f"(R1map GM; {first[2].name} and {second[2].name})" in sentence


def test_oversights__many_of_a_kind_are_counted(study: SimulatedStudy) -> None:
    paths = {(p, s): path for p, s, path, _ in study.image_paths("R1map", "GM")}
    for participant, session in paths:
        if session == "day07":
            shutil.copy(paths[participant, "day00"], paths[participant, session])
    found = plan(study).warnings
    assert len(found) == 5
    assert found[-1].endswith("There are 5 more of this kind.")


def test_unasked__without_images_is_named_for_that_alone(study: SimulatedStudy) -> None:
    who = regroup(study, 0, "pilot")
    path = study.folder / "images.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if not x.startswith(f"sub-{who}")))
    (item,) = [i for i in plan(study).left_out if i.session_id is None]
    assert (item.participant_id, item.what) == (who, "participant")


@pytest.mark.parametrize("level", ["sci_arm2", "patients"])
def test_oversights__a_number_more_is_no_slip(study: SimulatedStudy, level: str) -> None:
    regroup(study, 0, level)
    assert plan(study).warnings == ()


def change_days(study: SimulatedStudy, change: Callable[[float], float]) -> None:
    path = study.folder / "sessions.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table["day"] = [f"{change(float(day)):g}" for day in table["day"]]
    table.to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda day: day / 7, r"found 0 to 12, which fit as weeks \(times 7\)\. Give the column day in days"),
        (lambda day: day * 24, r"found 0 to 2016, which fit as hours"),
        (
            lambda day: day + 45352,
            r"found days 45352 to 45436: the two do not overlap\. These look like a spreadsheet's dates \(45352 is "
            r"2024-03-01\)\. Give the days since the baseline event",
        ),
        (lambda day: day + 500, r"found days 500 to 584: the two do not overlap\. Give the days"),
    ],
)
def test_time_slips__days_in_other_units_are_said_first(
    study: SimulatedStudy, change: Callable[[float], float], words: str
) -> None:
    change_days(study, change)
    try:
        first = plan(study).warnings[0]
    except PlanError as error:
        first = error.problems[0]
    assert re.search(words, first)


def test_time_slips__fewer_visits_than_planned_are_none(study: SimulatedStudy) -> None:
    path = study.folder / "images.tsv"
    path.write_text("".join(x for x in path.read_text().splitlines(True) if "ses-day84" not in x))
    tree = yaml.safe_load(study.study_file.read_text())
    tree["models"][0]["sessions"] = "day <= 28"
    study.study_file.write_text(yaml.safe_dump(tree))
    assert not any("reference_days" in sentence for sentence in plan(study).warnings)


@pytest.mark.parametrize("people", [1, 3])
def test_oversights__a_value_far_from_the_others_is_named(study: SimulatedStudy, people: int) -> None:
    path = study.folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table.loc[: people - 1, "age"] = "999"
    table.to_csv(path, sep="\t", index=False)
    found = plan(study).warnings
    assert len(found) == people
    for who, sentence in zip(table["participant_id"], found, strict=False):
        assert sentence.startswith(f"{who}: age is 999, ")
        assert "standard deviations from the others" in sentence


def test_oversights__a_rare_yes_is_no_outlier(study: SimulatedStudy) -> None:
    path = study.folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table["age"] = ["1", *["0"] * (len(table) - 1)]
    table.to_csv(path, sep="\t", index=False)
    assert not any("standard deviations" in sentence for sentence in plan(study).warnings)


def test_build_plan__one_sentence_for_all_models_of_a_problem(study: SimulatedStudy) -> None:
    tree = yaml.safe_load(study.study_file.read_text())
    first = tree["models"][0] | {"formula": "group + agee"}
    with pytest.raises(PlanError) as caught:
        plan(study, models=[first, first | {"name": "second"}])
    (problem,) = caught.value.problems
    assert problem.startswith("models training, second, R1map_label-GM: ")


def test_check_volumes__says_nothing_of_excluding_a_volume(study: SimulatedStudy) -> None:
    mask = nib.load(study.folder / "mask.nii.gz")
    elsewhere = mask.affine.copy()
    elsewhere[:3, 3] += 100
    nib.save(nib.Nifti1Image(np.ones(mask.shape, np.uint8), elsewhere), study.folder / "roi.nii.gz")
    with pytest.raises(StudyFileError, match="Resample it to the mask's grid") as caught:
        plan(study, search_volumes={"roi": {"path": "roi.nii.gz", "label": "GM"}})
    assert "on_bad_image" not in str(caught.value)


def test_build_plan__an_excluded_image_has_a_reason_that_repeats_nothing(study: SimulatedStudy) -> None:
    participant, session, path, _ = study.image_paths("R1map", "GM")[1]
    path.unlink()
    (item,) = plan(study, on_bad_image="exclude").left_out
    assert (item.participant_id, item.session_id, item.what) == (participant, session, "R1map_label-GM")
    assert item.reason == f"expected the image {path}, found no file. Correct the images table."


@pytest.mark.parametrize(
    "place", ["sub-01_ses-1, R1map_label-GM (/a (b)/x.nii): ", "sub-01_ses-1: /a (b)/x.nii: ", "/a (b)/x.nii: "]
)
def test_excluded_image__keeps_the_reason_alone(place: str) -> None:
    image = ImageRef("01", "1", 0.0, "abc", "/a (b)/x.nii", None)
    message = f"{place}found T1 in ms. Convert the image to 1/s, or exclude it (on_bad_image: exclude)."
    item = excluded_image(image, "R1map_label-GM", message)
    assert item.reason == "found T1 in ms. Convert the image to 1/s."


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
