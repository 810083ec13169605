"""The maps that a study makes of raw images: of which modalities, and the plan of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from voxcloud.bids.sidecars import Metadata
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import VoxcloudError
from voxcloud.plan.dwi_sessions import DWI
from voxcloud.plan.modality import Modality, RawData, SessionChoice, SessionPlan, plan_modality
from voxcloud.plan.mpm_sessions import MPM
from voxcloud.storage.store import Store

MODALITIES = (MPM, DWI)
MAPS_STEPS = tuple(modality.maps_step for modality in MODALITIES)
QC_STEPS = tuple(modality.qc_step for modality in MODALITIES)
DATASET = "data set"

Sessions = list[tuple[str, str]]


def modalities(loaded: LoadedStudy) -> tuple[Modality, ...]:
    """Return what a study makes maps of."""
    if loaded.study.bids is None:
        return ()
    return tuple(modality for modality in MODALITIES if getattr(loaded.study, modality.name) is not None)


def plan_sessions(loaded: LoadedStudy, store: Store, choice: SessionChoice) -> tuple[SessionPlan, ...]:
    """Plan the maps of a study's raw images, of each modality.

    Raises
    ------
    VoxcloudError
        If no modality can be planned. What is wrong with one of several, or with single sessions, is a problem of the
        plan.
    """
    asked = modalities(loaded)
    if not asked:
        return ()
    root = Path(loaded.resolve(str(loaded.study.bids)))
    raw = RawData(loaded, store.url, root, Metadata(root))
    errors: dict[Modality, VoxcloudError] = {}
    found: dict[Modality, Sessions] = {}
    for modality in asked:
        try:
            found[modality] = modality.find(root, choice.participants, choice.sessions)
        except VoxcloudError as error:
            errors[modality], found[modality] = error, _there(modality, root, choice)
    if errors and (not any(found.values()) or _missing(choice, found)):
        first = next(iter(errors.values()))
        first.args = tuple(dict.fromkeys(text for error in errors.values() for text in error.problems))
        raise first
    return tuple(
        plan_modality(modality, raw, store, sessions, others=any(vars(choice).values()))
        if sessions
        else SessionPlan(modality, problems={} if any(vars(choice).values()) else {DATASET: errors[modality].problems})
        for modality, sessions in found.items()
    )


def _there(modality: Modality, root: Path, choice: SessionChoice) -> Sessions:
    """Return those of the chosen sessions that have a modality: of several, a participant may lack one."""
    try:
        everything = modality.find(root, (), ()) if any(vars(choice).values()) else []
    except VoxcloudError:
        return []
    people, visits = _bare(choice.participants, "sub-"), _bare(choice.sessions, "ses-")
    return [(p, s) for p, s in everything if (not people or p in people) and (not visits or s in visits)]


def _missing(choice: SessionChoice, found: Mapping[Modality, Sessions]) -> bool:
    """Whether a label that was asked for is in no modality."""
    pairs = [pair for sessions in found.values() for pair in sessions]
    people = _bare(choice.participants, "sub-") - {person for person, _ in pairs}
    return bool(people | (_bare(choice.sessions, "ses-") - {session for _, session in pairs}))


def _bare(labels: Sequence[str], prefix: str) -> set[str]:
    return {label.removeprefix(prefix) for label in labels}


def all_sentences(plans: Sequence[SessionPlan]) -> tuple[str, ...]:
    """Return every problem of several modalities, each once."""
    return tuple(dict.fromkeys(text for plan in plans for text in plan.sentences))
