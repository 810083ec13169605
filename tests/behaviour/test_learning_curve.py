"""Learning curves against scipy's curve_fit, exact curves, and fits that must be flagged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from voxcloud.behaviour.learning_curve import (
    DELTA_SIGN_CONTRARY,
    FLAT,
    GAMMA_AT_BOUND,
    GAMMA_NOT_POSITIVE,
    PLATEAU_NOT_REACHED,
    PLATEAU_OUTSIDE_RANGE,
    TOO_FEW,
    LearningCurve,
    find_outliers,
    fit_learning_curves,
)
from voxcloud.errors import DesignError, TableError

DAYS = np.array([0.0, 7.0, 14.0, 28.0, 84.0])
MANY_DAYS = np.linspace(0.0, 60.0, 25)


def _model(t: np.ndarray, alpha: float, delta: float, gamma: float) -> np.ndarray:
    return np.asarray(alpha - delta * np.exp(-gamma * t))


def _one(scores: np.ndarray, days: np.ndarray = DAYS, *, better: bool = True, top: float = 100.0) -> LearningCurve:
    return fit_learning_curves(["01"], days, scores[None], larger_is_better=better, score_range=(0.0, top))[0]


@pytest.mark.parametrize(("alpha", "delta", "gamma"), [(85, 40, 0.12), (92, 25, 0.05), (70, 60, 0.4)])
def test_fit_learning_curves__returns_the_parameters_of_exact_curves(alpha: float, delta: float, gamma: float) -> None:
    curve = _one(_model(DAYS, alpha, delta, gamma))
    assert (curve.alpha, curve.delta, curve.gamma) == pytest.approx((alpha, delta, gamma), rel=1e-6)
    assert curve.days_to_95 == pytest.approx(3 / gamma, rel=1e-6)
    assert curve.predict(DAYS) == pytest.approx(_model(DAYS, alpha, delta, gamma), rel=1e-7)
    assert curve.flags == ()


def test_days_to_95__is_when_95_percent_of_the_change_is_done() -> None:
    curve = _one(_model(DAYS, 85.0, 40.0, 0.12))
    done = (curve.predict(curve.days_to_95) - curve.predict(0.0)) / curve.improvement
    assert float(done) == pytest.approx(0.95, abs=0.0003)


@pytest.mark.parametrize("seed", range(8))
def test_fit_learning_curves__equals_curve_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.uniform(70, 95), rng.uniform(20, 50), rng.uniform(0.05, 0.3))
    scores = _model(MANY_DAYS, *truth) + rng.normal(0, 2, MANY_DAYS.size)
    expected, covariance = curve_fit(_model, MANY_DAYS, scores, p0=truth, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    curve = _one(scores, MANY_DAYS)
    assert (curve.alpha, curve.delta, curve.gamma) == pytest.approx(tuple(expected), rel=2e-6)
    assert (curve.alpha_se, curve.delta_se, curve.gamma_se) == pytest.approx(
        tuple(np.sqrt(np.diag(covariance))), rel=1e-4
    )
    residual = scores - _model(MANY_DAYS, *expected)
    assert curve.residual_sd == pytest.approx(np.sqrt((residual**2).sum() / (MANY_DAYS.size - 3)), rel=1e-9)


def test_fit_learning_curves__finds_the_best_of_several_starts() -> None:
    """No start of a general optimiser reaches a smaller sum of squares than the search over gamma."""
    rng = np.random.default_rng(42)
    for _ in range(10):
        scores = rng.uniform(40, 90, DAYS.size)
        curve = _one(scores)
        ours = ((scores - curve.predict(DAYS)) ** 2).sum()
        low, high = -3.0 / 84.0, 1.0
        for start in np.geomspace(0.005, 0.9, 12):
            basis = np.column_stack([np.ones_like(DAYS), -np.exp(-start * DAYS)])
            a, d = np.linalg.lstsq(basis, scores, rcond=None)[0]
            bounds = ([-np.inf, -np.inf, low], [np.inf, np.inf, high])
            fitted, _ = curve_fit(_model, DAYS, scores, p0=(a, d, start), bounds=bounds, max_nfev=5000)
            assert ours <= ((scores - _model(DAYS, *fitted)) ** 2).sum() * (1 + 1e-6)


def test_fit_learning_curves__errors_shrink_as_they_should() -> None:
    """The standard error of gamma equals the spread over repeated experiments."""
    rng = np.random.default_rng(1)
    scores = _model(MANY_DAYS, 85, 40, 0.12) + rng.normal(0, 1.0, (400, MANY_DAYS.size))
    names = [f"{i:03d}" for i in range(400)]
    curves = fit_learning_curves(names, MANY_DAYS, scores, larger_is_better=True, score_range=(0, 100))
    spread = np.std([curve.gamma for curve in curves], ddof=1)
    assert np.mean([curve.gamma_se for curve in curves]) == pytest.approx(spread, rel=0.12)


def test_improvement__is_positive_for_learning_whichever_way_the_score_runs() -> None:
    percent = _one(_model(DAYS, 85, 40, 0.12), better=True)
    time = _one(_model(DAYS, 30, -50, 0.12), better=False, top=np.inf)
    assert percent.delta == pytest.approx(40, rel=1e-6)
    assert percent.improvement == percent.delta
    assert time.delta == pytest.approx(-50, rel=1e-6)
    assert time.improvement == -time.delta
    assert not percent.unphysical
    assert not time.unphysical


def test_fit_learning_curves__missing_days_are_left_out() -> None:
    scores = _model(DAYS, 85, 40, 0.12)
    holed = np.where(DAYS == 14, np.nan, scores)
    pair = fit_learning_curves(
        ["01", "02"], DAYS, np.stack([scores, holed]), larger_is_better=True, score_range=(0, 100)
    )
    assert pair[1].gamma == pytest.approx(0.12, rel=1e-6)
    assert (pair[0].n, pair[1].n) == (5, 4)
    kept = DAYS != 14
    assert pair[1].alpha == pytest.approx(_one(scores[kept], DAYS[kept]).alpha, rel=1e-9)


def test_fit_learning_curves__a_participant_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(2)
    scores = _model(DAYS, 85, 40, 0.12) + rng.normal(0, 3, (6, 5))
    names = [str(i) for i in range(6)]
    together = fit_learning_curves(names, DAYS, scores, larger_is_better=True, score_range=(0, 100))
    alone = [_one(row) for row in scores]
    assert [c.gamma for c in together] == [c.gamma for c in alone]


@pytest.mark.parametrize(
    ("scores", "better", "flag"),
    [
        (_model(DAYS, 20, -10, -0.02), True, GAMMA_NOT_POSITIVE),
        (np.array([40.0, 80.0, 80.0, 80.0, 80.0]), True, GAMMA_AT_BOUND),
        (_model(DAYS, 130, 90, 0.01), True, PLATEAU_OUTSIDE_RANGE),
        (_model(DAYS, 40, -40, 0.12), True, DELTA_SIGN_CONTRARY),
        (_model(DAYS, 85, 40, 0.12), False, DELTA_SIGN_CONTRARY),
        (np.full(5, 70.0), True, FLAT),
    ],
)
def test_fit_learning_curves__flags_what_is_not_learning(scores: np.ndarray, better: bool, flag: str) -> None:
    curve = _one(scores, better=better)
    assert flag in curve.flags
    assert curve.unphysical


def test_fit_learning_curves__says_when_the_plateau_is_extrapolated() -> None:
    curve = _one(_model(DAYS, 90, 60, 0.02))
    assert curve.flags == (PLATEAU_NOT_REACHED,)
    assert not curve.unphysical


def test_fit_learning_curves__three_days_give_no_errors() -> None:
    curve = _one(_model(DAYS[:3], 85, 40, 0.3), DAYS[:3])
    assert TOO_FEW in curve.flags
    assert np.isnan(curve.gamma_se)
    assert curve.gamma == pytest.approx(0.3, rel=1e-6)


def test_fit_learning_curves__a_straight_line_has_no_finite_plateau_in_range() -> None:
    curve = _one(30.0 + 0.5 * DAYS)
    assert curve.unphysical


def test_fit_learning_curves__names_the_participant_with_too_few_days() -> None:
    scores = np.array([[1.0, 2, 3, 4, 5], [1.0, np.nan, np.nan, np.nan, 5]])
    with pytest.raises(TableError, match=r"participant 02: .* at least 3 days, found 2"):
        fit_learning_curves(["01", "02"], DAYS, scores, larger_is_better=True, score_range=(0, 100))


@pytest.mark.parametrize("shape", [(1, 4), (2, 5)])
def test_fit_learning_curves__refuses_other_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(TableError, match="learning curves: expected"):
        fit_learning_curves(["01"], DAYS, np.ones(shape), larger_is_better=True, score_range=(0, 100))


def test_find_outliers__names_who_lies_beyond_three_sd() -> None:
    values = np.append(np.linspace(-1, 1, 16), 30.0)
    names = [f"{i:02d}" for i in range(17)]
    found = find_outliers(names, values, "gamma")
    assert [exclusion.participant_id for exclusion in found] == ["16"]
    assert found[0].distance_sd == pytest.approx((30 - values.mean()) / values.std(ddof=1))
    assert "gamma = 30 lies 3." in found[0].reason


def test_find_outliers__nobody_can_lie_beyond_three_sd_among_ten() -> None:
    assert find_outliers([str(i) for i in range(10)], np.append(np.zeros(9), 1e9), "delta") == ()


def test_find_outliers__leaves_missing_values_alone() -> None:
    assert find_outliers(["1", "2", "3"], [np.nan, 1.0, 1.0], "delta") == ()
    with pytest.raises(DesignError):
        find_outliers(["1"], [1.0, 2.0], "delta")
