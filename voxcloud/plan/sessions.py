"""The units that make maps of raw images: one per session, and one that looks at all of them together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.bids.mpm import find_sessions, read_mpm
from voxcloud.bids.nifti import open_nifti
from voxcloud.bids.sidecars import Metadata
from voxcloud.config.load import LoadedStudy
from voxcloud.config.mpm import Mpm
from voxcloud.errors import VoxcloudError
from voxcloud.plan.paths import session_map_path, session_qc_path, session_stem
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.plan.units import SLACK_BYTES
from voxcloud.storage.store import Store, file_digest

MAPS_STEP = "mpm-maps"
QC_STEP = "mpm-qc"
QC_PAGE = "qc.html"
QC_TABLES = ("tables/qc_mpm.tsv", "tables/qc_mpm.json")
QC_ENDING = "_desc-mpm_qc.json"
# What the page tells beside the sessions' own numbers; plan says of it that it "changed".
TOLD = "what failed and warnings"

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


@dataclass(frozen=True)
class SessionChoice:
    """Labels of participants and sessions to make maps of; empty: all."""

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionPlan:
    """What is to be made of raw images.

    Attributes
    ----------
    units
        One per session that can be processed.
    problems
        Session (``sub-01_ses-2``) to what is wrong with it; the others go on.
    warnings
        Sentences.
    others
        Quality control of sessions made before that are not among the chosen: path to digest.
    """

    units: tuple[WorkUnit, ...] = ()
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every problem; each names its session."""
        return tuple(text for texts in self.problems.values() for text in texts)


def plan_sessions(loaded: LoadedStudy, store: Store, choice: SessionChoice) -> SessionPlan:
    """Plan the maps of a study's raw images.

    Raises
    ------
    VoxcloudError
        If the data set cannot be read at all. What is wrong with single sessions is a problem of the plan.
    """
    mpm, bids = loaded.study.mpm, loaded.study.bids
    if mpm is None or bids is None:
        return SessionPlan()
    root = Path(loaded.resolve(bids))
    metadata = Metadata(root)
    sessions = find_sessions(root, choice.participants, choice.sessions)
    units: list[WorkUnit] = []
    problems: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    for participant, session in sessions:
        who = session_stem(participant, session)
        try:
            found = read_mpm(
                metadata,
                participant,
                session,
                b1=mpm.b1,
                missing_b1=mpm.missing_b1,
                missing_b0=mpm.missing_b0,
                receive=mpm.receive,
                run=mpm.run,
            )
            units.append(_maps_unit(loaded, store, mpm, root, found))
        except VoxcloudError as error:
            problems[who] = tuple(text if who in text else f"{who}: {text}" for text in error.problems)
            continue
        warnings += found.warnings
    others = _others(store, {session_qc_path(p, s, "json") for p, s in sessions}) if any(vars(choice).values()) else {}
    problems |= _made_otherwise(store, units, others)
    units = [unit for unit in units if unit.name not in problems]
    warnings += _unlike(units)
    return SessionPlan(tuple(units), problems, tuple(warnings), others)


def _maps_unit(loaded: LoadedStudy, store: Store, mpm: Mpm, root: Path, session: MpmSession) -> WorkUnit:
    paths = session.paths
    relative = {path: _relative(path, root) for path in paths}
    sizes = _sizes(session)
    names = ["R2starmap", "R1map", "M0map", *(["MTsat"] if "MTw" in session.series else [])]
    outputs = [session_map_path(session.participant_id, session.session_id, name) for name in names]
    outputs += [session_map_path(session.participant_id, session.session_id, name, "error") for name in names]
    if session.b1 is not None:
        outputs.append(session_map_path(session.participant_id, session.session_id, "TB1map"))
    sidecars = [path.removesuffix(".nii.gz") + ".json" for path in outputs]
    pages = [session_qc_path(session.participant_id, session.session_id, kind) for kind in ("json", "html")]
    voxels = sizes["PDw"]
    of_series = {name: sizes[name] * len(series.echoes) for name, series in session.series.items()}
    return WorkUnit(
        step=MAPS_STEP,
        name=session.who,
        params={
            "mpm": mpm.model_dump(exclude=set(CHOOSING)),
            "session": _renamed(session.to_tree(), relative),
        },
        inputs={relative[path]: file_digest(path) for path in paths},
        places={"output": store.url, "bids": str(root), "session": session.to_tree()},
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


def _relative(path: str, root: Path) -> str:
    """Return a path as it is known in the data set, wherever that lies."""
    place = Path(path)
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """Return a tree with paths replaced by their names in the data set, without warnings, which change no number."""
    if isinstance(tree, Mapping):
        return {key: _renamed(value, names) for key, value in tree.items() if key != "warnings"}
    if isinstance(tree, list | tuple):
        return [_renamed(value, names) for value in tree]
    return names.get(tree, tree) if isinstance(tree, str) else tree


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


def _others(store: Store, chosen: set[str]) -> dict[str, str]:
    return {path: store.digest(path) for path in _qc_files(store) if path not in chosen}


def _qc_files(store: Store) -> Iterator[str]:
    for path in store.list(""):
        if path.startswith("sub-") and path.endswith(QC_ENDING):
            yield path


def _made_otherwise(store: Store, units: Sequence[WorkUnit], others: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Refuse sessions whose participant has maps that were made otherwise and would not be made anew by this run."""
    before: dict[str, dict[str, Any]] = {}
    for path in others:
        try:
            tree = json.loads(store.read_bytes(path))
            before.setdefault(str(tree["participant_id"]), {})[str(tree["session_id"])] = tree["made"]
        except (ValueError, KeyError, TypeError):
            continue  # damaged: a whole run makes it anew
    found: dict[str, tuple[str, ...]] = {}
    for unit in units:
        session, now = unit.params["session"], how_made(unit)
        sentences = [
            f"{unit.name}: expected {key} as in {session_stem(session['participant_id'], other)}, {made.get(key)!r}, "
            f"found {now[key]!r}: the difference would look like change over time. Make all sessions of the "
            "participant alike: run without choosing sessions."
            for other, made in before.get(session["participant_id"], {}).items()
            for key in now
            if made.get(key) != now[key]
        ]
        if sentences:
            found[unit.name] = tuple(sentences)
    return found


def _unlike(units: Sequence[WorkUnit]) -> list[str]:
    """Return a warning for what differs between the sessions of a participant: it can look like change over time."""
    people: dict[str, dict[str, dict[str, list[str]]]] = {}
    for unit in units:
        session = unit.params["session"]
        for key, value in _acquired(unit).items():
            values = people.setdefault(session["participant_id"], {}).setdefault(key, {})
            values.setdefault(value, []).append(session["session_id"])
    return [
        f"sub-{person}: sessions differ in {key}, which can look like change over time: "
        + "; ".join(f"{value} (ses-{', ses-'.join(sessions)})" for value, sessions in values.items())
        for person, keys in people.items()
        for key, values in keys.items()
        if len(values) > 1
    ]


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


def qc_unit(loaded: LoadedStudy, store_url: str, plan: SessionPlan, failed: Mapping[str, str]) -> WorkUnit:
    """Return the unit that looks at all sessions together; ``failed`` gives the reason of each unit without maps."""
    made = [unit for unit in plan.units if unit.key not in failed]
    without = {unit.name: failed[unit.key] for unit in plan.units if unit.key in failed}
    without |= {who: "\n".join(texts) for who, texts in plan.problems.items()}
    told = {"failed": without, "warnings": list(plan.warnings)}
    return WorkUnit(
        step=QC_STEP,
        name="cohort",
        params={"study": loaded.study.name},
        inputs={unit.key: unit.fingerprint for unit in made} | dict(plan.others) | {TOLD: digest_json(told)},
        places={
            "output": store_url,
            "sessions": [next(p for p in unit.outputs if p.endswith(QC_ENDING)) for unit in made] + list(plan.others),
            "told": told,
        },
        upstream=tuple(unit.key for unit in made),
        outputs=(QC_PAGE, *QC_TABLES),
        projected_mem=SLACK_BYTES + 400_000 * (len(plan.units) + len(plan.others)),
        expected_s=2.0 + 0.05 * len(plan.units),
    )
