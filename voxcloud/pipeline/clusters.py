"""Who is behind a cluster: shares, leave-one-out, the between-participant test, held-out values and trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, stats

from voxcloud.bids.atlas import AtlasLabels
from voxcloud.bids.images import MaskGrid
from voxcloud.inference.clusters import Cluster
from voxcloud.inference.random_field import p_cluster_fwe
from voxcloud.inference.search import SearchResult
from voxcloud.models.influence import between_participant_test, contrast_influence, leave_one_out_t
from voxcloud.pipeline.trajectories import cluster_trajectories

# Clusters above this corrected p are listed without leave-one-out fits.
INFLUENCE_P = 0.5
# Voxels around the cluster in which a leave-one-out cluster may grow.
MARGIN_VOXELS = 4
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
        return values if whitener is None else whitener @ values


def describe_cluster(context: ClusterContext, found: SearchResult, cluster: Cluster, number: int) -> dict[str, Any]:
    """Return the tree of one cluster for the result file."""
    peaks = [
        {
            "t": float(p.value) * context.sign,
            "z": float(p.z) * context.sign,
            "p_fwe": float(p.p_fwe),
            "p_uncorrected": float(p.p_uncorrected),
            "q_fdr": float(p.q_fdr),
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
        "t": float(between.t),
        "df": float(between.df),
        "p": float(between.p),
        "effect": float(between.effect),
        "ci": [float(v) for v in between.ci],
        "cohens_d": _d(between.t, X, c),
        "descriptive": True,
        "cross_validated_t": None,
    }
    tree["values"] = dict(zip(people, (float(v) for v in values), strict=True))
    tree["groups"] = {p: context.view.design["groups"].get(p, "") for p in people}
    if cluster.p_fwe < INFLUENCE_P:
        tree["influence"] = _influence(context, found, cluster, positions, white, tree)
    if tree["significant"] and context.view.design["estimator"] == "two-stage":
        tree["trajectories"] = cluster_trajectories(context.view, context.grid, context.inside[positions])
    return tree


def _d(t: float, X: np.ndarray, c: np.ndarray) -> float:
    """Standardised effect: the contrast over the residual SD, t sqrt(c'(X'X)^-1 c)."""
    return float(t * np.sqrt(c @ np.linalg.pinv(X.T @ X) @ c))


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
    crosses = (p_values < alpha) != bool(cluster.p_fwe < alpha)
    usable = np.isfinite(held_out)
    if usable.sum() > X.shape[1] + 1:
        held = between_participant_test(context.whiten(np.where(usable, held_out, 0.0))[usable], X[usable], c)
        tree["between"]["cross_validated_t"] = float(held.t)
        tree["between"]["cross_validated_p"] = float(held.p)
        tree["between"]["cross_validated_n"] = int(usable.sum())
    lowest = int(np.argmin(np.abs(own.loo_t)))
    return {
        "largest_participant": own.largest_participant,
        "share": float(own.largest_share),
        "t_full": float(own.t),
        "loo_t_min": float(np.min(own.loo_t)),
        "loo_t_max": float(np.max(own.loo_t)),
        "loo_t_min_participant": people[lowest],
        "loo_p_min": float(p_values.min()),
        "loo_p_max": float(p_values.max()),
        "loo_p_max_participant": people[int(np.argmax(p_values))],
        "flagged": bool(crosses.any()),
        "flagged_participants": [p for p, bad in zip(people, crosses, strict=True) if bad],
    }


def _leave_one_out_clusters(
    context: ClusterContext, found: SearchResult, positions: np.ndarray, X: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the cluster again without each participant: its corrected p, and that participant's mean in it.

    The cluster is searched in a box around the full one, at the height threshold for one degree of freedom less, with
    the full fit's smoothness. A participant without whom nothing is left has p = 1 and no held-out value.
    """
    shape = context.grid.shape
    flat = context.grid.voxel_index[context.inside]
    coordinates = np.array(np.unravel_index(flat, shape))
    own = coordinates[:, positions]
    low, high = own.min(axis=1) - MARGIN_VOXELS, own.max(axis=1) + MARGIN_VOXELS
    near = ((coordinates >= low[:, None]) & (coordinates <= high[:, None])).all(axis=0)
    if context.roi is not None:
        near &= context.roi.ravel()[flat]
    region = np.flatnonzero(near)
    box = coordinates[:, region] - np.maximum(low, 0)[:, None]
    size = tuple(int(v) for v in box.max(axis=1) + 1)
    values = context.view.values(context.inside[region])
    loo = leave_one_out_t(context.whiten(values), X, c)
    df = context.view.df - 1
    threshold = float(stats.t.isf(context.params["inference"]["cluster_forming_p"], df))
    in_cluster = np.zeros(size, dtype=bool)
    in_cluster[tuple(box[:, np.isin(region, positions)])] = True
    p_values, held_out = np.ones(len(values)), np.full(len(values), np.nan)
    for person in range(len(values)):
        volume = np.zeros(size)
        volume[tuple(box)] = np.nan_to_num(loo[person]) * context.sign
        labels, _ = ndimage.label(volume > threshold, CONNECTIVITY_18)
        overlap = np.bincount(labels[in_cluster], minlength=labels.max() + 1)
        overlap[0] = 0
        if not overlap.any():
            continue
        inside = labels == int(overlap.argmax())
        p_values[person] = p_cluster_fwe(
            inside.sum() / np.prod(context.smooth["fwhm_voxels"]), threshold, df, found.resels
        )
        held_out[person] = values[person, inside[tuple(box)]].mean()
    return p_values, held_out
