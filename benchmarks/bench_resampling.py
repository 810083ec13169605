"""Cubic B-splines beside scipy's: 14 echoes of 240 x 256 x 176 voxels under one rigid transform.

    python benchmarks/bench_resampling.py [--echoes 8 6] [--scipy 2] [--repeats 3]

Half of the voxels, a ball in the middle, are asked for: what a mask of the head leaves. scipy resamples ``--scipy``
echoes at the same voxels, and its time is scaled to all; it costs the same for each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import Stopwatch, in_child
from scipy.ndimage import map_coordinates, spline_filter

from voxcloud.space.affine import rigid_matrix
from voxcloud.space.bspline import SplineImages

SHAPE = (240, 256, 176)
SLAB = 1 << 18
SHARE = 0.5


def head() -> np.ndarray:
    """Return the flat indices (first axis fastest) of a ball that holds half of the voxels."""
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    square = sum(((a - (n - 1) / 2) / n) ** 2 for a, n in zip(axes, SHAPE, strict=True))
    return np.flatnonzero((square <= np.quantile(square, SHARE)).reshape(-1, order="F"))


def make_echoes(n: int) -> list[np.ndarray]:
    """Return noise in 16 bits, in nibabel's order."""
    rng = np.random.default_rng(0)
    return [np.asfortranarray(rng.integers(0, 2000, SHAPE, dtype=np.int16)) for _ in range(n)]


def measure(which: str, sizes: list[int], matrix: np.ndarray) -> None:
    """Resample in this process and print the cost (run as a child)."""
    voxels, watch = head(), Stopwatch()
    if which == "voxcloud":
        for n in set(sizes):  # compiled once per number of echoes, and kept on the disk
            SplineImages([np.zeros((8, 8, 8), np.int16)] * n, matrix, (8, 8, 8)).sample()
        for n in sizes:
            echoes = make_echoes(n)
            watch.start()
            images = SplineImages(echoes, matrix, SHAPE)
            watch.stop("coefficients")
            watch.start()
            for start in range(0, voxels.size, SLAB):
                images.sample(voxels[start : start + SLAB], order="F")
            watch.stop("values")
            del images
    else:
        places = matrix[:3, :3] @ np.array(np.unravel_index(voxels, SHAPE, order="F")) + matrix[:3, 3:]
        for echo in make_echoes(sum(sizes)):
            watch.start()
            coefficients = spline_filter(echo, order=3, output=np.float32, mode="mirror")
            map_coordinates(coefficients, places, order=3, mode="mirror", prefilter=False, output=np.float32)
            watch.stop("scipy")
    watch.report()


def main() -> None:
    """Measure in processes of their own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--echoes", type=int, nargs="+", default=[8, 6], help="of each contrast that moves")
    parser.add_argument("--scipy", type=int, default=2, help="echoes that scipy resamples")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=["voxcloud", "scipy"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    matrix = rigid_matrix((2.0, -1.3, 1.7), (2.0, -1.0, 1.5), [(n - 1) / 2 for n in SHAPE])
    if asked.measure:
        measure(asked.measure, asked.echoes, matrix)
        return
    with tempfile.TemporaryDirectory() as cache:
        sizes = [str(n) for n in asked.echoes]
        ours, theirs = [], []
        for _ in range(asked.repeats):
            ours.append(in_child(__file__, "--measure", "voxcloud", "--echoes", *sizes, cache=Path(cache)))
            theirs.append(in_child(__file__, "--measure", "scipy", "--echoes", str(asked.scipy), cache=Path(cache)))
    total = sum(asked.echoes)
    spent = {name: statistics.median(cost[name].cpu_s for cost in ours) for name in ("coefficients", "values")}
    peak = max(cost[name].peak_mb for cost in ours for name in spent)
    scipy = statistics.median(cost["scipy"].cpu_s for cost in theirs) / asked.scipy * total
    mine = sum(spent.values())
    print(f"{total} echoes of {SHAPE}, {head().size:,} voxels asked for, one rigid transform")
    print(f"voxcloud  {mine:7.2f} CPU-s (coefficients {spent['coefficients']:.2f}, values {spent['values']:.2f})")
    print(f"scipy     {scipy:7.2f} CPU-s ({scipy / mine:.0f} times as much)")
    print(f"peak      {peak:7.0f} MB, with the echoes of the larger contrast in 16 bits")


if __name__ == "__main__":
    sys.exit(main())
