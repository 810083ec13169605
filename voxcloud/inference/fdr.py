"""False discovery rates: over voxels, over peaks and over clusters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxcloud.inference.distributions import Statistic
from voxcloud.inference.random_field import DegreesOfFreedom, expected_clusters

Float64 = npt.NDArray[np.float64]


def benjamini_hochberg(p: npt.ArrayLike) -> Float64:
    """Return q-values: q_(i) = min_{j >= i} p_(j) n / j, at most 1; NaN stays NaN and is not counted.

    References
    ----------
    1. Benjamini and Hochberg, J R Stat Soc B 57:289 (1995), doi:10.1111/j.2517-6161.1995.tb02031.x
    2. Genovese et al., NeuroImage 15:870 (2002), doi:10.1006/nimg.2001.1037
    """
    values = np.asarray(p, dtype=np.float64)
    q = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    n = known.size
    order = known[np.argsort(values[known], kind="stable")]
    ranked = values[order] * (n / np.arange(1, n + 1))
    q[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    return q


def voxelwise_fdr(p: npt.ArrayLike) -> Float64:
    """Return the q-value of every voxel of a search volume from its uncorrected p."""
    return benjamini_hochberg(p)


def cluster_fdr(p_uncorrected: npt.ArrayLike) -> Float64:
    """Return topological q-values of clusters from the uncorrected p of *all* clusters above the threshold.

    Benjamini and Hochberg's step-up over clusters, (c,).

    References
    ----------
    1. Chumbley and Friston, NeuroImage 44:62 (2009), doi:10.1016/j.neuroimage.2008.05.021
    """
    return benjamini_hochberg(p_uncorrected)


def p_peak(
    value: npt.ArrayLike, u: float, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> Float64:
    """Return P(a peak above u reaches ``value``) = E[clusters above value] / E[clusters above u].

    Parameters
    ----------
    value
        Heights of peaks, any shape, at or above u.
    u
        Height threshold above which peaks were listed, in units of the statistic.
    df, resel_counts, statistic
        As in ``random_field.expected_clusters``.
    """
    above = expected_clusters(value, df, resel_counts, statistic)
    return np.asarray(above / expected_clusters(u, df, resel_counts, statistic), dtype=np.float64)


def peak_fdr(
    peaks: npt.ArrayLike, u: float, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> Float64:
    """Return topological q-values of peaks from the heights of *all* local maxima above u.

    Benjamini and Hochberg's step-up over the p of :func:`p_peak`, whose parameters these are.

    References
    ----------
    1. Chumbley et al., NeuroImage 49:3057 (2010), doi:10.1016/j.neuroimage.2009.10.090
    """
    return benjamini_hochberg(p_peak(peaks, u, df, resel_counts, statistic))
