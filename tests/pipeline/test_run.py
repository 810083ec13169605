"""The loop that submits units: order, retries that keep nobody waiting, units that end their worker, a lost lease."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from voxcloud.config.study import Compute
from voxcloud.errors import LeaseLostError
from voxcloud.pipeline import run as loop
from voxcloud.pipeline.engines import make_engine
from voxcloud.pipeline.events import Event
from voxcloud.pipeline.run import RunOutcome, run_units
from voxcloud.plan.unit import WorkUnit


class Lease:
    """A lease that is lost after some looks."""

    run_id = "test"

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks
        self.running: list[str] = []

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise LeaseLostError("lost")

    def set_running(self, units: Any) -> None:
        self.running = list(units)


def unit(name: str, *upstream: str) -> WorkUnit:
    """Return a unit that waits for others."""
    return WorkUnit("fit-block", name, {}, {}, (), upstream=tuple(f"fit-block/{up}" for up in upstream))


def run(units: list[WorkUnit], answer: Callable[[str], dict[str, Any]], **more: Any) -> RunOutcome:
    """Run units on two threads; ``answer`` gets the unit's name."""
    with make_engine(Compute(engine="threads", workers=2)) as engine:
        return run_units(
            units,
            "",
            engine,
            lease=more.pop("lease", Lease()),
            execute=lambda url, key, run_id: answer(key.partition("/")[2]),
            **more,
        )


def done(name: str) -> dict[str, Any]:
    """Return what a unit answers."""
    return {"state": "done", "seconds": 0.0, "cpu_s": 0.0}


def test_run_units__waits_for_upstream() -> None:
    order: list[str] = []

    def answer(name: str) -> dict[str, Any]:
        order.append(name)
        return done(name)

    outcome = run([unit("c", "b"), unit("b", "a"), unit("a"), unit("d", "elsewhere")], answer)
    assert len(outcome.computed) == 4
    assert order.index("a") < order.index("b") < order.index("c")


def test_run_units__a_failure_leaves_the_others_and_names_what_waits_for_it() -> None:
    failed = {"state": "failed", "message": "bad image", "error_class": "ImageError"}
    outcome = run([unit("a"), unit("b", "a"), unit("c", "b"), unit("d")], lambda n: failed if n == "a" else done(n))
    assert outcome.computed == ["fit-block/d"]
    assert outcome.failed == {"fit-block/a": failed}
    assert outcome.unavailable == dict.fromkeys(("fit-block/b", "fit-block/c"), "waits for fit-block/a, which failed")


def test_run_units__what_is_put_back_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PUT_BACK_DELAY_S", 0.6)
    started: dict[str, list[float]] = {}

    def answer(name: str) -> dict[str, Any]:
        started.setdefault(name, []).append(time.monotonic())
        if name == "a" and len(started["a"]) == 1:
            return {"state": "failed", "message": "busy", "retryable": True, "error_class": "StorageError"}
        return done(name)

    events: list[Event] = []
    chain = [unit(f"n{k}", *([f"n{k - 1}"] if k else [])) for k in range(8)]
    outcome = run([unit("a"), *chain], answer, emit=events.append)
    assert len(outcome.computed) == 9
    first, second = started["a"]
    assert second - first >= 0.6
    assert all(times[0] < second for name, times in started.items() if name != "a")
    assert [event.unit for event in events if event.kind == "put-back"] == ["fit-block/a"]


def test_run_units__gives_up_after_three_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PUT_BACK_DELAY_S", 0.0)
    tried: list[str] = []

    def answer(name: str) -> dict[str, Any]:
        tried.append(name)
        return {"state": "failed", "message": "no", "retryable": True, "error_class": "StorageError"}

    assert list(run([unit("a")], answer).failed) == ["fit-block/a"]
    assert tried == ["a"] * 3


class DyingEngine:
    """One worker that takes three units, and dies with all of them when one of them is ``bad``."""

    workers, memory_per_worker = 1, 10**9

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Future[Any]]] = []
        self.deaths: list[list[str]] = []

    def __enter__(self) -> DyingEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((key, future))
        return future

    def work(self, *_: Any) -> None:
        """Carry out what was submitted."""
        batch, self.waiting = self.waiting, []
        dies = any("bad" in key for key, _ in batch)
        if dies:
            self.deaths.append(sorted(key.partition("/")[2].partition("#")[0] for key, _ in batch))
        for _, future in batch:
            if dies:
                future.set_exception(type("KilledWorker", (Exception,), {})())
            else:
                future.set_result(done(""))


def test_run_units__tells_a_unit_that_ends_its_worker_from_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PUT_BACK_DELAY_S", 0.0)
    engine = DyingEngine()
    engine.workers = 2
    take = loop._Loop._take_finished
    monkeypatch.setattr(loop._Loop, "_take_finished", lambda self: (engine.work(), take(self))[1])
    outcome = run_units([unit(n) for n in ("a", "bad", "c")], "", engine, lease=Lease())
    assert engine.deaths == [["a", "bad", "c"], ["a", "bad", "c"], ["bad"]] or engine.deaths[-1] == ["bad"]
    assert list(outcome.failed) == ["fit-block/bad"]
    assert "the worker was lost" in outcome.failed["fit-block/bad"]["message"]
    assert sorted(outcome.computed) == ["fit-block/a", "fit-block/c"]


def test_run_units__stops_when_the_lease_is_lost() -> None:
    lease = Lease(looks=2)
    with pytest.raises(LeaseLostError):
        run([unit(str(k)) for k in range(9)], done, lease=lease)
    assert lease.running == []
