"""Steps that gather: learning curves, the summary over the family of searches, tables and the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxcloud.config.load import load_study
from voxcloud.errors import CorruptStoreError
from voxcloud.inference.family import SearchKey, adjust_over_family, expected_false_positives
from voxcloud.pipeline.execute import versions
from voxcloud.pipeline.learning import score_tests
from voxcloud.plan.build import read_cohort
from voxcloud.plan.scores import fit_behaviour
from voxcloud.plan.space import SpacePlan
from voxcloud.plan.unit import WorkUnit
from voxcloud.report.page import write_report
from voxcloud.report.tables import write_tables
from voxcloud.schema import RESULT_SCHEMA, stack_name
from voxcloud.storage.records import list_records, read_record
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

RUN_INFO = ".voxcloud/run-info.json"
LOOKS = ".voxcloud/looks.json"


def behaviour(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the learning curves of every participant and score, and the tests of improvement and retention."""
    loaded = load_study(unit.places["study_file"])
    # Learning needs the people and not their images, which the study may make itself.
    made = SpacePlan().images if loaded.study.space is not None else None
    fits = fit_behaviour(loaded, read_cohort(loaded, made))
    if fits is None:
        raise CorruptStoreError(f"{unit.key}: the study file has no behaviour section any more. Run the study again.")
    if fits.digest != unit.inputs["behaviour"]:
        raise CorruptStoreError(
            f"{unit.key}: expected the tables that the run was planned with, found that they were changed since. Run "
            "the study again."
        )
    days_of_study = loaded.study.time.reference_days if loaded.study.time is not None else ()
    scores: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    for score, curves in fits.curves.items():
        people = {}
        for participant, curve in sorted(curves.items()):
            days, values = fits.data[score][participant]
            people[participant] = {
                "alpha": _finite(curve.alpha),
                "delta": _finite(curve.delta),
                "gamma": _finite(curve.gamma),
                "improvement": _finite(curve.improvement),
                "flags": list(curve.flags),
                "days": days,
                "values": values,
            }
        scores[score] = {"better": fits.better[score], "participants": people}
        tests += score_tests(fits, score, days_of_study)
    store.write_bytes(unit.outputs[0], json.dumps({"schema": RESULT_SCHEMA, "scores": scores, "tests": tests}).encode())
    return {"scores": len(scores)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def summary(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Count the searches, adjust over the family, and gather who went in and who did not."""
    info = json.loads(store.read_bytes(RUN_INFO))
    results = [path for path in info["results"] if store.exists(path)]
    trees = [json.loads(store.read_bytes(path)) for path in results]
    searches = [(tree, search) for tree in trees for search in tree["searches"]]
    alphas = [search["alpha"] for _, search in searches]
    smallest = [search["p_fwe_min"] for _, search in searches]
    keys = [_search_key(tree, search) for tree, search in searches]
    adjusted = _adjusted(dict(zip(keys, smallest, strict=True)), unit.params["family"])
    significant = [(c, s["alpha"]) for _, s in searches for c in s["clusters"] if c["significant"]]
    stacks = _stacks(store, info)
    tree = {
        "schema": RESULT_SCHEMA,
        "study": info["study"],
        "analysis": unit.params["analysis"],
        "look": info.get("look"),
        "family": unit.params["family"],
        "searches_planned": unit.params["searches"],
        "searches_run": len(searches),
        "alpha": max(alphas, default=0.05),
        "expected_false_positives": float(expected_false_positives(alphas)),
        "significant_clusters": len(significant),
        "significant_family": sum(c["p_family"] <= alpha for c, alpha in significant),
        "flagged_clusters": sum(bool(c.get("influence", {}).get("flagged")) for c, _ in significant),
        "holm": [
            {
                "model": t["model"],
                "map": t["map"],
                "label": t["label"],
                "coefficient": t["coefficient"],
                "contrast": t["contrast"],
                "direction": s["direction"],
                "volume": s["volume"],
                "p_fwe_min": p,
                "p_holm": adjusted[key],
            }
            for (t, s), p, key in zip(searches, smallest, keys, strict=True)
        ],
        "results": results,
        "behaviour": info["behaviour"],
        "failed": info.get("failed", []),
        "run": info.get("run", {}),
        "versions": versions(),
        "problems": info.get("problems", []),
        "images_digest": info.get("images_digest"),
    }
    truth = _truth(info, trees)
    if truth is not None:
        tree["truth"] = truth
    store.write_bytes("results/summary.json", json.dumps(tree, allow_nan=False).encode())
    cohort = {
        "schema": RESULT_SCHEMA,
        **info["cohort"],
        "stacks": stacks,
        "warnings": info["cohort"]["warnings"] + _unfitted(store, trees),
    }
    store.write_bytes("results/cohort.json", json.dumps(cohort, allow_nan=False).encode())
    return {"searches": len(searches), "significant": len(significant)}


def _adjusted(smallest: Mapping[SearchKey, float], family: str) -> dict[SearchKey, float]:
    """Return Holm's p of each search within the family that the study names: the study, its model, or itself alone."""
    families: dict[str, dict[SearchKey, float]] = {}
    for key, p in smallest.items():
        own = {"all": "", "model": key.model, "none": str(key)}[family]
        families.setdefault(own, {})[key] = p
    return {key: p for searches in families.values() for key, p in adjust_over_family(searches).items()}


def _search_key(tree: Mapping[str, Any], search: Mapping[str, Any]) -> SearchKey:
    names = {k: str(tree[k]) for k in ("model", "map", "label", "coefficient", "contrast")}
    return SearchKey(**names, direction=search["direction"], volume=str(search["volume"]))


def _stacks(store: Store, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Medians and missing voxels per image, from the records of the shards."""
    found = []
    for stack in info["stacks"]:
        medians: dict[str, float] = {}
        nan: dict[str, int] = {}
        for name, fingerprint in stack["shards"]:
            record = read_record(store, "stack-shard", name, fingerprint, "done")
            for image in record.result.get("images", []) if record is not None else []:
                who = f"sub-{image['participant_id']}" + (f"_ses-{image['session_id']}" if image["session_id"] else "")
                medians[who], nan[who] = image["median"], image["nan"]
        found.append(
            {
                **{k: v for k, v in stack.items() if k != "shards"},
                "median_per_image": medians,
                "not_finite_per_image": nan,
            }
        )
    return found


UNFITTED = {
    "constant": "Voxels of the analysis mask with the same value in every participant were left out: {}.",
    "not_finite": "Voxels without a value in at least one image were left out: {}.",
}


def _unfitted(store: Store, trees: list[dict[str, Any]]) -> list[str]:
    """Say how many voxels could not be fitted, and why; from the records of the blocks."""
    known = list_records(store)
    counts: dict[str, dict[str, int]] = {reason: {} for reason in UNFITTED}
    for model, stack in dict.fromkeys((t["model"], stack_name(t["map"], t["label"])) for t in trees):
        for (step, name), states in known.items():
            if step == "fit-block" and name.startswith(f"{model}/{stack}/"):
                record = read_record(store, step, name, *states[-1])
                for reason, found in counts.items():
                    number = record.result.get(reason, 0) if record is not None else 0
                    if number:
                        found[f"{model} {stack}"] = found.get(f"{model} {stack}", 0) + number
    words = []
    for reason, text in UNFITTED.items():
        named = [f"{where} {number:,}" for where, number in counts[reason].items()]
        if named:
            more = f" and {len(named) - 6} more" if len(named) > 6 else ""
            words.append(text.format(", ".join(named[:6]) + more))
    return words


def _truth(info: Mapping[str, Any], trees: list[dict[str, Any]]) -> Any:
    """Compare with the simulation's truth where a study has one beside it."""
    path = Path(info["study_file"]).parent / "truth" / "truth.json"
    if not path.is_file():
        return None
    from voxcloud.testing.truth import compare_with_truth

    return compare_with_truth(json.loads(path.read_text(encoding="utf-8")), trees)


def report(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the tables and the report."""
    output = Path(store.local_path(""))
    write_tables(output)
    path = write_report(output, template_image=unit.places.get("template"))
    return {"bytes": path.stat().st_size}
