"""Who enters a model: images, visits and participants, with a reason for everybody who does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from voxcloud.config.study import Model, Study
from voxcloud.errors import DesignError, TableError, nearest


@dataclass(frozen=True)
class ImageRef:
    """One image of a stack: who, when, which bytes and where they lie today."""

    participant_id: str
    session_id: str
    day: float | None
    digest: str
    path: str
    volume: int | None

    @property
    def identity(self) -> tuple[str, str, str]:
        """What a stack's row is known by."""
        return self.participant_id, self.session_id, self.digest


@dataclass(frozen=True)
class LeftOut:
    """One participant, session or image that does not enter, and why."""

    participant_id: str
    session_id: str | None
    what: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The images of one stack that enter one model, sorted by participant and session."""

    model: Model
    map: str
    label: str
    stack: str
    images: tuple[ImageRef, ...]
    table: pd.DataFrame
    group_names: Mapping[str, str]
    left_out: tuple[LeftOut, ...]

    @property
    def participants(self) -> tuple[str, ...]:
        """Participants with at least one image, sorted."""
        return tuple(dict.fromkeys(image.participant_id for image in self.images))


def group_of(study: Study, model: Model, participants: pd.DataFrame) -> dict[str, str]:
    """Map each participant who may enter to the group name that the model knows.

    Raises
    ------
    TableError
        If `where` names a group that neither `groups` nor the group column has, or a participant is in two of them.
    """
    if "group" not in participants.columns:
        if model.where is not None:
            raise TableError(
                f"model {model.name}: `where: {model.where}` needs a column group in the participants table."
            )
        return {str(p): "" for p in participants["participant_id"]}
    levels = {str(level) for level in participants["group"].dropna()}
    named = model.where_groups
    if named is None:
        return {str(p): str(g) for p, g in zip(participants["participant_id"], participants["group"], strict=True)}
    unions: dict[str, set[str]] = {}
    for name in named:
        if name not in study.groups and name not in levels:
            known = sorted({*study.groups, *levels})
            raise TableError(
                f"model {model.name}: `where` names the group '{name}', which is neither in `groups` nor in the group "
                f"column.{nearest(name, known)} Known: {', '.join(known)}."
            )
        unions[name] = set(study.groups.get(name, (name,)))
        missing = unions[name] - levels
        if missing:
            raise TableError(
                f"groups.{name}: no participant has the group {', '.join(sorted(missing))}. "
                f"The group column holds: {', '.join(sorted(levels))}."
            )
    found: dict[str, str] = {}
    for participant, level in zip(participants["participant_id"], participants["group"], strict=True):
        owners = [name for name, members in unions.items() if str(level) in members]
        if len(owners) > 1:
            raise TableError(
                f"model {model.name}: participant {participant} (group {level}) is in {' and '.join(owners)}."
            )
        if owners:
            found[str(participant)] = owners[0]
    return found


def select(
    study: Study,
    model: Model,
    map_name: str,
    label: str,
    stack: str,
    images: Sequence[ImageRef],
    participants: pd.DataFrame,
) -> Selection:
    """Choose the images of one stack that enter one model.

    Raises
    ------
    DesignError
        If nobody is left.
    """
    groups = group_of(study, model, participants)
    left_out: list[LeftOut] = []
    chosen: list[ImageRef] = []
    for image in sorted(images, key=lambda i: (i.participant_id, _session_order(i), i.session_id)):
        if image.participant_id not in groups:
            continue
        reason = _session_reason(model, image)
        if reason:
            left_out.append(LeftOut(image.participant_id, image.session_id, f"model {model.name}, {stack}", reason))
        else:
            chosen.append(image)
    chosen, more = _whole_sets(model, chosen, stack)
    left_out += more
    have = {image.participant_id for image in chosen}
    left_out += [
        LeftOut(p, None, f"model {model.name}, {stack}", f"has no {stack} image that enters the model")
        for p in sorted(groups)
        if p not in have and not any(item.participant_id == p for item in left_out)
    ]
    if not chosen:
        raise DesignError(
            f"model {model.name}, {stack}: expected images of participants {model.where or 'in the study'}, found "
            "none. "
            "Check `where`, `session` and the images table."
        )
    table = participants[participants["participant_id"].isin(have)].sort_values("participant_id").reset_index(drop=True)
    return Selection(model, map_name, label, stack, tuple(chosen), table, groups, tuple(left_out))


def _session_order(image: ImageRef) -> float:
    return float("-inf") if image.day is None else image.day


def _session_reason(model: Model, image: ImageRef) -> str:
    """Why an image does not enter, or an empty string."""
    if model.sessions is not None and image.day is not None and not model.session_enters(image.day):
        return f"day {image.day:g} is outside `sessions: {model.sessions}`"
    return ""


def _whole_sets(model: Model, images: list[ImageRef], stack: str) -> tuple[list[ImageRef], list[LeftOut]]:
    """Apply the estimator's rule on sessions: one image, one pair, or all visits of a participant."""
    if model.estimator == "two-stage" or (model.estimator == "ols" and model.session == "mean"):
        return images, []
    if model.estimator == "ols":
        return _one_each(model, images, stack), []
    assert model.days is not None  # the study file's validator has seen to it
    wanted = [i for i in images if i.day in model.days]
    kept: list[ImageRef] = []
    left_out: list[LeftOut] = []
    for participant in dict.fromkeys(i.participant_id for i in wanted):
        rows = [i for i in wanted if i.participant_id == participant]
        if len(rows) == 2:
            kept += rows
        else:
            days = ", ".join(f"{i.day:g}" for i in rows if i.day is not None)
            left_out.append(
                LeftOut(
                    participant,
                    None,
                    f"model {model.name}, {stack}",
                    f"expected images on days {model.days[0]:g} and {model.days[1]:g}, found day {days} only",
                )
            )
    return kept, left_out


def _one_each(model: Model, images: list[ImageRef], stack: str) -> list[ImageRef]:
    if model.session == "baseline":
        images = [i for i in images if i.day == 0]
    elif model.session is not None:
        images = [i for i in images if i.session_id == model.session]
    counts: dict[str, int] = {}
    for image in images:
        counts[image.participant_id] = counts.get(image.participant_id, 0) + 1
    for participant, count in counts.items():
        if count > 1:
            raise DesignError(
                f"model {model.name}, {stack}: participant {participant} has {count} rows, and estimator ols takes "
                "one image per "
                "participant: images of one person are not independent. Name a `session` (baseline, mean or a label), "
                "or use estimator two-stage."
            )
    return images
