"""The units that make maps of multi-parameter mapping, one per session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.bids.mpm import find_sessions, read_mpm
from voxcloud.bids.nifti import open_nifti
from voxcloud.config.mpm import Mpm
from voxcloud.plan.modality import Modality, RawData, relative_to, renamed
from voxcloud.plan.paths import session_map_path, session_qc_path
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.store import file_digest

# Memory of a session (tests/pipeline/test_memory.py holds it to this): libraries and compiled kernels; registration, a
# process beside it; a float32 of every echo in the head; and the largest of one contrast's spline coefficients with its
# stored numbers, of all maps, and of B1 or receive fields on their own grid, which may be finer than that of PDw.
LIBRARIES_BYTES = 400_000_000
REGISTRATION_BYTES = 200_000_000
MAP_VECTORS = 24
COEFFICIENT_SHARE = 2.0
FIELD_VECTORS = 24
VECTORS_PER_FIELD_IMAGE = 3
CPU_S_PER_VALUE = 1.6e-7
CPU_S_OF_REGISTRATIONS = 25.0

# Settings that decide which acquisitions are taken: what was taken is in the unit, how it was chosen is not.
CHOOSING = ("b1", "missing_b1", "missing_b0", "run")


def plan_session(raw: RawData, participant: str, session: str) -> tuple[WorkUnit, tuple[str, ...]]:
    """Read one session and return the unit that makes its maps, and what must be told of it.

    Raises
    ------
    BidsError
        With every problem of the session.
    """
    mpm = raw.loaded.study.mpm
    assert mpm is not None
    found = read_mpm(
        raw.metadata,
        participant,
        session,
        b1=mpm.b1,
        missing_b1=mpm.missing_b1,
        missing_b0=mpm.missing_b0,
        receive=mpm.receive,
        run=mpm.run,
    )
    return _maps_unit(raw, mpm, found), found.warnings


def _maps_unit(raw: RawData, mpm: Mpm, session: MpmSession) -> WorkUnit:
    paths = session.paths
    relative = {path: relative_to(path, raw.root) for path in paths}
    sizes = _sizes(session)
    names = ["R2starmap", "R1map", "M0map", *(["MTsat"] if "MTw" in session.series else [])]
    outputs = [session_map_path(session.participant_id, session.session_id, name) for name in names]
    outputs += [session_map_path(session.participant_id, session.session_id, name, "error") for name in names]
    if session.b1 is not None:
        outputs.append(session_map_path(session.participant_id, session.session_id, "TB1map"))
    sidecars = [path.removesuffix(".nii.gz") + ".json" for path in outputs]
    pages = [session_qc_path(session.participant_id, session.session_id, MPM.name, kind) for kind in ("json", "html")]
    voxels = sizes["PDw"]
    of_series = {name: sizes[name] * len(series.echoes) for name, series in session.series.items()}
    return WorkUnit(
        step=MPM.maps_step,
        name=session.who,
        params={
            "mpm": mpm.model_dump(exclude=set(CHOOSING)),
            "session": renamed(session.to_tree(), relative),
        },
        inputs={relative[path]: file_digest(path) for path in paths},
        places={"output": raw.store_url, "bids": str(raw.root), "session": session.to_tree()},
        outputs=tuple(outputs + sidecars + pages),
        projected_mem=LIBRARIES_BYTES + REGISTRATION_BYTES + _arrays_bytes(session, sizes),
        bytes_read=sum(Path(path).stat().st_size for path in paths),
        bytes_written=int(4 * voxels * len(outputs) * 0.5),
        objects_read=len(paths),
        expected_s=CPU_S_OF_REGISTRATIONS + sum(of_series.values()) * CPU_S_PER_VALUE,
    )


def _sizes(session: MpmSession) -> dict[str, int]:
    """Return the voxels of an image of each contrast, and of the largest image of a field (``field``)."""
    sizes: dict[str, int] = {name: _voxels(series.echoes[0].path) for name, series in session.series.items()}
    fields = [pair["head"] for pair in session.receive.values()]
    if session.b1 is not None:
        fields.append(next(iter(session.b1.images.values())))
        fields += list(session.b1.b0.images.values())[:1] if session.b1.b0 is not None else []
    return {**sizes, "field": max(map(_voxels, fields), default=0)}


def _voxels(path: str) -> int:
    return int(np.prod(open_nifti(path).shape))


def _arrays_bytes(session: MpmSession, sizes: Mapping[str, int]) -> int:
    """Return what the signals of a session need, and the largest of what is there beside them at a time."""
    echoes = sum(len(series.echoes) for series in session.series.values())
    largest = max(sizes[name] * len(series.echoes) for name, series in session.series.items())
    n_images = len(session.b1.images) if session.b1 is not None else 0
    beside = max(
        COEFFICIENT_SHARE * largest,
        MAP_VECTORS * sizes["PDw"],
        sizes["field"] * (FIELD_VECTORS + VECTORS_PER_FIELD_IMAGE * n_images),
    )
    return int(4 * (sizes["PDw"] * echoes + beside))


def how_made(unit: WorkUnit) -> dict[str, Any]:
    """Return how a session's maps are made, in the words of their sidecars (``bids.signatures``).

    ``ChangedSettings`` are those of the section ``mpm`` that differ from their defaults and are not told by another
    entry.
    """
    mpm, session = unit.params["mpm"], unit.params["session"]
    b1 = session["b1"]
    defaults = Mpm().model_dump()
    told = ("preset", "receive")
    return {
        "Preset": mpm["preset"],
        "B1Method": b1["method"] if b1 is not None else "none",
        "B1Unwarped": b1 is not None and b1["b0"] is not None,
        "SpoilingCorrection": mpm["spoiling"] is not None and b1 is not None,
        "ReceiveCorrection": bool(session["receive"]),
        "ChangedSettings": {key: mpm[key] for key in mpm if key not in told and mpm[key] != defaults[key]},
    }


def _acquired(unit: WorkUnit) -> dict[str, str]:
    """Return how a session was acquired and is made, each as words that can be compared."""
    found = {key: str(value) for key, value in how_made(unit).items()}
    series = unit.params["session"]["series"]
    found["contrasts"] = ", ".join(sorted(series))
    for name, own in series.items():
        found[f"the number of echoes of {name}"] = str(len(own["echoes"]))
        found[f"the echo times of {name}"] = (
            " ".join(f"{echo['echo_time_s'] * 1e3:.2f}" for echo in own["echoes"]) + " ms"
        )
        found[f"the flip angle of {name}"] = f"{own['flip_angle_deg']:g} degrees"
        found[f"the repetition time of {name}"] = f"{own['repetition_time_s'] * 1e3:g} ms"
    return found


MPM = Modality("mpm", "qc.html", find_sessions, plan_session, how_made, _acquired)
