"""Clusters of a thresholded map and the peaks in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

# Voxels that share a face or an edge, not only a corner: 18 neighbours.
CONNECTIVITY = ndimage.generate_binary_structure(3, 2)
Step = tuple[int, int, int]
_CUBE: tuple[Step, ...] = tuple(product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
NEIGHBOURS = tuple(step for step in _CUBE if 0 < sum(map(abs, step)) < 3)
FACES = tuple(step for step in NEIGHBOURS if sum(map(abs, step)) == 1)


@dataclass(frozen=True)
class Peak:
    """A local maximum of the statistic.

    Attributes
    ----------
    value
        Height of the statistic.
    z
        z-value with the same tail probability.
    p_fwe, p_uncorrected, q_fdr
        Familywise, uncorrected, and topological false discovery rate over the peaks of the search volume.
    q_voxel
        Voxel-wise false discovery rate at the peak.
    voxel
        (3,), indices in the grid.
    mm
        (3,), world coordinates in mm (RAS+).
    """

    value: float
    z: float
    p_fwe: float
    p_uncorrected: float
    q_fdr: float
    q_voxel: float
    voxel: tuple[int, int, int]
    mm: tuple[float, float, float]


@dataclass(frozen=True)
class Cluster:
    """Connected voxels above the cluster-forming threshold.

    Attributes
    ----------
    id
        From 1, by height of the highest peak.
    size_voxels, size_mm3, size_resels
        Extent.
    p_fwe, p_uncorrected, q_fdr
        Familywise, uncorrected, and topological false discovery rate over the clusters of the search volume.
    significant
        p_fwe at or below the alpha of the search.
    touches_edge
        A voxel of the cluster has a face neighbour outside the search volume.
    cut
        The cluster goes on outside the region of interest, above the threshold.
    peaks
        The highest and up to two more, at least 8 mm from one another.
    voxels
        Positions of its voxels in the vector of the mask's voxels.
    p_random_field
        The familywise p of random fields where ``p_fwe`` is another one, that of permutations; None where it is this.
    """

    id: int
    size_voxels: int
    size_mm3: float
    size_resels: float
    p_fwe: float
    p_uncorrected: float
    q_fdr: float
    significant: bool
    touches_edge: bool
    cut: bool
    peaks: tuple[Peak, ...]
    voxels: Int64
    p_random_field: float | None = None

    @property
    def p_theory(self) -> float:
        """Familywise p by random field theory, whichever p decides."""
        return self.p_fwe if self.p_random_field is None else self.p_random_field


def label_clusters(stat3d: npt.ArrayLike, mask3d: npt.ArrayLike, threshold: float) -> tuple[Int32, int]:
    """Label the connected voxels of the mask whose statistic is above (not at) the threshold.

    Parameters
    ----------
    stat3d, mask3d
        (x, y, z), statistic (NaN is outside) and search volume.
    threshold
        In units of the statistic.

    Returns
    -------
    (x, y, z) labels from 1, 0 elsewhere, and their number. Voxels that touch by a face or an edge are connected.
    """
    above = np.asarray(mask3d, dtype=bool) & (np.asarray(stat3d) > threshold)
    labels, n = ndimage.label(above, structure=CONNECTIVITY)
    return labels.astype(np.int32), int(n)


def shifted(volume: npt.NDArray[np.generic], step: Step, places: Int64) -> npt.NDArray[np.generic]:
    """Return the values of a volume padded by one voxel at ``places`` (3, n) of the unpadded grid, moved by a step."""
    return np.asarray(volume[tuple(places[a] + 1 + step[a] for a in range(3))])


def find_peaks(stat3d: npt.ArrayLike, above: npt.ArrayLike) -> Int64:
    """Return the local maxima among the voxels ``above``: (3, n) indices, highest first.

    A peak is not lower than any of its 18 neighbours; of equal neighbours the first in C order is the peak.

    Parameters
    ----------
    stat3d
        (x, y, z), statistic.
    above
        (x, y, z), true where a peak may lie; neighbours outside do not count.
    """
    inside = np.asarray(above, dtype=bool)
    values = np.where(inside, np.asarray(stat3d, dtype=np.float64), -np.inf)
    padded = np.pad(values, 1, constant_values=-np.inf)
    places = np.asarray(np.array(np.nonzero(inside)), dtype=np.int64)
    here = values[tuple(places)]
    peak = np.ones(here.size, dtype=bool)
    for step in NEIGHBOURS:
        there = shifted(padded, step, places)
        peak &= (here > there) if step < (0, 0, 0) else (here >= there)
    order = np.argsort(-here[peak], kind="stable")
    return np.asarray(places[:, peak][:, order], dtype=np.int64)


def spaced_peaks(mm: Float64, *, min_distance_mm: float, max_peaks: int) -> list[int]:
    """Choose peaks of one cluster, highest first: each more than ``min_distance_mm`` from all chosen before it.

    Parameters
    ----------
    mm
        (n, 3), world coordinates, highest peak first.
    """
    chosen: list[int] = []
    for k in range(mm.shape[0]):
        if len(chosen) == max_peaks:
            break
        if all(float(np.linalg.norm(mm[k] - mm[j])) > min_distance_mm for j in chosen):
            chosen.append(k)
    return chosen


def touching(labels: Int32, n: int, volume: npt.ArrayLike) -> Bool:
    """Return, per label 1 to n, whether one of its voxels has a face neighbour outside the volume or the grid."""
    outside = np.pad(~np.asarray(volume, dtype=bool), 1, constant_values=True)
    return _meets(labels, n, outside, FACES)


def continuing(labels: Int32, n: int, above_elsewhere: npt.ArrayLike) -> Bool:
    """Return, per label, whether it is connected to a voxel above the threshold outside the search volume."""
    return _meets(labels, n, np.pad(np.asarray(above_elsewhere, dtype=bool), 1), NEIGHBOURS)


def _meets(labels: Int32, n: int, padded: Bool, steps: tuple[Step, ...]) -> Bool:
    places = np.asarray(np.array(np.nonzero(labels)), dtype=np.int64)
    owner = labels[tuple(places)]
    hit = np.zeros(owner.size, dtype=bool)
    for step in steps:
        hit |= shifted(padded, step, places).astype(bool)
    found = np.zeros(n + 1, dtype=bool)
    found[owner[hit]] = True
    return found[1:]
