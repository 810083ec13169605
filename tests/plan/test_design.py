"""Design files: what every kind of model becomes, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from voxcloud.config import parse_study
from voxcloud.config.study import Study
from voxcloud.errors import ContrastError, DesignError
from voxcloud.plan.design import build_design
from voxcloud.plan.selection import ImageRef, LeftOut, select

DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
GROUPS = {"arm": "01 02 03 04", "leg": "05 06 07", "none": "08 09 10 11 12"}
GROUP_OF = {p: g for g, people in GROUPS.items() for p in people.split()}
TEST = {"test": "intercept", "alternative": "two-sided"}
POLYNOMIAL = {"basis": "polynomial", "reference_days": list(DAYS), "orthogonalise": "quadratic"}


def study_of(model: Mapping[str, Any], time: Mapping[str, Any] = POLYNOMIAL, **keys: Any) -> Study:
    """Return a study with one model."""
    tree = {
        "schema": 1,
        "name": "s",
        "output": "out",
        "images": "i",
        "participants": "p",
        "sessions": "s",
        "mask": "m",
        "time": dict(time),
        "models": [{"name": "m", "maps": ["R1map"], "contrasts": {"c": TEST}, **model}],
    }
    return parse_study(tree | keys, "test")


def people_table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "participant_id": list(GROUP_OF),
            "group": list(GROUP_OF.values()),
            "age": rng.uniform(20, 60, len(GROUP_OF)).round(1),
            "rt_gamma": rng.uniform(0.02, 0.2, len(GROUP_OF)),
        }
    )


def images_of(missing: Mapping[str, Sequence[float]] = {}, shift: Mapping[str, float] = {}) -> list[ImageRef]:
    """Return an image per person and day; ``shift`` moves somebody's visits after day 0."""
    return [
        ImageRef(
            p, f"d{day:02.0f}", day + (shift.get(p, 0.0) if day else 0.0), f"{p}-{day:g}", f"{p}-{day:g}.nii", None
        )
        for p in GROUP_OF
        for day in DAYS
        if day not in missing.get(p, ())
    ]


def design(
    study: Study, images: Sequence[ImageRef] | None = None, table: pd.DataFrame | None = None
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return the design file of the only model and who was left out."""
    chosen = select(
        study,
        study.models[0],
        "R1map",
        "GM",
        "R1map_label-GM",
        images or images_of(),
        people_table() if table is None else table,
    )
    tree, gone = build_design(study, chosen)
    return tree, [*chosen.left_out, *gone]


def value_of(tree: Mapping[str, Any], coefficient: str, participant: str, y: Any) -> float:
    """Return a participant's value of a coefficient for images ``y(day)``."""
    own = tree["coefficients"][coefficient]["first_level"][participant]
    days = [tree["images"][row]["day"] for row in own["images"]]
    assert {tree["images"][row]["participant_id"] for row in own["images"]} == {participant}
    return float(sum(w * y(d) for w, d in zip(own["weights"], days, strict=True)))


def contrast(tree: Mapping[str, Any], coefficient: str, values: Mapping[str, float], name: str = "c") -> list[float]:
    """Return what a contrast estimates when participants have these values."""
    entry = tree["coefficients"][coefficient]
    beta = np.linalg.lstsq(np.asarray(entry["X"]), [values[p] for p in entry["participants"]], rcond=None)[0]
    return [float(v) for v in np.asarray(entry["tests"][name]["weights"]) @ beta]


def group_values(**means: float) -> dict[str, float]:
    return {p: means[g] for p, g in GROUP_OF.items()}


def test_build_design__two_sample_over_a_union_of_groups() -> None:
    model = {
        "where": "group in [patients, none]",
        "formula": "group",
        "contrasts": {"c": {"test": "group[patients] - group[none]", "alternative": "greater"}},
    }
    tree, gone = design(study_of(model, groups={"patients": ["arm", "leg"]}))
    entry = tree["coefficients"]["linear"]
    assert entry["participants"] == list(GROUP_OF)
    assert tree["groups"]["05"] == "patients"
    assert entry["rank"] == 2
    assert contrast(tree, "linear", group_values(arm=3.0, leg=3.0, none=1.0)) == pytest.approx([2.0])
    assert gone == []


def test_build_design__linear_and_quadratic_recover_a_course() -> None:
    tree, _ = design(study_of({"formula": "group"}))
    t = np.asarray(DAYS) / 84
    basis = np.column_stack([np.ones(5), t])
    residual = t**2 - basis @ np.linalg.lstsq(basis, t**2, rcond=None)[0]
    plain = np.linalg.lstsq(np.column_stack([basis, residual]), 5 + 2 * t + 3 * t**2, rcond=None)[0]
    y = {d: 5 + 2 * d / 84 + 3 * (d / 84) ** 2 for d in DAYS}
    assert value_of(tree, "quadratic", "01", y.__getitem__) == pytest.approx(3.0)
    assert value_of(tree, "linear", "01", y.__getitem__) == pytest.approx(plain[1])
    assert tree["coefficients"]["linear"]["units"] == "1/s per 84 days"
    assert tree["coefficients"]["quadratic"]["units"] == "1/s per (84 days)²"


def test_build_design__three_groups_by_f() -> None:
    model = {
        "formula": "group + age",
        "contrasts": {
            "any": {"test": ["group[arm] - group[none]", "group[leg] - group[none]"], "alternative": "two-sided"}
        },
    }
    tree, _ = design(study_of(model))
    test = tree["coefficients"]["linear"]["tests"]["any"]
    assert test["kind"] == "F"
    assert np.linalg.matrix_rank(test["weights"]) == 2
    assert contrast(tree, "linear", group_values(arm=4.0, leg=3.0, none=1.0), "any") == pytest.approx([3.0, 2.0])


def test_build_design__one_sample_is_the_mean_at_the_centre_of_the_covariates() -> None:
    tree, _ = design(study_of({"formula": "age", "where": "group in [arm]", "inference": {"method": "permutation"}}))
    entry = tree["coefficients"]["linear"]
    age = people_table().set_index("participant_id")["age"][entry["participants"]]
    column = np.asarray(entry["X"])[:, entry["columns"].index("age")]
    assert column == pytest.approx((age - age.mean()).to_numpy())
    values = {p: float(v) for p, v in zip(entry["participants"], (1.0, 2.0, 4.0, 9.0), strict=True)}
    assert contrast(tree, "linear", values) == pytest.approx([4.0])


def test_build_design__covariates_are_centred_over_who_is_fitted() -> None:
    images = images_of(missing={"02": (84.0,), "06": (14.0, 28.0, 84.0)})
    tree, gone = design(study_of({"formula": "group + age"}), images)
    entry = tree["coefficients"]["linear"]
    assert "02" not in entry["participants"]
    assert "06" not in entry["participants"]
    assert np.asarray(entry["X"])[:, entry["columns"].index("age")].mean() == pytest.approx(0.0, abs=1e-12)
    reasons = {item.participant_id: item.reason for item in gone}
    assert reasons["06"] == "has 2 visits (day 0, 7), needs 3"
    assert "times that of the complete design" in reasons["02"]


def test_build_design__paired_is_second_minus_first() -> None:
    for days in ([28, 84], [84, 28]):
        tree, _ = design(study_of({"estimator": "paired", "days": days}))
        assert value_of(tree, "difference", "03", lambda d: 10 * d) == pytest.approx(10.0 * (days[1] - days[0]))
    images = images_of(missing={"03": (28.0,)})
    tree, gone = design(study_of({"estimator": "paired", "days": [28, 84]}), images)
    assert "03" not in tree["coefficients"]["difference"]["participants"]
    assert [i.reason for i in gone] == ["expected one image for day 28, found none; has images on day 0, 7, 14, 84"]


def test_build_design__a_visit_near_a_planned_day_stands_for_it() -> None:
    study = study_of({"estimator": "paired", "days": [28, 84]})
    tree, gone = design(study, images_of(shift={"03": 3.0, "04": 8.0}))
    assert value_of(tree, "difference", "03", lambda d: d) == pytest.approx(56.0)
    # 14 + 8 = 22 is nearer to 28 than half way to 14, and 28 + 8 = 36 is beyond; 84 + 8 = 92 stands for 84.
    assert value_of(tree, "difference", "04", lambda d: d) == pytest.approx(70.0)
    assert gone == []


def test_build_design__baseline_takes_day_0_and_nothing_else() -> None:
    model = {"estimator": "ols", "session": "baseline", "formula": "group"}
    tree, gone = design(study_of(model), images_of(missing={"09": (0.0,)}))
    assert value_of(tree, "value", "01", lambda d: d) == 0.0
    assert {i["day"] for i in tree["images"]} == {0.0}
    assert [(i.participant_id, i.reason) for i in gone] == [
        ("09", "has no image on day 0 (session: baseline), only on day 7, 14, 28, 84")
    ]


def test_build_design__mean_of_the_visits() -> None:
    tree, _ = design(study_of({"estimator": "ols", "session": "mean"}), images_of(missing={"01": (84.0,)}))
    assert value_of(tree, "value", "01", lambda d: d) == pytest.approx(np.mean(DAYS[:4]))
    assert value_of(tree, "value", "02", lambda d: d) == pytest.approx(np.mean(DAYS))


def test_build_design__regression_on_a_learning_parameter() -> None:
    model = {
        "formula": "rt_gamma + age",
        "where": "group in [arm, leg]",
        "contrasts": {"c": {"test": "rt_gamma", "alternative": "less"}},
    }
    tree, _ = design(study_of(model))
    entry = tree["coefficients"]["quadratic"]
    gamma = people_table().set_index("participant_id")["rt_gamma"][entry["participants"]]
    assert contrast(tree, "quadratic", {p: 2.5 * g for p, g in gamma.items()}) == pytest.approx([2.5])
    assert entry["scores"]["rt_gamma"] == pytest.approx(gamma.to_list())


def test_build_design__sessions_rule_compares_with_the_days_that_the_model_uses() -> None:
    tree, gone = design(study_of({"sessions": "day <= 28"}))
    assert gone == []
    assert {i["day"] for i in tree["images"]} == {0.0, 7.0, 14.0, 28.0}
    assert [v["ratio"]["linear"] for v in tree["visits"]] == pytest.approx([1.0] * len(GROUP_OF))
    assert tree["time"]["reference_days"] == list(DAYS)
    assert "(0, 7, 14, 28)" in tree["sentences"][0]
    # The study's basis: a quadratic course has the coefficient that the whole study would find.
    assert value_of(tree, "quadratic", "01", lambda d: 3 * (d / 84) ** 2) == pytest.approx(3.0)
    # Someone without day 84 is complete here, and left out of a model of all days.
    images = images_of(missing={"05": (84.0,)})
    assert "05" in design(study_of({"sessions": "day <= 28"}), images)[0]["coefficients"]["linear"]["participants"]
    assert "05" not in design(study_of({}), images)[0]["coefficients"]["linear"]["participants"]


def test_build_design__categorical_basis_is_change_since_the_first_day() -> None:
    time = {"basis": "categorical", "reference_days": list(DAYS)}
    tree, gone = design(study_of({}, time), images_of(missing={"07": (14.0,)}, shift={"02": 2.0}))
    assert list(tree["coefficients"]) == ["day7", "day14", "day28", "day84"]
    assert value_of(tree, "day28", "01", lambda d: 1 + d) == pytest.approx(28.0)
    assert value_of(tree, "day28", "02", lambda d: 1 + d) == pytest.approx(30.0)
    assert tree["coefficients"]["day28"]["units"] == "1/s"
    assert {i.participant_id for i in gone} == {"07"}


def test_build_design__piecewise_basis_is_a_slope_per_segment() -> None:
    time = {"basis": "piecewise", "reference_days": list(DAYS), "knots": [28]}
    tree, _ = design(study_of({}, time))
    assert list(tree["coefficients"]) == ["slopeTo28", "slopeFrom28"]

    def course(day: float) -> float:
        return 2 * min(day, 28) / 84 - 1 * max(day - 28, 0) / 84

    assert value_of(tree, "slopeTo28", "01", course) == pytest.approx(2.0)
    assert value_of(tree, "slopeFrom28", "01", course) == pytest.approx(-1.0)


def test_build_design__precision_weights_keep_everybody_and_say_how() -> None:
    tree, gone = design(study_of({"weights": "precision"}), images_of(missing={"05": (84.0,)}))
    assert gone == []
    assert "05" in tree["coefficients"]["linear"]["participants"]
    assert tree["visit_rules"]["complete_days"] == list(DAYS)
    assert "estimated once from all voxels" in " ".join(tree["sentences"])


def test_build_design__rank_deficient_design_is_allowed_and_inestimable_contrasts_are_named() -> None:
    table = people_table().assign(twice=lambda t: 2 * t["age"])
    model = {
        "formula": "group + age + twice",
        "contrasts": {"c": {"test": "group[arm] - group[none]", "alternative": "greater"}},
    }
    tree, _ = design(study_of(model), table=table)
    entry = tree["coefficients"]["linear"]
    assert (entry["rank"], len(entry["columns"])) == (4, 5)
    assert contrast(tree, "linear", group_values(arm=3.0, leg=0.0, none=1.0)) == pytest.approx([2.0])
    model["contrasts"] = {"c": {"test": "age", "alternative": "greater"}}
    with pytest.raises(ContrastError, match="contrast `age` cannot be estimated"):
        design(study_of(model), table=table)


def test_build_design__no_degrees_of_freedom_is_refused() -> None:
    images = [i for i in images_of() if i.participant_id in ("01", "05")]
    with pytest.raises(DesignError, match="2 participants and rank 2 leave 0 degrees of freedom"):
        design(study_of({"formula": "group", "where": "group in [arm, leg]"}), images)


@pytest.mark.parametrize(("last", "df"), [("06", 4), ("05", 3), ("03", 2)])
def test_build_design__random_fields_need_four_error_degrees_of_freedom(last: str, df: int) -> None:
    images = [i for i in images_of() if i.participant_id <= last]
    plain: dict[str, Any] = {"formula": "group" if last > "04" else "1"}
    if df == 4:
        assert len(design(study_of(plain), images)[0]["coefficients"]["linear"]["participants"]) - 2 == df
        return
    with pytest.raises(DesignError) as refused:
        design(study_of(plain), images)
    assert str(refused.value) == (
        "model m, R1map_label-GM: linear: expected at least 4 error degrees of freedom for random fields, found "
        f"{df}. Use method: permutation, a simpler formula, or more people."
    )
    permuted = plain | {"inference": {"method": "permutation"}}
    assert design(study_of(permuted), images)[0]["coefficients"]["linear"]["rank"] == len(images) / 5 - df


@pytest.mark.parametrize("formula", ["group + age", "group + scale(age)", "group * center(age)"])
def test_build_design__covariate_that_is_the_same_for_everybody_is_refused(formula: str) -> None:
    with pytest.raises(DesignError, match=r"model m, .*: covariate age is the same for all 12 people fitted \(0\.1\)"):
        design(study_of({"formula": formula}), table=people_table().assign(age=0.1))


def test_build_design__group_of_one_person_is_named() -> None:
    table = people_table()
    table.loc[table["participant_id"] == "07", "group"] = "alone"
    (words,) = design(study_of({"formula": "group"}), table=table)[0]["sentences"]
    assert words.startswith("group[alone] is one person, participant 07 (linear, quadratic): ")
    assert design(study_of({"formula": "age"}), table=table)[0]["sentences"] == []
    assert design(study_of({"formula": "group"}))[0]["sentences"] == []


def test_build_design__does_not_depend_on_the_order_of_rows() -> None:
    study = study_of({"formula": "group + age"})
    assert design(study, images_of()[::-1], people_table()[::-1])[0] == design(study)[0]


def test_build_design__images_of_whoever_enters_nothing_are_not_read() -> None:
    """They would cut the analysis mask by their missing voxels, and a change of them would refit the others."""
    whole, _ = design(study_of({}))
    tree, gone = design(study_of({}), images_of(missing={"03": (7, 14, 28)}))
    assert {i.participant_id for i in gone} == {"03"}
    assert "03" not in {i["participant_id"] for i in tree["images"]}
    assert len(tree["images"]) == len(whole["images"]) - len(DAYS)

    def course(day: float) -> float:
        return 2.0 * day / 84

    for who in tree["coefficients"]["linear"]["participants"]:
        own = tree["coefficients"]["linear"]["first_level"][who]
        assert {tree["images"][row]["participant_id"] for row in own["images"]} == {who}
        assert value_of(tree, "linear", who, course) == pytest.approx(value_of(whole, "linear", who, course))
