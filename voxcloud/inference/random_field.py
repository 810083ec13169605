"""Random field theory: resels, Euler characteristic densities, and the p-values of peaks, clusters and sets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from voxcloud.errors import MaskError
from voxcloud.inference.distributions import Statistic, critical_value, denominator_df, log_sf

Float64 = npt.NDArray[np.float64]
DegreesOfFreedom = float | tuple[float, float]

FOUR_LOG_TWO = 4.0 * np.log(2.0)
EPS = float(np.finfo(np.float64).eps)


def resels(mask3d: npt.ArrayLike, fwhm_voxels: npt.ArrayLike) -> Float64:
    """Return the resel counts of a volume in 0 to 3 dimensions.

    With P points, E edges, F faces and C cubes between neighbouring voxels of the mask and r = 1 / FWHM:
    R0 = P - E + F - C, R1 = sum (E_x - F_xy - F_xz + C) r_x, R2 = sum (F_xy - C) r_x r_y, R3 = C r_x r_y r_z.

    Parameters
    ----------
    mask3d
        (x, y, z), true inside.
    fwhm_voxels
        (3,), in voxels.

    Returns
    -------
    (4,) resel counts. A box of a x b x c voxels has (1, sum (a-1)/F, sum of products of two, product of all three).

    Raises
    ------
    MaskError
        If no voxel is inside.

    References
    ----------
    1. Worsley et al., Hum Brain Mapp 4:58 (1996), doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O
    """
    inside = np.asarray(mask3d, dtype=bool)
    rx, ry, rz = 1.0 / np.asarray(fwhm_voxels, dtype=np.float64)
    ex = inside[1:] & inside[:-1]
    ey = inside[:, 1:] & inside[:, :-1]
    ez = inside[:, :, 1:] & inside[:, :, :-1]
    fxy = ex[:, 1:] & ex[:, :-1]
    fxz = ex[:, :, 1:] & ex[:, :, :-1]
    fyz = ey[:, :, 1:] & ey[:, :, :-1]
    cubes = fxy[:, :, 1:] & fxy[:, :, :-1]
    n = [int(a.sum()) for a in (inside, ex, ey, ez, fxy, fxz, fyz, cubes)]
    points, n_x, n_y, n_z, n_xy, n_xz, n_yz, n_c = n
    if points == 0:
        raise MaskError("Search volume: no voxel lies in it. Check the region of interest and the analysis mask.")
    return np.array(
        [
            points - (n_x + n_y + n_z) + (n_xy + n_xz + n_yz) - n_c,
            (n_x - n_xy - n_xz + n_c) * rx + (n_y - n_xy - n_yz + n_c) * ry + (n_z - n_xz - n_yz + n_c) * rz,
            (n_xy - n_c) * rx * ry + (n_xz - n_c) * rx * rz + (n_yz - n_c) * ry * rz,
            n_c * rx * ry * rz,
        ]
    )


def ec_density(u: npt.ArrayLike, df: DegreesOfFreedom, statistic: Statistic = "T") -> Float64:
    """Return Euler characteristic densities per resel in 0 to 3 dimensions (table II of [1]), (4,) + shape of ``u``.

    rho_0 is P(S >= u). For t with v degrees of freedom, B = 4 ln 2 and g = (1 + u^2 / v)^(-(v - 1) / 2):
    rho_1 = B^(1/2) / (2 pi) g, rho_2 = B / (2 pi)^(3/2) Gamma((v + 1) / 2) / (Gamma(v / 2) (v / 2)^(1/2)) u g,
    rho_3 = B^(3/2) / (2 pi)^2 ((v - 1) / v u^2 - 1) g.

    Parameters
    ----------
    u
        Height in units of the statistic, any shape.
    df
        Error degrees of freedom, or (numerator, denominator) for "F"; not used for "Z".

    Raises
    ------
    ValueError
        If "F" comes without a pair of degrees of freedom.

    References
    ----------
    1. Worsley et al., Hum Brain Mapp 4:58 (1996), doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O
    """
    value = np.asarray(u, dtype=np.float64)
    zero = np.exp(log_sf(value, df, statistic))
    if statistic == "F":
        if not isinstance(df, tuple):
            raise ValueError(f"F needs a pair of degrees of freedom (numerator, denominator), found {df!r}.")
        rest = _ec_f(value, df)
    elif statistic == "T":
        rest = _ec_t(value, denominator_df(df))
    else:
        rest = _ec_gaussian(value, np.exp(-0.5 * value**2), np.ones(()), np.ones(()))
    return np.stack([zero, *rest])


def _ec_gaussian(u: Float64, tail: Float64, line: Float64, square: Float64) -> list[Float64]:
    """Return densities in 1 to 3 dimensions; ``tail``, ``line`` and ``square`` carry what t has beside z."""
    return [
        FOUR_LOG_TWO**0.5 / (2 * np.pi) * tail,
        FOUR_LOG_TWO / (2 * np.pi) ** 1.5 * line * u * tail,
        FOUR_LOG_TWO**1.5 / (2 * np.pi) ** 2 * (square * u**2 - 1.0) * tail,
    ]


def _ec_t(t: Float64, df: float) -> list[Float64]:
    tail = np.exp(0.5 * (1.0 - df) * np.log1p(t**2 / df))
    line = np.exp(special.gammaln(0.5 * (df + 1)) - special.gammaln(0.5 * df)) / np.sqrt(0.5 * df)
    return _ec_gaussian(t, tail, np.asarray(line), np.asarray((df - 1.0) / df))


def _ec_f(f: Float64, df: tuple[float, float]) -> list[Float64]:
    k, v = df
    x = k * np.maximum(f, np.finfo(np.float64).tiny) / v
    log_tail = -0.5 * (v + k - 2) * np.log1p(x) - special.gammaln(0.5 * v) - special.gammaln(0.5 * k)

    def front(d: int) -> Float64:
        return np.asarray(np.exp(special.gammaln(0.5 * (v + k - d)) + 0.5 * (k - d) * np.log(x) + log_tail))

    scale = FOUR_LOG_TWO / (2 * np.pi)
    return [
        scale**0.5 * np.sqrt(2.0) * front(1),
        scale * front(2) * ((v - 1) * x - (k - 1)),
        scale**1.5
        / np.sqrt(2.0)
        * front(3)
        * ((v - 1) * (v - 2) * x**2 - (2 * v * k - v - k - 1) * x + (k - 1) * (k - 2)),
    ]


def _positive_densities(u: npt.ArrayLike, df: DegreesOfFreedom, statistic: Statistic, d: int) -> Float64:
    """Return the first ``d`` densities; where one is negative (low thresholds) it is no expectation, and eps stands."""
    density = ec_density(u, df, statistic)[:d]
    return np.asarray(np.where(density > 0, density, EPS))


def _dimensions(resel_counts: npt.ArrayLike) -> Float64:
    counts = np.asarray(resel_counts, dtype=np.float64)
    used = np.flatnonzero(counts)
    return counts[: used[-1] + 1] if used.size else counts[:1]


def expected_clusters(
    u: npt.ArrayLike, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> Float64:
    """Return the expected number of clusters above u: E[c] = sum_d R_d rho_d(u), in the shape of ``u``.

    The sum is the expected Euler characteristic, which stands for the number of clusters at high u. A volume full of
    small holes, beside a smooth field, can have a negative one; it then says nothing about clusters and would make
    every one of them significant, so that only the positive terms are taken.

    Parameters
    ----------
    u
        Threshold in units of the statistic, any shape.
    df
        Error degrees of freedom, or (numerator, denominator) for "F".
    resel_counts
        (4,), those of ``resels``.
    """
    counts = _dimensions(resel_counts)
    density = _positive_densities(u, df, statistic, counts.size)
    total = np.tensordot(counts, density, axes=1)
    return np.asarray(np.where(total > 0, total, np.tensordot(np.maximum(counts, 0.0), density, axes=1)))


def expected_resels_per_cluster(
    u: float, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> float:
    """Return the expected size of a cluster in resels: P(S >= u) / rho_D(u), D the highest dimension with resels.

    The expected number of voxels above u over the expected number of clusters, both in dimension D alone, as SPM12
    has it. Times the voxels per resel it is in voxels. Parameters as in :func:`expected_clusters`.
    """
    d = _dimensions(resel_counts).size
    density = _positive_densities(u, df, statistic, d)
    return float(density[0] / density[d - 1])


def p_cluster_uncorrected(
    k_resels: npt.ArrayLike, u: float, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> Float64:
    """Return P(a cluster above u has at least k resels) = exp(-(Gamma(D/2 + 1) k / E[k])^(2/D)).

    Parameters
    ----------
    k_resels
        Sizes in resels, any shape: voxels / product of the widths in voxels.
    u
        Cluster-forming threshold.
    df, resel_counts, statistic
        As in :func:`expected_clusters`; D is the highest dimension with resels, 1 is returned for D = 0.

    References
    ----------
    1. Friston et al., Hum Brain Mapp 1:210 (1994), doi:10.1002/hbm.460010306
    """
    d = _dimensions(resel_counts).size - 1
    k = np.asarray(k_resels, dtype=np.float64)
    if d == 0:  # without extent there is nothing to be large in
        return np.ones_like(k)
    mean = expected_resels_per_cluster(u, df, resel_counts, statistic)
    return np.asarray(np.exp(-((special.gamma(0.5 * d + 1) * k / mean) ** (2.0 / d))), dtype=np.float64)


def p_cluster_fwe(
    k_resels: npt.ArrayLike, u: float, df: DegreesOfFreedom, resel_counts: npt.ArrayLike, statistic: Statistic = "T"
) -> Float64:
    """Return the familywise p of a cluster: 1 - exp(-E[c] P(size >= k)).

    Parameters
    ----------
    k_resels
        Sizes in resels: voxels / product of the widths in voxels.
    u
        Cluster-forming threshold.
    """
    p = p_cluster_uncorrected(k_resels, u, df, resel_counts, statistic)
    return np.asarray(-np.expm1(-(expected_clusters(u, df, resel_counts, statistic) + EPS) * p), dtype=np.float64)


def p_peak_fwe(
    value: npt.ArrayLike,
    df: DegreesOfFreedom,
    resel_counts: npt.ArrayLike,
    n_voxels: int | None = None,
    statistic: Statistic = "T",
) -> Float64:
    """Return the familywise p of a peak: min(1 - exp(-E[c](value)), n_voxels P(S >= value)).

    Parameters
    ----------
    value
        Heights, any shape.
    n_voxels
        Voxels of the search volume; without it Bonferroni's bound is left out.
    df, resel_counts, statistic
        As in :func:`expected_clusters`.

    References
    ----------
    1. Worsley et al., Hum Brain Mapp 4:58 (1996), doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O
    """
    field = -np.expm1(-expected_clusters(value, df, resel_counts, statistic))
    if n_voxels is None:
        return np.asarray(field, dtype=np.float64)
    bonferroni = np.minimum(1.0, n_voxels * np.exp(log_sf(value, df, statistic)))
    return np.asarray(np.minimum(field, bonferroni), dtype=np.float64)


def p_set(
    n_clusters: int,
    k_resels: float,
    u: float,
    df: DegreesOfFreedom,
    resel_counts: npt.ArrayLike,
    statistic: Statistic = "T",
) -> float:
    """Return P(at least ``n_clusters`` clusters of at least ``k_resels``) by the Poisson clumping heuristic.

    1 - sum over i < n of exp(-m) m^i / i!, with m = E[c] P(size >= k).

    References
    ----------
    1. Friston et al., NeuroImage 4:223 (1996), doi:10.1006/nimg.1996.0074
    """
    if n_clusters == 0:
        return 1.0
    p = p_cluster_uncorrected(k_resels, u, df, resel_counts, statistic)
    rate = expected_clusters(u, df, resel_counts, statistic) * p
    return float(special.gammainc(n_clusters, rate))


def height_threshold_fwe(
    alpha: float,
    df: DegreesOfFreedom,
    resel_counts: npt.ArrayLike,
    n_voxels: int | None = None,
    statistic: Statistic = "T",
) -> float:
    """Return the height, in units of the statistic, at which a peak's familywise p (``p_peak_fwe``) is ``alpha``."""

    def excess(u: float) -> float:
        return float(-np.expm1(-expected_clusters(u, df, resel_counts, statistic))) - alpha

    low = critical_value(0.5, df, statistic)
    high = 2.0 * critical_value(0.05, df, statistic)
    while excess(high) > 0:
        high = 2.0 * high
    field = float(optimize.brentq(excess, low, high, xtol=1e-12, rtol=8.9e-16)) if excess(low) > 0 else low
    if n_voxels is None:
        return field
    return min(field, critical_value(alpha / n_voxels, df, statistic))


def extent_threshold_fwe(
    alpha: float,
    u: float,
    df: DegreesOfFreedom,
    resel_counts: npt.ArrayLike,
    voxels_per_resel: float,
    statistic: Statistic = "T",
) -> int:
    """Return the smallest number of voxels with which a cluster's familywise p is at most ``alpha``.

    The inverse of ``p_cluster_fwe``.

    Parameters
    ----------
    u
        Cluster-forming threshold.
    voxels_per_resel
        Product of the widths in voxels.
    """
    d = _dimensions(resel_counts).size - 1
    rate = float(expected_clusters(u, df, resel_counts, statistic))
    p = -np.log1p(-alpha) / rate
    if p >= 1.0 or d == 0:
        return 1
    mean = expected_resels_per_cluster(u, df, resel_counts, statistic)
    k = (-np.log(p)) ** (0.5 * d) * mean / special.gamma(0.5 * d + 1) * voxels_per_resel
    return max(1, int(np.ceil(k - 1e-9)))
