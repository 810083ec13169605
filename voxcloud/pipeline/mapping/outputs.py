"""A session's derivatives: maps with sidecars that say how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from voxcloud.bids.volumes import sidecar_bytes, volume_bytes
from voxcloud.pipeline.mapping.signals import SessionSignals
from voxcloud.plan.mpm_sessions import how_made
from voxcloud.plan.paths import session_map_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.qmri.maker import UNITS
from voxcloud.schema import variable
from voxcloud.storage.store import Store
from voxcloud.version import __version__

# In BIDS the amplitude in arbitrary units is M0map; PDmap is what calibration makes of it.
FILE_NAMES = {"A": "M0map"}
B1_PROSE = "Transmit field B1+: actual over nominal flip angle in percent, as used for the maps."


def write_maps(
    unit: WorkUnit,
    store: Store,
    signals: SessionSignals,
    maps: Mapping[str, np.ndarray],
    b1: np.ndarray | None,
    record: Mapping[str, Any],
) -> None:
    """Write every map, its error and the B1 map; ``maps`` holds the values of the head's voxels."""
    session = unit.params["session"]
    who = session["participant_id"], session["session_id"]
    common = _common(unit, record)
    for name, values, tree in _every(maps, b1, record):
        kind, _, description = name.partition("|")
        path = session_map_path(*who, kind, description)
        store.write_bytes(path, volume_bytes(signals.volume(values), signals.affine, f"voxcloud {__version__} {kind}"))
        store.write_bytes(path.removesuffix(".nii.gz") + ".json", sidecar_bytes(tree | common))


def _every(
    maps: Mapping[str, np.ndarray], b1: np.ndarray | None, record: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Yield name (``kind|description``), values and what is particular of every image."""
    clipped = record["voxels"]["clipped"]
    for name, units in UNITS.items():
        if name not in maps:
            continue
        file = FILE_NAMES.get(name, name)
        prose = variable(file).prose
        limits = {"ClippedVoxels": clipped[name]} if name in clipped else {}
        yield file, maps[name], {"Description": prose, "Units": units} | limits
        error = f"{name}_error"
        yield f"{file}|error", maps[error], {"Description": f"Error of: {prose}", "Units": units}
    if b1 is not None:
        yield "TB1map", b1 * np.float32(100.0), {"Description": B1_PROSE, "Units": "percent"}


def _common(unit: WorkUnit, record: Mapping[str, Any]) -> dict[str, Any]:
    session = unit.params["session"]
    return {
        "Space": "as PDw was acquired",
        "MissingValue": "NaN: outside the head, or nothing was measured",
        **how_made(unit),
        "B1mapProvided": session["b1"] is not None,
        **session["scanner"],
        "Settings": record["settings"],
        "ChangedFromPreset": record["changed_from_preset"],
        "Protocol": record["contrasts"],
        "Corrections": record["corrections"],
        "Spoiling": record["spoiling"],
        "Registration": record["registration"],
        "B1": record["b1_map"],
        "References": record["references"],
        "GeneratedBy": [{"Name": "voxcloud", "Version": __version__}],
        # In a derivatives data set its sources are told from its own files by their name (SourceDatasets).
        "Sources": [f"bids:raw:{path}" for path in unit.inputs],
    }
