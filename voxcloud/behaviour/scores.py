"""Scores of a rhythm task: percent correct and response time, from tables of cues and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxcloud.errors import TableError

Floats = NDArray[np.float64]

# Cues of a rhythm task follow one another within a tenth of a second to some ten seconds: a median gap outside
# these limits (in s) means that the table is in another unit.
_SHORTEST_GAP_S = 0.02
_LONGEST_GAP_S = 60.0
_MS = {"s": 1000.0, "ms": 1.0}


@dataclass(frozen=True)
class SessionScore:
    """Scores of one participant in one session.

    ``percent_correct`` is of all cues; ``response_time_ms`` the mean absolute deviation of the responses from their
    cues (NaN if there is none), ``bias_ms`` the mean signed one (negative: early).
    """

    participant_id: str
    session_id: str
    percent_correct: float
    response_time_ms: float
    bias_ms: float
    n_cues: int
    n_responses: int
    n_correct: int


def _check_unit(name: str, cue: Floats, unit: str) -> None:
    if unit not in _MS:
        raise TableError(f"{name}: expected unit 's' or 'ms', found '{unit}'. Write one of them.")
    gaps = np.diff(np.unique(cue[np.isfinite(cue)]))
    if gaps.size == 0:
        return
    gap_s = float(np.median(gaps)) * _MS[unit] / 1000.0
    if not _SHORTEST_GAP_S <= gap_s <= _LONGEST_GAP_S:
        other = "ms" if unit == "s" else "s"
        raise TableError(
            f"{name}: expected cues {_SHORTEST_GAP_S:g} to {_LONGEST_GAP_S:g} s apart, found a median gap of "
            f"{gap_s:g} s when times are read in {unit}. If the table is in {other}, say unit='{other}'."
        )


def score_session(
    participant_id: str,
    session_id: str,
    cue: ArrayLike,
    response: ArrayLike,
    *,
    unit: str,
    window_ms: float = 90.0,
) -> SessionScore:
    """Score one session.

    percent correct = 100 (number of |response - cue| <= window) / (number of cues);
    response time = mean of |response - cue| over the cues that got a response.

    Parameters
    ----------
    participant_id, session_id
        Labels, for the result and for errors.
    cue
        (n,) ideal moments of the responses.
    response
        (n,) moments of the responses on the same clock, NaN where there was none.
    unit
        ``s`` or ``ms``, of both.
    window_ms
        Largest deviation that counts as correct, in ms.

    Raises
    ------
    TableError
        If sizes disagree, a cue has no time, or the times cannot be in ``unit``.
    """
    name = f"sub-{participant_id}_ses-{session_id}"
    cues, responses = np.asarray(cue, dtype=np.float64), np.asarray(response, dtype=np.float64)
    if cues.ndim != 1 or cues.size == 0 or cues.shape != responses.shape:
        raise TableError(
            f"{name}: expected one response (or n/a) per cue, found {cues.size} cues and {responses.size} responses. "
            "Check the trial table."
        )
    if not np.isfinite(cues).all():
        row = int(np.flatnonzero(~np.isfinite(cues))[0]) + 1
        raise TableError(f"{name}: expected a time for every cue, found none in row {row}. Check the trial table.")
    _check_unit(name, cues, unit)
    deviation = (responses - cues) * _MS[unit]
    answered = deviation[np.isfinite(deviation)]
    if answered.size and np.median(np.abs(answered)) > 1000.0 * _LONGEST_GAP_S:
        raise TableError(
            f"{name}: expected responses near their cues, found a median deviation of "
            f"{np.median(np.abs(answered)) / 1000.0:g} s. Put cues and responses on one clock and in one unit."
        )
    # The difference of two moments on a clock that started long ago is known to a few of its last bits only; a
    # response at 90 ms as written counts as within 90 ms.
    rounding = 4.0 * float(np.spacing(np.abs(cues).max() + window_ms / _MS[unit])) * _MS[unit]
    n_correct = int((np.abs(answered) <= window_ms + rounding).sum())
    return SessionScore(
        participant_id=participant_id,
        session_id=session_id,
        percent_correct=100.0 * n_correct / cues.size,
        response_time_ms=float(np.abs(answered).mean()) if answered.size else float("nan"),
        bias_ms=float(answered.mean()) if answered.size else float("nan"),
        n_cues=int(cues.size),
        n_responses=int(answered.size),
        n_correct=n_correct,
    )


def score_trials(
    table: Mapping[str, Sequence[object] | NDArray[np.generic]], *, unit: str, window_ms: float = 90.0
) -> tuple[SessionScore, ...]:
    """Score a trial table with one row per cue.

    Parameters
    ----------
    table
        Columns ``participant_id``, ``session_id``, ``response`` and ``cue`` (or ``onset``, where the onset of a trial
        is the ideal moment); a data frame or a mapping of columns.
    unit
        ``s`` or ``ms``, of cue and response.
    window_ms
        Largest deviation that counts as correct, in ms.

    Returns
    -------
    tuple of SessionScore
        Sorted by participant and session.

    Raises
    ------
    TableError
        If a column is missing, or as in :func:`score_session`.
    """
    moment = "cue" if "cue" in table else "onset"
    for column in ("participant_id", "session_id", moment, "response"):
        if column not in table:
            raise TableError(
                f"trial table: expected a column '{column}', found {', '.join(map(str, table))}. Add the column."
            )
    people = np.asarray([str(value) for value in table["participant_id"]])
    sessions = np.asarray([str(value) for value in table["session_id"]])
    cue, response = np.asarray(table[moment], dtype=np.float64), np.asarray(table["response"], dtype=np.float64)
    scores = []
    for participant, session in sorted(set(zip(people.tolist(), sessions.tolist(), strict=True))):
        rows = (people == participant) & (sessions == session)
        scores.append(score_session(participant, session, cue[rows], response[rows], unit=unit, window_ms=window_ms))
    return tuple(scores)
