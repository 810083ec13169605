"""Permutation inference of one search: in place of random fields, or beside them where these are doubtful."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from voxcloud.bids.images import MaskGrid
from voxcloud.inference.clusters import Cluster
from voxcloud.inference.distributions import denominator_df
from voxcloud.inference.permutation import PermutationResult, permutation_test
from voxcloud.inference.search import MIN_DF, MIN_FWHM_VOXELS, UNEVEN_FACTOR, SearchResult
from voxcloud.inference.smoothness import Smoothness

# Beside random fields: enough to tell .05 from .01. In place of them the study says how many.
BESIDE_PERMUTATIONS = 1000
# A search without a cluster below this corrected p is not permuted beside: no relabelling would make it a finding.
BESIDE_P = 0.1


class GroupView(Protocol):
    """What permuting needs of a fit."""

    @property
    def entry(self) -> Mapping[str, Any]:
        """Design matrix and participants of the coefficient."""

    @property
    def whitener(self) -> np.ndarray | None:
        """What data and design are multiplied with before the fit."""

    def values(self, voxels: np.ndarray) -> np.ndarray:
        """Participants' coefficients at some voxels."""


@dataclass(frozen=True)
class PermutedSearch:
    """The corrected p of each cluster and peak of a search under relabelling."""

    p_cluster: tuple[float, ...]
    p_peaks: tuple[tuple[float, ...], ...]
    n_permutations: int
    exact: bool
    kind: str

    def sentence(self) -> str:
        """Say where the p values come from."""
        how = "sign flips" if self.kind == "sign-flip" else "permutations (Freedman-Lane)"
        number = f"all {self.n_permutations} possible" if self.exact else str(self.n_permutations)
        return (
            f"Corrected p values are those of the largest cluster and peak under {number} {how}; the "
            f"smallest possible is {1 / (1 + self.n_permutations):.2g}."
        )

    def describe(self) -> dict[str, Any]:
        """Return what the result file says about the relabellings."""
        return {
            "relabellings": self.n_permutations,
            "kind": self.kind,
            "exact": self.exact,
            "smallest_p": 1.0 / (1 + self.n_permutations),
        }


def permute_search(
    view: GroupView,
    grid: MaskGrid,
    inside: np.ndarray,
    found: SearchResult,
    roi: np.ndarray | None,
    direction: str,
    weights: np.ndarray,
    *,
    n_permutations: int,
    seed: int,
) -> PermutedSearch:
    """Compare the clusters and peaks of a search with the largest ones under relabelling (Freedman-Lane).

    Parameters
    ----------
    view
        The fit.
    inside
        Positions of the analysis mask's voxels among the stack's.
    found
        The search; its clusters are those of the observed map at the same threshold.
    roi
        (x, y, z) search volume, or None for the analysis mask.
    direction
        ``greater`` or ``less``.
    weights
        (p,) t contrast.
    """
    place = grid.voxel_index[inside]
    chosen = np.arange(len(place)) if roi is None else np.flatnonzero(roi.ravel()[place])
    null = permutation_test(
        view.values(inside[chosen]),
        view.entry["X"],
        weights,
        n_permutations=n_permutations,
        seed=seed,
        alternative=direction,
        participant_ids=view.entry["participants"],
        whitener=view.whitener,
        voxel_index=place[chosen],
        shape=grid.shape,
        cluster_forming_p=found.cluster_forming_p,
    )
    rank = np.full(len(place), -1, dtype=np.int64)
    rank[chosen] = np.arange(len(chosen))
    return PermutedSearch(
        p_cluster=tuple(_cluster_p(null, rank[c.voxels]) for c in found.clusters),
        p_peaks=tuple(
            tuple(float(null.p_fwe[rank[_position(grid, place, p.voxel)]]) for p in c.peaks) for c in found.clusters
        ),
        n_permutations=null.n_permutations,
        exact=null.exact,
        kind=null.kind,
    )


def replace_p(found: SearchResult, permuted: PermutedSearch, alpha: float) -> SearchResult:
    """Return the search with the corrected p values of clusters and peaks from relabelling."""
    clusters = tuple(
        _with_p(cluster, p, peaks, alpha)
        for cluster, p, peaks in zip(found.clusters, permuted.p_cluster, permuted.p_peaks, strict=True)
    )
    return replace(found, clusters=clusters)


def is_doubtful(found: SearchResult, smoothness: Smoothness, *, uneven: bool) -> bool:
    """Whether random fields found something that their assumptions may not carry: then permutation stands beside.

    Few degrees of freedom, a rough field, or a smoothness that is uneven (by construction, or more than estimation
    noise makes it).
    """
    few = denominator_df(found.df) < MIN_DF
    rough = min(found.fwhm_voxels) < MIN_FWHM_VOXELS
    uneven = uneven or smoothness.nonstationarity() > UNEVEN_FACTOR * smoothness.stationary_ratio()
    return (few or rough or uneven) and any(c.p_fwe < BESIDE_P for c in found.clusters)


def _with_p(cluster: Cluster, p: float, peaks: tuple[float, ...], alpha: float) -> Cluster:
    own = tuple(replace(peak, p_fwe=value) for peak, value in zip(cluster.peaks, peaks, strict=True))
    return replace(cluster, p_fwe=p, p_random_field=cluster.p_theory, significant=p <= alpha, peaks=own)


def _cluster_p(null: PermutationResult, ranks: np.ndarray) -> float:
    """Return the p of the permutation's own cluster at these voxels: the same one, found at the same threshold."""
    assert null.labels is not None
    own = null.labels[ranks]
    label = int(np.bincount(own[own > 0], minlength=1).argmax()) if (own > 0).any() else 0
    return next((c.p_fwe_size for c in null.clusters if c.label == label), 1.0)


def _position(grid: MaskGrid, place: np.ndarray, voxel: tuple[int, int, int]) -> int:
    return int(np.searchsorted(place, np.ravel_multi_index(voxel, grid.shape)))
