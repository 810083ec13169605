"""The planned units as they lie in the store: ``voxcloud unit run`` and workers read them by their keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from voxcloud.bids.templates import is_brain_place
from voxcloud.errors import PlanError
from voxcloud.pipeline.execute import unit_path
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.store import Store

# Key to digest of every unit that lies there: a run writes anew only what differs from its plan.
UNITS_INDEX = ".voxcloud/units.json"


def write_units(store: Store, units: Sequence[WorkUnit], *, every: bool) -> None:
    """Write units, or (``every`` false) those that differ from what lies there, e.g. because the study moved."""
    index = _read_index(store)
    digests = {unit.key: digest_json([unit.fingerprint, dict(unit.places), list(unit.upstream)]) for unit in units}
    changed = [unit for unit in units if every or index.get(unit.key) != digests[unit.key]]
    if not changed:
        return
    # Without an index everything is written anew, so that a run that ends in between leaves nothing wrong behind.
    store.delete(UNITS_INDEX)
    for unit in changed:
        store.write_bytes(unit_path(unit.key), unit.to_json().encode())
    index |= {unit.key: digests[unit.key] for unit in changed}
    store.write_bytes(UNITS_INDEX, json.dumps(index, sort_keys=True).encode())


def _read_index(store: Store) -> dict[str, str]:
    try:
        index = json.loads(store.read_bytes(UNITS_INDEX)) if store.exists(UNITS_INDEX) else {}
    except ValueError:
        return {}
    return index if isinstance(index, dict) else {}


def planned_unit(store: Store, key: str) -> WorkUnit:
    """Return a unit as the last run planned it.

    Raises
    ------
    PlanError
        If there is none.
    """
    if not store.exists(unit_path(key)):
        raise PlanError(
            f"{store.url}: no unit {key} was planned here. Give the study's output folder with --output, and a key "
            "that status prints."
        )
    return WorkUnit.from_json(store.read_bytes(unit_path(key)))


def with_upstream(store: Store, unit: WorkUnit) -> list[WorkUnit]:
    """Return everything that a unit waits for, directly or not, each after what it waits for itself."""
    found: dict[str, WorkUnit] = {}

    def collect(key: str) -> None:
        if key not in found:
            planned = planned_unit(store, key)
            for up in planned.upstream:
                collect(up)
            found[key] = planned

    for up in unit.upstream:
        collect(up)
    return list(found.values())


def refuse_moved(unit: WorkUnit, store: Store) -> None:
    """Refuse a unit whose inputs are not where the last run found them, before its record is given up.

    Raises
    ------
    PlanError
        Naming the first input that is missing.
    """
    gone = next((place for place in _read_places(unit) if not Path(place).exists()), None)
    if gone is not None:
        raise PlanError(
            f"{unit.key}: expected its input {gone}, where the last run found it; it is not there, so the study moved "
            f"or the file was deleted. Run the study from where it lies now (voxcloud run STUDY.yaml), which tells its "
            f"units the new places; what {store.url} holds is kept."
        )


def _read_places(unit: WorkUnit) -> Iterator[str]:
    """Yield the files that a unit cannot do without."""
    places = unit.places
    for key in ("mask", "study_file", "template"):
        if places.get(key) and not is_brain_place(str(places[key])):
            yield str(places[key])
    for key in ("volumes", "atlas"):
        yield from (places.get(key) or {}).values()
    images: list[Any] = [image["path"] for image in (places.get("images") or {}).values()] if _is_shard(unit) else []
    # A missing image is left out where bad images are: only all of them together are a study that moved.
    if places.get("on_bad_image") == "stop" or not any(Path(path).exists() for path in images):
        yield from images


def _is_shard(unit: WorkUnit) -> bool:
    return unit.step == "stack-shard"
