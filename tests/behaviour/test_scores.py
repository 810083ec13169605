"""Percent correct and response time from trials with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from voxcloud.behaviour.scores import score_session, score_trials
from voxcloud.errors import TableError

CUES = np.arange(8) * 0.5
# In ms: four within 90, one at exactly 90, two outside, one without a response.
DEVIATIONS = np.array([0.0, 10.0, -20.0, 89.0, 90.0, 91.0, -150.0, np.nan])


def test_score_session__counts_responses_within_the_window() -> None:
    score = score_session("01", "02", CUES, CUES + DEVIATIONS / 1000, unit="s")
    assert (score.n_cues, score.n_responses, score.n_correct) == (8, 7, 5)
    assert score.percent_correct == 62.5
    assert score.response_time_ms == pytest.approx(np.nanmean(np.abs(DEVIATIONS)))
    assert score.bias_ms == pytest.approx(np.nanmean(DEVIATIONS))


@pytest.mark.parametrize("start", [0.0, 1.7e9])
def test_score_session__a_response_at_the_edge_counts_whatever_the_clock(start: float) -> None:
    cue = np.arange(200) * 0.317 + start
    assert score_session("01", "1", cue, cue + 0.09, unit="s").percent_correct == 100.0
    assert score_session("01", "1", cue, cue + 0.0901, unit="s").percent_correct == 0.0


def test_score_session__seconds_and_milliseconds_give_one_score() -> None:
    seconds = score_session("01", "02", CUES, CUES + DEVIATIONS / 1000, unit="s")
    milliseconds = score_session("01", "02", CUES * 1000, CUES * 1000 + DEVIATIONS, unit="ms")
    assert milliseconds.percent_correct == seconds.percent_correct
    assert milliseconds.response_time_ms == pytest.approx(seconds.response_time_ms)


def test_score_session__window_is_settable() -> None:
    wide = score_session("01", "02", CUES, CUES + DEVIATIONS / 1000, unit="s", window_ms=200.0)
    assert wide.n_correct == 7


def test_score_session__no_response_at_all() -> None:
    score = score_session("01", "02", CUES, np.full(8, np.nan), unit="s")
    assert score.percent_correct == 0.0
    assert np.isnan(score.response_time_ms)


@pytest.mark.parametrize(("factor", "unit", "other"), [(1000.0, "s", "ms"), (1.0, "ms", "s")])
def test_score_session__notices_the_wrong_unit(factor: float, unit: str, other: str) -> None:
    with pytest.raises(TableError, match=rf"sub-01_ses-02: .*say unit='{other}'"):
        score_session("01", "02", CUES * factor, CUES * factor, unit=unit)


def test_score_session__notices_two_clocks() -> None:
    with pytest.raises(TableError, match="on one clock"):
        score_session("01", "02", CUES, CUES + 1.7e9, unit="s")


@pytest.mark.parametrize(
    ("cue", "response", "unit"),
    [([], [], "s"), ([1.0, 2.0], [1.0], "s"), ([np.nan, 1.0], [1.0, 1.0], "s"), ([1.0], [1.0], "min")],
)
def test_score_session__refuses_broken_trials(cue: list[float], response: list[float], unit: str) -> None:
    with pytest.raises(TableError, match="sub-01_ses-02"):
        score_session("01", "02", cue, response, unit=unit)


@pytest.mark.parametrize("moment", ["cue", "onset"])
def test_score_trials__scores_each_session_whatever_the_order_of_rows(moment: str) -> None:
    table = pd.DataFrame(
        {
            "participant_id": ["02"] * 4 + ["01"] * 8,
            "session_id": ["1"] * 4 + ["1"] * 4 + ["2"] * 4,
            moment: list(CUES[:4]) * 3,
            "response": list(CUES[:4] + 0.05) + list(CUES[:4] + 0.2) + list(CUES[:4] - 0.01),
        }
    )
    scores = score_trials(table.sample(frac=1, random_state=3), unit="s")
    found = [(s.participant_id, s.session_id, s.percent_correct, round(s.response_time_ms, 6)) for s in scores]
    assert found == [("01", "1", 0.0, 200.0), ("01", "2", 100.0, 10.0), ("02", "1", 100.0, 50.0)]


def test_score_trials__names_the_missing_column() -> None:
    with pytest.raises(TableError, match="expected a column 'response'"):
        score_trials({"participant_id": ["01"], "session_id": ["1"], "cue": [0.0]}, unit="s")
