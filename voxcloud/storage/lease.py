"""One run per study: a lease that a living run refreshes and that others respect.

The lease is an object created if absent and changed only by compare-and-swap, so of several runs that find a dead one
exactly one takes it over. Whether it is dead is judged by the store's own clock: the time that the store gave the lease
against the time that it gives an object written now. No host's wall clock takes part. A holder on this very machine
whose process is gone is dead at once, so that nobody waits after Ctrl-C or a kill.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxcloud.errors import CorruptStoreError, LeaseHeldError, LeaseLostError, StorageError
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

LEASE_PATH = ".voxcloud/lease.json"
LEASE_SCHEMA = 1
REFRESH_S = 20.0
DEAD_AFTER_S = 90.0
PUBLISH_S = 1.0
# Contenders that keep beating each other to it give up after this many attempts.
ATTEMPTS = 10


@dataclass(frozen=True)
class LeaseInfo:
    """What a lease says; ``age_s`` is the time since its last refresh by the store's clock."""

    run_id: str
    host: str
    pid: int
    boot: str
    started: float
    running: tuple[str, ...]
    age_s: float
    process_start: str = ""
    token: str = ""

    @property
    def alive(self) -> bool:
        """Whether its run lives: refreshed lately, and not a process of this machine that is gone."""
        return self.age_s < DEAD_AFTER_S and not self._process_is_gone()

    def _process_is_gone(self) -> bool:
        # Only where this process could see the holder's: same machine, same start of it, same process namespace.
        if not (self.boot and self.process_start) or self.host != socket.gethostname() or self.boot != boot_id():
            return False
        return process_start(self.pid) != self.process_start


def boot_id() -> str:
    """Return what tells this start of this machine, and what processes can be seen, from others; else empty."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def process_start(pid: int) -> str:
    """Return when a process started, in ticks since boot, which tells it from a later one of its number; else empty."""
    try:
        # The name in parentheses may hold spaces and parentheses; the fields after the last one do not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return ""


def read_lease(store: Store, *, look_only: bool = False) -> LeaseInfo | None:
    """Return the store's lease, or None; its age is measured by the store's clock.

    Reading that clock writes a probe. With ``look_only`` nothing is written and this machine's clock stands for it:
    good enough to show what runs, not to take a lease over.
    """
    try:
        raw = store.read_bytes(LEASE_PATH)
    except CorruptStoreError:
        return None
    return _describe(store, raw, time.time() if look_only else None)


def lease_holder(store: Store) -> tuple[str, str]:
    """Return the run that holds the lease and words for it; asks no clock, so it works on a full disk too."""
    try:
        tree = json.loads(store.read_bytes(LEASE_PATH))
        return str(tree["run_id"]), f"run {tree['run_id']} on {tree['host']}"
    except CorruptStoreError:
        return "", "nobody"
    except (ValueError, KeyError, TypeError):
        return "", "a run that cannot be read"


def _describe(store: Store, raw: bytes, now: float | None = None) -> LeaseInfo | None:
    written = store.modified(LEASE_PATH)
    if written is None:
        return None
    age = max(0.0, (store.now() if now is None else now) - written)
    try:
        tree: dict[str, Any] = json.loads(raw)
        return LeaseInfo(
            run_id=str(tree["run_id"]),
            host=str(tree["host"]),
            pid=int(tree["pid"]),
            boot=str(tree["boot"]),
            started=float(tree["started"]),
            running=tuple(map(str, tree["running"])),
            age_s=age,
            process_start=str(tree.get("process_start", "")),
            token=str(tree.get("token", "")),
        )
    except (ValueError, KeyError, TypeError):
        # Nobody can say whose it is: it counts until it has not been refreshed for as long as any other.
        return LeaseInfo("unreadable", "unknown", 0, "", 0.0, (), age)


def _token(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["token"])
    except (ValueError, KeyError, TypeError):
        return ""


class Lease:
    """The lease of this run, refreshed by a thread; a context manager that gives it back at the end."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self._token = uuid.uuid4().hex
        self._started = time.time()
        self._running: tuple[str, ...] = ()
        self._published = 0.0
        self._lost = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="voxcloud-lease", daemon=True)

    def body(self) -> bytes:
        """Return the lease's bytes."""
        tree = {
            "schema": LEASE_SCHEMA,
            "run_id": self.run_id,
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "boot": boot_id(),
            "started": self._started,
            "running": list(self._running),
        }
        return json.dumps(tree).encode()

    def check(self) -> None:
        """Re-read the lease: a run that was stopped and goes on finds here that it lost it.

        Raises
        ------
        LeaseLostError
            If another run holds it, or nobody does. Once lost, it stays lost.
        """
        raw = self._read()
        if self._lost or _token(raw) != self._token:
            self._lost = True
            holder = "nobody"
            with contextlib.suppress(ValueError, KeyError, TypeError):
                holder = f"run {json.loads(raw)['run_id']}"
            raise LeaseLostError(
                f"{self.store.url}: run {self.run_id} expected to hold this study's lease, found that {holder} does. "
                "It stops and writes nothing more; what is done is kept. Start it again when no other run is working."
            )

    def _read(self) -> bytes:
        try:
            return self.store.read_bytes(LEASE_PATH)
        except CorruptStoreError:
            return b""

    def set_running(self, units: Sequence[str]) -> None:
        """Publish which units run, at most once a second; the next refresh publishes what was held back."""
        self._running = tuple(units)
        if not units or time.monotonic() - self._published > PUBLISH_S:
            with contextlib.suppress(StorageError):  # a full disk must not end a run for the sake of its status
                self._write()

    def _write(self) -> None:
        """Refresh the lease if it is still this run's."""
        with self._lock:
            raw = self._read()
            mine = not self._lost and not self._stop.is_set() and _token(raw) == self._token
            if mine and self.store.replace_if(LEASE_PATH, raw, self.body()):
                self._published = time.monotonic()

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                self._write()
            except OSError as error:
                LOG.warning("run %s could not refresh its lease: %s", self.run_id, error)

    def release(self) -> None:
        """Give the lease back if it is still this run's; the second time nothing happens."""
        self._stop.set()
        with self._lock, contextlib.suppress(OSError):
            raw = self._read()
            if _token(raw) == self._token:
                self.store.replace_if(LEASE_PATH, raw, None)
        self._lost = True

    def _start(self) -> Lease:
        self._thread.start()
        return self

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def acquire(store: Store, run_id: str) -> Lease:
    """Take the store's lease and keep it fresh until ``release``.

    Raises
    ------
    LeaseHeldError
        If a living run holds it; the message names it.
    """
    lease = Lease(store, run_id)
    for _ in range(ATTEMPTS):
        if store.create_if_absent(LEASE_PATH, lease.body()):
            return lease._start()
        try:
            raw = store.read_bytes(LEASE_PATH)
        except CorruptStoreError:
            continue  # given back since
        held = _describe(store, raw)
        if held is None:
            continue
        if held.alive:
            raise LeaseHeldError(
                f"{store.url}: expected no other run on this study, found run {held.run_id} on {held.host} (process "
                f"{held.pid}), last seen {held.age_s:.0f} s ago. Wait for it, or end it and start again: a run that "
                f"was killed on another machine counts as dead after {DEAD_AFTER_S:.0f} s."
            )
        if store.replace_if(LEASE_PATH, raw, lease.body()):
            LOG.warning(
                "run %s was taken for dead (last seen %.0f s ago); run %s goes on", held.run_id, held.age_s, run_id
            )
            swept = store.sweep()
            LOG.info("%d unfinished files of killed writers were removed", swept)
            return lease._start()
    raise LeaseHeldError(f"{store.url}: other runs keep taking this study's lease. Wait for them and start again.")
