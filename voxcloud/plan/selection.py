"""Who enters a model: images, visits and participants, with a reason for everybody who does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from voxcloud.config.study import Model, Study
from voxcloud.errors import DesignError, TableError, nearest

_EXCLUSION = re.compile(r",? or exclude (?:it|the image) \(on_bad_image: exclude\)")


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

    @property
    def who(self) -> str:
        """Participant and session, as files name them."""
        return f"sub-{self.participant_id}" + (f"_ses-{self.session_id}" if self.session_id else "")


@dataclass(frozen=True)
class LeftOut:
    """One participant, session or image that does not enter, and why."""

    participant_id: str
    session_id: str | None
    what: str
    reason: str


def without_exclusion(text: str) -> str:
    """Take the advice to exclude an image out of a message: for what is no image, or is excluded already."""
    return _EXCLUSION.sub("", text)


def excluded_image(image: ImageRef, stack: str, message: str) -> LeftOut:
    """Return the line of an image that is excluded; its reason is the message without what the line says already."""
    place = re.escape(image.path)
    known = rf"(?:{re.escape(image.who)}(?:, {re.escape(stack)})?(?: \({place}\))?: )?(?:{place}: )?"
    reason = without_exclusion(re.sub(rf"\A{known}", "", message))
    return LeftOut(image.participant_id, image.session_id, stack, reason)


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
                f"model {model.name}: `where: {model.where}` needs a column group in the participants table, found "
                f"{', '.join(map(str, participants.columns))}. Add the column, or take `where` out."
            )
        return {str(p): "" for p in participants["participant_id"]}
    levels = {str(level) for level in participants["group"].dropna()}
    named = model.where_groups
    if named is None:
        every = zip(participants["participant_id"], participants["group"], strict=True)
        return {str(p): "" if pd.isna(g) else str(g) for p, g in every}
    unions: dict[str, set[str]] = {}
    for name in named:
        if name not in study.groups and name not in levels:
            known = sorted({*study.groups, *levels})
            raise TableError(
                f"model {model.name}: `where` names the group '{name}', which is neither in `groups` nor in the group "
                f"column.{nearest(name, known)} Known: {', '.join(known)}. Correct `where`, or add it to `groups`."
            )
        unions[name] = set(study.groups.get(name, (name,)))
        missing = unions[name] - levels
        if missing:
            raise TableError(
                f"groups.{name}: expected participants of the group {', '.join(sorted(missing))}, found none; the "
                f"group column holds {', '.join(sorted(levels))}.{nearest(min(missing), levels)} Correct `groups`."
            )
    found: dict[str, str] = {}
    for participant, level in zip(participants["participant_id"], participants["group"], strict=True):
        owners = [name for name, members in unions.items() if str(level) in members]
        if len(owners) > 1:
            raise TableError(
                f"model {model.name}: participant {participant} (group {level}) is in {' and '.join(owners)}, expected "
                "one. Name groups that do not overlap in `where`."
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
    unusable: Mapping[str, str] | None = None,
) -> Selection:
    """Choose the images of one stack that enter one model.

    ``unusable`` gives the reason for which participants of the model's groups do not enter, whatever their images.

    Raises
    ------
    DesignError
        If nobody is left.
    """
    members = group_of(study, model, participants)
    gone = {p: reason for p, reason in (unusable or {}).items() if p in members}
    groups = {p: group for p, group in members.items() if p not in gone}
    what = f"model {model.name}, {stack}"
    own = [image for image in images if image.participant_id in groups]
    own.sort(key=lambda i: (i.participant_id, _session_order(i), i.session_id))
    # The rule on sessions is what the model is about, not something that happened to an image.
    inside = [image for image in own if image.day is None or model.session_enters(image.day)]
    chosen, reasons = _whole_sets(model, inside, stack, study.time.reference_days if study.time is not None else ())
    have = {image.participant_id for image in chosen}
    for participant in sorted(groups):
        if participant not in have and participant not in reasons:
            days = [image.day for image in own if image.participant_id == participant]
            reasons[participant] = (
                f"has images on day {_days(days)} only, none within `sessions: {model.sessions}`"
                if days
                else f"has no {stack} image"
            )
    reasons |= gone
    left_out = tuple(LeftOut(p, None, what, reasons[p]) for p in sorted(reasons))
    if not chosen:
        asked = model.where or "of anybody in the participants table"
        why = f"; e.g. participant {left_out[0].participant_id} {left_out[0].reason}" if left_out else ""
        raise DesignError(
            f"{what}: expected images of participants {asked}, found none{why}. "
            "Check `where`, `session`, `sessions` and `days` of the model and the images table."
        )
    table = participants[participants["participant_id"].isin(have)].sort_values("participant_id").reset_index(drop=True)
    return Selection(model, map_name, label, stack, tuple(chosen), table, groups, left_out)


def _session_order(image: ImageRef) -> float:
    return float("-inf") if image.day is None else image.day


def _days(days: Sequence[float | None]) -> str:
    return ", ".join(f"{day:g}" for day in days if day is not None) or "unknown"


def visits_at(days: Sequence[float | None], planned: float, reference_days: Sequence[float]) -> list[int]:
    """Return the positions of the visits that stand for a planned day: people rarely come on the very day.

    Visits on the day itself or else, for a reference day, those nearer to it than half way to its nearer neighbour, as
    in a categorical time basis.
    """
    exact = [k for k, day in enumerate(days) if day == planned]
    if exact or planned not in reference_days:
        return exact
    reach = min(abs(planned - other) for other in reference_days if other != planned) / 2
    return [k for k, day in enumerate(days) if day is not None and abs(day - planned) < reach]


def _whole_sets(
    model: Model, images: list[ImageRef], stack: str, reference_days: Sequence[float]
) -> tuple[list[ImageRef], dict[str, str]]:
    """Apply the estimator's rule on sessions: one image, one pair, or all visits; and say why the others do not fit."""
    if model.estimator == "two-stage" or (model.estimator == "ols" and model.session == "mean"):
        return images, {}
    kept: list[ImageRef] = []
    reasons: dict[str, str] = {}
    several: list[str] = []
    for participant in dict.fromkeys(i.participant_id for i in images):
        own = [i for i in images if i.participant_id == participant]
        if model.estimator == "paired":
            rows, reason = _pair(model, own, reference_days)
        else:
            rows, reason = _one(model, own)
            if len(rows) > 1:
                several.append(f"participant {participant} has {len(rows)} rows")
        kept += rows
        if reason:
            reasons[participant] = reason
    if several:
        more = f" (and {len(several) - 5} more)" if len(several) > 5 else ""
        raise DesignError(
            f"model {model.name}, {stack}: {', '.join(several[:5])}{more}, and estimator ols takes one image per "
            "participant: images of one person are not independent. Name a `session` (baseline, mean or a label), or "
            "use estimator two-stage."
        )
    return kept, reasons


def _pair(model: Model, own: Sequence[ImageRef], reference_days: Sequence[float]) -> tuple[list[ImageRef], str]:
    """Return the two images of a pair, the earlier planned day first, or none and the reason."""
    assert model.days is not None  # the study file's validator has seen to it
    rows = []
    for planned in model.days:
        found = [own[k] for k in visits_at([i.day for i in own], planned, reference_days)]
        if len(found) != 1:
            seen = f"{len(found)} (days {_days([i.day for i in found])})" if found else "none"
            have = _days([i.day for i in own])
            return [], f"expected one image for day {planned:g}, found {seen}; has images on day {have}"
        rows += found
    return rows, ""


def _one(model: Model, own: Sequence[ImageRef]) -> tuple[list[ImageRef], str]:
    """Return the images of a participant that a model of one image each asks for; none and the reason otherwise."""
    if model.session is None:
        return list(own), ""
    if model.session == "baseline":
        # Day 0 and no other: a scan after the study's event cannot stand for one before it.
        rows = [i for i in own if i.day == 0]
        return (
            rows,
            "" if rows else f"has no image on day 0 (session: baseline), only on day {_days([i.day for i in own])}",
        )
    label = model.session.removeprefix("ses-")
    rows = [i for i in own if i.session_id == label]
    have = ", ".join(f"ses-{i.session_id}" for i in own)
    return rows, "" if rows else f"has no image of ses-{label}, only of {have}"
