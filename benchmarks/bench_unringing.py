"""Gibbs unringing in voxels per CPU-second and its errors beside its peers.

    python benchmarks/bench_unringing.py [--repeats 3] [--slices 4]

110 x 110 voxels a slice, 66 volumes, float32, with noise. Every measurement runs in a process of its own with one
thread; compilation is left out. Peers that are not installed are left out: MRtrix's mrdegibbs (files read and written
included) and dipy's gibbs_removal (on two volumes).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from measuring import Stopwatch, in_child, median

SIDE, VOLUMES, FINE = 110, 66, 16
DIPY_VOLUMES = 2
NOISE = 0.01


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Return a slice measured by the lowest frequencies of a fine one, and the fine one averaged over voxels."""
    axis = (np.arange(SIDE * FINE) + 0.5) / FINE / SIDE - 0.5
    x, y = np.meshgrid(axis, axis, indexing="ij")
    fine = np.where((x / 0.4) ** 2 + (y / 0.45) ** 2 < 1, 1.0, 0.0)
    fine[((x - 0.1) / 0.12) ** 2 + ((y + 0.05) / 0.2) ** 2 < 1] = 0.4
    fine[(abs(x + 0.2) < 0.07) & (abs(y) < 0.15)] = 0.7
    first = (SIDE * FINE - SIDE) // 2
    spectrum = np.fft.fftshift(np.fft.fft2(fine))[first : first + SIDE, first : first + SIDE]
    # Voxels are centred between fine points.
    move = np.exp(2j * np.pi * (FINE - 1) / 2 / FINE * np.fft.fftfreq(SIDE))
    slice_ = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum) * move[:, None] * move)) / FINE**2
    return slice_, fine.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))


def images(slices: int, volumes: int = VOLUMES) -> np.ndarray:
    """Return (x, y, z, volume)."""
    one = phantom()[0][:, :, None, None] * np.linspace(0.5, 1, volumes)
    noise = np.random.default_rng(1).normal(0, NOISE, (SIDE, SIDE, slices, volumes))
    return (one + noise).astype(np.float32)


def mrdegibbs(data: np.ndarray, *options: str) -> np.ndarray:
    """Run MRtrix's program with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.nii", f"{folder}/out.nii"
        nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), source)
        command = ["mrdegibbs", "-quiet", "-nthreads", "0", "-axes", "0,1", *options, source, target]
        subprocess.run(command, check=True)
        return np.asarray(nibabel.load(target).dataobj)


def measure_ours(watch: Stopwatch, slices: int) -> None:
    """The compiled kernel."""
    from voxcloud.dwi.gibbs import unring

    data = images(slices)
    unring(data[:, :, :1, :1])
    watch.start()
    unring(data)
    watch.stop("voxcloud")


def measure_mrdegibbs(watch: Stopwatch, slices: int) -> None:
    """MRtrix."""
    if shutil.which("mrdegibbs") is None:
        return
    data = images(slices)
    watch.start()
    mrdegibbs(data)
    watch.stop("mrdegibbs, with files")


def measure_dipy(watch: Stopwatch, slices: int) -> None:
    """dipy."""
    try:
        from dipy.denoise.gibbs import gibbs_removal
    except ImportError:
        return
    data = images(slices, DIPY_VOLUMES)
    watch.start()
    gibbs_removal(data, slice_axis=2, num_processes=1)
    watch.stop("dipy gibbs_removal")


MEASURES: dict[str, Callable[[Stopwatch, int], None]] = {
    "voxcloud": measure_ours,
    "mrdegibbs": measure_mrdegibbs,
    "dipy": measure_dipy,
}


def errors() -> None:
    """Print root mean square errors of a slice without noise, of a signal of 1."""
    from scipy.ndimage import maximum_filter, minimum_filter

    from voxcloud.dwi.gibbs import unring

    ringing, truth = phantom()
    contrast = [maximum_filter(truth, side) - minimum_filter(truth, side) for side in (9, 3)]
    beside = (contrast[0] > 0.05) & (contrast[1] < 0.05)
    found = {"as measured": ringing, "voxcloud": unring(ringing[:, :, None])[:, :, 0]}
    two = np.repeat(ringing[:, :, None], 2, axis=2)
    if shutil.which("mrdegibbs") is not None:
        found["mrdegibbs"] = mrdegibbs(two, "-datatype", "float64")[:, :, 0]
    try:
        from dipy.denoise.gibbs import gibbs_removal

        found["dipy gibbs_removal"] = gibbs_removal(two, slice_axis=2, num_processes=1)[:, :, 0]
    except ImportError:
        pass
    for name, image in found.items():
        square = (image - truth) ** 2
        print(f"  {name:24} beside edges {np.sqrt(square[beside].mean()):.5f}, everywhere {np.sqrt(square.mean()):.5f}")


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--child", choices=[*MEASURES], default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # dipy's own
    if asked.child is not None:
        watch = Stopwatch()
        MEASURES[asked.child](watch, asked.slices)
        watch.report()
        return
    print(f"{SIDE} x {SIDE} x {asked.slices} voxels, {VOLUMES} volumes, one thread; median of {asked.repeats}\n")
    with tempfile.TemporaryDirectory() as cache:
        for what in MEASURES:
            runs = [
                in_child(__file__, "--child", what, "--slices", str(asked.slices), cache=Path(cache))
                for _ in range(asked.repeats)
            ]
            for name, cost in median(runs).items():
                volumes = DIPY_VOLUMES if what == "dipy" else VOLUMES
                rate = SIDE * SIDE * asked.slices * volumes / VOLUMES / cost.cpu_s
                print(f"  {name:24} {rate:10,.0f} voxels of {VOLUMES} volumes per CPU-s, peak {cost.peak_mb:,.0f} MB")
    print()
    errors()


if __name__ == "__main__":
    sys.exit(main())
