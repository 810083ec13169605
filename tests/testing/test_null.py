"""Null cohorts."""

from __future__ import annotations

import numpy as np
from scipy import stats

from voxcloud.testing import null_cohort


def test_null_cohort__rows_are_the_visits_that_took_place():
    cohort = null_cohort(0, shape=(4, 4, 4), missing={("patients", 2): (84.0, 7.0)})
    assert cohort.values.shape == (31 * 5 - 2, 64)
    assert list(cohort.days[5:8]) == [0.0, 14.0, 28.0]
    assert len(cohort.participant_ids) == len(cohort.days) == len(cohort.values)


def test_null_cohort__other_rows_do_not_change_when_a_visit_is_missing():
    whole = null_cohort(3, shape=(4, 4, 4))
    part = null_cohort(3, shape=(4, 4, 4), missing={("patients", 1): (7.0,)})
    assert np.array_equal(np.delete(whole.values, 1, axis=0), part.values)


def test_null_cohort__group_difference_follows_the_t_distribution():
    cohort = null_cohort(1, shape=(12, 12, 12), fwhm_voxels=0.0)
    first = cohort.values[::5]
    patients = np.array([cohort.groups[p] == "patients" for p in cohort.participant_ids[::5]])
    t = stats.ttest_ind(first[patients], first[~patients]).statistic
    assert stats.kstest(t, stats.t(29).cdf).pvalue > 0.001


def test_null_cohort__group_sd_scales_one_group():
    cohort = null_cohort(1, shape=(8, 8, 8), group_sd={"patients": 3.0})
    patients = np.array([cohort.groups[p] == "patients" for p in cohort.participant_ids])
    assert np.isclose(cohort.values[patients].std() / cohort.values[~patients].std(), 3.0, rtol=0.1)


def test_null_cohort__mask_selects_voxels_in_c_order():
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[2:4, 1:5, 3] = True
    whole, part = null_cohort(2, shape=(6, 6, 6)), null_cohort(2, mask=mask)
    assert np.array_equal(whole.values[:, mask.ravel()], part.values)
