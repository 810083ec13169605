"""Where units run: one small interface, and the two engines that need nothing installed.

Dask engines live in ``infra`` and are found by the entry-point group ``voxcloud.engines``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from voxcloud.config.study import Compute
from voxcloud.errors import PlanError, nearest

GIB = 1024**3
# The rest is left to the system and to everything else that runs.
AUTO_SHARE = 0.8


class Engine(Protocol):
    """Runs functions somewhere; a context manager that cleans up what it started."""

    workers: int
    memory_per_worker: int

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        """Run ``function(*args)``; ``memory`` bytes are reserved for it."""
        ...


class SerialEngine:
    """Runs each unit when it is submitted, in this process."""

    def __init__(self, compute: Compute) -> None:
        self.workers = 1
        self.memory_per_worker = memory_per_worker(compute, 1)

    def __enter__(self) -> SerialEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class ThreadsEngine:
    """Runs units in threads of this process: the kernels release the interpreter lock."""

    def __init__(self, compute: Compute) -> None:
        self.workers = worker_count(compute)
        self.memory_per_worker = memory_per_worker(compute, self.workers)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> ThreadsEngine:
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="voxcloud")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        if self._pool is None:
            raise PlanError("the threads engine is used before it was entered; use it in a with statement.")
        return self._pool.submit(function, *args)


def usable_share(engine: Engine) -> float:
    """Return which part of a worker's memory a unit may use; an engine that does not say gives all that was asked."""
    return float(getattr(engine, "usable_share", 1.0))


BUILT_IN: dict[str, Callable[[Compute], Engine]] = {"serial": SerialEngine, "threads": ThreadsEngine}


def make_engine(compute: Compute) -> Engine:
    """Return the engine that the study names.

    Raises
    ------
    PlanError
        If no such engine is installed; the message names the nearest one.
    """
    if compute.engine in BUILT_IN:
        return BUILT_IN[compute.engine](compute)
    found = {point.name: point for point in entry_points(group="voxcloud.engines")}
    if compute.engine not in found:
        names = sorted({*BUILT_IN, *found})
        raise PlanError(
            f"compute.engine '{compute.engine}' is not installed.{nearest(compute.engine, names)} "
            f"Installed: {', '.join(names)}. Install the extra that brings it, e.g. pip install 'voxcloud[hpc]'."
        )
    engine: Engine = found[compute.engine].load()(compute)
    return engine


def worker_count(compute: Compute) -> int:
    """Return the number of workers asked for; auto is one per core that this process may use."""
    if compute.workers != "auto":
        return max(1, int(compute.workers))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_per_worker(compute: Compute, workers: int) -> int:
    """Return bytes per worker; auto shares 80 % of the memory that this process may use."""
    if compute.memory_per_worker != "auto":
        return parse_bytes(compute.memory_per_worker)
    return int(AUTO_SHARE * usable_memory() / workers)


def usable_memory(root: Path = Path("/")) -> int:
    """Return the machine's memory in bytes, or the limit of a container or queue system if that is less.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the memory limits of the control groups that this process is in; each may have one, and all hold.

    Inside a container the group's path is often that of the host and does not exist here: then the mount's own root is
    the container's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            try:
                limit = int(base.joinpath(*parts[:depth], name).read_text(encoding="ascii"))
            except (OSError, ValueError):  # no such group here, or "max": no limit
                continue
            if limit > 0:
                yield limit


def parse_bytes(text: str) -> int:
    """Read a size such as ``4 GB`` or ``512 MiB``."""
    units = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text.strip().lower()[len(number) :].strip() or "b"
    try:
        return int(float(number) * units[unit])
    except (KeyError, ValueError):
        raise PlanError(f"compute.memory_per_worker: expected a size such as '4 GB', found '{text}'.") from None
