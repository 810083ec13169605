"""A whole study: validate, plan, run, status, report. The command line and the flows call these and nothing else."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxcloud import __version__
from voxcloud.bids.derivatives import BIDSIGNORE, dataset_description
from voxcloud.config.load import LoadedStudy, load_study
from voxcloud.errors import PlanError, StudyFileError
from voxcloud.pipeline.engines import make_engine
from voxcloud.pipeline.events import Event, Listener
from voxcloud.pipeline.execute import execute, unit_path
from voxcloud.pipeline.publishing import LOOKS, RUN_INFO
from voxcloud.pipeline.run import RunOutcome, run_units
from voxcloud.plan import units as make
from voxcloud.plan.build import StudyPlan, build_plan
from voxcloud.plan.paths import DESIGNS_PREFIX
from voxcloud.plan.status import UnitStatus, bad_images, count_states, derive_status
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.lease import Lease, acquire
from voxcloud.storage.store import Store, open_store

LOG = logging.getLogger(__name__)

STUDY_COPY = "study.json"
STACK_STEPS = ("stack-shard", "stack-manifest")
CLOSING_STEPS = ("summary", "report")


@dataclass(frozen=True)
class RunOptions:
    """What a run may change without changing the study file; None leaves what the file says."""

    engine: str | None = None
    workers: int | None = None
    on_bad_image: str | None = None
    recompute: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStudy:
    """A plan and the state of each of its units."""

    plan: StudyPlan
    status: Mapping[str, UnitStatus]
    seconds: float

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """States per stage."""
        return count_states(self.status)


@dataclass(frozen=True)
class StudyOutcome:
    """What a run did."""

    computed: tuple[str, ...]
    failed: Mapping[str, Mapping[str, Any]]
    unavailable: Mapping[str, str]
    problems: tuple[str, ...]
    already_done: int
    seconds: float
    cpu_s: float
    output: str
    report: Path | None
    counts: Mapping[str, int] = field(default_factory=dict)


def load(path: Path | str, options: RunOptions | None = None) -> LoadedStudy:
    """Read a study file and apply the options of this run."""
    loaded = load_study(path)
    options = options or RunOptions()
    study = loaded.study
    changes: dict[str, Any] = {}
    if options.engine or options.workers:
        changes["compute"] = study.compute.model_copy(
            update={k: v for k, v in (("engine", options.engine), ("workers", options.workers)) if v is not None}
        )
    if options.on_bad_image:
        if options.on_bad_image not in ("stop", "exclude"):
            raise StudyFileError(f"--on-bad-image: expected stop or exclude, found {options.on_bad_image}.")
        changes["on_bad_image"] = options.on_bad_image
    return LoadedStudy(study.model_copy(update=changes), loaded.path)


def open_output(loaded: LoadedStudy) -> Store:
    """Open the study's output and refuse the folder of another study."""
    store = open_store(loaded.resolve(loaded.study.output))
    if store.exists(STUDY_COPY):
        other = json.loads(store.read_bytes(STUDY_COPY)).get("name")
        if other != loaded.study.name:
            raise StudyFileError(
                f"output {store.url}: expected the folder of study '{loaded.study.name}' or an empty one, found "
                f"study '{other}'. "
                "Name another output folder."
            )
    return store


def plan_study(path: Path | str, options: RunOptions | None = None) -> PlannedStudy:
    """Plan a study and derive the state of every unit; writes nothing."""
    start = time.monotonic()
    loaded = load(path, options)
    store = open_output(loaded)
    plan, status = _planned(loaded, store, (options or RunOptions()).recompute)
    return PlannedStudy(plan, status, time.monotonic() - start)


def study_status(path: Path | str) -> PlannedStudy:
    """Return the same as ``plan_study``: status is derived, never stored."""
    return plan_study(path)


def _planned(
    loaded: LoadedStudy, store: Store, recompute: Sequence[str] = ()
) -> tuple[StudyPlan, dict[str, UnitStatus]]:
    plan = build_plan(loaded, store, {})
    status = derive_status(plan.units, store, recompute=recompute)
    bad = bad_images(status) if loaded.study.on_bad_image == "exclude" else {}
    if bad:
        plan = build_plan(loaded, store, bad)
        status = derive_status(plan.units, store, recompute=recompute)
    return plan, status


def run_study(path: Path | str, options: RunOptions | None = None, listeners: Sequence[Listener] = ()) -> StudyOutcome:
    """Compute what is not done yet.

    Raises
    ------
    VoxcloudError
        If the study cannot be planned, another run works on it, or this run lost its lease. Units that fail do not
        raise: the others go on, and the outcome names the failed ones.
    """
    options = options or RunOptions()
    start = time.monotonic()
    loaded = load(path, options)
    store = open_output(loaded)

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    build_plan(loaded, store, {})  # everything that can be refused is refused before the first byte is written
    run_id = uuid.uuid4().hex[:12]
    with acquire(store, run_id) as lease, make_engine(loaded.study.compute) as engine:
        _write_study(loaded, store)
        total = RunOutcome()
        plan, status = _planned(loaded, store, options.recompute)
        _announce(status, emit)
        stacking = [s.unit for s in status.values() if s.to_compute and s.unit.step in STACK_STEPS]
        total.add(_run(stacking, store, engine, lease, emit))
        plan, status = _planned(loaded, store, [s for s in options.recompute if s not in STACK_STEPS])
        _announce(status, emit)
        _write_designs(plan, store)
        middle = [s.unit for s in status.values() if s.to_compute and s.unit.step not in (*STACK_STEPS, *CLOSING_STEPS)]
        blocked = set(total.failed) | set(total.unavailable)
        middle, gone = _without_blocked(middle, blocked)
        total.unavailable |= gone
        total.add(_run(middle, store, engine, lease, emit))
        report = _close(loaded, plan, store, engine, lease, emit, total, start)
    emit(Event("run-ended", totals=_totals(plan, total)))
    done = len(plan.units) - len(total.computed) - len(total.failed) - len(total.unavailable)
    return StudyOutcome(
        tuple(total.computed),
        total.failed,
        total.unavailable,
        plan.problems,
        max(0, done),
        time.monotonic() - start,
        total.cpu_s,
        store.url,
        report,
        _totals(plan, total),
    )


def _totals(plan: StudyPlan, total: RunOutcome) -> dict[str, int]:
    return {
        "planned": len(plan.units),
        "computed": len(total.computed),
        "failed": len(total.failed),
        "unavailable": len(total.unavailable),
    }


def _announce(status: Mapping[str, UnitStatus], emit: Listener) -> None:
    todo: dict[str, int] = {}
    for item in status.values():
        if item.to_compute:
            todo[item.unit.step] = todo.get(item.unit.step, 0) + 1
    emit(Event("planned", totals=todo))


def _without_blocked(units: Sequence[WorkUnit], blocked: set[str]) -> tuple[list[WorkUnit], dict[str, str]]:
    """Take out what waits, directly or not, for a unit that failed."""
    kept: list[WorkUnit] = []
    gone: dict[str, str] = {}
    for unit in units:
        cause = next((up for up in unit.upstream if up in blocked), None)
        if cause is None:
            kept.append(unit)
        else:
            blocked.add(unit.key)
            gone[unit.key] = f"waits for {cause}, which failed"
    return kept, gone


def _run(units: Sequence[WorkUnit], store: Store, engine: Any, lease: Lease, emit: Listener) -> RunOutcome:
    for unit in units:
        store.write_bytes(unit_path(unit.key), unit.to_json().encode())
    return run_units(units, store.url, engine, lease=lease, emit=emit)


def _write_study(loaded: LoadedStudy, store: Store) -> None:
    tree = loaded.study.model_dump(mode="json", by_alias=True)
    store.write_bytes(STUDY_COPY, json.dumps(tree, indent=1, sort_keys=True).encode())
    store.write_bytes(
        "dataset_description.json", json.dumps(dataset_description(loaded.study.name, __version__), indent=1).encode()
    )
    store.write_bytes(".bidsignore", BIDSIGNORE.encode())


def _write_designs(plan: StudyPlan, store: Store) -> None:
    for digest, design in plan.designs.items():
        path = f"{DESIGNS_PREFIX}/{digest}.json"
        if not store.exists(path):
            store.write_bytes(path, json.dumps(design, sort_keys=True).encode())
    by_model: dict[str, dict[str, Any]] = {}
    for design in plan.designs.values():
        by_model.setdefault(design["model"], {})[design["stack"]] = design
    for model, stacks in by_model.items():
        store.write_bytes(
            f"results/model-{model}/design.json", json.dumps(_design_page(stacks), sort_keys=True).encode()
        )


def _design_page(stacks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the report draws: the design of the first stack, and which stacks have other people."""
    first = next(iter(stacks.values()))
    name, entry = next(iter(first["coefficients"].items()))
    numbers = entry["diagnostics"]
    return {
        "schema": 1,
        "model": first["model"],
        "estimator": first["estimator"],
        "formula": first["formula"],
        "variance": first["variance"],
        "weights": first["weights"],
        "coefficient": name,
        "columns": entry["columns"],
        "matrix": entry["X"],
        "participants": entry["participants"],
        "groups": first["groups"],
        "rank": entry["rank"],
        **{k: numbers[k] for k in ("vif", "leverage", "correlation") if k in numbers},
        "time": first["time"],
        "visits": first["visits"],
        "contrasts": {
            k: {"test": t["test"], "kind": t["kind"], "weights": t["weights"]} for k, t in entry["tests"].items()
        },
        "accepted_unequal_variance": first["accepted_unequal_variance"],
        "stacks": {
            stack: {c: len(e["participants"]) for c, e in design["coefficients"].items()}
            for stack, design in stacks.items()
        },
        "sentences": first["sentences"],
    }


def _close(
    loaded: LoadedStudy,
    plan: StudyPlan,
    store: Store,
    engine: Any,
    lease: Lease,
    emit: Listener,
    total: RunOutcome,
    start: float,
) -> Path | None:
    """Gather results; with failures too, so that a report exists and names them."""
    broken = sorted({*total.failed, *total.unavailable})
    context = make.Context(loaded, store.url, plan.grid, {"study": plan.searches})
    closing = make.closing_units(context, [u for u in plan.units if u.step not in CLOSING_STEPS], broken)
    if not any(u.step == "inference" and u.key not in broken for u in plan.units):
        return None
    todo = [s.unit for s in derive_status(closing, store).values() if s.to_compute]
    if not todo and not total.computed:
        return Path(store.local_path("report.html"))
    lease.check()
    store.write_bytes(RUN_INFO, json.dumps(_run_info(loaded, plan, store, total, start), allow_nan=False).encode())
    closing_outcome = _run(todo, store, engine, lease, emit)
    total.add(closing_outcome)
    return None if closing_outcome.failed else Path(store.local_path("report.html"))


def _run_info(loaded: LoadedStudy, plan: StudyPlan, store: Store, total: RunOutcome, start: float) -> dict[str, Any]:
    """Return what the summary needs beside the results: who, where, when, what failed."""
    images = {image.identity for stack in plan.stacks.values() for image in stack.images}
    images_digest = digest_json(sorted(images))
    looks: list[str] = json.loads(store.read_bytes(LOOKS)) if store.exists(LOOKS) else []
    if images_digest not in looks:
        looks.append(images_digest)
        store.write_bytes(LOOKS, json.dumps(looks).encode())
    shards = {
        stack.name: [
            [u.name, u.fingerprint[:16]]
            for u in plan.units
            if u.step == "stack-shard" and u.name.startswith(f"{stack.name}/")
        ]
        for stack in plan.stacks.values()
    }
    return {
        "study": loaded.study.name,
        "study_file": str(loaded.path),
        "look": looks.index(images_digest) + 1,
        "images_digest": images_digest,
        "results": [u.outputs[0] for u in plan.units if u.step == "inference"],
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
            "engine": loaded.study.compute.engine,
            "seconds": time.monotonic() - start,
            "cpu_s": total.cpu_s,
            "units": len(plan.units),
            "computed": len(total.computed),
        },
        "cohort": {
            "participants_n": len({p for p, _, _ in images}),
            "images_n": len(images),
            "sessions_n": len({(p, s) for p, s, _ in images}),
            "left_out": [vars(item) for item in plan.left_out],
            "warnings": list(plan.warnings),
        },
        "stacks": [
            {
                "map": s.map,
                "label": s.label,
                "images": len(s.images),
                "units": s.spec.units,
                "n_voxels": len(plan.grid.voxel_index),
                "shards": shards[s.name],
            }
            for s in plan.stacks.values()
        ],
    }


def write_study_report(path: Path | str) -> Path:
    """Write tables and report again from the results that are there."""
    loaded = load(path)
    store = open_output(loaded)
    plan, _ = _planned(loaded, store)
    unit = next(u for u in plan.units if u.step == "report")
    if not store.exists("results/summary.json"):
        raise PlanError(f"{store.url}: no results yet. Run the study first: voxcloud run {path}")
    with acquire(store, uuid.uuid4().hex[:12]) as lease:
        answer = execute(unit, store, lease.run_id)
    if answer["state"] != "done":
        raise PlanError(f"report: {answer['message']}")
    return Path(store.local_path("report.html"))


def run_one_unit(key: str, output: Path | str) -> dict[str, Any]:
    """Run one unit alone, as the last run planned it."""
    store = open_store(str(output))
    if not store.exists(unit_path(key)):
        raise PlanError(
            f"{output}: no unit {key} was planned here. Give the study's output folder with --output, and a key "
            "that status prints."
        )
    with acquire(store, uuid.uuid4().hex[:12]) as lease:
        return execute(WorkUnit.from_json(store.read_bytes(unit_path(key))), store, lease.run_id)
