"""What is allowed and most often a slip: people whom no model names, the same image twice, a volume nobody searches."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from voxcloud.config.study import Model, Study
from voxcloud.plan.selection import ImageRef, LeftOut, visits_at

# Of difflib's similarity: `Sci_arm` and `sci_arm` are alike, `con_arm` and `con_leg` are not.
ALIKE = 0.8

# Standard deviations of the others; and fewer people than this have none that means anything.
FAR = 5.0
FEWEST_OTHERS = 5
# Of a normal distribution's standard deviation over its median absolute deviation.
MAD_TO_SD = 1.4826

# Days in what a column of days may be counted in by mistake.
OTHER_UNITS = {"weeks": 7.0, "months": 30.4375, "hours": 1 / 24}
SPREADSHEET_DAY_0 = datetime.date(1899, 12, 30)
SPREADSHEET_DAYS = (20_000, 80_000)

MOST_OF_A_KIND = 5


class ImageStack(Protocol):
    """What is looked at in a stack."""

    @property
    def map(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def images(self) -> Sequence[ImageRef]: ...


def unasked(study: Study, participants: pd.DataFrame, absent: Collection[str] = ()) -> list[LeftOut]:
    """Return whoever enters no model because of their group: they have images, and no result would tell.

    ``absent`` are participants without an image, who are named for that.
    """
    if "group" not in participants.columns or any(model.where_groups is None for model in study.models):
        return []
    named = _named_levels(study)
    found = []
    for who, level in zip(participants["participant_id"].astype(str), participants["group"], strict=True):
        if who in absent:
            continue
        if pd.isna(level) or not str(level).strip():
            found.append(LeftOut(who, None, "all models", "has no group; expected one that a model names"))
        elif str(level) not in named:
            near = _alike(str(level), named)
            hint = f"; the nearest that is named is '{near}'" if near else ""
            found.append(LeftOut(who, None, "all models", f"group '{level}' is named by no model{hint}"))
    return found


def _named_levels(study: Study) -> set[str]:
    names = {name for model in study.models for name in model.where_groups or ()}
    return {level for name in names for level in study.groups.get(name, (name,))}


def oversights(study: Study, stacks: Iterable[ImageStack], participants: pd.DataFrame) -> list[str]:
    """Return a sentence for everything that looks like a slip."""
    stacks = list(stacks)
    return [
        *_groups(study, participants),
        *_volumes(study, stacks),
        *_twins(study, stacks),
        *_days(stacks),
        *time_slips(study, stacks),
        *_covariates(study, participants),
    ]


def _gathered(sentences: Sequence[str]) -> list[str]:
    """Keep the first sentences of a kind, and say in the last how many more there are."""
    more = len(sentences) - MOST_OF_A_KIND
    if more < 2:
        return list(sentences)
    kept = list(sentences[:MOST_OF_A_KIND])
    return [*kept[:-1], f"{kept[-1]} There are {more} more of this kind."]


def _groups(study: Study, participants: pd.DataFrame) -> list[str]:
    """Name levels that no model asks for and that look like one that is asked for, and people without a group."""
    if "group" not in participants.columns:
        return []
    wanted = {level for levels in study.groups.values() for level in levels} | _named_levels(study)
    sentences = []
    for level, people in participants.groupby("group")["participant_id"]:
        near = "" if str(level) in wanted else _alike(str(level), wanted)
        if near:
            sentences.append(
                f"participants table: group '{level}' ({_people(people)}) is in no group of the study file. Did you "
                f"mean '{near}'? Correct the group column, or nobody of it is analysed."
            )
    without = participants.loc[participants["group"].isna(), "participant_id"]
    if len(without) and wanted:
        sentences.append(
            f"participants table: expected a group for everybody, found none for {_people(without)}. Fill in the group "
            "column."
        )
    return sentences


def _alike(found: str, wanted: Iterable[str]) -> str:
    """Return the wanted name that another one is most likely a slip of, or an empty string."""
    first = found.casefold().strip()
    ratios = {}
    for name in sorted(wanted):
        second = name.casefold().strip()
        # group1 and group2 are two names, not one and a slip of it.
        numbered = first != second and re.sub(r"\d+", "", first) == re.sub(r"\d+", "", second)
        ratios[name] = 0.0 if numbered else difflib.SequenceMatcher(None, first, second).ratio()
    best = max(ratios, key=lambda name: ratios[name], default="")
    return best if best and ratios[best] > ALIKE else ""


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
    files: dict[str, str] = {}
    for stack in (s for s in stacks if any(_asks(m, s) for m in study.models)):
        by_digest: dict[str, list[ImageRef]] = {}
        for image in stack.images:
            by_digest.setdefault(image.digest, []).append(image)
        for digest, images in by_digest.items():
            if len(images) > 1 and not digest.startswith("missing"):
                who = " and ".join(i.who for i in images[:3])
                found.setdefault(who, []).append(f"{stack.map} {stack.label}".strip())
                files.setdefault(who, " and ".join(_files(images[:3])))
    return _gathered(
        [
            f"{who}: expected different images, found the same bytes ({', '.join(maps)}; {files[who]}). Check that no "
            "file was copied over another."
            for who, maps in found.items()
        ]
    )


def _files(images: Sequence[ImageRef]) -> list[str]:
    names = [Path(image.path).name for image in images]
    return names if len(set(names)) == len(names) else [image.path for image in images]


def _days(stacks: Sequence[ImageStack]) -> list[str]:
    """Name participants with two sessions on one day."""
    sessions: dict[tuple[str, float], set[str]] = {}
    for stack in stacks:
        for image in stack.images:
            if image.day is not None:
                sessions.setdefault((image.participant_id, image.day), set()).add(image.session_id)
    return _gathered(
        [
            f"sub-{who}: expected one session a day, found {' and '.join(f'ses-{s}' for s in sorted(names))} on day "
            f"{day:g}. Correct the sessions table if one of them is wrong."
            for (who, day), names in sorted(sessions.items())
            if len(names) > 1
        ]
    )


def time_slips(study: Study, stacks: Iterable[ImageStack]) -> list[str]:
    """Say where the days of the images are counted in something else than the study's reference days."""
    reference = study.time.reference_days if study.time is not None else ()
    days = sorted({image.day for stack in stacks for image in stack.images if image.day is not None})
    if len(reference) < 2 or not days:
        return []
    asked = ", ".join(f"{day:g}" for day in reference)
    span = f"{days[0]:g} to {days[-1]:g}"
    if days[0] > max(reference) or days[-1] < min(reference):
        hint = ""
        if SPREADSHEET_DAYS[0] <= days[0] and days[-1] <= SPREADSHEET_DAYS[1]:
            date = SPREADSHEET_DAY_0 + datetime.timedelta(days=int(days[0]))
            hint = f" These look like a spreadsheet's dates ({days[0]:g} is {date.isoformat()})."
        return [
            f"sessions table: expected days near reference_days ({asked}), found days {span}: the two do not overlap."
            f"{hint} Give the days since the baseline event in the column day."
        ]
    if len(_met(days, reference)) == len(reference):
        return []
    for unit, factor in OTHER_UNITS.items():
        scaled = [day * factor for day in days]
        stray = [day for day in scaled if not any(visits_at([day], r, reference) for r in reference)]
        if len(_met(scaled, reference)) == len(reference) and not stray:
            return [
                f"sessions table: expected days near reference_days ({asked}), found {span}, which fit as {unit} "
                f"(times {factor:.3g}). Give the column day in days."
            ]
    return []


def _met(days: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the reference days that some visit stands for."""
    return [planned for planned in reference if visits_at(days, planned, reference)]


def _covariates(study: Study, participants: pd.DataFrame) -> list[str]:
    """Name values of covariates that lie far from everybody else's: 999 is no age."""
    named = {word for model in study.models for word in re.findall(r"\w+", model.formula)}
    sentences = []
    for column in (c for c in participants.columns if c in named and pd.api.types.is_numeric_dtype(participants[c])):
        known = participants[["participant_id", column]].dropna()
        values = known[column].to_numpy(dtype=np.float64)
        # A yes or no that few people have is far from the others by its nature.
        if len(set(values.tolist())) < 3:
            continue
        away = np.abs(values - np.median(values))
        odd = away > FAR * MAD_TO_SD * np.median(away) if np.median(away) > 0 else np.zeros(len(values), dtype=bool)
        for k, who in enumerate(known["participant_id"]):
            others = values[~odd & (np.arange(len(values)) != k)]
            spread = others.std(ddof=1) if len(others) >= FEWEST_OTHERS else 0.0
            distance = abs(values[k] - others.mean()) / spread if spread > 0 else 0.0
            if distance > FAR:
                sentences.append(
                    f"sub-{who}: {column} is {values[k]:g}, {distance:.0f} standard deviations from the others (mean "
                    f"{others.mean():.4g}, standard deviation {spread:.3g}). Correct the table if it is wrong; write "
                    "n/a where a value is missing."
                )
    return _gathered(sentences)
