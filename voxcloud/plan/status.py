"""What is done, stale, failed or waiting: derived from one listing of the records and the lease, never stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from voxcloud.plan.unit import DIGEST_MARK, STAGES, WorkUnit
from voxcloud.storage.lease import read_lease
from voxcloud.storage.records import Record, list_records, outputs_match, read_record
from voxcloud.storage.store import Store

State = Literal["unavailable", "waiting", "running", "done", "failed", "stale"]
# Longer values are not printed.
MOST_SHOWN = 120
STATES: tuple[State, ...] = ("unavailable", "waiting", "running", "done", "failed", "stale")


@dataclass(frozen=True)
class UnitStatus:
    """The state of one planned unit and the reason for it."""

    unit: WorkUnit
    state: State
    reason: str = ""
    error: Mapping[str, Any] | None = None
    record: Record | None = None

    @property
    def to_compute(self) -> bool:
        """Whether a run would compute it."""
        return self.state != "done"


def derive_status(
    units: Sequence[WorkUnit], store: Store, *, verify: bool = True, recompute: Sequence[str] = (), run_id: str = ""
) -> dict[str, UnitStatus]:
    """Return the state of every unit; the states' counts add up to the number of units.

    done: a record with this fingerprint exists and (``verify``) its outputs still have the recorded digests.
    stale: computed earlier from something else, or its outputs are gone or changed. running: claimed by a living lease.
    failed: tried with this very fingerprint and failed. unavailable: waits for a failed unit. waiting: everything else.
    Of the run ``run_id``, which asks between two of its stages, nothing runs.
    """
    records = list_records(store)
    lease = read_lease(store, look_only=True)
    other = lease is not None and lease.run_id != run_id and lease.alive
    running = set(lease.running) if lease is not None and other else set()
    found: dict[str, UnitStatus] = {}
    for unit in units:
        known = records.get((unit.step, unit.name), [])
        found[unit.key] = _state_of(unit, known, store, unit.key in running, verify, unit.step in recompute)
        if unit.step == "stack-manifest" and found[unit.key].state == "done":
            found[unit.key] = _names_its_shards(found[unit.key], found)
    return _spread(units, found)


def _names_its_shards(own: UnitStatus, found: Mapping[str, UnitStatus]) -> UnitStatus:
    """Mark a manifest as stale whose shards were written anew with other bytes.

    A shard whose replaced images are gone comes out without them: the living rows are the same, the bytes are not.
    """
    records = [found[up].record for up in own.unit.upstream if up in found and found[up].state == "done"]
    shards = {output.path: output.digest for record in records if record is not None for output in record.outputs}
    before = own.record.result.get("shards", {}) if own.record is not None else {}
    differs = [path for path, digest in shards.items() if before.get(path, digest) != digest]
    return UnitStatus(own.unit, "stale", f"{differs[0]} was written anew", record=own.record) if differs else own


def _state_of(
    unit: WorkUnit, known: Sequence[tuple[str, str]], store: Store, running: bool, verify: bool, again: bool
) -> UnitStatus:
    if running:
        return UnitStatus(unit, "running")
    mine = unit.fingerprint[:16]
    if (mine, "done") in known:
        record = read_record(store, unit.step, unit.name, mine, "done")
        if again:
            return UnitStatus(unit, "stale", "asked for with --recompute", record=record)
        if record is None or record.fingerprint != unit.fingerprint:
            return UnitStatus(unit, "stale", "its record cannot be read")
        if unit.step == "stack-shard" and record.result.get("bad") and unit.places.get("on_bad_image") == "stop":
            return UnitStatus(unit, "stale", "holds images that were excluded; on_bad_image is stop now")
        if verify:
            problem = outputs_match(store, record)
            if problem:
                return UnitStatus(unit, "stale", problem, record=record)
        return UnitStatus(unit, "done", record=record)
    if (mine, "failed") in known:
        record = read_record(store, unit.step, unit.name, mine, "failed")
        error = record.error if record is not None else None
        return UnitStatus(unit, "failed", str((error or {}).get("message", "")), error=error, record=record)
    if known:
        record = read_record(store, unit.step, unit.name, *known[-1])
        return UnitStatus(unit, "stale", changed_parts(unit, record), record=record)
    return UnitStatus(unit, "waiting", "not computed yet")


def _spread(units: Sequence[WorkUnit], found: dict[str, UnitStatus]) -> dict[str, UnitStatus]:
    """Mark what waits for a failed unit as unavailable, also what was done before that unit failed.

    A unit that is done would else hide the failed one from what reads both: a fit names the manifest of its stack, and
    reads the shards.
    """
    for unit in units:
        own = found[unit.key]
        for up in unit.upstream:
            before = found.get(up)
            if (
                before is not None
                and before.state in ("failed", "unavailable")
                and own.state not in ("failed", "running")
            ):
                found[unit.key] = UnitStatus(unit, "unavailable", f"waits for {up}", record=own.record)
                break
    return found


def changed_parts(unit: WorkUnit, record: Record | None) -> str:
    """Say which part of the fingerprint differs from that of the last record."""
    if record is None:
        return "its record cannot be read"
    before: Mapping[str, str] = record.result.get("parts", {})
    now = unit.parts
    nested: Mapping[str, Any] = record.result.get("nested", {})
    words: list[str] = []
    for name in now:
        if name in before and before[name] != now[name] and not name.startswith("input "):
            setting = name.removeprefix("setting ")
            if setting in nested and setting in unit.nested:
                words += _differences(setting, nested[setting], unit.nested[setting])
            elif now[name].startswith(DIGEST_MARK):
                words.append(f"{name} changed")
            else:
                words.append(f"{name}: {before[name]} -> {now[name]}")
    words += [
        f"{name.removeprefix('input ')} changed"
        for name in now
        if name in before and before[name] != now[name] and name.startswith("input ")
    ]
    words += [f"{name} is new" for name in now if name not in before] + [
        f"{name} is gone" for name in before if name not in now
    ]
    return "; ".join(words) or f"last attempt {record.state}"


def _differences(name: str, before: Any, now: Any) -> list[str]:
    """Return what differs between two values of a setting, key by key, e.g. ``inference.alpha 0.05 -> 0.01``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            text
            for key in dict.fromkeys([*before, *now])
            for text in _differences(f"{name}.{key}", before.get(key), now.get(key))
        ]
    # What a record kept went through JSON: a tuple came back as a list.
    old, new = json.dumps(before, sort_keys=True), json.dumps(now, sort_keys=True)
    if old == new:
        return []
    return [f"{name} {old} -> {new}" if len(old) + len(new) <= MOST_SHOWN else f"{name} changed"]


def count_states(found: Mapping[str, UnitStatus]) -> dict[str, dict[str, int]]:
    """Count the states per stage; the line ``all`` adds up to the number of planned units."""
    table: dict[str, dict[str, int]] = {}
    for step in STAGES:
        states = Counter(s.state for s in found.values() if s.unit.step == step)
        if states:
            table[step] = {state: states.get(state, 0) for state in STATES}
    table["all"] = {state: sum(row[state] for row in table.values()) for state in STATES}
    return table


def bad_images(found: Mapping[str, UnitStatus]) -> dict[tuple[str, str, str], str]:
    """Collect the images that finished shards left out, with the reason."""
    bad: dict[tuple[str, str, str], str] = {}
    for status in found.values():
        if status.unit.step == "stack-shard" and status.state == "done" and status.record is not None:
            for item in status.record.result.get("bad", []):
                bad[(item["participant_id"], item["session_id"], item["digest"])] = item["reason"]
    return bad


def failed_units(found: Mapping[str, UnitStatus], steps: Sequence[str]) -> dict[str, str]:
    """Return the reason of every failed unit of some steps, by key."""
    return {key: s.reason for key, s in found.items() if s.state == "failed" and s.unit.step in steps}
