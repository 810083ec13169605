"""Thirty real contrast images through the whole engine, beside nilearn and the numbers published for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nilearn.glm.second_level import SecondLevelModel

from voxcloud.pipeline.study import RunOptions, StudyOutcome, run_study

pytestmark = pytest.mark.slow

MAXIMUM_T = 7.255
MAXIMUM_MM = (6.9, 24.1, 54.0)
THRESHOLD_T, VOXELS_ABOVE = 3.396, 2312


@pytest.fixture(scope="module")
def images(shared_data: Callable[[str], Path]) -> list[Path]:
    return sorted(shared_data("group_emotion").glob("sub-*_effect.nii.gz"))


@pytest.fixture(scope="module")
def folder(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a study as a user would: the images where they are, a mask of every voxel that some image has."""
    out = tmp_path_factory.mktemp("emotion")
    first = nib.load(images[0])
    some = np.zeros(first.shape, dtype=bool)
    for path in images:
        some |= np.isfinite(nib.load(path).get_fdata())
    mask = nib.Nifti1Image(some.astype(np.uint8), first.affine)
    mask.set_sform(first.affine, 4)
    nib.save(mask, out / "mask.nii.gz")
    with (out / "images.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["participant_id", "map", "label", "path"])
        writer.writerows([p.name.split("_")[0], "effect", "", str(p)] for p in images)
    (out / "participants.tsv").write_bytes((images[0].parent / "participants.tsv").read_bytes())
    study = {
        "schema": 1,
        "name": "emotion",
        "output": "derivatives",
        "images": "images.tsv",
        "participants": "participants.tsv",
        "mask": "mask.nii.gz",
        "models": [
            {
                "name": "mean",
                "maps": ["effect"],
                "estimator": "ols",
                "contrasts": {"reappraise": {"test": "intercept", "alternative": "two-sided"}},
            },
            {
                "name": "success",
                "maps": ["effect"],
                "estimator": "ols",
                "formula": "reappraisal_success",
                "contrasts": {"success": {"test": "reappraisal_success", "alternative": "two-sided"}},
            },
        ],
    }
    (out / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return out


@pytest.fixture(scope="module")
def outcome(folder: Path) -> StudyOutcome:
    return run_study(folder / "study.yaml", RunOptions(engine="threads"))


def statistic_map(folder: Path, model: str, contrast: str) -> nib.Nifti1Image:
    (path,) = (folder / "derivatives" / "stats" / f"model-{model}").rglob(f"*_contrast-value{contrast}_stat-t_*.nii.gz")
    return nib.load(path)


def test_run_study__real_images_give_tables_maps_and_a_report(outcome: StudyOutcome) -> None:
    assert not outcome.failed
    assert not outcome.problems
    assert outcome.report is not None
    assert outcome.report.is_file()


def test_one_sample_t__has_the_published_maximum_and_extent(folder: Path, outcome: StudyOutcome) -> None:
    image = statistic_map(folder, "mean", "Reappraise")
    t = image.get_fdata()
    place = np.unravel_index(np.nanargmax(t), t.shape)
    assert np.nanmax(t) == pytest.approx(MAXIMUM_T, abs=5e-4)
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, place), MAXIMUM_MM, atol=0.05)
    assert int((t > THRESHOLD_T).sum()) == VOXELS_ABOVE
    table = pd.read_csv(folder / "derivatives" / "tables" / "peaks.tsv", sep="\t")
    top = table[table["model"] == "mean"].sort_values("t").iloc[-1]
    np.testing.assert_allclose(top[["x", "y", "z"]].astype(float), MAXIMUM_MM, atol=0.05)


@pytest.mark.parametrize(("model", "contrast"), [("mean", "Reappraise"), ("success", "Success")])
def test_t_map__equals_nilearn(
    folder: Path, images: list[Path], outcome: StudyOutcome, model: str, contrast: str
) -> None:
    ours = statistic_map(folder, model, contrast)
    inside = ours.get_fdata() != 0
    complete = nib.Nifti1Image(inside.astype(np.uint8), ours.affine)
    people = pd.read_csv(folder / "participants.tsv", sep="\t")
    score = people["reappraisal_success"] - people["reappraisal_success"].mean()
    design = pd.DataFrame({"intercept": np.ones(len(images)), "score": score})
    columns = ["intercept"] if model == "mean" else ["intercept", "score"]
    fitted = SecondLevelModel(mask_img=complete, minimize_memory=True)
    fitted.fit([str(p) for p in images], design_matrix=design[columns])
    theirs = fitted.compute_contrast(columns[-1], second_level_stat_type="t", output_type="stat")
    np.testing.assert_allclose(ours.get_fdata()[inside], theirs.get_fdata()[inside], atol=1e-5)


def test_voxels__not_finite_in_some_image_are_left_out_and_counted(
    folder: Path, images: list[Path], outcome: StudyOutcome
) -> None:
    finite = np.all([np.isfinite(nib.load(p).get_fdata()) for p in images], axis=0)
    t = statistic_map(folder, "mean", "Reappraise").get_fdata()
    np.testing.assert_array_equal(t != 0, finite)
    cohort = json.loads((folder / "derivatives" / "results" / "cohort.json").read_text())
    (stack,) = cohort["stacks"]
    inside = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    missing = {p.name.split("_")[0]: int((~np.isfinite(nib.load(p).get_fdata()[inside])).sum()) for p in images}
    assert stack["not_finite_per_image"] == missing
