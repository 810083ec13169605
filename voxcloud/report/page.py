"""One self-contained page of everything that a study found."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from voxcloud.report import overview, words
from voxcloud.report.comparisons import Budget, by_model, comparison_sections
from voxcloud.report.designs import design_sections
from voxcloud.report.figures_behaviour import learning_figure
from voxcloud.report.figures_glass import outline_symbols
from voxcloud.report.figures_trajectories import places_of
from voxcloud.report.left_out import left_out
from voxcloud.report.methods import write_methods
from voxcloud.report.results import Results, read_results
from voxcloud.report.searches import cluster_searches, search_tables
from voxcloud.report.svg import colour
from voxcloud.report.tables import replace_file
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
    questions = overview.questions(results)
    maps = {q["maps"] for q in questions}
    return {
        "name": results.name,
        "stamp": overview.stamp(results),
        "cautions": overview.cautions(results),
        "warnings": overview.grouped_warnings(results),
        "numbers": overview.key_numbers(results),
        "questions": questions,
        "same_maps": next(iter(maps)) if len(maps) == 1 and len(questions) > 1 else "",
        "findings": overview.findings(results),
        "more_findings": max(0, sum(len(c.found) for c in results.comparisons) - overview.TOP_FINDINGS),
        "left_out": left_out(results),
        "designs": design_sections(results),
        "comparisons": sections,
        "permuted": any(c.permuted_beside for c in results.comparisons),
        "by_model": by_model(results, sections),
        "outlines": outline_symbols() if any(s["glass"] for s in sections) else "",
        "nothing": len(results.comparisons) - len(results.found),
        "all_comparisons": len(results.comparisons),
        "skipped": sum(not section["shown"] for section in sections),
        "search_tables": search_tables(results),
        "searches": cluster_searches(results),
        "searches_n": len(list(results.searches())),
        "extents": sorted({int(s.get("min_extent", 0)) for _, s in results.searches()}),
        "behaviour": _behaviour(results),
        "truth": truth_section(results.summary.get("truth")),
        "methods": write_methods(results),
        "run": results.summary.get("run", {}),
        "versions": results.summary.get("versions", {}),
        "failed": results.summary.get("failed", []),
        "summary": results.summary,
        "family": overview.family_words(results),
        "images": overview.images(results),
    }


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
        looks = places_of(groups, list(people), results.group_places)
        scores.append(
            {
                "name": name,
                "better": score.get("better", ""),
                "figure": learning_figure(name, score, groups, results.group_places),
                "n": len(people),
                "key": [(g or "not in a model", colour(k)) for g, k in looks.items()],
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
