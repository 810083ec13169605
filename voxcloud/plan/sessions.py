"""The maps that a study makes of raw images: of which modalities, and the plan of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from voxcloud.bids.sidecars import Metadata
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import StudyFileError, VoxcloudError, nearest
from voxcloud.plan.dwi_sessions import DWI
from voxcloud.plan.modality import Modality, RawData, SessionChoice, SessionPlan, plan_modality
from voxcloud.plan.mpm_sessions import MPM
from voxcloud.plan.paths import session_stem
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
    if not any(vars(choice).values()):
        _refuse_unknown(loaded, found)
    found = {
        modality: [who for who in sessions if loaded.study.why_left_out(*who) is None]
        for modality, sessions in found.items()
    }
    if errors and (not any(found.values()) or _missing(choice, found)):
        first = next(iter(errors.values()))
        first.args = tuple(dict.fromkeys(text for error in errors.values() for text in error.problems))
        raise first
    return tuple(
        plan_modality(modality, raw, store, sessions, others=any(vars(choice).values()))
        if sessions
        else SessionPlan(
            modality,
            problems={DATASET: errors[modality].problems}
            if modality in errors and not any(vars(choice).values())
            else {},
        )
        for modality, sessions in found.items()
    )


def _refuse_unknown(loaded: LoadedStudy, found: Mapping[Modality, Sessions]) -> None:
    """Refuse to leave out what is not there: it is a slip, and somebody else would have been meant."""
    pairs = {who for sessions in found.values() for who in sessions}
    known = {f"sub-{p}" for p, _ in pairs} | {session_stem(p, s) for p, s in pairs}
    wrong = [name for name in loaded.study.leave_out if name not in known]
    if wrong and pairs:
        raise StudyFileError(
            *(
                f"leave_out: expected participants and sessions of the data set, found {name}, which has no images."
                f"{nearest(name, known)} Correct or remove it."
                for name in wrong
            )
        )


def left_out(loaded: LoadedStudy) -> dict[tuple[str, str], str]:
    """Return the sessions that the study file leaves out, with its reason; a session of "" stands for all."""
    parts = ((name.removeprefix("sub-").partition("_ses-"), why) for name, why in loaded.study.leave_out.items())
    return {(participant, session): why for (participant, _, session), why in parts}


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
