"""Group comparisons of cluster means: those of scipy and of the JZS integral, and none where none is meant."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from voxcloud.pipeline.after_clusters import compare_groups

TEST = "group[patients] - group[untrained]"


def people(seed: int = 0) -> tuple[dict[str, float], dict[str, str]]:
    rng = np.random.default_rng(seed)
    values = {f"{i:02d}": float(rng.normal(0.4 * (i < 17), 1 + (i < 17))) for i in range(35)}
    return values, {p: "patients" if int(p) < 17 else "untrained" for p in values}


def test_compare_groups__is_welch_and_the_jzs_factor_of_the_equal_variance_t() -> None:
    values, groups = people()
    found = compare_groups(TEST, values, groups)
    assert found is not None
    first, second = (np.array([v for p, v in values.items() if groups[p] == g]) for g in ("patients", "untrained"))
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert (found["t"], found["df"], found["p"]) == pytest.approx((welch.statistic, welch.df, welch.pvalue))
    assert found["n"] == [17, 18]
    t, df, n = stats.ttest_ind(first, second).statistic, 33, 17 * 18 / 35

    def alternative(g: float) -> float:
        spread = 1 + n * g * 0.707**2
        likelihood = spread**-0.5 * (1 + t**2 / (spread * df)) ** (-(df + 1) / 2)
        return float(likelihood * (2 * np.pi) ** -0.5 * g**-1.5 * np.exp(-1 / (2 * g)))

    bf01 = (1 + t**2 / df) ** (-(df + 1) / 2) / integrate.quad(alternative, 0, np.inf)[0]
    assert found["bf01"] == pytest.approx(bf01, rel=1e-6)
    assert found["bf01_max"] == pytest.approx(3.08, abs=0.005)  # 17 against 18 people


def test_compare_groups__of_one_group_is_the_one_sample_test() -> None:
    values, _ = people()
    found = compare_groups("intercept", values, dict.fromkeys(values, ""))
    expected = stats.ttest_1samp(list(values.values()), 0.0)
    assert found is not None
    assert (found["t"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert found["n"] == [35]


@pytest.mark.parametrize(
    "test", ["age", "0.5 * group[patients] - group[untrained]", ["group[patients] - group[untrained]"], "intercept"]
)
def test_compare_groups__of_another_contrast_is_none(test: str | list[str]) -> None:
    assert compare_groups(test, *people()) is None


def test_compare_groups__too_few_people_or_no_spread_is_none() -> None:
    values, groups = people()
    few = {p: g if g == "untrained" or int(p) < 2 else "" for p, g in groups.items()}
    assert compare_groups(TEST, values, few) is None
    assert compare_groups(TEST, dict.fromkeys(values, 1.0), groups) is None
