"""One self-contained page of everything that a study found."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from voxcloud.report import overview, words
from voxcloud.report.comparisons import Budget, comparison_sections
from voxcloud.report.designs import design_sections
from voxcloud.report.figures_behaviour import learning_figure
from voxcloud.report.figures_trajectories import group_order
from voxcloud.report.methods import write_methods
from voxcloud.report.results import Results, read_results
from voxcloud.report.svg import colour
from voxcloud.report.tables import replace_file, search_rows
from voxcloud.report.truth import truth_section

LOG = logging.getLogger(__name__)

REPORT = "report.html"


def write_report(output: Path, *, template_image: Path | str | None = None) -> Path:
    """Write ``report.html`` from the results under an output folder and return its path.

    Parameters
    ----------
    output
        Output folder of a study (see the results layout in the reference).
    template_image
        NIfTI drawn under the clusters; default the MNI152 template that nilearn carries.

    Raises
    ------
    CorruptStoreError
        If a result file cannot be read; the message names it.

    Notes
    -----
    The page loads nothing: styles, figures and viewers are inside it. It stays under 15 MB; figures that would not fit
    are left out and counted on the page, tables never are. Everything that comes from tables is escaped.
    """
    results = read_results(Path(output))
    page = render(results, None if template_image is None else str(template_image))
    path = Path(output) / REPORT
    replace_file(path, page)
    LOG.info("report: %d comparisons, %.1f MB", len(results.comparisons), len(page) / 1e6)
    return path


def render(results: Results, template_image: str | None) -> str:
    """Return the page of some results."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("voxcloud.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        p=words.p_text,
        num=words.number,
        fixed=words.fixed,
        exact=words.exact,
        df=words.degrees,
        duration=words.duration,
    )
    template = environment.get_template("report.html.j2")
    return template.render(_context(results, template_image))


def _context(results: Results, template_image: str | None) -> dict[str, Any]:
    budget = Budget()
    sections = comparison_sections(results, template_image, budget)
    return {
        "name": results.name,
        "stamp": overview.stamp(results),
        "cautions": overview.cautions(results),
        "warnings": overview.grouped_warnings(results),
        "numbers": overview.key_numbers(results),
        "questions": overview.questions(results),
        "findings": overview.findings(results),
        "more_findings": max(0, sum(len(c.found) for c in results.comparisons) - overview.TOP_FINDINGS),
        "left_out": overview.left_out(results),
        "designs": design_sections(results),
        "comparisons": sections,
        "nothing": len(results.comparisons) - len(results.found),
        "all_comparisons": len(results.comparisons),
        "skipped": sum(not section["shown"] for section in sections),
        "searches": _searches(results),
        "behaviour": _behaviour(results),
        "truth": truth_section(results.summary.get("truth")),
        "methods": write_methods(results),
        "run": results.summary.get("run", {}),
        "versions": results.summary.get("versions", {}),
        "failed": results.summary.get("failed", []),
        "summary": results.summary,
        "family": overview.family_words(results),
        "stacks": results.cohort.get("stacks", []),
        "stack_words": words.stack_words,
    }


def _searches(results: Results) -> list[dict[str, Any]]:
    keys = {id(s): c.key for c in results.found for s in c.tree["searches"]}
    rows = search_rows(results)
    pairs = list(results.searches())
    found = [
        {**row, "key": keys.get(id(search), ""), "stack": words.map_name(row["map"])}
        for row, (_, search) in zip(rows, pairs, strict=True)
    ]
    return sorted(
        found,
        key=lambda r: (r["model"], r["map"], r["label"], r["coefficient"], r["contrast"], r["volume"], r["direction"]),
    )


def _behaviour(results: Results) -> dict[str, Any] | None:
    if results.behaviour is None:
        return None
    groups: dict[str, str] = {}
    for design in results.designs.values():
        for person, group in (design.get("groups") or {}).items():
            groups.setdefault(str(person), str(group))
    scores = []
    for name, score in results.behaviour.get("scores", {}).items():
        people = score.get("participants", {})
        order = group_order(groups, list(people))
        scores.append(
            {
                "name": name,
                "better": score.get("better", ""),
                "figure": learning_figure(name, score, groups),
                "n": len(people),
                "key": [(g or "not in a model", colour(k)) for k, g in enumerate(order)],
                "flags": [
                    (p, "; ".join(map(str, entry["flags"]))) for p, entry in people.items() if entry.get("flags")
                ],
                "rows": [
                    {
                        "person": p,
                        "group": groups.get(str(p), ""),
                        **{k: entry.get(k) for k in ("alpha", "delta", "gamma", "improvement")},
                    }
                    for p, entry in people.items()
                ],
            }
        )
    return {"scores": scores, "tests": results.behaviour.get("tests", [])}
