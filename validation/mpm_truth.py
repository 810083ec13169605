"""Maps of simulated raw data against their truth: bias and spread of each map, with and without what corrects it.

    python validation/mpm_truth.py [--resolution 1 0.8] [--questions-at 2] [--seed 0]

A head with known R1, R2*, MTsat and B1+ is scanned (``voxcloud.testing.raw``) and goes through voxcloud's own steps:
reading, registration, resampling, B1 map, maps. The same signals are then made into maps in other ways: without the B1
map, by ordinary least squares, with the preset of older papers, with the other MTsat correction. Then three questions
of their own: B1+ raised by a tenth, a head that moved between contrasts, and the price of interpolation. One process
for all of it; a few minutes at 1 mm.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxcloud.bids.acquisitions import MpmSession
from voxcloud.bids.mpm import read_mpm
from voxcloud.bids.sidecars import Metadata
from voxcloud.config.mpm import Mpm
from voxcloud.pipeline.mapping.b1 import SessionB1, map_b1, map_receive
from voxcloud.pipeline.mapping.signals import SessionSignals, gather_signals
from voxcloud.pipeline.mapping.step import make_maps
from voxcloud.testing.raw import SimulatedRaw, simulate_raw
from voxcloud.testing.raw_geometry import Movement

MAPS = {"R1map": "1/s", "R2starmap": "1/s", "MTsat": "p.u."}
TISSUES = ("WM", "GM")
# Voxels that are one tissue: partial volume would tell of interpolation and not of the maps.
PURE = 0.95
VARIANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "hmri-1.0": ({}, True),
    "no B1 map": ({}, False),
    "OLS (0 weighted passes)": ({"weighted_passes": 0}, True),
    "hmri-0.x": ({"preset": "hmri-0.x"}, True),
    "MTsat by lipp": ({"mtsat_correction": "lipp"}, True),
}
MOVED = Movement((2.0, 0.0, 0.0), (0.0, 2.0, 0.0))


@dataclass(frozen=True, eq=False)
class Scanned:
    """A simulated session on the way to its maps, and its truth in the head's voxels."""

    session: MpmSession
    signals: SessionSignals
    b1: SessionB1 | None
    receive: Mapping[str, np.ndarray] | None
    truth: Mapping[str, np.ndarray]

    def maps(self, with_b1: bool = True, **changes: Any) -> dict[str, np.ndarray]:
        """Make its maps in one way."""
        session = self.session if with_b1 else replace(self.session, b1=None)
        return make_maps(session, settings(**changes), self.signals, self.b1 if with_b1 else None, self.receive)[0]


@dataclass(frozen=True)
class Row:
    """How one map of one tissue differs from the truth."""

    variant: str
    map: str
    tissue: str
    truth: float
    bias: float
    sd: float


def settings(**changes: Any) -> dict[str, Any]:
    """Return the settings that a unit has."""
    return Mpm(**changes).model_dump()


def scan(folder: Path, session: str = "1", **changes: Any) -> Scanned:
    """Read a simulated data set's session up to signals and B1 map."""
    found = read_mpm(Metadata(folder), "01", session)
    mpm = settings(**changes)
    signals = gather_signals(found, mpm["registration"])
    truth = {
        name: _volume(folder / "truth" / f"sub-01_ses-{session}_{name}.nii.gz").reshape(-1, order="F")[
            signals.positions
        ]
        for name in (*MAPS, "TB1map", *(f"label-{tissue}_probseg" for tissue in TISSUES))
    }
    return Scanned(found, signals, map_b1(found, signals, mpm), map_receive(found, signals, mpm), truth)


def _volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def compare(scanned: Scanned, variant: str, changes: Mapping[str, Any], with_b1: bool) -> Iterator[Row]:
    """Make maps in one way and yield how they differ from the truth."""
    maps = scanned.maps(with_b1, **changes)
    for tissue in TISSUES:
        inside = scanned.truth[f"label-{tissue}_probseg"] > PURE
        for name in MAPS:
            true, difference = scanned.truth[name][inside], maps[name][inside] - scanned.truth[name][inside]
            yield Row(
                variant, name, tissue, float(np.median(true)), float(np.nanmedian(difference)), robust_sd(difference)
            )


def robust_sd(values: np.ndarray) -> float:
    """Return the SD that a normal distribution with these quartiles has: a few voxels at an edge do not make it."""
    low, high = np.nanpercentile(values, (25, 75))
    return float((high - low) / 1.349)


def raised_b1(folder: Path, resolution: float, seed: int) -> dict[tuple[str, str], float]:
    """Return by how much (part) each map's median changes when B1+ is raised by a tenth and scanned anew."""
    return _medians_apart(
        simulate_raw(folder / "b1-1.0", resolution_mm=resolution, seed=seed, participants=1, sessions=1, motion=False),
        simulate_raw(
            folder / "b1-1.1",
            resolution_mm=resolution,
            seed=seed,
            participants=1,
            sessions=1,
            motion=False,
            b1_scale=1.1,
        ),
    )


def _medians_apart(first: SimulatedRaw, second: SimulatedRaw) -> dict[tuple[str, str], float]:
    scans = [scan(made.folder) for made in (first, second)]
    maps = [s.maps() for s in scans]
    found = {}
    for tissue in TISSUES:
        for name in MAPS:
            medians = [
                float(np.nanmedian(m[name][s.truth[f"label-{tissue}_probseg"] > PURE]))
                for m, s in zip(maps, scans, strict=True)
            ]
            found[name, tissue] = medians[1] / medians[0] - 1.0
    return found


def moved_head(
    folder: Path, resolution: float, seed: int, *, noise: float, pairs: bool
) -> dict[tuple[str, str], float]:
    """Return the SD (part of the median) by which maps differ when the head moved by 2 mm and 2 degrees.

    ``pairs``: receive sensitivities were measured with each contrast; the coil stays when the head moves.
    """
    common: dict[str, Any] = {
        "resolution_mm": resolution,
        "seed": seed,
        "participants": 1,
        "sessions": 1,
        "noise": noise,
        "receive_pairs": pairs,
    }
    still = simulate_raw(folder / "still", **common, movements={})
    moved = simulate_raw(folder / "moved", **common, movements={"T1w": MOVED, "MTw": MOVED, "B1": MOVED})
    scans = [scan(made.folder) for made in (still, moved)]
    volumes = [{name: s.signals.volume(values) for name, values in s.maps().items() if name in MAPS} for s in scans]
    found = {}
    for tissue in TISSUES:
        inside = scans[0].signals.volume(scans[0].truth[f"label-{tissue}_probseg"]) > PURE
        for name in MAPS:
            first, second = (v[name][inside] for v in volumes)
            found[name, tissue] = robust_sd(second - first) / float(np.nanmedian(first))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=float, nargs="*", default=[1.0], help="voxel sizes of the table, mm")
    parser.add_argument("--questions-at", type=float, default=2.0, help="voxel size of the three questions, mm")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for resolution in asked.resolution:
        with tempfile.TemporaryDirectory() as name:
            print_table(Path(name), resolution, asked.seed)
    with tempfile.TemporaryDirectory() as name:
        print_questions(Path(name), asked.questions_at, asked.seed)


def print_table(folder: Path, resolution: float, seed: int) -> None:
    """Print bias and spread of each map, made in each way."""
    simulate_raw(folder / "main", resolution_mm=resolution, seed=seed, participants=1, sessions=1)
    scanned = scan(folder / "main")
    print(f"\n{resolution:g} mm, seed {seed}, {scanned.signals.positions.size:,} voxels in the head\n")
    print("| made by | map | tissue | truth | bias | SD | bias, % |\n|---|---|---|---|---|---|---|")
    for variant, (changes, with_b1) in VARIANTS.items():
        for row in compare(scanned, variant, changes, with_b1):
            print(
                f"| {row.variant} | {row.map} ({MAPS[row.map]}) | {row.tissue} | {row.truth:.3f} | {row.bias:+.4f} | "
                f"{row.sd:.4f} | {100 * row.bias / row.truth:+.2f} |",
                flush=True,
            )


def print_questions(folder: Path, resolution: float, seed: int) -> None:
    """Print the answers to the three questions."""
    print(f"\n{resolution:g} mm, seed {seed}")
    asked = {
        "B1+ raised by a tenth: change of the median, %": lambda: raised_b1(folder, resolution, seed),
        "Head moved by 2 mm and 2 degrees, no noise, receive sensitivities measured: SD, %": lambda: moved_head(
            folder / "quiet", resolution, seed, noise=0.0, pairs=True
        ),
        "The same without receive sensitivities": lambda: moved_head(
            folder / "alone", resolution, seed, noise=0.0, pairs=False
        ),
        "The same with sensitivities and noise": lambda: moved_head(
            folder / "noisy", resolution, seed, noise=0.015, pairs=True
        ),
    }
    for title, answer in asked.items():
        print(f"\n{title}")
        for (map_name, tissue), part in answer().items():
            print(f"    {map_name:<10} {tissue}  {100 * part:+.3f}", flush=True)


if __name__ == "__main__":
    main()
