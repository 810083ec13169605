"""The page on a cohort's quality: what is wrong first, then every session beside the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report.qc_outliers import (
    FEWEST_SESSIONS,
    MEASURES,
    Measure,
    Outlier,
    by_session,
    find_outliers,
    who_of,
)
from voxcloud.report.qc_page import MAP_TITLES, data_url, histogram_panel, render
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.qc_strips import b1_strip, strip
from voxcloud.report.svg import row
from voxcloud.report.words import count, listed, number

__all__ = ["Outlier", "cohort_page", "cohort_table", "find_outliers"]

Quality = Mapping[str, Any]

KINDS = {"visits": "this person's visits", "limit": "fixed limit", "cohort": "the other sessions"}
# Pictures of so many bytes (base64) go into the page; of more sessions, fewer maps are shown.
PICTURE_BYTES = 4_500_000
# So many histograms in black can be told apart.
MOST_BLACK = 12
PICTURE_ORDER = ("R1map", "MTsat", "R2starmap", "TB1map", "PDmap", "M0map")
MADE = {"Preset": "preset", "B1Method": "B1+ by"}


def cohort_page(study_name: str, qcs: Sequence[Quality], failed: Mapping[str, str], warnings: Sequence[str]) -> str:
    """Return the page of all sessions, complete in itself.

    Parameters
    ----------
    study_name
        Name of the study.
    qcs
        Quality control of every session with maps, in the order of participants and sessions.
    failed
        Session (``sub-01_ses-2``) to why it has no maps.
    warnings
        Sentences that concern several sessions.
    """
    outliers = find_outliers(qcs)
    odd = [o for o in outliers if o.kind != "published"]
    published = [o for o in outliers if o.kind == "published"]
    named = {o.who for o in odd}
    shown, unseen = _pictures_that_fit(qcs)
    return render(
        "qc_cohort.html.j2",
        name=study_name,
        numbers=[
            (number(len(qcs)), "sessions with maps"),
            (number(len({qc["participant_id"] for qc in qcs})), "participants"),
            (number(len(failed)), "sessions failed"),
            (number(len(named)), "sessions stand out"),
        ],
        failed=sorted(failed.items()),
        cautions=_cautions(qcs),
        odd=by_session(odd),
        kinds=KINDS,
        published=_by_measure(published, qcs),
        pages={who_of(qc): qc["page"] for qc in qcs},
        warnings=_grouped(warnings, qcs),
        fewest=FEWEST_SESSIONS,
        enough=len(qcs) >= FEWEST_SESSIONS,
        strips=_strips(qcs, odd),
        zeros=[m.title for m in MEASURES if _all_zero(m, qcs)],
        histograms=_histograms(qcs, odd),
        sessions=[
            {
                "who": who_of(qc),
                "page": qc["page"],
                "named": who_of(qc) in named,
                "pictures": [
                    (MAP_TITLES.get(k, k), data_url(qc["thumbnails"][k])) for k in shown if k in qc["thumbnails"]
                ],
            }
            for qc in qcs
        ],
        cell=max(len(shown), 2) * 66 + 24,
        unseen=[MAP_TITLES.get(k, k) for k in unseen],
        made=[(words, count(n, "session")) for words, n in _made(qcs).items()],
        table=_table(qcs, odd),
    )


def _cautions(qcs: Sequence[Quality]) -> list[str]:
    """Return what concerns the cohort as a whole: maps that were made in different ways cannot be compared."""
    found = []
    ways: dict[str, set[str]] = {}
    for qc in qcs:
        ways.setdefault(str(qc["participant_id"]), set()).add(_how(qc))
    mixed = sorted(person for person, own in ways.items() if len(own) > 1)
    if mixed:
        people = listed([f"sub-{person}" for person in mixed])
        found.append(f"Maps of one person were made in different ways ({people}): their visits cannot be compared.")
    elif len(_made(qcs)) > 1:
        found.append("Maps were made in different ways for different people: differences between people may be theirs.")
    strengths = sorted({float(qc["field_strength_t"]) for qc in qcs if qc.get("field_strength_t") is not None})
    if len(strengths) > 1:
        values = listed([f"{s:g} T" for s in strengths])
        found.append(f"Sessions were scanned at different field strengths ({values}): R1 and R2* differ with them.")
    return found


def _how(qc: Quality) -> str:
    """Return how a session's maps were made, in words, without what was not done (older runs do not tell all of it)."""
    found = []
    for key, value in qc["made"].items():
        if key == "B1Method" and value == "none":
            found.append("no B1+")
        elif key in MADE:
            found.append(f"{MADE[key]} {value}")
        elif isinstance(value, Mapping):
            found += [f"{name} {own}" for name, own in sorted(value.items())]
        elif value:
            word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).lower()
            found.append(word if value is True else f"{word} {value}")
    return ", ".join(found)


def _made(qcs: Sequence[Quality]) -> dict[str, int]:
    """Return how maps were made, with the number of sessions of each way."""
    found: dict[str, int] = {}
    for qc in qcs:
        found[_how(qc)] = found.get(_how(qc), 0) + 1
    return found


def _by_measure(published: Sequence[Outlier], qcs: Sequence[Quality]) -> list[dict[str, Any]]:
    """Return medians outside published values by measure: what all sessions share is the protocol and no outlier."""
    found = []
    for measure in MEASURES:
        own = [o for o in published if o.measure == measure.title]
        if not own:
            continue
        total = sum(measure.value(qc) is not None for qc in qcs)
        values = [o.value for o in own]
        reach = number(min(values)) + (f" to {number(max(values))}" if max(values) > min(values) else "")
        all_of_them = 2 * len(own) > total > 1
        found.append(
            {
                "measure": measure.title,
                "units": measure.units,
                "reference": own[0].reference,
                "reason": own[0].reason,
                "count": f"{number(len(own))} of {count(total, 'session')}",
                "values": reach,
                "who": [] if all_of_them else [o.who for o in own],
                "systematic": all_of_them,
            }
        )
    return found


def _grouped(warnings: Sequence[str], qcs: Sequence[Quality]) -> list[tuple[str, list[str]]]:
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


def _strips(qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[Any]:
    named: dict[str, set[str]] = {}
    for outlier in odd:
        named.setdefault(outlier.measure, set()).add(outlier.who)
    b1 = [m for m in MEASURES if m.key.startswith("b1_") and m.key != "b1_missing"]
    figures = [strip(m, qcs, named.get(m.title, set())) for m in MEASURES if m not in b1]
    figures.append(b1_strip(qcs, set().union(*(named.get(m.title, set()) for m in b1))))
    return [figure for figure in figures if figure is not None]


def _all_zero(measure: Measure, qcs: Sequence[Quality]) -> bool:
    known = [v for qc in qcs if (v := measure.value(qc)) is not None]
    return bool(known) and not any(known)


def _histograms(qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[str]:
    figures = []
    map_of = {m.title: m.map for m in MEASURES}
    for name in dict.fromkeys(name for qc in qcs for name in qc["maps"] if name != "M0map"):
        own = [qc for qc in qcs if name in qc["maps"]]
        named = {o.who for o in odd if map_of[o.measure] == name}
        at_3t = next((qc for qc in qcs if published_range(qc, name, "WM") is not None), qcs[0])
        ranges = {tissue: published_range(at_3t, name, tissue) for tissue in ("WM", "GM")}
        panel = histogram_panel(
            MAP_TITLES.get(name, name),
            own[0]["maps"][name]["units"],
            [qc["maps"][name]["histogram"] for qc in own],
            ranges,
            max(0.12, min(1.0, 6.0 / len(own))),
            [who_of(qc) in named and len(named) <= MOST_BLACK for qc in own],
        )
        if panel is not None:
            figures.append(row([panel], f"Histograms of {panel.title} of {count(len(own), 'session')}"))
    return figures


def _pictures_that_fit(qcs: Sequence[Quality]) -> tuple[list[str], list[str]]:
    """Return the maps whose pictures go into the page, and those for which there is no room."""
    kinds = list(dict.fromkeys(k for qc in qcs for k in qc["thumbnails"]))
    kinds.sort(key=lambda k: PICTURE_ORDER.index(k) if k in PICTURE_ORDER else len(PICTURE_ORDER))
    shown: list[str] = []
    left = PICTURE_BYTES
    for kind in kinds:
        left -= sum(len(qc["thumbnails"].get(kind, "")) for qc in qcs)
        if left < 0 and shown:
            break
        shown.append(kind)
    return shown, kinds[len(shown) :]


def _table(qcs: Sequence[Quality], odd: Sequence[Outlier]) -> dict[str, Any]:
    columns = [m for m in MEASURES if any(m.value(qc) is not None for qc in qcs)]
    named = {(o.who, o.measure) for o in odd}
    return {
        "heads": [(m.title, m.units) for m in columns],
        "rows": [
            (who_of(qc), qc["page"], [(number(m.value(qc)), (who_of(qc), m.title) in named) for m in columns])
            for qc in qcs
        ],
    }


def cohort_table(
    qcs: Sequence[Quality],
) -> tuple[list[str], list[dict[str, object]], dict[str, dict[str, str]]]:
    """Return columns, rows and data dictionary of ``tables/qc_mpm.tsv``."""
    dictionary: dict[str, dict[str, str]] = {
        "participant_id": {"Description": "Participant."},
        "session_id": {"Description": "Session; n/a in a data set without sessions."},
        "preset": {"Description": "Preset of the settings."},
        "b1_method": {"Description": "B1+ acquisition; none where there was none."},
    }
    dictionary |= {m.key: {"Description": f"{m.title}.", "Units": m.units} for m in MEASURES}
    dictionary |= {
        "warnings": {"Description": "Number of warnings."},
        "named": {"Description": "Why the session is named on the page; n/a where it is not."},
    }
    reasons: dict[str, list[str]] = {}
    for outlier in find_outliers(qcs):
        reasons.setdefault(outlier.who, []).append(f"{outlier.measure}: {outlier.reason}")
    rows: list[dict[str, object]] = []
    for qc in qcs:
        line: dict[str, object] = {
            "participant_id": f"sub-{qc['participant_id']}",
            "session_id": f"ses-{qc['session_id']}" if qc["session_id"] else None,
            "preset": qc["made"]["Preset"],
            "b1_method": qc["made"]["B1Method"],
        }
        line |= {m.key: None if (value := m.value(qc)) is None else float(f"{value:.6g}") for m in MEASURES}
        line |= {"warnings": len(qc["warnings"]), "named": "; ".join(reasons.get(who_of(qc), [])) or None}
        rows.append(line)
    return list(dictionary), rows, dictionary
