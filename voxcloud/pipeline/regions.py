"""The step ``search-volumes``: masks in which clusters are looked for, made of the regions of an atlas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from voxcloud.bids.regions import atlas_files, read_regions
from voxcloud.bids.regions import search_volumes as find_volumes
from voxcloud.bids.templates import priors_on, study_mask
from voxcloud.bids.volumes import volume_bytes
from voxcloud.config.regions import Regions
from voxcloud.errors import CorruptStoreError
from voxcloud.plan.unit import WorkUnit
from voxcloud.plan.volumes import LIST
from voxcloud.storage.store import Store, file_digest


def search_volumes(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the mask of every search volume, and a list of what each holds."""
    folder = unit.places["folder"]
    spec = Regions.model_validate({**unit.params["regions"], "folder": folder})
    for path in atlas_files(spec, folder):
        if file_digest(path) != unit.inputs[path.name]:
            raise CorruptStoreError(
                f"{unit.key}: expected the atlas that the run was planned with, found that {path} was changed since. "
                "Run the study again."
            )
    grid = study_mask(unit.places["mask"])
    grey, white = priors_on(grid.shape, grid.affine)
    found = find_volumes(spec, read_regions(spec, folder), grid.shape, grid.affine, grey, white)
    tree: dict[str, Any] = {}
    for name in unit.params["names"]:
        volume = found[name]
        data = volume_bytes(volume.mask.astype(np.float32), grid.affine, f"search volume {name}")
        store.write_bytes(f"rois/{name}_mask.nii.gz", data)
        tree[name] = {
            "tissue": volume.tissue,
            "hemisphere": volume.hemisphere,
            "voxels": int(volume.mask.sum()),
            "voxels_by_label": dict(volume.voxels_by_label),
        }
    store.write_bytes(LIST, json.dumps(tree, indent=1).encode())
    nowhere = [text for volume in tree.values() for text, count in volume["voxels_by_label"].items() if not count]
    return {"voxels": {name: volume["voxels"] for name, volume in tree.items()}, "labels_without_voxels": nowhere}
