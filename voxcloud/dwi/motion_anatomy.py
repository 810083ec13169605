"""Movement of a whole shell that its own images cannot show: told by the anatomy without weighting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.dwi.motion_model import RADIUS_MM

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Tents = Callable[[Indices], Float32]

# Tents over the signals that say what tissue is where.
TENTS_ALONE, TENTS = 6, 4
QUANTILES = (0.02, 0.98)
# Degree of polynomials of place at most, and voxels for each unknown at least.
LARGEST_DEGREE, VOXELS_PER_UNKNOWN = 5, 25
MOST_VOXELS, AT_ONCE = 40_000, 8192
# Of the unknowns' squares, so that empty tents do no harm.
RIDGE = 1e-5
# SD in voxels of the blur before derivatives are taken.
GRADIENT_BLUR = 0.5
# Residuals are alike within blocks of so many mm.
BLOCK_MM = 18.0
# What is alike in all blocks, their scatter does not tell.
SHELL_SD = 1.5
# On the rim of the brain, signals without weighting fall from fluid's to nothing through those of all tissues.
RIM_MM = 6.0


@dataclass(frozen=True, eq=False)
class Displaced:
    """By how much images are displaced against what others say of the anatomy.

    Attributes
    ----------
    numbers : (6, images): shifts in mm, turns about the centre in mm at ``RADIUS_MM``.
    sd : (6, images), from the scatter of blocks.
    """

    numbers: Float64
    sd: Float64


@dataclass(frozen=True, eq=False)
class Place:
    """Where images are: the brain (x, y, z) and a rim, voxel to mm (4, 4), and the centre of turns in mm (3,)."""

    inside: Bools
    affine: Float64
    centre: Float64


def shell_displaced(mean: Float32, still: Float32, place: Place) -> Displaced | None:
    """Find how a shell's mean s is displaced against the mean without weighting a, one image.

    ``a(x) = sum_k f_k(x) p_k(s(x)) - grad a(x) . (t + w x (x - c)) + noise``

    with tents p_k over the shell's signal and polynomials f_k of place; t and w are what is wanted. Any two images that
    show the same tissue have such a relation, and it changes slowly from place to place. Linear least squares.

    Parameters
    ----------
    mean, still : (x, y, z).
    place : of the images.

    Returns
    -------
    None where the brain is too small.
    """
    sizes = np.sqrt((place.affine[:3, :3] ** 2).sum(axis=0))
    core = ndimage.distance_transform_edt(place.inside, sampling=sizes) > RIM_MM
    if not core.any():
        return None
    found = _displaced(still[None], still, [_tents(mean, core, TENTS_ALONE)], core, place)
    return None if found is None else Displaced(-found.numbers, SHELL_SD * found.sd)


def patterns_displaced(targets: Float32, mean: Float32, still: Float32, place: Place) -> Displaced | None:
    """Find how a shell's volumes are displaced in patterns e of the direction g that are patterns of diffusion too.

    A target y, the volumes' part of one pattern, would be a function of the tissue if nothing had moved; movement
    t e(g) adds ``grad s . t``, s the shell's mean:

    ``y(x) = sum_k f_k(x) p_k(a(x), s(x)) + grad s(x) . (t + w x (x - c)) + noise``

    with products of tents p_k over the signals without weighting and of the shell.

    Parameters
    ----------
    targets : (n, x, y, z).
    mean, still, place : as ``shell_displaced`` has them.
    """
    tents = [_tents(image, place.inside, TENTS) for image in (still, mean)]
    return _displaced(targets, mean, tents, place.inside, place)


def _displaced(
    targets: Float32, moving: Float32, tents: Sequence[Tents], counted: Bools, place: Place
) -> Displaced | None:
    where = np.flatnonzero(counted)
    where = where[np.linspace(0, where.size - 1, min(where.size, MOST_VOXELS)).astype(np.intp)]
    places = np.stack(np.unravel_index(where, counted.shape))
    signals = np.ones((1, where.size), np.float32)
    for one in tents:
        own = one(where)
        signals = (signals[:, None] * own[None]).reshape(-1, where.size)
    terms = _polynomials(places, where.size // (VOXELS_PER_UNKNOWN * len(signals)))
    if terms is None:
        return None
    moved = _moved(moving, where, places, place.affine, place.centre)
    wanted = targets.reshape(len(targets), -1)[:, where]
    return _solved(signals, terms, moved, wanted, _blocks(places, place.affine))


def _tents(image: Float32, counted: Bools, n: int) -> Tents:
    """Return a function that gives tents over an image's signal, (n, voxels), at voxels."""
    knots = np.unique(np.quantile(image[counted], np.linspace(*QUANTILES, n)))

    def give(where: Indices) -> Float32:
        values = image.reshape(-1)[where]
        return np.stack([np.interp(values, knots, row) for row in np.eye(knots.size)]).astype(np.float32)

    return give


def _polynomials(places: Indices, most: int) -> Float32 | None:
    """Return at most so many products of Legendre polynomials of place, (terms, n); None if not even linear ones."""
    degree = next((d for d in range(LARGEST_DEGREE, 0, -1) if (d + 1) * (d + 2) * (d + 3) // 6 <= most), 0)
    if not degree:
        return None
    low, high = places.min(axis=1, keepdims=True), places.max(axis=1, keepdims=True)
    scaled = 2.0 * (places - low) / np.maximum(high - low, 1) - 1.0
    x, y, z = (np.polynomial.legendre.legvander(axis, degree).T for axis in scaled)
    return np.array(
        [
            x[i] * y[j] * z[k]
            for i in range(degree + 1)
            for j in range(degree + 1 - i)
            for k in range(degree + 1 - i - j)
        ],
        np.float32,
    )


def _moved(mean: Float32, where: Indices, places: Indices, affine: Float64, centre: Float64) -> Float32:
    """Return the change of the shell's mean by 1 mm of each of six movements, (6, n)."""
    smooth = ndimage.gaussian_filter(mean, GRADIENT_BLUR)
    steps = np.stack([np.gradient(smooth, axis=axis).reshape(-1)[where] for axis in range(3)])
    slope = np.linalg.inv(affine[:3, :3]).T @ steps
    arm = (affine[:3, :3] @ places + affine[:3, 3:] - centre[:, None]) / RADIUS_MM
    return np.concatenate([slope, np.cross(arm, slope, axis=0)]).astype(np.float32)


def _blocks(places: Indices, affine: Float64) -> Indices:
    """Return the number of the block of each voxel."""
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    number = (places * sizes[:, None] // BLOCK_MM).astype(np.intp)
    _, found = np.unique(np.ravel_multi_index(tuple(number), tuple(number.max(axis=1) + 1)), return_inverse=True)
    return np.asarray(found.reshape(-1), np.intp)


def _solved(signals: Float32, terms: Float32, moved: Float32, wanted: Float32, blocks: Indices) -> Displaced:
    """Return least squares' last six unknowns, and their scatter by blocks."""
    unknowns = len(signals) * len(terms) + len(moved)
    normal, right = np.zeros((unknowns, unknowns)), np.zeros((unknowns, len(wanted)))

    def rows() -> Iterator[tuple[slice, Float32]]:
        for start in range(0, blocks.size, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            own = (signals[:, None, part] * terms[None, :, part]).reshape(-1, signals[:, part].shape[1])
            yield part, np.concatenate([own, moved[:, part]])

    for part, own in rows():
        normal += own @ own.T
        right += own @ wanted[:, part].T
    few = unknowns - len(moved)
    normal[np.arange(few), np.arange(few)] *= 1.0 + RIDGE
    normal[np.arange(unknowns), np.arange(unknowns)] += 1e-9 * np.trace(normal) / unknowns
    sides = np.concatenate([right, np.eye(unknowns)[:, few:]], axis=1)
    solved = np.linalg.solve(normal, sides)
    found, influence = solved[:, : len(wanted)].astype(np.float32), solved[:, len(wanted) :].T.astype(np.float32)
    scores = np.zeros((blocks.max() + 1, len(moved), len(wanted)))
    for part, own in rows():
        left = wanted[:, part] - found.T @ own
        np.add.at(scores, blocks[part], np.einsum("pn,wn->npw", influence @ own, left))
    return Displaced(solved[few:, : len(wanted)], np.sqrt((scores**2).sum(axis=0)))
