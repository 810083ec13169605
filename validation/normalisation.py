"""Normalisation to the template, measured on anatomy that is not the template's: residuals in mm, Dice, CPU-s, memory.

    python validation/normalisation.py [--resolution 3|2] [--engines greedy,dipy] [--channels head,image,tissue]
    python validation/normalisation.py --failures

A participant is another anatomy (the BrainWeb phantom and colin27, where the data folder has them: ``VOXCLOUD_DATA``),
as it is and deformed by a known smooth field and an affine: W. Both are normalised apart. A point x of the template
then lies at p(x) in the anatomy and at q(x) in the deformed one, and W(p(x)) should be q(x): what is left, in mm over
the brain, is the residual. Dice compares the participant's tissue, carried to the template, with the template's.
``head``: the image with skull and scalp; ``image``: the brain alone, where there is a segmentation; ``tissue``: the
brain and its grey and white matter (dipy takes one channel). ``--failures`` prints what good and bad cases report.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nilearn import datasets
from scipy import ndimage

from voxcloud.space.affine import rigid_matrix
from voxcloud.space.engines import MODULES, Schedule
from voxcloud.space.normalise import Normalisation, normalise
from voxcloud.space.registration import averaged
from voxcloud.space.sampling import compose, sample

DATA = Path(os.environ.get("VOXCLOUD_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
# MTsat (p.u.) of BrainWeb's labels: air, fluid, grey, white, fat, muscle, skin, skull, glia, connective.
MTSAT = (0.0, 0.02, 0.85, 1.65, 0.3, 1.2, 0.7, 0.05, 1.2, 0.8)
NOISE = 0.06
TISSUES = ("GM", "WM", "CSF")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """An image of a head and its tissue; ``tissue`` is empty where nobody has segmented it."""

    name: str
    image: np.ndarray
    affine: np.ndarray
    tissue: dict[str, np.ndarray]
    brain: np.ndarray


@dataclass(frozen=True, eq=False)
class Template:
    """The template of nilearn with its tissue."""

    channels: dict[str, np.ndarray]
    affine: np.ndarray
    mask: np.ndarray

    @property
    def thinned(self) -> np.ndarray:
        """Every third voxel of the brain along each axis."""
        thin = np.zeros_like(self.mask)
        thin[::3, ::3, ::3] = self.mask[::3, ::3, ::3]
        return thin


def load_template(resolution: int) -> Template:
    """Return the template at a resolution in mm."""
    t1, gm, wm = (
        load(resolution=resolution)
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    image, grey, white = (np.asarray(i.get_fdata(dtype=np.float32)) for i in (t1, gm, wm))
    mask = ndimage.binary_fill_holes(image > 0.1 * image.max())
    grey, white = np.clip(grey, 0, 1), np.clip(white, 0, 1)
    fluid = np.clip(mask - grey - white, 0, 1).astype(np.float32)
    return Template({"image": image, "GM": grey, "WM": white, "CSF": fluid}, np.asarray(t1.affine), np.asarray(mask))


def brainweb(voxel_mm: float) -> Anatomy | None:
    """Return the BrainWeb phantom as an MTsat map with scalp and skull, and its tissue."""
    place = DATA / "phantom" / "brainweb_discrete_1mm.nii.gz"
    if not place.exists():
        return None
    stored = nib.load(place)
    labels = np.asanyarray(stored.dataobj)
    value = np.asarray(MTSAT, np.float32)[labels]
    # Blurred as an image of this voxel size is, so that there is partial volume.
    blur = [ndimage.gaussian_filter(a.astype(np.float32), 0.4 * voxel_mm) for a in _one_hot(labels)]
    image = ndimage.gaussian_filter(value, 0.4 * voxel_mm)
    maps = [_thinned(a, np.asarray(stored.affine), voxel_mm) for a in [image, *blur]]
    (image, affine), tissue = maps[0], {name: m[0] for name, m in zip(TISSUES, maps[1:], strict=True)}
    brain = ndimage.binary_fill_holes(tissue["GM"] + tissue["WM"] > 0.5)
    brain = ndimage.binary_closing(brain, iterations=2)
    return Anatomy("brainweb", image, affine, tissue, np.asarray(brain))


def _one_hot(labels: np.ndarray) -> list[np.ndarray]:
    return [(labels == 2), (labels == 3) | (labels == 8), (labels == 1)]


def _thinned(image: np.ndarray, affine: np.ndarray, voxel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image read at every voxel_mm."""
    shape = [int(n / voxel_mm) for n in image.shape]
    grid = affine @ np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    points = compose(grid, shape)
    return sample([image.astype(np.float32)], affine, points, order=1, outside=0.0)[0], grid


def colin(voxel_mm: float) -> Anatomy | None:
    """Return colin27, T1-weighted with scalp and skull; nobody has segmented it."""
    place = DATA / "t1w" / "ch2.nii.gz"
    if not place.exists():
        return None
    stored = nib.load(place)
    image, affine = averaged(np.asanyarray(stored.dataobj).astype(np.float32), np.asarray(stored.affine), voxel_mm)
    return Anatomy("colin27", image / np.percentile(image, 99), affine, {}, image > 0)


@dataclass(frozen=True, eq=False)
class Known:
    """The way back of a known deformation: a point y of the deformed head was at ``V(y)``."""

    field: np.ndarray
    affine: np.ndarray
    matrix: np.ndarray

    def back(self, y: np.ndarray) -> np.ndarray:
        """Return V(y): back from the position and size, then back along the field."""
        back = np.linalg.inv(self.matrix)
        x = y @ back[:3, :3].T + back[:3, 3]
        u = sample([self.field[..., axis] for axis in range(3)], self.affine, x, order=1, outside=0.0)
        return np.asarray(x + np.stack(u, axis=-1))


def known_deformation(seed: int, amplitude_mm: float) -> Known:
    """Return a smooth random field (root mean square as given, correlated over some cm), another place and size."""
    rng = np.random.default_rng(seed)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-120, -160, -120)
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=(61, 61, 61)), 5.0) for _ in range(3)], axis=-1)
    field *= amplitude_mm / np.sqrt((field**2).sum(axis=-1).mean())
    shift, turn, size = rng.uniform(-12, 12, 3), rng.uniform(-8, 8, 3), rng.uniform(0.93, 1.07, 3)
    matrix = rigid_matrix(shift.tolist(), turn.tolist(), (0, -18, 10)) @ np.diag([*size, 1.0])
    return Known(field.astype(np.float32), affine, matrix)


def deformed(anatomy: Anatomy, known: Known, seed: int) -> Anatomy:
    """Return the deformed head on a grid of its own: left-handed, oblique."""
    voxel = float(np.sqrt((anatomy.affine[:3, 0] ** 2).sum()))
    affine = rigid_matrix((0, 0, 0), (6, -4, 5), (0, 0, 0)) @ np.diag([-voxel, voxel, voxel, 1.0])
    shape = [int(n / voxel) for n in (190, 240, 210)]
    affine[:3, 3] += known.matrix[:3, :3] @ [0, -18, 0] + known.matrix[:3, 3]
    affine[:3, 3] -= affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    points = known.back(compose(affine, shape))
    volumes = [anatomy.image, *anatomy.tissue.values(), anatomy.brain.astype(np.float32)]
    image, *rest = sample(volumes, anatomy.affine, points, order=1, outside=0.0)
    tissue = dict(zip(anatomy.tissue, rest[:-1], strict=True))
    return Anatomy(anatomy.name, noisy(image, seed), affine, tissue, rest[-1] > 0.5)


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    """Return the image with noise of 6 % of white matter's value or so."""
    return (image + np.random.default_rng(seed).normal(0, NOISE, image.shape)).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return 2 sum(min) / sum(a + b) of two probabilities: Dice for soft memberships."""
    return float(2 * np.minimum(a, b).sum() / (a + b).sum())


def channels(anatomy: Anatomy, extra: bool) -> dict[str, np.ndarray]:
    """Return the image, with grey and white matter if wanted."""
    return {"image": anatomy.image} | ({t: anatomy.tissue[t] for t in ("GM", "WM")} if extra else {})


def carried(found: Normalisation, anatomy: Anatomy, template: Template) -> dict[str, float]:
    """Return the Dice of each tissue on the template."""
    if not anatomy.tissue:
        return {}
    maps = found.to_template(list(anatomy.tissue.values()), anatomy.affine, order=1, outside=0.0)
    return {
        name: dice(values * template.mask, template.channels[name] * template.mask)
        for name, values in zip(anatomy.tissue, maps, strict=True)
    }


def compare(template: Template, anatomy: Anatomy, known: Known, extra: bool, stripped: bool, **options: Any) -> str:
    """Normalise an anatomy and its deformed copy, and return a line of the table."""
    copy = deformed(anatomy, known, 1)
    started = time.perf_counter()
    found = [
        normalise(
            channels(a, extra),
            a.affine,
            template.channels,
            template.affine,
            template_mask=template.mask,
            mask=grow(a.brain) if stripped and a.tissue else None,
            **options,
        )
        for a in (anatomy, copy)
    ]
    wall = (time.perf_counter() - started) / 2
    at = template.thinned
    p, q = (f.participant_points()[at] for f in found)
    gap = np.sqrt(((known.back(q) - p) ** 2).sum(axis=-1))
    flat = compose(template.affine, template.mask.shape)[at]
    straight = [flat @ f.matrix[:3, :3].T + f.matrix[:3, 3] for f in found]
    only = np.sqrt(((known.back(straight[1]) - straight[0]) ** 2).sum(axis=-1))
    scores = [carried(f, a, template) for f, a in zip(found, (anatomy, copy), strict=True)]
    report = found[1].report
    c, j = report["correlation"], report["jacobian"]
    cpu = [sum(f.report["cpu_s"].values()) for f in found]
    return (
        f"residual {gap.mean():5.2f} p95 {np.percentile(gap, 95):5.2f} (affine {only.mean():5.2f}) | dice "
        + " ".join(f"{n} {np.mean([s[n] for s in scores]):.3f}" for n in scores[0])
        + f" | r {c['before']:.3f} {c['affine']:.3f} {c['warp']:.3f} | J {j['min']:.2f} {j['p01']:.2f} {j['p99']:.2f} "
        f"{j['max']:.2f} | {np.mean(cpu):.1f} CPU-s (affine {report['cpu_s']['affine']:.1f}, rest "
        f"{report['cpu_s']['rest']:.1f}) {report['peak_bytes'] / 1e6:.0f} MB {wall:.0f} s"
        + "".join(f" | FLAGGED {f.flagged}" for f in found if f.flagged)
    )


def failures(template: Template, anatomy: Anatomy, known: Known) -> None:
    """Print what the report says of good cases and of bad ones: how the rule that flags was chosen."""
    copy = deformed(anatomy, known, 1)
    rng = np.random.default_rng(0)
    far, turned = np.eye(4), rigid_matrix((0, 0, 0), (0, 0, 90), (0, -18, 10))
    far[:3, 3] = (0, 60, 40)
    low = copy.image.copy()
    low[:, :, : low.shape[2] // 2] = 0
    shaded = copy.image * np.linspace(0.5, 1.5, low.shape[0])[:, None, None]
    cases: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "good": (copy.image, None),
        "good, noise 0.3": (copy.image + rng.normal(0, 0.3, low.shape), None),
        "good, noise 0.5": (copy.image + rng.normal(0, 0.5, low.shape), None),
        "good, shaded 0.5 to 1.5": (shaded, None),
        "started 70 mm away": (copy.image, far @ known.matrix),
        "started turned by 90 degrees": (copy.image, turned),
        "half a head": (low, None),
        "contrast inverted": (np.where(copy.brain, 1.8 - copy.image, copy.image), None),
        "noise": (rng.normal(size=low.shape), None),
    }
    for name, (image, initial) in cases.items():
        found = normalise(
            {"image": image.astype(np.float32)},
            copy.affine,
            template.channels,
            template.affine,
            template_mask=template.mask,
            initial=initial,
        )
        c, j = found.report["correlation"], found.report["jacobian"]
        print(
            f"{anatomy.name}, {name}: r {c['before']:.3f} {c['affine']:.3f} {c['warp']:.3f}, J {j['min']:.2f} "
            f"{j['p01']:.2f} {j['p99']:.2f} {j['max']:.2f}, folded {found.report['folded']:.2g}, size "
            f"{np.round(found.report['size'], 2).tolist()}, {found.flagged[:60]}",
            flush=True,
        )


def grow(brain: np.ndarray) -> np.ndarray:
    """Return a brain mask as programs give it, a voxel too large."""
    return np.asarray(ndimage.binary_dilation(brain))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=3)
    parser.add_argument("--engines", default="greedy,antspyx,dipy")
    parser.add_argument("--anatomies", default="brainweb,colin27")
    parser.add_argument("--channels", default="head,image,tissue")
    parser.add_argument("--metric", default=Schedule.metric)
    parser.add_argument("--iterations", default=Schedule.iterations)
    parser.add_argument("--smoothing", default="{:g},{:g}".format(*Schedule.smoothing))
    parser.add_argument("--failures", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amplitude", type=float, default=6.0)
    given = parser.parse_args()
    template = load_template(given.resolution)
    before, after = (float(s) for s in given.smoothing.split(","))
    schedule = Schedule(given.metric, given.iterations, (before, after))
    known = known_deformation(given.seed, given.amplitude)
    heads = {"brainweb": brainweb, "colin27": colin}
    for name in given.anatomies.split(","):
        anatomy = heads[name](float(given.resolution))
        if anatomy is None:
            print(f"{name}: not in {DATA}")
            continue
        if given.failures:
            failures(template, anatomy, known)
            continue
        for engine in given.engines.split(","):
            if find_spec(MODULES[engine]) is None:
                print(f"{engine}: not installed")
                continue
            for chosen in given.channels.split(","):
                extra = chosen == "tissue"
                if extra and (not anatomy.tissue or engine == "dipy"):
                    continue
                line = compare(template, anatomy, known, extra, chosen != "head", engine=engine, schedule=schedule)
                print(
                    f"{name} {engine} {chosen} {given.metric} {given.iterations} {given.smoothing}: {line}", flush=True
                )


if __name__ == "__main__":
    main()
