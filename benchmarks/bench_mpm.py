"""Multi-parameter maps in voxels per CPU-second beside batched numpy, and beside what no program can avoid.

    python benchmarks/bench_mpm.py [--repeats 3] [--voxels 491520]

22 echoes (8 PDw, 8 T1w, 6 MTw), float32, slab by slab (61,440 voxels: a row of a 256 x 240 slice after another). Every
measurement runs in a process of its own with one thread; compilation is measured apart. "numpy" solves the weighted
normal equations of all voxels of a batch at once; its maps have no errors. "logarithms only" takes ln of the 22 values
and adds them up, as the kernel does; "copy only" reads the echoes and writes as many maps.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import Stopwatch, cpu_seconds, in_child, median

SLAB = 61_440
BATCH = 16_384
TIMES = np.array([2.34e-3 * (i + 1) for i in range(8)])
CONTRASTS = {"PDw": (8, 6.0), "T1w": (8, 21.0), "MTw": (6, 6.0)}
TR_S = 0.0245
N_MAPS = 8
Signals = dict[str, np.ndarray]


def simulate(n: int) -> tuple[Signals, np.ndarray]:
    """Return noisy echoes of n voxels by contrast, and B1."""
    rng = np.random.default_rng(1)
    r2star, b1 = rng.uniform(10, 40, n), rng.uniform(0.8, 1.2, n)
    levels = {"PDw": rng.uniform(800, 1000, n), "T1w": rng.uniform(700, 900, n), "MTw": rng.uniform(500, 700, n)}
    signals = {}
    for name, (echoes, _) in CONTRASTS.items():
        pure = levels[name] * np.exp(-np.outer(TIMES[:echoes], r2star))
        signals[name] = np.abs(pure + rng.normal(0, 10, pure.shape)).astype(np.float32)
    return signals, b1.astype(np.float32)


def numpy_estatics(signals: Signals, passes: int) -> np.ndarray:
    """Return (4, v): ln S0 of three contrasts and R2*, by batched normal equations."""
    x = np.zeros((22, 4))
    row = 0
    for c, (echoes, _) in enumerate(CONTRASTS.values()):
        x[row : row + echoes, c], x[row : row + echoes, 3] = 1.0, -TIMES[:echoes]
        row += echoes
    y = np.log(np.maximum(np.concatenate(list(signals.values())), 1.0).astype(np.float64))
    found = np.linalg.pinv(x) @ y
    outer = (x[:, :, None] * x[:, None, :]).reshape(22, 16)
    for _ in range(passes):
        w = np.exp(2.0 * (x @ found))
        normal = (w.T @ outer).reshape(-1, 4, 4)
        found = np.linalg.solve(normal, ((w * y).T @ x)[:, :, None])[:, :, 0].T
    return found


def numpy_maps(signals: Signals, b1: np.ndarray) -> np.ndarray:
    """Return R2*, R1, A and MTsat, without errors."""
    found = numpy_estatics(signals, 1)
    p, s, m = np.exp(found[:3])
    alpha, beta, gamma = (np.deg2rad(a) for _, a in CONTRASTS.values())

    def solve(t_p: np.ndarray, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r1 = 0.5 * (p * t_p - s * t_s) / TR_S / (s / t_s - p / t_p)
        return r1, s * p * (t_p / t_s - t_s / t_p) / (p * t_p - s * t_s)

    r1, a = solve(2 * np.tan(0.5 * alpha * b1), 2 * np.tan(0.5 * beta * b1))
    r1_one, a_one = solve(2 * np.tan(0.5 * alpha), 2 * np.tan(0.5 * beta))
    mtsat = 100 * ((a_one * gamma / m - 1) * r1_one * TR_S - 0.5 * gamma**2) * 0.6 / (1 - 0.4 * b1)
    limits = ((0, 2), (-1e5, 1e5), (-5, 5), (-1e4, 1e4))
    maps = (r1, a, mtsat, found[3])
    return np.stack([np.clip(v, *limit).astype(np.float32) for v, limit in zip(maps, limits, strict=True)])


def batches(signals: Signals, b1: np.ndarray, size: int) -> list[tuple[Signals, np.ndarray]]:
    """Cut voxels into parts, each contiguous."""
    return [
        ({k: np.ascontiguousarray(v[:, i : i + size]) for k, v in signals.items()}, b1[i : i + size])
        for i in range(0, b1.size, size)
    ]


def timed(watch: Stopwatch, name: str, work: Callable[[Signals, np.ndarray], object], size: int, n: int) -> None:
    """Carry out a piece of work on n voxels, warm."""
    parts = batches(*simulate(n), size)
    work(*parts[0])
    watch.start()
    for part in parts:
        work(*part)
    watch.stop(name)


def measure_numpy(watch: Stopwatch, n: int) -> None:
    """Batched numpy."""
    timed(watch, "numpy OLS", lambda s, _: numpy_estatics(s, 0), BATCH, n)
    timed(watch, "numpy WLS1", lambda s, _: numpy_estatics(s, 1), BATCH, n)
    timed(watch, "numpy maps", numpy_maps, BATCH, n)


def measure_voxcloud(watch: Stopwatch, n: int) -> None:
    """Compiled kernels."""
    from voxcloud.qmri.log_linear import EchoPlan, fit_block
    from voxcloud.qmri.maker import MapMaker
    from voxcloud.qmri.protocol import SeriesProtocol

    plan = EchoPlan.of({k: TIMES[:echoes].tolist() for k, (echoes, _) in CONTRASTS.items()})
    for passes, name in enumerate(("voxcloud OLS", "voxcloud WLS1")):
        timed(watch, name, lambda s, _, passes=passes: fit_block(list(s.values()), plan, passes, 1.0), SLAB, n)
    contrasts = {
        k: SeriesProtocol(k, TIMES[:echoes].tolist(), float(np.deg2rad(degrees)), TR_S)
        for k, (echoes, degrees) in CONTRASTS.items()
    }
    maker = MapMaker(contrasts, with_b1=True)
    timed(watch, "voxcloud maps and errors", maker.block, SLAB, n)
    alone = MapMaker(contrasts, with_b1=True, single_contrasts=True)
    timed(watch, "... and R2* of each contrast", alone.block, SLAB, n)


def measure_floor(watch: Stopwatch, n: int) -> None:
    """What no program can avoid."""
    from numba import njit

    from voxcloud.elementary import FUSED, log

    @njit(**(FUSED | {"cache": False}))
    def logarithms(images, total):  # type: ignore[no-untyped-def]
        for start in range(0, total.size, 128):
            for e in range(images.shape[0]):
                for i in range(128):
                    at = np.uint64(start) + np.uint64(i)
                    total[at] += log(np.float64(images[e, at]))

    total, out = np.zeros(SLAB), np.empty((N_MAPS, SLAB), np.float32)
    stack = {k: np.empty((e, SLAB), np.float32) for k, (e, _) in CONTRASTS.items()}

    def only_logarithms(signals: Signals, _: np.ndarray) -> None:
        for images in signals.values():
            logarithms(images, total)

    def only_copy(signals: Signals, _: np.ndarray) -> None:
        for k, images in signals.items():
            np.copyto(stack[k], images)
        out.fill(0.0)

    timed(watch, "logarithms only", only_logarithms, SLAB, n)
    timed(watch, "copy only", only_copy, SLAB, n)
    timed(watch, "logarithms only, numpy", lambda s, _: [np.log(v, dtype=np.float64) for v in s.values()], SLAB, n)


MEASURES: dict[str, Callable[[Stopwatch, int], None]] = {
    "numpy": measure_numpy,
    "voxcloud": measure_voxcloud,
    "floor": measure_floor,
}


def first_block() -> float:
    """Return the CPU seconds of the first block in a process: import, compilation or its cache, and the block."""
    from voxcloud.qmri.maker import MapMaker
    from voxcloud.qmri.protocol import SeriesProtocol

    before = cpu_seconds()
    contrasts = {
        k: SeriesProtocol(k, TIMES[:echoes].tolist(), float(np.deg2rad(degrees)), TR_S)
        for k, (echoes, degrees) in CONTRASTS.items()
    }
    MapMaker(contrasts, with_b1=True).block(*simulate(128))
    return cpu_seconds() - before


def differences() -> tuple[float, float]:
    """Return the largest differences of R2* and R1 (1/s) between both."""
    from voxcloud.qmri.maker import MapMaker
    from voxcloud.qmri.protocol import SeriesProtocol

    signals, b1 = simulate(BATCH)
    contrasts = {
        k: SeriesProtocol(k, TIMES[:echoes].tolist(), float(np.deg2rad(degrees)), TR_S)
        for k, (echoes, degrees) in CONTRASTS.items()
    }
    found, plain = MapMaker(contrasts, with_b1=True).block(signals, b1), numpy_maps(signals, b1)
    return (
        float(np.abs(found["R2starmap"] - plain[3]).max()),
        float(np.abs(found["R1map"] - plain[0]).max()),
    )


def child(what: str, n: int) -> None:
    """Carry out one measurement in this process."""
    warnings.simplefilter("error")
    watch = Stopwatch()
    if what == "compile":
        watch.start()
        first_block()
        watch.stop("first block")
    else:
        MEASURES[what](watch, n)
    watch.report()


def compare(repeats: int, n: int, cache: Path) -> None:
    """Print the table."""
    print(f"{n:,} voxels, 22 echoes, one thread; median of {repeats}\n")
    runs: dict[str, list[dict[str, object]]] = {what: [] for what in MEASURES}
    for _ in range(repeats):
        for what, found in runs.items():
            found.append(in_child(__file__, "--child", what, "--voxels", str(n), cache=cache))
    costs = {name: cost for found in runs.values() for name, cost in median(found).items()}  # type: ignore[arg-type]
    for name, cost in costs.items():
        print(f"  {name:30} {n / cost.cpu_s / 1e3:9,.0f} k voxels per CPU-s {1e9 * cost.cpu_s / n:8.0f} ns per voxel")
    for ours, theirs in (
        ("voxcloud OLS", "numpy OLS"),
        ("voxcloud WLS1", "numpy WLS1"),
        ("voxcloud maps and errors", "numpy maps"),
    ):
        print(f"  {ours + ' beside ' + theirs:48} {costs[theirs].cpu_s / costs[ours].cpu_s:6.1f} times as fast")
    for below in ("logarithms only", "copy only"):
        print(
            f"  {'voxcloud WLS1 / ' + below:48} {costs['voxcloud WLS1'].cpu_s / costs[below].cpu_s:6.1f} times the time"
        )
    os.environ["NUMBA_CACHE_DIR"] = str(cache / "numba")
    for name in ("compiled", "from the cache"):
        first = in_child(__file__, "--child", "compile", cache=cache)["first block"]
        print(f"  first block of a process, {name:15} {first.cpu_s:6.1f} CPU-s")
    del os.environ["NUMBA_CACHE_DIR"]
    print("  largest difference from numpy in float32 maps: R2* {:.1e}, R1 {:.1e} 1/s".format(*differences()))


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--voxels", type=int, default=8 * SLAB)
    parser.add_argument("--child", choices=[*MEASURES, "compile"], default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    n = max(1, asked.voxels // SLAB) * SLAB
    if asked.child is not None:
        child(asked.child, n)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(asked.repeats, n, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
