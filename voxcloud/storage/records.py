"""Completion records: one small object per outcome of a unit, written after the unit's last byte.

A record lies at ``.voxcloud/records/<step>/<unit>/<fingerprint16>.<state>.json``: one listing tells what is done. A
unit deletes every record of its own before its first byte, whatever the fingerprint: otherwise a run with parameters
A, an edit to B, a kill after B's first write and a return to A would take B's bytes for A's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from voxcloud.errors import CorruptStoreError, NewerSchemaError
from voxcloud.schema import RECORD_SCHEMA
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

RECORDS_ROOT = ".voxcloud/records"
STATES = ("done", "failed")
LOG_TAIL_LINES = 20

# From the schema of the key to the next one, in memory: stores are never migrated in place.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class OutputRef:
    """One object that a unit wrote."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Record:
    """What became of a unit; ``result`` is the step's small answer, ``error`` what a failure says."""

    step: str
    unit: str
    fingerprint: str
    state: str
    outputs: tuple[OutputRef, ...] = ()
    started: float = 0.0
    finished: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mem: int = 0
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    log_tail: tuple[str, ...] = ()
    schema: int = RECORD_SCHEMA


def record_path(step: str, unit: str, fingerprint16: str, state: str) -> str:
    """Return where a record lies."""
    return f"{RECORDS_ROOT}/{step}/{unit}/{fingerprint16}.{state}.json"


def begin_unit(store: Store, step: str, unit: str) -> None:
    """Delete every record of a unit, whatever the fingerprint: to be called before its first byte."""
    prefix = f"{RECORDS_ROOT}/{step}/{unit}"
    for path in store.list(prefix):
        if "/" not in path.removeprefix(prefix + "/"):  # deeper ones are of units whose names begin with this one's
            store.delete(path)


def write_record(store: Store, record: Record) -> None:
    """Write a record: to be called after the unit's last byte.

    Raises
    ------
    ValueError
        If its state is neither ``done`` nor ``failed``.
    """
    if record.state not in STATES:
        raise ValueError(f"{record.step} {record.unit}: expected one of the states {STATES}, found {record.state!r}.")
    path = record_path(record.step, record.unit, record.fingerprint[:16], record.state)
    tree = asdict(replace(record, log_tail=record.log_tail[-LOG_TAIL_LINES:]))
    store.write_bytes(path, json.dumps(tree, sort_keys=True).encode())


def list_records(store: Store) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (step, unit) to its (fingerprint16, state) pairs from one listing; no record is opened."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for path in store.list(RECORDS_ROOT):
        step, _, rest = path.removeprefix(RECORDS_ROOT + "/").partition("/")
        unit, _, name = rest.rpartition("/")
        parts = name.split(".")
        if unit and len(parts) == 3 and parts[1] in STATES and parts[2] == "json":
            found.setdefault((step, unit), []).append((parts[0], parts[1]))
    return found


def read_record(store: Store, step: str, unit: str, fingerprint16: str, state: str) -> Record | None:
    """Return a record, or None if it is not there or was cut short (which counts as not there, and is logged).

    Raises
    ------
    NewerSchemaError
        If a newer voxcloud wrote it.
    """
    path = record_path(step, unit, fingerprint16, state)
    if not store.exists(path):
        return None
    try:
        tree = _upgraded(json.loads(store.read_bytes(path)), path)
        outputs = tuple(OutputRef(str(o["path"]), int(o["size"]), str(o["digest"])) for o in tree.pop("outputs"))
        record = Record(outputs=outputs, log_tail=tuple(tree.pop("log_tail")), **tree)
        if (record.step, record.unit, record.fingerprint[:16], record.state) != (step, unit, fingerprint16, state):
            raise ValueError(f"it is of {record.step} {record.unit} {record.fingerprint[:16]} {record.state}")
        return record
    except NewerSchemaError:
        raise
    except (CorruptStoreError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s: not a whole record (%s), taken as absent", path, error)
        return None


def _upgraded(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a record's tree in this version's schema; the stored one stays as it is."""
    found = int(tree["schema"])
    if found > RECORD_SCHEMA:
        raise NewerSchemaError(
            f"{path}: expected record schema {RECORD_SCHEMA} or lower, found {found}. Update voxcloud."
        )
    while found < RECORD_SCHEMA:
        tree = UPGRADES[found](tree)
        LOG.info("%s: read from record schema %d", path, found)
        found += 1
    return {**tree, "schema": RECORD_SCHEMA}


def outputs_match(store: Store, record: Record) -> str:
    """Return what differs between a record's outputs and the store; empty if all are as they were written."""
    for output in record.outputs:
        size = store.size(output.path)
        if size < 0:
            return f"{output.path} is gone"
        if size != output.size:
            return f"{output.path} has {size} bytes, {output.size} were written"
        if store.digest(output.path) != output.digest:
            return f"{output.path} has other bytes than were written"
    return ""
