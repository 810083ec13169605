"""A published table, recomputed from its own means and standard deviations.

A printed figure follows from its inputs if it lies, as rounded, within what inputs that print like those can give.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from voxcloud.inference.bayes import bayes_factor, jzs_bf01
from voxcloud.inference.t_tests import two_sample_from_summary

TABLE = Path(__file__).resolve().parent.parent / "reference" / "paper_table2.csv"
with TABLE.open() as handle:
    ROWS = [row for row in csv.DictReader(handle) if row["p_printed"]]
KEYS = [f"{i + 1} {row['map']} {row['roi']}" for i, row in enumerate(ROWS)]
# Coefficients over the whole study, and the groups at day 84.
PARTS = {"": ("p_printed", "bf01_printed"), "d84_": ("d84_p_printed", "d84_bf01_printed")}


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _reachable(row: dict[str, str], prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Welch p and Student BF01 over a lattice of unrounded inputs that print like the row."""
    names = [prefix + name for name in ("sci_mean", "hc_mean", "sci_sd", "hc_sd")]
    # Trailing zeros were lost in the file: the longest of a row says how many digits were printed.
    half = 0.5 * 10.0 ** -max(_decimals(row[name]) for name in names)
    n = (int(row["n_sci"]), int(row["n_hc"]))
    ps, factors = [], []
    for shift in itertools.product((-1.0, 0.0, 1.0), repeat=4):
        m1, m2, s1, s2 = (float(row[name]) + half * step for name, step in zip(names, shift, strict=True))
        s1, s2 = max(s1, 0.0), max(s2, 0.0)
        ps.append(two_sample_from_summary((m1, m2), (s1, s2), n).p)
        factors.append(bayes_factor(two_sample_from_summary((m1, m2), (s1, s2), n, equal_var=True)).bf01)
    return np.array(ps), np.array(factors)


def _follows(reachable: np.ndarray, printed: str) -> bool:
    half = 0.5 * 10.0**-3 * (1 + 1e-9)
    return bool(reachable.min() - half <= float(printed) <= reachable.max() + half)


@pytest.mark.parametrize("prefix", PARTS, ids=["coefficients", "day84"])
@pytest.mark.parametrize("row", ROWS, ids=KEYS)
def test_paper_table2__what_follows_follows_and_what_does_not_does_not(row: dict[str, str], prefix: str) -> None:
    p, factor = _reachable(row, prefix)
    p_name, factor_name = PARTS[prefix]
    assert _follows(p, row[p_name]) is (row[prefix + "p_follows"] == "True")
    assert _follows(factor, row[factor_name]) is (row[prefix + "bf01_follows"] == "True")


def test_paper_table2__counts_of_rows_that_follow() -> None:
    counts = {
        name: sum(row[name] == "True" for row in ROWS)
        for name in ("p_follows", "bf01_follows", "d84_p_follows", "d84_bf01_follows")
    }
    assert len(ROWS) == 16
    assert counts == {"p_follows": 16, "bf01_follows": 15, "d84_p_follows": 9, "d84_bf01_follows": 8}


@pytest.mark.parametrize("row", ROWS, ids=KEYS)
def test_paper_table2__recomputed_columns(row: dict[str, str]) -> None:
    means, sds = (float(row["sci_mean"]), float(row["hc_mean"])), (float(row["sci_sd"]), float(row["hc_sd"]))
    assert two_sample_from_summary(means, sds, (17, 18)).p == pytest.approx(
        float(row["welch_p_recomputed"]), abs=0.51e-4
    )
    student = two_sample_from_summary(means, sds, (17, 18), equal_var=True)
    assert bayes_factor(student).bf01 == pytest.approx(float(row["bf01_student_recomputed"]), abs=0.51e-4)


@pytest.mark.parametrize("row", ROWS, ids=KEYS)
def test_paper_table2__paired_bf01_follows_from_p(row: dict[str, str]) -> None:
    n, p = int(float(row["paired_n"])), float(row["paired_p_printed"])
    t = stats.t.isf(np.array([p - 0.0005, p + 0.0005]) / 2.0, n - 1)
    low, high = jzs_bf01(t, n)
    assert low - 0.0005 <= float(row["paired_bf01_printed"]) <= high + 0.0005


def test_paper_table2__student_p_would_not_give_the_printed_p() -> None:
    missed = 0
    for row in ROWS:
        means, sds = (float(row["sci_mean"]), float(row["hc_mean"])), (float(row["sci_sd"]), float(row["hc_sd"]))
        student = two_sample_from_summary(means, sds, (17, 18), equal_var=True)
        missed += abs(student.p - float(row["p_printed"])) > 0.002
    assert missed >= 14


def test_paper_table2__scale_is_707_thousandths_and_not_half_the_root_of_two() -> None:
    """Three decimals of the printed BF01 tell the two scales apart."""
    wrong = 0
    for row in ROWS:
        if row["bf01_follows"] != "True":
            continue
        means, sds = (float(row["sci_mean"]), float(row["hc_mean"])), (float(row["sci_sd"]), float(row["hc_sd"]))
        student = two_sample_from_summary(means, sds, (17, 18), equal_var=True)
        wrong += abs(bayes_factor(student, scale=2**-0.5).bf01 - float(row["bf01_printed"])) > abs(
            bayes_factor(student).bf01 - float(row["bf01_printed"])
        )
    assert wrong >= 10
