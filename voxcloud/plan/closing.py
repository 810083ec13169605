"""The units that gather: learning curves, the summary over the family of searches, tables and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.plan.units import SLACK_BYTES, Context
from voxcloud.storage.store import file_digest

if TYPE_CHECKING:
    from voxcloud.plan.scores import BehaviourFits

GATHERED = ("inference", "behaviour", "stack-manifest")
TABLES = ("clusters", "left_out", "participants", "peaks", "searches")
TRUTH = "truth/truth.json"
# Settings of the study file that change no word of the report: where and how it runs.
NOT_REPORTED = ("compute", "output", "on_bad_image")


def behaviour_unit(context: Context, fits: BehaviourFits) -> WorkUnit:
    """Return the unit that writes the learning curves and their tests."""
    study = context.loaded.study
    return WorkUnit(
        step="behaviour",
        name="learning-curves",
        params={
            "scores": {n: s.model_dump() for n, s in study.behaviour.scores.items()} if study.behaviour else {},
            "reference_days": list(study.time.reference_days) if study.time is not None else [],
        },
        inputs={"behaviour": fits.digest},
        places=context.places(study_file=str(context.loaded.path)),
        outputs=("results/behaviour.json",),
        projected_mem=SLACK_BYTES,
        expected_s=0.5,
    )


def truth_file(study_file: str | Path) -> Path:
    """Return where a simulated study keeps its truth."""
    return Path(study_file).parent / TRUTH


def closing_units(
    context: Context, units: Sequence[WorkUnit], failed: Sequence[str], told: Mapping[str, Any]
) -> list[WorkUnit]:
    """Return the units that gather what the others made; with failures they say so.

    Parameters
    ----------
    units
        The study's other units.
    failed
        Keys of those that failed or could not start.
    told
        What summary and report tell beside results, by name: who was left out, warnings, problems. Run time and host
        are not among it: another machine makes no other result.
    """
    made = [u for u in units if u.step in GATHERED and u.key not in failed]
    study, loaded = context.loaded.study, context.loaded
    inputs = {unit.key: unit.fingerprint for unit in made} | {name: digest_json(value) for name, value in told.items()}
    truth = truth_file(loaded.path)
    if truth.is_file():
        inputs["truth"] = file_digest(truth)
    summary = WorkUnit(
        step="summary",
        name="study",
        params={
            "family": study.family,
            "analysis": study.analysis,
            "searches": context.searches["study"],
            "failed": sorted(failed),
        },
        inputs=inputs,
        places=context.places(study_file=str(loaded.path)),
        upstream=tuple(unit.key for unit in made),
        outputs=("results/summary.json", "results/cohort.json"),
        projected_mem=2 * SLACK_BYTES,
        expected_s=1.0,
    )
    template = loaded.resolve(study.template) if study.template else None
    report = WorkUnit(
        step="report",
        name="study",
        params={},
        inputs={
            "summary": summary.fingerprint,
            "study file": digest_json(study.model_dump(mode="json", by_alias=True, exclude=set(NOT_REPORTED))),
            "template": file_digest(template) if template and Path(template).is_file() else "MNI152",
        },
        places=context.places(study_file=str(loaded.path), template=template),
        upstream=(summary.key,),
        outputs=("report.html", *(f"tables/{name}.{kind}" for name in TABLES for kind in ("tsv", "json"))),
        projected_mem=400_000_000,
        expected_s=40.0,
    )
    return [summary, report]
