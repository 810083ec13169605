"""Clusters and TFCE of voxel vectors, fast enough to be repeated thousands of times."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from voxcloud.errors import DesignError, MaskError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbourhood:
    """Where the voxels lie.

    ``index`` (v, 3) in the grid cropped to the mask, forward ``neighbours`` (v, k) as voxel numbers, -1 where none is.
    """

    shape: tuple[int, int, int]
    index: Ints
    neighbours: Ints
    connectivity: int

    def subset(self, keep: NDArray[np.bool_]) -> Neighbourhood:
        """Return the neighbourhood of the voxels to ``keep`` (v,) alone."""
        return neighbourhood_of(self.index[keep], self.shape, connectivity=self.connectivity)


def neighbourhood_of(voxel_index: ArrayLike, shape: Sequence[int], *, connectivity: int = 18) -> Neighbourhood:
    """List the forward neighbours of every voxel.

    Parameters
    ----------
    voxel_index
        (v,) positions of the voxels in the flattened grid, C order, or (v, 3) indices.
    shape
        Shape of the grid.
    connectivity
        6, 18 (faces and edges, as SPM) or 26.

    Raises
    ------
    MaskError
        If the index does not fit the grid or names a voxel twice.
    """
    if connectivity not in (6, 18, 26):
        raise MaskError(f"clusters: expected connectivity 6, 18 or 26, found {connectivity}. 18 is SPM's.")
    given = np.asarray(voxel_index, dtype=np.int64)
    grid = (int(shape[0]), int(shape[1]), int(shape[2]))
    if given.size == 0 or given.min() < 0 or (given.ndim == 1 and given.max() >= np.prod(grid)):
        raise MaskError(f"clusters: expected voxels inside a grid {grid}, found others. Use the mask of the data.")
    index = np.stack(np.unravel_index(given, grid), axis=1) if given.ndim == 1 else given
    index = np.asarray(index - index.min(axis=0), dtype=np.int64)
    x, y, z = (int(extent) for extent in index.max(axis=0) + 1)
    position = np.full((x + 2, y + 2, z + 2), -1, dtype=np.int64)
    inner = tuple((index + 1).T)
    position[inner] = np.arange(index.shape[0])
    if np.any(position[inner] != np.arange(index.shape[0])):
        raise MaskError("clusters: expected each voxel once, found one twice. Use the mask of the data.")
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [
        (i, j, k)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        for k in (-1, 0, 1)
        if (i, j, k) > (0, 0, 0) and abs(i) + abs(j) + abs(k) <= reach
    ]
    neighbours = np.stack([position[tuple((index + 1 + np.array(step)).T)] for step in steps], axis=1)
    return Neighbourhood(shape=(x, y, z), index=index, neighbours=neighbours, connectivity=connectivity)


def label_above(values: Floats, threshold: float, neighbourhood: Neighbourhood) -> tuple[Ints, NDArray[np.int32], int]:
    """Label the clusters of voxels with a value above ``threshold``.

    Parameters
    ----------
    values
        (v,), in the order of the neighbourhood's voxels.
    threshold
        In units of the values.

    Returns
    -------
    tuple
        The voxels above (m,), their cluster numbers from 0 (m,), the number of clusters. Only these voxels are
        visited, so that the time goes with their number and not with the size of the grid.
    """
    above = values > threshold
    chosen = np.flatnonzero(above)
    if chosen.size == 0:
        return chosen, np.zeros(0, dtype=np.int32), 0
    near = neighbourhood.neighbours[chosen]
    linked = (near >= 0) & above[near]
    source, _ = np.nonzero(linked)
    target = np.searchsorted(chosen, near[linked])
    graph = coo_matrix((np.ones(target.size, dtype=np.int8), (source, target)), shape=(chosen.size, chosen.size))
    count, labels = connected_components(graph, directed=False)
    return chosen, labels, int(count)


def sizes_and_masses(values: Floats, threshold: float, where: Neighbourhood) -> tuple[Ints, Floats, Ints, Ints]:
    """Return size and mass (sum of value - threshold) of every cluster, its voxels and their cluster numbers."""
    chosen, labels, count = label_above(values, threshold, where)
    sizes = np.bincount(labels, minlength=count).astype(np.int64)
    masses = np.bincount(labels, weights=values[chosen] - threshold, minlength=count).astype(np.float64)
    return sizes, masses, chosen, labels.astype(np.int64)


def tfce_maps(values: Floats, where: Neighbourhood) -> Floats:
    """Return the TFCE of maps (m, v): the integral over h of extent(h)^0.5 h^2 dh; negative values are left out.

    Raises
    ------
    DesignError
        If the package ``tfce`` is not installed.

    References
    ----------
    1. Smith and Nichols, NeuroImage 44:83 (2009), doi:10.1016/j.neuroimage.2008.03.061
    """
    try:
        enhance = importlib.import_module("tfce").tfce
    except ImportError as error:
        raise DesignError(
            "permutation test: TFCE was asked for, expected the package tfce, found none. "
            "Install voxcloud[tfce], or use clusters."
        ) from error
    volume = np.zeros((*where.shape, values.shape[0]), dtype=np.float32)
    volume[tuple(where.index.T)] = values.T
    enhanced = enhance(volume, connectivity=where.connectivity, two_sided=False, n_jobs=1)
    return np.asarray(enhanced[tuple(where.index.T)].T, dtype=np.float64)
