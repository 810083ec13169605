"""Tests of learning curves, beside the same tests computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxcloud.behaviour.learning_curve import fit_learning_curves
from voxcloud.pipeline.learning import score_tests
from voxcloud.plan.scores import BehaviourFits

DAYS = [0.0, 3.0, 7.0, 14.0, 28.0, 84.0]
PEOPLE = [f"{k:02d}" for k in range(1, 13)]


def made(days: list[float] = DAYS, wild: str = "", **changes: object) -> BehaviourFits:
    rng = np.random.default_rng(5)
    data = {}
    for p in PEOPLE:
        alpha, delta, gamma = rng.normal(80, 4), rng.normal(40, 5), rng.uniform(0.08, 0.2)
        alpha = 400.0 if p == wild else alpha
        data[p] = (days, (alpha - delta * np.exp(-gamma * np.asarray(days)) + rng.normal(0, 0.5, len(days))).tolist())
    curves = fit_learning_curves(
        PEOPLE,
        np.array([d for d, _ in data.values()]),
        np.array([v for _, v in data.values()]),
        larger_is_better=True,
        score_range=(0.0, 100.0),
    )
    keys = {
        "retention": (28.0, 84.0),
        "groups": {"a": tuple(PEOPLE[:7]), "b": tuple(PEOPLE[7:])},
        "pairs": (("a", "b"),),
    }
    return BehaviourFits(
        {"hits": {c.participant_id: c for c in curves}},
        {"hits": data},
        {"hits": "higher"},
        {},
        digest="x",
        **(keys | changes),  # type: ignore[arg-type]
    )


def by_name(fits: BehaviourFits, days: tuple[float, ...] = ()) -> dict[str, dict]:  # type: ignore[type-arg]
    return {t["name"]: t for t in score_tests(fits, "hits", days)}


def test_score_tests__are_those_of_the_model_study() -> None:
    found = by_name(made())
    assert list(found) == [
        "hits: improvement differs from 0 (one-sample Wilcoxon)",
        *(
            name
            for p in ("alpha", "delta", "gamma")
            for name in (f"hits: {p} is normal (Shapiro-Wilk)", f"hits: {p}, a against b (rank-sum)")
        ),
        "hits: day 84 against day 28 (signed-rank)",
    ]


def test_score_tests__equal_scipy() -> None:
    fits = made()
    found = by_name(fits)
    curves = fits.curves["hits"]
    gamma = [curves[p].gamma for p in PEOPLE]
    normal = stats.shapiro(gamma)
    assert found["hits: gamma is normal (Shapiro-Wilk)"]["p"] == pytest.approx(normal.pvalue)
    ranks = stats.mannwhitneyu(gamma[:7], gamma[7:], method="exact")
    assert found["hits: gamma, a against b (rank-sum)"]["p"] == pytest.approx(ranks.pvalue)
    assert found["hits: gamma, a against b (rank-sum)"]["n"] == [7, 5]
    improved = stats.wilcoxon([curves[p].improvement for p in PEOPLE], method="exact")
    assert found["hits: improvement differs from 0 (one-sample Wilcoxon)"]["p"] == pytest.approx(improved.pvalue)
    scores = np.array([fits.data["hits"][p][1] for p in PEOPLE])
    kept = stats.wilcoxon(scores[:, 5] - scores[:, 4], method="exact")
    own = found["hits: day 84 against day 28 (signed-rank)"]
    assert own["p"] == pytest.approx(kept.pvalue)
    assert np.sign(own["statistic"]) == np.sign(np.median(scores[:, 5] - scores[:, 4]))


def test_score_tests__leave_out_unphysical_curves_by_name_but_not_their_scores() -> None:
    fits = made(wild="03")
    assert fits.curves["hits"]["03"].unphysical
    found = by_name(fits)
    normal = found["hits: alpha is normal (Shapiro-Wilk)"]
    assert normal["n"] == [11]
    assert "without sub-03" in normal["words"]
    assert found["hits: day 84 against day 28 (signed-rank)"]["n"] == [12]


def test_score_tests__keep_curves_that_are_only_uncertain() -> None:
    # Three days for three parameters: no standard errors, a flag, and still a curve.
    fits = made([0.0, 7.0, 84.0])
    assert all(c.flags and not c.unphysical for c in fits.curves["hits"].values())
    assert by_name(fits)["hits: alpha is normal (Shapiro-Wilk)"]["n"] == [12]


def test_score_tests__no_retention_unless_asked_for() -> None:
    assert not any("signed-rank" in name for name in by_name(made(retention=None)))


def test_score_tests__retention_takes_the_visit_nearest_to_a_planned_day() -> None:
    days = [0.0, 7.0, 14.0, 27.0, 86.0]
    name = "hits: day 84 against day 28 (signed-rank)"
    assert name not in by_name(made(days))
    assert by_name(made(days), (0.0, 7.0, 14.0, 28.0, 84.0))[name]["n"] == [12]


def test_score_tests__the_same_people_under_two_names_are_compared_once() -> None:
    groups = {"a": tuple(PEOPLE[:7]), "b": tuple(PEOPLE[7:]), "controls": (*PEOPLE[7:], "77")}
    found = by_name(made(groups=groups, pairs=(("a", "b"), ("a", "controls"))))
    assert sum("rank-sum" in name for name in found) == 3
