"""``voxcloud simulate``: progress while it writes, then what was made and how long a run of it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from voxcloud.cli.show import say
from voxcloud.cli.text import command_line, number_of, seconds, size
from voxcloud.errors import StudyFileError, nearest
from voxcloud.pipeline.engines import worker_count
from voxcloud.pipeline.study import plan_study
from voxcloud.testing.cohort import REFERENCE_DAYS
from voxcloud.testing.raw import simulate_raw
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.raw_study import simulate_raw_study
from voxcloud.testing.simulate import simulate_study

MAPS_RESOLUTION_MM = 4.0
RAW_RESOLUTION_MM, RAW_PARTICIPANTS, RAW_VISITS = 2.0, 2, 2
STUDY_RESOLUTION_MM, STUDY_PARTICIPANTS, STUDY_B1 = 4.0, 12, "TB1map"
DEFAULT_B1 = "AFI"
MODALITIES = ("mpm", "dwi")


class _Progress:
    """One line that grows on a terminal, a line every tenth otherwise."""

    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, written: int, total: int) -> None:
        tenth = 10 * written // total
        if tenth > self._tenth or written == total:
            self._tenth = tenth
            if sys.stdout.isatty():
                end = "\n" if written == total else ""
                sys.stdout.write(f"\rImages  {written:,} of {total:,}{end}")
            else:
                sys.stdout.write(f"Images  {written:,} of {total:,}\n")
            sys.stdout.flush()


@dataclass(frozen=True)
class SimulationOptions:
    """Options of the command; None is the default of what is simulated."""

    resolution: float | None
    seed: int
    maps: tuple[str, ...] | None
    participants: int | None
    visits: int | None
    b1: str | None
    modalities: tuple[str, ...] | None = None


def simulate_with_progress(out: Path, options: SimulationOptions, *, raw: bool, study: bool = False) -> None:
    """Simulate a study of maps, raw data, or a study of raw data, and say what was made.

    Raises
    ------
    StudyFileError
        If an option belongs to the other kind.
    """
    if study and not raw:
        raise StudyFileError("simulate: --study is for raw data. Add --raw; without it, all is a study.")
    if raw:
        _refuse({"--map": options.maps}, "is for maps, not for --raw. Raw data are of all four maps.")
        (_simulate_raw_study if study else _simulate_raw)(out, options)
    else:
        given = {
            "--participants": options.participants,
            "--visits": options.visits,
            "--b1": options.b1,
            "--modality": options.modalities,
        }
        _refuse(given, "is for raw data. Add --raw; the model study has its own people and visits.")
        _simulate_maps(out, options)


def _refuse(given: Mapping[str, object], why: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise StudyFileError(f"simulate: {option} {why}")


def _check_modalities(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in MODALITIES:
            raise StudyFileError(
                f"simulate: --modality is expected to be mpm or dwi, found {name}.{nearest(name, MODALITIES)}"
            )


def _simulate_raw(out: Path, options: SimulationOptions) -> None:
    start = time.monotonic()
    modalities = MODALITIES[:1] if options.modalities is None else options.modalities
    _check_modalities(modalities)
    if "mpm" not in modalities and options.b1 is not None:
        raise StudyFileError("simulate: --b1 is for mpm, found --modality dwi. Leave one of them out.")
    b1 = DEFAULT_B1 if options.b1 is None else options.b1
    made = simulate_raw(
        out,
        resolution_mm=RAW_RESOLUTION_MM if options.resolution is None else options.resolution,
        seed=options.seed,
        participants=RAW_PARTICIPANTS if options.participants is None else options.participants,
        sessions=RAW_VISITS if options.visits is None else options.visits,
        b1=b1,
        b0="phasediff" if b1 == "SESTE" else None,
        mpm="mpm" in modalities,
        dwi=DwiProtocol() if "dwi" in modalities else None,
        progress=_Progress(),
    )
    people, visits = {participant for participant, _ in made.truth}, {session for _, session in made.truth}
    mpm = f"B1+ by {b1}, " if "mpm" in modalities else ""
    say(
        f"Made    {number_of(len(made.images), 'image')} of {number_of(len(people), 'participant')} at "
        f"{number_of(len(visits), 'visit')}, {mpm}{size(_stored(made.folder))}, "
        f"in {seconds(time.monotonic() - start)}"
    )
    true = ["R1map", "PDmap", "R2starmap", "MTsat", "TB1map"] if "mpm" in modalities else []
    true += ["FA", "MD", "AD", "RD"] if "dwi" in modalities else []
    say(f"Truth   {', '.join(true[:-1])} and {true[-1]} of each session, in {made.folder / 'truth'}")
    say(f"Study   {made.study_file}\nRun it with: {command_line(['run', made.study_file])}")


def _simulate_raw_study(out: Path, options: SimulationOptions) -> None:
    start = time.monotonic()
    modalities = MODALITIES if options.modalities is None else options.modalities
    _check_modalities(modalities)
    if "mpm" not in modalities:
        raise StudyFileError("simulate: a study needs mpm, found --modality dwi alone. Add --modality mpm.")
    visits = len(REFERENCE_DAYS) if options.visits is None else options.visits
    if visits > len(REFERENCE_DAYS):
        raise StudyFileError(
            f"simulate: --visits is expected to be 1 to {len(REFERENCE_DAYS)} with --study, found {visits}. Use "
            "simulate_raw_study from Python for other days."
        )
    made = simulate_raw_study(
        out,
        resolution_mm=STUDY_RESOLUTION_MM if options.resolution is None else options.resolution,
        seed=options.seed,
        people=STUDY_PARTICIPANTS if options.participants is None else options.participants,
        days=REFERENCE_DAYS[:visits],
        dwi="dwi" in modalities,
        b1=STUDY_B1 if options.b1 is None else options.b1,
        progress=_Progress(),
    )
    people, visits = len(made.cohort.participants), len(made.cohort.sessions)
    say(
        f"Made    {number_of(len(made.images), 'image')} of {number_of(people, 'participant')} at "
        f"{number_of(visits, 'visit')}, {size(_stored(made.folder))}, "
        f"in {seconds(time.monotonic() - start)}"
    )
    planted = {entry["name"] for entry in made.truth["planted"]}
    say(f"Planted {number_of(len(planted), 'change')}, listed in {made.folder / 'truth' / 'truth.json'}")
    say(f"Study   {made.study_file}\nRun it with: {command_line(['run', made.study_file])}")


def _stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _simulate_maps(out: Path, options: SimulationOptions) -> None:
    start = time.monotonic()
    made = simulate_study(
        out,
        resolution_mm=MAPS_RESOLUTION_MM if options.resolution is None else options.resolution,
        seed=options.seed,
        maps=options.maps,
        progress=_Progress(),
    )
    voxels, stored = int(made.anatomy.mask.sum()), _stored(made.folder)
    say(
        f"Made    {number_of(len(made.images), 'image')} of {number_of(len(made.participants), 'participant')} at "
        f"{number_of(len(made.sessions), 'visit')}, {voxels:,} voxels each, {size(stored)}, "
        f"in {seconds(time.monotonic() - start)}"
    )
    say(f"Planted {number_of(len(made.truth['planted']), 'change')}, listed in {made.folder / 'truth' / 'truth.json'}")
    planned = plan_study(made.study_file)
    units = planned.plan.units
    workers = worker_count(planned.plan.loaded.study.compute)
    cpu = sum(unit.expected_s for unit in units)
    say(
        f"A run   {number_of(len(units), 'unit')}, about {seconds(cpu)} of CPU: {seconds(cpu / workers)} with "
        f"{number_of(workers, 'worker')}"
    )
    say(f"Study   {made.study_file}\nRun it with: {command_line(['run', made.study_file])}")
