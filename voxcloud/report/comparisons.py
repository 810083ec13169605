"""What the page shows of each comparison that found something, within a budget of bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import Any

from voxcloud.report import words
from voxcloud.report.figures_brain import Background, Found, find_clusters, load_background, slices, viewer
from voxcloud.report.figures_glass import glass_brain
from voxcloud.report.figures_trajectories import cluster_figure
from voxcloud.report.overview import warning_kind, warnings_of_all
from voxcloud.report.results import Comparison, Results, Tree, effect_units, scores_of
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
    said_of_all = warnings_of_all(results)
    return [
        _section(results, comparison, background, budget, rank < viewers, said_of_all)
        for rank, comparison in enumerate(results.found)
    ]


def _section(
    results: Results,
    comparison: Comparison,
    background: Background,
    budget: Budget,
    with_viewer: bool,
    said_of_all: Set[str],
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
        "short": _short(results, tree),
        "model": tree["model"],
        "test": words.asked(tree, None),
        "tree": tree,
        "units": effect_units(tree),
        "permuted": comparison.permuted_beside,
        # Uncorrected p and q of clusters are those of random fields: beside permutation p values they would mislead.
        "by_theory": not comparison.permuted_instead,
        "statistic": name,
        "warnings": [w for w in tree.get("warnings", []) if warning_kind(tree, w) not in said_of_all],
        "rows": cluster_rows(comparison),
        "maps": dict(tree.get("maps", {})),
        "background": background.name,
        "figures": figures,
        "shown": budget.left > 0,
        "glass": "",
        "slices": "",
        "viewer": "",
        "drawn": 0,
        "note": "",
    }
    if found is not None and found.limit > 0:
        section["glass"] = budget.take(glass_brain(found, name, title))
        section["slices"] = budget.take(slices(found, clusters[:SLICES], background, name, title))
        section["drawn"] = min(SLICES, len(clusters))
        section["note"] = _note(found)
        if with_viewer:
            section["viewer"] = budget.take(viewer(found, ""))
    return section


def _short(results: Results, tree: Tree) -> str:
    """Return what tells a comparison from the others of its model, for the table of contents."""
    several = len((results.designs.get(str(tree["model"]), {}).get("contrasts")) or {}) > 1
    name = " ".join(t for t in (words.map_name(str(tree["map"])), str(tree.get("label", ""))) if t)
    coefficient = "" if tree["coefficient"] == "value" else f", {tree['coefficient']}"
    return f"{name}{coefficient}" + (f", {tree['contrast']}" if several else "")


def by_model(results: Results, sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather sections under their models, in the study's order."""
    models = dict.fromkeys([*results.designs, *(str(s["model"]) for s in sections)])
    gathered = [(m, [s for s in sections if str(s["model"]) == m]) for m in models]
    return [{"model": m, "key": f"results-{m}", "sections": own} for m, own in gathered if own]


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


def cluster_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of the cluster table: numbers as printed, with all digits beside them."""
    rows = []
    regression = scores_of(comparison.tree) is not None
    for number, (search, cluster) in enumerate(comparison.found, 1):
        peak = cluster["peaks"][0]
        influence = cluster.get("influence") or {}
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
                    for k in ("p_fwe", "p_family", "p_permutation", "p_random_field", "p_uncorrected", "q_fdr")
                },
                "peak": _peak(peak),
                "sub_peaks": [_peak(p) for p in cluster["peaks"][1:]],
                "influence": _influence(influence),
                "flagged": bool(influence.get("flagged")),
                "between": _between(cluster, regression),
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
        "p": words.NONE if low is None else " to ".join(dict.fromkeys((words.p_text(low), words.p_text(high)))),
        "flagged": words.listed([str(p) for p in influence.get("flagged_participants", [])], 5),
    }


def _bf01(compared: Mapping[str, Any]) -> str:
    return f"BF01 = {words.number(compared['bf01'])} (at most {words.fixed(compared['bf01_max'])})"


def _between(cluster: Mapping[str, Any], regression: bool) -> dict[str, str] | None:
    between, compared = cluster.get("between"), cluster.get("comparison")
    if not between:
        return None
    low, high = between.get("ci") or (None, None)
    held_out, n = (between.get(f"cross_validated_{k}") for k in ("t", "n"))
    return {
        "t": f"t({words.degrees(between.get('df'))}) = {words.fixed(between['t'])}",
        "p": words.p_phrase(between.get("p")),
        # For a regression the effect over the residual SD is per unit of the score: no standardised difference.
        "d": "" if regression else f"d = {words.fixed(between.get('cohens_d'))}",
        "bf01": _bf01(compared) if compared else "",
        "effect": words.number(between.get("effect")),
        "interval": f"[{words.number(low)}, {words.number(high)}]",
        "held_out": f"t = {words.fixed(held_out)}" if held_out is not None else words.NONE,
        "held_out_n": f"n = {n}" if held_out is not None and n is not None else "",
    }


def _cluster_figures(results: Results, comparison: Comparison, budget: Budget) -> list[dict[str, Any]]:
    tree = comparison.tree
    days = (results.designs.get(str(tree["model"]), {}).get("time") or {}).get("reference_days", [])
    score = scores_of(tree)
    figures = []
    for number, (_, cluster) in enumerate(comparison.found[:CLUSTER_FIGURES], 1):
        made = cluster_figure(cluster, tree, days, score, results.group_places) if budget.left > 0 else None
        if made is None:
            continue
        figure, groups = made
        figures.append(
            {
                "number": number,
                "svg": budget.take(figure),
                "where": words.place(cluster),
                "key": [
                    {
                        "number": k + 1,
                        "name": g or "all participants",
                        "n": n,
                        "colour": colour(results.group_places.get(g, k)),
                    }
                    for k, (g, n) in enumerate(groups)
                ],
            }
        )
    return figures
