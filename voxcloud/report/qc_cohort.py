"""The page on a cohort's quality: what is wrong first, then every session beside the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.report.qc_cohort_parts import (
    KINDS,
    Dictionary,
    Rows,
    cards,
    different_strengths,
    grouped_warnings,
    is_all_zero,
    made_ways,
    measured_table,
    mixed_ways,
    numbers_table,
    pictures_that_fit,
    tiles,
)
from voxcloud.report.qc_outliers import FEWEST_SESSIONS, MEASURES, Outlier, by_session, find_outliers, who_of
from voxcloud.report.qc_page import MAP_TITLES, histogram_panel, render
from voxcloud.report.qc_ranges import published_range
from voxcloud.report.qc_strips import b1_strip, strip
from voxcloud.report.svg import row
from voxcloud.report.words import count, number

__all__ = ["Outlier", "cohort_page", "cohort_table", "find_outliers"]

Quality = Mapping[str, Any]

# Pictures of so many bytes (base64) go into the page; of more sessions, fewer maps are shown.
PICTURE_BYTES = 4_500_000
# So many histograms in black can be told apart.
MOST_BLACK = 12
PICTURE_ORDER = ("R1map", "MTsat", "R2starmap", "TB1map", "PDmap", "M0map")
MADE = {"Preset": "preset", "B1Method": "B1+ by"}


def cohort_page(
    study_name: str,
    qcs: Sequence[Quality],
    failed: Mapping[str, str],
    warnings: Sequence[str],
    *,
    other: str = "",
) -> str:
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
    other
        Where the page on diffusion lies, relative to this one; empty if there is none.
    """
    outliers = find_outliers(qcs)
    odd = [o for o in outliers if o.kind != "published"]
    published = [o for o in outliers if o.kind == "published"]
    shown, unseen = pictures_that_fit(qcs, PICTURE_ORDER, PICTURE_BYTES)
    return render(
        "qc_cohort.html.j2",
        name=study_name,
        other=other,
        numbers=tiles(qcs, failed, odd, "maps"),
        failed=sorted(failed.items()),
        cautions=_cautions(qcs),
        odd=by_session(odd),
        kinds=KINDS,
        published=_by_measure(published, qcs),
        pages={who_of(qc): qc["page"] for qc in qcs},
        warnings=grouped_warnings(warnings, qcs),
        fewest=FEWEST_SESSIONS,
        enough=len(qcs) >= FEWEST_SESSIONS,
        strips=_strips(qcs, odd),
        zeros=[m.title for m in MEASURES if is_all_zero(m, qcs)],
        histograms=_histograms(qcs, odd),
        sessions=cards(qcs, shown, odd, MAP_TITLES),
        cell=max(len(shown), 2) * 66 + 24,
        unseen=[MAP_TITLES.get(k, k) for k in unseen],
        made=[(words, count(n, "session")) for words, n in made_ways(qcs, _how).items()],
        table=numbers_table(qcs, odd, MEASURES),
        table_name="qc_mpm",
    )


def _cautions(qcs: Sequence[Quality]) -> list[str]:
    """Return what concerns the cohort as a whole: maps that were made in different ways cannot be compared."""
    return mixed_ways(qcs, _how) + different_strengths(qcs, "R1 and R2* differ with them")


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


def _strips(qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[Any]:
    named: dict[str, set[str]] = {}
    for outlier in odd:
        named.setdefault(outlier.measure, set()).add(outlier.who)
    b1 = [m for m in MEASURES if m.key.startswith("b1_") and m.key != "b1_missing"]
    figures = [strip(m, qcs, named.get(m.title, set())) for m in MEASURES if m not in b1]
    figures.append(b1_strip(qcs, set().union(*(named.get(m.title, set()) for m in b1))))
    return [figure for figure in figures if figure is not None]


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


def cohort_table(qcs: Sequence[Quality]) -> tuple[list[str], Rows, Dictionary]:
    """Return columns, rows and data dictionary of ``tables/qc_mpm.tsv``."""
    own: dict[str, tuple[str, Callable[[Quality], object]]] = {
        "preset": ("Preset of the settings.", lambda qc: qc["made"]["Preset"]),
        "b1_method": ("B1+ acquisition; none where there was none.", lambda qc: qc["made"]["B1Method"]),
    }
    return measured_table(qcs, MEASURES, find_outliers(qcs), own)
