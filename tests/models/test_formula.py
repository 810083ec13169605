"""Formulas: attacks are refused before anything runs, and designs are what the words say."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxcloud.errors import DesignError, FormulaError
from voxcloud.models.formula import check_formula, design_matrix

COLUMNS = ("participant_id", "group", "sex", "age", "tiv")

ATTACKS = [
    "__import__('os').system('touch {canary}')",
    "I(__import__('os').system('touch {canary}'))",
    "{{__import__('os').system('touch {canary}')}}",
    "group + {{open('{canary}', 'w')}}",
    "`group`",
    "C(group, contr.treatment(__import__('os').system('touch {canary}')))",
    "center(open('{canary}', 'w'))",
    "scale(age, **{{'x': 1}})",
    "age.__class__.__bases__",
    "(lambda: open('{canary}', 'w'))()",
    "[open('{canary}', 'w') for _ in '1']",
    "eval(age)",
    "exec(age)",
    "np.log(age)",
    "log(age)",
    "poly(age, 9999999)",
    "bs(age, df=5)",
    "hashed(group)",
    "Q('age')",
    "age[0]",
    "age if age else tiv",
    "age == 1",
    "age and tiv",
    "(age := tiv)",
    "age; import os",
    "age\nimport os",
    "age # comment",
    "f'{{age}}'",
    "'age'",
    "age ** 9999999999",
    "age / tiv",
    "age // tiv",
    "age % 2",
    "age | tiv",
    "age @ tiv",
    "age ^ tiv",
    "*age",
    "C(*group)",
    "C(group, levels=age)",
    "C(C(group))",
    "center(age + tiv)",
    "group.age",
    "ａge",
    "age\x00",
    "1e999",
    "2*age",
    "(0 + group) * age",
    "y ~ group",
    "group | age",
    ".",
    "C",
    "center",
    "",
    "   ",
    "(" * 90 + "age" + ")" * 90 + " + " + "(" * 60 + "+".join(["age"] * 60) + ")" * 60,
    "+".join(["age"] * 400),
    "age +",
    "(age",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_check_formula__refuses_attacks_and_runs_nothing(attack: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    text = attack.format(canary=canary)
    with pytest.raises(FormulaError):
        check_formula(text, COLUMNS)
    with pytest.raises(FormulaError):
        design_matrix(text, cohort())
    assert not canary.exists()


@pytest.mark.parametrize(
    "formula, names",
    [
        ("1", set()),
        ("group + age + tiv", {"group", "age", "tiv"}),
        ("~ group*age", {"group", "age"}),
        ("0 + C(group):scale(age) + center(tiv)", {"group", "age", "tiv"}),
        ("-1 + (group + sex):age", {"group", "sex", "age"}),
    ],
)
def test_check_formula__returns_the_names(formula: str, names: set[str]) -> None:
    assert check_formula(formula, COLUMNS) == names


def test_check_formula__names_the_nearest_column() -> None:
    with pytest.raises(FormulaError, match=r"'aeg' is no column .* Did you mean 'age'\?"):
        check_formula("group + aeg", COLUMNS)


@pytest.mark.parametrize(
    "formula, what",
    [("I(age)", r"calling I\(\)"), ("age**2", "a power"), ("{age}", "'{'"), ("age.real", "an attribute")],
)
def test_check_formula__names_what_it_refuses(formula: str, what: str) -> None:
    with pytest.raises(FormulaError, match=f"{what} .*is not allowed"):
        check_formula(formula, COLUMNS)


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_check_formula__any_text_is_accepted_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(FormulaError):
        assert check_formula(text, COLUMNS) <= set(COLUMNS)


def cohort(n: int = 31) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "participant_id": [f"{i:02d}" for i in range(1, n + 1)],
            "group": np.where(np.arange(n) < 17, "patients", "untrained"),
            "sex": np.where(np.arange(n) % 3 == 0, "f", "m"),
            "age": rng.normal(50, 10, n).round(1),
            "tiv": rng.normal(1.5e6, 1e5, n).round(),
        }
    )


def test_design_matrix__columns_and_rows_follow_the_table() -> None:
    table = cohort()
    table.index = table.index[::-1]
    design = design_matrix("group + age", table)
    assert design.columns == ("intercept", "group[T.untrained]", "age")
    np.testing.assert_array_equal(design.matrix[:, 1], table["group"].to_numpy() == "untrained")
    np.testing.assert_allclose(design.matrix[:, 2], table["age"] - table["age"].mean(), atol=1e-12)
    assert design.participant_ids == tuple(table["participant_id"])
    assert design.rank == 3


def test_design_matrix__centres_over_the_rows_fitted() -> None:
    table = cohort()
    patients = table[table["group"] == "patients"]
    design = design_matrix("age", patients)
    assert design.covariate_means["age"] == pytest.approx(patients["age"].mean(), abs=1e-12)
    assert abs(design.matrix[:, 1].sum()) < 1e-10


@given(st.permutations(range(31)))
@settings(max_examples=20, deadline=None)
def test_design_matrix__row_order_changes_nothing_but_the_order(order: list[int]) -> None:
    table = cohort()
    whole, shuffled = design_matrix("group * age + tiv", table), design_matrix("group * age + tiv", table.iloc[order])
    assert shuffled.columns == whole.columns
    np.testing.assert_array_equal(shuffled.matrix, whole.matrix[order])


@pytest.mark.parametrize(
    "one, other",
    [
        ("group * age", "group + age + group:age"),
        ("group + center(age)", "group + age"),
        ("C(group) + age", "group + age"),
        ("group * age:sex", "group + age:sex + group:age:sex"),
        ("~ group - 1", "0 + group"),
        ("(group + sex):age", "group:age + sex:age"),
        ("group*age - age", "group + group:age"),
    ],
)
def test_design_matrix__wilkinson_algebra(one: str, other: str) -> None:
    a, b = design_matrix(one, cohort()), design_matrix(other, cohort())
    assert a.columns == b.columns
    np.testing.assert_array_equal(a.matrix, b.matrix)


def test_design_matrix__no_intercept_gives_a_column_per_group() -> None:
    design = design_matrix("0 + group + age", cohort())
    assert design.columns == ("group[patients]", "group[untrained]", "age")


def test_design_matrix__c_makes_a_number_a_factor() -> None:
    table = cohort().assign(site=np.arange(31) % 3 + 9.0)
    design = design_matrix("C(site)", table)
    assert design.factor_levels["site"] == ("9", "10", "11")
    assert design.rank == 3


def test_design_matrix__scale_is_one_standard_deviation() -> None:
    design = design_matrix("scale(tiv)", cohort())
    assert design.matrix[:, 1].std(ddof=1) == pytest.approx(1.0)


def test_design_matrix__reference_level_is_the_first_category_given() -> None:
    table = cohort()
    table["group"] = pd.Categorical(table["group"], categories=["untrained", "nobody", "patients"])
    assert design_matrix("group", table).columns == ("intercept", "group[T.patients]")


def test_design_matrix__unions_of_groups() -> None:
    table = cohort().assign(group=["sci_arm"] * 9 + ["sci_leg"] * 8 + ["con_none"] * 14)
    groups = {"patients": ["sci_arm", "sci_leg"], "untrained": ["con_none"]}
    design = design_matrix("group", table, groups)
    assert design.factor_levels["group"] == ("patients", "untrained")
    np.testing.assert_array_equal(design.matrix[:, 1], [0] * 17 + [1] * 14)


def test_design_matrix__unions_refuse_who_is_in_none_or_two() -> None:
    table = cohort().assign(group=["sci_arm"] * 17 + ["con_none"] * 14)
    with pytest.raises(DesignError, match=r"18 \(con_none\).* are in none of patients"):
        design_matrix("1", table, {"patients": ["sci_arm"]})
    with pytest.raises(DesignError, match="'sci_arm' is in patients and in arms"):
        design_matrix("1", table, {"patients": ["sci_arm"], "arms": ["sci_arm", "con_none"]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_design_matrix__missing_covariate_names_the_participants(bad: float) -> None:
    table = cohort()
    table.loc[[2, 6], "age"] = bad
    with pytest.raises(DesignError, match="'age' is missing for participants 03, 07"):
        design_matrix("group + age", table)


def test_design_matrix__missing_group_names_the_participant() -> None:
    table = cohort()
    table.loc[4, "group"] = None
    with pytest.raises(DesignError, match="'group' is missing for participant 05"):
        design_matrix("group", table)


def test_design_matrix__a_missing_value_of_an_unused_column_is_no_error() -> None:
    table = cohort()
    table.loc[2, "age"] = float("nan")
    assert design_matrix("group", table).rank == 2


def test_design_matrix__repeated_rows_are_refused_by_name() -> None:
    table = cohort()
    table = pd.concat([table, *[table.iloc[[2]]] * 4], ignore_index=True)
    with pytest.raises(DesignError, match="participant 03 has 5 rows"):
        design_matrix("group", table)


def test_design_matrix__repeated_rows_pass_with_a_participant_term() -> None:
    table = pd.concat([cohort().assign(day=0.0), cohort().assign(day=7.0)], ignore_index=True)
    design = design_matrix("participant_id + day", table)
    assert design.rank == 32


def test_design_matrix__factor_with_one_level_is_refused() -> None:
    with pytest.raises(DesignError, match=r"'group' has one level \(patients\)"):
        design_matrix("group", cohort(17))


def test_design_matrix__mixed_use_of_a_factor_is_refused() -> None:
    with pytest.raises(FormulaError, match="stands both in C"):
        design_matrix("C(age) + age", cohort())


def test_design_matrix__rank_deficiency_is_allowed_and_counted() -> None:
    table = cohort()
    table["months"] = table["age"] * 12
    design = design_matrix("group + age + months", table)
    assert len(design.columns) == 4
    assert design.rank == 3


def test_cell_mean__is_the_fitted_mean_at_the_centre_of_covariates() -> None:
    table = cohort()
    rng = np.random.default_rng(0)
    y = rng.normal(size=31) + 0.3 * table["age"].to_numpy() * (table["group"] == "patients")
    design = design_matrix("group * age", table)
    beta = np.linalg.lstsq(design.matrix, y, rcond=None)[0]
    for level in ("patients", "untrained"):
        own = (table["group"] == level).to_numpy()
        # The interaction model is one straight line per group: read it off at the mean age of everybody.
        line = np.polyfit(table["age"][own], y[own], 1)
        assert design.cell_mean("group", level) @ beta == pytest.approx(np.polyval(line, table["age"].mean()), abs=1e-9)


def test_cell_mean__averages_other_factors_with_equal_weight() -> None:
    table = cohort()
    y = np.random.default_rng(1).normal(size=31)
    design = design_matrix("group * sex", table)
    beta = np.linalg.lstsq(design.matrix, y, rcond=None)[0]
    cells = table.assign(y=y).groupby(["group", "sex"])["y"].mean()
    assert design.cell_mean("group", "patients") @ beta == pytest.approx(cells["patients"].mean())


@pytest.mark.parametrize(
    "factor, level, words",
    [
        ("groups", "patients", "Did you mean 'group'"),
        ("group", "patient", "Did you mean 'patients'"),
        ("age", "50", "numeric"),
    ],
)
def test_cell_mean__refuses_what_is_not_there(factor: str, level: str, words: str) -> None:
    with pytest.raises(DesignError, match=words):
        design_matrix("group + age", cohort()).cell_mean(factor, level)


def test_design_matrix__means_are_exact_sums() -> None:
    table = cohort()
    assert design_matrix("tiv", table).covariate_means["tiv"] == math.fsum(table["tiv"]) / 31
