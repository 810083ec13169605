"""Null cohorts through the whole two-stage path: the same clusters and p as a second code, and no more than the bound.

All 1,000 cohorts per condition: python validation/false_positives.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

NAMES = ("standard", "few-df", "rough", "ribbon", "unequal", "missing")
UNLIKELY = 1e-4  # a correct code fails the bound once in so many runs


@pytest.fixture(scope="module")
def script(validation_script: Callable[[str], ModuleType]) -> ModuleType:
    return validation_script("false_positives")


def condition_of(script: ModuleType, name: str):  # type: ignore[no-untyped-def]
    return next(c for c in script.CONDITIONS if c.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_random_field_search__equals_the_second_code_on_null_cohorts(script: ModuleType, name: str) -> None:
    rate = script.run(condition_of(script, name), cohorts=4, seed=2)
    assert rate.different_clusters == 0
    assert rate.largest_difference < script.SAME_P


@pytest.mark.parametrize("name, df", [("standard", 27.0), ("few-df", 12.0), ("unequal", 27.0), ("missing", 23.0)])
def test_draw__has_the_degrees_of_freedom_of_its_condition(script: ModuleType, name: str, df: float) -> None:
    condition = condition_of(script, name)
    mask, _ = script.volumes()
    cohort = script.draw(condition, script.Fields(condition.fwhm), mask, np.random.default_rng(0))
    plan = script.visit_plan(cohort.people, cohort.days, script.BASIS)
    assert len(plan.participants_of("linear")) - len(script.CONTRAST) == df
    assert len(plan.left_out_of("linear")) == condition.missing


def test_draw__people_differ_in_slope_as_much_as_noise_makes_estimates_differ(script: ModuleType) -> None:
    mask, _ = script.volumes()
    condition = condition_of(script, "unequal")
    cohort = script.draw(condition, script.Fields(3.0), mask, np.random.default_rng(1))
    plan = script.visit_plan(cohort.people, cohort.days, script.BASIS)
    y = script.participant_coefficients(cohort.images, plan)["linear"]
    noise = plan.complete["linear"]
    assert y[:17].var(axis=0, ddof=1).mean() == pytest.approx(2 * noise, rel=0.15)
    assert y[17:].var(axis=0, ddof=1).mean() == pytest.approx(2 * 4 * noise, rel=0.15)


def test_fields__have_unit_variance_and_the_smoothness_asked_for(script: ModuleType) -> None:
    everywhere = np.ones(script.SHAPE, dtype=bool)
    volumes = script.Fields(4.0).sample(np.random.default_rng(2), 200, everywhere).reshape(-1, *script.SHAPE)
    assert volumes.var() == pytest.approx(1.0, rel=0.02)
    for axis in (1, 2, 3):
        step = np.roll(volumes, 1, axis) - volumes
        # Correlation of neighbours is exp(-2 ln 2 / FWHM^2).
        assert (step**2).mean() == pytest.approx(2 - 2 * np.exp(-2 * np.log(2) / 16), rel=0.05)


def test_difference__sees_another_cluster_and_another_p(script: ModuleType) -> None:
    one = script.papers.Found((5, 2), (0.1, 0.5), np.ones(3), np.ones(4))
    assert script.difference(one, one) == 0
    assert script.difference(one, replace(one, p_fwe=(0.1, 0.5005))) == pytest.approx(1e-3, rel=0.01)
    assert script.difference(one, replace(one, sizes=(5, 3))) == np.inf
    assert script.difference(one, replace(one, sizes=(5,), p_fwe=(0.1,))) == np.inf


def test_main__prints_and_writes_the_rates(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rates.json"
    assert script.main(["--cohorts", "2", "--conditions", "few-df", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["cohorts"] == 2
    assert row["ci"][0] <= row["rate"] <= row["ci"][1]
    assert "few-df" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected standard"):
        script.main(["--conditions", "none"])


def test_main__fails_when_a_p_value_differs(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = script.by_voxcloud

    def wrong(*arguments):  # type: ignore[no-untyped-def]
        found = genuine(*arguments)
        return replace(found, p_fwe=tuple(p * 1.0001 for p in found.p_fwe))

    monkeypatch.setattr(script, "by_voxcloud", wrong)
    assert script.main(["--cohorts", "2", "--conditions", "standard"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)  # about 40 s of CPU in all, on a machine that may be busy
@pytest.mark.parametrize("name, cohorts", [("standard", 120), ("few-df", 80), ("unequal", 40), ("missing", 40)])
def test_random_field_search__false_positives_stay_under_the_bound(script: ModuleType, name: str, cohorts: int) -> None:
    rate = script.run(condition_of(script, name), cohorts=cohorts, seed=7)
    assert rate.different_clusters == 0
    assert rate.largest_difference < script.SAME_P
    assert rate.positive <= stats.binom.isf(UNLIKELY, cohorts, script.BOUND)
