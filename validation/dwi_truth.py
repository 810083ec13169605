"""Diffusion maps of simulated raw data against their truth: distortion, movement, b-vectors, lost slices, FA and MD.

    python validation/dwi_truth.py [--resolution 2] [--b 1000] [--directions 60] [--seed 0] [--reversed]

A head with known tensors and fibres is scanned (``voxcloud.testing.raw``) while it moves, with eddy currents,
distortion by the static field, Gibbs ringing, lost slices and Rician noise, and goes through voxcloud's own steps.
Everything that the steps find is compared with what the simulation did. CPU seconds of each step and the peak of the
process's memory come last. One process for all of it; about ten minutes at 2 mm and 66 volumes.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxcloud.bids.dwi import read_dwi
from voxcloud.bids.sidecars import Metadata
from voxcloud.config.dwi import Dwi
from voxcloud.dwi.motion_model import eddy_displacement
from voxcloud.dwi.tensor import fit_tensor
from voxcloud.pipeline.diffusion.step import Processed, process
from voxcloud.pipeline.phases import Phases
from voxcloud.testing.raw import SimulatedRaw, simulate_raw
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.raw_epi import EDDY_TERMS

WHO = ("01", "1")
# Voxels that are one tissue: partial volume would tell of interpolation and not of the maps.
PURE = 0.95
MAPS = {"fa": "FA", "md": "MD", "ad": "AD", "rd": "RD"}


def load(path: Any) -> np.ndarray:
    """Return the values of an image."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def powers(points: np.ndarray) -> np.ndarray:
    """Return the terms of the simulated eddy field at points (3, n) in scanner mm."""
    x, y, z = points
    one = np.ones_like(x)
    terms = {"1": one, "x": x, "y": y, "z": z, "x^2": x * x, "y^2": y * y, "z^2": z * z}
    terms |= {"x y": x * y, "x z": x * z, "y z": y * z}
    return np.array([terms[name] for name in EDDY_TERMS])


def displacement_errors(done: Processed, truth: SimulatedRaw, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mm by which each volume lies off the first, (volume,): before correction, and after; RMS over the brain.

    Where a point of the head is seen in volume v, less where it is seen in the first volume, so that the error of the
    static field, which shifts all volumes alike, does not count here.
    """
    motion, images = done.motion, done.images
    assert motion is not None
    indices = np.argwhere(inside).T[:, ::7]
    points = images.affine[:3, :3] @ indices + images.affine[:3, 3:]
    before, after, start = [], [], None
    for v, (series, k) in enumerate(numbered(done, truth)):
        acquired = images.acquisitions[v]
        axis = "ijk".index(acquired.phase_encoding[0])
        along = images.affine[:3, axis]
        sign = -1.0 if acquired.phase_encoding.endswith("-") else 1.0
        matrix = series.movements[k]
        place = matrix[:3, :3] @ points + matrix[:3, 3:]
        true = place + sign * series.readout_s * (series.eddy_hz[k] @ powers(place)) * along[:, None]
        own = motion.movement[v]
        place = own[:3, :3] @ points + own[:3, 3:]
        shift = eddy_displacement(
            motion.eddy_hz[v],
            images.affine,
            inside.shape,
            motion.eddy_centre_mm,
            acquired.phase_encoding,
            acquired.readout_s,
        )
        found = place + shift[tuple(indices)] * (along / np.linalg.norm(along))[:, None]
        start = (true.copy(), found.copy()) if start is None else start
        error = (found - start[1]) - (true - start[0])
        before.append(float(np.sqrt(np.mean(np.sum((true - start[0]) ** 2, axis=0)))))
        after.append(float(np.sqrt(np.mean(np.sum(error**2, axis=0)))))
    return np.array(before), np.array(after)


def numbered(done: Processed, truth: SimulatedRaw) -> list[tuple[Any, int]]:
    """Return the simulated series and the number in it of every volume."""
    series = truth.dwi[WHO]
    order = list(series.values())
    return [(one, k) for one, part in zip(order, done.images.parts, strict=True) for k in range(part.stop - part.start)]


def vector_errors(done: Processed, truth: SimulatedRaw) -> np.ndarray:
    """Return by how many degrees the b-vectors differ from those that the head has seen."""
    world, found = done.images.world_vectors, []
    for v, (series, k) in enumerate(numbered(done, truth)):
        if done.images.table.b0[v]:
            continue
        seen = series.movements[k][:3, :3].T @ series.directions[:, k]
        cosine = np.clip(abs(float(seen @ world[:, v])), 0.0, 1.0)
        found.append(np.degrees(np.arccos(cosine)))
    return np.array(found)


def report_slices(done: Processed, truth: SimulatedRaw) -> str:
    """Say how many of the slices that lost their signal were found."""
    motion = done.motion
    assert motion is not None
    lost = np.zeros_like(motion.outliers)
    for v, (series, k) in enumerate(numbered(done, truth)):
        for volume, number, _ in series.dropped:
            if volume == k:
                lost[v, number] = True
    judged = np.isfinite(motion.outlier_z)
    found = motion.outliers & judged
    return (
        f"{int((found & lost).sum())} of {int((lost & judged).sum())} lost slices found ({int((lost & ~judged).sum())} "
        f"more had too little brain), {int((found & ~lost).sum())} of {int((judged & ~lost).sum())} others named"
    )


def report_maps(done: Processed, truth: SimulatedRaw) -> None:
    """Print bias and spread of every map in white and grey matter, and of maps made without correction."""
    paths = truth.truth[WHO]
    pure = {t: (load(paths[f"space-dwi_label-{t}_probseg"]) > PURE) & done.inside for t in ("WM", "GM")}
    print(f"\n{'map':4} {'tissue':6} {'truth':>10} {'bias %':>8} {'SD':>10}   voxels")
    for name, file in MAPS.items():
        true, found = load(paths[file]), np.asarray(getattr(done.fit, name), np.float64)
        for tissue, mask in pure.items():
            error, mean = (found - true)[mask], np.mean(true[mask])
            bias = 100 * np.nanmean(error) / mean
            print(f"{file:4} {tissue:6} {mean:10.3g} {bias:+8.2f} {np.nanstd(error):10.3g}   {mask.sum():,}")


def report_uncorrected(session: Any, truth: SimulatedRaw, done: Processed) -> None:
    """Print FA of the same images with a tensor fitted as they came."""
    raw = process(session, Dwi(denoise="none", unringing="none", motion="none", bias="none").model_dump(), Phases())
    plain = fit_tensor(raw.images.data, raw.images.table.bvals, raw.images.world_vectors)
    true = load(truth.truth[WHO]["FA"])
    white = (load(truth.truth[WHO]["space-dwi_label-WM_probseg"]) > PURE) & done.inside
    for words, fa in (("undistorted only", plain.fa), ("every correction", done.fit.fa)):
        error = (np.asarray(fa, np.float64) - true)[white]
        print(
            f"FA in white matter, {words}: bias {100 * np.nanmean(error) / true[white].mean():+.2f} %, "
            f"RMSE {np.sqrt(np.nanmean(error**2)):.4f}"
        )


def main() -> None:
    """Simulate, process, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=float, default=2.0)
    parser.add_argument("--b", type=float, default=1000.0)
    parser.add_argument("--directions", type=int, default=60)
    parser.add_argument("--motion", type=float, default=3.0, help="times what is typical")
    parser.add_argument("--dropped", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reversed", action="store_true", help="the whole series with opposite phase encoding too")
    parser.add_argument("--keep", type=Path, help="folder for the data set; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary) / "raw"
        protocol = DwiProtocol(
            voxel_mm=asked.resolution,
            shells=((asked.b, asked.directions),),
            motion=asked.motion,
            dropped=asked.dropped,
            reversed_series=asked.reversed,
        )
        truth = simulate_raw(folder, seed=asked.seed, participants=1, sessions=1, mpm=False, dwi=protocol)
        session = read_dwi(Metadata(folder), *WHO, missing_b0="stop", run=None)
        phases = Phases()
        done = process(session, Dwi().model_dump(), phases)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"images {done.images.data.shape}, {', '.join(done.images.table.notes) or 'table as it should be'}")
        for text in done.warnings:
            print("warning:", text)
        field = load(truth.truth[WHO]["space-dwi_fieldmap"])
        if done.field is not None:
            error = (done.field.hz - field)[done.inside] * done.images.acquisitions[0].readout_s
            offset = float(np.median(error))
            middle, high = np.percentile(np.abs(error - offset), (50, 95))
            print(
                f"static field: offset {offset:+.3f} voxels; without it median error {middle:.3f}, 95th percentile "
                f"{high:.3f} voxels"
            )
        before, after = displacement_errors(done, truth, done.inside)
        weighted = ~done.images.table.b0
        for words, of in (("b = 0", ~weighted), (f"b = {asked.b:g}", weighted)):
            print(
                f"displacement {words}: before {np.mean(before[of]):.2f} mm, after {np.mean(after[of]):.3f} mm (mean "
                f"of RMS over the brain; worst volume {np.max(after[of]):.3f})"
            )
        angles = vector_errors(done, truth)
        print(f"b-vectors: {np.mean(angles):.3f} degrees on average, {np.max(angles):.3f} at most")
        print(report_slices(done, truth))
        report_maps(done, truth)
        report_uncorrected(session, truth, done)
        print("\nCPU seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.seconds.items()))
        print(
            f"in all {sum(phases.seconds.values()):.0f} (registrations beside: {done.registrations_cpu_s:.1f}); "
            f"peak memory {peak:,.0f} MB"
        )


if __name__ == "__main__":
    main()
