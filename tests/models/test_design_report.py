"""Diagnostics of designs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.outliers_influence import variance_inflation_factor

from voxcloud.models.design_report import design_diagnostics
from voxcloud.models.formula import design_matrix


def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    age = rng.normal(50, 10, 31)
    return pd.DataFrame(
        {
            "participant_id": [f"{i:02d}" for i in range(31)],
            "group": np.where(np.arange(31) < 17, "patients", "untrained"),
            "age": age,
            "duration": age * 0.5 + rng.normal(0, 1.0, 31),
        }
    )


def test_design_diagnostics__vif_and_leverage_equal_statsmodels() -> None:
    design = design_matrix("group + age + duration", cohort())
    told = design_diagnostics(design)
    for j, name in enumerate(design.columns[1:], 1):
        assert told["vif"][name] == pytest.approx(variance_inflation_factor(design.matrix, j))
    influence = sm.OLS(np.arange(31.0), design.matrix).fit().get_influence()
    np.testing.assert_allclose(list(told["leverage"].values()), influence.hat_matrix_diag, atol=1e-12)
    assert list(told["leverage"]) == list(design.participant_ids)
    assert sum(told["leverage"].values()) == pytest.approx(told["rank"])
    assert told["correlation"][2][3] == pytest.approx(np.corrcoef(design.matrix[:, 2], design.matrix[:, 3])[0, 1])
    assert told["correlation"][0][1] is None
    assert told["df"] == 27


def test_design_diagnostics__is_plain_for_a_rank_deficient_design() -> None:
    design = design_matrix("age + months", cohort().assign(months=lambda t: t["age"] * 12))
    told = json.loads(json.dumps(design_diagnostics(design), allow_nan=False))
    assert (told["rank"], told["rank_deficient"]) == (2, True)
    assert told["vif"] == {"age": None, "months": None}
    assert "3 columns and rank 2" in " ".join(told["sentences"])


def test_design_diagnostics__remarks_on_collinearity_and_leverage() -> None:
    table = cohort()
    table["duration"] = table["age"] * 0.5 + np.random.default_rng(0).normal(0, 0.1, 31)
    table["score"] = np.r_[100.0, np.zeros(30)]
    words = " ".join(design_diagnostics(design_matrix("age + duration + score", table))["sentences"])
    assert "Variance inflation above 10: age" in words
    assert "Leverage above 0.5: 00 (1.00)" in words


def test_design_diagnostics__has_nothing_to_remark_on_a_plain_design() -> None:
    told = design_diagnostics(design_matrix("group", cohort()))
    assert told["sentences"] == []
    assert told["condition"] < 5


def test_design_diagnostics__of_a_mean_alone() -> None:
    told = design_diagnostics(design_matrix("1", cohort()))
    assert (told["rank"], told["vif"], told["condition"]) == (1, {}, 1.0)
