"""What the units of sessions have in common, whatever was scanned: one unit per session, and one that looks at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxcloud.bids.sidecars import Metadata
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import VoxcloudError
from voxcloud.plan.paths import session_qc_path, session_stem
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.plan.units import SLACK_BYTES
from voxcloud.storage.store import Store

# What the page tells beside the sessions' own numbers; plan says of it that it "changed".
TOLD = "what failed and warnings"


@dataclass(frozen=True)
class SessionChoice:
    """Labels of participants and sessions to make maps of; empty: all."""

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawData:
    """A study's raw data set."""

    loaded: LoadedStudy
    store_url: str
    root: Path
    metadata: Metadata


@dataclass(frozen=True)
class Modality:
    """One kind of acquisition from which maps are made.

    Attributes
    ----------
    name
        Section of the study file, and how names of steps, pages and tables begin.
    page
        Where the page on all sessions lies.
    find
        (root, participants, sessions) to the sessions that have such images.
    make
        Reads a session and returns its unit and warnings.
    how_made
        How a unit's maps are made, in the words of their sidecars (``bids.signatures``).
    acquired
        How a unit's session was acquired and is made, each as words that can be compared.
    """

    name: str
    page: str
    find: Callable[[Path, Sequence[str], Sequence[str]], list[tuple[str, str]]]
    make: Callable[[RawData, str, str], tuple[WorkUnit, tuple[str, ...]]]
    how_made: Callable[[WorkUnit], dict[str, Any]]
    acquired: Callable[[WorkUnit], dict[str, str]]

    @property
    def maps_step(self) -> str:
        """The step that makes a session's maps."""
        return f"{self.name}-maps"

    @property
    def qc_step(self) -> str:
        """The step that looks at all sessions together."""
        return f"{self.name}-qc"

    @property
    def tables(self) -> tuple[str, str]:
        """Where the table of all sessions lies, and what its columns mean."""
        return f"tables/qc_{self.name}.tsv", f"tables/qc_{self.name}.json"

    @property
    def qc_ending(self) -> str:
        """How the names of sessions' quality control end."""
        return f"_desc-{self.name}_qc.json"


@dataclass(frozen=True)
class SessionPlan:
    """What is to be made of the raw images of one modality.

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

    modality: Modality
    units: tuple[WorkUnit, ...] = ()
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every problem; each names its session."""
        return tuple(text for texts in self.problems.values() for text in texts)


def plan_modality(
    modality: Modality, raw: RawData, store: Store, sessions: Sequence[tuple[str, str]], *, others: bool
) -> SessionPlan:
    """Plan the maps of one modality; what is wrong with single sessions is a problem of the plan.

    Parameters
    ----------
    sessions
        (participant, session) of those to make maps of.
    others
        Whether these are chosen among more, whose maps then stay.
    """
    units: list[WorkUnit] = []
    problems: dict[str, tuple[str, ...]] = {}
    told_of: dict[str, list[str]] = {}
    for participant, session in sessions:
        who = session_stem(participant, session)
        try:
            unit, told = modality.make(raw, participant, session)
        except VoxcloudError as error:
            problems[who] = tuple(text if who in text else f"{who}: {text}" for text in error.problems)
            continue
        units.append(unit)
        for text in told:
            told_of.setdefault(text.removeprefix(f"{who}: "), []).append(who)
    kept = {}
    if others:
        chosen = {session_qc_path(p, s, modality.name, "json") for p, s in sessions}
        kept = {path: store.digest(path) for path in _qc_files(modality, store) if path not in chosen}
    problems |= _made_otherwise(modality, store, units, kept)
    units = [unit for unit in units if unit.name not in problems]
    warnings = [f"{_named(who)}: {text}" for text, who in told_of.items()] + _unlike(modality, units)
    return SessionPlan(modality, tuple(units), problems, tuple(warnings), kept)


def _named(sessions: Sequence[str], most: int = 3) -> str:
    """Return the sessions that one sentence is about."""
    more = f" and {len(sessions) - most} more sessions" if len(sessions) > most else ""
    return ", ".join(sessions[:most]) + more


def relative_to(path: str, root: Path) -> str:
    """Return a path as it is known in the data set, wherever that lies."""
    place = Path(path)
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name


def renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """Return a tree with paths replaced by their names in the data set, without warnings, which change no number."""
    if isinstance(tree, Mapping):
        return {key: renamed(value, names) for key, value in tree.items() if key != "warnings"}
    if isinstance(tree, list | tuple):
        return [renamed(value, names) for value in tree]
    return names.get(tree, tree) if isinstance(tree, str) else tree


def _qc_files(modality: Modality, store: Store) -> Iterator[str]:
    for path in store.list(""):
        if path.startswith("sub-") and path.endswith(modality.qc_ending):
            yield path


def _made_otherwise(
    modality: Modality, store: Store, units: Sequence[WorkUnit], others: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
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
        session, now = unit.params["session"], modality.how_made(unit)
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


def _unlike(modality: Modality, units: Sequence[WorkUnit]) -> list[str]:
    """Return a warning for what differs between the sessions of a participant: it can look like change over time."""
    people: dict[str, dict[str, dict[str, list[str]]]] = {}
    for unit in units:
        session = unit.params["session"]
        for key, value in modality.acquired(unit).items():
            values = people.setdefault(session["participant_id"], {}).setdefault(key, {})
            values.setdefault(value, []).append(session["session_id"])
    return [
        f"sub-{person}: sessions differ in {key}, which can look like change over time: "
        + "; ".join(f"{value} (ses-{', ses-'.join(sessions)})" for value, sessions in values.items())
        for person, keys in people.items()
        for key, values in keys.items()
        if len(values) > 1
    ]


def qc_unit(loaded: LoadedStudy, store_url: str, plan: SessionPlan, failed: Mapping[str, str], other: str) -> WorkUnit:
    """Return the unit that looks at all sessions together.

    Parameters
    ----------
    failed
        The reason of each unit without maps.
    other
        The page of the study's other modality, which this one names; empty if there is none.
    """
    modality = plan.modality
    made = [unit for unit in plan.units if unit.key not in failed]
    without = {unit.name: failed[unit.key] for unit in plan.units if unit.key in failed}
    without |= {who: "\n".join(texts) for who, texts in plan.problems.items()}
    told = {"failed": without, "warnings": list(plan.warnings)}
    return WorkUnit(
        step=modality.qc_step,
        name="cohort",
        params={"study": loaded.study.name, **({"other_page": other} if other else {})},
        inputs={unit.key: unit.fingerprint for unit in made} | dict(plan.others) | {TOLD: digest_json(told)},
        places={
            "output": store_url,
            "sessions": [next(p for p in unit.outputs if p.endswith(modality.qc_ending)) for unit in made]
            + list(plan.others),
            "told": told,
        },
        upstream=tuple(unit.key for unit in made),
        outputs=(modality.page, *modality.tables),
        projected_mem=SLACK_BYTES + 400_000 * (len(plan.units) + len(plan.others)),
        expected_s=2.0 + 0.05 * len(plan.units),
    )
