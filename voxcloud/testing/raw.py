"""Simulated raw data: a BIDS data set of multi-parameter mapping with B1+ acquisitions, and the truth beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voxcloud.errors import PlanError, StudyFileError, nearest
from voxcloud.testing.images import Progress
from voxcloud.testing.raw_diffusion import DIFFUSION_PARAMETERS
from voxcloud.testing.raw_dwi import DwiSeries, DwiSettings, dwi_settings
from voxcloud.testing.raw_dwi_protocol import DwiProtocol, check_dwi
from voxcloud.testing.raw_epi import FINER
from voxcloud.testing.raw_geometry import Grid, Movement, grid
from voxcloud.testing.raw_head import HeadTissues, VisitChange, phantom_head, template_head
from voxcloud.testing.raw_protocol import (
    B0_METHODS,
    B1_METHODS,
    DEFAULT_PROTOCOL,
    B1Protocol,
    ContrastProtocol,
    check_protocol,
)
from voxcloud.testing.raw_scan import REFERENCE, SpoilingFactor
from voxcloud.testing.raw_session import RawSettings, write_session
from voxcloud.testing.raw_signals import MT_PULSE_SATURATION
from voxcloud.testing.raw_tables import write_descriptions, write_tables, write_truth_record
from voxcloud.testing.raw_tissue import PARAMETERS

FOV_MM = (192.0, 232.0, 192.0)
TILT = Movement((4.0, 0.0, 1.0), (0.0, 2.0, 4.0))
B1_FOV_MM = (208.0, 240.0, 208.0)
B1_TILT = Movement((0.0, 1.5, -1.0), (1.3, -0.7, 3.1))
B1_VOXEL_MM = 4.0
DWI_VOXEL_MM = 2.0
NOISE = 0.015
TINY_VOXEL_MM = 8.0
FINEST_MM, COARSEST_MM = 0.8, 12.0
MOST = 99


@dataclass(frozen=True)
class SimulatedRaw:
    """A simulated raw data set on disk.

    Attributes
    ----------
    folder
        Where everything is.
    study_file
        Ready for ``voxcloud run``.
    truth
        (participant, session) to name (R1map, PDmap, R2starmap, MTsat, TB1map, RB1map, label-GM_probseg, ...; fieldmap
        in the space of B1 where there is one) to file. Of diffusion: FA, MD, AD, RD (mm2/s), fibres (unit vectors along
        the scanner's axes), space-dwi_label-WM_probseg and the like, and space-dwi_fieldmap (Hz).
    protocol
        Contrast to its parameters.
    movements
        (participant, session) to acquisition (MTw, T1w, B1, DWI) to the movement of the head since PDw.
    images
        Files of images relative to ``folder``, sorted.
    noise_sd
        SD of the noise in both channels, in stored units; that of diffusion images is in ``dwi``.
    dwi
        (participant, session) to phase-encode direction (AP, PA) to the diffusion series: gradients, movement and eddy
        field of each volume, dropped slices.
    """

    folder: Path
    study_file: Path
    truth: Mapping[tuple[str, str], Mapping[str, Path]]
    protocol: Mapping[str, ContrastProtocol]
    movements: Mapping[tuple[str, str], Mapping[str, Movement]]
    images: tuple[str, ...]
    noise_sd: float
    dwi: Mapping[tuple[str, str], Mapping[str, DwiSeries]] = field(default_factory=dict)


def simulate_raw(
    out: str | Path,
    *,
    resolution_mm: float = 2.0,
    seed: int = 0,
    participants: int = 2,
    sessions: int = 2,
    b1: str = "AFI",
    b0: str | None = None,
    receive_pairs: bool = False,
    noise: float = NOISE,
    motion: bool = True,
    movements: Mapping[str, Movement] | None = None,
    protocol: Mapping[str, ContrastProtocol] = DEFAULT_PROTOCOL,
    b1_protocol: B1Protocol | None = None,
    b1_scale: float | Sequence[float] = 1.0,
    changes: Sequence[VisitChange] = (),
    pulse_saturation: float = MT_PULSE_SATURATION,
    spoiling: SpoilingFactor | None = None,
    mpm: bool = True,
    dwi: DwiProtocol | None = None,
    progress: Progress | None = None,
) -> SimulatedRaw:
    """Write a raw BIDS data set of multi-parameter mapping on the MNI152 template, with skull, scalp and the truth.

    R1, PD, R2* and MTsat are known in every voxel; signals are exact steady states (``raw_signals``), with a transmit
    field that goes with the head, a receive field that stays with the coil while the head moves, and Rician noise. The
    same arguments give the same bytes.

    Parameters
    ----------
    out
        New or empty folder.
    resolution_mm
        Voxel size of the echoes, 0.8 to 12 mm. B1+ is acquired with 4 mm, or with this if it is larger.
    participants, sessions
        How many people, and visits of each, 1 to 99.
    b1
        AFI, SESTE, DAM, TFL, RFM, TB1map or none.
    b0
        None, or how the static field is mapped, which then distorts the SE/STE images: phasediff or epi.
    receive_pairs
        Whether images of the array and of the body coil are taken before each contrast (RB1COR).
    noise
        SD of the noise over the signal of white matter in PDw at TE = 0, in the middle of the coil; the same for every
        voxel size.
    motion
        Whether people lie differently at each visit (2.5 degrees and 2.5 mm SD per axis) and move between MTw, PDw, T1w
        and B1 (0.6 degrees and 0.8 mm).
    movements
        Acquisition (MTw, T1w, B1, DWI) to its movement since PDw, in place of random ones; the others do not move.
        Movements within a diffusion series are its protocol's.
    protocol, b1_protocol
        Angles and times; MTw may be left out.
    b1_scale
        Factor on the transmit field; a sequence has one per session.
    changes
        True changes from visit to visit; default none. Of FA and MD too, where there is diffusion.
    pulse_saturation
        How MT saturation follows B1+: see :func:`voxcloud.testing.raw_signals.mt_saturation`; 0 is its square.
    spoiling
        (contrast, R1 in 1/s, B1+) to the ratio of the signal to that with perfect spoiling; default perfect.
    mpm
        Whether there are images of multi-parameter mapping; if not, ``dwi`` is needed.
    dwi
        Write diffusion images too; see :class:`voxcloud.testing.raw_dwi_protocol.DwiProtocol`.
    progress
        Called with (images written, images in all).

    Raises
    ------
    StudyFileError
        If the folder holds something already.
    PlanError
        If an argument is out of range; the sentence names it.
    """
    _between("resolution_mm", resolution_mm, FINEST_MM, COARSEST_MM, "mm")
    coarse = max(B1_VOXEL_MM, resolution_mm)
    _check(participants, sessions, b1, b0, noise, pulse_saturation, protocol)
    _check_kinds(mpm, dwi, movements, changes)
    settings = RawSettings(
        seed=seed,
        protocol=protocol,
        b1_protocol=b1_protocol or B1Protocol(),
        b1=b1,
        b0=b0,
        receive_pairs=receive_pairs,
        noise_sd=noise * REFERENCE,
        motion=motion,
        movements=movements,
        b1_scale=_scales(b1_scale, sessions),
        changes=tuple(change for change in changes if change.parameter in PARAMETERS),
        pulse_saturation=pulse_saturation,
        spoiling=spoiling,
        grid=grid(FOV_MM, resolution_mm, TILT),
        b1_grid=grid(B1_FOV_MM, coarse, B1_TILT),
        head=template_head(resolution_mm),
        b1_head=template_head(coarse),
        mpm=mpm,
        dwi=None if dwi is None else _diffusion(dwi, max(DWI_VOXEL_MM, resolution_mm), template_head, seed, changes),
    )
    return _write(Path(out), settings, participants, sessions, "raw-demo", progress)


def tiny_raw(
    out: str | Path,
    *,
    seed: int = 0,
    participants: int = 1,
    sessions: int = 2,
    b1: str = "AFI",
    b0: str | None = None,
    receive_pairs: bool = False,
    noise: float = NOISE,
    motion: bool = True,
    movements: Mapping[str, Movement] | None = None,
    protocol: Mapping[str, ContrastProtocol] = DEFAULT_PROTOCOL,
    b1_scale: float | Sequence[float] = 1.0,
    changes: Sequence[VisitChange] = (),
    pulse_saturation: float = MT_PULSE_SATURATION,
    spoiling: SpoilingFactor | None = None,
    mpm: bool = True,
    dwi: DwiProtocol | None = None,
    voxel_mm: float = TINY_VOXEL_MM,
) -> SimulatedRaw:
    """Write a raw data set within a second, for tests: a head of ellipsoids with 8 mm voxels, two visits of one person.

    Parameters are those of :func:`simulate_raw`; ``voxel_mm`` is the voxel size of echoes and B1+, 4 to 12 mm.
    ``dwi=TINY_DWI`` adds 14 diffusion images and a second.

    Raises
    ------
    StudyFileError, PlanError
        As in :func:`simulate_raw`.
    """
    _between("voxel_mm", voxel_mm, 4.0, COARSEST_MM, "mm")
    _check(participants, sessions, b1, b0, noise, pulse_saturation, protocol)
    _check_kinds(mpm, dwi, movements, changes)
    head: HeadTissues = phantom_head(voxel_mm)
    own: Grid = grid(FOV_MM, voxel_mm, TILT)
    settings = RawSettings(
        seed=seed,
        protocol=protocol,
        b1_protocol=B1Protocol(),
        b1=b1,
        b0=b0,
        receive_pairs=receive_pairs,
        noise_sd=noise * REFERENCE,
        motion=motion,
        movements=movements,
        b1_scale=_scales(b1_scale, sessions),
        changes=tuple(change for change in changes if change.parameter in PARAMETERS),
        pulse_saturation=pulse_saturation,
        spoiling=spoiling,
        grid=own,
        b1_grid=grid(B1_FOV_MM, voxel_mm, B1_TILT),
        head=head,
        b1_head=head,
        mpm=mpm,
        dwi=None if dwi is None else _diffusion(dwi, voxel_mm, phantom_head, seed, changes),
    )
    return _write(Path(out), settings, participants, sessions, "tiny-raw", None)


def _write(
    folder: Path, settings: RawSettings, participants: int, sessions: int, name: str, progress: Progress | None
) -> SimulatedRaw:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyFileError(
            f"simulation: {folder} is expected to be a new or empty folder, found files in it. Name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    people = [f"{number:02d}" for number in range(1, participants + 1)]
    visits = [str(number) for number in range(1, sessions + 1)]
    count, total = 0, participants * sessions * settings.images_per_session()

    def written() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total)

    done = [
        write_session(folder, settings, participant, session, visit, written)
        for participant in people
        for visit, session in enumerate(visits)
    ]
    write_tables(folder, settings.seed, people, visits)
    write_truth_record(folder, settings, done)
    study_file = write_descriptions(folder, settings, name)
    return SimulatedRaw(
        folder,
        study_file,
        {(session.participant, session.session): session.truth for session in done},
        settings.protocol,
        {(session.participant, session.session): session.movements for session in done},
        tuple(sorted(path for session in done for path in session.images)),
        settings.noise_sd,
        {(session.participant, session.session): session.dwi for session in done if session.dwi},
    )


def _diffusion(
    protocol: DwiProtocol,
    voxel_mm: float,
    head: Callable[[float], HeadTissues],
    seed: int,
    changes: Sequence[VisitChange],
) -> DwiSettings:
    voxel_mm = voxel_mm if protocol.voxel_mm is None else protocol.voxel_mm
    tissues = head(voxel_mm / FINER if protocol.gibbs else voxel_mm)
    own = tuple(change for change in changes if change.parameter in DIFFUSION_PARAMETERS)
    return dwi_settings(protocol, voxel_mm, tissues, seed, own)


def _check(
    participants: int,
    sessions: int,
    b1: str,
    b0: str | None,
    noise: float,
    pulse_saturation: float,
    protocol: Mapping[str, ContrastProtocol],
) -> None:
    _between("participants", participants, 1, MOST, "people")
    _between("sessions", sessions, 1, MOST, "visits")
    _between("noise", noise, 0.0, 1.0, "times the signal of white matter")
    _between("pulse_saturation", pulse_saturation, 0.0, 10.0, "")
    _one_of("b1", b1, B1_METHODS)
    if b0 is not None:
        _one_of("b0", b0, B0_METHODS)
        if b1 != "SESTE":
            raise PlanError(
                f"simulation: b0={b0} is expected with b1=SESTE, whose images the static field distorts, found "
                f"b1={b1}. Leave b0 out."
            )
    check_protocol(protocol)


def _check_kinds(
    mpm: bool,
    dwi: DwiProtocol | None,
    movements: Mapping[str, Movement] | None,
    changes: Sequence[VisitChange],
) -> None:
    if dwi is not None:
        check_dwi(dwi)
    elif not mpm:
        raise PlanError(
            "simulation: mpm=False is expected with diffusion images, found dwi=None. Give dwi=DwiProtocol()."
        )
    for name in movements or {}:
        _one_of("movements", name, ("MTw", "T1w", "B1") if dwi is None else ("MTw", "T1w", "B1", "DWI"))
    for change in changes:
        _one_of("changes", change.parameter, PARAMETERS if dwi is None else (*PARAMETERS, *DIFFUSION_PARAMETERS))


def _between(name: str, value: float, least: float, most: float, units: str) -> None:
    if not least <= value <= most:
        raise PlanError(
            f"simulation: {name} is expected to be {least:g} to {most:g} {units}".rstrip() + f", found {value:g}."
        )


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PlanError(
            f"simulation: {name} is expected to be one of {', '.join(known)}, found {value}.{nearest(value, known)}"
        )


def _scales(scale: float | Sequence[float], sessions: int) -> tuple[float, ...]:
    scales = tuple(float(s) for s in scale) if isinstance(scale, Sequence) else (float(scale),) * sessions
    if len(scales) != sessions or not all(0.2 <= s <= 3.0 for s in scales):
        raise PlanError(
            f"simulation: b1_scale is expected to be one factor of 0.2 to 3, or one per session ({sessions}), found "
            f"{scale}. Use 1 for a transmit field as it is."
        )
    return scales
