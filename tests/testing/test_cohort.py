"""People, visits and learning data."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from voxcloud.testing.cohort import GROUP_SIZES, MISSING_DIFFUSION, MISSING_VISITS, Cohort, make_cohort


def full() -> Cohort:
    return make_cohort(missing_visits=MISSING_VISITS, missing_diffusion=MISSING_DIFFUSION)


def test_make_cohort__has_the_groups_of_the_model_study():
    people = full().participants
    assert people["group"].value_counts().to_dict() == GROUP_SIZES
    assert people["participant_id"].is_monotonic_increasing
    assert people["group"].ne(people["group"].shift()).sum() > 10, "groups must not lie in blocks"


def test_make_cohort__leaves_out_the_visits_asked_for_and_no_others():
    cohort = full()
    visits = cohort.sessions.groupby("participant_id")["nominal_day"].agg(set)
    missing = sorted(tuple(sorted({0, 7, 14, 28, 84} - v)) for v in visits if len(v) < 5)
    assert missing == sorted(tuple(int(d) for d in days) for days in MISSING_VISITS.values())
    assert len(cohort.sessions) == 245 - sum(len(d) for d in MISSING_VISITS.values())
    assert len(cohort.without_diffusion) == len(MISSING_DIFFUSION)


def test_make_cohort__first_visit_is_day_zero_and_others_move_by_days():
    sessions = full().sessions
    first = sessions[sessions["nominal_day"] == 0]
    shift = (sessions["day"] - sessions["nominal_day"]).abs()
    assert (first["day"] == 0).all()
    assert 0 < shift.max() <= 3
    assert (make_cohort(jitter_days=False).sessions.eval("day - nominal_day") == 0).all()


def test_make_cohort__behaviour_follows_the_true_learning_curves():
    cohort = full()
    trained = set(cohort.participants.query("group != 'con_none'")["participant_id"])
    assert set(cohort.behaviour["participant_id"]) == trained
    pid = min(trained)
    rows = cohort.behaviour[cohort.behaviour["participant_id"] == pid]
    truth = cohort.learning.query("participant_id == @pid and score == 'percent_correct'").iloc[0]
    fitted, covariance = optimize.curve_fit(
        lambda day, a, d, g: a - d * np.exp(-g * day), rows["day"], rows["percent_correct"], p0=(80, 40, 0.1)
    )
    error = np.sqrt(np.diag(covariance))
    assert (np.abs(fitted - truth[["alpha", "delta", "gamma"]].to_numpy(float)) < 4 * error).all()


def test_make_cohort__improvement_is_positive_for_both_scores():
    learning = full().learning
    assert (learning["improvement"] > 0).all()
    assert (learning.query("score == 'response_time'")["delta"] < 0).all()
