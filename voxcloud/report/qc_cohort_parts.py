"""What the cohort's pages of maps and of diffusion share: warnings, pictures, tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.report.qc_outliers import Measure, Outlier, who_of
from voxcloud.report.qc_page import data_url
from voxcloud.report.words import listed, number

Quality = Mapping[str, Any]
Rows = list[dict[str, object]]
Dictionary = dict[str, dict[str, str]]

KINDS = {"visits": "this person's visits", "limit": "fixed limit", "cohort": "the other sessions"}


def made_ways(qcs: Sequence[Quality], how: Callable[[Quality], str]) -> dict[str, int]:
    """Return how maps were made, with the number of sessions of each way."""
    found: dict[str, int] = {}
    for qc in qcs:
        found[how(qc)] = found.get(how(qc), 0) + 1
    return found


def mixed_ways(qcs: Sequence[Quality], how: Callable[[Quality], str]) -> list[str]:
    """Say if maps were made in different ways: those cannot be compared."""
    ways: dict[str, set[str]] = {}
    for qc in qcs:
        ways.setdefault(str(qc["participant_id"]), set()).add(how(qc))
    mixed = sorted(person for person, own in ways.items() if len(own) > 1)
    if mixed:
        people = listed([f"sub-{person}" for person in mixed])
        return [f"Maps of one person were made in different ways ({people}): their visits cannot be compared."]
    if len(made_ways(qcs, how)) > 1:
        return ["Maps were made in different ways for different people: differences between people may be theirs."]
    return []


def different_strengths(qcs: Sequence[Quality], consequence: str) -> list[str]:
    """Say if sessions were scanned at different field strengths, and what that means."""
    strengths = sorted({float(qc["field_strength_t"]) for qc in qcs if qc.get("field_strength_t") is not None})
    if len(strengths) < 2:
        return []
    values = listed([f"{s:g} T" for s in strengths])
    return [f"Sessions were scanned at different field strengths ({values}): {consequence}."]


def grouped_warnings(warnings: Sequence[str], qcs: Sequence[Quality]) -> list[tuple[str, list[str]]]:
    """Return every warning once, with the sessions that have it; those that differ in numbers or files are one."""
    found: dict[str, tuple[str, list[str]]] = {}
    for text in dict.fromkeys(warnings):
        found[text] = (text, [])
    for qc in qcs:
        who = who_of(qc)
        for text in qc["warnings"]:
            rest = text[len(who) :].lstrip(":, ") if text.startswith(who) else text
            key = re.sub(r"\S*/\S+|\d[\d.]*", "#", rest)
            _, own = found.setdefault(key, (rest[:1].upper() + rest[1:], []))
            if who not in own:
                own.append(who)
    return list(found.values())


def is_all_zero(measure: Measure, qcs: Sequence[Quality]) -> bool:
    """Whether a measure is known and 0 in every session."""
    known = [v for qc in qcs if (v := measure.value(qc)) is not None]
    return bool(known) and not any(known)


def pictures_that_fit(qcs: Sequence[Quality], order: Sequence[str], most_bytes: int) -> tuple[list[str], list[str]]:
    """Return the maps whose pictures go into the page, and those for which there is no room."""
    kinds = list(dict.fromkeys(k for qc in qcs for k in qc["thumbnails"]))
    kinds.sort(key=lambda k: order.index(k) if k in order else len(order))
    shown: list[str] = []
    left = most_bytes
    for kind in kinds:
        left -= sum(len(qc["thumbnails"].get(kind, "")) for qc in qcs)
        if left < 0 and shown:
            break
        shown.append(kind)
    return shown, kinds[len(shown) :]


def numbers_table(qcs: Sequence[Quality], odd: Sequence[Outlier], measures: Sequence[Measure]) -> dict[str, Any]:
    """Return heads and rows of the page's table: every measure that some session has; what is named is marked."""
    columns = [m for m in measures if any(m.value(qc) is not None for qc in qcs)]
    named = {(o.who, o.measure) for o in odd}
    return {
        "heads": [(m.title, m.units) for m in columns],
        "rows": [
            (who_of(qc), qc["page"], [(number(m.value(qc)), (who_of(qc), m.title) in named) for m in columns])
            for qc in qcs
        ],
    }


def measured_table(
    qcs: Sequence[Quality],
    measures: Sequence[Measure],
    outliers: Sequence[Outlier],
    own: Mapping[str, tuple[str, Callable[[Quality], object]]],
) -> tuple[list[str], Rows, Dictionary]:
    """Return columns, rows and data dictionary of a table of sessions.

    Parameters
    ----------
    qcs
        Sessions, one row each.
    measures
        Columns of numbers.
    outliers
        Why sessions are named.
    own
        Columns between the labels and the numbers: name to what it is, and what returns it.
    """
    dictionary: Dictionary = {
        "participant_id": {"Description": "Participant."},
        "session_id": {"Description": "Session; n/a in a data set without sessions."},
    }
    dictionary |= {name: {"Description": text} for name, (text, _) in own.items()}
    dictionary |= {m.key: {"Description": f"{m.title}.", "Units": m.units} for m in measures}
    dictionary |= {
        "warnings": {"Description": "Number of warnings."},
        "named": {"Description": "Why the session is named on the page; n/a where it is not."},
    }
    reasons: dict[str, list[str]] = {}
    for outlier in outliers:
        reasons.setdefault(outlier.who, []).append(f"{outlier.measure}: {outlier.reason}")
    rows: Rows = []
    for qc in qcs:
        line: dict[str, object] = {
            "participant_id": f"sub-{qc['participant_id']}",
            "session_id": f"ses-{qc['session_id']}" if qc["session_id"] else None,
        }
        line |= {name: value(qc) for name, (_, value) in own.items()}
        line |= {m.key: None if (found := m.value(qc)) is None else float(f"{found:.6g}") for m in measures}
        line |= {"warnings": len(qc["warnings"]), "named": "; ".join(reasons.get(who_of(qc), [])) or None}
        rows.append(line)
    return list(dictionary), rows, dictionary


def tiles(
    qcs: Sequence[Quality], failed: Mapping[str, str], odd: Sequence[Outlier], what: str
) -> list[tuple[str, str]]:
    """Return the numbers on top of the page: how many sessions there are, failed and stand out."""
    return [
        (number(len(qcs)), f"sessions with {what}"),
        (number(len({qc["participant_id"] for qc in qcs})), "participants"),
        (number(len(failed)), "sessions failed"),
        (number(len({o.who for o in odd})), "sessions stand out"),
    ]


def cards(
    qcs: Sequence[Quality], shown: Sequence[str], odd: Sequence[Outlier], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return every session with its small pictures."""
    named = {o.who for o in odd}
    return [
        {
            "who": who_of(qc),
            "page": qc["page"],
            "named": who_of(qc) in named,
            "pictures": [(titles.get(k, k), data_url(qc["thumbnails"][k])) for k in shown if k in qc["thumbnails"]],
        }
        for qc in qcs
    ]
