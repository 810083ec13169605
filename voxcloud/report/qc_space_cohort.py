"""The page on all participants in template space: what failed and stands out first, everybody's picture, numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.report.qc_cohort_parts import KINDS, Dictionary, Rows, different_strengths, grouped_warnings
from voxcloud.report.qc_outliers import FEWEST_SESSIONS, Measure, Outlier, by_session, who_of
from voxcloud.report.qc_page import data_url, render
from voxcloud.report.qc_space_measures import (
    ANATOMY_MEASURES,
    MAPS_MEASURES,
    NEXT,
    PEOPLE_MEASURES,
    VISIT_MEASURES,
    find_space_outliers,
    people_of,
    title_of,
    visits_of,
)
from voxcloud.report.qc_strips import Strip, strip
from voxcloud.report.words import count, number

__all__ = ["cohort_page", "cohort_table", "find_cohort_outliers"]

Quality = Mapping[str, Any]

# Pictures of so many bytes (base64) go into the page: of everybody's head first, then of visits.
PICTURE_BYTES = 6_000_000
# Diffusion is registered by itself, maps lie where the midpoint lies: diffusion is shown first.
VISIT_PICTURES = ("dwi", "mpm")
DIFFUSION_MAPS = ("FA", "MD", "AD", "RD")
KINDS_HERE = KINDS | {"cohort": "the others"}


def find_cohort_outliers(anatomies: Sequence[Quality], sessions: Sequence[Quality]) -> list[Outlier]:
    """Return participants and visits that stand out."""
    return find_space_outliers(people_of(anatomies), visits_of(anatomies, sessions))


def cohort_page(
    study_name: str,
    anatomies: Sequence[Quality],
    sessions: Sequence[Quality],
    failed: Mapping[str, str],
    warnings: Sequence[str],
    *,
    other: str = "",
) -> str:
    """Return the page of all participants, complete in itself.

    Parameters
    ----------
    study_name
        Name of the study.
    anatomies, sessions
        Quality control of every participant's anatomy, and of every session's maps in template space.
    failed
        Participant, session or unit (``sub-01``, ``sub-01_ses-2``, ``sub-01_ses-2_mpm``) to why it is not there.
    warnings
        Sentences that concern several of them.
    other
        Where the page on the maps themselves lies, relative to this one; empty if there is none.
    """
    people, visits = people_of(anatomies), visits_of(anatomies, sessions)
    odd = find_space_outliers(people, visits)
    gone = _failures(failed)
    return render(
        "qc_space_cohort.html.j2",
        name=study_name,
        other=other,
        numbers=_tiles(people, visits, gone, odd),
        failed=gone,
        cautions=[*different_strengths(visits, "R1 and R2* differ with them"), *_contrasts(people)],
        odd=by_session(odd),
        kinds=KINDS_HERE,
        next_step=NEXT,
        published=[],
        pages={who_of(qc): qc["page"] for qc in (*visits, *people)},
        places=_places(people, visits),
        warnings=grouped_warnings(warnings, [*people, *visits]),
        fewest=FEWEST_SESSIONS,
        enough=len(people) >= FEWEST_SESSIONS,
        strips=_strips(PEOPLE_MEASURES, people, odd),
        visit_strips=_strips(ANATOMY_MEASURES, visits, odd),
        map_strips=_strips(MAPS_MEASURES, visits, odd),
        zeros=[],
        histograms=[],
        sessions=people or visits,
        bodies=_bodies(people, visits, odd),
        table=_table(PEOPLE_MEASURES, people, odd),
        visit_table=_table(VISIT_MEASURES, visits, odd),
        table_name="qc_space",
    )


def cohort_table(anatomies: Sequence[Quality], sessions: Sequence[Quality]) -> tuple[list[str], Rows, Dictionary]:
    """Return columns, rows (one per visit) and data dictionary of ``tables/qc_space.tsv``."""
    people, visits = people_of(anatomies), visits_of(anatomies, sessions)
    bodies = {str(person["participant_id"]): person for person in people}
    reasons: dict[str, list[str]] = {}
    for outlier in find_space_outliers(people, visits):
        reasons.setdefault(outlier.who, []).append(f"{outlier.measure}: {outlier.reason}")
    own: list[tuple[Measure, str, Callable[[Quality], Quality | None]]] = [
        *(
            (m, " The same at every visit of a participant.", lambda v: bodies.get(v["participant_id"]))
            for m in PEOPLE_MEASURES
        ),
        *((m, "", lambda v: v) for m in VISIT_MEASURES),
    ]
    dictionary: Dictionary = {
        "participant_id": {"Description": "Participant."},
        "session_id": {"Description": "Session; n/a in a data set without sessions."},
    }
    dictionary |= {m.key: {"Description": f"{m.title}.{more}", "Units": m.units} for m, more, _ in own}
    dictionary |= {
        "warnings": {"Description": "Number of warnings on the visit's maps and on the participant's anatomy."},
        "named": {"Description": "Why visit or participant is named on the page; n/a where neither is."},
    }
    rows: Rows = []
    for visit in visits:
        body = bodies.get(visit["participant_id"])
        line: dict[str, object] = {
            "participant_id": f"sub-{visit['participant_id']}",
            "session_id": f"ses-{visit['session_id']}" if visit["session_id"] else None,
        }
        for measure, _, whose in own:
            tree = whose(visit)
            value = None if tree is None else measure.value(tree)
            line[measure.key] = None if value is None else float(f"{value:.6g}")
        told = list(dict.fromkeys([who_of(visit), f"sub-{visit['participant_id']}"]))
        line["warnings"] = len(visit["warnings"]) + (len(body["warnings"]) if body else 0)
        line["named"] = "; ".join(text for who in told for text in reasons.get(who, [])) or None
        rows.append(line)
    return list(dictionary), rows, dictionary


def _failures(failed: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return participants and sessions that are not there, each once, those with one reason together.

    A unit and its session are told of alike; a participant's failure is also that of every session.
    """
    by_reason: dict[str, list[str]] = {}
    for key, reason in sorted(failed.items()):
        who = re.sub(r"_(mpm|dwi)$", "", key)
        own = by_reason.setdefault(reason, [])
        if who not in own and who.partition("_")[0] not in own:
            own.append(who)
    return [(", ".join(own), reason) for reason, own in sorted(by_reason.items(), key=lambda item: item[1])]


def _tiles(
    people: Sequence[Quality], visits: Sequence[Quality], gone: Sequence[tuple[str, str]], odd: Sequence[Outlier]
) -> list[tuple[str, str]]:
    lost = {who.partition("_")[0] for names, _ in gone for who in names.split(", ")}
    return [
        (number(len(people)), "participants in template space"),
        (number(sum(bool(v["medians"]) for v in visits)), "visits with maps there"),
        (number(len(lost)), "participants of whom something failed"),
        (number(len({o.who.partition("_")[0] for o in odd})), "participants stand out"),
    ]


def _contrasts(people: Sequence[Quality]) -> list[str]:
    found = sorted({title_of(str(person["contrast"])) for person in people})
    if len(found) < 2:
        return []
    return [f"Participants were aligned by different images ({', '.join(found)}): their volumes cannot be compared."]


def _places(people: Sequence[Quality], visits: Sequence[Quality]) -> dict[tuple[str, str], str]:
    """Return (who, title of a measure) to the page on which one sees it."""
    found = {(who_of(p), m.title): str(p["page"]) for p in people for m in PEOPLE_MEASURES}
    for visit in visits:
        pages = visit["pages"]
        for measure in VISIT_MEASURES:
            place = "" if measure in ANATOMY_MEASURES else pages.get(_modality(measure, visit))
            found[who_of(visit), measure.title] = str(place or visit["page"])
    return found


def _modality(measure: Measure, visit: Quality) -> str:
    """Return which of a visit's maps a measure is of."""
    name = measure.map
    if measure.key == "missing":
        name = max(visit["missing"], key=lambda m: visit["missing"][m] or 0.0, default="")
    return "dwi" if measure.key.startswith("dwi") or name in DIFFUSION_MAPS else "mpm"


def _strips(measures: Sequence[Measure], qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[Strip]:
    named: dict[str, set[str]] = {}
    for outlier in odd:
        named.setdefault(outlier.measure, set()).add(outlier.who)
    figures = [strip(m, qcs, named.get(m.title, set())) for m in measures]
    return [figure for figure in figures if figure is not None]


def _table(measures: Sequence[Measure], qcs: Sequence[Quality], odd: Sequence[Outlier]) -> dict[str, Any]:
    columns = [m for m in measures if any(m.value(qc) is not None for qc in qcs)]
    named = {(o.who, o.measure) for o in odd}
    return {
        "heads": [(m.title, m.units) for m in columns],
        "rows": [
            (who_of(qc), qc["page"], [(number(m.value(qc)), (who_of(qc), m.title) in named) for m in columns])
            for qc in qcs
        ],
    }


def _bodies(people: Sequence[Quality], visits: Sequence[Quality], odd: Sequence[Outlier]) -> dict[str, Any]:
    """Return everybody's pictures as far as they fit: heads first, those that are named before others."""
    named = {o.who for o in odd}
    left, shown, later = PICTURE_BYTES, set(), []
    wanted = [(who_of(p) not in named, ("head", who_of(p)), p.get("thumbnail", "")) for p in people]
    for kind in VISIT_PICTURES:
        later += [(who_of(v) not in named, (kind, who_of(v)), v["thumbnails"].get(kind, ("", ""))[1]) for v in visits]
    for _, key, picture in [*sorted(wanted, key=lambda w: w[0]), *sorted(later, key=lambda w: w[0])]:
        left -= len(picture)
        if picture and left >= 0:
            shown.add(key)
    heads = [
        {
            "who": who_of(person),
            "page": person["page"],
            "named": who_of(person) in named,
            "src": data_url(person["thumbnail"]) if ("head", who_of(person)) in shown else "",
        }
        for person in people
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for kind in VISIT_PICTURES:
        for visit in visits:
            if (kind, who_of(visit)) in shown:
                rows.setdefault(str(visit["participant_id"]), []).append(_picture(visit, kind, named))
    pages = {str(person["participant_id"]): str(person["page"]) for person in people}
    there = sum(bool(w[2]) for w in (*wanted, *later))
    return {
        "heads": heads,
        "rows": [(f"sub-{p}", pages.get(p, own[0]["page"]), own) for p, own in sorted(rows.items())],
        "unseen": count(there - len(shown), "picture") if there > len(shown) else "",
    }


def _picture(visit: Quality, kind: str, named: set[str]) -> dict[str, Any]:
    shown, picture = visit["thumbnails"][kind]
    session = f"ses-{visit['session_id']} " if visit["session_id"] else ""
    return {
        "src": data_url(picture),
        "page": visit["pages"][kind],
        "title": f"{session}{title_of(shown)}",
        "alt": f"{title_of(shown)} of {who_of(visit)} under the edge of the template's white matter",
        "named": who_of(visit) in named,
    }
