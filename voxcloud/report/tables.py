"""Tables of a study as TSV files with a data dictionary beside each."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.errors import CorruptStoreError
from voxcloud.report.results import Results, Tree, effect_units, read_results

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
FORMULA_STARTS = ("=", "+", "-", "@")

# column -> (description, units); "" where a column is text or a plain number.
Columns = Mapping[str, tuple[str, str]]

_SEARCH_KEYS: Columns = {
    "model": ("Model of the study file.", ""),
    "map": ("Map analysed.", ""),
    "label": ("Tissue of the map: GM, WM, or n/a for none.", ""),
    "coefficient": ("Time term, or value or difference for models without a time basis.", ""),
    "contrast": ("Name of the contrast.", ""),
    "direction": ("Tail that was searched: greater or less.", ""),
    "volume": ("Search volume.", ""),
}
_PLACE: Columns = {
    "x": ("Peak, left negative, in the space of the study's mask.", "mm"),
    "y": ("Peak, posterior negative.", "mm"),
    "z": ("Peak, inferior negative.", "mm"),
}
CLUSTERS: Columns = {
    "region": ("Region of the highest peak in the study's atlas.", ""),
    **_SEARCH_KEYS,
    "p_fwe": (
        "Cluster p, family-wise error corrected over the search volume: by random fields, or by relabelling where "
        "the study says method: permutation (then p_permutation is the same).",
        "",
    ),
    "p_family": ("p_fwe adjusted over all searches of the family (Bonferroni).", ""),
    "p_uncorrected": ("Cluster p, not corrected; by random field theory whichever p decides.", ""),
    "q_fdr": ("Cluster q, topological false discovery rate; by random field theory whichever p decides.", ""),
    "size_voxels": ("Size.", "voxels"),
    "size_mm3": ("Size.", "mm3"),
    "peak_t": ("Statistic of the highest peak: t, or F for F contrasts.", ""),
    "peak_z": ("z of the same tail probability.", ""),
    **_PLACE,
    "largest_participant": ("Participant with the largest share of the contrast.", ""),
    "share": ("That participant's share of the contrast, 0 to 1.", ""),
    "loo_t_min": ("Smallest t of the cluster mean with one participant left out.", ""),
    "loo_t_max": ("Largest t of the cluster mean with one participant left out.", ""),
    "flagged": ("true where leaving one participant out moves p_random_field across alpha.", ""),
    "between_t": (
        "t of the cluster mean over participants; descriptive: the voxels were selected on the same data.",
        "",
    ),
    "between_p": ("Two-sided p of between_t, descriptive.", ""),
    "loo_p_max": (
        "Largest corrected p of the cluster, by random field theory, with one participant left out; 1 where nothing is "
        "left of it.",
        "",
    ),
    "flagged_participants": (
        "Participants without whom the random field p is on the other side of alpha from p_random_field.",
        "",
    ),
    "effect": ("Contrast of the cluster mean over participants, descriptive.", "as in effect_units"),
    "effect_low": ("Lower end of its 95 % interval.", "as in effect_units"),
    "effect_high": ("Upper end of its 95 % interval.", "as in effect_units"),
    "effect_units": ("Units of effect and its interval.", ""),
    "held_out_t": (
        "t of each participant's mean in the cluster found again without that participant, where all the data had "
        "found it: descriptive, and still too large where there is nothing.",
        "",
    ),
    "welch_t": ("Welch t of the groups' cluster means (one group: one-sample t), without covariates; descriptive.", ""),
    "welch_p": ("Two-sided p of welch_t; descriptive.", ""),
    "bf01": ("JZS Bayes factor for no difference (Cauchy 0.707), from the equal-variance t; descriptive.", ""),
    "bf01_max": ("Largest bf01 that these numbers of people can reach: no bf01 means `no difference` by itself.", ""),
    "n": ("Participants.", ""),
    "df": ("Error degrees of freedom.", ""),
    "p_permutation": (
        "Cluster p against the largest cluster under permutations or sign flips; n/a where none were made.",
        "",
    ),
    "p_random_field": (
        "Cluster p, corrected, by random field theory whichever p decides: p_fwe, unless the study says method: "
        "permutation. Only this one is compared with those of leaving one participant out.",
        "",
    ),
}
PEAKS: Columns = {
    **_SEARCH_KEYS,
    "cluster": ("Number of the cluster in its search.", ""),
    "peak": ("Number of the peak in its cluster, 1 is the highest.", ""),
    "significant": ("true where the cluster is significant (p_fwe at most alpha).", ""),
    "t": ("Statistic: t, or F for F contrasts.", ""),
    "z_score": ("z of the same tail probability.", ""),
    "p_fwe": ("Peak p, family-wise error corrected over the search volume.", ""),
    "p_uncorrected": ("Peak p, not corrected.", ""),
    "q_fdr": ("Peak q, topological false discovery rate; by random field theory whichever p decides.", ""),
    "q_fdr_voxel": ("Voxel-wise false discovery rate at the peak.", ""),
    **_PLACE,
    "p_permutation": (
        "Peak p against the largest peak under permutations or sign flips; n/a where none were made.",
        "",
    ),
}
SEARCHES: Columns = {
    **_SEARCH_KEYS,
    "n": ("Participants.", ""),
    "df": ("Error degrees of freedom.", ""),
    "n_voxels": ("Voxels searched.", "voxels"),
    "fwhm_x_mm": ("Smoothness of the residuals, FWHM.", "mm"),
    "fwhm_y_mm": ("As fwhm_x_mm.", "mm"),
    "fwhm_z_mm": ("As fwhm_x_mm.", "mm"),
    "resels": ("Resels of the search volume in three dimensions.", "resels"),
    "height_threshold": ("Cluster-forming threshold as a statistic.", ""),
    "height_fwe": ("Statistic at which a peak's p_fwe by random field theory is alpha.", ""),
    "height_fdr": ("Smallest statistic whose voxel-wise q is at most alpha; n/a where there is none.", ""),
    "extent_fwe": ("Size at which a cluster's p_fwe by random field theory is at most alpha.", "voxels"),
    "clusters_any_size": ("Clusters of any size.", ""),
    "set_p": ("Set-level p: probability of at least as many clusters of any size.", ""),
    "cluster_forming_p": ("Cluster-forming threshold as p.", ""),
    "min_extent": ("Smallest cluster listed.", "voxels"),
    "alpha": ("Level of the search.", ""),
    "p_fwe_min": ("Smallest cluster p_fwe, 1 without a cluster.", ""),
    "p_family_min": ("p_fwe_min adjusted over the family.", ""),
    "p_holm": ("p_fwe_min adjusted over the family by Holm's step-down method.", ""),
    "clusters": ("Clusters of at least min_extent voxels.", ""),
    "significant": ("Those with p_fwe at most alpha.", ""),
    "relabellings": ("Permutations or sign flips made for the search; n/a for none.", ""),
}
PARTICIPANTS: Columns = {
    "model": ("Model of the study file.", ""),
    "participant_id": ("Participant.", ""),
    "group": ("Group in the model.", ""),
    "n_visits": ("Visits that enter; n/a for models without a time basis.", ""),
    "days": ("Days of these visits since the baseline event, apart by spaces.", "day"),
    "largest_variance_ratio": ("Largest variance of a coefficient over that of the complete design.", ""),
    "left_out_of": ("Coefficients that the participant leaves.", ""),
    "leverage": ("Leverage in the group design.", ""),
}
LEFT_OUT: Columns = {
    "participant_id": ("Participant.", ""),
    "session_id": ("Session; n/a where the whole participant is meant.", ""),
    "what": ("What the participant or image was left out of.", ""),
    "reason": ("Why.", ""),
}


def cell(value: Any) -> str:
    """Return one TSV cell: n/a for nothing, numbers with all digits, text that no spreadsheet takes for a formula.

    Raises
    ------
    CorruptStoreError
        If a number is not finite: a table that says nan would be published as if it were a result.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise CorruptStoreError(f"tables: expected finite numbers, found {value}. Run the study again.")
        return repr(value)
    text = "" if value is None else " ".join(str(value).split())
    if not text:
        return "n/a"
    if text.startswith(FORMULA_STARTS) and not NUMBER.match(text):
        return "'" + text
    return text


def write_tables(output: Path) -> list[Path]:
    """Write the tables of a study to ``tables/`` and return their paths.

    Cells that start like a spreadsheet formula get a leading apostrophe; missing values are ``n/a``, as in BIDS.
    """
    results = read_results(Path(output))
    tables: dict[str, tuple[Columns, Iterable[Mapping[str, Any]]]] = {
        "clusters": (CLUSTERS, cluster_rows(results)),
        "peaks": (PEAKS, peak_rows(results)),
        "searches": (SEARCHES, search_rows(results)),
        "participants": (PARTICIPANTS, participant_rows(results)),
        "left_out": (LEFT_OUT, left_out_rows(results)),
    }
    folder = Path(output) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (columns, rows) in tables.items():
        replace_file(folder / f"{name}.tsv", _tsv(list(columns), rows))
        dictionary = {
            column: {"Description": text, **({"Units": units} if units else {})}
            for column, (text, units) in columns.items()
        }
        replace_file(folder / f"{name}.json", json.dumps(dictionary, indent=2) + "\n")
        written.append(folder / f"{name}.tsv")
    return written


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _tsv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(
        buffer, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None, escapechar=None
    )
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
    return buffer.getvalue()


def _keys(tree: Tree, search: Tree) -> dict[str, Any]:
    first = {k: tree.get(k, "") for k in ("model", "map", "label", "coefficient", "contrast")}
    return {**first, "direction": search["direction"], "volume": search["volume"]}


def cluster_rows(results: Results) -> list[dict[str, Any]]:
    """Return the significant clusters, by comparison and p."""
    rows = []
    for comparison in results.comparisons:
        for search, cluster in comparison.found:
            peak, influence = cluster["peaks"][0], cluster.get("influence") or {}
            rows.append(
                {
                    "region": cluster.get("region", ""),
                    **_keys(comparison.tree, search),
                    **{
                        k: cluster.get(k)
                        for k in ("p_fwe", "p_family", "p_uncorrected", "q_fdr", "size_voxels", "size_mm3")
                    },
                    "peak_t": peak["t"],
                    "peak_z": peak["z"],
                    "x": peak["x"],
                    "y": peak["y"],
                    "z": peak["z_mm"],
                    "largest_participant": _prefixed("sub", influence.get("largest_participant")),
                    **{k: influence.get(k) for k in ("share", "loo_t_min", "loo_t_max", "flagged", "loo_p_max")},
                    "flagged_participants": " ".join(f"sub-{p}" for p in influence.get("flagged_participants", [])),
                    **_between(cluster, comparison.tree),
                    **{k: cluster.get(k) for k in ("p_permutation", "p_random_field")},
                }
            )
    return rows


def _between(cluster: Tree, tree: Tree) -> dict[str, Any]:
    between, compared = cluster.get("between") or {}, cluster.get("comparison") or {}
    low, high = between.get("ci") or (None, None)
    return {
        "between_t": between.get("t"),
        "between_p": between.get("p"),
        "effect": between.get("effect"),
        "effect_low": low,
        "effect_high": high,
        "effect_units": effect_units(tree) if between else "",
        "held_out_t": between.get("cross_validated_t"),
        "welch_t": compared.get("t"),
        "welch_p": compared.get("p"),
        "bf01": compared.get("bf01"),
        "bf01_max": compared.get("bf01_max"),
        "n": tree.get("n"),
        "df": tree.get("df"),
    }


def _prefixed(prefix: str, label: Any) -> str:
    """Return ``sub-05``: as in BIDS, and no program takes it for the number 5."""
    text = "" if label is None else str(label)
    return f"{prefix}-{text}" if text else ""


def left_out_rows(results: Results) -> list[dict[str, Any]]:
    """Return everybody and everything left out, one line per model, stack and coefficient."""
    return [
        {
            **item,
            "participant_id": _prefixed("sub", item.get("participant_id")),
            "session_id": _prefixed("ses", item.get("session_id")),
        }
        for item in results.cohort.get("left_out", [])
    ]


def peak_rows(results: Results) -> list[dict[str, Any]]:
    """Return every listed peak of every listed cluster."""
    return [
        {
            **_keys(comparison.tree, search),
            "cluster": cluster["id"],
            "peak": number,
            "significant": cluster["significant"],
            "t": peak["t"],
            "z_score": peak["z"],
            **{k: peak.get(k) for k in ("p_fwe", "p_uncorrected", "q_fdr", "q_fdr_voxel", "x", "y")},
            "z": peak["z_mm"],
            "p_permutation": peak.get("p_permutation"),
        }
        for comparison, search in results.searches()
        for cluster in search["clusters"]
        for number, peak in enumerate(cluster["peaks"], 1)
    ]


def search_rows(results: Results) -> list[dict[str, Any]]:
    """Return every search that was run, with or without a finding."""
    holm = {tuple(h[k] for k in _SEARCH_KEYS): h["p_holm"] for h in results.summary.get("holm", [])}
    rows = []
    for comparison, search in results.searches():
        tree, keys = comparison.tree, _keys(comparison.tree, search)
        fwhm = list(tree.get("fwhm_mm", [])) or [None] * 3
        rows.append(
            {
                **keys,
                "n": tree.get("n"),
                "df": tree.get("df"),
                "n_voxels": search.get("n_voxels"),
                **dict(zip(("fwhm_x_mm", "fwhm_y_mm", "fwhm_z_mm"), fwhm, strict=True)),
                "resels": search["resels"][-1] if search.get("resels") else None,
                "height_threshold": search.get("height_threshold_t"),
                **{k: search.get(k) for k in ("height_fwe", "height_fdr", "extent_fwe", "clusters_any_size", "set_p")},
                **{k: search.get(k) for k in ("cluster_forming_p", "min_extent", "alpha", "p_fwe_min", "p_family_min")},
                "p_holm": holm.get(tuple(keys.values())),
                "clusters": len(search["clusters"]),
                "significant": sum(bool(c["significant"]) for c in search["clusters"]),
                "relabellings": (search.get("permutation") or {}).get("relabellings"),
            }
        )
    return rows


def participant_rows(results: Results) -> list[dict[str, Any]]:
    """Return who entered which model, with visits, variance ratio and leverage."""
    rows = []
    for model, design in results.designs.items():
        visits = {str(v["participant_id"]): v for v in design.get("visits") or []}
        people = list(dict.fromkeys([*map(str, design.get("participants", [])), *visits]))
        for person in people:
            visit = visits.get(person, {})
            ratios = [r for r in (visit.get("ratio") or {}).values() if r is not None]
            rows.append(
                {
                    "model": model,
                    "participant_id": _prefixed("sub", person),
                    "group": design.get("groups", {}).get(person, ""),
                    "n_visits": visit.get("n_visits"),
                    "days": " ".join(f"{d:g}" for d in visit.get("days", [])) or None,
                    "largest_variance_ratio": max(ratios, default=None),
                    "left_out_of": ", ".join(visit.get("left_out_of") or {}) or None,
                    "leverage": leverage_of(design, person),
                }
            )
    return rows


def leverage_of(design: Tree, person: str) -> float | None:
    """Return a participant's leverage, whether the design lists it by name or by row."""
    leverage = design.get("leverage") or {}
    if isinstance(leverage, Mapping):
        return leverage.get(person)
    people = [str(p) for p in design.get("participants", [])]
    return float(leverage[people.index(person)]) if person in people and len(leverage) == len(people) else None
