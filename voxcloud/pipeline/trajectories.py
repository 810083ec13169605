"""Cluster means per participant and visit, read back from the stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxcloud.bids.images import MaskGrid
from voxcloud.pipeline.fitting import checked_manifest, rows_of
from voxcloud.plan.units import stack_spec
from voxcloud.storage.stack import Manifest, read_block
from voxcloud.storage.store import Store

# Rows of the stack that are read together: ten shards, so that no cohort is too large for a worker.
ROWS_AT_ONCE = 250


def cluster_trajectories(view: Any, grid: MaskGrid, voxels: np.ndarray) -> dict[str, list[list[float]]]:
    """Return for each participant the [day, mean over the cluster] of every visit that entered the model."""
    design = view.design
    spec = stack_spec(design["map"], design["label"], grid)
    manifest = checked_manifest(view.store, spec)
    images = design["images"]
    rows = rows_of(manifest, [(i["participant_id"], i["session_id"], i["digest"]) for i in images])
    means = mean_over_voxels(view.store, manifest, rows, voxels, spec.block_voxels)
    found: dict[str, list[list[float]]] = {}
    for image, mean in zip(images, means, strict=True):
        found.setdefault(image["participant_id"], []).append([float(image["day"]), float(mean)])
    return found


def mean_over_voxels(
    store: Store, manifest: Manifest, rows: Sequence[int], voxels: np.ndarray, block_voxels: int
) -> np.ndarray:
    """Return the mean over some voxels for each row, reading only the blocks that hold them, some rows at a time."""
    total = np.zeros(len(rows))
    for block in np.unique(voxels // block_voxels):
        own = voxels[voxels // block_voxels == block]
        start, stop = int(own.min()), int(own.max()) + 1
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            data = read_block(store, manifest, rows[some], start, stop)
            total[some] += data[:, own - start].sum(axis=1, dtype=np.float64)
    return total / len(voxels)
