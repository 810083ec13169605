"""Denoising and tensor fits in voxels per CPU-second beside their peers, and beside what no program can avoid.

    python benchmarks/bench_dwi.py [--repeats 3] [--slices 8]

66 volumes (6 at b = 0, 34 at 1000, 26 at 2500 s/mm2), float32, 40 x 40 voxels a slice for denoising and 128,000 voxels
for tensors, Rician noise. Every measurement runs in a process of its own with one thread; compilation is measured
apart. Peers that are not installed are left out: MRtrix's dwidenoise and dwi2tensor (files read and written included)
and dipy. "numpy, batched" decomposes the Gram matrices of 400 patches at once by LAPACK; "decomposition only" brings
Gram matrices that are there already to eigenvalues, by LAPACK and by our kernel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from measuring import Stopwatch, cpu_seconds, in_child, median

VOLUMES, EXTENT = 66, 5
SIDE = 40
BATCH = 400
TENSOR_VOXELS, DIPY_VOXELS = 128_000, 8_000
SIGMA = 20.0


def table() -> tuple[np.ndarray, np.ndarray]:
    """Return b-values and (3, volumes) b-vectors."""
    b = np.repeat([0.0, 1000.0, 2500.0], [6, 34, 26])
    g = np.random.default_rng(5).normal(size=(3, VOLUMES))
    return b, np.where(b > 0, g / np.linalg.norm(g, axis=0), 0.0)


def simulate(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return images (x, y, z, volume) without and with noise: one smooth field of tensors."""
    b, g = table()
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    theta, phi = 2 * x, 3 * y + z
    axis = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    diffusivity = 0.5e-3 + (1.0e-3 + 0.2e-3 * z[..., None]) * (axis @ g) ** 2
    truth = (800 + 200 * np.sin(6 * z))[..., None] * np.exp(-b * diffusivity)
    rng = np.random.default_rng(1)
    noisy = np.hypot(truth + SIGMA * rng.standard_normal(truth.shape), SIGMA * rng.standard_normal(truth.shape))
    return truth, noisy.astype(np.float32)


def patches(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return patches (voxels, volumes, patch) and centres of the voxels of the middle slices whose patch fits in."""
    h = EXTENT // 2
    windows = np.lib.stride_tricks.sliding_window_view(data, (EXTENT,) * 3, axis=(0, 1, 2))
    found = windows.reshape(-1, VOLUMES, EXTENT**3)[: 4 * BATCH]
    return found, data[h:-h, h:-h, h:-h].reshape(-1, VOLUMES)[: 4 * BATCH]


def numpy_denoise(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return denoised voxels, a batch of patches at once."""
    x = x.astype(np.float64)
    q, m = x.shape[2], x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.transpose(0, 2, 1) / q)
    count = np.arange(1, m + 1)
    mean = np.maximum(values, 0).cumsum(axis=1) / count
    width = (values - values[:, :1]) / (4 * np.sqrt(count / (q - m + count)))
    noises = m - np.argmax((width < mean)[:, ::-1], axis=1)
    kept = vectors * (np.arange(m) >= noises[:, None])[:, None, :]
    return np.einsum("nik,njk,nj->ni", kept, vectors, centre.astype(np.float64), optimize=True)


def mrtrix(name: str, folder: Path, data: np.ndarray, *options: str) -> np.ndarray:
    """Run a program of MRtrix on images with one thread and return its output."""
    b, g = table()
    source, target, gradients = folder / "in.nii", folder / "out.nii", folder / "gradients.txt"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), source)
    np.savetxt(gradients, np.column_stack([g.T, b]))
    if name == "dwi2tensor":
        options = (*options, "-grad", str(gradients))
    command = [name, "-quiet", "-force", "-nthreads", "0", *options, str(source), str(target)]
    subprocess.run(command, check=True)
    return np.asarray(nibabel.load(target).dataobj)


def measure_denoising(watch: Stopwatch, slices: int) -> None:
    """The compiled kernel, and decomposition alone."""
    from voxcloud.dwi.denoise import denoise
    from voxcloud.dwi.denoise_eigen import diagonalise, tridiagonalise
    from voxcloud.dwi.lanes import LANES

    _, data = simulate((SIDE, SIDE, slices))
    denoise(data[:7, :7, :5])
    watch.start()
    denoise(data)
    watch.stop("voxcloud")
    x, _ = patches(data)
    grams = np.einsum("nik,njk->nij", x[:LANES], x[:LANES], dtype=np.float64).transpose(1, 2, 0)
    a, room, vector = np.empty(grams.shape), np.empty((5, VOLUMES, LANES)), np.zeros((VOLUMES, LANES))
    turns, ranges = np.empty((4 * VOLUMES**2, 2, LANES)), np.empty((30 * VOLUMES, 2), np.int64)

    def decompose() -> None:
        np.copyto(a, grams)
        tridiagonalise(a, *room)
        diagonalise(room[0], room[1], vector, turns, ranges)

    decompose()
    watch.start()
    for _ in range(SIDE * SIDE * slices // LANES):
        decompose()
    watch.stop("decomposition only, voxcloud")


def measure_denoising_numpy(watch: Stopwatch, slices: int) -> None:
    """Batched numpy, LAPACK alone; the cost of 1,600 voxels is taken to stand for all."""
    _, data = simulate((SIDE, SIDE, slices))
    x, centre = patches(data)
    numpy_denoise(x[:BATCH], centre[:BATCH])
    repeats = SIDE * SIDE * slices // len(x)
    watch.start()
    for _ in range(repeats):
        for i in range(0, len(x), BATCH):
            numpy_denoise(x[i : i + BATCH], centre[i : i + BATCH])
    watch.stop("numpy, batched")
    double = x[:BATCH].astype(np.float64)
    grams = double @ double.transpose(0, 2, 1)
    for name, work in (("LAPACK", np.linalg.eigh), ("LAPACK, values", np.linalg.eigvalsh)):
        watch.start()
        for _ in range(repeats * len(x) // BATCH):
            work(grams)
        watch.stop(f"decomposition only, {name}")


def measure_dwidenoise(watch: Stopwatch, slices: int) -> None:
    """MRtrix."""
    if shutil.which("dwidenoise") is None:
        return
    _, data = simulate((SIDE, SIDE, slices))
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "float64"):
            watch.start()
            mrtrix("dwidenoise", Path(folder), data, "-datatype", precision)
            watch.stop(f"dwidenoise, {precision}")


def measure_tensor(watch: Stopwatch, _: int) -> None:
    """The compiled kernel, batched numpy, and logarithms with one product."""
    from voxcloud.dwi.tensor import fit_tensor

    b, g = table()
    _, data = simulate((40, 40, TENSOR_VOXELS // 1600))
    rows = np.ascontiguousarray(data.reshape(-1, VOLUMES).T)
    fit_tensor(rows[:, :64], b, g)
    for name, values in (("voxcloud, rows", rows), ("voxcloud, images", data)):
        watch.start()
        fit_tensor(values, b, g)
        watch.stop(name)
    gg = np.array([g[0] ** 2, g[1] ** 2, g[2] ** 2, 2 * g[0] * g[1], 2 * g[0] * g[2], 2 * g[1] * g[2]])
    design = np.column_stack([np.ones(VOLUMES), -1e-3 * (b * gg).T])
    inverse, outer = np.linalg.pinv(design), (design[:, :, None] * design[:, None, :]).reshape(VOLUMES, 49)

    def floor(part: np.ndarray) -> None:
        inverse @ np.log(np.maximum(part, 1e-4), dtype=np.float64)

    def numpy_fit(part: np.ndarray) -> None:
        y = np.log(np.maximum(part, 1e-4), dtype=np.float64)
        w = np.exp(2 * (design @ (inverse @ y)))
        found = np.linalg.solve((w.T @ outer).reshape(-1, 7, 7), ((w * y).T @ design)[:, :, None])[:, 1:, 0]
        np.linalg.eigh(found[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3))

    for name, work in (("logarithms and one product, numpy", floor), ("numpy, batched, no scalars", numpy_fit)):
        watch.start()
        for i in range(0, TENSOR_VOXELS, 4096):
            work(rows[:, i : i + 4096])
        watch.stop(name)


def measure_dipy(watch: Stopwatch, _: int) -> None:
    """dipy, on a sixteenth of the voxels."""
    try:
        from dipy.core.gradients import gradient_table
        from dipy.reconst.dti import TensorModel
    except ImportError:
        return
    b, g = table()
    _, data = simulate((40, 40, DIPY_VOXELS // 1600))
    model = TensorModel(gradient_table(b, bvecs=g.T), fit_method="WLS", min_signal=1e-4)
    model.fit(data[:2])
    watch.start()
    fit = model.fit(data)
    _ = fit.fa, fit.md, fit.ad, fit.rd
    watch.stop("dipy WLS")


def measure_dwi2tensor(watch: Stopwatch, _: int) -> None:
    """MRtrix: one pass of weights from the fit, as ours; no scalars."""
    if shutil.which("dwi2tensor") is None:
        return
    _, data = simulate((40, 40, TENSOR_VOXELS // 1600))
    with tempfile.TemporaryDirectory() as folder:
        watch.start()
        mrtrix("dwi2tensor", Path(folder), data, "-ols", "-iter", "1")
        watch.stop("dwi2tensor, with files")


DENOISING: dict[str, Callable[[Stopwatch, int], None]] = {
    "denoising": measure_denoising,
    "denoising-numpy": measure_denoising_numpy,
    "dwidenoise": measure_dwidenoise,
}
TENSORS: dict[str, Callable[[Stopwatch, int], None]] = {
    "tensor": measure_tensor,
    "dipy": measure_dipy,
    "dwi2tensor": measure_dwi2tensor,
}


def first_use(name: str) -> float:
    """Return the CPU seconds of the first use in a process: import, compilation or its cache."""
    before = cpu_seconds()
    if name == "denoise":
        from voxcloud.dwi.denoise import denoise

        denoise(np.ones((5, 5, 5, 30), np.float32))
    else:
        from voxcloud.dwi.tensor import fit_tensor

        fit_tensor(np.ones((VOLUMES, 64), np.float32), *table())
    return cpu_seconds() - before


def agreement() -> None:
    """Print errors beside the truth and differences from the peers."""
    from voxcloud.dwi.denoise import denoise

    truth, data = simulate((20, 20, 10))
    found = denoise(data)

    def rmse(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)))

    print(f"  RMSE beside the truth: noisy {rmse(data, truth):.3f}, voxcloud {rmse(found.data, truth):.4f}")
    if shutil.which("dwidenoise") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "float64"):
            theirs = mrtrix("dwidenoise", Path(folder), data, "-datatype", precision)
            difference = np.abs(theirs - found.data)
            print(
                f"  dwidenoise {precision}: RMSE {rmse(theirs, truth):.4f}; from voxcloud at most "
                f"{difference.max():.2g}, median {np.median(difference):.2g}"
            )


def child(what: str, slices: int) -> None:
    """Carry out one measurement in this process."""
    warnings.simplefilter("ignore")  # dipy's own
    watch = Stopwatch()
    if what.startswith("first-"):
        watch.start()
        first_use(what.removeprefix("first-"))
        watch.stop("first use")
    else:
        (DENOISING | TENSORS)[what](watch, slices)
    watch.report()


def compare(repeats: int, slices: int, cache: Path) -> None:
    """Print the tables."""
    for title, measures, voxels in (
        ("Denoising, 66 volumes, 5 x 5 x 5", DENOISING, SIDE * SIDE * slices),
        ("Tensor, 66 volumes", TENSORS, TENSOR_VOXELS),
    ):
        print(f"{title}: {voxels:,} voxels, one thread; median of {repeats}\n")
        runs: dict[str, list[dict[str, object]]] = {what: [] for what in measures}
        for _ in range(repeats):
            for what, found in runs.items():
                found.append(in_child(__file__, "--child", what, "--slices", str(slices), cache=cache))
        costs = {name: cost for found in runs.values() for name, cost in median(found).items()}  # type: ignore[arg-type]
        for name, cost in costs.items():
            n = DIPY_VOXELS if name.startswith("dipy") else voxels
            print(f"  {name:36} {n / cost.cpu_s:12,.0f} voxels per CPU-s {1e6 * cost.cpu_s / n:9.2f} us per voxel")
        print()
    os.environ["NUMBA_CACHE_DIR"] = str(cache / "numba")
    for name in ("denoise", "tensor"):
        for state in ("compiled", "from the cache"):
            first = in_child(__file__, "--child", f"first-{name}", cache=cache)["first use"]
            print(f"  first {name:8} of a process, {state:15} {first.cpu_s:6.1f} CPU-s")
    del os.environ["NUMBA_CACHE_DIR"]
    agreement()


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slices", type=int, default=8)
    names = [*DENOISING, *TENSORS, "first-denoise", "first-tensor"]
    parser.add_argument("--child", choices=names, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.slices < EXTENT:
        parser.error(f"--slices: at least {EXTENT}")
    if asked.child is not None:
        child(asked.child, asked.slices)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(asked.repeats, asked.slices, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
