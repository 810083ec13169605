"""Diffusion images of one session of the simulated raw data: series, a pair of opposite phase encoding, truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from voxcloud.testing.fields import FWHM_TO_SIGMA, Float32, Float64, generator
from voxcloud.testing.files import write_json
from voxcloud.testing.raw_b1 import EPI_DIRECTIONS
from voxcloud.testing.raw_diffusion import DiffusionHead, diffusion_head, scalars, tissue_signal
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.raw_epi import (
    EDDY_TERMS,
    PHASE_AXIS,
    EpiScanner,
    drop_slices,
    eddy_coefficients,
    eddy_matrix,
)
from voxcloud.testing.raw_fibres import FibreField, fibre_field
from voxcloud.testing.raw_fields import CoilFields, static_field_hz
from voxcloud.testing.raw_files import SessionWriter, stored
from voxcloud.testing.raw_geometry import Grid, Movement, grid, movement
from voxcloud.testing.raw_gradients import Gradients, gradient_table, write_gradients
from voxcloud.testing.raw_head import Head, HeadTissues, VisitChange
from voxcloud.testing.raw_scan import Acquisition
from voxcloud.testing.raw_signals import rician
from voxcloud.testing.raw_tissue import TISSUES

FOV_MM = (220.0, 220.0, 160.0)
TILT = Movement((-6.0, 1.0, 2.0), (0.0, 1.0, 3.0))
REFERENCE = 300.0
"""Stored value of white matter at b = 0 where the receive field is 1."""
STEP = {"degrees": 0.06, "mm": 0.08}
B0_IDENTIFIER = "dwi"
REFERENCE_DIRECTION = "AP"
FINE_FIBRES_MM, COARSE_FIBRES_MM = 2.0, 4.0


@dataclass(frozen=True)
class DwiSettings:
    """What diffusion images of all sessions have in common.

    Attributes
    ----------
    grid, tissues, fibres
        Voxels, the head blurred for them, its fibres.
    gradients
        The same for everybody.
    changes
        Of FA and MD from visit to visit.
    drift
        By how much more FA and MD deviate, relative, on the knots of the smooth fields, (x, y, z, 2).
    """

    protocol: DwiProtocol
    grid: Grid
    tissues: HeadTissues
    fibres: FibreField
    gradients: Gradients
    changes: tuple[VisitChange, ...]
    drift: Float32 | None = None

    @property
    def readout_s(self) -> float:
        """BIDS ``TotalReadoutTime``."""
        return self.protocol.echo_spacing_s * (self.grid.shape[PHASE_AXIS] - 1)

    @property
    def noise_sd(self) -> float:
        """In stored units."""
        return self.protocol.noise * REFERENCE

    @property
    def directions(self) -> tuple[str, ...]:
        """Of the series that are written."""
        return ("AP", "PA") if self.protocol.reversed_series else ("AP",)

    def image_count(self) -> int:
        """Return how many images a session has."""
        return len(self.directions) + len(EPI_DIRECTIONS)


@dataclass(frozen=True)
class DwiSeries:
    """A diffusion series and what was done to each of its volumes.

    Attributes
    ----------
    path
        Image; beside it ``.bval``, ``.bvec`` and ``.json``.
    phase_encoding, readout_s
        As in its sidecar.
    bvals
        (volume,), s/mm2.
    directions
        (3, volume), unit vectors in the scanner's frame, RAS+; 0 where b is 0.
    movements
        (volume, 4, 4): scanner mm of a point of the head in the first volume of the AP series to where it is, rigid.
    eddy_hz
        (volume, 10): coefficients of the eddy field, see :data:`voxcloud.testing.raw_epi.EDDY_TERMS`.
    dropped
        (volume, slice, part of the signal that is left), counted from 0.
    noise_sd
        SD of the noise in both channels, in stored units.
    """

    path: Path
    phase_encoding: str
    readout_s: float
    bvals: Float64
    directions: Float64
    movements: Float64
    eddy_hz: Float64
    dropped: tuple[tuple[int, int, float], ...]
    noise_sd: float


def dwi_settings(
    protocol: DwiProtocol, voxel_mm: float, tissues: HeadTissues, seed: int, changes: tuple[VisitChange, ...]
) -> DwiSettings:
    """Return the settings of a data set.

    Parameters
    ----------
    voxel_mm
        Of the images.
    tissues
        The head for images of this voxel size, or of half of it where k-space is cut; then each slice gets its
        thickness here.
    """
    if protocol.gibbs:
        tissues = _with_thickness(tissues, voxel_mm)
    spacing = FINE_FIBRES_MM if voxel_mm < COARSE_FIBRES_MM else COARSE_FIBRES_MM
    where = grid(FOV_MM, voxel_mm, TILT if protocol.oblique else None)
    where = Grid((*where.shape[:2], -(-where.shape[2] // protocol.multiband) * protocol.multiband), where.affine)
    table = gradient_table(seed, protocol.shells, protocol.b0_volumes)
    return DwiSettings(protocol, where, tissues, fibre_field(tissues, spacing), table, changes)


def _with_thickness(tissues: HeadTissues, voxel_mm: float) -> HeadTissues:
    """Blur a head of half the voxel size along z, that of slices but for their tilt, to a FWHM of a voxel."""
    sigma = FWHM_TO_SIGMA * np.sqrt(0.75) * voxel_mm / tissues.affine[2, 2]
    blurred = ndimage.gaussian_filter1d(tissues.coefficients, sigma, axis=2, mode="nearest", truncate=3.0)
    blurred.setflags(write=False)
    return replace(tissues, coefficients=blurred)


@dataclass(frozen=True)
class _Session:
    """What the writing of one session needs."""

    writer: SessionWriter
    settings: DwiSettings
    acquisition: Acquisition
    scanner: EpiScanner
    lying: Float64

    @property
    def names(self) -> tuple[str, ...]:
        return self.acquisition.names

    def noisy(self, image: Any, name: str) -> Any:
        """Return the stored image with noise of its own."""
        rng = generator(self.acquisition.seed, "noise", *self.names, name)
        return stored(rician(image, self.settings.noise_sd, rng))

    def sidecar(self, direction: str) -> dict[str, Any]:
        """Return what all images of a direction have in common."""
        settings, protocol = self.settings, self.settings.protocol
        return {
            "PhaseEncodingDirection": EPI_DIRECTIONS[direction],
            "TotalReadoutTime": round(settings.readout_s, 6),
            "EffectiveEchoSpacing": protocol.echo_spacing_s,
            "EchoTime": protocol.echo_time_s,
            "RepetitionTime": protocol.repetition_time_s,
            "FlipAngle": 90,
            "PartialFourier": protocol.partial_fourier,
            "MultibandAccelerationFactor": protocol.multiband,
            "SliceTiming": slice_times(settings.grid.shape[2], protocol.multiband, protocol.repetition_time_s),
            "PulseSequenceType": "diffusion-weighted spin-echo EPI",
            "MRAcquisitionType": "2D",
        }


def slice_times(slices: int, multiband: int, repetition_time_s: float) -> list[float]:
    """Return when each slice is excited within a volume, s: every other excitation first, then those between."""
    excitations = slices // multiband
    order = np.concatenate([np.arange(0, excitations, 2), np.arange(1, excitations, 2)])
    when = np.empty(excitations)
    when[order] = np.arange(excitations) * repetition_time_s / excitations
    return [round(float(when[at % excitations]), 6) for at in range(slices)]


def write_dwi(
    writer: SessionWriter,
    settings: DwiSettings,
    acquisition: Acquisition,
    head: Head,
    coils: CoilFields,
    lying: Float64,
    visit: int,
    acq: str | None = None,
) -> tuple[dict[str, Path], dict[str, DwiSeries], dict[str, Any]]:
    """Write series, pair and truth of one session.

    Parameters
    ----------
    lying
        Head mm to scanner mm in the first volume, (4, 4).
    visit
        0 is the first.
    acq
        Label of the pair, where there is another one.

    Returns
    -------
    Name of a true map to its file; direction to series; what the record of the session says.
    """
    protocol = settings.protocol
    person = diffusion_head(
        replace(head, tissues=settings.tissues),
        settings.fibres,
        acquisition.seed,
        writer.participant,
        visit,
        echo_time_s=protocol.echo_time_s,
        repetition_time_s=protocol.repetition_time_s,
        changes=settings.changes,
        drift=settings.drift,
    )
    scanner = EpiScanner(
        person, coils, settings.grid, settings.readout_s, protocol.partial_fourier, protocol.gibbs, protocol.field
    )
    session = _Session(writer, settings, acquisition, scanner, lying)
    truth = _write_truth(writer, settings, person, lying)
    pair = _write_pair(session, acq)
    series = {direction: _write_series(session, direction) for direction in settings.directions}
    path = writer.folder / "truth" / f"{writer.stem}_dwi.json"
    write_json(path, _record(writer.folder, series, pair))
    return truth, series, {"volumes": path.relative_to(writer.folder).as_posix()}


def _gain(protocol: DwiProtocol) -> np.float32:
    white = tissue_signal(protocol.echo_time_s, protocol.repetition_time_s)[TISSUES.index("WM")]
    return np.float32(REFERENCE / white)


def _walk(session: _Session, direction: str) -> list[Movement]:
    """Return the movement of each volume since the first of the AP series."""
    protocol = session.settings.protocol
    if protocol.movements is not None:
        return list(protocol.movements)
    at, found = np.zeros(6), []
    for volume in range(protocol.volumes):
        if volume > 0 or direction != REFERENCE_DIRECTION:
            at = at + _step(session, f"dwi-{direction}-{volume}")
        found.append(Movement(_three(at[:3]), _three(at[3:])))
    return found


def _step(session: _Session, name: str) -> Float64:
    drawn = movement(session.acquisition.seed, *session.names, name, **STEP)
    step = session.settings.protocol.motion * np.array([*drawn.rotation_deg, *drawn.translation_mm])
    return np.asarray(step)


def _three(values: Float64) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 4) for value in values)
    return x, y, z


def _write_pair(session: _Session, acq: str | None) -> dict[str, Movement]:
    """Write one volume at b = 0 of each phase encoding; return how the head had moved for each."""
    moved = {}
    for direction, phase_encoding in EPI_DIRECTIONS.items():
        still = direction == REFERENCE_DIRECTION or session.settings.protocol.movements is not None
        at = np.zeros(6) if still else _step(session, f"epi-{direction}")
        moved[direction] = Movement(_three(at[:3]), _three(at[3:]))
        pose = moved[direction].matrix() @ session.lying
        clean = session.scanner.volume(pose, 0.0, np.zeros(3), np.zeros(len(EDDY_TERMS)), _sign(phase_encoding))
        image = session.noisy(clean * _gain(session.settings.protocol), f"dwi-epi-{direction}")
        entities = {"dir": direction} if acq is None else {"acq": acq, "dir": direction}
        sidecar = {**session.sidecar(direction), "B0FieldIdentifier": B0_IDENTIFIER}
        session.writer.write("fmap", "epi", entities, image, session.settings.grid, sidecar)
    return moved


def _sign(phase_encoding: str) -> int:
    return -1 if phase_encoding.endswith("-") else 1


def _write_series(session: _Session, direction: str) -> DwiSeries:
    settings, protocol, table = session.settings, session.settings.protocol, session.settings.gradients
    gain, sign = _gain(protocol), _sign(EPI_DIRECTIONS[direction])
    matrix = eddy_matrix(session.acquisition.seed, *session.names)
    moved, eddies, dropped = _walk(session, direction), [], []
    # In the order of a NIfTI file, one volume after another.
    volumes = np.empty((*settings.grid.shape, protocol.volumes), dtype=np.int16, order="F")
    for at, (bval, g) in enumerate(zip(table.bvals, table.directions.T, strict=True)):
        names = (*session.names, direction, f"volume-{at}")
        rng = generator(session.acquisition.seed, "eddy", *names)
        eddies.append(np.round(protocol.eddy * eddy_coefficients(matrix, float(bval), g, rng), 9))
        image = session.scanner.volume(moved[at].matrix() @ session.lying, float(bval), g, eddies[-1], sign) * gain
        if bval > 0:
            rng = generator(session.acquisition.seed, "dropped", *names)
            lost = drop_slices(image, protocol.dropped, protocol.multiband, rng)
            dropped += [(at, slice_, part) for slice_, part in lost]
        volumes[..., at] = session.noisy(image, f"dwi-{direction}-{at}")
    sidecar = {**session.sidecar(direction), "B0FieldSource": B0_IDENTIFIER}
    session.writer.write("dwi", "dwi", {"dir": direction}, volumes, settings.grid, sidecar)
    path = session.writer.folder / session.writer.paths[-1]
    write_gradients(path.with_name(path.name.removesuffix(".nii.gz")), table, settings.grid.affine)
    return DwiSeries(
        path,
        EPI_DIRECTIONS[direction],
        settings.readout_s,
        table.bvals,
        table.directions,
        np.stack([m.matrix() for m in moved]),
        np.stack(eddies),
        tuple(dropped),
        settings.noise_sd,
    )


def _write_truth(
    writer: SessionWriter, settings: DwiSettings, person: DiffusionHead, lying: Float64
) -> dict[str, Path]:
    """Write the true maps in the first volume's position, undistorted; zero where there is no head."""
    where, back = settings.grid, np.linalg.inv(lying)
    ijk = np.indices(where.shape).reshape(3, -1).T
    head_mm = (ijk @ where.affine[:3, :3].T + where.affine[:3, 3]) @ back[:3, :3].T + back[:3, 3]
    index = np.flatnonzero(person.head.may_fill(head_mm))
    mixture = person.mixture(head_mm[index])
    maps = scalars(person.tensors(mixture))
    maps["fibres"] = maps["fibres"] @ lying[:3, :3].T

    def put(values: Any) -> Any:
        out = np.zeros((len(ijk), *values.shape[1:]), dtype=np.float32)
        out[index] = values
        return out.reshape(*where.shape, *values.shape[1:])

    about = {"FA": "true FA", "fibres": "true principal direction, scanner RAS+"}
    truth = {
        name: writer.write_truth(name, put(values), where, about.get(name, f"true {name} in mm2/s"))
        for name, values in maps.items()
    }
    for at, tissue in enumerate(TISSUES):
        name = f"space-dwi_label-{tissue}_probseg"
        truth[name] = writer.write_truth(name, put(mixture.fractions[:, at]), where, "true fraction")
    static = (settings.protocol.field * static_field_hz(head_mm)).reshape(where.shape)
    truth["space-dwi_fieldmap"] = writer.write_truth("space-dwi_fieldmap", static, where, "static field in Hz")
    return truth


MEANING = {
    "movements": "scanner mm (RAS+) of a point of the head in the first volume of dir-AP to where it is in this one",
    "eddy_hz": "coefficients of a polynomial in scanner mm (isocentre at 0), in Hz: " + ", ".join(EDDY_TERMS),
    "displacement": "along the phase-encode axis, in voxels: (static + eddy field) TotalReadoutTime, negative for j-",
    "dropped": "volume, slice (both from 0), part of the signal that is left",
    "directions": "unit vectors in the scanner's frame, RAS+; they do not turn with the head",
}


def _record(folder: Path, series: Mapping[str, DwiSeries], pair: Mapping[str, Movement]) -> dict[str, Any]:
    return {
        "meaning": MEANING,
        "epi_movements": {direction: moved.matrix().tolist() for direction, moved in pair.items()},
        "series": {
            direction: {
                "path": one.path.relative_to(folder).as_posix(),
                "phase_encoding": one.phase_encoding,
                "readout_s": one.readout_s,
                "noise_sd": one.noise_sd,
                "bvals": one.bvals.tolist(),
                "directions": one.directions.T.tolist(),
                "movements": one.movements.tolist(),
                "eddy_hz": one.eddy_hz.tolist(),
                "dropped": [list(entry) for entry in one.dropped],
            }
            for direction, one in series.items()
        },
    }
