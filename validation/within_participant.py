"""Midpoint template and volume change of simulated heads against their truth, beside other ways.

    python validation/within_participant.py [--voxel 2.0] [--seed 5] [--visits 5] [--quick] [--sharp LABELS.nii.gz]

A head of the simulator (``tests/space/longitudinal_head.py``) is scanned at several visits: SNR 50 in white matter,
each visit in its own position and on its own oblique grid. Then the last visit is scanned again with planted changes in
five balls: 2 % more volume, 2 % more volume of grey matter, 3 % more MTsat of all tissue, of grey and of white matter.
The whole chain runs anew for each. Changes are the last visit's against the mean of the others.

- voxcloud: ``midpoint_template``, ``volume_change``.
- greedy: every visit registered to the midpoint by ``register_deformable`` (local correlation).
- segmentation: every visit resampled to the midpoint and segmented by ``segment`` with the true fractions, blurred by
  4 mm, as priors; grey matter in the region.

With ``--sharp``, a discrete head model (BrainWeb's labels: 1 CSF, 2 GM, 3 WM, 4 to 6 fat, muscle and skin) takes the
place of the template, whose folds are an average of many people's.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from voxcloud.space.deformable import register_deformable
from voxcloud.space.midpoint import Midpoint, midpoint_template
from voxcloud.space.sampling import compose, jacobian_determinant, resample, sample
from voxcloud.space.segmentation import segment
from voxcloud.space.volume_change import volume_change

SIMULATOR = Path(__file__).parents[1] / "tests" / "space" / "longitudinal_head.py"
# Centre (mm, template) and radius.
BALLS = {
    "sensorimotor": ((-28.0, -20.0, 50.0), 12.0),
    "thalamus": ((-12.0, -18.0, 8.0), 9.0),
    "cerebellum": ((20.0, -60.0, -30.0), 14.0),
    "hippocampus": ((-26.0, -20.0, -14.0), 8.0),
    "occipital": ((12.0, -85.0, 5.0), 14.0),
}
FWHM_MM = 6.0


def simulator() -> Any:
    """Return the module with the simulator of the tests."""
    spec = importlib.util.spec_from_file_location("longitudinal_head", SIMULATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["longitudinal_head"] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, eq=False)
class Study:
    """A head, its visits, and the last visit with planted changes."""

    head: Any
    poses: list[np.ndarray]
    affines: list[np.ndarray]
    images: list[np.ndarray]
    changed: dict[str, np.ndarray]
    growths: dict[str, Any]
    balls: dict[str, np.ndarray]
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true on the midpoint's grid: fractions, regions, log-Jacobians of the planted changes."""

    fractions: np.ndarray
    mask: np.ndarray
    balls: dict[str, np.ndarray]
    log_jacobian: dict[str, np.ndarray]


def sharp_head(tools: Any, path: Path) -> Any:
    """Return a head of discrete labels."""
    import nibabel as nib

    from voxcloud.testing.raw_head import _tissues, person_head

    image = nib.load(path)
    labels = np.asarray(image.dataobj).astype(np.int16)
    layers = [labels == 2, labels == 3, labels == 1, np.isin(labels, (4, 5, 6))]
    coefficients = np.ascontiguousarray(np.stack(layers, axis=-1), dtype=np.float32)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = [-90.0, -126.0, -72.0]
    return person_head(_tissues(coefficients, affine, (0.0, -18.0, 10.0)), 0, "01")


def make_study(tools: Any, head: Any, voxel_mm: float, visits: int, seed: int) -> Study:
    """Scan the head."""
    points, affine = tools.source_grid()
    fractions, _ = head.sample(points.reshape(-1, 3))
    fractions = fractions.reshape(*points.shape[:3], -1)
    share = fractions / np.maximum(fractions.sum(axis=-1, keepdims=True), 0.01)
    balls = {name: tools.ball(points, *ball) for name, ball in BALLS.items()}
    where = sum(balls.values())
    rng = np.random.default_rng(seed)
    poses = [tools.pose(head, rng) for _ in range(visits)]
    grids = [tools.head_grid(voxel_mm, (3 * k, -2 * k, 4 * k - 8), (k, 0, -k)) for k in range(visits)]
    images = [tools.scan(head, p, g, seed=seed + k) for k, (p, g) in enumerate(zip(poses, grids, strict=True))]
    growths = {
        "volume +2 %": tools.grow(0.02 * where, affine),
        "GM volume +2 %": tools.grow(0.02 * where * fractions[..., 0], affine),
    }
    last: dict[str, dict[str, Any]] = {name: {"growth": growth} for name, growth in growths.items()}
    last["MTsat +3 %"] = {"intensity": (0.03 * where, affine)}
    last["MTsat +3 % in GM"] = {"intensity": (0.03 * where * share[..., 0], affine)}
    last["MTsat +3 % in WM"] = {"intensity": (0.03 * where * share[..., 1], affine)}
    at = {"seed": seed + visits - 1}
    changed = {name: tools.scan(head, poses[-1], grids[-1], **at, **change) for name, change in last.items()}
    return Study(head, poses, [g.affine for g in grids], images, changed, growths, balls, affine)


def truth_on(study: Study, midpoint: Midpoint) -> Truth:
    """Return the truth on the midpoint's grid."""
    growth = study.growths["volume +2 %"]
    shape = midpoint.image.shape
    points = compose(midpoint.affine, shape, (np.linalg.inv(study.poses[0]) @ midpoint.matrices[0],)).reshape(-1, 3)
    fractions, _ = study.head.sample(np.ascontiguousarray(points, dtype=np.float64))
    fractions = fractions.reshape(*shape, -1)
    mask = ndimage.binary_erosion(fractions[..., :3].sum(axis=-1) > 0.9)

    def seen(field: np.ndarray) -> np.ndarray:
        return np.asarray(growth.at(field.astype(np.float32), points)).reshape(shape)

    logs = {name: np.log(seen(g.jacobian)) for name, g in study.growths.items()}
    return Truth(fractions, mask, {name: seen(ball) for name, ball in study.balls.items()}, logs)


Way = Callable[[Midpoint, Sequence[np.ndarray], Study, Truth], list[np.ndarray]]


def by_voxcloud(midpoint: Midpoint, images: Sequence[np.ndarray], study: Study, truth: Truth) -> list[np.ndarray]:
    """Return log-Jacobians of all visits."""
    found = volume_change(midpoint, images, study.affines, truth.mask)
    return [np.log(found.jacobian(k, midpoint.affine, truth.mask.shape)) for k in range(len(images))]


def by_greedy(midpoint: Midpoint, images: Sequence[np.ndarray], study: Study, truth: Truth) -> list[np.ndarray]:
    """Return log-Jacobians of all visits by deformable registration to the midpoint."""
    fixed = np.nan_to_num(midpoint.image)
    mask = ndimage.binary_dilation(truth.mask, iterations=2)
    found = []
    for image, affine, matrix in zip(images, study.affines, midpoint.matrices, strict=True):
        moving = np.nan_to_num(image)
        way = register_deformable(fixed, midpoint.affine, moving, affine, fixed_mask=mask, initial=matrix)
        found.append(np.log(jacobian_determinant(way.displacement, midpoint.affine)))
    return found


def by_segmentation(midpoint: Midpoint, images: Sequence[np.ndarray], study: Study, truth: Truth) -> list[np.ndarray]:
    """Return the logarithm of grey matter of each visit relative to their mean: fractions, not Jacobians."""
    voxel_mm = [float(midpoint.affine[a, a]) for a in range(3)]
    sigma = 4.0 / 2.355 / voxel_mm[0]
    priors = {
        name: np.clip(ndimage.gaussian_filter(truth.fractions[..., k], sigma), 0, 1)
        for k, name in enumerate(("GM", "WM", "CSF"))
    }
    mask = ndimage.binary_dilation(truth.mask, iterations=2)
    shape = midpoint.image.shape
    found = []
    for image, affine, matrix in zip(images, study.affines, midpoint.matrices, strict=True):
        (seen,) = resample([image], affine, midpoint.affine, shape, (matrix,))
        found.append(segment(seen, priors, mask=mask, voxel_mm=voxel_mm).gm)
    return found


WAYS: dict[str, Way] = {"voxcloud": by_voxcloud, "greedy": by_greedy, "segmentation": by_segmentation}


def regional(field: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted mean in percent."""
    return 100.0 * float((field * weight).sum() / weight.sum())


def changes(way: str, fields: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Return every visit's volume in a region, as a change in percent."""
    if way == "segmentation":
        volumes = np.array([float((f * (weight > 0.1 * weight.max())).sum()) for f in fields])
        return np.asarray(100.0 * np.log(volumes / volumes.mean()))
    return np.array([regional(f, weight) for f in fields])


def last_against_others(values: np.ndarray) -> float:
    """Return the last visit's value less the mean of the others."""
    return float(values[-1] - values[:-1].mean())


def weights(way: str, truth: Truth, planted: str = "") -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the weights of the regions' tissue, and those of the regions with 6 mm around them."""
    gm, wm = (truth.fractions[..., k] * truth.mask for k in (0, 1))
    tissue = gm if way == "segmentation" or planted.startswith("GM") else gm + wm
    reach = 9 if truth.mask.shape[0] > 70 else 5  # voxels of 2 or 3 mm
    wide = {name: ndimage.grey_dilation(ball, size=reach) * (gm + wm) for name, ball in truth.balls.items()}
    return {name: ball * tissue for name, ball in truth.balls.items()}, wide


def table(study: Study, way: str) -> None:
    """Print what one way makes of noise alone and of the planted changes."""
    start = time.perf_counter()
    midpoint = midpoint_template(study.images, study.affines)
    truth = truth_on(study, midpoint)
    fields = WAYS[way](midpoint, study.images, study, truth)
    spent = time.perf_counter() - start
    own, _ = weights(way, truth)
    spread = ", ".join(f"{changes(way, fields, weight).std(ddof=1):.2f}" for weight in own.values())
    sigma = FWHM_MM / 2.355 / float(midpoint.affine[0, 0])
    gm = truth.fractions[..., 0] * truth.mask
    maps = [f if way == "segmentation" else gm * np.exp(f) for f in fields]
    smooth = np.stack([ndimage.gaussian_filter(m, sigma) for m in maps])
    here = ndimage.gaussian_filter(gm, sigma) > 0.2
    voxels = 100 * float(np.median(smooth[:, here].std(axis=0, ddof=1) / smooth[:, here].mean(axis=0)))
    print(f"\n### {way} ({spent / len(fields):.0f} s per visit, wall)\n")
    print(f"- SD over visits without change: regions {spread} %; smoothed GM {voxels:.2f} %")
    print("\n| planted | " + " | ".join(BALLS) + " | with 6 mm around |\n|---|" + "---|" * (len(BALLS) + 1))
    for name, image in study.changed.items():
        images = [*study.images[:-1], image]
        other = midpoint_template(images, study.affines)
        moved = truth_on(study, other)
        found = WAYS[way](other, images, study, moved)
        (before, wide_before), (after, wide_after) = weights(way, truth, name), weights(way, moved, name)
        logs = moved.log_jacobian.get(name)
        cells, wide = [], []
        for region in BALLS:
            change = last_against_others(changes(way, found, after[region]))
            change -= last_against_others(changes(way, fields, before[region]))
            cells.append(f"{change:+.2f}" if logs is None else f"{change:+.2f} ({regional(logs, after[region]):.2f})")
            if logs is not None and way != "segmentation":
                got = last_against_others(changes(way, found, wide_after[region]))
                got -= last_against_others(changes(way, fields, wide_before[region]))
                wide.append(got / regional(logs, wide_after[region]))
        cells.append(f"{np.mean(wide):.2f} of the truth" if wide else "")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if way == "voxcloud":
        intensity(study)


def intensity(study: Study) -> None:
    """Print by how much MTsat seems to change where only volume did, less what noise alone does."""
    rows: dict[str, list[np.ndarray]] = {"not warped": [], "warped": []}
    for last in (study.images[-1], study.changed["volume +2 %"]):
        images = [*study.images[:-1], last]
        midpoint = midpoint_template(images, study.affines)
        truth = truth_on(study, midpoint)
        found = volume_change(midpoint, images, study.affines, truth.mask)
        shape = truth.mask.shape
        tissue = truth.fractions[..., 0] + truth.fractions[..., 1] > 0.9
        for name, row in rows.items():
            seen = []
            for k, (image, affine) in enumerate(zip(images, study.affines, strict=True)):
                places = compose(midpoint.affine, shape)
                if name == "warped":
                    places = places + found.displacement(k, midpoint.affine, shape)
                points = places @ midpoint.matrices[k][:3, :3].T + midpoint.matrices[k][:3, 3]
                seen.append(sample([image], affine, points)[0])
            row.append(np.array([_relative(seen, ball * tissue) for ball in truth.balls.values()]))
    for name, (still, changed) in rows.items():
        cells = ", ".join(f"{value:+.2f}" for value in changed - still)
        print(f"- MTsat after volume +2 %, {name}: {cells} %", flush=True)


def _relative(seen: list[np.ndarray], weight: np.ndarray) -> float:
    """Return the last visit's mean in a region relative to that of the others, in percent."""
    means = [float(np.nansum(values * weight) / weight[np.isfinite(values)].sum()) for values in seen]
    return 100.0 * (means[-1] / float(np.mean(means[:-1])) - 1.0)


def movement(study: Study) -> None:
    """Print the errors of the movements between visits."""
    midpoint = midpoint_template(study.images, study.affines)
    points = np.random.default_rng(0).uniform([-60, -95, -30], [60, 65, 70], (2000, 3))
    head = np.c_[points, np.ones(len(points))].T
    errors = []
    for i in range(len(study.poses)):
        for j in range(i):
            wrong = midpoint.matrices[j] @ np.linalg.inv(midpoint.matrices[i])
            wrong -= study.poses[j] @ np.linalg.inv(study.poses[i])
            errors.append(float(np.sqrt(((wrong @ study.poses[i] @ head)[:3] ** 2).sum(axis=0)).mean()))
    report = midpoint.report
    print(
        f"- movement between visits, mean error over the brain: {np.mean(errors):.4f} mm, worst pair "
        f"{max(errors):.4f} mm; {report['iterations']} passes, {report['cpu_s']:.1f} CPU-s"
    )
    print(f"- agreement of each visit: {', '.join(str(v['agreement']) for v in report['visits'])}", flush=True)


def strangers(tools: Any, voxel_mm: float) -> None:
    """Print the agreement of visits of one head and of another."""
    print("\n| visits of | SNR | agreement |\n|---|---|---|")
    for snr in (50, 15):
        for who in ("AA", "AB", "AC", "AD", "AAAB", "AAABB"):
            rng = np.random.default_rng(11)
            images, affines = [], []
            for k, name in enumerate(who):
                head = tools.person(name)
                grid = tools.head_grid(voxel_mm, (2 * k, 0, -2 * k))
                images.append(tools.scan(head, tools.pose(head, rng), grid, seed=k, fine=1, noise=tools.WHITE / snr))
                affines.append(grid.affine)
            found = midpoint_template(images, affines).report["visits"]
            cells = ", ".join(f"{visit['agreement']:.2f}" for visit in found)
            print(f"| {who} | {snr} | {cells} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel", type=float, default=2.0, help="voxel size, mm")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without the other ways")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), help="these ways only")
    parser.add_argument("--no-strangers", action="store_true", help="without the table of other heads")
    parser.add_argument("--sharp", type=Path, help="labels of a discrete head model in MNI space, 1 mm")
    asked = parser.parse_args()
    tools = simulator()
    head = tools.person() if asked.sharp is None else sharp_head(tools, asked.sharp)
    study = make_study(tools, head, asked.voxel, asked.visits, asked.seed)
    print(f"## {'template' if asked.sharp is None else asked.sharp.name}, {asked.voxel:g} mm, {asked.visits} visits\n")
    movement(study)
    for way in asked.ways if asked.ways is not None else ["voxcloud"] if asked.quick else WAYS:
        table(study, way)
    if not asked.no_strangers:
        strangers(tools, max(asked.voxel, 3.0))


if __name__ == "__main__":
    main()
