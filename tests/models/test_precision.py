"""Pooled variances: the planted ratio of between to within variance comes back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.precision import pool_variances
from voxcloud.models.time_basis import build_time_basis
from voxcloud.models.two_stage import VisitPlan, participant_coefficients, visit_plan

DAYS = (0.0, 7.0, 14.0, 28.0, 84.0)
BASIS = build_time_basis("polynomial", DAYS, ("linear", "quadratic"), "quadratic")


def plan_of(n: int, sparse: int) -> tuple[list[str], np.ndarray, VisitPlan]:
    people = [f"{i:02d}" for i in range(n) for d in DAYS if not (d == 84 and i < sparse)]
    days = np.array([d for i in range(n) for d in DAYS if not (d == 84 and i < sparse)])
    return people, days, visit_plan(people, days.tolist(), BASIS, weights="precision")


def simulate(people: list[str], days: np.ndarray, tau: float, voxels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slope = rng.normal(0, tau, (len(set(people)), voxels))
    return np.asarray(
        BASIS.evaluate(days)[:, 1, None] * slope[[int(p) for p in people]] + rng.normal(0, 1.0, (len(people), voxels))
    )


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
def test_pool_variances__recovers_the_planted_ratio(ratio: float) -> None:
    people, days, plan = plan_of(20, sparse=3)
    Y = simulate(people, days, np.sqrt(ratio * plan.complete["linear"]), 3000, 1)
    found = pool_variances(Y, plan, "linear", np.ones((20, 1)))
    assert found.between_to_within == pytest.approx(ratio, rel=0.05, abs=0.05)


def test_pool_variances__blocks_add_up() -> None:
    people, days, plan = plan_of(20, sparse=3)
    Y = simulate(people, days, 1.0, 300, 2)
    whole = pool_variances(Y, plan, "linear", np.ones((20, 1)))
    parts = pool_variances(Y[:, :100], plan, "linear", np.ones((20, 1))) + pool_variances(
        Y[:, 100:], plan, "linear", np.ones((20, 1))
    )
    assert parts.between_to_within == pytest.approx(whole.between_to_within, rel=1e-12)


def test_pool_variances__needs_a_visit_more_than_coefficients() -> None:
    people = [f"{i:02d}" for i in range(6) for _ in range(3)]
    plan = visit_plan(people, [0, 14, 84] * 6, BASIS, weights="precision")
    with pytest.raises(DesignError, match="Use weights: equal"):
        pool_variances(np.ones((18, 2)), plan, "linear", np.ones((6, 1)))


def test_pool_variances__refuses_a_design_of_other_rows() -> None:
    _, _, plan = plan_of(5, sparse=0)
    with pytest.raises(DesignError, match="a design of 5 rows"):
        pool_variances(np.ones((25, 2)), plan, "linear", np.ones((4, 1)))


def test_pool_variances__its_weights_hold_the_false_positive_rate_where_inverse_variance_does_not() -> None:
    people, days, plan = plan_of(20, sparse=4)
    Y = simulate(people, days, np.sqrt(10 * plan.complete["linear"]), 20_000, 3)
    X = np.column_stack([np.ones(20), np.arange(20) % 2])
    values = participant_coefficients(Y, plan)["linear"]

    def rate(between_to_within: float) -> float:
        root = np.sqrt(plan.precision_weights("linear", between_to_within))[:, None]
        t = t_contrast(fit_ols(root * values, root * X), [0, 1])[2]
        return float((np.abs(t) > stats.t.isf(0.025, 18)).mean())

    assert rate(pool_variances(Y, plan, "linear", X).between_to_within) == pytest.approx(0.05, abs=0.006)
    assert rate(0.0) > 0.06
