"""Contrasts in names: the same numbers whatever the coding, refused where nothing can be estimated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from voxcloud.errors import ContrastError
from voxcloud.models.contrasts import contrast_matrix
from voxcloud.models.formula import Design, design_matrix
from voxcloud.models.ols import f_contrast, fit_ols, t_contrast


def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    n = 36
    return pd.DataFrame(
        {
            "participant_id": [f"{i:02d}" for i in range(n)],
            "group": np.repeat(["a", "b", "sci-arm"], 12),
            "sex": np.where(rng.random(n) < 0.4, "f", "m"),
            "age": rng.normal(50, 10, n),
            "score": rng.normal(0, 1, n),
        }
    )


def estimate(design: Design, test: str, y: np.ndarray) -> float:
    contrast = contrast_matrix(test, design)
    assert contrast.kind == "t"
    return float(t_contrast(fit_ols(y[:, None], design.matrix), contrast.weights[0])[0][0])


@pytest.fixture(scope="module")
def y() -> np.ndarray:
    table = cohort()
    noise = np.random.default_rng(8).normal(size=36)
    return np.asarray(noise + 0.2 * table["age"] * (table["group"] == "b") + 2.0 * (table["group"] == "a"))


@pytest.mark.parametrize("formula", ["group", "0 + group", "C(group)", "group - 1"])
def test_contrast_matrix__is_the_difference_of_group_means_in_any_coding(formula: str, y: np.ndarray) -> None:
    means = pd.Series(y).groupby(cohort()["group"]).mean()
    design = design_matrix(formula, cohort())
    assert estimate(design, "group[b] - group[a]", y) == pytest.approx(means["b"] - means["a"])
    expected = 0.5 * means["a"] + 0.5 * means["b"] - means["sci-arm"]
    assert estimate(design, "0.5*group[a] + 0.5*group[b] - group[sci-arm]", y) == pytest.approx(expected)
    assert estimate(design, "(group[a] + group['b'])/2 - group[sci-arm]", y) == pytest.approx(expected)
    assert estimate(design, "-(group[sci-arm] - group[a])", y) == pytest.approx(means["a"] - means["sci-arm"])


def test_contrast_matrix__with_interaction_compares_at_the_centre_of_covariates(y: np.ndarray) -> None:
    table = cohort()
    design = design_matrix("group * age", table)

    def at_centre(level: str) -> float:
        own = (table["group"] == level).to_numpy()
        return float(np.polyval(np.polyfit(table["age"][own], y[own], 1), table["age"].mean()))

    assert estimate(design, "group[b] - group[a]", y) == pytest.approx(at_centre("b") - at_centre("a"))


def test_contrast_matrix__interaction_compares_slopes(y: np.ndarray) -> None:
    table = cohort()

    def slope(level: str) -> float:
        own = (table["group"] == level).to_numpy()
        return float(np.polyfit(table["age"][own], y[own], 1)[0])

    design = design_matrix("group * age", table)
    assert estimate(design, "group[b]:age - group[a]:age", y) == pytest.approx(slope("b") - slope("a"))
    assert estimate(design, "2*age:group[a]", y) == pytest.approx(2 * slope("a"))
    # Not the column `age`, which is the slope of the reference group alone.
    mean_slope = np.mean([slope(g) for g in ("a", "b", "sci-arm")])
    assert estimate(design, "age", y) == pytest.approx(mean_slope)


def test_contrast_matrix__covariate_slope_is_in_its_own_unit(y: np.ndarray) -> None:
    plain = estimate(design_matrix("group + age", cohort()), "age", y)
    assert estimate(design_matrix("group + scale(age)", cohort()), "age", y) == pytest.approx(plain)


def test_contrast_matrix__intercept_is_the_mean(y: np.ndarray) -> None:
    assert estimate(design_matrix("1", cohort()), "intercept", y) == pytest.approx(y.mean())
    assert estimate(design_matrix("age", cohort()), "intercept", y) == pytest.approx(y.mean())
    means = pd.Series(y).groupby(cohort()["group"]).mean()
    for formula in ("group", "0 + group"):
        assert estimate(design_matrix(formula, cohort()), "intercept", y) == pytest.approx(means.mean())


def test_contrast_matrix__cell_of_two_factors(y: np.ndarray) -> None:
    table = cohort()
    cells = table.assign(y=y).groupby(["group", "sex"])["y"].mean()
    design = design_matrix("group * sex", table)
    assert estimate(design, "group[a]:sex[f] - group[a]:sex[m]", y) == pytest.approx(cells["a", "f"] - cells["a", "m"])


def test_contrast_matrix__a_list_is_an_f_test_that_does_not_depend_on_its_wording(y: np.ndarray) -> None:
    design = design_matrix("group + age", cohort())
    one = contrast_matrix(["group[a] - group[b]", "group[b] - group[sci-arm]"], design)
    other = contrast_matrix(["group[a] - group[sci-arm]", "group[b] - group[a]", "group[b] - group[sci-arm]"], design)
    assert one.kind == other.kind == "F"
    assert one.rank == other.rank == 2
    fit = fit_ols(y[:, None], design.matrix)
    assert f_contrast(fit, one.weights)[0] == pytest.approx(f_contrast(fit, other.weights)[0], rel=1e-10)


def test_contrast_matrix__weights_are_exact_zeros_and_ones() -> None:
    weights = contrast_matrix("group[b] - group[a]", design_matrix("group + age + sex", cohort())).weights
    np.testing.assert_array_equal(weights, [[0, 1, 0, 0, 0]])


@pytest.mark.parametrize(
    "test, words",
    [
        ("group[c] - group[a]", "'group' has no level 'c' among the rows fitted"),
        ("groups[a] - group[b]", "Did you mean 'group'"),
        ("ages", "Did you mean 'age'"),
        ("group", r"'group' is a factor; name its levels, e.g. group\[sci-arm\] - group\[a\]"),
        ("group[a] - group[a]", "it asks nothing"),
        ("group[a] - 1", "stands alone"),
        ("group[a] * age", "an interaction is written with a colon"),
        ("group[a]:group[b]", "cannot be at two levels"),
        ("age:age", "stands twice"),
        ("1 -1 0", "cannot be read"),
        ("1, -1, 0", "cannot be read"),
        ("0", "it asks nothing"),
        ("group[a] / age", "cannot be read"),
        ("age ** 2", "cannot be read"),
        ("age / 0", "cannot be read"),
        ("1e999 * age", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
        ("(lambda: age)()", "cannot be read"),
        ("age.real", "cannot be read"),
        ("True * age", "cannot be read"),
        ("age if age else age", "cannot be read"),
        ("", "cannot be read"),
        ("-" * 900 + "age", "cannot be read"),
        ("age + " * 300 + "age", "at most 1000 characters"),
        ([1, -1, 0], "weights by position are refused"),
        ([[1, -1, 0]], "weights by position are refused"),
        ([], "empty list"),
        (["age", "ages"], "Did you mean 'age'"),
    ],
)
def test_contrast_matrix__refuses(test, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContrastError, match=words):
        contrast_matrix(test, design_matrix("group + age", cohort()))


def test_contrast_matrix__intercept_needs_one() -> None:
    with pytest.raises(ContrastError, match=r"`0 \+ age` has no intercept"):
        contrast_matrix("intercept", design_matrix("0 + age", cohort()))


def test_contrast_matrix__inestimable_is_refused_by_name_and_the_rest_stays() -> None:
    table = cohort()
    table["months"] = table["age"] * 12
    design = design_matrix("group + age + months", table)
    with pytest.raises(
        ContrastError, match=r"`age` cannot be estimated: .* 5 columns and rank 4, .* tell age, months apart"
    ):
        contrast_matrix("age", design)
    assert contrast_matrix("group[a] - group[b]", design).weights.shape == (1, 5)


def test_contrast_matrix__empty_cell_cannot_be_estimated() -> None:
    table = cohort()
    table["sex"] = np.where(table["group"] == "a", "f", table["sex"])
    design = design_matrix("group * sex", table)
    with pytest.raises(ContrastError, match="cannot be estimated"):
        contrast_matrix("group[a]:sex[m]", design)
    assert contrast_matrix("group[b]:sex[m] - group[b]:sex[f]", design).kind == "t"


def test_contrast_matrix__covariate_that_another_repeats_cannot_be_estimated() -> None:
    design = design_matrix("group + age + months", cohort().assign(months=lambda t: 12 * t["age"]))
    with pytest.raises(ContrastError, match="`months` cannot be estimated"):
        contrast_matrix("months", design)


def test_contrast_matrix__estimability_does_not_depend_on_units() -> None:
    table = cohort()
    for unit in (1e-6, 1.0, 1e6):
        design = design_matrix("group + age", table.assign(age=table["age"] * unit))
        assert contrast_matrix("age", design).weights[0, -1] == 1.0
