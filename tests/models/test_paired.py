"""Pairs by name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from voxcloud.errors import DesignError
from voxcloud.models.ols import fit_ols, t_contrast
from voxcloud.models.paired import find_pairs, paired_differences, repeated_rows_refused

PEOPLE = ["01", "01", "02", "03", "03", "04"]
SESSIONS = ["day28", "day84", "day28", "day84", "day28", "baseline"]


def test_find_pairs__by_name_not_by_order() -> None:
    pairs = find_pairs(PEOPLE, SESSIONS, "day28", "day84")
    assert pairs.participant_ids == ("01", "03")
    assert pairs.rows == ((0, 1), (4, 3))
    assert pairs.left_out == {"02": "has no 'day84', so no pair", "04": "has neither 'day28' nor 'day84'"}


def test_paired_differences__one_sample_t_of_them_is_the_paired_t() -> None:
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(20, 3)).astype(np.float32)
    rows = [(i, i + 10) for i in range(10)]
    differences = paired_differences(Y, rows)
    assert differences.dtype == np.float64
    t = t_contrast(fit_ols(differences, np.ones((10, 1))), [1])[2]
    np.testing.assert_allclose(t, stats.ttest_rel(Y[10:].astype(float), Y[:10].astype(float)).statistic, rtol=1e-9)


@pytest.mark.parametrize("rows", [[(0, 1), (1, 2)], [(0, 0)], [(0, 9)], [(-1, 0)]])
def test_paired_differences__refuses_rows(rows: list[tuple[int, int]]) -> None:
    with pytest.raises(DesignError, match="paired"):
        paired_differences(np.ones((4, 2)), rows)


def test_find_pairs__refuses_a_condition_twice() -> None:
    with pytest.raises(DesignError, match="participant 01 has 'a' twice"):
        find_pairs(["01", "01", "01"], ["a", "a", "b"], "a", "b")


def test_find_pairs__refuses_an_unknown_condition_and_an_empty_result() -> None:
    with pytest.raises(DesignError, match="Did you mean 'day28'"):
        find_pairs(PEOPLE, SESSIONS, "day29", "day84")
    with pytest.raises(DesignError, match="nobody has both"):
        find_pairs(["01", "02"], ["a", "b"], "a", "b")


def test_repeated_rows_refused__names_them() -> None:
    repeated_rows_refused(["01", "02", "03"])
    with pytest.raises(DesignError, match="participant 03 has 5 rows"):
        repeated_rows_refused(["01", *["03"] * 5, "02"])
