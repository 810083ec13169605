"""Every search at a glance: small tables by model, contrast and tissue; maps down, coefficients and volumes across."""

from __future__ import annotations

from typing import Any

from voxcloud.report import words
from voxcloud.report.results import Comparison, Results, Tree
from voxcloud.report.tables import search_rows

SIGNS = {"greater": "+", "less": words.MINUS}


def search_tables(results: Results) -> list[dict[str, Any]]:
    """Return the smallest p(FWE) of every search, gathered to tables that a page can hold."""
    tables: dict[tuple[str, str, str], dict[str, Any]] = {}
    for comparison in sorted(results.comparisons, key=lambda c: _place(results, c.tree)):
        tree = comparison.tree
        key = (str(tree["model"]), str(tree["contrast"]), str(tree.get("label", "")))
        table = tables.setdefault(key, {"rows": {}, "columns": {}, "test": words.asked(tree, None)})
        volumes = dict.fromkeys(str(s["volume"]) for s in tree["searches"])
        for volume in volumes:
            column = (str(tree["coefficient"]), volume)
            table["columns"][column] = None
            found = [s for s in tree["searches"] if str(s["volume"]) == volume]
            table["rows"].setdefault(words.map_name(str(tree["map"])), {})[column] = _cell(comparison, found)
    return [_printed(key, table) for key, table in tables.items()]


def _place(results: Results, tree: Tree) -> tuple[int, str, int, int, int]:
    """Return where a comparison stands: by model, contrast, label, map and coefficient as the study names them."""
    stacks = [(str(s["map"]), str(s.get("label", ""))) for s in results.cohort.get("stacks", [])]
    maps, labels = (list(dict.fromkeys(s[k] for s in stacks)) for k in (0, 1))
    models = list(results.designs)
    terms = [str(t) for t in (results.designs.get(str(tree["model"]), {}).get("time") or {}).get("terms", [])]

    def index(items: list[str], name: str) -> int:
        return items.index(name) if name in items else len(items)

    return (
        index(models, str(tree["model"])),
        str(tree["contrast"]),
        index(labels, str(tree.get("label", ""))),
        index(maps, str(tree["map"])),
        index(terms, str(tree["coefficient"])),
    )


def _cell(comparison: Comparison, searches: list[Tree]) -> dict[str, Any]:
    """Return the direction with the smallest p in one volume; a search without a cluster has none."""
    with_clusters = [s for s in searches if s["clusters"]]
    if not with_clusters:
        return {"text": "", "title": f"no cluster in {words.count(len(searches), 'search', 'searches')}", "hit": False}
    best = min(with_clusters, key=lambda s: float(s["p_fwe_min"]))
    sign = SIGNS.get(str(best["direction"]), "") if comparison.is_t else ""
    hit = any(c["significant"] for s in searches for c in s["clusters"])
    return {
        "text": f"{sign} {words.p_text(best['p_fwe_min'])}".strip(),
        "title": f"p(FWE) {words.exact(best['p_fwe_min'])}, p(family) {words.exact(best.get('p_family_min'))}",
        "hit": hit,
        "key": comparison.key if hit else "",
        "family": hit and float(best.get("p_family_min", 1.0)) <= float(best["alpha"]),
    }


def _printed(key: tuple[str, str, str], table: dict[str, Any]) -> dict[str, Any]:
    model, contrast, label = key
    columns = list(table["columns"])
    coefficients: dict[str, int] = {}
    for coefficient, _ in columns:
        coefficients[coefficient] = coefficients.get(coefficient, 0) + 1
    return {
        "model": model,
        "contrast": contrast,
        "test": table["test"],
        "tissue": words.tissue_words({"label": label}),
        "coefficients": [(words.coefficient_words(c), n) for c, n in coefficients.items()],
        "volumes": [volume for _, volume in columns],
        "rows": [(name, [cells.get(c) for c in columns]) for name, cells in table["rows"].items()],
    }


def cluster_searches(results: Results) -> list[dict[str, Any]]:
    """Return the searches that found a cluster, with smoothness and volume."""
    keys = {id(s): c.key for c in results.found for s in c.tree["searches"]}
    pairs = list(results.searches())
    rows = [
        {**row, "key": keys.get(id(search), ""), "stack": words.map_name(row["map"])}
        for row, (_, search) in zip(search_rows(results), pairs, strict=True)
        if search["clusters"]
    ]
    return sorted(rows, key=lambda r: (r["p_fwe_min"], r["model"], r["map"], r["label"], r["coefficient"]))
