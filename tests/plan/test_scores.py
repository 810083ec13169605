"""Learning curves as covariates: who has none that can be used, and which groups a study compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from voxcloud.config import load_study
from voxcloud.plan.build import build_plan, read_cohort
from voxcloud.plan.scores import BehaviourFits, fit_behaviour
from voxcloud.storage.store import open_store
from voxcloud.testing.simulate import tiny_study

DAYS = (0, 3, 7, 14, 28, 84)


def with_behaviour(folder: Path, rows: dict[str, list[float | None]], **changes: Any) -> Path:
    """Write a learning table and a study that regresses on it; return the study file."""
    made = tiny_study(folder / "study", group_sizes={"sci_arm": 5, "con_none": 5}, shape=(8, 9, 8))
    lines = ["participant_id\tday\thits"]
    for participant, values in rows.items():
        lines += [f"sub-{participant}\t{d}\t{v}" for d, v in zip(DAYS, values, strict=True) if v is not None]
    (made.folder / "behaviour.tsv").write_text("\n".join(lines) + "\n")
    tree = yaml.safe_load(made.study_file.read_text())
    tree["behaviour"] = {"table": "behaviour.tsv", "scores": {"hits": {"better": "higher", "range": [0, 100]}}}
    tree["models"][0] |= {"formula": "hits_gamma", "contrasts": {"c": {"test": "hits_gamma", "alternative": "less"}}}
    tree["models"].append(
        tree["models"][0]
        | {
            "name": "plain",
            "formula": "group",
            "contrasts": {"c": {"test": "group[sci_arm] - group[con_none]", "alternative": "less"}},
        }
    )
    tree["behaviour"] |= changes
    made.study_file.write_text(yaml.safe_dump(tree))
    return made.study_file


def curve(alpha: float, delta: float, gamma: float) -> list[float | None]:
    return [round(alpha - delta * float(np.exp(-gamma * d)), 3) for d in DAYS]


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {f"{k:02d}": curve(80 + k, 40 + k, 0.1 + 0.01 * k) for k in range(1, 9)}
    rows["07"] = [50.0, 50.0, None, None, None, None]
    rows["08"] = curve(150, 120, 0.1)
    return with_behaviour(tmp_path_factory.mktemp("scores"), rows, retention=[28, 84])


@pytest.fixture(scope="module")
def fits(study_file: Path) -> BehaviourFits:
    loaded = load_study(study_file)
    found = fit_behaviour(loaded, read_cohort(loaded))
    assert found is not None
    return found


def test_fit_behaviour__recovers_curves(fits: BehaviourFits) -> None:
    assert fits.curves["hits"]["03"].gamma == pytest.approx(0.13, rel=1e-3)
    assert fits.retention == (28.0, 84.0)


def test_reason__says_why_a_curve_is_not_used(fits: BehaviourFits) -> None:
    assert fits.reason("hits", "gamma", "03") == ""
    assert fits.reason("hits", "gamma", "07") == "has hits on 2 days, a learning curve needs 3"
    assert fits.reason("hits", "gamma", "09") == "has hits on 0 days, a learning curve needs 3"
    assert fits.reason("hits", "gamma", "08") == "learning curve of hits: plateau outside the range of the score"


def test_fit_behaviour__compares_the_groups_that_stand_in_one_model(fits: BehaviourFits) -> None:
    assert fits.pairs == (("sci_arm", "con_none"),)
    assert sorted(p for people in fits.groups.values() for p in people) == [f"{k:02d}" for k in range(1, 11)]


def test_build_plan__leaves_people_without_a_curve_out_of_its_regression_only(study_file: Path) -> None:
    loaded = load_study(study_file)
    plan = build_plan(loaded, open_store(loaded.resolve(loaded.study.output)), {})
    people = {d["model"]: set(d["coefficients"]["linear"]["participants"]) for d in plan.designs.values()}
    assert people["training"] == {f"{k:02d}" for k in range(1, 7)}
    assert people["plain"] == {f"{k:02d}" for k in range(1, 11)}
    reasons = {i.participant_id: i.reason for i in plan.left_out}
    assert set(reasons) == {"07", "08", "09", "10"}
    assert reasons["08"] == "learning curve of hits: plateau outside the range of the score"


def test_fit_behaviour__the_digest_knows_retention_and_groups(study_file: Path, fits: BehaviourFits) -> None:
    loaded = load_study(study_file)
    assert loaded.study.behaviour is not None
    section = loaded.study.behaviour.model_copy(update={"retention": None})
    other = type(loaded)(loaded.study.model_copy(update={"behaviour": section}), loaded.path)
    found = fit_behaviour(other, read_cohort(other))
    assert found is not None
    assert found.digest != fits.digest
