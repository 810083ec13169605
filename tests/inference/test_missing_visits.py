"""The SPM reference cohort with day 84 deleted for three patients: who is named, which cluster stands, which falls."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from voxcloud.inference.search import SearchResult, random_field_search
from voxcloud.inference.smoothness import smoothness_of_array
from voxcloud.models.contrasts import contrast_matrix
from voxcloud.models.formula import design_matrix
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.time_basis import build_time_basis
from voxcloud.models.two_stage import VisitPlan, participant_coefficients, visit_plan

GONE = ("sub-05", "sub-06", "sub-07")
SENSORIMOTOR_MM = np.array([34.0, -22.0, 52.0])
RADIUS_MM = 13.0
Analysis = Callable[..., tuple[VisitPlan, SearchResult, float]]


@pytest.fixture(scope="module")
def analyse(validation_script: Callable[[str], ModuleType]) -> Analysis:
    """Return a function from settings of the visit plan to plan, result and degrees of freedom."""
    report = validation_script("spm_report")
    mask, index, affine, _ = report.cohort()
    scans = pd.read_csv(report.REFERENCE / "scans.tsv", sep="\t").rename(columns={"subject": "participant_id"})
    kept = ~(scans["participant_id"].isin(GONE) & (scans["day"] == 84))
    scans = scans[kept]
    image = nibabel.load(report.REFERENCE / "cohort_int16.nii.gz")
    images = np.asarray(image.dataobj.get_unscaled())[mask][:, scans["volume"]].T * float(image.dataobj.slope)
    people = scans.drop_duplicates("participant_id").set_index("participant_id", drop=False)
    basis = build_time_basis("polynomial", [0, 7, 14, 28, 84], ("linear", "quadratic"), "quadratic")

    def run(**settings: Any) -> tuple[VisitPlan, SearchResult, float]:
        plan = visit_plan(scans["participant_id"].tolist(), scans["day"].tolist(), basis, **settings)
        who = plan.participants_of("linear")
        y = participant_coefficients(images, plan)["linear"]
        design = design_matrix("group + age + tiv", people.loc[who].reset_index(drop=True))
        fit = fit_ols(y, design.matrix)
        t = t_contrast(fit, contrast_matrix("group[patient] - group[control]", design).weights[0])[2]
        smooth = smoothness_of_array(fit.standardised_residuals(y), index, mask.shape, fit.df)
        return plan, random_field_search(t, fit.df, mask, index, affine, smooth), fit.df

    return run


def sensorimotor(found: SearchResult) -> list[float]:
    """Familywise p of the significant clusters with a peak in the planted sphere."""
    return [
        c.p_fwe
        for c in found.significant
        if any(np.linalg.norm(np.array(p.mm) - SENSORIMOTOR_MM) <= RADIUS_MM for p in c.peaks)
    ]


def test_visit_plan__names_the_three_without_day_84_and_their_ratio(analyse: Analysis) -> None:
    plan, _, df = analyse()
    reasons = plan.left_out_of("linear")
    assert tuple(reasons) == GONE
    for name in GONE:
        assert np.sqrt(plan.visits[name].ratio["linear"]) == pytest.approx(23.34, abs=0.01)
        assert "days 0, 7, 14, 28" in reasons[name]
        assert "standard deviation 23.3 times" in reasons[name]
    assert df == 31 - 3 - 4


def test_random_field_search__sensorimotor_cluster_survives_three_people_without_day_84(analyse: Analysis) -> None:
    _, found, _ = analyse()
    (p,) = sensorimotor(found)
    assert p < 1e-4


def test_random_field_search__the_unweighted_fit_that_was_asked_for_loses_the_cluster(analyse: Analysis) -> None:
    plan, found, df = analyse(accept_unequal_variance=True)
    assert plan.unequal
    assert plan.left_out_of("linear") == {}
    assert df == 31 - 4
    assert sensorimotor(found) == []
    assert any("asked" in sentence for sentence in plan.sentences())
