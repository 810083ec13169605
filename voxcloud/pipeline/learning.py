"""Tests of learning curves: improvement, retention, normality of the parameters, groups that the study compares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from voxcloud.errors import DesignError
from voxcloud.inference.rank_tests import RankTest, rank_sum, shapiro_wilk, wilcoxon_one_sample, wilcoxon_signed_rank
from voxcloud.plan.scores import BehaviourFits
from voxcloud.plan.selection import visits_at

FEWEST = 3
PARAMETERS = ("alpha", "delta", "gamma")
USABLE = "over participants with a usable learning curve"


def score_tests(fits: BehaviourFits, score: str, reference_days: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return the tests of one score.

    One-sample Wilcoxon of the improvement; Shapiro-Wilk of alpha, delta and gamma; rank-sum of each between groups
    that stand in one model; signed-rank of the two ``retention`` days. Curves that are unphysical and parameters beyond
    three standard deviations do not enter; a curve that is only uncertain does. A test that the values do not allow
    (fewer than three, or all equal) is left out.
    """
    tests = []
    improvement = _values(fits, score, "improvement")
    if len(improvement) >= FEWEST:
        words = USABLE + _excluded(fits, score, "improvement")
        name = f"{score}: improvement differs from 0 (one-sample Wilcoxon)"
        tests += _tried(name, words, partial(wilcoxon_one_sample, list(improvement.values())))
    for parameter in PARAMETERS:
        values = _values(fits, score, parameter)
        tests += _normality(f"{score}: {parameter}", list(values.values()), _excluded(fits, score, parameter))
        compared = []
        for first, second in fits.pairs:
            sides = [[values[p] for p in fits.groups[g] if p in values] for g in (first, second)]
            # Two names for the same people with learning data (controls, trained controls) are one question.
            if min(map(len, sides)) >= FEWEST and sides not in compared:
                compared.append(sides)
                words = f"{USABLE}; z above 0: larger in {first}"
                name = f"{score}: {parameter}, {first} against {second} (rank-sum)"
                tests += _tried(name, words, partial(rank_sum, *sides))
    return tests + _retention(fits, score, reference_days)


def _values(fits: BehaviourFits, score: str, parameter: str) -> dict[str, float]:
    """Return the parameter of everybody whose curve can be used for it, by participant."""
    found = {p: float(getattr(c, parameter)) for p, c in sorted(fits.curves[score].items())}
    return {p: v for p, v in found.items() if np.isfinite(v) and not fits.reason(score, parameter, p)}


def _excluded(fits: BehaviourFits, score: str, parameter: str) -> str:
    """Name whoever has a curve that is not used for a parameter."""
    gone = [p for p in sorted(fits.curves[score]) if fits.reason(score, parameter, p)]
    return f"; without {', '.join(f'sub-{p}' for p in gone)}" if gone else ""


def _tried(name: str, words: str, test: Callable[[], RankTest]) -> list[dict[str, Any]]:
    try:
        found = test()
    except DesignError:
        return []
    words = f"z and {'exact' if np.isfinite(found.p_exact) else 'normal'} p {words}"
    return [{"name": name, "statistic": found.z, "p": found.p, "n": list(found.n), "words": words}]


def _normality(name: str, values: list[float], excluded: str) -> list[dict[str, Any]]:
    if len(values) < FEWEST:
        return []
    try:
        found = shapiro_wilk(values)
    except DesignError:
        return []
    words = f"W and p {USABLE}{excluded}"
    return [
        {"name": f"{name} is normal (Shapiro-Wilk)", "statistic": found.w, "p": found.p, "n": [found.n], "words": words}
    ]


def _retention(fits: BehaviourFits, score: str, reference_days: tuple[float, ...]) -> list[dict[str, Any]]:
    """Compare the scores of two days within participants, as measured: no curve is needed for it."""
    if fits.retention is None:
        return []
    pairs = []
    for days, values in fits.data[score].values():
        found = [visits_at(days, day, reference_days) for day in fits.retention]
        if all(len(own) == 1 for own in found):
            pairs.append([values[own[0]] for own in found])
    if len(pairs) < FEWEST:
        return []
    early, late = np.array(pairs).T
    first, second = (f"{day:g}" for day in fits.retention)
    name = f"{score}: day {second} against day {first} (signed-rank)"
    words = f"over participants with a score on both days; z above 0: larger on day {second}"
    return _tried(name, words, partial(wilcoxon_signed_rank, late, early))
