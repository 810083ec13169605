"""What is allowed and most often a slip: people whom no model names, the same image twice, a volume nobody searches."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Protocol

import pandas as pd

from voxcloud.config.study import Model, Study
from voxcloud.plan.selection import ImageRef, LeftOut

# Of difflib's similarity: `Sci_arm` and `sci_arm` are alike, `con_arm` and `con_leg` are not.
ALIKE = 0.8


class ImageStack(Protocol):
    """What is looked at in a stack."""

    @property
    def map(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def images(self) -> Sequence[ImageRef]: ...


def unasked(study: Study, participants: pd.DataFrame) -> list[LeftOut]:
    """Return whoever enters no model because of their group: they have images, and no result would tell."""
    if "group" not in participants.columns or any(model.where_groups is None for model in study.models):
        return []
    named = _named_levels(study)
    found = []
    for who, level in zip(participants["participant_id"], participants["group"], strict=True):
        if pd.isna(level) or not str(level).strip():
            found.append(LeftOut(str(who), None, "all models", "has no group; expected one that a model names"))
        elif str(level) not in named:
            found.append(LeftOut(str(who), None, "all models", f"group '{level}' is named by no model"))
    return found


def _named_levels(study: Study) -> set[str]:
    names = {name for model in study.models for name in model.where_groups or ()}
    return {level for name in names for level in study.groups.get(name, (name,))}


def oversights(study: Study, stacks: Iterable[ImageStack], participants: pd.DataFrame) -> list[str]:
    """Return a sentence for everything that looks like a slip."""
    stacks = list(stacks)
    return [*_groups(study, participants), *_volumes(study, stacks), *_twins(study, stacks), *_days(stacks)]


def _groups(study: Study, participants: pd.DataFrame) -> list[str]:
    """Name levels that no model asks for and that look like one that is asked for, and people without a group."""
    if "group" not in participants.columns:
        return []
    wanted = {level for levels in study.groups.values() for level in levels} | _named_levels(study)
    sentences = []
    for level, people in participants.groupby("group")["participant_id"]:
        alike = [name for name in wanted if _alike(str(level), name)]
        if str(level) not in wanted and alike:
            sentences.append(
                f"participants table: group '{level}' ({_people(people)}) is in no group of the study file. Did you "
                f"mean '{alike[0]}'? Correct the group column, or nobody of it is analysed."
            )
    without = participants.loc[participants["group"].isna(), "participant_id"]
    if len(without) and wanted:
        sentences.append(f"participants table: expected a group for everybody, found none for {_people(without)}.")
    return sentences


def _alike(found: str, wanted: str) -> bool:
    first, second = found.casefold().strip(), wanted.casefold().strip()
    return first == second or difflib.SequenceMatcher(None, first, second).ratio() > ALIKE


def _people(people: Iterable[str]) -> str:
    names = [f"sub-{p}" for p in people]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _volumes(study: Study, stacks: Sequence[ImageStack]) -> list[str]:
    """Name search volumes whose label no analysed map has: nothing is searched there."""
    analysed = {s.label for s in stacks for m in study.models if _asks(m, s)}
    shown = ", ".join(sorted(analysed)) or "none"
    return [
        f"search_volumes.{name}: expected a label that an analysed map has ({shown}), found {volume.label}: nothing is "
        "searched in this volume. Correct its label, or take it out."
        for name, volume in study.search_volumes.items()
        if volume.label and volume.label not in analysed
    ]


def _asks(model: Model, stack: ImageStack) -> bool:
    return stack.map in model.maps and (model.labels is None or stack.label in model.labels)


def _twins(study: Study, stacks: Sequence[ImageStack]) -> list[str]:
    """Name sessions of an analysed map that hold the same bytes: the commonest slip of copying.

    Tissue maps that only cut masks may be shared by the visits on purpose.
    """
    found: dict[str, list[str]] = {}
    for stack in (s for s in stacks if any(_asks(m, s) for m in study.models)):
        by_digest: dict[str, list[ImageRef]] = {}
        for image in stack.images:
            by_digest.setdefault(image.digest, []).append(image)
        for digest, images in by_digest.items():
            if len(images) > 1 and not digest.startswith("missing"):
                who = " and ".join(f"sub-{i.participant_id} ses-{i.session_id}" for i in images[:3])
                found.setdefault(who, []).append(f"{stack.map} {stack.label}".strip())
    return [
        f"{who}: expected different images, found the same bytes ({', '.join(maps)}). Check that no file was copied "
        "over another."
        for who, maps in found.items()
    ]


def _days(stacks: Sequence[ImageStack]) -> list[str]:
    """Name participants with two sessions on one day."""
    sessions: dict[tuple[str, float], set[str]] = {}
    for stack in stacks:
        for image in stack.images:
            if image.day is not None:
                sessions.setdefault((image.participant_id, image.day), set()).add(image.session_id)
    return [
        f"sub-{who}: expected one session a day, found {' and '.join(f'ses-{s}' for s in sorted(names))} on day "
        f"{day:g}. Correct the sessions table if one of them is wrong."
        for (who, day), names in sorted(sessions.items())
        if len(names) > 1
    ]
