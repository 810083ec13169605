"""One search for clusters and peaks: a map of statistics, a search volume, a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from voxcloud.errors import MaskError, VoxcloudError
from voxcloud.inference import clusters as cl
from voxcloud.inference import fdr
from voxcloud.inference import random_field as rf
from voxcloud.inference.clusters import Cluster, Peak
from voxcloud.inference.distributions import Statistic, critical_value, denominator_df, log_sf, z_from_log
from voxcloud.inference.random_field import DegreesOfFreedom
from voxcloud.inference.smoothness import Smoothness

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

STRICT_FORMING_P = 0.001
MIN_DF = 20.0
MIN_FWHM_VOXELS = 3.0
UNEVEN_FACTOR = 2.0  # times what estimation noise alone makes of an even field
PEAK_DISTANCE_MM = 8.0
PEAKS_PER_CLUSTER = 3

COMPARE = "Compare them with permutation p-values."
COMPARE_PARTS = "An F contrast has no permutation p-values here: test its parts as t contrasts, which have them."
FEW_DF = "{df:g} error degrees of freedom, fewer than {limit:g}: random field p-values are approximate. {advice}"
ROUGH_FIELD = (
    "Smoothness {fwhm} voxels FWHM, less than {limit:g} on an axis: the field is too rough for the lattice and random "
    "field p-values are inexact. {advice} Smoothing more helps too."
)
BEYOND_MASK = (
    "Smoothness {fwhm} voxels FWHM, wider on an axis than the mask's {extent} voxels: it cannot be estimated from "
    "these residuals, and random field p-values mean nothing. {advice}"
)
LIBERAL_THRESHOLD = (
    "Cluster-forming p < {p:g}, above {limit:g}: cluster p-values from random field theory are too small at such a "
    "threshold. It was accepted on request."
)
UNEVEN_FIELD = (
    "Uneven smoothness: resels per voxel differ by a factor of {ratio:.1f} between the 5th and 95th percentile, where "
    "estimation noise alone makes about {even:.1f}. "
    "Clusters in smooth regions come out with p-values that are too small, clusters in rough regions with p-values "
    "that are too large. {advice}"
)
STATIONARITY_ASSUMED = (
    "{name} maps have uneven smoothness by construction and cluster p-values assume an even one (here resels per "
    "voxel differ by a factor of {ratio:.1f} between the 5th and 95th percentile, where estimation noise alone makes "
    "about {even:.1f}). {advice}"
)
CUT_CLUSTERS = (
    "Above the threshold, {n} of {total} listed clusters reach beyond the search volume: the size is what lies inside."
)
NO_VOLUME = (
    "The search volume holds no block of 2 x 2 x 2 voxels: it has no resels in three dimensions, and cluster p-values "
    "are those of a field of {d} dimensions."
)


class ThresholdError(VoxcloudError, ValueError):
    """A threshold is not what its setting asks for."""


@dataclass(frozen=True)
class SearchResult:
    """What one search found, and what it assumed.

    Attributes
    ----------
    clusters
        Those of at least ``min_extent`` voxels, by the height of their highest peak.
    labels
        (v,), the id of the cluster that each voxel of the mask belongs to, 0 for none.
    n_clusters_all, set_p
        Clusters of any size, and the probability of at least as many.
    statistic, df
        What was searched.
    cluster_forming_p, height_threshold
        Cluster-forming threshold as p and in units of the statistic.
    min_extent, alpha
        As asked for.
    n_voxels, resels
        Of the search volume.
    fwhm_voxels
        Smoothness of the analysis mask per axis.
    expected_clusters, expected_voxels_per_cluster
        By chance, above the threshold, in the search volume.
    height_fwe, extent_fwe
        Height of a peak, and size of a cluster in voxels, whose familywise p is ``alpha``.
    height_fdr
        Smallest statistic whose voxel-wise false discovery rate is at most ``alpha``; infinite if there is none.
    warnings
        Whole sentences for the report.
    """

    clusters: tuple[Cluster, ...]
    labels: Int32
    n_clusters_all: int
    set_p: float
    statistic: Statistic
    df: DegreesOfFreedom
    height_threshold: float
    cluster_forming_p: float
    min_extent: int
    alpha: float
    n_voxels: int
    resels: tuple[float, float, float, float]
    fwhm_voxels: tuple[float, float, float]
    expected_clusters: float
    expected_voxels_per_cluster: float
    height_fwe: float
    height_fdr: float
    extent_fwe: int
    warnings: tuple[str, ...]

    @property
    def p_fwe_min(self) -> float:
        """Smallest familywise p of a displayed cluster, 1 without any: what the family is adjusted over."""
        return min((c.p_fwe for c in self.clusters), default=1.0)

    @property
    def significant(self) -> tuple[Cluster, ...]:
        """Clusters with a familywise p at or below alpha."""
        return tuple(c for c in self.clusters if c.significant)


def check_forming_p(p: float, df: DegreesOfFreedom, statistic: Statistic = "T", *, accept_liberal: bool) -> None:
    """Refuse a cluster-forming threshold that is no p-value, or a liberal one that nobody accepted.

    Parameters
    ----------
    p
        One-sided.
    df, statistic
        Of the map; they tell, in the message, which p a statistic stands for.
    accept_liberal
        Allow p above 0.001.

    Raises
    ------
    ThresholdError
        For p outside (0, 0.5], which is most often a statistic where a p is meant, and for p > 0.001 unless
        ``accept_liberal``.
    """
    if not 0.0 < p <= 0.5:
        message = f"cluster_forming_p: expected a p-value above 0 and at most 0.5, found {p:g}."
        if p > 0.5:
            meant = float(np.exp(log_sf(p, df, statistic)))
            message += (
                f" It looks like a {statistic.lower()} threshold: {statistic.lower()} = {p:g} at "
                f"{denominator_df(df):g} degrees of freedom is p = {meant:.2g}. Write cluster_forming_p: {meant:.2g}, "
                f"or {STRICT_FORMING_P:g}."
            )
        raise ThresholdError(message)
    if p > STRICT_FORMING_P * (1 + 1e-12) and not accept_liberal:
        raise ThresholdError(
            f"cluster_forming_p: expected at most {STRICT_FORMING_P:g}, found {p:g}: cluster p-values from random "
            "field theory are too small at such a threshold (doi:10.1073/pnas.1602413113). Use 0.001, or set "
            "accept_liberal_threshold: true, which the report will say."
        )


def random_field_search(
    stat: npt.ArrayLike,
    df: DegreesOfFreedom,
    mask3d: npt.ArrayLike,
    voxel_index: npt.ArrayLike,
    affine: npt.ArrayLike,
    smoothness: Smoothness,
    *,
    cluster_forming_p: float = STRICT_FORMING_P,
    min_extent: int = 20,
    alpha: float = 0.05,
    roi: npt.ArrayLike | None = None,
    statistic: Statistic = "T",
    accept_liberal_threshold: bool = False,
    nonstationary_map: str = "",
    peaks_per_cluster: int = PEAKS_PER_CLUSTER,
    peak_distance_mm: float = PEAK_DISTANCE_MM,
) -> SearchResult:
    """Search a map of statistics for clusters and peaks with random field theory.

    p(cluster of k) = 1 - exp(-E[c] P(size >= k)), with E[c] = sum_d R_d rho_d(u) over the resels R of the search
    volume. ``min_extent`` hides small clusters after that: it takes no part in any p-value.

    Parameters
    ----------
    stat
        (v,), statistic per voxel of the mask; NaN is outside. Give ``-t`` to search in the other direction.
    df
        Error degrees of freedom, or (numerator, denominator) for "F".
    mask3d
        (x, y, z), the analysis mask.
    voxel_index
        (v,), indices of the voxels of ``stat`` in the flattened (C order) grid.
    affine
        (4, 4), voxel to RAS+ mm.
    smoothness
        Of the analysis mask, also where ``roi`` is given.
    cluster_forming_p
        One-sided p that defines the threshold.
    roi
        (x, y, z), search volume; resels and p-values are those of its intersection with the mask.
    nonstationary_map
        Name of a map that is uneven by construction (volume, tissue-weighted): says so among the warnings.

    Raises
    ------
    ThresholdError
        If ``cluster_forming_p`` is not a p-value, or above 0.001 without ``accept_liberal_threshold``.
    MaskError
        If the search volume is empty or the grids differ.

    References
    ----------
    1. Worsley et al., Hum Brain Mapp 4:58 (1996), doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O
    2. Friston et al., Hum Brain Mapp 1:210 (1994), doi:10.1002/hbm.460010306
    3. Eklund et al., PNAS 113:7900 (2016), doi:10.1073/pnas.1602413113
    """
    check_forming_p(cluster_forming_p, df, statistic, accept_liberal=accept_liberal_threshold)
    values = np.asarray(stat, dtype=np.float64)
    index = np.asarray(voxel_index, dtype=np.int64)
    mask = np.asarray(mask3d, dtype=bool)
    stat3d = _volume_of(values, index, mask)
    volume = mask & np.isfinite(stat3d)
    if roi is not None:
        region = np.asarray(roi, dtype=bool)
        if region.shape != mask.shape:
            raise MaskError(f"Region of interest: expected the grid {mask.shape}, found {region.shape}.")
        volume &= region
    threshold = critical_value(cluster_forming_p, df, statistic)
    field = _Field(
        df,
        statistic,
        threshold,
        rf.resels(volume, smoothness.fwhm_voxels),
        smoothness,
        int(volume.sum()),
        _extent(mask),
    )
    labels, n = cl.label_clusters(stat3d, volume, threshold)
    elsewhere = mask & ~volume & (np.nan_to_num(stat3d, nan=-inf) > threshold)
    found = _describe(field, stat3d, labels, n, volume, elsewhere, np.asarray(affine, dtype=np.float64), index)
    q_voxel = fdr.voxelwise_fdr(np.exp(log_sf(values[volume.ravel()[index]], df, statistic)))
    table = _table(field, found, q_voxel, alpha, peaks_per_cluster, peak_distance_mm)
    displayed = [c for c in table if c.size_voxels >= min_extent]
    shown = tuple(_with_id(c, k + 1) for k, c in enumerate(displayed))
    flat = np.zeros(index.size, dtype=np.int32)
    for cluster in shown:
        flat[cluster.voxels] = cluster.id
    discovered = values[volume.ravel()[index]][q_voxel <= alpha]
    counts = field.resel_counts
    per_cluster = rf.expected_resels_per_cluster(threshold, df, counts, statistic) * smoothness.voxels_per_resel
    return SearchResult(
        clusters=shown,
        labels=flat,
        n_clusters_all=n,
        set_p=rf.p_set(n, 0.0, threshold, df, counts, statistic),
        statistic=statistic,
        df=df,
        height_threshold=threshold,
        cluster_forming_p=cluster_forming_p,
        min_extent=min_extent,
        alpha=alpha,
        n_voxels=field.n_voxels,
        resels=(float(counts[0]), float(counts[1]), float(counts[2]), float(counts[3])),
        fwhm_voxels=smoothness.fwhm_voxels,
        expected_clusters=float(rf.expected_clusters(threshold, df, counts, statistic)),
        expected_voxels_per_cluster=per_cluster,
        height_fwe=rf.height_threshold_fwe(alpha, df, counts, field.n_voxels, statistic),
        height_fdr=float(discovered.min()) if discovered.size else inf,
        extent_fwe=rf.extent_threshold_fwe(alpha, threshold, df, counts, smoothness.voxels_per_resel, statistic),
        warnings=_warnings(field, shown, cluster_forming_p, nonstationary_map),
    )


@dataclass(frozen=True)
class _Field:
    df: DegreesOfFreedom
    statistic: Statistic
    threshold: float
    resel_counts: Float64
    smoothness: Smoothness
    n_voxels: int
    mask_extent: tuple[int, int, int]


@dataclass(frozen=True)
class _Found:
    """Clusters of any size and all local maxima, before any selection; peaks are in order of height."""

    sizes: Int64
    members: tuple[Int64, ...]
    touches: Bool
    cut: Bool
    peak_values: Float64
    peak_owner: Int64
    peak_voxels: Int64
    peak_mm: Float64
    peak_rank: Int64
    voxel_mm3: float


def _volume_of(values: Float64, index: Int64, mask: Bool) -> Float64:
    if values.shape != index.shape:
        raise MaskError(f"Statistic: expected one value for each of {index.size} voxels, found {values.shape}.")
    if index.size and (index.min() < 0 or index.max() >= mask.size):
        raise MaskError(f"Statistic: voxel indices do not fit the mask's grid {mask.shape}.")
    volume = np.full(mask.size, np.nan)
    volume[index] = values
    return volume.reshape(mask.shape)


def _extent(mask: Bool) -> tuple[int, int, int]:
    """Return the number of planes from the first to the last voxel of a mask that is not empty, on each axis."""
    x, y, z = (int(n) + 1 for n in np.ptp(np.argwhere(mask), axis=0))
    return x, y, z


def _describe(
    field: _Field,
    stat3d: Float64,
    labels: Int32,
    n: int,
    volume: Bool,
    elsewhere: Bool,
    affine: Float64,
    index: Int64,
) -> _Found:
    flat = labels.ravel()[index]
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(1, n + 2))
    peaks = cl.find_peaks(stat3d, labels > 0)
    place = np.flatnonzero(volume.ravel()[index])  # positions, in the vector, of the search volume's voxels
    peak_flat = np.ravel_multi_index((peaks[0], peaks[1], peaks[2]), labels.shape)
    rank = np.searchsorted(index[place], peak_flat)
    return _Found(
        sizes=np.diff(bounds).astype(np.int64),
        members=tuple(np.sort(order[bounds[k] : bounds[k + 1]]) for k in range(n)),
        touches=cl.touching(labels, n, volume),
        cut=cl.continuing(labels, n, elsewhere),
        peak_values=stat3d[tuple(peaks)],
        peak_owner=labels[tuple(peaks)].astype(np.int64),
        peak_voxels=peaks,
        peak_mm=(affine[:3, :3] @ peaks + affine[:3, 3:]).T,
        peak_rank=np.asarray(rank, dtype=np.int64),
        voxel_mm3=round(float(abs(np.linalg.det(affine[:3, :3]))), 9),  # 64 mm3, not 63.99999999999998
    )


def _table(
    field: _Field, found: _Found, q_voxel: Float64, alpha: float, peaks_per_cluster: int, distance_mm: float
) -> list[Cluster]:
    """Return every cluster with its p-values, in order of its highest peak."""
    if found.sizes.size == 0:
        return []
    df, kind, u, counts = field.df, field.statistic, field.threshold, field.resel_counts
    size_resels = found.sizes / field.smoothness.voxels_per_resel
    p_unc = rf.p_cluster_uncorrected(size_resels, u, df, counts, kind)
    p_fwe = rf.p_cluster_fwe(size_resels, u, df, counts, kind)
    q_cluster = fdr.cluster_fdr(p_unc)
    peaks = _peaks(field, found, q_voxel)
    clusters: list[Cluster] = []
    for label in dict.fromkeys(found.peak_owner.tolist()):
        own = np.flatnonzero(found.peak_owner == label)
        kept = cl.spaced_peaks(found.peak_mm[own], min_distance_mm=distance_mm, max_peaks=peaks_per_cluster)
        k = label - 1
        clusters.append(
            Cluster(
                id=len(clusters) + 1,
                size_voxels=int(found.sizes[k]),
                size_mm3=float(found.sizes[k] * found.voxel_mm3),
                size_resels=float(size_resels[k]),
                p_fwe=float(p_fwe[k]),
                p_uncorrected=float(p_unc[k]),
                q_fdr=float(q_cluster[k]),
                significant=bool(p_fwe[k] <= alpha),
                touches_edge=bool(found.touches[k]),
                cut=bool(found.cut[k]),
                peaks=tuple(peaks[own[j]] for j in kept),
                voxels=found.members[k],
            )
        )
    return clusters


def _peaks(field: _Field, found: _Found, q_voxel: Float64) -> list[Peak]:
    df, kind, counts = field.df, field.statistic, field.resel_counts
    log_p = log_sf(found.peak_values, df, kind)
    z = z_from_log(log_p)
    p_fwe = rf.p_peak_fwe(found.peak_values, df, counts, field.n_voxels, kind)
    q_peak = fdr.peak_fdr(found.peak_values, field.threshold, df, counts, kind)
    return [
        Peak(
            value=float(found.peak_values[k]),
            z=float(z[k]),
            p_fwe=float(p_fwe[k]),
            p_uncorrected=float(np.exp(log_p[k])),
            q_fdr=float(q_peak[k]),
            q_voxel=float(q_voxel[found.peak_rank[k]]),
            voxel=(int(x), int(y), int(w)),
            mm=(float(mm[0]), float(mm[1]), float(mm[2])),
        )
        for k, ((x, y, w), mm) in enumerate(zip(found.peak_voxels.T, found.peak_mm, strict=True))
    ]


def _with_id(cluster: Cluster, new_id: int) -> Cluster:
    fields = {**cluster.__dict__, "id": new_id}
    return Cluster(**fields)


def _warnings(field: _Field, shown: tuple[Cluster, ...], forming_p: float, nonstationary_map: str) -> tuple[str, ...]:
    notes = []
    advice = COMPARE_PARTS if field.statistic == "F" else COMPARE
    if denominator_df(field.df) < MIN_DF and field.statistic != "Z":
        notes.append(FEW_DF.format(df=denominator_df(field.df), limit=MIN_DF, advice=advice))
    fwhm = field.smoothness.fwhm_voxels
    widths = " x ".join(f"{w:.1f}" for w in fwhm)
    if min(fwhm) < MIN_FWHM_VOXELS:
        notes.append(ROUGH_FIELD.format(fwhm=widths, limit=MIN_FWHM_VOXELS, advice=advice))
    if any(w > n for w, n in zip(fwhm, field.mask_extent, strict=True)):
        extent = " x ".join(str(n) for n in field.mask_extent)
        notes.append(BEYOND_MASK.format(fwhm=widths, extent=extent, advice=advice))
    if forming_p > STRICT_FORMING_P * (1 + 1e-12):
        notes.append(LIBERAL_THRESHOLD.format(p=forming_p, limit=STRICT_FORMING_P))
    ratio, even = field.smoothness.nonstationarity(), field.smoothness.stationary_ratio()
    if nonstationary_map:
        notes.append(STATIONARITY_ASSUMED.format(name=nonstationary_map, ratio=ratio, even=even, advice=advice))
    elif ratio > UNEVEN_FACTOR * even:
        notes.append(UNEVEN_FIELD.format(ratio=ratio, even=even, advice=advice))
    cut = sum(c.cut for c in shown)
    if cut:
        notes.append(CUT_CLUSTERS.format(n=cut, total=len(shown)))
    if field.resel_counts[3] == 0:
        notes.append(NO_VOLUME.format(d=int(np.flatnonzero(field.resel_counts)[-1])))
    return tuple(notes)
