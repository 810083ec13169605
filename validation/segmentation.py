"""Segmentation against truth: overlap, volumes, response to planted changes; beside Atropos; on real images.

    python validation/segmentation.py DATA [--resolution 2] [--seed 0] [--atropos PYTHON] [--only TABLE ...]

DATA is a folder with ``phantom/`` (the discrete labels of BrainWeb) and ``t1w/`` (colin27, and one acquisition without
and with the scanner's own correction of the receive field). Tables: ``truth``, ``response``, ``real``. PYTHON is an
interpreter that has antspyx, which voxcloud does not need. One process; about five minutes at 2 mm.

Two anatomies. *brainweb*: labels at 1 mm, averaged to fractions of coarser voxels; the template's priors come through
voxcloud's own normalisation of the T1w contrast. *head*: a simulated head, whose tissue fractions are the template's;
priors lie wrong by a smooth random displacement (root mean square 1.5 or 4 mm). Signals of tissue are mixed by
fractions, noise has an SD of 3 % of white matter, T1w has a smooth receive field (SD 20 %). Values of MTsat and R1
outside the brain are guesses, chosen to be hard: muscle and meninges look like grey matter and its rim.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from voxcloud.space.bias import estimate_bias
from voxcloud.space.head import head_mask
from voxcloud.space.normalise import normalise
from voxcloud.space.registration import averaged, register_affine, register_rigid
from voxcloud.space.segmentation import Segmentation, segment
from voxcloud.space.volumes import overlap
from voxcloud.testing import raw_head

TISSUES = ("GM", "WM", "CSF")
VALUES = {
    "MTsat": {"GM": 0.85, "WM": 1.70, "CSF": 0.0, "fat": 0.2, "muscle": 0.9, "skin": 0.5, "connective": 0.6},
    "R1": {"GM": 0.61, "WM": 1.04, "CSF": 0.25, "fat": 2.6, "muscle": 0.75, "skin": 0.9, "connective": 0.8},
    "T1w": {"GM": 500.0, "WM": 800.0, "CSF": 180.0, "fat": 1100.0, "muscle": 450.0, "skin": 600.0, "connective": 400.0},
}
LABELS = {1: "CSF", 2: "GM", 3: "WM", 4: "fat", 5: "muscle", 6: "skin", 8: "GM", 9: "connective"}
NOISE, FIELD_SD, FIELD_FWHM_MM = 0.03, 0.2, 120.0
MARGIN_MM = 6.0
OFF_GRID = (0.37, 0.61, 0.45)
# Where changes are planted: left hemisphere, with cortex, white matter and ventricle.
CENTRE_MM, RADIUS_MM, EDGE_MM = np.array([-26.0, -20.0, 20.0]), 25.0, 8.0


@dataclass(frozen=True, eq=False)
class Scene:
    """An image, what is in it, and what segmentation is told."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    priors: Mapping[str, np.ndarray]
    mask: np.ndarray
    brain: np.ndarray
    voxel_mm: tuple[float, float, float]
    bias: bool


@functools.cache
def template() -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Return T1, priors and affine of the template at 1 mm."""
    from nilearn import datasets

    layers, affine = raw_head._template_layers()
    t1 = np.asarray(datasets.load_mni152_template(resolution=1).dataobj, dtype=np.float32)
    return t1, dict(zip(TISSUES, layers[:3], strict=True)), affine


@functools.cache
def coarse_template() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the same at 2 mm, with ``image`` and ``brain``."""
    t1, priors, affine = template()
    found = {name: averaged(a, affine, 2.0) for name, a in {**priors, "image": t1}.items()}
    values = {name: a for name, (a, _) in found.items()}
    values["brain"] = sum(values[t] for t in TISSUES) > 0.5
    return values, found["image"][1]


def smooth_random(shape: tuple[int, ...], voxel_mm: float, fwhm_mm: float, seed: int) -> np.ndarray:
    """Return a smooth random field of SD 1."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    found = ndimage.gaussian_filter(drawn, fwhm_mm / 2.3548 / voxel_mm)
    return found / found.std()


def scene(
    name: str, image: np.ndarray, truth: np.ndarray, priors: Mapping[str, np.ndarray], sizes, bias: bool
) -> Scene:
    """Put a scene together: the mask is the priors' brain and 6 mm."""
    brain = sum(priors[t] for t in TISSUES) > 0.5
    mask = ndimage.distance_transform_edt(~brain, sizes) <= MARGIN_MM
    return Scene(name, image.astype(np.float32), truth, priors, mask, brain, tuple(map(float, sizes)), bias)


@functools.cache
def labels(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return BrainWeb's labels and their affine."""
    image = nib.load(data / "phantom" / "brainweb_discrete_1mm.nii.gz")
    return np.asarray(image.dataobj), np.asarray(image.affine)


def region(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return 1 inside a ball, 0 far away, with a soft edge."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    radius = np.sqrt(sum((affine[a, a] * axes[a] + affine[a, 3] - CENTRE_MM[a]) ** 2 for a in range(3)))
    return np.clip((RADIUS_MM - radius) / EDGE_MM + 0.5, 0.0, 1.0)


def brainweb_fractions(data: Path, step: int, outer_mm: float = 0.0, inner_mm: float = 0.0) -> dict[str, np.ndarray]:
    """Return fractions of tissues in voxels of ``step`` mm, with boundaries moved within the region.

    ``outer_mm``: cortex grows into fluid; ``inner_mm``: white matter grows into grey matter; negative: shrinks. By the
    signed distance from the boundary, so that fractions change in proportion.
    """
    found, affine = labels(data)
    fine = {name: np.zeros(found.shape, np.float32) for name in set(LABELS.values())}
    for number, name in LABELS.items():
        fine[name] += found == number
    where = region(found.shape, affine)
    moves = ((outer_mm, ("GM", "WM"), "GM", "CSF"), (inner_mm, ("WM",), "WM", "GM"))
    for move, inside, grows, shrinks in moves:
        if not move:
            continue
        core = sum(fine[name] for name in inside) > 0.5
        out, inn = ndimage.distance_transform_edt(~core), ndimage.distance_transform_edt(core)
        signed = np.where(core, 0.5 - inn, out - 0.5)
        share = np.clip(0.5 - (signed - move * where), 0.0, 1.0)
        change = np.where(core, share - 1.0, share)
        # Only across this boundary: what is neither of the two stays.
        amount = np.where(change > 0, change * fine[shrinks], change * fine[grows]).astype(np.float32)
        fine[grows] += amount
        fine[shrinks] -= amount
    # No scanner's voxels fall on the labels' grid: else half of all boundaries would lie between voxels.
    moved = {name: ndimage.shift(a, OFF_GRID, order=1, mode="nearest") for name, a in fine.items()}
    return {name: averaged(a, affine, float(step))[0] for name, a in moved.items()}


def signal(contrast: str, fractions: Mapping[str, np.ndarray], seed: int, voxel_mm: float, change=None) -> np.ndarray:
    """Return a noisy image; ``change``: factor of GM's and WM's values."""
    values, rng = VALUES[contrast], np.random.default_rng(seed)
    brain = 1.0 if change is None else change
    total = sum(f * values[n] * (brain if n in ("GM", "WM") else 1.0) for n, f in fractions.items())
    water = sum(fractions.values())
    noise = NOISE * values["WM"] * rng.standard_normal(total.shape)
    if contrast == "T1w":
        field = np.exp(FIELD_SD * smooth_random(total.shape, voxel_mm, FIELD_FWHM_MM, seed + 99))
        return np.abs(total * field + noise)
    # A ratio of signals: without water it is noise over noise.
    return np.where(water > 0.05, total / np.maximum(water, 1e-3) + noise / np.clip(water, 0.1, 1.0), 10.0 * noise)


@functools.cache
def brainweb_priors(data: Path, step: int) -> dict[str, np.ndarray]:
    """Return the template's priors on BrainWeb's grid, through affine and deformation; the skull taken off before."""
    fractions = brainweb_fractions(data, step)
    _, affine = averaged(labels(data)[0], labels(data)[1], float(step))
    image = signal("T1w", fractions, 1, float(step))
    return warped(image, affine, mask=sum(fractions[t] for t in TISSUES) > 0.5)


def warped(image: np.ndarray, affine: np.ndarray, *, mask=None, initial=None) -> dict[str, np.ndarray]:
    """Return the template's priors on the grid of an image."""
    values, grid = coarse_template()
    way = normalise(
        {"image": image},
        affine,
        {"image": values["image"]},
        grid,
        template_mask=values["brain"],
        mask=mask,
        initial=initial,
    )
    seen = way.to_participant([values[t] for t in TISSUES], affine, image.shape)
    print(f"normalisation: correlation {way.report['correlation']['warp']:.3f} {way.flagged}", flush=True)
    return dict(zip(TISSUES, seen, strict=True))


def brainweb(data: Path, contrast: str, step: int, seed: int, *, factor: float = 1.0, **moves: float) -> Scene:
    """Return a scene of BrainWeb."""
    fractions = brainweb_fractions(data, step, **moves)
    affine = averaged(labels(data)[0], labels(data)[1], float(step))[1]
    change = 1.0 + (factor - 1.0) * region(fractions["GM"].shape, affine)
    image = signal(contrast, fractions, seed, float(step), change)
    truth = np.stack([fractions[t] for t in TISSUES])
    return scene(f"brainweb {contrast}", image, truth, brainweb_priors(data, step), (step,) * 3, contrast == "T1w")


def head(contrast: str, step: int, seed: int, error_mm: float) -> Scene:
    """Return a scene of a simulated head."""
    person = raw_head.person_head(raw_head.template_head(float(step)), seed, "01")
    shape = tuple(int(n // step) for n in (180, 216, 190))
    axes = (low + step * np.arange(n) for low, n in zip((-90.0, -126.0, -80.0), shape, strict=True))
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    fractions, parameters = person.sample(points.copy())
    fractions = np.clip(fractions.reshape(*shape, 4), 0.0, 1.0)
    if contrast == "T1w":
        named = dict(zip((*TISSUES, "fat"), np.moveaxis(fractions, -1, 0), strict=True))
        image = signal("T1w", named, seed, float(step))
    else:
        at = raw_head.PARAMETERS.index({"MTsat": "MTsat", "R1": "R1map"}[contrast])
        noise = NOISE * VALUES[contrast]["WM"] * np.random.default_rng(seed).standard_normal(shape)
        water = fractions.sum(axis=-1)
        there = parameters.reshape(*shape, -1)[..., at] + noise / np.clip(water, 0.1, 1.0)
        image = np.where(water > 0.05, there, 10.0 * noise)
    off = [smooth_random(shape, float(step), 40.0, 10 * seed + a).ravel() for a in range(3)]
    _, layers, affine = template()
    at_mm = person.template_points(points.copy()) + error_mm / np.sqrt(3.0) * np.stack(off, axis=1)
    places = (at_mm - affine[:3, 3]).T
    priors = {t: ndimage.map_coordinates(p, places, order=1).reshape(shape) for t, p in layers.items()}
    truth = np.moveaxis(fractions[..., :3], -1, 0)
    return scene(f"head {contrast}, {error_mm:g} mm", image, truth, priors, (step,) * 3, contrast == "T1w")


def run(s: Scene) -> Segmentation:
    """Segment a scene."""
    return segment(s.image, s.priors, mask=s.mask, voxel_mm=s.voxel_mm, bias=s.bias, name=s.name)


def stacked(found: Segmentation) -> np.ndarray:
    """Return (3, x, y, z)."""
    return np.stack([found.gm, found.wm, found.csf])


def largest(fractions: np.ndarray) -> np.ndarray:
    """Return which of GM, WM, CSF and the rest has most of each voxel."""
    return np.argmax(np.concatenate([fractions, 1.0 - fractions.sum(axis=0, keepdims=True)]), axis=0)


def compare(title: str, found: np.ndarray, s: Scene, cpu_s: float) -> None:
    """Print overlap, volume errors and root mean square error of fractions."""
    a, b = largest(found), largest(s.truth)
    dice = " ".join(f"{overlap(a == k, b == k):.4f}" for k in range(3))
    ours, true = found.sum(axis=(1, 2, 3)), s.truth.sum(axis=(1, 2, 3))
    volumes = " ".join(
        f"{100 * (x / y - 1):+6.2f}" for x, y in zip([*ours, ours.sum()], [*true, true.sum()], strict=True)
    )
    near = np.maximum(found.sum(axis=0), s.truth.sum(axis=0)) > 0.05
    rms = " ".join(f"{np.sqrt(((found[k] - s.truth[k])[near] ** 2).mean()):.3f}" for k in range(3))
    print(f"{s.name:20s} {title:18s} | {dice} | {volumes} | {rms} | {cpu_s:5.1f} CPU-s", flush=True)


ATROPOS = """
import sys, numpy as np, ants
d = np.load(sys.argv[1] + "/in.npz")
def image(a): return ants.from_numpy(a.astype("float32"), spacing=[float(x) for x in d["spacing"]])
seen, mask, order = image(d["image"]), image(d["mask"]), [2, 0, 1]
if d["bias"]: seen = ants.n4_bias_field_correction(seen, mask=mask)
first = [image(d["priors"][k]) for k in order] if d["use"] else "kmeans[3]"
more = {"priorweight": 0.25} if d["use"] else {}
found = ants.atropos(a=seen, x=mask, i=first, m="[0.1,1x1x1]", c="[10,0]", **more)["probabilityimages"]
np.save(sys.argv[1] + "/out.npy", np.stack([found[order.index(k)].numpy() for k in range(3)]))
"""


def atropos(s: Scene, python: str, *, priors: bool) -> np.ndarray:
    """Return Atropos' probabilities, in the brain that the priors give; N4 before where there is a receive field."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            f"{folder}/in.npz",
            image=np.nan_to_num(s.image),
            mask=s.brain,
            bias=s.bias,
            spacing=s.voxel_mm,
            priors=np.stack([s.priors[t] for t in TISSUES]),
            use=priors,
        )
        threads = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        subprocess.run([python, "-c", ATROPOS, folder], check=True, env=threads)
        return np.load(f"{folder}/out.npy")


def truth_table(data: Path, step: int, seed: int, python: str | None) -> None:
    """Print how near each method comes to the truth."""
    print("scene, method | Dice GM WM CSF | volume error % GM WM CSF TIV | RMS of fractions GM WM CSF")
    scenes = [functools.partial(brainweb, data, contrast, step, seed) for contrast in VALUES]
    scenes += [functools.partial(head, contrast, step, seed, error) for error in (1.5, 4.0) for contrast in VALUES]
    for make in scenes:
        s = make()
        started = time.process_time()
        found = run(s)
        compare("voxcloud", stacked(found), s, time.process_time() - started)
        if python:
            compare("Atropos", atropos(s, python, priors=True), s, float("nan"))
            compare("Atropos, no priors", atropos(s, python, priors=False), s, float("nan"))


def response_table(data: Path, step: int, seed: int) -> None:
    """Print what planted changes do to the volumes in a ball of 25 mm."""
    ml = step**3 / 1000.0
    base = brainweb(data, "MTsat", step, seed)
    affine = averaged(labels(data)[0], labels(data)[1], float(step))[1]
    inside = region(base.image.shape, affine) > 0

    def volumes(f: np.ndarray) -> np.ndarray:
        return f[:, inside].sum(axis=1) * ml

    before, true = volumes(stacked(run(base))), volumes(base.truth)
    print(f"region: true ml {true.round(2)}, found {before.round(2)} (GM WM CSF)")
    for move in ("outer_mm", "inner_mm"):
        for distance in (-0.10, -0.05, 0.05, 0.10):
            changed = brainweb(data, "MTsat", step, seed, **{move: distance})
            planted = 100 * (volumes(changed.truth) / true - 1)
            got = 100 * (volumes(stacked(run(changed))) / before - 1)
            print(f"{move} {distance:+.2f}: planted % {planted.round(2)}, found % {got.round(2)}", flush=True)
    for factor in (0.97, 1.03):
        changed = replace(base, image=brainweb(data, "MTsat", step, seed, factor=factor).image)
        got = 100 * (volumes(stacked(run(changed))) / before - 1)
        print(f"MTsat x {factor:g} in the region, no volume planted: found % {got.round(2)}", flush=True)
    whole = replace(base, image=1.03 * base.image)
    print(f"MTsat x 1.03 everywhere: found % {(100 * (volumes(stacked(run(whole))) / before - 1)).round(3)}")


def real_table(data: Path) -> None:
    """Print what colin27 and the bias-field pair give; the pair shares its priors, for it is one acquisition."""
    image = nib.load(data / "t1w" / "ch2.nii.gz")
    colin, grid = averaged(np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine), 2.0)
    priors = warped(colin, grid)
    found = run(scene("colin27", colin, np.zeros(0), priors, (2.0,) * 3, True))
    print(
        "colin27",
        {k: round(v, 1) for k, v in found.report["volumes_ml"].items()},
        found.report["overlap"],
        found.flagged,
    )
    files = [nib.load(data / "t1w" / f"{n}_anat-T1w_acq-tfl.nii.gz") for n in (5, 6)]
    plain, normalised = (np.asarray(f.dataobj, dtype=np.float32) for f in files)
    affine, sizes = np.asarray(files[0].affine), (2.0,) * 3
    flat = normalised / estimate_bias(normalised, head_mask(normalised, sizes), sizes).field
    # Two heads with scalps are alike; from there the template's brain finds its place.
    shown = [np.minimum(a, np.percentile(a[a > 0], 98)) for a in (colin, flat)]
    start = register_rigid(shown[0], grid, shown[1], affine).matrix
    start = register_affine(shown[0], grid, shown[1], affine, initial=start, metric="NCC 4x4x4").matrix
    priors = warped(flat, affine, initial=start)
    both = [
        run(scene(n, i, np.zeros(0), priors, sizes, True)) for n, i in (("plain", plain), ("normalised", normalised))
    ]
    one, other = (stacked(f) for f in both)
    for f, name in zip(both, ("plain", "normalised"), strict=True):
        print(name, {k: round(v, 1) for k, v in f.report["volumes_ml"].items()}, f.flagged)
    for k, t in enumerate(TISSUES):
        change = 100 * (other[k].sum() / one[k].sum() - 1)
        print(f"pair {t}: Dice {overlap(one[k] > 0.5, other[k] > 0.5):.4f}, volume {change:+.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--resolution", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atropos")
    parser.add_argument(
        "--only", nargs="*", choices=("truth", "response", "real"), default=["truth", "response", "real"]
    )
    told = parser.parse_args()
    if "truth" in told.only:
        truth_table(told.data, told.resolution, told.seed, told.atropos)
    if "response" in told.only:
        response_table(told.data, told.resolution, told.seed)
    if "real" in told.only:
        real_table(told.data)


if __name__ == "__main__":
    main()
