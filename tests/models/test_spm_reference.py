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
from voxcloud.models.time_basis import build_time_basis
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
