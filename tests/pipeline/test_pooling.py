"""Variances pooled over voxels: the weights of a study are those of all its voxels, whatever the blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import voxcloud
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.precision import pool_variances
from voxcloud.models.time_basis import build_time_basis
from voxcloud.models.two_stage import participant_coefficients, visit_plan
from voxcloud.pipeline.pooling import estimate
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.storage.regions import open_array
from voxcloud.storage.store import open_store
from voxcloud.testing import SimulatedStudy, tiny_study

DAYS = (0, 7, 14, 28, 84)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    """Two of ten people miss the last visit; everybody stays, by weight."""
    made = tiny_study(
        tmp_path_factory.mktemp("pooling") / "study",
        missing_visits={("sci_arm", 1): (84,), ("con_none", 2): (84,)},
    )
    tree = yaml.safe_load(made.study_file.read_text())
    tree["models"][0]["weights"] = "precision"
    made.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return made


def run(study: SimulatedStudy) -> Path:
    assert not run_study(study.study_file, RunOptions(engine="serial")).failed
    return study.folder / "derivatives" / "voxcloud"


@pytest.fixture(scope="module")
def output(study: SimulatedStudy) -> Path:
    return run(study)


def design_of(output: Path) -> dict[str, Any]:
    (path,) = (output / ".voxcloud" / "designs").iterdir()
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


@pytest.mark.parametrize("term", ["linear", "quadratic"])
def test_fit_whitened__weights_are_those_of_all_voxels_at_once(output: Path, term: str) -> None:
    fit = voxcloud.open_fit(output, "training", "R1map", "GM")
    inside = fit["valid"].to_numpy() > 0
    stack = voxcloud.open_stack(output, "R1map", "GM")
    design = design_of(output)
    where = {
        (p, s): i
        for i, (p, s) in enumerate(zip(stack["participant_id"].values, stack["session_id"].values, strict=True))
    }
    rows = [where[(i["participant_id"], i["session_id"])] for i in design["images"]]
    data = stack.to_numpy()[rows][:, inside]
    basis = build_time_basis("polynomial", DAYS, ("linear", "quadratic"), orthogonalise="quadratic")
    people, days = [i["participant_id"] for i in design["images"]], [i["day"] for i in design["images"]]
    plan = visit_plan(people, days, basis, min_visits=3, weights="precision")
    X = np.asarray(design["coefficients"][term]["X"])
    ratio = pool_variances(data, plan, term, X).between_to_within
    root = np.sqrt(plan.precision_weights(term, ratio))[:, None]
    values = participant_coefficients(data, plan)[term]
    weights = design["coefficients"][term]["tests"]["patients_minus_untrained"]["weights"][0]
    expected = t_contrast(fit_ols(root * values, root * X), weights)[2]
    t = fit["statistic"].sel(test=f"{term}:patients_minus_untrained").to_numpy()[inside]
    np.testing.assert_allclose(t, expected, rtol=2e-5, atol=1e-5)  # coefficients are stored as float32
    result = json.loads(
        (output / f"results/model-training/R1map_label-GM__{term}__patients_minus_untrained.json").read_text()
    )
    assert result["between_to_within"] == pytest.approx(ratio, rel=1e-9)
    assert result["n"] == 10
    assert result["df"] == 10 - np.linalg.matrix_rank(X)


def test_estimate__blocks_add_up_and_one_without_voxels_changes_nothing(output: Path) -> None:
    design = design_of(output)
    prefix = "fits/model-training/R1map_label-GM/fit.zarr"
    table = np.asarray(open_array(open_store(output), f"{prefix}/pooled_linear")[0])
    whole = estimate(design, "linear", table[None])
    halves = np.stack([table, table, np.zeros_like(table)])
    halves[:2, 0, [0, 2]] /= 2  # sums of squares are shared out, degrees of freedom are those of a voxel
    assert estimate(design, "linear", halves) == whole
    assert whole["between_to_within"] > 0
    assert np.mean(list(whole["weights"].values())) == pytest.approx(1.0)


def test_estimate__the_imprecise_weigh_less(output: Path) -> None:
    design = design_of(output)
    found = json.loads((output / "fits/model-training/R1map_label-GM/covariance.json").read_text())["linear"]
    ratio = {v["participant_id"]: v["ratio"]["linear"] for v in design["visits"]}
    sparse = [p for p, r in ratio.items() if r > 100]
    assert len(sparse) == 2
    for who, weight in found["weights"].items():
        expected = 1 / (found["between_to_within"] + ratio[who])
        assert weight / found["weights"][sparse[0]] == pytest.approx(
            expected * (found["between_to_within"] + ratio[sparse[0]])
        )


def test_methods_text__says_what_the_weights_rest_on(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert "weighted by the precision of their coefficient, 1 / (q + variance ratio), where q = " in page
