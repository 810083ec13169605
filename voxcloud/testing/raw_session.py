"""One session of the simulated raw data: its images, and its truth in the space of the PDw images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from voxcloud.testing.fields import Float32, Float64
from voxcloud.testing.raw_b1 import FieldMapping, image_count, write_b1, write_receive_pair
from voxcloud.testing.raw_dwi import DwiSeries, DwiSettings, write_dwi
from voxcloud.testing.raw_fields import CoilFields, coil_fields
from voxcloud.testing.raw_files import SessionWriter
from voxcloud.testing.raw_geometry import Grid, Movement, movement
from voxcloud.testing.raw_head import Head, HeadTissues, VisitChange, person_head
from voxcloud.testing.raw_protocol import B1Protocol, ContrastProtocol
from voxcloud.testing.raw_scan import Acquisition, Sampled, SpoilingFactor, reference_gain, sample_head
from voxcloud.testing.raw_tissue import PARAMETERS, TISSUES, UNITS

# SD per axis: how people lie from visit to visit, and how they move between the acquisitions of one.
SESSION_POSE = {"degrees": 2.5, "mm": 2.5}
MOTION = {"degrees": 0.6, "mm": 0.8}
ORDER = ("MTw", "PDw", "T1w")


class Course(Protocol):
    """Who comes when, and what has happened to them by then: the people of a study."""

    def head(self, tissues: HeadTissues, participant: str, session: str) -> Head:
        """Return a person's head at a visit."""

    def diffusion(self, participant: str, session: str) -> tuple[tuple[VisitChange, ...], Float32]:
        """Return what FA and MD have changed by at a visit, and have drifted by, on the knots, (x, y, z, 2)."""

    def has_diffusion(self, participant: str, session: str) -> bool:
        """Tell whether diffusion images were taken at a visit."""


@dataclass(frozen=True)
class RawSettings:
    """What ``simulate_raw`` was asked for, and what follows from it.

    Attributes
    ----------
    noise_sd
        In stored units.
    movements
        None: drawn if ``motion``.
    b1_scale
        One per session.
    grid, b1_grid, head, b1_head
        Voxels, and the head blurred for them.
    mpm
        Whether there is multi-parameter mapping, with B1+.
    dwi
        None: no diffusion images.
    course
        People of a study; None: they are drawn from the seed alone, and change by the visit.
    restless
        Factor on the movements between the acquisitions of a session.
    """

    seed: int
    protocol: Mapping[str, ContrastProtocol]
    b1_protocol: B1Protocol
    b1: str
    b0: str | None
    receive_pairs: bool
    noise_sd: float
    motion: bool
    movements: Mapping[str, Movement] | None
    b1_scale: tuple[float, ...]
    changes: tuple[VisitChange, ...]
    pulse_saturation: float
    spoiling: SpoilingFactor | None
    grid: Grid
    b1_grid: Grid
    head: HeadTissues
    b1_head: HeadTissues
    mpm: bool = True
    dwi: DwiSettings | None = None
    course: Course | None = None
    restless: float = 1.0

    @property
    def motion_sd(self) -> dict[str, float]:
        """SD per axis of the movements between the acquisitions of a session."""
        return {unit: self.restless * sd for unit, sd in MOTION.items()}

    def images_per_session(self) -> int:
        """Return how many images a session has."""
        dwi = 0 if self.dwi is None else self.dwi.image_count()
        if not self.mpm:
            return dwi
        echoes = sum(len(contrast.echo_times_s) for contrast in self.protocol.values())
        pairs = 2 * len(self.protocol) if self.receive_pairs else 0
        return dwi + echoes + pairs + image_count(self.b1, self.b0, self.b1_protocol)

    def head_at(self, participant: str, session: str, visit: int) -> Head:
        """Return a person's head at a visit."""
        if self.course is not None:
            return self.course.head(self.head, participant, session)
        return person_head(self.head, self.seed, participant, visit, self.changes)

    def dwi_at(self, participant: str, session: str) -> DwiSettings | None:
        """Return the settings of the diffusion images of a session; None where there are none."""
        if self.dwi is None or self.course is None:
            return self.dwi
        if not self.course.has_diffusion(participant, session):
            return None
        changes, drift = self.course.diffusion(participant, session)
        return replace(self.dwi, changes=changes, drift=drift)

    def session_movements(self, participant: str, session: str) -> dict[str, Movement]:
        """Return the movement of the head since PDw for each acquisition."""
        names = [name for name in ORDER if name in self.protocol and name != "PDw"] if self.mpm else []
        names += ["B1"] if self.mpm and self.b1 != "none" else []
        names += ["DWI"] if self.dwi_at(participant, session) is not None else []
        if self.movements is not None:
            return {name: self.movements.get(name, Movement()) for name in names}
        if not self.motion:
            return {name: Movement() for name in names}
        return {name: movement(self.seed, participant, session, name, **self.motion_sd) for name in names}


@dataclass(frozen=True)
class WrittenSession:
    """What was written of a session.

    Attributes
    ----------
    truth
        Name of a map to its file.
    movements
        Acquisition to movement since PDw.
    pose
        Where the head lay in PDw.
    images
        Relative to the root.
    record
        For ``truth.json``.
    dwi
        Phase-encode direction (AP, PA) to series.
    """

    participant: str
    session: str
    truth: Mapping[str, Path]
    movements: Mapping[str, Movement]
    pose: Movement
    images: tuple[str, ...]
    record: Mapping[str, Any]
    dwi: Mapping[str, DwiSeries] = field(default_factory=dict)


def write_session(
    folder: Path, settings: RawSettings, participant: str, session: str, visit: int, written: Callable[[], None]
) -> WrittenSession:
    """Write images and truth of one session.

    Parameters
    ----------
    visit
        0 is the first.
    written
        Called after each image.
    """
    head = settings.head_at(participant, session, visit)
    scale = settings.b1_scale[visit]
    coils = coil_fields(settings.seed, participant, session, scale=scale)
    pose = movement(settings.seed, participant, session, "pose", **SESSION_POSE)
    if not settings.motion and settings.movements is None:
        pose = Movement()
    movements = settings.session_movements(participant, session)
    lying = head_at_isocentre(settings.head, pose)
    acquisition = Acquisition(
        reference_gain(settings.protocol),
        settings.noise_sd,
        settings.seed,
        (participant, session),
        settings.pulse_saturation,
        settings.spoiling,
    )
    writer = SessionWriter(folder, participant, session, written)
    truth: dict[str, Path] = {}
    about: dict[str, Any] = {}
    for name in (n for n in ORDER if settings.mpm and n in settings.protocol):
        at = movements.get(name, Movement()).matrix() @ lying
        sampled = sample_head(head, coils, settings.grid, at, with_fractions=name == "PDw")
        if name == "PDw":
            truth |= _write_truth(writer, sampled)
            if settings.course is not None:
                about["volumes_ml"] = _volumes_ml(sampled)
                about["head_to_scanner"] = lying.tolist()
        _write_contrast(writer, settings, acquisition, sampled, name)
        if settings.receive_pairs:
            seen = sample_head(replace(head, tissues=settings.b1_head), coils, settings.b1_grid, at)
            write_receive_pair(writer, FieldMapping(seen, acquisition, settings.b1_protocol, None), name)
    if settings.mpm and settings.b1 != "none":
        truth |= _write_b1(writer, settings, acquisition, head, coils, movements["B1"].matrix() @ lying)
    series: dict[str, DwiSeries] = {}
    dwi = settings.dwi_at(participant, session)
    if dwi is not None:
        at = movements["DWI"].matrix() @ lying
        acq = "dwi" if settings.mpm and settings.b0 == "epi" else None
        # A study's changes are what they have come to by then, not so much per visit.
        visits = visit if settings.course is None else 1
        maps, series, about["dwi"] = write_dwi(writer, dwi, acquisition, head, coils, at, visits, acq)
        truth |= maps
    record = {
        "participant_id": f"sub-{participant}",
        "session_id": f"ses-{session}",
        "pose": pose.to_tree(),
        "movements_since_PDw": {name: moved.to_tree() for name, moved in movements.items()},
        "b1_scale": scale,
        "truth": {name: path.relative_to(folder).as_posix() for name, path in truth.items()},
        **about,
    }
    return WrittenSession(participant, session, truth, movements, pose, tuple(sorted(writer.paths)), record, series)


def head_at_isocentre(tissues: HeadTissues, pose: Movement) -> Float64:
    """Return head mm to scanner mm, (4, 4): the middle of the brain at the isocentre, then moved."""
    to_isocentre = np.eye(4)
    to_isocentre[:3, 3] = [-mm for mm in tissues.centre_mm]
    return np.asarray(pose.matrix() @ to_isocentre)


def _write_contrast(
    writer: SessionWriter, settings: RawSettings, acquisition: Acquisition, sampled: Sampled, name: str
) -> None:
    contrast = settings.protocol[name]
    angles = sorted({c.flip_angle_deg for c in settings.protocol.values()})
    common = {
        "FlipAngle": contrast.flip_angle_deg,
        "RepetitionTimeExcitation": contrast.repetition_time_s,
        "MTState": contrast.mt,
        "PulseSequenceType": "multi-echo FLASH",
        "MRAcquisitionType": "3D",
        "SpoilingState": True,
    }
    for number, image in enumerate(acquisition.echoes(sampled, name, contrast), start=1):
        entities: dict[str, str | int] = {
            "echo": number,
            "flip": angles.index(contrast.flip_angle_deg) + 1,
            "mt": "on" if contrast.mt else "off",
            "part": "mag",
        }
        sidecar = {"EchoTime": contrast.echo_times_s[number - 1], **common}
        writer.write("anat", "MPM", entities, image, sampled.grid, sidecar)


def _write_b1(
    writer: SessionWriter,
    settings: RawSettings,
    acquisition: Acquisition,
    head: Head,
    coils: CoilFields,
    pose: Float64,
) -> dict[str, Path]:
    sampled = sample_head(replace(head, tissues=settings.b1_head), coils, settings.b1_grid, pose)
    write_b1(writer, FieldMapping(sampled, acquisition, settings.b1_protocol, settings.b0), settings.b1)
    if settings.b0 is None:
        return {}
    field = sampled.volume(sampled.static_hz)
    return {"fieldmap": writer.write_truth("fieldmap", field, sampled.grid, "static field in Hz, B1 space")}


def _volumes_ml(sampled: Sampled) -> dict[str, float]:
    """Return the volume of GM, WM and CSF, and their sum, the intracranial volume."""
    voxel_ml = abs(float(np.linalg.det(sampled.grid.affine[:3, :3]))) / 1000.0
    sums = sampled.fractions.sum(axis=0, dtype=np.float64) * voxel_ml
    volumes = {tissue: round(float(sums[TISSUES.index(tissue)]), 3) for tissue in ("GM", "WM", "CSF")}
    return {**volumes, "TIV": round(sum(volumes.values()), 3)}


def _write_truth(writer: SessionWriter, sampled: Sampled) -> dict[str, Path]:
    """Write the true maps; zero where there is no head."""
    grid = sampled.grid
    truth = {
        name: writer.write_truth(name, sampled.volume(sampled.parameter(name)), grid, f"truth in {UNITS[name]}")
        for name in PARAMETERS
    }
    fields = (
        ("TB1map", 100.0 * sampled.transmit, 2.0**7, "true B1+ in percent of nominal"),
        ("RB1map", sampled.receive, 2.0**13, "true receive sensitivity"),
    )
    for name, values, steps, description in fields:
        # Rounded to 1e-4 of its value in binary, a smooth field takes half the space.
        truth[name] = writer.write_truth(name, np.rint(sampled.volume(values) * steps) / steps, grid, description)
    for at, tissue in enumerate(TISSUES):
        name = f"label-{tissue}_probseg"
        truth[name] = writer.write_truth(name, sampled.volume(sampled.fractions[:, at]), grid, "true fraction")
    return truth
