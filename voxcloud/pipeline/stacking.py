"""Steps that put images into the cohort stacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from voxcloud.bids.images import MaskGrid, image_statistics, read_masked
from voxcloud.bids.templates import study_mask
from voxcloud.errors import CorruptStoreError, ImageError, MaskError
from voxcloud.plan.unit import WorkUnit
from voxcloud.plan.units import mask_digest, stack_spec
from voxcloud.schema import check_units, stack_name
from voxcloud.storage.records import read_record
from voxcloud.storage.stack import StackRow, StackSpec, build_manifest, create_stack, write_manifest, write_shard
from voxcloud.storage.store import Store, file_digest

LOG = logging.getLogger(__name__)

# An image with fewer finite voxels than this part of the mask is not an image of this mask.
MIN_FINITE = 0.01


def spec_of(unit: WorkUnit) -> tuple[StackSpec, MaskGrid]:
    """Return the stack's specification and the grid from the study's mask."""
    grid = study_mask(unit.places["mask"])
    if mask_digest(grid) != unit.inputs["mask"]:
        raise MaskError(
            f"{unit.key}: expected the mask that the run was planned with, found that {unit.places['mask']} was "
            "changed since. Run the study again."
        )
    return stack_spec(unit.params["map"], unit.params["label"], grid), grid


def stack_shard(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Read up to 25 images and write one shard, once.

    A bad image stops the unit, which then names every bad image of the shard, or leaves its row empty
    (``on_bad_image: exclude``) and is named in the record.
    """
    spec, grid = spec_of(unit)
    create_stack(store, spec)
    bad: list[dict[str, str]] = []
    statistics: list[dict[str, Any]] = []

    def vectors() -> Iterator[tuple[int, np.ndarray]]:
        for row, participant, session, digest in unit.places["rows"]:
            image = unit.places["images"].get(str(row))
            if image is None:
                continue  # a dead row whose image is gone
            try:
                vector, numbers = read_checked(
                    unit.params["map"], unit.params["label"], grid, participant, session, image
                )
            except ImageError as error:
                bad.append(
                    {"participant_id": participant, "session_id": session, "digest": digest, "reason": str(error)}
                )
                continue
            refuse_other_bytes(unit, store, image, digest)
            statistics.append({"participant_id": participant, "session_id": session, **numbers})
            yield row % spec.shard_rows, vector

    if unit.places["on_bad_image"] == "stop":
        rows = list(vectors())
        if bad:
            raise ImageError("\n".join(item["reason"] for item in bad))
        write_shard(store, spec, unit.params["shard"], rows)
    else:
        write_shard(store, spec, unit.params["shard"], vectors())
    return {"bad": bad, "images": statistics}


def refuse_other_bytes(unit: WorkUnit, store: Store, image: Mapping[str, Any], digest: str) -> None:
    """Stop at an image that was written anew after the plan was made: its row would be known by the old digest.

    An image that a unit of the study makes is known by that unit's fingerprint, and its bytes by the unit's record.
    """
    path = image["path"]
    wanted: str | None = digest.partition("#")[0]
    if "made_by" in image:
        step, name, fingerprint, output = image["made_by"]
        record = read_record(store, step, name, fingerprint[:16], "done")
        outputs = record.outputs if record is not None and record.fingerprint == fingerprint else ()
        wanted = next((found.digest for found in outputs if found.path == output), None)
    if file_digest(path) != wanted:
        raise CorruptStoreError(
            f"{unit.key}: expected the image that the run was planned with, found that {path} was changed since. Run "
            "the study again when nothing writes images any more."
        )


def read_checked(
    map_name: str, label: str, grid: MaskGrid, participant: str, session: str, image: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an image's values in the mask and their median, or refuse the image by participant, session and file.

    Raises
    ------
    ImageError
        If it cannot be read, is on another grid, has hardly a value in the mask, or is in other units than its map's.
    """
    who = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    where = f"{who}, {stack_name(map_name, label)} ({image['path']})"
    try:
        vector = read_masked(image["path"], image["volume"], grid)
    except ImageError as error:
        text = str(error)
        raise ImageError(text if who in text else f"{who}: {text}") from None
    numbers = image_statistics(vector)
    if numbers.n_finite < MIN_FINITE * len(vector):
        raise ImageError(
            f"{where}: expected finite values in the mask's {len(vector)} voxels, found {numbers.n_finite}. "
            "Check that image and mask are in one space, or exclude it (on_bad_image: exclude)."
        )
    check_units(map_name, where, numbers.median, numbers.p01, numbers.p99)
    summary: dict[str, Any] = {"median": float(numbers.median), "nan": int(len(vector) - numbers.n_finite)}
    LOG.info("%s: median %.4g, %d voxels not finite", where, numbers.median, summary["nan"])
    return vector, summary


def stack_manifest(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the manifest: which row holds which image, and the digest of every shard."""
    spec, _ = spec_of(unit)
    create_stack(store, spec)  # what was damaged since is written anew
    rows = [StackRow(*row) for row in unit.places["rows"]]
    manifest = build_manifest(store, spec, unit.places["number"], rows)
    write_manifest(store, manifest)
    return {"rows": len(manifest.rows), "shards": {shard.path: shard.digest for shard in manifest.shards}}
