"""A group model from images to clusters beside plain numpy and nilearn: CPU seconds and peak memory.

    python benchmarks/bench_group_model.py [--repeats 3] [--folder /tmp] [--skip-large]

Every measurement runs in a process of its own with one BLAS thread; files are read from the page cache. "plain numpy"
reads the images with nibabel and fits with a pseudo-inverse in float64. voxcloud's numbers are whole work units:
manifest checks, reading, fitting, compressing, writing with fsync, digests and records.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from cohorts import Measured, describe, stored_bytes, write_stack, write_study
from measuring import Cost, Stopwatch, in_child, median

import voxcloud.pipeline.steps  # noqa: F401 - what a step imports is not what it costs
from voxcloud.pipeline.events import Event
from voxcloud.pipeline.study import RunOptions, run_study

STEPS = ("stack-shard", "fit-block", "smoothness", "inference")
MB = 1e6


def plain_read(measured: Measured) -> np.ndarray:
    """Read every image and keep the voxels of the mask."""
    mask = measured.mask
    data = np.empty((measured.images, measured.voxels), dtype=np.float32)
    for row, path in zip(data, measured.paths, strict=True):
        row[:] = np.asarray(nib.load(path).dataobj, dtype=np.float32)[mask]
    return data


def plain_fit(measured: Measured, data: np.ndarray) -> np.ndarray:
    """Return t of the second column, all arithmetic in float64."""
    X = measured.design()
    inverse = np.linalg.pinv(X)
    y = data.astype(np.float64)
    beta = inverse @ y
    residual = y - X @ beta
    variance = (residual**2).sum(axis=0) / (len(X) - X.shape[1])
    return np.asarray(beta[1] / np.sqrt(variance * (inverse @ inverse.T)[1, 1]))


def measure_numpy(measured: Measured, watch: Stopwatch) -> None:
    """Read and fit with numpy and nibabel alone."""
    watch.start()
    data = plain_read(measured)
    watch.stop("numpy read")
    np.save(measured.folder / "data.npy", data)
    del data
    gc.collect()
    watch.start()
    plain_fit(measured, np.load(measured.folder / "data.npy"))
    watch.stop("numpy fit")


def measure_nilearn(measured: Measured, watch: Stopwatch) -> None:
    """Read and fit with nilearn's second-level model."""
    import pandas as pd
    from nilearn.glm.second_level import SecondLevelModel
    from nilearn.maskers import NiftiMasker

    design = pd.DataFrame(measured.design(), columns=["intercept", *(f"x{i}" for i in range(1, 8))])
    watch.start()
    masker = NiftiMasker(mask_img=str(measured.folder / "mask.nii.gz"), standardize=None, smoothing_fwhm=None)
    model = SecondLevelModel(mask_img=masker).fit([str(p) for p in measured.paths], design_matrix=design)
    found = model.compute_contrast("x1", output_type="stat")
    np.save(measured.folder / "nilearn.npy", np.asarray(found.dataobj)[measured.mask])
    watch.stop("nilearn")


def measure_voxcloud(measured: Measured, watch: Stopwatch) -> None:
    """Run the study in this process, unit by unit."""

    def listen(event: Event) -> None:
        if event.kind == "started":
            watch.start()
        elif event.kind == "finished":
            watch.stop(event.step)

    outcome = run_study(measured.study_file, RunOptions(engine="serial"), [listen])
    if outcome.failed:
        raise SystemExit("\n".join(str(f["message"]) for f in outcome.failed.values()))


MEASURES: dict[str, Callable[[Measured, Stopwatch], None]] = {
    "numpy": measure_numpy,
    "nilearn": measure_nilearn,
    "voxcloud": measure_voxcloud,
}


def child(what: str, measured: Measured) -> None:
    """Carry out one measurement in this process."""
    watch = Stopwatch()
    MEASURES[what](measured, watch)
    watch.report()


def measure(what: str, measured: Measured) -> dict[str, Cost]:
    """Carry out one measurement in a process of its own."""
    words = ["--child", what, "--folder", str(measured.folder), *map(str, (measured.images, measured.voxels))]
    return in_child(__file__, *words, str(measured.visits), cache=measured.folder / "cache")


def compare(folder: Path, repeats: int, images: int, voxels: int) -> None:
    """Print the costs of one model beside numpy's and nilearn's."""
    measured = Measured(folder / "middle", images, voxels, 1)
    write_study(measured, with_images=True)
    print(f"\n{describe(measured)}, 8 columns, one row per participant; median of {repeats}")
    runs: dict[str, list[dict[str, Cost]]] = {what: [] for what in MEASURES}
    for _ in range(repeats):
        for what, found in runs.items():
            shutil.rmtree(measured.folder / "derivatives", ignore_errors=True)
            found.append(measure(what, measured))
    costs = {name: cost for found in runs.values() for name, cost in median(found).items()}
    for name, cost in costs.items():
        print(f"  {name:16} {cost.n:4d} x {cost.cpu_s:8.2f} CPU-s {cost.peak_mb:8.0f} MB")
    shard, fit = costs["stack-shard"].cpu_s, costs["fit-block"].cpu_s
    read, plain = costs["numpy read"].cpu_s, costs["numpy fit"].cpu_s
    print(f"  stacking / reading the images with numpy       {shard / read:6.2f}")
    print(f"  once stacked / numpy from the images           {fit / (read + plain):6.2f}")
    print(f"  once stacked / numpy from an array in memory   {fit / plain:6.2f}")
    print(f"  stacking and fit / numpy from the images       {(shard + fit) / (read + plain):6.2f}")
    print(f"  stacking and fit / nilearn                     {(shard + fit) / costs['nilearn'].cpu_s:6.2f}")
    check(measured)
    shutil.rmtree(measured.folder)


def check(measured: Measured) -> None:
    """Print how far voxcloud's t lies from numpy's and nilearn's."""
    (path,) = (measured.folder / "derivatives").rglob("*_stat-t_statmap.nii.gz")
    found = np.asarray(nib.load(path).dataobj)[measured.mask]
    plain = plain_fit(measured, np.load(measured.folder / "data.npy"))
    other = np.load(measured.folder / "nilearn.npy")
    print(
        f"  largest difference in t (maps are float32): numpy {np.abs(found - plain).max():.1e}, "
        f"nilearn {np.abs(found - other).max():.1e}"
    )


def compare_sizes(folder: Path, voxels: int) -> None:
    """Print the peaks of a cohort and of one five times as large, five visits each, two coefficients."""
    peaks = {}
    for images in (245, 1225):
        measured = Measured(folder / f"large-{images}", images, voxels, 5)
        write_study(measured, with_images=False)
        write_stack(measured)
        costs = measure("voxcloud", measured)
        print(f"\n{describe(measured)}, five visits, two coefficients; {stored_bytes(measured) / MB:,.0f} MB on disk")
        for name in STEPS:
            if name in costs:
                print(f"  {name:16} {costs[name].n:4d} x {costs[name].cpu_s:8.2f} CPU-s {costs[name].peak_mb:8.0f} MB")
        peaks[images] = max(costs[name].peak_mb for name in STEPS if name in costs)
        shutil.rmtree(measured.folder)
    print(f"  highest peak: {peaks[245]:.0f} MB and {peaks[1225]:.0f} MB, ratio {peaks[1225] / peaks[245]:.3f}")


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--images", type=int, default=245)
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--large-voxels", type=int, default=557_000)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--skip-middle", action="store_true")
    parser.add_argument("--child", choices=sorted(MEASURES), default=None, help=argparse.SUPPRESS)
    parser.add_argument("sizes", nargs="*", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        child(asked.child, Measured(asked.folder, *asked.sizes))
        return
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        if not asked.skip_middle:
            compare(folder, asked.repeats, asked.images, asked.voxels)
        if not asked.skip_large:
            compare_sizes(folder, asked.large_voxels)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
