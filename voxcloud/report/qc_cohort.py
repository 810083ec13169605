"""The page on a cohort's quality: what is wrong first, then every session beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.report.qc_outliers import FEWEST_SESSIONS, MEASURES, Measure, Outlier, find_outliers, who_of
from voxcloud.report.qc_page import data_url, histogram_panel, render
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.svg import FAINT, PALETTE, Panel, row, spread
from voxcloud.report.words import MAP_NAMES, number

__all__ = ["cohort_page", "cohort_table", "find_outliers"]

Quality = Mapping[str, Any]
PLAIN, NAMED = PALETTE[0], PALETTE[1]
# Wider strips than this are scrolled.
SESSION_PIXELS, WIDEST = 13, 980


def cohort_page(study_name: str, qcs: Sequence[Quality], failed: Mapping[str, str], warnings: Sequence[str]) -> str:
    """Return the page of all sessions.

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
    named = {o.who for o in outliers}
    return render(
        "qc_cohort.html.j2",
        name=study_name,
        numbers=[
            (number(len(qcs)), "sessions with maps"),
            (number(len({qc["participant_id"] for qc in qcs})), "participants"),
            (number(len(failed)), "sessions failed"),
            (number(len(named)), "sessions to look at"),
        ],
        failed=sorted(failed.items()),
        outliers=outliers,
        pages={who_of(qc): qc["page"] for qc in qcs},
        warnings=list(dict.fromkeys([*warnings, *(text for qc in qcs for text in qc["warnings"])])),
        fewest=FEWEST_SESSIONS,
        enough=len(qcs) >= FEWEST_SESSIONS,
        strips=[figure for m in MEASURES if (figure := _strip(m, qcs, outliers))],
        histograms=_histograms(qcs),
        sessions=[
            {
                "who": who_of(qc),
                "page": qc["page"],
                "named": who_of(qc) in named,
                "pictures": [(MAP_NAMES.get(k, k), data_url(png)) for k, png in qc["thumbnails"].items()],
            }
            for qc in qcs
        ],
        made=_made(qcs),
        table=_table(qcs),
    )


def _strip(measure: Measure, qcs: Sequence[Quality], outliers: Sequence[Outlier]) -> str:
    """Return one measure of every session from left to right, a person's sessions joined."""
    values = [measure.value(qc) for qc in qcs]
    known = [v for v in values if v is not None]
    if not known:
        return ""
    people = [str(qc["participant_id"]) for qc in qcs]
    starts = [k for k, person in enumerate(people) if k == 0 or person != people[k - 1]]
    low, high = spread(known, 0.12)
    expected = _expected(measure, qcs)
    if expected is not None:
        low, high = min(low, expected[0]), max(high, expected[1])
    width = min(max(110 + SESSION_PIXELS * len(qcs), 320), WIDEST)
    panel = Panel(
        (-0.7, len(qcs) - 0.3),
        (low, high),
        width=width,
        height=190,
        title=f"{measure.title} ({measure.units})",
        x_ticks=starts,
        x_tick_labels=[people[k] for k in starts],
        x_label="participant",
    )
    if expected is not None:
        panel.band([-0.7, len(qcs) - 0.3], [expected[0]] * 2, [expected[1]] * 2, "#52606d")
    for first, last in zip(starts, [*starts[1:], len(qcs)], strict=True):
        own = [(k, v) for k, v in enumerate(values[first:last], first) if v is not None]
        panel.line([k for k, _ in own], [v for _, v in own], FAINT, 1.6)
    named = {o.who for o in outliers if o.measure == measure.title}
    for k, (qc, value) in enumerate(zip(qcs, values, strict=True)):
        if value is not None:
            odd = who_of(qc) in named
            hover = f"{who_of(qc)}: {number(value)} {measure.units}"
            panel.dot(k, value, NAMED if odd else PLAIN, 4.5 if odd else 3.0, hover, shape=3 if odd else 0)
    return row([panel], f"{measure.title} of {len(known)} sessions, from {number(min(known))} to {number(max(known))}")


def _expected(measure: Measure, qcs: Sequence[Quality]) -> tuple[float, float] | None:
    name, _, tissue = measure.key.partition("_")
    found = published_range(qcs[0], name, tissue)
    return None if found is None else (found.low, found.high)


def _histograms(qcs: Sequence[Quality]) -> list[str]:
    figures = []
    for name in dict.fromkeys(name for qc in qcs for name in qc["maps"] if name != "M0map"):
        own = [qc["maps"][name] for qc in qcs if name in qc["maps"]]
        ranges = {tissue: published_range(qcs[0], name, tissue) for tissue in ("WM", "GM")}
        panel = histogram_panel(
            MAP_NAMES.get(name, name),
            own[0]["units"],
            [numbers["histogram"] for numbers in own],
            ranges,
            max(0.12, min(1.0, 6.0 / len(own))),
        )
        if panel is not None:
            figures.append(row([panel], f"Histograms of {panel.title} of {len(own)} sessions"))
    return figures


def _made(qcs: Sequence[Quality]) -> list[tuple[str, str]]:
    """Return how maps were made, with the number of sessions of each way."""
    found: dict[str, int] = {}
    for qc in qcs:
        words = ", ".join(f"{key} {value}" for key, value in qc["made"].items())
        found[words] = found.get(words, 0) + 1
    return [(words, f"{count} session{'s' if count > 1 else ''}") for words, count in found.items()]


def _table(qcs: Sequence[Quality]) -> dict[str, Any]:
    columns = [m for m in MEASURES if any(m.value(qc) is not None for qc in qcs)]
    return {
        "heads": [(m.title, m.units) for m in columns],
        "rows": [(who_of(qc), qc["page"], [number(m.value(qc)) for m in columns]) for qc in qcs],
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
