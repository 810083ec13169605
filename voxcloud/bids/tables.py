"""The study's tables: read with care, joined by participant and session, never by order."""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxcloud.bids.layout import find_images, parse_name
from voxcloud.bids.tsv import bare_label, read_table
from voxcloud.errors import TableError, nearest
from voxcloud.schema import LABELS, VARIABLES

__all__ = ["Absent", "Cohort", "build_cohort", "read_images", "read_participants", "read_sessions", "read_table"]

IMAGE_COLUMNS = ("participant_id", "session_id", "map", "label", "path", "volume")
IMAGE_KEYS = ("map", "label", "participant_id", "session_id")
SESSION_COLUMNS = ("participant_id", "session_id", "day", "acq_time")
NO_IMAGE = "is in the participants table but has no image"
NO_IMAGE_IN_SESSION = "the session is in the sessions table but has no image"
BACKSLASH = "path expects folders separated by '/', found '\\'. Write '/' in place of '\\'"
NO_PARTICIPANT = "the session's participant is not in the participants table and has no image"

# Scanning late in the evening or an hour earlier does not make another day.
_DAY_TOLERANCE = 1.0


@dataclass(frozen=True)
class Absent:
    """Somebody or something that is in one table only, and why it does not enter."""

    participant_id: str
    session_id: str | None
    what: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """The joined tables.

    Parameters
    ----------
    images
        One row per image, sorted by map, label, participant_id and session_id: those four, path (absolute), volume
        (Int64, missing for files of one volume) and day (float64, NaN without a sessions table).
    participants
        One row per participant, sorted by participant_id; numeric columns that only the sessions table has are means
        over the participant's visits with an image.
    left_out
        Participants and sessions without an image.
    warnings
        What looks wrong and does not stop the study.
    visit_means
        Columns of the participants that are means over visits.
    """

    images: pd.DataFrame
    participants: pd.DataFrame
    left_out: tuple[Absent, ...]
    warnings: tuple[str, ...] = ()
    visit_means: tuple[str, ...] = ()

    def joined(self) -> pd.DataFrame:
        """Return the images with every column of their participants."""
        return self.images.merge(self.participants, on="participant_id", how="left", validate="many_to_one")


def read_participants(path: str | Path) -> pd.DataFrame:
    """Read participants.tsv: one row per participant, ``participant_id`` and any covariates; see ``read_table``.

    Raises
    ------
    TableError
        If the table cannot be read or a participant has two rows.
    """
    table = read_table(path, ("participant_id",))
    _refuse_twice(table, ("participant_id",), str(path))
    return table.sort_values("participant_id", ignore_index=True)


def read_sessions(path: str | Path, *, baseline: str | None = None) -> pd.DataFrame:
    """Read sessions.tsv: participant_id, session_id and ``day`` since the study's baseline event.

    Without ``day``, the days are counted from the dates in ``acq_time``: day = date - date of the participant's
    baseline session. Dates may be shifted per participant; only differences within a participant are used.

    Parameters
    ----------
    path
        One table, or a BIDS folder with ``sub-*/sub-*_sessions.tsv``.
    baseline
        Label of the baseline session; default: the session that comes first in most participants. Only used
        without ``day``.

    Raises
    ------
    TableError
        If a session has two rows, a day is no number, or, with dates only, a participant has no baseline session or
        it is not clear which session that is.
    """
    table = _sessions_of_folder(Path(path)) if Path(path).is_dir() else _sessions_of_table(Path(path))
    _refuse_twice(table, ("participant_id", "session_id"), str(path))
    if "day" not in table.columns:
        if "acq_time" not in table.columns:
            raise TableError(
                f"{path}: expected a column day (days since the study's baseline event) or acq_time, found "
                f"{', '.join(table.columns)}.{nearest('day', table.columns)} Add the column day."
            )
        table = _days_from_dates(table, str(path), baseline)
    return table.sort_values(["participant_id", "session_id"], ignore_index=True)


def read_images(path: str | Path) -> pd.DataFrame:
    """Read images.tsv, or find the maps of a BIDS derivatives folder.

    The table has the columns participant_id, map, path and optionally session_id, label (GM, WM or empty) and volume
    (0-based, for 4D files); paths are relative to the table.

    Returns
    -------
    pandas.DataFrame
        participant_id, session_id ("" where there is none), map, label ("" where there is none), path (absolute),
        volume (Int64), sorted by map, label, participant_id and session_id.

    Raises
    ------
    TableError
        If the table cannot be read, names an unknown map or label, or an image is given twice.
    """
    source = Path(path)
    rows = _found_rows(source) if source.is_dir() else _table_rows(source)
    table = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS), dtype=object).astype({"volume": "Int64"})
    _refuse_two_images(table, str(path))
    _refuse_shared_files(table, str(path))
    return table.sort_values(list(IMAGE_KEYS), ignore_index=True)


def build_cohort(images: pd.DataFrame, participants: pd.DataFrame, sessions: pd.DataFrame | None) -> Cohort:
    """Join the tables by participant and session.

    Parameters
    ----------
    images, participants, sessions
        As read by ``read_images``, ``read_participants`` and ``read_sessions``; sessions may be None for a study with
        one image per participant and map.

    Raises
    ------
    TableError
        If an image's participant is not in the participants table, its session is not in the sessions table or has no
        day, or an image is given twice. The message names participant, session and file.
    """
    _refuse_two_images(images, "images")
    known = {str(p) for p in participants["participant_id"]}
    wrong = _unknown_participants(images, known)
    have = set(images["participant_id"])
    left_out = [Absent(p, None, "participant", NO_IMAGE) for p in sorted(known - have)]
    warnings = _warn_of_names(images)
    days: dict[tuple[str, str], float] = {}
    own = tuple(participants.columns)
    if sessions is not None:
        _refuse_twice(sessions, ("participant_id", "session_id"), "sessions table")
        keys = list(zip(sessions["participant_id"], sessions["session_id"], strict=True))
        days = dict(zip(keys, sessions["day"].astype(float), strict=True))
        wrong += _unknown_sessions(images, days)
        with_image = set(zip(images["participant_id"], images["session_id"], strict=True))
        for participant, session in sorted(set(keys) - with_image):
            if participant in have or participant not in known:
                reason = NO_IMAGE_IN_SESSION if participant in known else NO_PARTICIPANT
                left_out.append(Absent(participant, session, "session", reason))
        warnings += _warn_of_dates(sessions)
        participants = _with_visit_means(participants, sessions, with_image)
    if wrong:
        raise TableError(*wrong)
    pairs = zip(images["participant_id"], images["session_id"], strict=True)
    joined = images.assign(day=np.array([days.get(pair, np.nan) for pair in pairs], dtype=np.float64))
    return Cohort(
        images=joined.sort_values(list(IMAGE_KEYS), ignore_index=True),
        participants=participants.sort_values("participant_id", ignore_index=True),
        left_out=tuple(left_out),
        warnings=tuple(warnings),
        visit_means=tuple(str(c) for c in participants.columns if c not in own),
    )


def _who(participant: str, session: str | None) -> str:
    return f"sub-{participant}" + (f"_ses-{session}" if session else "")


def _refuse_twice(table: pd.DataFrame, keys: tuple[str, ...], source: str) -> None:
    count = Counter(table[list(keys)].itertuples(index=False, name=None))
    twice = [_who(*key) if len(key) > 1 else _who(key[0], None) for key, n in count.items() if n > 1]
    if twice:
        raise TableError(f"{source}: expected one row each, found two or more for {_listed(twice)}. Keep one row each.")


def _listed(names: Iterable[str], most: int = 8) -> str:
    every = sorted(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _sessions_of_table(path: Path) -> pd.DataFrame:
    return read_table(path, ("participant_id", "session_id"), numeric=("day",))


def _sessions_of_folder(folder: Path) -> pd.DataFrame:
    """Read the sessions tables that BIDS keeps per participant."""
    tables = []
    for path in sorted(folder.glob("sub-*/sub-*_sessions.tsv")):
        table = read_table(path, ("session_id",), numeric=("day",))
        participant = bare_label(path.parent.name, "participant_id", str(path))
        tables.append(table.assign(participant_id=participant))
    if not tables:
        raise TableError(f"{folder}: expected sub-*/sub-*_sessions.tsv, found none. Name the sessions table.")
    return pd.concat(tables, ignore_index=True)


def _days_from_dates(table: pd.DataFrame, source: str, baseline: str | None) -> pd.DataFrame:
    rows = list(table[["participant_id", "session_id", "acq_time"]].itertuples(index=False, name=None))
    found = _dates([(_who(p, s), cell) for p, s, cell in rows if cell is not None], source)
    dates = {(p, s): found[cell] for p, s, cell in rows if cell is not None}
    label = baseline.removeprefix("ses-") if baseline is not None else _first_session(dates, source)
    lost = {p for p in table["participant_id"] if (p, label) not in dates}
    if lost:
        raise TableError(
            f"{source}: expected a dated baseline session, ses-{label}, of every participant, found none for "
            f"{_listed(_who(p, None) for p in lost)}. Add a column day (days since the baseline event), or take them "
            "out: a later scan cannot stand for the baseline."
        )
    days = [
        float((dates[p, s] - dates[p, label]).days) if (p, s) in dates else np.nan
        for p, s in table[["participant_id", "session_id"]].itertuples(index=False)
    ]
    return table.assign(day=days)


def _dates(cells: Iterable[tuple[str, str]], source: str) -> dict[str, datetime.date]:
    """Read the dates of a column, given as (whose, cell); all cells that hold none are one error."""
    dates: dict[str, datetime.date] = {}
    wrong: list[tuple[str, str]] = []
    number = 0
    for who, cell in cells:
        number += 1
        try:
            dates[cell] = datetime.datetime.fromisoformat(cell).date()
        except ValueError:
            wrong.append((who, cell))
    if wrong:
        who, cell = wrong[0]
        extent = "the whole column is" if len(wrong) == number else f"{len(wrong)} of its {number} cells are"
        raise TableError(
            f"{source}: {who}: acq_time expects a date as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss, such as "
            f"2024-05-31T09:30:00, found '{cell}'; {extent} affected. "
            "Write the dates as YYYY-MM-DD (in a spreadsheet: format the column so, or as text), or give "
            "the days in a column day."
        )
    return dates


def _first_session(dates: dict[tuple[str, str], datetime.date], source: str) -> str:
    """Return the session that comes first in most participants."""
    first: dict[str, tuple[datetime.date, str]] = {}
    for (participant, session), date in dates.items():
        first[participant] = min(first.get(participant, (date, session)), (date, session))
    ranks = Counter(session for _, session in first.values()).most_common(2)
    if not ranks or (len(ranks) == 2 and ranks[0][1] == ranks[1][1]):
        found = " and ".join(f"ses-{session} ({n} participants)" for session, n in ranks) or "no dates"
        raise TableError(
            f"{source}: expected one session that comes first in most participants, found {found}. "
            "Add a column day (days since the baseline event)."
        )
    return ranks[0][0]


def _found_rows(folder: Path) -> list[tuple[Any, ...]]:
    return [(i.participant_id, i.session_id, i.map, i.label, i.path, None) for i in find_images(folder)]


def _table_rows(path: Path) -> list[tuple[Any, ...]]:
    table = read_table(path, ("participant_id", "map", "path"), numeric=("volume",))
    for name in set(table.columns) - set(IMAGE_COLUMNS):
        hint = nearest(name, [c for c in IMAGE_COLUMNS if c not in table.columns])
        if hint:
            raise TableError(f"{path}: the column '{name}' is not known.{hint} Rename or remove it.")
    for name in set(IMAGE_COLUMNS) - set(table.columns):
        table[name] = None
    rows = []
    wrong: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for row in table[list(IMAGE_COLUMNS)].itertuples(index=False, name=None):
        participant, session, name, label, file, volume = row
        number = None if volume is None or volume != volume else volume
        problem = _wrong_cell(name, label, file, number)
        absolute = os.path.normpath(path.absolute().parent / (file or ""))
        if not problem and "\\" in file and os.sep == "/" and not Path(absolute).exists():
            problem = BACKSLASH
            first.setdefault(problem, f" (first: {file}).")
        if problem:
            wrong.setdefault(problem, []).append(_who(participant, session))
            continue
        rows.append((participant, session or "", name, label or "", absolute, None if number is None else int(number)))
    if wrong:
        raise TableError(
            *(f"{path}: {_listed(who)}: {problem}{first.get(problem, '')}" for problem, who in wrong.items())
        )
    return rows


def _wrong_cell(name: str | None, label: str | None, file: str | None, volume: float | None) -> str:
    """Say what is wrong with a row of the images table, or return an empty string."""
    if name not in VARIABLES:
        return (
            f"map '{name}' is not known.{nearest(str(name), VARIABLES)} Expected one of: {', '.join(VARIABLES)}. "
            "Use 'effect' for images whose units need no check."
        )
    if (label or "") not in LABELS:
        return (
            f"label expects GM, WM or nothing, found '{label}'.{nearest(str(label).upper(), LABELS)} Correct that cell."
        )
    if file is None:
        return f"path expects the file of the {name}, found nothing. Fill in that cell."
    if volume is not None and (volume < 0 or volume != int(volume)):
        return f"volume expects a whole number from 0, found {volume:g}. Correct that cell."
    return ""


def _stack_words(name: str, label: str) -> str:
    return f"{name} {label}".strip()


def _refuse_two_images(images: pd.DataFrame, source: str) -> None:
    seen: dict[tuple[str, ...], str] = {}
    wrong = []
    for name, label, participant, session, path in images[[*IMAGE_KEYS, "path"]].itertuples(index=False):
        key = (name, label, participant, session)
        if key in seen:
            wrong.append(
                f"{source}: {_who(participant, session)}: expected one {_stack_words(name, label)}, found {seen[key]} "
                f"and {path}. Keep one, or give them different session_ids."
            )
        seen[key] = path
    if wrong:
        raise TableError(*wrong)


def _refuse_shared_files(images: pd.DataFrame, source: str) -> None:
    """Refuse one volume for two images, and one stack from two template spaces: both come from copied lines."""
    owners: dict[tuple[str, int | None], str] = {}
    spaces: dict[tuple[str, str], tuple[str, str]] = {}
    for participant, session, name, label, path, volume in images[list(IMAGE_COLUMNS)].itertuples(index=False):
        who = _who(participant, session)
        place = (path, None if pd.isna(volume) else int(volume))
        if owners.setdefault(place, who) != who:
            raise TableError(
                f"{source}: {path}{'' if place[1] is None else f', volume {place[1]}'}: expected the image of one "
                f"participant and session, found {owners[place]} and {who}. Correct the path or the volume."
            )
        parsed = parse_name(Path(path).name)
        space = parsed[0].get("space") if parsed else None
        if space and spaces.setdefault((name, label), (space, path))[0] != space:
            raise TableError(
                f"{source}: {_stack_words(name, label)}: expected one template space, found {space} ({path}) and "
                f"{' ('.join(spaces[name, label])}). Normalise all images to one template."
            )


def _with_visit_means(
    participants: pd.DataFrame, sessions: pd.DataFrame, with_image: set[tuple[str, str]]
) -> pd.DataFrame:
    """Add the mean over each participant's scanned visits of what is measured at every visit.

    Group models have one row per participant: a covariate such as the total intracranial volume is one value each. A
    column that the participants table has as well is taken from there.
    """
    named = [c for c in sessions.columns if c not in participants.columns and c not in SESSION_COLUMNS]
    numeric = [c for c in named if pd.api.types.is_numeric_dtype(sessions[c])]
    if not numeric:
        return participants
    scanned = [k in with_image for k in zip(sessions["participant_id"], sessions["session_id"], strict=True)]
    means = sessions[scanned].groupby("participant_id")[numeric].mean()
    return participants.join(means, on="participant_id")


def _unknown_participants(images: pd.DataFrame, known: set[str]) -> list[str]:
    """Say whose images belong to nobody, in one sentence per cause."""
    bare = {p.lstrip("0"): p for p in sorted(known, reverse=True)}
    found: dict[bool, list[tuple[str, str, str]]] = {}
    first = images.drop_duplicates("participant_id")
    for participant, session, path in first[["participant_id", "session_id", "path"]].itertuples(index=False):
        if participant not in known:
            zeros = participant.lstrip("0") in bare
            found.setdefault(zeros, []).append((participant, _who(participant, session), path))
    sentences = []
    for zeros, cases in found.items():
        participant, _, path = cases[0]
        one = len(cases) == 1
        hint = nearest(participant, known) if one else ""
        if zeros:
            twin = bare[participant.lstrip("0")]
            hint = (
                f" It has sub-{twin}{'' if one else f' for sub-{participant}'}: a spreadsheet may have removed leading "
            )
            hint += "zeros."
        sentences.append(
            f"{_listed((who for _, who, _ in cases), 3)}: {'has images (' if one else 'have images (e.g. '}{path}), "
            f"expected a row of {f'participant {participant}' if one else 'each participant'} in the participants "
            f"table, found none.{hint} Add the row{'' if one else 's'}, or take "
            f"{'the participant' if one else 'these participants'}'{'s' if one else ''} images out."
        )
    return sentences


def _unknown_sessions(images: pd.DataFrame, days: dict[tuple[str, str], float]) -> list[str]:
    """Say which images have no day, in one sentence per cause."""
    wrong: dict[tuple[str, str], list[tuple[str, str]]] = {}
    first = images.drop_duplicates(["participant_id", "session_id"])
    for participant, session, path in first[["participant_id", "session_id", "path"]].itertuples(index=False):
        if not np.isnan(days.get((participant, session), np.nan)):
            continue
        own = [s for p, s in days if p == participant]
        mend = f"{nearest(session, own)} Add a row with the day of each"
        if (participant, session) in days:
            found, mend = "a row without a day", " Fill in the day"
        elif session == "":
            found = "no session_id in the images table"
        else:
            found = f"the sessions {', '.join(own)}" if own else "no session of this participant"
        wrong.setdefault((found, mend), []).append((_who(participant, session), path))
    return [
        f"{_listed((who for who, _ in cases), 3)}: {'has images (' if len(cases) == 1 else 'have images (e.g. '}"
        f"{cases[0][1]}), expected {'its' if len(cases) == 1 else 'their'} day in the sessions table, found {found}."
        f"{mend}, or take {'the image' if len(cases) == 1 else 'these images'} out."
        for (found, mend), cases in wrong.items()
    ]


def _warn_of_names(images: pd.DataFrame) -> list[str]:
    """Compare the labels in BIDS file names with the rows: a copied line assigns somebody else's image."""
    warnings = []
    for participant, session, path in images[["participant_id", "session_id", "path"]].itertuples(index=False):
        named = dict(re.findall(r"(?:^|_)(sub|ses)-([A-Za-z0-9]+)", Path(path).name))
        if named.get("sub", participant) != participant or named.get("ses", session) != session:
            warnings.append(
                f"{_who(participant, session)}: the images table gives it {Path(path).name}, whose name says "
                f"{_who(named.get('sub', participant), named.get('ses'))}. Check the table."
            )
    return list(dict.fromkeys(warnings))


def _warn_of_dates(sessions: pd.DataFrame) -> list[str]:
    """Compare day with acq_time where a table has both: within a participant they must run alike."""
    if "acq_time" not in sessions.columns:
        return []
    both = sessions.dropna(subset=["day", "acq_time"])
    rows = both[["participant_id", "session_id", "acq_time"]].itertuples(index=False, name=None)
    known = _dates([(_who(p, s), cell) for p, s, cell in rows], "sessions table")
    warnings = []
    for participant, own in both.groupby("participant_id"):
        dates = [known[cell] for cell in own["acq_time"]]
        gaps = [
            (session, day - own["day"].iloc[0], float((date - dates[0]).days))
            for session, day, date in zip(own["session_id"], own["day"], dates, strict=True)
        ]
        warnings += [
            f"{_who(str(participant), session)}: {by_day:g} days after ses-{own['session_id'].iloc[0]} by day, "
            f"{by_date:g} by acq_time. Check the sessions table."
            for session, by_day, by_date in gaps
            if abs(by_day - by_date) > _DAY_TOLERANCE
        ]
    return warnings
