"""``execute``: the only way in which a unit is carried out, whoever asks for it."""

from __future__ import annotations

import collections
import functools
import logging
import os
import platform
import resource
import shlex
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voxcloud.errors import CorruptStoreError, LeaseLostError, VoxcloudError
from voxcloud.pipeline.allocator import return_freed_memory
from voxcloud.pipeline.blas import one_blas_thread
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.folder import explain
from voxcloud.storage.lease import lease_holder
from voxcloud.storage.records import OutputRef, Record, begin_unit, write_record
from voxcloud.storage.store import Store, open_store
from voxcloud.version import __version__

LOG = logging.getLogger("voxcloud")

UNITS_PREFIX = ".voxcloud/units"
LOG_TAIL_LINES = 20
# CPU seconds of processes that a step started: its own thread's clock does not see them.
CHILD_CPU = "child_cpu_s"
STATE_DONE = "done"
STATE_FAILED = "failed"
# What one unit may send through a scheduler; its record holds the whole.
ANSWER_MESSAGE = 1200

# A step takes the unit and the store and returns a small dictionary for its record.
Step = Callable[[WorkUnit, Store], Mapping[str, Any]]


def unit_path(key: str) -> str:
    """Return where a unit's JSON lies in the store."""
    return f"{UNITS_PREFIX}/{key}.json"


def execute_ref(store_url: str, key: str, run_id: str = "") -> dict[str, Any]:
    """Read a unit from the store and execute it; what goes through a scheduler is this call and its small answer."""
    store = open_store(store_url)
    answer = execute(WorkUnit.from_json(store.read_bytes(unit_path(key))), store, run_id)
    answer.pop("traceback", None)
    message = answer.get("message", "")
    if len(message) > ANSWER_MESSAGE:
        answer["message"] = f"{message[:ANSWER_MESSAGE]} ... (voxcloud status prints the whole)"
    return answer


def execute(unit: WorkUnit, store: Store, run_id: str = "") -> dict[str, Any]:
    """Carry a unit out, write its record and return a few hundred bytes.

    Every record of the unit is deleted before its first byte and the new one is written after its last, so that a
    unit that was killed in between counts as not done. With a ``run_id`` the store's lease must still be that run's.
    """
    from voxcloud.pipeline.steps import STEPS

    started = time.time()
    clock, cpu = time.monotonic(), time.thread_time()
    return_freed_memory()
    with _log_tail(unit.key) as tail, one_blas_thread():
        try:
            _check_lease(store, run_id)
            begin_unit(store, unit.step, unit.name)
            result = dict(STEPS[unit.step](unit, store))
            children = float(result.pop(CHILD_CPU, 0.0))
            outputs = tuple(_written(unit, store, path) for path in unit.outputs)
            error: dict[str, Any] | None = None
        except Exception as caught:
            LOG.debug("%s failed", unit.key, exc_info=True)
            result, outputs, children = {}, (), 0.0
            error = _describe(unit, caught)
    seconds, cpu_s = time.monotonic() - clock, time.thread_time() - cpu + children
    answer: dict[str, Any] = {
        "state": STATE_DONE if error is None else STATE_FAILED,
        "seconds": seconds,
        "cpu_s": cpu_s,
    }
    if error is not None:
        answer |= error
        if error["error_class"] == LeaseLostError.__name__:
            return answer
    try:
        _check_lease(store, run_id)
        write_record(
            store,
            Record(
                step=unit.step,
                unit=unit.name,
                fingerprint=unit.fingerprint,
                state=answer["state"],
                outputs=outputs,
                started=started,
                finished=started + seconds,
                wall_s=seconds,
                cpu_s=cpu_s,
                peak_mem=process_peak(),
                host=socket.gethostname(),
                versions=versions(),
                result=result | {"parts": unit.parts, "nested": unit.nested},
                error=error,
                log_tail=tuple(tail),
            ),
        )
    except (VoxcloudError, OSError) as caught:
        return answer | {"state": STATE_FAILED} | _describe(unit, caught)
    return answer


def _written(unit: WorkUnit, store: Store, path: str) -> OutputRef:
    """Describe an output; one that is not there is an error now and not a unit that is never done."""
    size = store.size(path)
    if size < 0:
        raise CorruptStoreError(
            f"{unit.key}: expected it to have written {path}, found none. Something deletes files of {store.url} while "
            "the study runs; end it and run the study again."
        )
    return OutputRef(path, size, store.digest(path))


def process_peak() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    It is the process's and not the unit's: with the engines serial and threads the units of one process share it, and
    it never falls. A worker process of the engine local runs one unit at a time.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_lease(store: Store, run_id: str) -> None:
    if not run_id:
        return
    found, holder = lease_holder(store)
    if found != run_id:
        raise LeaseLostError(
            f"run {run_id} lost its lease, which {holder} holds now; it writes nothing more. Start it again."
        )


def _describe(unit: WorkUnit, error: BaseException) -> dict[str, Any]:
    if isinstance(error, OSError) and not isinstance(error, VoxcloudError) and error.errno is not None:
        # A disk that is full or refuses says so in the same words wherever it is met.
        error = explain(error, Path(str(error.filename or unit.places.get("output", "."))))
    expected = isinstance(error, VoxcloudError)
    message = str(error) if expected else f"{unit.key}: {type(error).__name__}: {error}"
    return {
        "error_class": type(error).__name__,
        "retryable": bool(getattr(error, "retryable", False)),
        "message": message,
        "rerun": shlex.join(["voxcloud", "unit", "run", unit.key, "--output", str(unit.places.get("output", "."))]),
        "traceback": "" if expected else "".join(traceback.format_exception(error))[-4000:],
    }


class _TailHandler(logging.Handler):
    """Keeps the last lines that this thread logged, each with the unit's key."""

    def __init__(self, key: str, tail: collections.deque[str]) -> None:
        super().__init__(logging.INFO)
        self._key, self._tail, self._thread = key, tail, threading.get_ident()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._tail.append(f"[{self._key}] {self.format(record)}")


@contextmanager
def _log_tail(key: str) -> Iterator[collections.deque[str]]:
    tail: collections.deque[str] = collections.deque(maxlen=LOG_TAIL_LINES)
    handler = _TailHandler(key, tail)
    if LOG.level == logging.NOTSET:
        LOG.setLevel(logging.INFO)  # else the library's own level hides what a record should tell
    LOG.addHandler(handler)
    try:
        yield tail
    finally:
        LOG.removeHandler(handler)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a record keeps: they are never part of a fingerprint."""
    found = {"voxcloud": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("numpy", "scipy", "nibabel", "zarr", "dask", "formulaic"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["platform"] = f"{sys.platform} {os.uname().machine}" if hasattr(os, "uname") else sys.platform
    return found
