"""T maps of SPM12 on the reference cohort, from the images through both stages."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from voxcloud.models.contrasts import contrast_matrix
from voxcloud.models.formula import design_matrix
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.time_basis import TimeBasis, build_time_basis
from voxcloud.models.two_stage import participant_coefficients, visit_plan

REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "spm"
TERMS = {"lin": "linear", "quad": "quadratic"}


@pytest.fixture(scope="module")
def coefficients() -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    scans = pd.read_csv(REFERENCE / "scans.tsv", sep="\t")
    mask = np.asanyarray(nibabel.load(REFERENCE / "mask.nii.gz").dataobj) > 0
    volumes = np.asanyarray(nibabel.load(REFERENCE / "cohort_int16.nii.gz").dataobj)
    Y = volumes[mask].T[scans["volume"].to_numpy()].astype(np.float64)
    people = pd.read_csv(REFERENCE / "participants.tsv", sep="\t")
    column = people.columns[0]
    people = people.rename(columns={column: "participant_id"})
    basis = build_time_basis("polynomial", sorted(scans["day"].unique()), ("linear", "quadratic"), "quadratic")
    plan = visit_plan(scans[column].tolist(), scans["day"].tolist(), basis)
    assert plan.participants == tuple(people["participant_id"])
    found = participant_coefficients(Y, plan)
    # SPM stores coefficient images as float32.
    return people, {short: found[term].astype(np.float32) for short, term in TERMS.items()}


@pytest.mark.parametrize("model", ["t2_lin_equalvar", "t2_quad_equalvar", "mreg_lin", "mreg_quad"])
def test_two_stage__equals_spm12(model: str, coefficients: tuple[pd.DataFrame, dict[str, np.ndarray]]) -> None:
    people, values = coefficients
    own = np.ones(len(people), dtype=bool)
    formula, test = "group + age + tiv", "group[patient] - group[control]"
    if model.startswith("mreg"):
        own = (people["group"] == "patient").to_numpy()
        formula, test = "behaviour + age + tiv", "behaviour"
    design = design_matrix(formula, people[own])
    fit = fit_ols(values["lin" if "_lin" in model else "quad"][own], design.matrix)
    t = t_contrast(fit, contrast_matrix(test, design).weights[0])[2]
    expected = np.load(REFERENCE / "t_maps.npz")[model]
    assert fit.df == pytest.approx(json.loads((REFERENCE / "models.json").read_text())[model]["erdf"])
    assert np.abs(t - expected).max() < 1e-5


@pytest.fixture(scope="module")
def scans_and_images() -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of scans and every ninth voxel of their images."""
    scans = pd.read_csv(REFERENCE / "scans.tsv", sep="\t")
    mask = np.asanyarray(nibabel.load(REFERENCE / "mask.nii.gz").dataobj) > 0
    volumes = np.asanyarray(nibabel.load(REFERENCE / "cohort_int16.nii.gz").dataobj)
    return scans, volumes[mask][::9].T[scans["volume"].to_numpy()].astype(np.float64)


def reference_t(scans: pd.DataFrame, Y: np.ndarray, basis: TimeBasis, term: str, per_day: float = 1.0) -> np.ndarray:
    plan = visit_plan(scans["subject"].tolist(), (scans["day"] * per_day).tolist(), basis)
    people = scans.drop_duplicates("subject").rename(columns={"subject": "participant_id"}).reset_index(drop=True)
    design = design_matrix("group + age + tiv", people)
    fit = fit_ols(participant_coefficients(Y, plan)[term], design.matrix)
    return t_contrast(fit, contrast_matrix("group[patient] - group[control]", design).weights[0])[2]


@pytest.mark.parametrize("term", ["linear", "quadratic"])
def test_two_stage__on_the_reference_cohort_t_is_that_of_the_plain_model_in_any_unit_of_time(
    term: str, scans_and_images: tuple[pd.DataFrame, np.ndarray]
) -> None:
    scans, Y = scans_and_images
    days = sorted(scans["day"].unique())
    plain = reference_t(scans, Y, build_time_basis("polynomial", days, ("linear", "quadratic"), None), term)
    for per_day in (1.0, 1 / 7, 1 / 365.25):
        reference_days = [d * per_day for d in days]
        basis = build_time_basis("polynomial", reference_days, ("linear", "quadratic"), term)
        np.testing.assert_allclose(reference_t(scans, Y, basis, term, per_day), plain, rtol=0, atol=1e-6)
