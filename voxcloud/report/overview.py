"""What the first page says: stamp, questions, findings in words, who is in, what to be careful about."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    trees = [c.tree for c in results.comparisons]
    total = len(trees)
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
            stack = stack_name(str(comparison.tree["map"]), str(comparison.tree.get("label", "")))
            kind = re.sub(r"\d+(\.\d+)?", "#", str(warning).replace(stack, "stack"))
            first.setdefault(kind, str(warning))
            concerned.setdefault(kind, []).append(words.comparison_title(comparison.tree))
    total = len(results.comparisons)
    out = []
    for kind, titles in concerned.items():
        where = ""
        if len(titles) == 1:
            where = titles[0]
        elif titles:
            where = f"{len(titles)} of {total} comparisons, with other numbers; first {titles[0]}"
        out.append((first[kind], where))
    return out


def key_numbers(results: Results) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first."""
    summary = results.summary
    clusters = [c for comparison in results.comparisons for _, c in comparison.found]
    alphas = {s.get("alpha", 0.05) for _, s in results.searches()}
    alpha = next(iter(alphas)) if len(alphas) == 1 else summary.get("alpha", 0.05)
    n = int(summary.get("searches_run", len(list(results.searches()))))
    expected = summary.get("expected_false_positives")
    family = sum((c.get("p_family") if c.get("p_family") is not None else 1.0) < alpha for c in clusters)
    return [
        (words.number(int(results.cohort.get("participants_n", 0))), "participants"),
        (words.number(int(results.cohort.get("images_n", 0))), "images"),
        (words.number(n), "searches run"),
        (words.number(expected, 2), f"false positives expected if nothing were there (α = {words.level(alpha)} each)"),
        (words.number(len(clusters)), f"clusters with p(FWE) < {words.level(alpha)} in their search"),
        (words.number(family), f"of them also with p(family) < {words.level(alpha)} over all searches"),
    ]


def questions(results: Results) -> list[dict[str, Any]]:
    """Return per model what was asked."""
    rows = []
    for model in dict.fromkeys([*results.designs, *(str(c.tree["model"]) for c in results.comparisons)]):
        trees = [c.tree for c in results.comparisons if str(c.tree["model"]) == model]
        design = results.designs.get(model, {})
        alternatives = {str(t["contrast"]): t for t in trees}
        numbers = sorted({int(t["n"]) for t in trees if t.get("n") is not None}) or [
            len(design.get("participants", []))
        ]
        rows.append(
            {
                "model": model,
                "who": group_counts(design),
                "n": "–".join(dict.fromkeys((str(numbers[0]), str(numbers[-1])))),
                "formula": design.get("formula", ""),
                "estimator": design.get("estimator", ""),
                "maps": words.listed(list(dict.fromkeys(words.stack_words(t) for t in trees)), 20),
                "coefficients": words.listed(
                    list(dict.fromkeys(words.coefficient_words(t["coefficient"]) for t in trees))
                ),
                "contrasts": [
                    (name, words.asked(t, None), str(t.get("alternative", ""))) for name, t in alternatives.items()
                ]
                or [(name, words.asked(c, None), "") for name, c in design.get("contrasts", {}).items()],
            }
        )
    return rows


def group_counts(design: Tree) -> list[tuple[str, int]]:
    """Return the groups of a design with their numbers of participants."""
    groups: Mapping[str, str] = design.get("groups", {})
    counts: dict[str, int] = {}
    for person in design.get("participants", []):
        name = str(groups.get(str(person), "")) or "all"
        counts[name] = counts.get(name, 0) + 1
    return list(counts.items())


def findings(results: Results) -> list[dict[str, str]]:
    """Return the strongest findings in words, smallest p first."""
    pairs = [(c, s, k) for c in results.comparisons for s, k in c.found]
    pairs.sort(key=lambda item: (item[2]["p_fwe"], -abs(float(item[2]["peaks"][0]["t"]))))
    return [_sentence(*pair) for pair in pairs[:TOP_FINDINGS]]


def _sentence(comparison: Any, search: Tree, cluster: Tree) -> dict[str, str]:
    tree = comparison.tree
    flag = (cluster.get("influence") or {}).get("flagged")
    who = (cluster.get("influence") or {}).get("largest_participant", "")
    return {
        "key": comparison.key,
        "what": f"{words.stack_words(tree)}, {words.coefficient_words(tree['coefficient'])}: "
        f"{words.asked(tree, search['direction'])}",
        "where": f"{words.place(cluster)}, {words.count(int(cluster['size_voxels']), 'voxel')} in {search['volume']}",
        "p": f"{words.p_phrase(cluster['p_fwe'], 'p(FWE)')}, {words.p_phrase(cluster.get('p_family'), 'p(family)')}",
        "flag": f"depends on one participant (largest share: {who})" if flag else "",
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


def left_out(results: Results) -> list[Mapping[str, Any]]:
    """Return who was left out and why, equal reasons of one participant gathered over stacks."""
    gathered: dict[tuple[str, str, str], list[str]] = {}
    for item in results.cohort.get("left_out", []):
        key = (str(item.get("participant_id", "")), str(item.get("session_id") or ""), str(item.get("reason", "")))
        gathered.setdefault(key, []).append(str(item.get("what", "")))
    return [
        {
            "participant_id": p,
            "session_id": s or "all",
            "what": words.listed(list(dict.fromkeys(what)), 4),
            "reason": reason,
        }
        for (p, s, reason), what in gathered.items()
    ]
