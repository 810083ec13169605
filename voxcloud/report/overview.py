"""What the first page says: stamp, questions, findings in words, who is in, what to be careful about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from voxcloud.report import words
from voxcloud.report.results import Results, Tree
from voxcloud.schema import stack_name

STRICT_FORMING_P = 0.001
MIN_DF = 20.0
MIN_FWHM_VOXELS = 3.0
TOP_FINDINGS = 12

STAMPS = {
    "interim": "Interim analysis, look {look}: {n} participants. P values are not corrected for repeated looks and "
    "may change with more data.",
    "locked": "Locked analysis: data collection is complete and the model is final. {n} participants.",
}


def stamp(results: Results) -> dict[str, str]:
    """Return kind and words of the analysis stamp."""
    kind = str(results.summary.get("analysis") or results.study.get("analysis") or "interim")
    n = words.number(int(results.cohort.get("participants_n", 0)))
    text = STAMPS.get(kind, "Exploratory analysis: {n} participants. Findings are hypotheses, not tests.")
    return {"kind": kind, "words": text.format(look=results.summary.get("look") or 1, n=n)}


def cautions(results: Results) -> list[dict[str, str]]:
    """Return what must be stamped on the page: kind, short words, and how many comparisons it concerns."""
    # Three cautions are of random fields, which decide nothing where permutation does.
    trees = [c.tree for c in results.comparisons if not c.permuted_instead]
    total = len(results.comparisons)
    found: list[dict[str, str]] = []

    def add(kind: str, short: str, concerned: int, of: int, what: str) -> None:
        if concerned:
            found.append({"kind": kind, "short": short, "long": f"{concerned} of {words.count(of, what)}"})

    unweighted = sum(bool(d.get("accepted_unequal_variance")) for d in results.designs.values())
    add(
        "unweighted",
        "plain unweighted fit accepted although missing visits make the coefficients unequally precise",
        unweighted,
        len(results.designs),
        "model",
    )
    liberal = sum(any(float(s.get("cluster_forming_p", 0)) > STRICT_FORMING_P for s in t["searches"]) for t in trees)
    add(
        "liberal",
        "liberal cluster-forming threshold (above p .001): cluster p values are too small",
        liberal,
        total,
        "comparison",
    )
    add(
        "df",
        f"fewer than {MIN_DF:g} error degrees of freedom: random field p values are approximate",
        sum(float(t.get("df") or MIN_DF) < MIN_DF for t in trees),
        total,
        "comparison",
    )
    add(
        "rough",
        f"smoothness below {MIN_FWHM_VOXELS:g} voxels FWHM on an axis: random field p values are inexact",
        sum(min(t.get("fwhm_voxels") or [MIN_FWHM_VOXELS]) < MIN_FWHM_VOXELS for t in trees),
        total,
        "comparison",
    )
    clusters = [c for comparison in results.comparisons for _, c in comparison.found]
    flagged = sum(bool((c.get("influence") or {}).get("flagged")) for c in clusters)
    add(
        "flagged",
        "one participant decides: leaving that person out moves p across the level",
        flagged,
        len(clusters),
        "significant cluster",
    )
    failed = results.summary.get("failed", [])
    if failed:
        found.append(
            {
                "kind": "failed",
                "short": "work units failed: their results are missing here",
                "long": words.count(len(failed), "unit"),
            }
        )
    return found


def grouped_warnings(results: Results) -> list[tuple[str, str]]:
    """Return every warning once, with how many comparisons it concerns; warnings that differ in numbers are one."""
    concerned: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for warning in [*results.cohort.get("warnings", []), *results.summary.get("problems", [])]:
        concerned.setdefault(first.setdefault(str(warning), str(warning)), [])
    for comparison in results.comparisons:
        for warning in comparison.tree.get("warnings", []):
            kind = warning_kind(comparison.tree, warning)
            first.setdefault(kind, str(warning))
            concerned.setdefault(kind, []).append(words.comparison_title(comparison.tree))
    total = len(results.comparisons)
    out = []
    for kind, titles in concerned.items():
        where = ""
        if len(titles) == 1:
            where = titles[0]
        elif titles:
            many = f"all {total}" if len(titles) == total else f"{len(titles)} of {total}"
            where = f"{many} comparisons, with their own numbers; these are of {titles[0]}"
        out.append((first[kind], where))
    return out


def warning_kind(tree: Tree, warning: str) -> str:
    """Return what warnings have in common that differ in numbers and stack only."""
    stack = stack_name(str(tree["map"]), str(tree.get("label", "")))
    return re.sub(r"\d+(\.\d+)?", "#", str(warning).replace(stack, "stack"))


def warnings_of_all(results: Results) -> set[str]:
    """Return the kinds of warning that every comparison has: the first page says them once."""
    kinds = [{warning_kind(c.tree, w) for w in c.tree.get("warnings", [])} for c in results.comparisons]
    return set.intersection(*kinds) if len(kinds) > 1 else set()


def images(results: Results) -> dict[str, Any]:
    """Return how many images of each map and tissue were read."""
    stacks = results.cohort.get("stacks", [])
    labels = list(dict.fromkeys(str(s.get("label", "")) for s in stacks))
    rows: dict[str, dict[str, Any]] = {}
    for stack in stacks:
        row = rows.setdefault(str(stack["map"]), {"units": stack.get("units", ""), "n": {}})
        row["n"][str(stack.get("label", ""))] = words.number(int(stack.get("images", 0)))
    return {
        "labels": [words.tissue_words({"label": label}) or "images" for label in labels],
        "rows": [(words.map_name(m), r["units"], [r["n"].get(k, "") for k in labels]) for m, r in rows.items()],
        "voxels": words.listed([words.number(v) for v in sorted({int(s.get("n_voxels", 0)) for s in stacks})]),
    }


def key_numbers(results: Results) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first."""
    summary = results.summary
    clusters = [c for comparison in results.comparisons for _, c in comparison.found]
    alphas = {s.get("alpha", 0.05) for _, s in results.searches()}
    alpha = next(iter(alphas)) if len(alphas) == 1 else summary.get("alpha", 0.05)
    n = int(summary.get("searches_run", len(list(results.searches()))))
    expected = summary.get("expected_false_positives")
    family = sum((c.get("p_family") if c.get("p_family") is not None else 1.0) <= alpha for c in clusters)
    stacks = results.analysed_stacks
    images = sum(int(s.get("images", 0)) for s in stacks) if stacks else int(results.cohort.get("images_n", 0))
    return [
        (words.number(int(results.cohort.get("participants_n", 0))), "participants"),
        (words.number(images), "images analysed"),
        (words.number(n), "searches run"),
        (
            words.number(expected, 2),
            f"false positives to expect at most if nothing were there (α = {words.level(alpha)} each)",
        ),
        (words.number(len(clusters)), f"clusters with p(FWE) ≤ {words.level(alpha)} in their search"),
        (words.number(family), f"of them also with p(family) ≤ {words.level(alpha)} over all searches"),
    ]


def questions(results: Results) -> list[dict[str, Any]]:
    """Return per model who went in and what was asked."""
    rows = []
    for model in dict.fromkeys([*results.designs, *(str(c.tree["model"]) for c in results.comparisons)]):
        trees = [c.tree for c in results.comparisons if str(c.tree["model"]) == model]
        design = results.designs.get(model, {})
        tests = {str(t["contrast"]): words.asked(t, None) for t in trees} or {
            str(name): words.asked(c, None) for name, c in design.get("contrasts", {}).items()
        }
        names = dict.fromkeys(words.map_name(str(t["map"])) for t in sorted(trees, key=_map_order(results)))
        rows.append(
            {
                "model": model,
                "designed": model in results.designs,
                "who": group_counts(design),
                "fewer": _fewer(design),
                "formula": design.get("formula", ""),
                "estimator": design.get("estimator", ""),
                "maps": "; ".join(
                    t
                    for t in (
                        words.listed(list(names), 20),
                        words.listed(sorted({t for t in map(words.tissue_words, trees) if t})),
                    )
                    if t
                ),
                "coefficients": words.listed(sorted({words.coefficient_words(t["coefficient"]) for t in trees}), 20),
                "contrasts": list(tests.items()),
            }
        )
    return rows


def _map_order(results: Results) -> Callable[[Tree], int]:
    """Return the place of a comparison's map in the list of stacks, as the study named them."""
    order = list(dict.fromkeys(str(s["map"]) for s in results.cohort.get("stacks", [])))
    return lambda tree: order.index(str(tree["map"])) if str(tree["map"]) in order else len(order)


def _fewer(design: Tree) -> str:
    """Say for which maps fewer people than the largest number went in; empty where all have the same."""
    sizes = {stack: max(n.values()) for stack, n in (design.get("stacks") or {}).items() if n}
    most = max(sizes.values(), default=0)
    less = {stack.partition("_label-")[0]: n for stack, n in sizes.items() if n < most}
    return ", ".join(
        f"{n} for {words.listed([words.map_name(m) for m, k in less.items() if k == n], 20)}"
        for n in dict.fromkeys(less.values())
    )


def group_counts(design: Tree) -> list[tuple[str, int]]:
    """Return the groups of a design with their numbers of participants."""
    groups: Mapping[str, str] = design.get("groups", {})
    counts: dict[str, int] = {}
    for person in design.get("participants", []):
        name = str(groups.get(str(person), "")) or "all"
        counts[name] = counts.get(name, 0) + 1
    return list(counts.items())


def findings(results: Results) -> list[dict[str, str]]:
    """Return the strongest findings as rows of a table, smallest p first."""
    pairs = [(c, s, k) for c in results.comparisons for s, k in c.found]
    pairs.sort(key=lambda item: (item[2]["p_fwe"], -abs(float(item[2]["peaks"][0]["t"]))))
    return [_finding(*pair) for pair in pairs[:TOP_FINDINGS]]


def _finding(comparison: Any, search: Tree, cluster: Tree) -> dict[str, str]:
    tree, peak = comparison.tree, cluster["peaks"][0]
    influence = cluster.get("influence") or {}
    return {
        "key": comparison.key,
        "stack": words.stack_words(tree),
        "coefficient": words.coefficient_words(tree["coefficient"]),
        "test": words.asked(tree, search["direction"]),
        "region": str(cluster.get("region") or ""),
        "volume": str(search["volume"]),
        "where": words.coordinates(peak).removesuffix(" mm").strip("()"),
        "size": words.number(int(cluster["size_voxels"])),
        "t": words.fixed(peak["t"]),
        "p": words.p_text(cluster["p_fwe"]),
        "p_exact": words.exact(cluster["p_fwe"]),
        "p_permutation": words.p_text(cluster.get("p_permutation")) if comparison.permuted_beside else "",
        "p_permutation_exact": words.exact(cluster.get("p_permutation")),
        "p_family": words.p_text(cluster.get("p_family")),
        "p_family_exact": words.exact(cluster.get("p_family")),
        "over_family": "yes" if (p := cluster.get("p_family")) is not None and p <= float(search["alpha"]) else "",
        # Those without whom p is across the level; the one with the largest share need not be among them.
        "flag": words.listed([str(p) for p in influence.get("flagged_participants", [])], 5),
    }


FAMILIES = {
    "all": "p(family) also for all {n} searches of the study",
    "model": "p(family) also for all searches of the same model",
    "none": "p(family) is the same, because the study asked for no adjustment over searches",
}


def family_words(results: Results) -> str:
    """Return what p(family) adjusts for."""
    family = str(results.summary.get("family") or results.study.get("family") or "all")
    return FAMILIES.get(family, FAMILIES["all"]).format(n=words.number(results.family_size))
