"""Who is behind a cluster: shares, leave-one-out, the between-participant test, held-out values and trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, stats

from voxcloud.bids.atlas import AtlasLabels
from voxcloud.bids.images import MaskGrid
from voxcloud.inference.clusters import Cluster
from voxcloud.inference.random_field import p_cluster_fwe
from voxcloud.inference.search import SearchResult
from voxcloud.models.influence import (
    between_participant_test,
    contrast_influence,
    cross_validated_test,
    crosses_alpha,
    leave_one_out_t,
)
from voxcloud.models.ols import multiply_rows
from voxcloud.pipeline.after_clusters import compare_groups
from voxcloud.pipeline.trajectories import cluster_trajectories

# Clusters above this corrected p are listed without leave-one-out fits.
INFLUENCE_P = 0.5
# Voxels around the cluster in which a leave-one-out cluster may grow.
MARGIN_VOXELS = 4
# Voxels whose leave-one-out statistics are computed at once: memory is some arrays of participants x so many voxels.
PANEL_VOXELS = 1_024
CONNECTIVITY_18 = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True)
class ClusterContext:
    """What describing a cluster needs to know about its search."""

    view: Any
    grid: MaskGrid
    inside: np.ndarray
    statistic: np.ndarray
    smooth: Mapping[str, Any]
    direction: str
    test: Mapping[str, Any]
    roi: np.ndarray | None
    params: Mapping[str, Any]
    atlas: AtlasLabels | None

    @property
    def sign(self) -> float:
        """+1 for greater, -1 for less."""
        return 1.0 if self.direction == "greater" else -1.0

    def design(self) -> tuple[np.ndarray, np.ndarray]:
        """Return design and contrast, whitened as the voxel model is."""
        X = np.asarray(self.view.entry["X"], dtype=np.float64)
        whitener = self.view.whitener
        return (X if whitener is None else whitener @ X), np.asarray(self.test["weights"], dtype=np.float64)[0]

    def whiten(self, values: np.ndarray) -> np.ndarray:
        """Return values as the group model sees them."""
        whitener = self.view.whitener
        if whitener is None:
            return values
        return multiply_rows(whitener, values) if values.ndim == 2 else np.asarray(whitener @ values)


def describe_cluster(context: ClusterContext, found: SearchResult, cluster: Cluster, number: int) -> dict[str, Any]:
    """Return the tree of one cluster for the result file."""
    peaks = [
        {
            "t": float(p.value) * context.sign,
            "z": float(p.z) * context.sign,
            "p_fwe": float(p.p_fwe),
            "p_uncorrected": float(p.p_uncorrected),
            "q_fdr": float(p.q_fdr),
            "q_fdr_voxel": float(p.q_voxel),
            "x": float(p.mm[0]),
            "y": float(p.mm[1]),
            "z_mm": float(p.mm[2]),
        }
        for p in cluster.peaks
    ]
    tree: dict[str, Any] = {
        "id": number,
        "region": "" if context.atlas is None else context.atlas.region_at(cluster.peaks[0].mm),
        "size_voxels": cluster.size_voxels,
        "size_mm3": float(cluster.size_mm3),
        "p_fwe": float(cluster.p_fwe),
        "p_random_field": float(cluster.p_theory),
        "p_uncorrected": float(cluster.p_uncorrected),
        "q_fdr": float(cluster.q_fdr),
        "p_family": min(1.0, float(cluster.p_fwe) * context.params["family_size"]),
        "significant": bool(cluster.significant),
        "touches_edge": bool(cluster.touches_edge),
        "cut": bool(cluster.cut),
        "peaks": peaks,
    }
    if context.test["kind"] != "t":
        return tree
    positions = np.asarray(cluster.voxels)
    people = context.view.entry["participants"]
    values = context.view.values(context.inside[positions]).mean(axis=1)
    X, c = context.design()
    white = context.whiten(values)
    between = between_participant_test(white, X, c, df=context.view.df)
    tree["between"] = {
        "t": _finite(between.t),
        "df": float(between.df),
        "p": _finite(between.p),
        "effect": float(between.effect),
        "ci": [float(v) for v in between.ci],
        "cohens_d": _finite(between.cohens_d),
        "descriptive": True,
        "cross_validated_t": None,
    }
    tree["values"] = dict(zip(people, (float(v) for v in values), strict=True))
    tree["groups"] = {p: context.view.design["groups"].get(p, "") for p in people}
    tree["comparison"] = compare_groups(context.test["test"], tree["values"], tree["groups"])
    if cluster.p_fwe < INFLUENCE_P:
        tree["influence"] = _influence(context, found, cluster, positions, white, tree)
    if tree["significant"] and context.view.design["estimator"] == "two-stage":
        tree["trajectories"] = cluster_trajectories(context.view, context.grid, context.inside[positions])
    return tree


def _influence(
    context: ClusterContext,
    found: SearchResult,
    cluster: Cluster,
    positions: np.ndarray,
    white: np.ndarray,
    tree: dict[str, Any],
) -> dict[str, Any]:
    people = context.view.entry["participants"]
    X, c = context.design()
    alpha = context.params["inference"]["alpha"]
    own = contrast_influence(white, X, c, people, alpha=alpha)
    p_values, held_out = _leave_one_out_clusters(context, found, positions, X, c)
    # Those without a participant are random-field p values: so is the one of all that they are compared with.
    crosses = crosses_alpha(cluster.p_theory, p_values, alpha)
    usable = np.isfinite(held_out)
    seen = np.where(usable, context.whiten(np.where(usable, held_out, 0.0)), np.nan)
    held = cross_validated_test(seen, X, c)
    if held is not None:
        # No p: the cluster was looked for where all the data had found it, so this t is too large on null data as well.
        tree["between"]["cross_validated_t"] = _finite(held.t)
        tree["between"]["cross_validated_n"] = int(usable.sum())
    return {
        "largest_participant": own.largest_participant,
        "share": _finite(own.largest_share),
        "t_full": _finite(own.t),
        "loo_t_min": _finite(own.loo_t_min),
        "loo_t_max": _finite(own.loo_t_max),
        "loo_t_min_participant": own.loo_t_min_participant,
        "loo_p_min": _finite(p_values.min()),
        "loo_p_max": _finite(p_values.max()),
        "loo_p_max_participant": people[int(np.argmax(p_values))],
        "flagged": bool(crosses.any()),
        "flagged_participants": [p for p, bad in zip(people, crosses, strict=True) if bad],
    }


def _finite(value: float) -> float | None:
    """Return what JSON can hold: None for a statistic without a degree of freedom or without variance."""
    return float(value) if np.isfinite(value) else None


def _leave_one_out_clusters(
    context: ClusterContext, found: SearchResult, positions: np.ndarray, X: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the cluster again without each participant: its corrected p, and that participant's mean in it.

    The cluster is searched in a box around the full one, at the height threshold for one degree of freedom less, with
    the full fit's smoothness. A participant without whom nothing is left has p = 1 and no held-out value; NaN where no
    degree of freedom is left.
    """
    df = context.view.df - 1
    if not df > 0:
        return np.full(len(X), np.nan), np.full(len(X), np.nan)
    region, box, size = _box_around(context, positions)
    threshold = float(stats.t.isf(context.params["inference"]["cluster_forming_p"], df))
    # (participants, voxels): above the threshold without this one, then in the cluster without this one. Coefficients
    # are read by panels, twice, so that many participants take no more memory than one byte a voxel each.
    above = np.empty((len(X), region.size), dtype=bool)
    for panel, values in _panels(context, region):
        loo = leave_one_out_t(context.whiten(values), X, c)
        above[:, panel] = np.nan_to_num(loo) * context.sign > threshold
    in_cluster = np.zeros(size, dtype=bool)
    in_cluster[tuple(box[:, np.isin(region, positions)])] = True
    volume = np.zeros(size, dtype=bool)
    for own in above:
        volume[tuple(box)] = own
        labels, _ = ndimage.label(volume, CONNECTIVITY_18)
        overlap = np.bincount(labels[in_cluster], minlength=labels.max() + 1)
        overlap[0] = 0
        own[:] = (labels == int(overlap.argmax()))[tuple(box)] if overlap.any() else False
    voxels, total = above.sum(axis=1), np.zeros(len(X))
    for panel, values in _panels(context, region):
        total += np.where(above[:, panel], values, 0.0).sum(axis=1)
    held_out = np.where(voxels > 0, total / np.maximum(voxels, 1), np.nan)
    sizes = voxels / np.prod(context.smooth["fwhm_voxels"])
    p_values = np.where(voxels > 0, p_cluster_fwe(sizes, threshold, df, found.resels), 1.0)
    return p_values, held_out


def _panels(context: ClusterContext, region: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Give the participants' coefficients of some voxels, panel by panel, float64."""
    for first in range(0, region.size, PANEL_VOXELS):
        panel = slice(first, min(first + PANEL_VOXELS, region.size))
        yield panel, context.view.values(context.inside[region[panel]])


def _box_around(context: ClusterContext, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return the searched voxels around a cluster: positions in the mask, (3, n) places in the box, the box's size."""
    shape = context.grid.shape
    flat = context.grid.voxel_index[context.inside]
    own = np.array(np.unravel_index(flat[positions], shape))
    low = np.maximum(own.min(axis=1) - MARGIN_VOXELS, 0)
    high = own.max(axis=1) + MARGIN_VOXELS
    # Planes of the grid's first axis are neighbours in the mask's order: only those of the box are looked at.
    plane = shape[1] * shape[2]
    first, last = np.searchsorted(flat, [low[0] * plane, (high[0] + 1) * plane])
    coordinates = np.array(np.unravel_index(flat[first:last], shape))
    near = ((coordinates >= low[:, None]) & (coordinates <= high[:, None])).all(axis=0)
    if context.roi is not None:
        near &= context.roi.ravel()[flat[first:last]]
    box = coordinates[:, near] - low[:, None]
    return first + np.flatnonzero(near), box, tuple(int(v) for v in box.max(axis=1) + 1)
