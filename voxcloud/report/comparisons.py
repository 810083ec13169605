"""What the page shows of each comparison that found something, within a budget of bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from voxcloud.report import words
from voxcloud.report.figures_brain import Background, Found, find_clusters, glass_brain, load_background, slices, viewer
from voxcloud.report.figures_trajectories import cluster_figure
from voxcloud.report.results import Comparison, Results, Tree, scores_of
from voxcloud.report.svg import colour

LOG = logging.getLogger(__name__)

# The page stays under 15 MB: figures stop here, tables go on.
FIGURE_BYTES = 9_500_000
VIEWERS = 3
SLICES = 4
CLUSTER_FIGURES = 6


class Budget:
    """Counts the bytes of figures; after the first that does not fit it takes no more: none is drawn in vain."""

    def __init__(self, limit: int = FIGURE_BYTES) -> None:
        self.left = limit

    def take(self, figure: str) -> str:
        """Return the figure, or nothing where it does not fit any more."""
        if len(figure) > self.left:
            self.left = 0
            return ""
        self.left -= len(figure)
        return figure


def comparison_sections(
    results: Results, template_image: str | None, budget: Budget, viewers: int = VIEWERS
) -> list[dict[str, Any]]:
    """Return one section per comparison with significant clusters, the smallest p first."""
    if not results.found:
        return []
    background = load_background(template_image)
    return [
        _section(results, comparison, background, budget, rank < viewers)
        for rank, comparison in enumerate(results.found)
    ]


def _section(
    results: Results, comparison: Comparison, background: Background, budget: Budget, with_viewer: bool
) -> dict[str, Any]:
    tree = comparison.tree
    name = "t" if comparison.is_t else "F"
    found = find_clusters(results, comparison) if budget.left > 0 else None
    clusters = [c for _, c in comparison.found]
    title = words.comparison_title(tree)
    figures = _cluster_figures(results, comparison, budget)
    section: dict[str, Any] = {
        "key": comparison.key,
        "title": title,
        "model": tree["model"],
        "test": words.asked(tree, None),
        "tree": tree,
        "units": tree.get("units", ""),
        "statistic": name,
        "warnings": tree.get("warnings", []),
        "rows": cluster_rows(comparison),
        "maps": dict(tree.get("maps", {})),
        "sentence": _sentence(comparison),
        "background": background.name,
        "figures": figures,
        "figure_words": _figure_words(figures),
        "shown": budget.left > 0,
        "glass": "",
        "slices": "",
        "viewer": "",
        "drawn": 0,
        "note": "",
    }
    if found is not None and found.limit > 0:
        section["glass"] = budget.take(glass_brain(found, name))
        section["slices"] = budget.take(slices(found, clusters[:SLICES], background, name))
        section["drawn"] = min(SLICES, len(clusters))
        section["note"] = _note(found)
        if with_viewer:
            section["viewer"] = budget.take(viewer(found, ""))
    return section


def _note(found: Found) -> str:
    notes = []
    if found.uncut:
        notes.append(
            f"{words.count(found.uncut, 'cluster goes', 'clusters go')} on outside the search volume, drawn "
            "whole here; "
            "the table gives the part inside."
        )
    if found.lost:
        notes.append(
            f"{words.count(found.lost, 'cluster')} could not be drawn: the map is below the threshold at the "
            "listed peak."
        )
    return " ".join(notes)


def _sentence(comparison: Comparison) -> str:
    tree = comparison.tree
    clusters = [c for _, c in comparison.found]
    first_search, first = comparison.found[0]
    text = (
        f"{words.count(len(clusters), 'significant cluster')}; the strongest at {words.place(first)} "
        f"({words.asked(tree, first_search['direction'])}; {words.p_phrase(first['p_fwe'], 'p(FWE)')}, "
        f"{words.p_phrase(first.get('p_family'), 'p(family)')})."
    )
    flagged = sum(bool((c.get("influence") or {}).get("flagged")) for c in clusters)
    return text + (f" {words.count(flagged, 'cluster')} flagged: one participant decides." if flagged else "")


def cluster_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of the cluster table: numbers as printed, with all digits beside them."""
    rows = []
    for number, (search, cluster) in enumerate(comparison.found, 1):
        peak = cluster["peaks"][0]
        influence, between = cluster.get("influence") or {}, cluster.get("between") or {}
        rows.append(
            {
                "number": number,
                "region": str(cluster.get("region") or words.NONE),
                "volume": search["volume"],
                "direction": search["direction"],
                "size": words.number(int(cluster["size_voxels"])),
                "mm3": words.number(round(float(cluster.get("size_mm3", 0)))),
                "edge": bool(cluster.get("touches_edge") or cluster.get("cut")),
                **{
                    k: (words.p_text(cluster.get(k)), words.exact(cluster.get(k)))
                    for k in ("p_fwe", "p_family", "p_uncorrected", "q_fdr")
                },
                "peak": _peak(peak),
                "sub_peaks": [_peak(p) for p in cluster["peaks"][1:]],
                "influence": _influence(influence),
                "flagged": bool(influence.get("flagged")),
                "between": _between(between),
            }
        )
    return rows


def _peak(peak: Tree) -> dict[str, Any]:
    return {
        "t": words.fixed(peak["t"]),
        "z": words.fixed(peak["z"]),
        "p_fwe": words.p_text(peak.get("p_fwe")),
        "where": words.coordinates(peak).removesuffix(" mm").strip("()"),
        "exact": f"t {words.exact(peak['t'])}; z {words.exact(peak['z'])}; p(FWE) {words.exact(peak.get('p_fwe'))}",
    }


def _influence(influence: Mapping[str, Any]) -> dict[str, str] | None:
    if not influence:
        return None
    low, high = influence.get("loo_p_min"), influence.get("loo_p_max")
    return {
        "who": str(influence.get("largest_participant", "")),
        "share": f"{100 * float(influence['share']):.0f} %" if influence.get("share") is not None else words.NONE,
        "t": f"{words.fixed(influence.get('loo_t_min'))} to {words.fixed(influence.get('loo_t_max'))}",
        "p": f"{words.p_text(low)} to {words.p_text(high)}" if low is not None else words.NONE,
        "flagged": words.listed([str(p) for p in influence.get("flagged_participants", [])], 5),
    }


def _between(between: Mapping[str, Any]) -> dict[str, str] | None:
    if not between:
        return None
    low, high = between.get("ci") or (None, None)
    held_out, p, n = (between.get(f"cross_validated_{k}") for k in ("t", "p", "n"))
    beside = "; ".join([*([words.p_phrase(p)] if p is not None else []), *([f"n = {n}"] if n is not None else [])])
    return {
        "t": f"t({words.degrees(between.get('df'))}) = {words.fixed(between['t'])}",
        "p": words.p_text(between.get("p")),
        "d": words.fixed(between.get("cohens_d")),
        "effect": words.number(between.get("effect")),
        "interval": f"[{words.number(low)}, {words.number(high)}]",
        "held_out": words.fixed(held_out),
        "held_out_n": f"({beside})" if beside and held_out is not None else "",
    }


def _figure_words(figures: list[dict[str, Any]]) -> str:
    """Return the caption that the figures of one comparison share."""
    score = next((f["score"] for f in figures if f["score"]), "")
    days = any(f["days"] for f in figures)
    text = ""
    if days:
        text += (
            "Mean of each cluster over real days, as measured and as change since the first day: thin lines are "
            "participants, thick lines "
            "group means with 95 % intervals across the participants seen at that visit. "
        )
    if score:
        text += (
            f"Coefficient against {score}: raw values with their least-squares line; the test also adjusts for "
            "the other columns of the design. "
        )
    else:
        text += (
            "Each participant's coefficient with group means and 95 % intervals; the participant with the largest "
            "share of the contrast is named. "
        )
    return text + "All of it is descriptive: the voxels were selected by this contrast on the same data."


def _cluster_figures(results: Results, comparison: Comparison, budget: Budget) -> list[dict[str, Any]]:
    tree = comparison.tree
    days = (results.designs.get(str(tree["model"]), {}).get("time") or {}).get("reference_days", [])
    score = scores_of(tree)
    figures = []
    for number, (_, cluster) in enumerate(comparison.found[:CLUSTER_FIGURES], 1):
        made = cluster_figure(cluster, tree, days, score) if budget.left > 0 else None
        if made is None:
            continue
        figure, groups = made
        figures.append(
            {
                "number": number,
                "svg": budget.take(figure),
                "where": words.place(cluster),
                "score": score[0] if score else "",
                "days": bool(cluster.get("trajectories")),
                "key": [
                    {"number": k + 1, "name": g or "all participants", "n": n, "colour": colour(k)}
                    for k, (g, n) in enumerate(groups)
                ],
            }
        )
    return figures
