"""Gradient tables of the simulated diffusion images: directions spread over the sphere, in the order of a scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from voxcloud.testing.fields import Float64, generator

STEPS, LARGEST_STEP = 400, 0.1
BVAL_SD = 4.0  # s/mm2, by which b-values of a shell differ from volume to volume as imaging gradients add to them


@dataclass(frozen=True)
class Gradients:
    """What each volume was weighted with.

    Attributes
    ----------
    bvals
        (volume,), s/mm2, whole numbers.
    directions
        (3, volume), unit vectors in the scanner's frame (RAS+); 0 where b is 0.
    """

    bvals: Float64
    directions: Float64


@lru_cache(maxsize=8)
def spread_directions(count: int) -> Float64:
    """Return unit vectors (3, count) that repel each other as charges of pairs at g and -g do.

    From a spiral, a fixed number of steps down ``sum_{i<j} 1 / |g_i - g_j| + 1 / |g_i + g_j|``.

    References
    ----------
    Jones, Horsfield and Simmons (1999), doi:10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q.
    """
    turn = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(count)
    height = (np.arange(count) + 0.5) / count  # of half a sphere: the other half is -g
    flat = np.sqrt(1.0 - height**2)
    g = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    for step in range(STEPS):
        force = np.zeros_like(g)
        for sign in (-1.0, 1.0):
            apart = g[:, None, :] + sign * g[None, :, :]
            distance = np.sqrt((apart**2).sum(axis=2))
            np.fill_diagonal(distance, np.inf)
            force += (apart / distance[..., None] ** 3).sum(axis=1)
        force -= (force * g).sum(axis=1, keepdims=True) * g
        largest = np.sqrt((force**2).sum(axis=1).max())
        g = g + force * (LARGEST_STEP * (1.0 - step / STEPS) / max(largest, 1e-12) / np.sqrt(count))
        g /= np.sqrt((g**2).sum(axis=1, keepdims=True))
    g.setflags(write=False)
    return np.asarray(g.T)


def gradient_table(seed: int, shells: Sequence[tuple[float, int]], b0_volumes: int) -> Gradients:
    """Return the table of a protocol: the same for everybody.

    Volumes without weighting are spread over the series, the first of them first; shells are mixed. Directions are all
    over the sphere: one of g and -g was taken by chance, and each shell was turned.

    Parameters
    ----------
    shells
        b-value in s/mm2 and number of directions.
    """
    rng = generator(seed, "gradients")
    bvals, directions = [], []
    for bval, count in shells:
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        signs = rng.choice([-1.0, 1.0], count)
        directions.append(turn @ spread_directions(count) * signs)
        bvals.append(np.rint(bval + np.clip(BVAL_SD * rng.standard_normal(count), -2 * BVAL_SD, 2 * BVAL_SD)))
    b, g = np.concatenate(bvals), np.concatenate(directions, axis=1)
    order = rng.permutation(len(b))
    total = len(b) + b0_volumes
    without = np.arange(b0_volumes) * total // b0_volumes
    weighted = np.setdiff1d(np.arange(total), without)
    all_b, all_g = np.zeros(total), np.zeros((3, total))
    all_b[weighted], all_g[:, weighted] = b[order], g[:, order]
    return Gradients(all_b, all_g)


def to_voxel_axes(directions: Float64, affine: Float64) -> Float64:
    """Return directions (3, volume) from RAS+ to the frame of BIDS: voxel axes, x negated where det(affine) > 0.

    Parameters
    ----------
    affine
        (4, 4) with orthogonal axes.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = axes.T @ directions
    if np.linalg.det(axes) > 0:
        along[0] = -along[0]
    return np.asarray(along)


def write_gradients(stem: Path, gradients: Gradients, affine: Float64) -> None:
    """Write ``stem.bval`` and ``stem.bvec``: whole s/mm2, and six decimals in the frame of BIDS."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    rows = [" ".join(f"{value:.6f}" for value in row + 0.0) for row in to_voxel_axes(gradients.directions, affine)]
    stem.with_name(f"{stem.name}.bval").write_text(" ".join(f"{b:.0f}" for b in gradients.bvals) + "\n")
    stem.with_name(f"{stem.name}.bvec").write_text("\n".join(rows) + "\n")
