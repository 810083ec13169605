"""Driving units through an engine: what is ready is submitted, what is done frees what waits for it."""

from __future__ import annotations

import heapq
import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from voxcloud.errors import LeaseLostError, PlanError
from voxcloud.pipeline.engines import Engine, usable_share
from voxcloud.pipeline.events import Event, Listener
from voxcloud.pipeline.execute import execute_ref
from voxcloud.plan.unit import STAGES, WorkUnit

LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
PUT_BACK_DELAY_S = 2.0
LOOK_S = 1.0

# Raised by an engine when a worker died with the unit: the unit itself is not to blame.
LOST_WORKER_ERRORS = ("KilledWorker", "CancelledError", "FutureCancelledError", "BrokenProcessPool", "CommClosedError")


@dataclass
class RunOutcome:
    """Which units were computed, which failed and why, and which could not start."""

    computed: list[str] = field(default_factory=list)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: RunOutcome) -> None:
        """Add what another part of the same run did."""
        self.computed += other.computed
        self.failed |= other.failed
        self.unavailable |= other.unavailable
        self.seconds += other.seconds
        self.cpu_s += other.cpu_s


class LeaseLike(Protocol):
    """What the loop needs of a lease."""

    run_id: str

    def check(self) -> None:
        """Raise if the lease is lost."""

    def set_running(self, units: Sequence[str]) -> None:
        """Publish which units run."""


def run_units(
    units: Sequence[WorkUnit],
    store_url: str,
    engine: Engine,
    *,
    lease: LeaseLike,
    emit: Listener = lambda event: None,
    execute: Callable[..., dict[str, Any]] = execute_ref,
) -> RunOutcome:
    """Run units in the order of their dependencies and return what became of each.

    Parameters
    ----------
    units
        The units to compute. An upstream unit that is not among them counts as done.
    store_url
        The study's store; through the engine go only this URL, the unit's key and the run's id.
    engine
        Where to run.
    lease
        Re-read before each submission; a lost lease ends the run.
    emit
        Receives the events.

    Raises
    ------
    PlanError
        If a unit needs more memory than a worker has, or two units would write one object.
    LeaseLostError
        If another run took the study over.
    """
    refuse_too_large(units, engine.memory_per_worker, usable_share(engine))
    refuse_shared_outputs(units)
    return _Loop(units, store_url, engine, lease, emit, execute).run()


def refuse_too_large(units: Sequence[WorkUnit], memory_per_worker: int, share: float = 1.0) -> None:
    """Refuse a plan with a unit that no worker can hold: Dask would leave it waiting without a word.

    Parameters
    ----------
    units
        The units to compute.
    memory_per_worker
        Bytes that a unit may use on the largest worker.
    share
        The part of the worker's whole memory that this is.
    """
    whole = f" ({share:.0%} of its {memory_per_worker / share / 1e6:.0f} MB; the rest is the interpreter's)"
    for unit in units:
        if unit.projected_mem > memory_per_worker:
            raise PlanError(
                f"{unit.key}: needs {unit.projected_mem / 1e6:.0f} MB, the largest worker has "
                f"{memory_per_worker / 1e6:.0f} MB{whole if share < 1 else ''}. "
                "Set compute.memory_per_worker higher or use fewer workers."
            )


def refuse_shared_outputs(units: Sequence[WorkUnit]) -> None:
    """Refuse two units that write one object: each object has one writer, always."""
    writer: dict[str, str] = {}
    for unit in units:
        for path in unit.outputs:
            # Some disks do not tell upper from lower case.
            other = writer.setdefault(path.lower(), unit.key)
            if other != unit.key:
                raise PlanError(
                    f"{unit.key}: expected objects of its own, found that {other} writes {path} too. Give models and "
                    "contrasts names that differ in more than upper and lower case, '-' and '_'."
                )


class _Loop:
    def __init__(
        self,
        units: Sequence[WorkUnit],
        store_url: str,
        engine: Engine,
        lease: LeaseLike,
        emit: Listener,
        execute: Callable[..., dict[str, Any]],
    ) -> None:
        self.units: dict[str, WorkUnit] = {unit.key: unit for unit in units}
        self.store_url = store_url
        self.engine = engine
        self.lease = lease
        self.emit = emit
        self.execute = execute
        self.outcome = RunOutcome()
        self.waiting_for = {key: {u for u in unit.upstream if u in self.units} for key, unit in self.units.items()}
        self.downstream: dict[str, list[str]] = {}
        for key, upstream in self.waiting_for.items():
            for up in upstream:
                self.downstream.setdefault(up, []).append(key)
        order = {key: i for i, key in enumerate(self.units)}
        self.priority = {key: (STAGES.index(unit.step), order[key]) for key, unit in self.units.items()}
        self.ready = [(self.priority[key], key) for key, up in self.waiting_for.items() if not up]
        heapq.heapify(self.ready)
        self.put_back: list[tuple[float, str]] = []
        self.losses: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.finished: queue.Queue[tuple[str, Future[Any]]] = queue.Queue()

    def run(self) -> RunOutcome:
        start = time.monotonic()
        try:
            while self.ready or self.running or self.put_back:
                self._take_put_back()
                self._submit_ready()
                self._take_finished()
        finally:
            self.outcome.seconds = time.monotonic() - start
            self.lease.set_running([])
        return self.outcome

    def _submit_ready(self) -> None:
        limit = 1 if self.engine.workers == 1 else 3 * self.engine.workers
        room = self.engine.workers * self.engine.memory_per_worker
        while self.ready and len(self.running) < limit:
            key = self.ready[0][1]
            need = self.units[key].projected_mem
            if self.running and (self._must_be_alone(key) or sum(self.running.values()) + need > room):
                return
            heapq.heappop(self.ready)
            self.lease.check()
            self.running[key] = need
            self.attempts[key] = self.attempts.get(key, 0) + 1
            self.lease.set_running(list(self.running))
            self.emit(Event("started", key, self.units[key].step))
            future = self.engine.submit(
                self.execute, self.store_url, key, self.lease.run_id, key=f"{key}#{self.attempts[key]}", memory=need
            )
            future.add_done_callback(lambda done, key=key: self.finished.put((key, done)))  # type: ignore[misc]
            if self._must_be_alone(key):
                return

    def _must_be_alone(self, key: str) -> bool:
        """Whether a unit, or one that runs, was lost with its worker before: nobody can say which of several it was.

        The last attempt is made alone, so that a unit that ends its worker is told from those that ran beside it.
        """
        return any(self.losses.get(k, 0) >= MAX_ATTEMPTS - 1 for k in (key, *self.running))

    def _take_put_back(self) -> None:
        while self.put_back and self.put_back[0][0] <= time.monotonic():
            key = heapq.heappop(self.put_back)[1]
            heapq.heappush(self.ready, (self.priority[key], key))

    def _patience(self) -> float:
        """Return how long to wait for a unit to end: until one that was put back is due, at most a second."""
        if not self.put_back:
            return LOOK_S
        return min(LOOK_S, max(0.0, self.put_back[0][0] - time.monotonic()))

    def _take_finished(self) -> None:
        try:
            key, future = self.finished.get(timeout=self._patience())
        except queue.Empty:
            self.lease.check()
            return
        self.running.pop(key, None)
        self.lease.set_running(list(self.running))
        error = future.exception()
        answer: Mapping[str, Any] = future.result() if error is None else _engine_failure(error)
        if answer.get("error_class") in LOST_WORKER_ERRORS:
            self.losses[key] = self.losses.get(key, 0) + 1
        if answer.get("error_class") == LeaseLostError.__name__:
            raise LeaseLostError(str(answer["message"]))
        if answer["state"] == "done":
            self._done(key, answer)
        elif answer.get("retryable") and self.attempts[key] < MAX_ATTEMPTS:
            self.emit(Event("put-back", key, self.units[key].step, str(answer["message"])))
            # Not at once, because what failed may pass; and without keeping the other units waiting.
            heapq.heappush(self.put_back, (time.monotonic() + PUT_BACK_DELAY_S, key))
        else:
            self._failed(key, answer)

    def _done(self, key: str, answer: Mapping[str, Any]) -> None:
        self.outcome.computed.append(key)
        self.outcome.cpu_s += float(answer.get("cpu_s", 0.0))
        self.emit(Event("finished", key, self.units[key].step, seconds=float(answer.get("seconds", 0.0))))
        for down in self.downstream.get(key, ()):
            self.waiting_for[down].discard(key)
            if not self.waiting_for[down] and down not in self.outcome.unavailable:
                heapq.heappush(self.ready, (self.priority[down], down))

    def _failed(self, key: str, answer: Mapping[str, Any]) -> None:
        self.outcome.failed[key] = dict(answer)
        self.emit(Event("failed", key, self.units[key].step, str(answer["message"])))
        stack = [(key, down) for down in self.downstream.get(key, ())]
        while stack:
            cause, down = stack.pop()
            if down not in self.outcome.unavailable:
                self.outcome.unavailable[down] = f"waits for {key}, which failed"
                stack += [(cause, further) for further in self.downstream.get(down, ())]


def _engine_failure(error: BaseException) -> dict[str, Any]:
    name = type(error).__name__
    lost = name in LOST_WORKER_ERRORS
    return {
        "state": "failed",
        "error_class": name,
        "retryable": lost or bool(getattr(error, "retryable", False)),
        "message": f"the worker was lost ({name})" if lost else f"{name}: {error}",
    }
