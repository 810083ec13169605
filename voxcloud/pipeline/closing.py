"""The end of a run: what is told beside results, the units that gather everything, and what lies there unasked."""

from __future__ import annotations

import datetime
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from voxcloud.bids.images import MaskGrid
from voxcloud.pipeline.publishing import LOOKS, RUN_INFO
from voxcloud.pipeline.run import RunOutcome
from voxcloud.plan import units as make
from voxcloud.plan.build import StudyPlan
from voxcloud.plan.closing import closing_units
from voxcloud.plan.modality import qc_unit
from voxcloud.plan.space import SESSION_STEPS, space_qc_unit
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.store import Store

MAP_ENDS = "_stat-"
RESULT_FOLDERS = ("results", "stats", "fits")


def close_plan(plan: StudyPlan, store: Store, failed: Mapping[str, str] | None = None) -> StudyPlan:
    """Return a plan with the units that gather results; ``failed`` gives the reason of each unit that has none."""
    failed = failed or {}
    closing: list[WorkUnit] = []
    for of in plan.sessions:
        other = next((one.modality.page for one in plan.sessions if one is not of), "")
        closing.append(qc_unit(plan.loaded, store.url, of, failed, other))
    if plan.space.units:
        other = next((one.modality.page for one in plan.sessions), "")
        closing.append(space_qc_unit(plan.loaded, store.url, plan.space, failed, other))
    if plan.grid is not None:
        closing += _group_closing(plan, plan.grid, store, failed)
    return replace(plan, units=(*plan.units, *closing), by_key={**plan.by_key, **{unit.key: unit for unit in closing}})


def _group_closing(plan: StudyPlan, grid: MaskGrid, store: Store, failed: Mapping[str, str]) -> list[WorkUnit]:
    context = make.Context(plan.loaded, store.url, grid, {"study": plan.searches})
    units = [unit for unit in plan.units if unit.step not in SESSION_STEPS]
    failed = {key: reason for key, reason in failed.items() if key.partition("/")[0] not in SESSION_STEPS}
    told = {
        "cohort": _cohort(plan) | {"stacks": _stacks(plan)},
        "problems": list(plan.problems),
        "failures": dict(failed),
        "look": [_images_digest(plan), _look(plan, store)[0]],
    }
    return closing_units(context, units, list(failed), told)


def write_run_info(plan: StudyPlan, store: Store, total: RunOutcome, seconds: float) -> None:
    """Write what the summary needs beside the results, and count a look at data that were not looked at before."""
    broken = {*total.failed, *total.unavailable}
    look, looks = _look(plan, store)
    if len(looks) < look:
        store.write_bytes(LOOKS, json.dumps([*looks, _images_digest(plan)]).encode())
    info = {
        "study": plan.loaded.study.name,
        "study_file": str(plan.loaded.path),
        "look": look,
        "images_digest": _images_digest(plan),
        # Of a unit that failed there may be a result of an earlier run: it is none of this one.
        "results": [u.outputs[0] for u in plan.units if u.step == "inference" and u.key not in broken],
        "behaviour": any(u.step == "behaviour" and u.key not in broken for u in plan.units),
        "failed": [
            {"unit": k, **{n: v for n, v in a.items() if n in ("message", "rerun", "error_class")}}
            for k, a in total.failed.items()
        ]
        + [{"unit": k, "message": reason} for k, reason in total.unavailable.items()],
        "problems": list(plan.problems),
        "run": {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "host": socket.gethostname(),
            "cores": os.cpu_count(),
            "engine": plan.loaded.study.compute.engine,
            "seconds": seconds,
            "cpu_s": total.cpu_s,
            "units": len(plan.units),
            "computed": len(total.computed),
        },
        "cohort": _cohort(plan),
        "stacks": [stack | {"shards": _shards(plan, name)} for name, stack in _stacks(plan).items()],
    }
    store.write_bytes(RUN_INFO, json.dumps(info, allow_nan=False).encode())


def leftovers(plan: StudyPlan, store: Store) -> tuple[str, ...]:
    """Return what earlier runs left that this study file does not ask for any more.

    A folder where nothing of the plan lies in it, else the files, a contrast's maps as one pattern.
    """
    planned = {path for unit in plan.units for path in unit.outputs}
    planned |= {design_path(design["model"]) for design in plan.designs.values()}
    kept = {folder for path in planned for folder in _folders(path)}
    maps = {path.partition(MAP_ENDS)[0] for path in planned}
    found: dict[str, None] = {}
    for folder in RESULT_FOLDERS:
        for path in store.list(folder):
            if path in planned or path.count("/") < 2:
                continue
            unasked = next((f for f in _folders(path) if "/" in f and f not in kept), path)
            stem, ends, _ = unasked.partition(MAP_ENDS)
            found[f"{stem}{ends}*" if ends and stem not in maps else unasked] = None
    if plan.sessions:
        found |= dict.fromkeys(_maps_left(plan, store, planned, kept))
    return tuple(found)


def _maps_left(plan: StudyPlan, store: Store, planned: set[str], kept: set[str]) -> Iterator[str]:
    """Yield maps of sessions that are gone, and those that a session has no images for any more.

    Sessions that cannot be read today, or were not chosen, keep theirs.
    """
    waiting = {who for of in plan.sessions for who in of.problems} | {
        PurePosixPath(path).name.removesuffix(of.modality.qc_ending) for of in plan.sessions for path in of.others
    }
    kept = kept | {folder for who in waiting for folder in _folders(f"{who.replace('_ses-', '/ses-')}/")}
    names = tuple(f"{who}_" for who in waiting)
    for path in store.list(""):
        if path.startswith("sub-") and path not in planned and not PurePosixPath(path).name.startswith(names):
            yield next((folder for folder in _folders(path) if folder not in kept), path)


def _folders(path: str) -> list[str]:
    """Return the folders in which a path lies, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def design_path(model: str) -> str:
    """Return where the design of a model lies that the report draws."""
    return f"results/model-{model}/design.json"


def summary_fingerprint(store: Store, planned: WorkUnit) -> str:
    """Return the fingerprint of the summary that is there, whatever run made it; empty if there is none."""
    from voxcloud.storage.records import list_records, read_record

    for fingerprint16, state in list_records(store).get((planned.step, planned.name), []):
        record = read_record(store, planned.step, planned.name, fingerprint16, state)
        if record is not None and record.state == "done":
            return record.fingerprint
    return ""


def _images(plan: StudyPlan) -> set[tuple[str, str, str]]:
    return {image.identity for stack in plan.stacks.values() for image in stack.images}


def _images_digest(plan: StudyPlan) -> str:
    return digest_json(sorted(_images(plan)))


def _look(plan: StudyPlan, store: Store) -> tuple[int, list[str]]:
    """Return the how-many-eth look at data this is, and the data that were looked at before."""
    try:
        looks = [str(digest) for digest in json.loads(store.read_bytes(LOOKS))] if store.exists(LOOKS) else []
    except (ValueError, TypeError):
        looks = []  # damaged: nobody can say any more
    mine = _images_digest(plan)
    return (looks.index(mine) if mine in looks else len(looks)) + 1, looks


def _cohort(plan: StudyPlan) -> dict[str, Any]:
    images = _images(plan)
    return {
        "participants_n": len({p for p, _, _ in images}),
        "images_n": len(images),
        "sessions_n": len({(p, s) for p, s, _ in images}),
        "left_out": [vars(item) for item in plan.left_out],
        "warnings": list(plan.warnings),
    }


def _stacks(plan: StudyPlan) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "map": stack.map,
            "label": stack.label,
            "images": len(stack.images),
            "units": stack.spec.units,
            "n_voxels": len(stack.spec.voxel_index),
        }
        for name, stack in plan.stacks.items()
    }


def _shards(plan: StudyPlan, stack: str) -> list[list[str]]:
    return [
        [u.name, u.fingerprint[:16]] for u in plan.units if u.step == "stack-shard" and u.name.startswith(f"{stack}/")
    ]
