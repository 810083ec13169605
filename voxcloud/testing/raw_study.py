"""The simulated raw study: a raw BIDS data set of a cohort, from which one run goes to the report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from voxcloud.errors import PlanError, StudyFileError
from voxcloud.testing.cohort import REFERENCE_DAYS, Cohort, make_cohort
from voxcloud.testing.design import PolynomialTime
from voxcloud.testing.fields import Float32
from voxcloud.testing.images import Progress
from voxcloud.testing.raw import B1_FOV_MM, B1_TILT, FOV_MM, TILT
from voxcloud.testing.raw_changes import STUDY_CHANGES, VOLUME, RawChange, check_changes
from voxcloud.testing.raw_diffusion import DIFFUSION_PARAMETERS
from voxcloud.testing.raw_dwi import DwiSettings, dwi_settings
from voxcloud.testing.raw_dwi_protocol import DwiProtocol, check_dwi
from voxcloud.testing.raw_epi import FINER
from voxcloud.testing.raw_geometry import Movement, grid
from voxcloud.testing.raw_head import Head, HeadTissues, VisitChange, phantom_head, template_head
from voxcloud.testing.raw_people import Person, draw_person, roomier
from voxcloud.testing.raw_protocol import (
    B1_METHODS,
    B1Protocol,
    ContrastProtocol,
    check_protocol,
    echo_train,
)
from voxcloud.testing.raw_scan import REFERENCE
from voxcloud.testing.raw_session import RawSettings, write_session
from voxcloud.testing.raw_signals import MT_PULSE_SATURATION
from voxcloud.testing.raw_study_files import MAPS, write_anatomy, write_study
from voxcloud.testing.raw_tissue import PARAMETERS

FEW_ECHOES: Mapping[str, ContrastProtocol] = {
    "MTw": ContrastProtocol(6.0, 0.0245, echo_train(4, spacing_s=0.0046), mt=True),
    "PDw": ContrastProtocol(6.0, 0.0245, echo_train(4, spacing_s=0.0046)),
    "T1w": ContrastProtocol(21.0, 0.0245, echo_train(4, spacing_s=0.0046)),
}
"""Four echoes of each contrast, 2.3 to 16.1 ms."""

FEW_DIRECTIONS = DwiProtocol(
    shells=((1000.0, 12),), b0_volumes=2, multiband=1, noise=0.006, motion=0.0, eddy=0.0, dropped=0.0, gibbs=False
)
"""14 volumes without movement or eddy currents, whose estimation would be most of the time that maps take; the head
moves between the other acquisitions and these, and the static field distorts them."""

STUDY_MISSING: Mapping[tuple[str, int], tuple[float, ...]] = {
    ("sci_arm", 2): (14.0,),
    ("sci_leg", 1): (0.0,),
    ("con_none", 3): (28.0,),
}
STUDY_MISSING_DIFFUSION: tuple[tuple[str, int, float], ...] = (("con_none", 2, 7.0),)
FEWEST, MOST = 2, 99
COARSEST_TEMPLATE_MM = 8.0
STUDY_NOISE, RESTLESS = 0.003, 0.25


@dataclass(frozen=True, eq=False)
class StudyCourse:
    """Who comes when, and what has happened to them by then.

    Attributes
    ----------
    cohort
        Tables; days are the actual ones.
    people
        By participant.
    changes
        What is planted.
    """

    cohort: Cohort
    people: Mapping[str, Person]
    changes: tuple[RawChange, ...]

    @cached_property
    def time(self) -> PolynomialTime:
        """The time basis of the study file."""
        return PolynomialTime(self.cohort.reference_days)

    @cached_property
    def days(self) -> dict[tuple[str, str], float]:
        """Day of each visit."""
        table = self.cohort.sessions
        keys = zip(table["participant_id"], table["session_id"], strict=True)
        return dict(zip(keys, table["day"].astype(float), strict=True))

    @cached_property
    def _multipliers(self) -> dict[str, dict[str, float]]:
        return {change.name: change.multipliers(self.cohort) for change in self.changes}

    def amount(self, change: RawChange, participant: str, session: str) -> float:
        """Return the relative change of a person since day 0 at a visit."""
        return self._multipliers[change.name][participant] * change.amount(self.time, self.days[participant, session])

    def terms(self, participant: str, session: str) -> dict[str, float]:
        """Return the course of each term at a visit: 0 on day 0."""
        day = np.array([self.days[participant, session]])
        return {term: float(self.time.course(term, day)[0]) for term in ("linear", "quadratic")}

    def head(self, tissues: HeadTissues, participant: str, session: str) -> Head:
        """Return a person's head at a visit."""
        amounts = [(change, self.amount(change, participant, session)) for change in self.changes]
        tissue = [(c.visit_change(a), 1.0) for c, a in amounts if c.map in PARAMETERS and a]
        growth = [c.growth(a) for c, a in amounts if c.map == VOLUME and a]
        course = self.terms(participant, session)
        return self.people[participant].head(tissues, course, tuple(tissue), tuple(growth))

    def diffusion(self, participant: str, session: str) -> tuple[tuple[VisitChange, ...], Float32]:
        """Return what FA and MD have changed by at a visit, and have drifted by, on the knots, (x, y, z, 2)."""
        amounts = [(change, self.amount(change, participant, session)) for change in self.changes]
        changes = tuple(c.visit_change(a) for c, a in amounts if c.map in DIFFUSION_PARAMETERS and a)
        return changes, self.people[participant].diffusion_variation(self.terms(participant, session))

    def has_diffusion(self, participant: str, session: str) -> bool:
        """Tell whether diffusion images were taken at a visit."""
        return (participant, session) not in self.cohort.without_diffusion


@dataclass(frozen=True, eq=False)
class SimulatedRawStudy:
    """A simulated raw study on disk.

    Attributes
    ----------
    folder
        Where everything is.
    study_file
        Ready for ``voxcloud run``.
    course
        Cohort, people and changes; identifiers are bare ("01", "day00").
    truth
        Content of ``truth/truth.json``: see :func:`voxcloud.testing.truth.compare_with_truth`.
    maps
        (participant, session) to name of a true map (R1map, FA, label-GM_probseg, ...) to file.
    images
        Files of images relative to ``folder``, sorted.
    """

    folder: Path
    study_file: Path
    course: StudyCourse
    truth: dict[str, Any]
    maps: Mapping[tuple[str, str], Mapping[str, Path]]
    images: tuple[str, ...]

    @property
    def cohort(self) -> Cohort:
        """Tables of the people and their visits."""
        return self.course.cohort


def simulate_raw_study(
    out: str | Path,
    *,
    resolution_mm: float = 4.0,
    seed: int = 0,
    people: int = 12,
    days: Sequence[float] = REFERENCE_DAYS,
    reference_days: Sequence[float] = REFERENCE_DAYS,
    dwi: bool | DwiProtocol = True,
    changes: Sequence[RawChange] | None = STUDY_CHANGES,
    slopes: float = 1.0,
    spread: float = 1.0,
    missing: bool = True,
    missing_visits: Mapping[tuple[str, int], Sequence[float]] | None = None,
    jitter_days: bool = True,
    protocol: Mapping[str, ContrastProtocol] = FEW_ECHOES,
    b1: str = "TB1map",
    noise: float = STUDY_NOISE,
    motion: bool = True,
    restless: float = RESTLESS,
    movements: Mapping[str, Movement] | None = None,
    maps: Sequence[str] | None = None,
    template_mm: float | None = None,
    phantom: bool = False,
    progress: Progress | None = None,
) -> SimulatedRawStudy:
    """Write a raw BIDS data set of a study with two groups: patients who train, and untrained controls.

    Every participant has an anatomy of their own: the head of the MNI152 template, its skull and scalp included, in
    another size and shape and with a smooth displacement of some 5 mm that does not fold. They lie differently at each
    visit, and move between acquisitions. Changes are planted in the frame of the template, and people drift at random
    (:mod:`voxcloud.testing.raw_people`). Truth is beside the images; the same arguments give the same bytes.

    Parameters
    ----------
    out
        New or empty folder.
    resolution_mm
        Voxel size of the echoes and of the diffusion images, 1 to 12 mm. B1+ has 4 mm, or this if it is larger.
    people
        How many, 2 to 99; half of them, or one less, are patients.
    days, reference_days
        Planned days of the visits, and those that the time basis is built of.
    dwi
        Whether there are diffusion images, or their protocol.
    changes
        What is planted. None: nothing changes at all, no random slopes either: the same anatomy scanned again.
        (): nothing is planted, but people drift.
    slopes
        Factor on the random slopes.
    spread
        Factor on how people differ in size and shape.
    missing
        Leave out three visits, and the diffusion images of another, where there are so many people.
    missing_visits
        In place of those: (group, number within the group from 1) to planned days without a visit.
    jitter_days
        Actual days differ from planned ones by a day, by up to three after day 28.
    protocol, b1, noise, motion, movements
        As in :func:`voxcloud.testing.raw.simulate_raw`; voxels of 4 mm have less noise than those of 2 mm.
    restless
        Factor on the movements between the acquisitions of a session. As the receive field does not move along, they
        change R1 and MTsat by some per cent from visit to visit, smoothly over the head, which no registration mends.
    maps
        That the study file's model tests; default R1map, MTsat, R2starmap, FA, MD, AD, RD, volume.
    template_mm
        Voxel size of the template grid in the study file; default that of the echoes, at most 8 mm.
    phantom
        A head of ellipsoids in place of the template's, for tests: quick to make.
    progress
        Called with (images written, images in all).

    Raises
    ------
    StudyFileError
        If the folder holds something already.
    PlanError
        If an argument is out of range; the sentence names it.
    """
    series = (FEW_DIRECTIONS if dwi else None) if isinstance(dwi, bool) else dwi
    _check(resolution_mm, people, days, b1, noise, protocol, series)
    planted = tuple(changes or ())
    check_changes(planted)
    tested = _maps(maps, with_diffusion=series is not None)
    cohort = replace(
        _cohort(seed, people, days, missing, missing_visits, jitter_days),
        reference_days=tuple(float(day) for day in reference_days),
    )
    loader = phantom_head if phantom else template_head
    head, coarse = (roomier(loader(mm)) for mm in (resolution_mm, max(4.0, resolution_mm)))
    factor = 0.0 if changes is None else slopes
    diffusion = None if series is None else _diffusion(series, series.voxel_mm or resolution_mm, loader, seed)
    persons = {
        p: draw_person(head, seed, p, spread=spread, slopes=factor) for p in cohort.participants["participant_id"]
    }
    course = StudyCourse(cohort, persons, planted)
    settings = RawSettings(
        seed=seed,
        protocol=protocol,
        b1_protocol=B1Protocol(),
        b1=b1,
        b0="phasediff" if b1 == "SESTE" else None,
        receive_pairs=False,
        noise_sd=noise * REFERENCE,
        motion=motion,
        movements=movements,
        b1_scale=(1.0,) * len(days),
        changes=(),
        pulse_saturation=MT_PULSE_SATURATION,
        spoiling=None,
        grid=grid(FOV_MM, resolution_mm, TILT),
        b1_grid=grid(B1_FOV_MM, max(4.0, resolution_mm), B1_TILT),
        head=head,
        b1_head=coarse,
        dwi=diffusion,
        course=course,
        restless=restless,
    )
    folder = _new_folder(out)
    return _write(folder, settings, course, tested, template_mm or min(resolution_mm, COARSEST_TEMPLATE_MM), progress)


def _write(
    folder: Path,
    settings: RawSettings,
    course: StudyCourse,
    maps: tuple[str, ...],
    template_mm: float,
    progress: Progress | None,
) -> SimulatedRawStudy:
    visits, without = course.cohort.sessions, len(course.cohort.without_diffusion)
    total = len(visits) * settings.images_per_session()
    total -= without * settings.dwi.image_count() if settings.dwi is not None else 0
    count = 0

    def written() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total)

    planned = {day: at for at, day in enumerate(sorted(set(visits["nominal_day"].astype(float))))}
    done = [
        write_session(folder, settings, str(participant), str(session), planned[float(day)], written)
        for participant, session, day in zip(
            visits["participant_id"], visits["session_id"], visits["nominal_day"], strict=True
        )
    ]
    anatomy = write_anatomy(folder, course.people)
    truth, study_file = write_study(folder, settings, course.cohort, course.changes, anatomy, done, maps, template_mm)
    return SimulatedRawStudy(
        folder,
        study_file,
        course,
        truth,
        {(session.participant, session.session): session.truth for session in done},
        tuple(sorted(path for session in done for path in session.images)),
    )


def _diffusion(series: DwiProtocol, voxel_mm: float, loader: Callable[[float], HeadTissues], seed: int) -> DwiSettings:
    tissues = roomier(loader(voxel_mm / FINER if series.gibbs else voxel_mm))
    return dwi_settings(series, voxel_mm, tissues, seed, ())


def _cohort(
    seed: int,
    people: int,
    days: Sequence[float],
    missing: bool,
    missing_visits: Mapping[tuple[str, int], Sequence[float]] | None,
    jitter_days: bool,
) -> Cohort:
    patients = people // 2
    sizes = {"sci_arm": patients - patients // 2, "sci_leg": patients // 2, "con_none": people - patients}
    gone = STUDY_MISSING if missing and missing_visits is None else missing_visits
    return make_cohort(
        seed=seed,
        group_sizes=sizes,
        reference_days=days,
        missing_visits=gone,
        missing_diffusion=STUDY_MISSING_DIFFUSION if missing else (),
        jitter_days=jitter_days,
    )


def _maps(maps: Sequence[str] | None, *, with_diffusion: bool) -> tuple[str, ...]:
    known = tuple(name for name in MAPS if with_diffusion or name not in ("FA", "MD", "AD", "RD"))
    chosen = known if maps is None else tuple(maps)
    if not chosen or not set(chosen) <= set(known):
        raise PlanError(
            f"simulation: maps are expected among {', '.join(known)}, found {', '.join(chosen) or 'none'}. Change the "
            "list of maps."
        )
    return tuple(name for name in known if name in chosen)


def _check(
    resolution_mm: float,
    people: int,
    days: Sequence[float],
    b1: str,
    noise: float,
    protocol: Mapping[str, ContrastProtocol],
    series: DwiProtocol | None,
) -> None:
    limits: tuple[tuple[str, float, float, float, str], ...] = (
        ("resolution_mm", resolution_mm, 1.0, 12.0, " mm"),
        ("people", people, FEWEST, MOST, ""),
        ("noise", noise, 0.0, 1.0, " times the signal of white matter"),
    )
    for name, value, least, most, units in limits:
        if not least <= value <= most:
            raise PlanError(f"simulation: {name} is expected to be {least:g} to {most:g}{units}, found {value:g}.")
    if not days or min(days) < 0 or any(b <= a for a, b in itertools.pairwise(days)):
        raise PlanError(
            f"simulation: days are expected to rise from 0 or later, found "
            f"{', '.join(f'{day:g}' for day in days) or 'none'}. Count them from the first visit."
        )
    if b1 not in B1_METHODS or b1 == "none":
        raise PlanError(f"simulation: b1 is expected to be one of {', '.join(B1_METHODS[:-1])}, found {b1}.")
    check_protocol(protocol)
    if series is not None:
        check_dwi(series)


def _new_folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyFileError(
            f"simulation: {folder} is expected to be a new or empty folder, found files in it. Name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
