"""The page on the diffusion of a cohort: what is wrong first, then every session beside the others."""

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
from voxcloud.report.qc_dwi_figures import histograms
from voxcloud.report.qc_dwi_measures import MAPS, PICTURES, SAME_SHELL, dwi_measures, find_dwi_outliers
from voxcloud.report.qc_outliers import FEWEST_SESSIONS, Measure, Outlier, by_session, who_of
from voxcloud.report.qc_page import render
from voxcloud.report.qc_strips import strip
from voxcloud.report.words import count, listed

__all__ = ["cohort_page", "cohort_table", "find_dwi_outliers"]

Quality = Mapping[str, Any]

# As on the page of maps: pictures of so many bytes, so many histograms in black.
PICTURE_BYTES = 4_500_000
MOST_BLACK = 12


def cohort_page(
    study_name: str,
    qcs: Sequence[Quality],
    failed: Mapping[str, str],
    warnings: Sequence[str],
    *,
    other: str = "",
) -> str:
    """Return the page of all sessions with diffusion, complete in itself.

    Parameters
    ----------
    study_name
        Name of the study.
    qcs
        Quality control of every session, in the order of participants and sessions.
    failed
        Session (``sub-01_ses-2``) to why it has no maps.
    warnings
        Sentences that concern several sessions.
    other
        Where the page on quantitative maps lies, relative to this one; empty if there is none.
    """
    measures, odd = dwi_measures(qcs), find_dwi_outliers(qcs)
    shown, unseen = pictures_that_fit(qcs, tuple(PICTURES), PICTURE_BYTES)
    return render(
        "qc_dwi_cohort.html.j2",
        name=study_name,
        other=other,
        numbers=tiles(qcs, failed, odd, "maps"),
        failed=sorted(failed.items()),
        cautions=_cautions(qcs),
        odd=by_session(odd),
        kinds=KINDS,
        published=[],
        pages={who_of(qc): qc["page"] for qc in qcs},
        warnings=grouped_warnings(warnings, qcs),
        fewest=FEWEST_SESSIONS,
        enough=len(qcs) >= FEWEST_SESSIONS,
        strips=_strips(measures, qcs, odd),
        zeros=[m.title for m in measures if is_all_zero(m, qcs)],
        histograms=_histograms(measures, qcs, odd),
        sessions=cards(qcs, shown, odd, PICTURES),
        cell=max(len(shown), 2) * 66 + 24,
        unseen=[PICTURES.get(k, k) for k in unseen],
        made=[(words, count(n, "session")) for words, n in made_ways(qcs, _how).items()],
        table=numbers_table(qcs, odd, measures),
        table_name="qc_dwi",
    )


def cohort_table(qcs: Sequence[Quality]) -> tuple[list[str], Rows, Dictionary]:
    """Return columns, rows and data dictionary of ``tables/qc_dwi.tsv``."""
    own: dict[str, tuple[str, Callable[[Quality], object]]] = {
        "volumes": ("Number of volumes.", lambda qc: qc["n_volumes"]),
        "shells": ("b-values in s/mm2, each with its number of directions.", _shells),
        "frame": ("What the images say of the frame of b-vectors: right, wrong or unclear.", _frame),
        "distortion": ("How distortion by the static field was corrected; none where it was not.", _distortion),
    }
    return measured_table(qcs, dwi_measures(qcs), find_dwi_outliers(qcs), own)


def _shells(qc: Quality) -> str:
    return ", ".join(f"{s['b']:.0f} ({s['directions']})" for s in qc["shells"])


def _frame(qc: Quality) -> object:
    return (qc["frame"] or {}).get("verdict")


def _distortion(qc: Quality) -> str:
    return str((qc["susceptibility"] or {}).get("method", "none"))


def _how(qc: Quality) -> str:
    """Return how a session's maps were made, in words."""
    found = []
    for key, value in qc["made"].items():
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).lower()
        if isinstance(value, Mapping):
            found += [f"{name} {own}" for name, own in sorted(value.items())]
        elif value is True:
            found.append(word)
        elif value is False or value == "none":
            found.append(f"no {word}")
        elif value:
            found.append(f"{word} {value}")
    return ", ".join(found)


def _cautions(qcs: Sequence[Quality]) -> list[str]:
    """Return what concerns the cohort as a whole: sessions that were scanned or processed in different ways."""
    found = mixed_ways(qcs, _how)
    tables = _tables(qcs)
    if len(tables) > 1:
        most = max(tables, key=lambda words: len(tables[words]))
        others = [f"{words} in {listed(who, 6)}" for words, who in tables.items() if words != most]
        found.append(
            f"Sessions have different gradient tables, most of them {most}; {listed(others)}: MD and FA depend on b "
            "and on the number of directions."
        )
    found += different_strengths(qcs, "SNR and contrast differ with them")
    return found


def _tables(qcs: Sequence[Quality]) -> dict[str, list[str]]:
    """Return gradient tables in words, with their sessions; b-values within a tenth are the same."""
    found: dict[str, list[str]] = {}
    known: list[tuple[list[tuple[float, int]], str]] = []
    for qc in qcs:
        own = [(float(s["b"]), int(s["directions"])) for s in qc["shells"]]
        words = next((text for other, text in known if _alike(own, other)), None)
        if words is None:
            words = ", ".join(f"{n} directions at b = {b:.0f}" for b, n in own)
            known.append((own, words))
        found.setdefault(words, []).append(who_of(qc))
    return found


def _alike(one: Sequence[tuple[float, int]], other: Sequence[tuple[float, int]]) -> bool:
    return len(one) == len(other) and all(
        n == m and abs(a - b) <= SAME_SHELL * b for (a, n), (b, m) in zip(one, other, strict=True)
    )


def _strips(measures: Sequence[Measure], qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[Any]:
    named: dict[str, set[str]] = {}
    for outlier in odd:
        named.setdefault(outlier.measure, set()).add(outlier.who)
    figures = [strip(m, qcs, named.get(m.title, set())) for m in measures]
    return [figure for figure in figures if figure is not None]


def _histograms(measures: Sequence[Measure], qcs: Sequence[Quality], odd: Sequence[Outlier]) -> list[str]:
    map_of = {m.title: m.map for m in measures}
    marks = {}
    for name in MAPS:
        named = {o.who for o in odd if map_of.get(o.measure) == name}
        marks[name] = [who_of(qc) in named and len(named) <= MOST_BLACK for qc in qcs if name in qc["maps"]]
    return histograms(qcs, max(0.12, min(1.0, 6.0 / max(len(qcs), 1))), marks)
