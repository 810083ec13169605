"""A rigid movement found by the relation between the intensities of two contrasts, from where the headers put them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxcloud.space import relation_kernels as kernels
from voxcloud.space.affine import rigid_matrix, voxel_to_voxel
from voxcloud.space.bspline import sample_linear, spline_coefficients

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Images = npt.NDArray[np.floating[Any]]

# Knots of the relation, at quantiles of the fixed image's intensities.
KNOTS = 8
# Half the size of a head (mm): brings turns and shifts to one scale.
HEAD_MM = 100.0
# Blur in voxels, the strongest first: it reaches furthest.
BLURS = (2.0, 1.0, 0.0)
PASSES = 25
# A pass that moves the head by less (mm) is the last of its blur.
SMALL_MM = 2e-4
# Holds knots that no voxel uses; as a share of the mean diagonal.
RIDGE = 1e-6
BINS = 32


def align_by_relation(
    fixed: Images,
    fixed_affine: Float64,
    moving: Images,
    moving_affine: Float64,
    mask: Bools,
    start: Float64,
) -> Float64:
    """Return the rigid transform (4, 4), fixed to moving world points, found from a start within about 15 mm.

    The model of the moving image m at the place T x of a voxel x whose fixed intensity is f(x) is

        m(T x) = sum_k sum_j theta_kj h_k(f(x)) p_j(T x) + noise,

    with hat functions h_k over the fixed intensities and p = (1, x, y, z): the one contrast is an unknown function of
    the other, as in the correlation ratio, which may change linearly over the head as coils make it do. Theta and T are
    found together by Gauss-Newton, on cubic B-splines with exact derivatives, least squares on blurred images first.
    Nothing is random and nothing depends on threads. Without enough voxels or edges the start comes back.

    Parameters
    ----------
    fixed, moving : 3-D, finite, of about 4 mm.
    fixed_affine, moving_affine : (4, 4), voxel to mm.
    mask : voxels of the fixed image that count.
    start : (4, 4).

    References
    ----------
    1. Roche et al. (1998), correlation ratio, doi:10.1007/BFb0056301.
    """
    matrix = start
    voxels = np.argwhere(mask).astype(np.int32)
    for blur in BLURS:
        still, moves = (ndimage.gaussian_filter(a.astype(np.float32), blur) if blur else a for a in (fixed, moving))
        matrix = _descend(still, fixed_affine, moves, moving_affine, voxels, matrix)
    return matrix


def mutual_information(
    fixed: Images, fixed_affine: Float64, moving: Images, moving_affine: Float64, mask: Bools, matrix: Float64
) -> float:
    """Return the normalised mutual information (H(f) + H(m)) / H(f, m) over a mask, 1 (unrelated) to 2.

    References
    ----------
    1. Studholme et al. (1999), doi:10.1016/S0031-3203(98)00091-0.
    """
    voxels = np.flatnonzero(mask)
    between = voxel_to_voxel(fixed_affine, matrix, moving_affine)
    seen = sample_linear(moving, between, fixed.shape, voxels, outside=0.0)
    counts, _, _ = np.histogram2d(fixed.reshape(-1)[voxels], seen, bins=BINS)
    share = counts / max(counts.sum(), 1.0)
    joint = _entropy(share)
    return (_entropy(share.sum(axis=0)) + _entropy(share.sum(axis=1))) / joint if joint > 0 else 1.0


def _entropy(share: Float64) -> float:
    known = share[share > 0]
    return float(-(known * np.log(known)).sum())


def _descend(
    fixed: Images,
    fixed_affine: Float64,
    moving: Images,
    moving_affine: Float64,
    voxels: npt.NDArray[np.int32],
    matrix: Float64,
) -> Float64:
    values = fixed[tuple(voxels.T)]
    knots = np.unique(np.quantile(values, np.linspace(0.01, 0.99, KNOTS))) if values.size else values
    if knots.size < 2:
        return matrix
    bins = np.interp(values, knots, np.arange(knots.size))
    coefficients, padded, size = spline_coefficients([moving])
    centre = (matrix @ fixed_affine @ np.append(voxels.mean(axis=0), 1.0))[:3]
    around = moving_affine[:3].copy()
    around[:, 3] -= centre
    around /= HEAD_MM
    to_world = np.ascontiguousarray(np.linalg.inv(moving_affine[:3, :3]).T)
    n = knots.size * kernels.FACTORS
    for _ in range(PASSES):
        between = np.ascontiguousarray(voxel_to_voxel(fixed_affine, matrix, moving_affine)[:3])
        normal, right = np.zeros((n + kernels.DEGREES, n + kernels.DEGREES)), np.zeros(n + kernels.DEGREES)
        kernels.accumulate(coefficients, padded, size, between, voxels, bins, to_world, around, normal, right)
        step = _solve(normal, right, n)
        if step is None:
            return matrix
        shift, turn = step[n : n + 3], step[n + 3 :] / HEAD_MM
        matrix = rigid_matrix(shift.tolist(), np.rad2deg(turn).tolist(), centre.tolist()) @ matrix
        if np.abs(shift).max() + HEAD_MM * np.abs(turn).max() < SMALL_MM:
            break
    return matrix


def _solve(normal: Float64, right: Float64, n: int) -> Float64 | None:
    """Solve for relation and movement; None where the images say nothing about movement."""
    full = normal + np.tril(normal, -1).T
    full[np.arange(n), np.arange(n)] += RIDGE * np.trace(full[:n, :n]) / n
    try:
        found = np.asarray(np.linalg.solve(full, right), np.float64)
    except np.linalg.LinAlgError:
        return None
    return found if np.isfinite(found).all() else None
