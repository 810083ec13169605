"""A whole study: validate, plan, run, status, report. The command line and the flows call these and nothing else."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from voxcloud.bids.derivatives import BIDSIGNORE, dataset_description
from voxcloud.config.load import LoadedStudy, load_study
from voxcloud.errors import PlanError, StudyFileError
from voxcloud.pipeline.closing import close_plan, design_path, leftovers, summary_fingerprint, write_run_info
from voxcloud.pipeline.engines import Engine, make_engine, usable_share
from voxcloud.pipeline.events import Event, Listener
from voxcloud.pipeline.execute import execute
from voxcloud.pipeline.output import STUDY_COPY, open_output, refuse_over_images
from voxcloud.pipeline.planned import planned_unit, refuse_moved, with_upstream, write_units
from voxcloud.pipeline.run import RunOutcome, refuse_shared_outputs, refuse_too_large, run_units
from voxcloud.plan.build import EVERY_SESSION, BadImages, StudyPlan, build_plan
from voxcloud.plan.modality import SessionChoice
from voxcloud.plan.paths import DESIGNS_PREFIX
from voxcloud.plan.sessions import QC_STEPS
from voxcloud.plan.space import SESSION_STEPS, SPACE_QC, head_volumes
from voxcloud.plan.status import UnitStatus, bad_images, count_states, derive_status, failed_units
from voxcloud.plan.unit import WorkUnit
from voxcloud.plan.units import mask_digest, mask_place
from voxcloud.plan.volumes import SEARCH_VOLUMES, plan_volumes
from voxcloud.storage.lease import Lease, acquire
from voxcloud.storage.stack import allocate_rows, latest_manifest
from voxcloud.storage.store import Store, open_store
from voxcloud.version import __version__

LOG = logging.getLogger(__name__)

StudySource: TypeAlias = LoadedStudy | Path | str

STACK_STEPS = ("stack-shard", "stack-manifest", SEARCH_VOLUMES)
TEMPLATE_STEPS = ("fit-template",)
QUALITY_STEPS = (*QC_STEPS, SPACE_QC)
CLOSING_STEPS = (*QUALITY_STEPS, "summary", "report")
# In these parts a run computes: after each it looks again at what is done, because a part may change that.
PARTS = (SESSION_STEPS, STACK_STEPS, TEMPLATE_STEPS)


@dataclass(frozen=True)
class RunOptions:
    """What a run may change without changing the study file; None leaves what the file says."""

    engine: str | None = None
    workers: int | None = None
    on_bad_image: str | None = None
    recompute: tuple[str, ...] = ()
    sessions: SessionChoice = EVERY_SESSION


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
    quality: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()


def load(source: StudySource, options: RunOptions | None = None) -> LoadedStudy:
    """Read a study file, or take one that was read, and apply the options of this run."""
    loaded = source if isinstance(source, LoadedStudy) else load_study(source)
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


def plan_study(source: StudySource, options: RunOptions | None = None) -> PlannedStudy:
    """Plan a study and derive the state of every unit; writes nothing."""
    start = time.monotonic()
    loaded = load(source, options)
    store = open_output(loaded)
    plan, status = _Planner(loaded, store, options or RunOptions()).look()
    return PlannedStudy(plan, status, time.monotonic() - start)


def study_status(source: StudySource) -> PlannedStudy:
    """Return the same as ``plan_study``: status is derived, never stored."""
    return plan_study(source)


class _Planner:
    """The plan of a study, made anew only where what it rests on changed: building one takes seconds."""

    def __init__(self, loaded: LoadedStudy, store: Store, options: RunOptions) -> None:
        self.loaded, self.store, self.recompute, self.choice = loaded, store, options.recompute, options.sessions
        self.bad: BadImages = {}
        self.failed: dict[str, str] = {}
        self.plan = self._build()
        if self.plan.cohort is not None and loaded.study.space is None:
            refuse_over_images(loaded, self.plan.cohort)

    def _build(self) -> StudyPlan:
        return build_plan(self.loaded, self.store, self.bad, self.choice, self.failed)

    def look(
        self, run_id: str = "", failed: Mapping[str, str] | None = None
    ) -> tuple[StudyPlan, dict[str, UnitStatus]]:
        """Return the plan and the state of its units as they are now."""
        if not self._holds():
            self.plan = self._build()
        plan, status = self._derive(run_id, failed)
        while self.loaded.study.on_bad_image == "exclude":
            # What is excluded makes another plan, in which more can turn out to have failed.
            found = bad_images(status), failed_units(status, SESSION_STEPS)
            if found == (self.bad, self.failed):
                break
            self.bad, self.failed = found
            self.plan = self._build()
            plan, status = self._derive(run_id, failed)
        return plan, status

    def _derive(self, run_id: str, failed: Mapping[str, str] | None) -> tuple[StudyPlan, dict[str, UnitStatus]]:
        plan = close_plan(self.plan, self.store, failed)
        return plan, derive_status(plan.units, self.store, recompute=self.recompute, run_id=run_id)

    def _holds(self) -> bool:
        """Whether the plan would be made alike now.

        Volumes of heads become known as anatomies are done, and another run may have written manifests, after which
        images get other rows.
        """
        volumes = head_volumes(self.store, self.plan.space.units) if self.plan.cohort is not None else {}
        if volumes != self.plan.space.tiv or not self._volumes_hold():
            return False
        return all(
            allocate_rows(latest_manifest(self.store, stack.spec), [i.identity for i in stack.images])
            == stack.allocation
            for stack in self.plan.stacks.values()
        )

    def _volumes_hold(self) -> bool:
        """Whether no search volume came to be there since: how large they are decides what inference needs."""
        before = self.plan.volumes
        if before.ready or self.plan.grid is None:
            return True
        digest, place = mask_digest(self.plan.grid), mask_place(self.loaded)
        return not plan_volumes(self.loaded, self.store, digest, place).ready


class _Run:
    """One run of a study under its lease."""

    def __init__(self, planner: _Planner, engine: Engine, lease: Lease, emit: Listener) -> None:
        self.planner, self.store = planner, planner.store
        self.engine, self.lease, self.emit = engine, lease, emit
        self.total = RunOutcome()
        self.start = time.monotonic()
        self.plan, self.status = planner.look(lease.run_id)

    def run(self) -> None:
        """Compute what is not done, part by part."""
        todo = [s.unit for s in self.status.values() if s.to_compute]
        refuse_too_large(todo, self.engine.memory_per_worker, usable_share(self.engine))
        refuse_shared_outputs(self.plan.units)
        _write_study(self.planner.loaded, self.store)
        _write_designs(self.plan, self.store)
        # The others are written when they are computed.
        write_units(self.store, [s.unit for s in self.status.values() if not s.to_compute], every=False)
        self._announce()
        for steps in PARTS:
            # Shards that came out with other bytes than the manifest names make it stale, once.
            while todo := self._todo(steps):
                self._compute(todo)
                self._look(steps)
        self._announce()
        self._compute(self._todo())
        self._close()

    def _look(self, computed: Sequence[str]) -> None:
        self.planner.recompute = tuple(step for step in self.planner.recompute if step not in computed)
        before = self.planner.plan
        self.plan, self.status = self.planner.look(self.lease.run_id)
        if self.planner.plan is not before:
            _write_designs(self.plan, self.store)
            self.total.unavailable = {}  # what waits for a failed unit is another matter in another plan

    def _todo(self, steps: Sequence[str] = ()) -> list[WorkUnit]:
        """Return the units that are not done, without those that failed or wait for one that did."""
        blocked = {*self.total.failed, *self.total.unavailable}
        ran = Counter(self.total.computed)
        units = [
            s.unit
            for s in self.status.values()
            if s.to_compute
            and (s.unit.step in steps if steps else s.unit.step not in CLOSING_STEPS)
            and s.unit.key not in blocked
            and ran[s.unit.key] < (2 if s.unit.step == "stack-manifest" else 1)
        ]
        kept, gone = _without_blocked(units, blocked)
        self.total.unavailable |= gone
        return kept

    def _compute(self, units: Sequence[WorkUnit]) -> None:
        write_units(self.store, units, every=True)
        self.total.add(run_units(units, self.store.url, self.engine, lease=self.lease, emit=self.emit))

    def _announce(self) -> None:
        todo: dict[str, int] = {}
        closing = [s.unit for s in self.status.values() if s.to_compute and s.unit.step in CLOSING_STEPS]
        for unit in (*self._todo(), *closing):
            todo[unit.step] = todo.get(unit.step, 0) + 1
        self.emit(Event("planned", totals=todo))

    def _close(self) -> None:
        """Gather results; with failures too, so that reports exist and name them."""
        total = self.total
        broken = {key: str(answer["message"]) for key, answer in total.failed.items()} | total.unavailable
        self.plan, self.status = self.planner.look(self.lease.run_id, broken)
        inferred = any(u.step == "inference" and u.key not in broken for u in self.plan.units)
        steps = CLOSING_STEPS if inferred else QUALITY_STEPS
        todo = [s.unit for s in self.status.values() if s.to_compute and s.unit.step in steps]
        if todo:
            self.lease.check()
            if inferred:
                write_run_info(self.plan, self.store, total, time.monotonic() - self.start)
            self._compute(todo)

    def page(self, *steps: str) -> Path | None:
        """Return the first page that closing steps wrote, None where none is done."""
        broken = {*self.total.failed, *self.total.unavailable}
        for unit in (u for u in self.plan.units if u.step in steps):
            if unit.key in broken or not self.store.exists(unit.outputs[0]):
                continue
            if unit.key in self.total.computed or self.status[unit.key].state == "done":
                return Path(self.store.local_path(unit.outputs[0]))
        return None


def run_study(
    source: StudySource,
    options: RunOptions | None = None,
    listeners: Sequence[Listener] = (),
    around: Callable[[Engine], Engine] = lambda engine: engine,
) -> StudyOutcome:
    """Compute what is not done yet.

    Parameters
    ----------
    source
        A study file, or one that was read.
    options
        What this run changes.
    listeners
        Receive the events.
    around
        Returns what units are submitted to in place of the study's engine, e.g. one that lets a service watch each.

    Raises
    ------
    VoxcloudError
        If the study cannot be planned, another run works on it, or this run lost its lease. Units that fail do not
        raise: the others go on, and the outcome names the failed ones.
    """
    options = options or RunOptions()
    start = time.monotonic()
    loaded = load(source, options)
    store = open_output(loaded)

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    # Everything that can be refused is refused before the first byte is written.
    planner = _Planner(loaded, store, options)
    with acquire(store, uuid.uuid4().hex[:12]) as lease, make_engine(loaded.study.compute) as engine:
        run = _Run(planner, around(engine), lease, emit)
        before = [key for key, status in run.status.items() if status.state == "done"]
        run.run()
    plan, total = run.plan, run.total
    emit(Event("run-ended", totals=_totals(plan, total)))
    return StudyOutcome(
        tuple(dict.fromkeys(total.computed)),
        total.failed,
        total.unavailable,
        plan.problems,
        len(set(before) - {*total.computed, *total.unavailable}),
        time.monotonic() - start,
        total.cpu_s,
        store.url,
        run.page("report"),
        run.page(*QUALITY_STEPS),
        _totals(plan, total),
        leftovers(plan, store),
    )


def _totals(plan: StudyPlan, total: RunOutcome) -> dict[str, int]:
    return {
        "planned": len(plan.units),
        "computed": len(total.computed),
        "failed": len(total.failed),
        "unavailable": len(total.unavailable),
    }


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


def _write_study(loaded: LoadedStudy, store: Store) -> None:
    tree = loaded.study.model_dump(mode="json", by_alias=True)
    store.write_bytes(STUDY_COPY, json.dumps(tree, indent=1, sort_keys=True).encode())
    store.write_bytes("dataset_description.json", json.dumps(_description(loaded, store), indent=1).encode())
    store.write_bytes(".bidsignore", BIDSIGNORE.encode())


def _description(loaded: LoadedStudy, store: Store) -> dict[str, Any]:
    study = loaded.study
    if study.bids is None:
        return dataset_description(study.name, __version__)
    raw = loaded.resolve(study.bids)
    content = "quantitative maps and longitudinal group statistics" if study.models else "quantitative maps"
    links = {"raw": os.path.relpath(raw, store.local_path("."))}
    return dataset_description(study.name, __version__, content=content, sources=[raw], links=links)


def _write_designs(plan: StudyPlan, store: Store) -> None:
    for digest, design in plan.designs.items():
        path = f"{DESIGNS_PREFIX}/{digest}.json"
        data = json.dumps(design, sort_keys=True).encode()
        # Named by its content: other bytes are damage, and every unit would refuse them.
        if not store.exists(path) or store.read_bytes(path) != data:
            store.write_bytes(path, data)
    by_model: dict[str, dict[str, Any]] = {}
    for design in plan.designs.values():
        by_model.setdefault(design["model"], {})[design["stack"]] = design
    for model, stacks in by_model.items():
        store.write_bytes(design_path(model), json.dumps(_design_page(stacks), sort_keys=True).encode())


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


def write_study_report(path: Path | str) -> Path:
    """Write tables and report again from the results that are there."""
    loaded = load(path)
    if not loaded.study.models:
        raise PlanError(
            f"{path}: expected `models`, whose results a report tells of, found none. The page on the "
            "quality of maps is written by the run itself."
        )
    store = open_output(loaded)
    plan = close_plan(build_plan(loaded, store, {}), store)
    fingerprint = summary_fingerprint(store, plan.by_key["summary/study"])
    if not fingerprint or not store.exists("results/summary.json"):
        raise PlanError(f"{store.url}: no results yet. Run the study first: voxcloud run {path}")
    unit = plan.by_key["report/study"]
    # The summary that is there may be another than today's plan would make; the record must say so.
    unit = replace(unit, inputs={**unit.inputs, "summary": fingerprint})
    with acquire(store, uuid.uuid4().hex[:12]) as lease:
        answer = execute(unit, store, lease.run_id)
    if answer["state"] != "done":
        raise PlanError(f"report: {answer['message']}")
    return Path(store.local_path("report.html"))


def run_one_unit(key: str, output: Path | str) -> dict[str, Any]:
    """Run one unit alone, as the last run planned it.

    Raises
    ------
    PlanError
        If no such unit was planned, one that it waits for is not done, or the study moved.
    LeaseHeldError
        If a run works on the study.
    """
    store = open_store(str(output))
    unit = planned_unit(store, key)
    with acquire(store, uuid.uuid4().hex[:12]) as lease:
        before = with_upstream(store, unit)
        # Whether outputs still have their digests is looked at where the unit itself reads: a whole study takes long.
        states = derive_status(before, store, verify=False, run_id=lease.run_id)
        near = [up for up in before if up.key in unit.upstream]
        for up, found in (states | derive_status(near, store, run_id=lease.run_id)).items():
            if found.state != "done":
                raise PlanError(
                    f"{key}: expected {up} to be done, found it {found.state} ({found.reason}). Run it first: voxcloud "
                    f"unit run {up} --output {output}; or the whole study, which computes what is missing."
                )
        refuse_moved(unit, store)
        return execute(unit, store, lease.run_id)
