"""The methods text, written from what was run, and its references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voxcloud.report import words
from voxcloud.report.left_out import what_parts
from voxcloud.report.methods_processing import processing_paragraphs
from voxcloud.report.overview import STRICT_FORMING_P
from voxcloud.report.references import REFERENCES, Reference
from voxcloud.report.results import Results, Tree


@dataclass
class Methods:
    """Paragraphs with numbered citations, and the references in the order cited."""

    paragraphs: list[str] = field(default_factory=list)
    cited: list[str] = field(default_factory=list)

    def cite(self, *keys: str) -> str:
        """Return ``[1, 2]`` and note the references."""
        for key in keys:
            if key not in self.cited:
                self.cited.append(key)
        return "[" + ", ".join(str(self.cited.index(key) + 1) for key in keys) + "]"

    @property
    def references(self) -> list[Reference]:
        """References in the order cited."""
        return [REFERENCES[key] for key in self.cited]

    @property
    def plain(self) -> str:
        """The whole text, ready to paste."""
        lines = [f"{n}. {r.text}" + (f" doi:{r.doi}" if r.doi else "") for n, r in enumerate(self.references, 1)]
        return "\n\n".join([*self.paragraphs, "References\n" + "\n".join(lines)])


def write_methods(results: Results) -> Methods:
    """Write the methods from designs, settings and results; nothing that was not run is mentioned."""
    methods = Methods()
    methods.paragraphs.append(_data(results))
    maps = {str(stack["map"]) for stack in results.analysed_stacks}
    methods.paragraphs += processing_paragraphs(results.study, methods.cite, maps)
    methods.paragraphs += _time(results)
    methods.paragraphs += _models(methods, results)
    by_settings: dict[str, list[Tree]] = {}
    for comparison in results.comparisons:
        by_settings.setdefault(repr(sorted(_settings(comparison.tree).items())), []).append(comparison.tree)
    methods.paragraphs += [_inference(methods, trees, len(by_settings) > 1) for trees in by_settings.values()]
    if results.comparisons:
        methods.paragraphs.append(_multiplicity(methods, results))
        methods.paragraphs.append(_people(methods, results))
    if results.behaviour:
        methods.paragraphs.append(_behaviour(methods, results.behaviour))
    methods.paragraphs.append(_software(methods, results))
    return methods


def _data(results: Results) -> str:
    cohort = results.cohort
    stacks = results.analysed_stacks
    analysed = sum(int(s.get("images", 0)) for s in stacks) if stacks else int(cohort.get("images_n", 0))
    text = (
        f"The study {results.name} analysed {words.count(analysed, 'image')} of "
        f"{words.count(cohort.get('participants_n', 0), 'participant')}"
    )
    by_map: dict[str, list[Tree]] = {}
    for stack in stacks:
        by_map.setdefault(str(stack["map"]), []).append(stack)
    if by_map:
        text += ": " + words.listed([_images_of(name, own) for name, own in by_map.items()], 20)
    text += (
        ". Grey and white matter of a map were analysed apart."
        if len({s.get("label") for s in stacks} - {""}) > 1
        else "."
    )
    if len(cohort.get("stacks", [])) > len(stacks):
        limits = [
            f"{label} at least {m['threshold']:g}"
            for label, m in (results.study.get("masks") or {}).items()
            if isinstance(m, Mapping) and m.get("threshold") is not None
        ]
        text += " Analysis masks were cut from the participants' mean tissue probability"
        text += f" ({words.listed(limits)})." if limits else "."
    zooms = {tuple(round(float(v), 3) for v in c.tree.get("voxel_mm", ())) for c in results.comparisons} - {()}
    if len(zooms) == 1:
        text += f" Voxels measured {' × '.join(f'{v:g}' for v in zooms.pop())} mm."
    return text


def _images_of(name: str, stacks: list[Tree]) -> str:
    """Return ``R1 (1/s; 235 images of grey matter and 235 of white matter)``."""
    numbers = [
        f"{words.number(int(s.get('images', 0)))}{'' if k else ' images'}"
        + (f" of {t}" if (t := words.tissue_words(s)) else "")
        for k, s in enumerate(stacks)
    ]
    units = str(stacks[0].get("units", ""))
    return f"{words.map_name(name)} ({units + '; ' if units not in ('', '1') else ''}{words.listed(numbers)})"


def _time(results: Results) -> list[str]:
    """Return one paragraph per time basis, not one per model that uses it."""
    texts = (" ".join(map(str, (d.get("time") or {}).get("sentences", []))) for d in results.designs.values())
    return [text for text in dict.fromkeys(texts) if text]


def _models(methods: Methods, results: Results) -> list[str]:
    """Return one paragraph per way of fitting: what its models share, then each model."""
    shared: dict[str, list[str]] = {}
    for model, design in results.designs.items():
        settings = results.model_settings(model)
        estimator = str(design.get("estimator", ""))
        text = f"{_first_level(estimator, settings)} Numeric covariates were centred over the participants fitted."
        if estimator == "two-stage":
            text += _missing(settings, design)
        if design.get("weights") == "precision":
            text += (
                f" Participants were weighted by the precision of their coefficient{_spread_between(results, model)}."
            )
        if design.get("variance") == "unequal":
            text += (
                " Variances were allowed to differ between groups: one covariance for the whole mask, estimated by "
                f"restricted maximum likelihood {methods.cite('friston2002')}."
            )
        shared.setdefault(text, []).append(_model(results, model))
    return [" ".join([text, *own]) for text, own in shared.items()]


def _spread_between(results: Results, model: str) -> str:
    """Say what was estimated for the weights, over the maps and coefficients of a model."""
    trees = [c.tree for c in results.comparisons if c.tree["model"] == model]
    found = sorted(float(t["between_to_within"]) for t in trees if t.get("between_to_within") is not None)
    if not found:
        return ""
    numbers = f"{found[0]:.2g}" if len(found) == 1 else f"{found[0]:.2g} to {found[-1]:.2g}"
    return (
        f", 1 / (q + variance ratio), where q = {numbers} is the variance between people over that of a complete "
        "participant's coefficient, pooled over all voxels of the analysis mask"
    )


def _model(results: Results, model: str) -> str:
    design = results.designs[model]
    settings = results.model_settings(model)
    numbers = {
        int(c.tree["n"]) for c in results.comparisons if c.tree["model"] == model and c.tree.get("n") is not None
    }
    n = (
        words.DASH.join(str(v) for v in sorted({min(numbers), max(numbers)}))
        if numbers
        else len(design["participants"])
    )
    text = (
        f"Model {model} (n = {n}{_groups(design)}): {design.get('formula', '1')} "
        f"(columns {words.listed([str(c) for c in design.get('columns', [])], 30)}; rank "
        f"{design.get('rank', words.NONE)})"
    )
    if settings.get("sessions"):
        text += f", sessions with {settings['sessions']} only"
    run = {str(c.tree["contrast"]): c.tree for c in results.comparisons if c.tree["model"] == model}
    tests = [f"{name} ({words.asked(run.get(name, c), None)})" for name, c in design.get("contrasts", {}).items()]
    text += f"; contrasts {words.listed(tests, 30)}." if tests else "."
    gone = _left_a_coefficient(results, model)
    if gone and not design.get("accepted_unequal_variance"):
        text += f" Participant{'s' if len(gone) > 1 else ''} {words.listed(gone, 30)} left a coefficient."
    return " ".join([text, *(str(s) for s in design.get("sentences", []))])


def _left_a_coefficient(results: Results, model: str) -> list[str]:
    """Return who left a coefficient of a model, in any of its maps."""
    visits = results.designs[model].get("visits") or []
    people = {str(v["participant_id"]) for v in visits if v.get("left_out_of")}
    for item in results.cohort.get("left_out", []):
        what = what_parts(str(item.get("what", "")))
        if what.get("model") == model and what.get("coefficient"):
            people.add(str(item["participant_id"]))
    return sorted(people)


def _first_level(estimator: str, settings: Mapping[str, Any]) -> str:
    """Return what was done within a participant."""
    if estimator == "two-stage":
        return (
            "For each participant and voxel, the time terms were fitted to that participant's visits by ordinary least "
            "squares; the coefficients were then compared between participants in a general linear model."
        )
    if estimator == "paired":
        days = settings.get("days") or []
        named = f" of day {days[0]:g} and day {days[1]:g}" if len(days) == 2 else ""
        return f"Each participant's difference{named} (second minus first) entered a general linear model."
    session = settings.get("session")
    which = {"mean": "The mean of each participant's visits", "baseline": "Each participant's image of day 0"}.get(
        str(session), f"Each participant's image of session {session}" if session else "One image per participant"
    )
    return f"{which} entered a general linear model."


def _groups(design: Tree) -> str:
    counts: dict[str, int] = {}
    for person in design.get("participants", []):
        group = str(design.get("groups", {}).get(person, ""))
        counts[group] = counts.get(group, 0) + 1
    return "" if set(counts) <= {""} else ": " + words.listed([f"{n} {g}" for g, n in counts.items()])


def _missing(settings: Mapping[str, Any], design: Tree) -> str:
    limit = settings.get("max_variance_ratio")
    text = ""
    if settings.get("min_visits"):
        text += f" Participants with fewer than {settings['min_visits']} visits were left out."
    if design.get("accepted_unequal_variance"):
        return (
            text
            + " Participants whose missing visits inflate the variance of a coefficient beyond the limit were kept, "
            "on request, in a plain unweighted fit."
        )
    if limit and design.get("weights") != "precision":
        text += (
            f" A participant whose missing visits raised the variance of a coefficient to more than {float(limit):g} "
            "times that of the complete design left that coefficient."
        )
    return text


def _settings(tree: Tree) -> dict[str, Any]:
    first = tree["searches"][0] if tree["searches"] else {}
    found = {k: first.get(k) for k in ("cluster_forming_p", "min_extent", "alpha")}
    return {
        **found,
        **{k: v for k, v in (tree.get("inference") or {}).items() if k in (*found, "method", "permutations", "seed")},
    }


def _inference(methods: Methods, trees: list[Tree], name_models: bool) -> str:
    settings = _settings(trees[0])
    volumes = sorted({str(s["volume"]) for t in trees for s in t["searches"]})
    prefix = f"Models {words.listed(sorted({str(t['model']) for t in trees}))}: " if name_models else ""
    text = (
        f"{prefix}Clusters were formed at p < {settings['cluster_forming_p']:g} (uncorrected, 18-connectivity) "
        f"in {words.listed(volumes)}; those of fewer than {settings['min_extent']} voxels were not listed. "
    )
    instead = settings.get("method") == "permutation"
    if instead:
        text += f"{_relabelled(methods, trees, settings)}; "
    else:
        text += (
            "Cluster p values were corrected for the family-wise error by random field theory "
            f"{methods.cite('friston1994', 'worsley1996')}, with the formulas of SPM12, "
            "smoothness being estimated from standardised residuals within the analysis mask "
            f"{methods.cite('kiebel1999')}; "
        )
    text += f"a cluster was called significant at p(FWE) ≤ {settings['alpha']:g}."
    if instead:  # what follows is of random fields
        return text
    text += f" False discovery rates are topological {methods.cite('chumbley2009')}."
    if beside := relabellings(trees):
        text += (
            " Where the assumptions of random fields are doubtful and something was found, the cluster's p against the "
            f"largest cluster under {words.listed(beside)} of residuals (Freedman–Lane) stands beside "
            f"{methods.cite('freedman1983', 'winkler2014')}."
        )
    if float(settings["cluster_forming_p"]) > STRICT_FORMING_P:
        text += f" Cluster-forming thresholds above .001 are known to be liberal {methods.cite('eklund2016')}."
    if any(("moothness" in w and "neven" in w) or "uneven" in w for t in trees for w in t.get("warnings", [])):
        text += f" These p values assume even smoothness, which some maps lack {methods.cite('hayasaka2004')}."
    return text


def _relabelled(methods: Methods, trees: list[Tree], settings: Mapping[str, Any]) -> str:
    """Say with what clusters were compared under permutation: what was done, not what was asked for."""
    made = relabellings(trees)
    if not made:
        return "No search held a cluster, so that nothing was relabelled"
    entries = [s["permutation"] for t in trees for s in t["searches"] if s.get("permutation")]
    seed = "" if all(e.get("exact") for e in entries) else f", seed {settings.get('seed')}"
    text = (
        f"Their size was compared with the largest cluster under {words.listed(made)} of residuals "
        f"(Freedman–Lane{seed}) {methods.cite('freedman1983', 'winkler2014')}, the data as observed counted in"
    )
    if any(e.get("kind") == "sign-flip" for e in entries):
        text += "; sign flips, which test a mean, assume errors that are symmetric about zero"
    return text


def relabellings(trees: list[Tree]) -> list[str]:
    """Return the relabellings that were made: ``all 19 possible permutations``, ``999 random sign flips``."""
    entries = [s["permutation"] for t in trees for s in t["searches"] if s.get("permutation")]
    made = {(str(e.get("kind")), bool(e.get("exact")), int(e["relabellings"])) for e in entries}
    return [
        (f"all {words.number(n)} possible " if exact else f"{words.number(n)} random ")
        + ("sign flips" if kind == "sign-flip" else "permutations")
        for kind, exact, n in sorted(made)
    ]


def _multiplicity(methods: Methods, results: Results) -> str:
    summary = results.summary
    n = summary.get("searches_run", len(list(results.searches())))
    expected = summary.get("expected_false_positives")
    text = (
        f"{words.count(int(n), 'search', 'searches')} (model, map, tissue, coefficient, contrast, direction and "
        "volume) were run"
    )
    text += (
        f"; without any effect at most {words.number(expected, 2)} of them would be expected to find something."
        if expected is not None
        else "."
    )
    family = str(summary.get("family") or "all")
    if family != "none":
        over = (
            f"the {words.number(results.family_size)} searches of the study"
            if family == "all"
            else "the searches of a model"
        )
        text += (
            f" p(family) is the Bonferroni adjustment of p(FWE) over {over}; searches were also adjusted by "
            "Holm's method "
            f"{methods.cite('holm1979')}."
        )
    if summary.get("analysis") == "interim":
        text += (
            f" This was interim look {summary.get('look') or 1}; p values are not corrected for repeated looks, "
            f"which raise the rate of false positives {methods.cite('armitage1969')}."
        )
    return text


def _people(methods: Methods, results: Results) -> str:
    return (
        "For each cluster the contrast of its mean was tested over participants with the same design. As the voxels "
        f"were selected by the same data, these values are descriptive {methods.cite('kriegeskorte2009')}; beside them "
        "stands the value for clusters found again without the participant in question "
        f"{methods.cite('esterman2010')}, which is conditional on the cluster having been found. Every significant "
        "cluster was searched again with each participant left out; it is flagged where one participant moves p(FWE) "
        f"across the level{_theory(results)}."
    )


def _theory(results: Results) -> str:
    """Say which p values a flag compares where permutation decides."""
    if not any(c.permuted_instead for c in results.comparisons):
        return ""
    return "; where permutation decides, both p values of this comparison are those of random field theory"


def _behaviour(methods: Methods, behaviour: Tree) -> str:
    names = words.listed(list(behaviour.get("scores", {})))
    return (
        f"Learning curves y(t) = α − δ exp(−γ t) were fitted to {names} of each participant; implausible fits are "
        "flagged and were not used. "
        "Improvement, signed so that larger is better, was tested with Wilcoxon's signed-rank test, exact p "
        f"{methods.cite('wilcoxon1945')}."
    )


def _software(methods: Methods, results: Results) -> str:
    versions = results.summary.get("versions", {})
    named = [f"{k} {v}" for k, v in versions.items() if k not in ("machine", "platform")]
    text = "Analyses were run with " + (words.listed(named, 20) if named else "voxcloud")
    return (
        f"{text} {methods.cite('harris2020', 'virtanen2020')}; the template brain and the outlines of the glass brain "
        f"are nilearn's {methods.cite('abraham2014')}."
    )
