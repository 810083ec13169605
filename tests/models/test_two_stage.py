"""Two-stage model: who enters which coefficient, and that T does not depend on units or coding of time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.time_basis import TimeBasis, build_time_basis
from voxcloud.models.two_stage import VisitPlan, participant_coefficients, visit_plan

DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
QUADRATIC = ("linear", "quadratic")
# The 24 complete visitors jitter around the planned days.
JITTER = (0.0, 1.0, -1.0, 2.0, -3.0)


def basis(orthogonalise: str | None = "quadratic", scale: float = 1.0) -> TimeBasis:
    return build_time_basis("polynomial", [d * scale for d in DAYS], QUADRATIC, orthogonalise)


def cohort(n: int = 24, without_84: Sequence[int] = (), seed: int = 0) -> tuple[list[str], list[float]]:
    rng = np.random.default_rng(seed)
    people: list[str] = []
    days: list[float] = []
    for i in range(n):
        for planned, jitter in zip(DAYS, JITTER, strict=True):
            if planned == 84 and i in without_84:
                continue
            people.append(f"{i + 1:02d}")
            days.append(planned + jitter * float(rng.integers(0, 2)))
    return people, days


def group_t(Y: np.ndarray, plan: VisitPlan, term: str) -> np.ndarray:
    values = participant_coefficients(Y, plan)[term]
    people = plan.participants_of(term)
    group = np.array([float(int(p) <= 12) for p in people])
    fit = fit_ols(values, np.column_stack([np.ones(len(people)), group]))
    return t_contrast(fit, [0, 1])[2]


def images(people: Sequence[str], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 0.1, (len(people), 50))


def test_visit_plan__without_the_last_visit_the_sd_of_linear_grows_23_fold() -> None:
    plan = visit_plan(["a"] * 5 + ["b"] * 4, [*DAYS, *DAYS[:4]], basis())
    assert plan.visits["a"].ratio == pytest.approx({"linear": 1.0, "quadratic": 1.0})
    assert np.sqrt(plan.visits["b"].ratio["linear"]) == pytest.approx(23.34, abs=0.01)
    assert plan.participants_of("linear") == ["a"]
    reason = plan.left_out_of("linear")["b"]
    assert "days 0, 7, 14, 28" in reason
    assert "545 times that of the complete design (standard deviation 23.3 times), above 4" in reason


def test_visit_plan__leverage_of_the_last_visit() -> None:
    T = basis().evaluate(DAYS)
    hat = T @ np.linalg.inv(T.T @ T) @ T.T
    assert round(hat[4, 4], 4) == 0.9987


def test_visit_plan__variance_factor_is_that_of_the_fit() -> None:
    rng = np.random.default_rng(3)
    people, days = cohort(1)
    plan = visit_plan(people, days, basis())
    noise = rng.normal(0, 2.0, (5, 200_000))
    found = participant_coefficients(noise, plan)
    for term in QUADRATIC:
        assert found[term][0].var() == pytest.approx(4.0 * plan.visits["01"].variance_factor[term], rel=0.02)


def test_visit_plan__a_participant_may_leave_one_coefficient_and_stay_in_another() -> None:
    plan = visit_plan(["a"] * 5 + ["b"] * 3, [*DAYS, 0, 7, 84], basis())
    assert plan.participants_of("linear") == ["a", "b"]
    assert plan.participants_of("quadratic") == ["a"]
    assert list(plan.left_out_of("quadratic")) == ["b"]


def test_visit_plan__too_few_visits_are_left_out_by_name() -> None:
    plan = visit_plan(["a"] * 5 + ["b"] * 2, [*DAYS, 0, 84], basis())
    assert plan.left_out == {"b": "has 2 visits (day 0, 84), needs 3"}
    assert plan.participants == ("a",)
    assert "b" in plan.left_out_of("linear")


def test_visit_plan__visits_on_too_few_different_days_determine_nothing() -> None:
    plan = visit_plan(["a"] * 5 + ["b"] * 3, [*DAYS, 0, 84, 84], basis(), accept_unequal_variance=True)
    assert "do not determine the quadratic coefficient" in plan.left_out_of("quadratic")["b"]
    assert plan.describe()[1]["ratio"]["quadratic"] is None


def test_visit_plan__an_unweighted_fit_must_be_asked_for_and_says_so() -> None:
    people, days = cohort(without_84=(2,))
    asked = visit_plan(people, days, basis(), accept_unequal_variance=True)
    assert asked.unequal
    assert "03" in asked.participants_of("linear")
    assert "fitted unweighted with all others" in " ".join(asked.sentences())
    default = visit_plan(people, days, basis())
    assert not default.unequal
    assert "left out of it, by name" in " ".join(default.sentences())


def test_visit_plan__asking_changes_nothing_when_everybody_is_complete() -> None:
    assert not visit_plan(*cohort(), basis(), accept_unequal_variance=True).unequal


def test_visit_plan__precision_keeps_everybody_and_weighs() -> None:
    people, days = cohort(without_84=(2,))
    plan = visit_plan(people, days, basis(), weights="precision")
    weights = np.array(plan.precision_weights("linear", between_to_within=2.0))
    ratio = np.array([plan.visits[p].ratio["linear"] for p in plan.participants])
    assert plan.participants_of("linear") == list(plan.participants)
    assert weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights * (2.0 + ratio), weights[0] * (2.0 + ratio[0]))
    assert not plan.unequal


def test_precision_weights__are_generalised_least_squares() -> None:
    """With the true ratio, weighted t follows t with n - p degrees of freedom; statsmodels' WLS gives the same t."""
    people, days = cohort(without_84=(2, 5, 20))
    plan = visit_plan(people, days, basis(), weights="precision")
    factor = np.array([plan.visits[p].variance_factor["linear"] for p in plan.participants])
    tau2 = 3.0 * plan.complete["linear"]
    values = np.random.default_rng(0).normal(size=(24, 4000)) * np.sqrt(tau2 + factor)[:, None]
    w = np.sqrt(plan.precision_weights("linear", 3.0))[:, None]
    X = np.column_stack([np.ones(24), np.arange(24) < 12]).astype(float)
    t = t_contrast(fit_ols(w * values, w * X), [0, 1])[2]
    reference = sm.WLS(values[:, 0], X, weights=w[:, 0] ** 2).fit()
    assert t[0] == pytest.approx(reference.tvalues[1], rel=1e-10)
    assert (np.abs(t) > 2.0739).mean() == pytest.approx(0.05, abs=0.012)


def test_describe__is_plain_and_finite() -> None:
    import json

    plan = visit_plan(["a"] * 5 + ["b"] * 4, [*DAYS, *DAYS[:4]], basis())
    told = json.loads(json.dumps(plan.describe(), allow_nan=False))
    assert [d["participant_id"] for d in told] == ["a", "b"]
    assert set(told[0]) == {"participant_id", "n_visits", "days", "variance_factor", "ratio", "left_out_of"}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"min_visits": 2}, "need at least 3 visits, found 2"),
        ({"min_visits": 6}, "nobody has 6 visits, the most that anybody has is 5. Lower min_visits"),
        ({"max_variance_ratio": 0.5}, "at least 1, the complete design"),
        ({"weights": "exact"}, "expected equal or precision"),
    ],
)
def test_visit_plan__refuses_settings(change: dict[str, object], words: str) -> None:
    people, days = cohort(3)
    with pytest.raises(DesignError, match=words):
        visit_plan(people, days, basis(), **change)  # type: ignore[arg-type]


def test_visit_plan__names_whose_day_is_missing() -> None:
    with pytest.raises(DesignError, match="participant b: time: expected a finite day"):
        visit_plan(["a"] * 3 + ["b"] * 3, [0, 7, 84, 0, float("nan"), 84], basis())


def test_first_level_weights__are_the_rows_of_the_pseudo_inverse_in_row_order() -> None:
    plan = visit_plan(["a", "b"] * 3, [0, 0, 28, 7, 84, 84], basis())
    assert plan.rows["b"] == (1, 3, 5)
    T = basis().evaluate([0, 7, 84])
    np.testing.assert_allclose(plan.first_level_weights("b", "linear"), np.linalg.solve(T.T @ T, T.T)[1], rtol=1e-9)


def test_participant_coefficients__equal_statsmodels() -> None:
    people, days = cohort(4, without_84=(1,))
    plan = visit_plan(people, days, basis(), accept_unequal_variance=True)
    Y = images(people)
    found = participant_coefficients(Y, plan)
    for i, person in enumerate(plan.participants):
        own = [r for r, p in enumerate(people) if p == person]
        fitted = sm.OLS(Y[own, 7], basis().evaluate([days[r] for r in own])).fit().params
        np.testing.assert_allclose([found[t][i, 7] for t in ("intercept", *QUADRATIC)], fitted, rtol=1e-8)


@given(st.lists(st.integers(1, 49), max_size=4))
@settings(max_examples=25, deadline=None)
def test_participant_coefficients__same_bits_for_any_cut_of_voxels(cuts: list[int]) -> None:
    people, days = cohort(6)
    plan = visit_plan(people, days, basis())
    Y = images(people).astype(np.float32)
    whole = participant_coefficients(Y, plan)
    edges = [0, *sorted(set(cuts)), 50]
    for term in whole:
        parts = [participant_coefficients(Y[:, a:b], plan)[term] for a, b in pairwise(edges)]
        np.testing.assert_array_equal(np.hstack(parts), whole[term])


def test_participant_coefficients__a_nan_stays_with_its_participant_and_voxel() -> None:
    people, days = cohort(3)
    Y = images(people)
    Y[6, 4] = np.nan
    found = participant_coefficients(Y, visit_plan(people, days, basis()))["linear"]
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 4]]


@pytest.mark.parametrize("term", QUADRATIC)
def test_two_stage__t_of_the_orthogonalised_term_is_the_plain_models(term: str) -> None:
    people, days = cohort()
    other = "linear" if term == "quadratic" else "quadratic"
    plain = visit_plan(people, days, basis(None))
    orthogonal = visit_plan(people, days, basis(term))
    Y = images(people)
    np.testing.assert_allclose(group_t(Y, orthogonal, term), group_t(Y, plain, term), rtol=0, atol=1e-6)
    # The other term has become another question.
    assert np.abs(group_t(Y, orthogonal, other) - group_t(Y, plain, other)).max() > 0.5


@pytest.mark.parametrize("term", QUADRATIC)
@pytest.mark.parametrize("per_day", [1 / 7, 1 / 365.25, 24.0])
def test_two_stage__days_weeks_years_and_hours_give_one_t(term: str, per_day: float) -> None:
    people, days = cohort()
    Y = images(people)
    in_days = group_t(Y, visit_plan(people, days, basis()), term)
    scaled = visit_plan(people, [d * per_day for d in days], basis(scale=per_day))
    np.testing.assert_allclose(group_t(Y, scaled, term), in_days, rtol=0, atol=1e-6)


def test_two_stage__recovers_planted_change() -> None:
    people, days = cohort(24)
    rng = np.random.default_rng(5)
    T = basis().evaluate(days)
    group = np.array([float(int(p) <= 12) for p in people])
    truth = {"linear": 0.4, "quadratic": -0.3}
    signal = group * (T[:, 1] * truth["linear"] + T[:, 2] * truth["quadratic"])
    Y = signal[:, None] + rng.normal(0, 0.02, (len(people), 400))
    plan = visit_plan(people, days, basis())
    X = np.column_stack([np.ones(24), [float(int(p) <= 12) for p in plan.participants]])
    for term, planted in truth.items():
        effect, se, _ = t_contrast(fit_ols(participant_coefficients(Y, plan)[term], X), [0, 1])
        assert effect.mean() == pytest.approx(planted, abs=0.01)
        # The standard error is honest: it is the spread of the effect over replications.
        assert effect.std() == pytest.approx(se.mean(), rel=0.15)


def test_two_stage__one_person_without_the_last_visit_swallows_an_effect_unless_left_out() -> None:
    people, days = cohort(24, without_84=(0, 1, 2))
    rng = np.random.default_rng(6)
    group = np.array([float(int(p) <= 12) for p in people])
    Y = (group * 0.3 * basis().evaluate(days)[:, 1])[:, None] + rng.normal(0, 0.1, (len(people), 200))
    default = group_t(Y, visit_plan(people, days, basis()), "linear")
    asked = group_t(Y, visit_plan(people, days, basis(), accept_unequal_variance=True), "linear")
    assert (default > 3.5).mean() > 0.95
    assert (asked > 3.5).mean() < 0.05


@pytest.mark.parametrize("term", QUADRATIC)
def test_two_stage__null_distribution_is_students(term: str) -> None:
    people, days = cohort(16)
    Y = np.random.default_rng(21).normal(size=(len(people), 8000))
    days = [float(DAYS[i % 5]) for i in range(len(days))]
    t = group_t(Y, visit_plan(people, days, basis()), term)
    assert stats.kstest(t, stats.t(14).cdf).pvalue > 0.01


def test_two_stage__left_out_people_do_not_change_the_null() -> None:
    people, days = cohort(20, without_84=(0, 4, 15))
    Y = np.random.default_rng(22).normal(size=(len(people), 8000))
    plan = visit_plan(people, days, basis())
    assert len(plan.participants_of("linear")) == 17
    t = group_t(Y, plan, "linear")
    assert (np.abs(t) > stats.t.isf(0.025, 15)).mean() == pytest.approx(0.05, abs=0.01)


def test_visit_plan__a_model_without_the_follow_up_is_compared_with_the_visits_it_uses() -> None:
    people, days = ["a"] * 4 + ["b"] * 3, [*DAYS[:4], 0, 7, 28]
    within = visit_plan(people, days, basis(), complete_days=DAYS[:4])
    assert within.visits["a"].ratio == pytest.approx({"linear": 1.0, "quadratic": 1.0})
    assert within.participants_of("linear") == ["a", "b"]
    assert "(days 0, 7, 14, 28)" in " ".join(within.sentences())
    against_all = visit_plan(people, days, basis())
    with pytest.raises(DesignError, match=r"coefficient linear: nobody's visits .* e.g. participant a: visits on days"):
        against_all.participants_of("linear")
    assert participant_coefficients(np.ones((7, 2)), against_all)["linear"].shape == (0, 2)


@pytest.mark.parametrize("complete_days", [(0, 84), ()])
def test_visit_plan__refuses_a_complete_design_that_determines_nothing(complete_days: tuple[float, ...]) -> None:
    people, days = cohort(2)
    with pytest.raises(DesignError, match="do not determine linear, quadratic"):
        visit_plan(people, days, basis(), complete_days=complete_days)
