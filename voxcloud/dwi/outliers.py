"""Slices that lost their signal while the head moved: what they lack against their prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

# Voxels of the brain in a slice below which its mean says little.
FEWEST_VOXELS = 50
# Quartiles of a normal distribution are this many standard deviations apart.
QUARTILES = 1.349
# Of the slice's predicted signal: what is lost must be this much at least, however small the noise.
LEAST_LOSS = 0.05


def slice_scores(sums: Float64, groups: Sequence[Sequence[int]]) -> Float64:
    """Return by how many standard deviations each slice is above its prediction, (v, slices).

    The mean residual of slice k in volume v, over its n_vk voxels, times ``sqrt(n_vk / n_k)`` with the mean number n_k
    of the slice over volumes, has a spread of its own for each slice (pulsation, vessels). From each, the median over
    the volumes of its group is taken away; the standard deviation comes from quartiles: the larger of the slice's own
    and that of all slices of the group. NaN where a slice has fewer than 50 voxels or its group fewer than 4 volumes.

    Parameters
    ----------
    sums : (v, slices, 5): voxels, sum of residuals (observed minus predicted), of squares, of sizes, of predictions.
    groups : volumes whose residuals are alike.

    References
    ----------
    1. Andersson et al. (2016), doi:10.1016/j.neuroimage.2016.06.058 (standardised mean differences of slices).
    """
    count = sums[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count >= FEWEST_VOXELS, sums[..., 1] / count, np.nan)
    found = np.full(mean.shape, np.nan)
    for group in groups:
        part = np.asarray(group)
        if part.size < 4:
            continue
        own, weight = mean[part], np.sqrt(count[part])
        known = np.isfinite(own)
        usable = known.sum(axis=0) >= 4
        if not usable.any():
            continue
        scaled = np.where(known, own * weight, np.nan)[:, usable]
        away = scaled - np.nanmedian(scaled, axis=0)
        low, high = np.nanpercentile(away, (25, 75), axis=0)
        sd = (high - low) / QUARTILES
        all_low, all_high = np.nanpercentile(away, (25, 75))
        sd = np.maximum(sd, max((all_high - all_low) / QUARTILES, 1e-30))
        scores = np.full((part.size, mean.shape[1]), np.nan)
        scores[:, usable] = away / sd
        found[part] = scores
    return found


def find_outliers(scores: Float64, sums: Float64, limit_sd: float) -> Bools:
    """Return slices that lost signal: more than ``limit_sd`` below, and by 5 % of the predicted signal or more."""
    with np.errstate(invalid="ignore"):
        return np.asarray((scores < -limit_sd) & (-sums[..., 1] > LEAST_LOSS * sums[..., 4]))
