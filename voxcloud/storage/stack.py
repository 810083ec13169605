"""The cohort stack: one sharded array (image, voxel) per map and label, with a manifest that says which row is whose.

A shard holds 25 rows and every voxel and is one stored object with one writer, once. Rows are append-only: a replaced
image takes a new row, the old one is dead. ``docs/reference/storage-format.md`` specifies the format.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from voxcloud.errors import CorruptStoreError, StorageError
from voxcloud.schema import STACK_SCHEMA, stack_name
from voxcloud.storage.manifest import (
    Allocation,
    Identity,
    Manifest,
    ShardRef,
    StackRow,
    allocate_rows,
    dead_reasons,
    latest_in,
    manifest_path,
    verify_manifest,
    write_rows,
)
from voxcloud.storage.regions import (
    METADATA,
    ArrayTemplate,
    check_schema,
    encode_chunks,
    read_metadata,
    template_documents,
)
from voxcloud.storage.store import Store
from voxcloud.version import __version__

__all__ = [
    "Allocation",
    "Identity",
    "Manifest",
    "ShardRef",
    "StackRow",
    "StackSpec",
    "allocate_rows",
    "build_manifest",
    "create_stack",
    "latest_manifest",
    "manifest_path",
    "manifest_prefix",
    "read_block",
    "shard_path",
    "stack_documents",
    "stack_prefix",
    "verify_manifest",
    "write_manifest",
    "write_shard",
]

LOG = logging.getLogger(__name__)

# Manifests lie beside the Zarr group, not in it, so that other programs open it without a warning.
GROUP = "stack.zarr"
VALUES = "values"
VOXEL_INDEX = "voxel_index"


@dataclass(frozen=True, eq=False)
class StackSpec:
    """What a stack is: map, label, grid and layout.

    Parameters
    ----------
    mask_digest
        Digest of the superset mask: another mask is another stack.
    shape, affine
        Of the grid; the affine is (4, 4), voxel to RAS+ mm.
    voxel_index
        (voxels,) positions of the mask's voxels in the flattened grid, C order, ascending.
    units
        Of the stored values.
    block_voxels, shard_rows
        Voxels of an inner chunk and images of a shard.
    space
        Name of the space that the grid is in.
    """

    map: str
    label: str
    mask_digest: str
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    voxel_index: npt.NDArray[np.int64]
    units: str
    block_voxels: int = 10_000
    shard_rows: int = 25
    space: str = "mask"

    @property
    def voxels(self) -> int:
        """Number of voxels of the superset mask."""
        return len(self.voxel_index)

    @property
    def inner_voxels(self) -> int:
        """Voxels of an inner chunk: one block, or all of a small mask."""
        return min(self.block_voxels, self.voxels)

    @property
    def stored_voxels(self) -> int:
        """Voxels of a shard: whole blocks, the last one padded."""
        return -(-self.voxels // self.inner_voxels) * self.inner_voxels


def stack_prefix(spec: StackSpec) -> str:
    """Return where a stack lies; another mask is another stack."""
    return f"stacks/{stack_name(spec.map, spec.label)}/mask-{spec.mask_digest[:8]}"


def manifest_prefix(spec: StackSpec) -> str:
    """Return the beginning of the manifests' paths."""
    return f"{stack_prefix(spec)}/manifest"


def shard_path(spec: StackSpec, shard: int) -> str:
    """Return the object that holds a shard."""
    return f"{_values(stack_prefix(spec))}/c/{shard}/0"


def stack_documents(spec: StackSpec) -> tuple[str, ...]:
    """Return the objects that every reader of a stack needs: metadata and voxel index."""
    names = (METADATA, f"{VALUES}/{METADATA}", f"{VOXEL_INDEX}/{METADATA}", f"{VOXEL_INDEX}/c/0")
    return tuple(f"{stack_prefix(spec)}/{GROUP}/{name}" for name in names)


def _values(prefix: str) -> str:
    return f"{prefix}/{GROUP}/{VALUES}"


def create_stack(store: Store, spec: StackSpec, *, recreate: bool = False) -> None:
    """Write a stack's metadata and voxel index if they are not there.

    Objects are created if absent and all writers of one specification write the same bytes, so several units may call
    this at once. What was cut short or damaged is written anew. The array starts with one shard's rows;
    ``write_manifest`` makes it longer.

    Parameters
    ----------
    recreate
        Delete a stack of another specification, with its images and manifests, instead of refusing it.

    Raises
    ------
    StorageError
        If a stack of another specification is there; the message names what differs.
    NewerSchemaError
        If a newer voxcloud wrote the stack.
    """
    prefix = stack_prefix(spec)
    wanted = _documents(spec)
    differs = _create(store, f"{prefix}/{GROUP}", wanted)
    if not differs:
        return
    if not recreate:
        raise StorageError(
            f"{prefix}: expected a stack of the same {', '.join(differs)}, found another. Its images would not fit: "
            "move or delete this folder, and run the study again, which writes it anew."
        )
    store.delete_prefix(prefix)
    _create(store, f"{prefix}/{GROUP}", wanted)


def _create(store: Store, prefix: str, wanted: dict[str, bytes]) -> list[str]:
    """Write what is absent or damaged; return what differs between what is there and what is wanted."""
    if store.exists(f"{prefix}/{METADATA}"):
        check_schema(read_metadata(store, prefix), prefix)
    differs: list[str] = []
    damaged: list[str] = []
    for name, data in wanted.items():
        path = f"{prefix}/{name}"
        if not store.exists(path) and store.create_if_absent(path, data):
            continue
        there = store.read_bytes(path)
        found = _comparable(there) if name.endswith(METADATA) else None
        if found is not None:
            differs += _differences(found, _comparable(data) or {})
        elif there != data:
            damaged.append(name)
    for name in damaged if not differs else ():
        LOG.warning("%s/%s was damaged and is written anew", prefix, name)
        store.write_bytes(f"{prefix}/{name}", wanted[name])
    return differs


def _comparable(document: bytes) -> dict[str, Any] | None:
    """Return of a metadata object what makes the stack: not who wrote it, nor how many images it has room for.

    None if it is not the metadata of anything.
    """
    try:
        tree = json.loads(document)
        attributes = {k: v for k, v in tree.pop("attributes", {}).items() if k != "creator"}
        if tree["node_type"] == "array":
            tree["shape"] = tree["shape"][1:]
        return {**tree, **attributes}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))


def _documents(spec: StackSpec) -> dict[str, bytes]:
    index = np.ascontiguousarray(spec.voxel_index, dtype=np.int64)
    attributes = {
        "schema_version": STACK_SCHEMA,
        "map": spec.map,
        "label": spec.label,
        "units": spec.units,
        "space": spec.space,
        "shape": [int(n) for n in spec.shape],
        "affine": np.asarray(spec.affine, dtype=float).tolist(),
        "mask_digest": spec.mask_digest,
        "voxels": spec.voxels,
        "voxel_index_digest": hashlib.sha256(index.astype("<i8").tobytes()).hexdigest(),
        "block_voxels": spec.block_voxels,
        "shard_rows": spec.shard_rows,
        "creator": {"name": "voxcloud", "version": __version__},
    }
    chunks, shards = (spec.shard_rows, spec.inner_voxels), (spec.shard_rows, spec.stored_voxels)
    values = ArrayTemplate(VALUES, ("image", "voxel"), (spec.shard_rows, spec.voxels), chunks, "float32", shards)
    places = ArrayTemplate(VOXEL_INDEX, ("voxel",), (spec.voxels,), (spec.voxels,), "int64")
    documents = template_documents([values, places], attributes)
    metadata = json.loads(documents[f"{VOXEL_INDEX}/{METADATA}"])
    stored = encode_chunks(metadata, index, (0,), VOXEL_INDEX)
    # The group's own metadata come last: who finds them finds everything.
    return {f"{VOXEL_INDEX}/{name}": data for name, data in stored.items()} | documents


def write_shard(
    store: Store, spec: StackSpec, shard: int, vectors: Iterable[tuple[int, npt.NDArray[np.float32]]]
) -> None:
    """Write one shard, whole, once; it is one object, and nobody else may write it at the same time.

    Parameters
    ----------
    vectors
        (row within the shard, (voxels,) values); rows that are not given hold NaN. They are taken one by one, so that
        one shard is all that is in memory.

    Raises
    ------
    StorageError
        If a row does not belong to the shard, is given twice or has another number of voxels, or the store fails.
    """
    block = np.full((spec.shard_rows, spec.voxels), np.nan, dtype=np.float32)
    path = shard_path(spec, shard)
    taken: set[int] = set()
    for row, vector in vectors:
        if not 0 <= row < spec.shard_rows or row in taken or np.shape(vector) != (spec.voxels,):
            raise StorageError(
                f"{path}: expected each row of 0 to {spec.shard_rows - 1} at most once with {spec.voxels} voxels, "
                f"found row {row} with shape {np.shape(vector)}{' again' if row in taken else ''}. Nothing was written."
            )
        taken.add(row)
        block[row] = vector
    prefix = _values(stack_prefix(spec))
    metadata = read_metadata(store, prefix)
    # The stored array is made longer once, with the manifest; here only in memory, so that the shard has a place.
    first = shard * spec.shard_rows
    metadata["shape"] = [first + spec.shard_rows, spec.voxels]
    for name, data in encode_chunks(metadata, block, (first, 0), path).items():
        store.write_bytes(f"{prefix}/{name}", data)


def build_manifest(store: Store, spec: StackSpec, number: int, rows: Sequence[StackRow]) -> Manifest:
    """Describe the rows and the shards as they are now; dead rows get the reason why.

    Raises
    ------
    CorruptStoreError
        If a shard is missing.
    """
    shards = []
    for shard in sorted({r.row // spec.shard_rows for r in rows}):
        path = shard_path(spec, shard)
        if not store.exists(path):
            raise CorruptStoreError(
                f"{path}: expected shard {shard}, found none. Run the study again, which writes it anew."
            )
        shards.append(ShardRef(shard, path, store.size(path), store.digest(path)))
    return Manifest(number, stack_prefix(spec), dead_reasons(rows), tuple(shards))


def latest_manifest(store: Store, spec: StackSpec) -> Manifest | None:
    """Return the manifest with the highest number that can be read, or None.

    Raises
    ------
    NewerSchemaError
        If a newer voxcloud wrote it.
    """
    return latest_in(store, stack_prefix(spec))


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Make the array as long as its shards, then write the manifest under its number; only one process does this.

    Raises
    ------
    StorageError
        If that number holds a manifest of other rows.
    """
    prefix = _values(manifest.prefix)
    metadata = read_metadata(store, prefix)
    try:
        rows = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        length = rows * (1 + max((s.shard for s in manifest.shards), default=0))
        longer = length > metadata["shape"][0]
    except (KeyError, IndexError, TypeError):
        raise CorruptStoreError(
            f"{prefix}/{METADATA}: expected the metadata of an array, found something else. Delete {manifest.prefix} "
            "and run the study again, which writes it anew."
        ) from None
    if longer:
        metadata["shape"][0] = length
        store.write_bytes(f"{prefix}/{METADATA}", json.dumps(metadata, indent=2).encode())
    write_rows(store, manifest)


@functools.lru_cache(maxsize=64)
def _open(store: Store, prefix: str, modified: float | None, manifest: int) -> zarr.Array[Any]:
    del modified, manifest  # parts of the key: a stack that was made longer or anew is opened anew
    check_schema(read_metadata(store, f"{prefix}/{GROUP}"), prefix)
    return store.zarr_array(_values(prefix))


def read_block(store: Store, manifest: Manifest, rows: Sequence[int], start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return voxels start to stop of some rows, in the order asked, shape (rows, stop - start).

    Each shard's inner chunks are read once, whatever the order. Check the manifest first (``verify_manifest``): a shard
    that was lost since reads as NaN.

    Raises
    ------
    CorruptStoreError
        If a row lies in no shard of the manifest, or a shard cannot be decoded.
    StorageError
        If the voxels are not within the stack.
    """
    array = _open(store, manifest.prefix, store.modified(f"{_values(manifest.prefix)}/{METADATA}"), manifest.number)
    shard_rows, voxels = int(array.chunks[0]), int(array.shape[1])
    if not 0 <= start < stop <= voxels:
        raise StorageError(f"{manifest.prefix}: expected voxels within 0 to {voxels}, found {start} to {stop}.")
    wanted = np.asarray(rows, dtype=np.int64)
    place = wanted // shard_rows
    known = {s.shard: s.path for s in manifest.shards}
    block = np.empty((len(wanted), stop - start), dtype=np.float32)
    for shard in np.unique(place).tolist():
        own = np.flatnonzero(place == shard)
        first = shard * shard_rows
        if shard not in known or first + shard_rows > array.shape[0]:
            raise CorruptStoreError(
                f"{manifest.prefix}: row {wanted[own[0]]} lies in no shard of manifest {manifest.number}. "
                "Run the study again, which writes it anew."
            )
        try:
            data = np.asarray(array[first : first + shard_rows, start:stop])
        except (StorageError, MemoryError):
            raise
        except Exception as error:  # the codecs raise whatever their libraries raise
            raise CorruptStoreError(
                f"{known[shard]}: the shard cannot be decoded ({error}). Delete it and run the study again, which "
                "writes it anew."
            ) from error
        block[own] = data[wanted[own] - first]
    return block
