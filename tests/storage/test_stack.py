"""Stacks."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from voxcloud.errors import CorruptStoreError, NewerSchemaError, StorageError
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.stack import (
    Manifest,
    StackRow,
    StackSpec,
    build_manifest,
    create_stack,
    latest_manifest,
    manifest_path,
    manifest_prefix,
    read_block,
    shard_path,
    stack_documents,
    stack_prefix,
    verify_manifest,
    write_manifest,
    write_shard,
)

Make, Put = Callable[..., dict[tuple[str, str, str], np.ndarray]], Callable[..., Manifest]


def _group(store: FolderStore, spec: StackSpec) -> zarr.Group:
    return zarr.open_group(store.root / stack_prefix(spec) / "stack.zarr", mode="r")


def test_create_stack__other_programs_find_everything_in_it(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    group = _group(store, spec)
    values = group["values"]
    assert (values.shape, values.chunks, values.shards) == ((4, 500), (4, 120), (4, 600))
    assert values.dtype == np.float32
    assert values.metadata.dimension_names == ("image", "voxel")
    np.testing.assert_array_equal(group["voxel_index"][:], spec.voxel_index)
    wanted = {"schema_version": 1, "map": "R1map", "label": "GM", "units": "1/s", "shape": [10, 10, 10], "voxels": 500}
    assert {key: group.attrs[key] for key in wanted} == wanted
    np.testing.assert_array_equal(group.attrs["affine"], spec.affine)


def test_create_stack__the_same_again_changes_nothing(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    put(store, spec, make_images(3, 3))
    before = {path: store.local_path(path).stat().st_ino for path in store.list("")}
    create_stack(store, spec)
    create_stack(store, dataclasses.replace(spec), recreate=True)
    assert {path: store.local_path(path).stat().st_ino for path in store.list("")} == before


def test_create_stack__many_at_once_make_one(store: FolderStore, spec: StackSpec) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: create_stack(store, spec), range(12)))
    assert _group(store, spec)["values"].shape == (4, 500)
    assert len(store.list("")) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"units": "p.u."}, "units"),
        ({"block_voxels": 100}, "block_voxels"),
        ({"shard_rows": 5}, "shard_rows"),
        ({"affine": np.eye(4)}, "affine"),
        ({"voxel_index": np.arange(500)}, "voxel_index"),
    ],
)
def test_create_stack__another_specification_is_refused_by_name(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put, change: dict[str, object], named: str
) -> None:
    put(store, spec, make_images(2, 2))
    other = dataclasses.replace(spec, **change)
    with pytest.raises(StorageError, match=named):
        create_stack(store, other)
    assert latest_manifest(store, spec) is not None
    create_stack(store, other, recreate=True)
    assert latest_manifest(store, other) is None
    assert not store.exists(shard_path(other, 0))
    assert _group(store, other).attrs["units"] == other.units


def test_create_stack__what_was_cut_short_is_written_anew(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    before = {path: store.read_bytes(path) for path in store.list("")}
    for document, data in before.items():
        store.local_path(document).write_bytes(data[: len(data) // 2])
        create_stack(store, spec)
        assert {path: store.read_bytes(path) for path in store.list("")} == before


def test_create_stack__writes_nothing_into_a_stack_that_it_refuses(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    index = store.local_path(next(path for path in stack_documents(spec) if path.endswith("/c/0")))
    index.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="expected a stack of the same units"):
        create_stack(store, dataclasses.replace(spec, units="1/ms"))
    assert index.read_bytes() == b"damaged"


def test_stack_documents__are_all_that_a_new_stack_holds(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    assert sorted(stack_documents(spec)) == store.list("")


def test_create_stack__what_is_missing_is_added(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    before = {path: store.read_bytes(path) for path in store.list("")}
    for path in list(before)[:2]:
        store.delete(path)
    create_stack(store, spec)
    assert {path: store.read_bytes(path) for path in store.list("")} == before


def test_create_stack__of_a_newer_version_is_refused(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    path = store.root / stack_prefix(spec) / "stack.zarr/zarr.json"
    tree = json.loads(path.read_text())
    tree["attributes"]["schema_version"] = 99
    path.write_text(json.dumps(tree))
    for recreate in (False, True):
        with pytest.raises(NewerSchemaError, match="found 99"):
            create_stack(store, spec, recreate=recreate)


def test_stack_prefix__another_mask_is_another_stack(spec: StackSpec) -> None:
    assert stack_prefix(spec) != stack_prefix(dataclasses.replace(spec, mask_digest="cd" * 32))
    assert stack_prefix(spec).startswith("stacks/R1map_label-GM/")


def test_write_shard__is_one_object_and_gives_the_same_bytes_again(
    store: FolderStore, spec: StackSpec, make_images: Make
) -> None:
    create_stack(store, spec)
    vectors = list(enumerate(make_images(3, 1).values()))
    before = set(store.list(""))
    write_shard(store, spec, 7, vectors)
    assert set(store.list("")) - before == {shard_path(spec, 7)}
    data = store.read_bytes(shard_path(spec, 7))
    write_shard(store, spec, 7, reversed(vectors))
    assert store.read_bytes(shard_path(spec, 7)) == data


def test_write_shard__without_a_single_value_is_stored(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    write_shard(store, spec, 0, [])
    assert store.size(shard_path(spec, 0)) > 0


@pytest.mark.parametrize(
    "rows",
    [
        [(4, np.zeros(500))],
        [(-1, np.zeros(500))],
        [(0, np.zeros(500)), (0, np.ones(500))],
        [(0, np.zeros(499))],
        [(0, np.zeros((1, 500)))],
    ],
)
def test_write_shard__refuses_rows_that_are_not_its_own(
    store: FolderStore, spec: StackSpec, rows: list[tuple[int, np.ndarray]]
) -> None:
    create_stack(store, spec)
    with pytest.raises(StorageError, match="Nothing was written"):
        write_shard(store, spec, 0, rows)
    assert not store.exists(shard_path(spec, 0))


def test_write_shard__a_reader_that_fails_leaves_nothing(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)

    def vectors() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, np.zeros(500, dtype=np.float32)
        raise ValueError("image 2 is damaged")

    with pytest.raises(ValueError, match="image 2"):
        write_shard(store, spec, 0, vectors())
    assert not store.exists(shard_path(spec, 0))


def test_write_shard__many_writers_of_different_shards_lose_nothing(
    store: FolderStore, spec: StackSpec, make_images: Make
) -> None:
    create_stack(store, spec)
    vectors = list(make_images(8, 4).values())

    def write(shard: int) -> None:
        write_shard(store, spec, shard, enumerate(vectors[4 * shard : 4 * shard + 4]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    write_manifest(store, build_manifest(store, spec, 1, _rows(32)))
    np.testing.assert_array_equal(_group(store, spec)["values"][:], np.stack(vectors))


def _rows(count: int) -> list[StackRow]:
    return [StackRow(i, f"{i:02}", "0", str(i), True) for i in range(count)]


def test_write_shard__holds_one_shard_in_memory(store: FolderStore) -> None:
    voxels, rows = 200_000, 25
    spec = StackSpec("R1map", "", "ab" * 32, (100, 100, 20), np.eye(4), np.arange(voxels), "1/s")
    create_stack(store, spec)
    write_shard(store, spec, 0, [])
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        write_shard(store, spec, 0, ((r, rng.random(voxels, dtype=np.float32)) for r in range(rows)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What the plan promises: the values, the encoded shard and one copy of it.
    assert peak < 3 * rows * voxels * 4


def test_read_block__gives_rows_in_the_order_asked(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    images = make_images(4, 3)
    manifest = put(store, spec, images)
    vectors = {r.row: images[r.identity] for r in manifest.rows}
    rng = np.random.default_rng(0)
    for start, stop in ((0, 120), (120, 240), (480, 500), (0, 500), (100, 101)):
        rows = rng.permutation(len(vectors)).tolist()
        block = read_block(store, manifest, rows, start, stop)
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, np.stack([vectors[r][start:stop] for r in rows]))
    np.testing.assert_array_equal(read_block(store, manifest, [5, 5], 0, 120), np.stack([vectors[5][:120]] * 2))


def test_read_block__dead_rows_stay_readable_for_older_manifests(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    old, new = make_images(3, 2), make_images(3, 2, "b")
    first = put(store, spec, old)
    before = read_block(store, first, range(6), 0, 500)
    second = put(store, spec, new)
    assert (first.number, second.number) == (1, 2)
    np.testing.assert_array_equal(read_block(store, first, range(6), 0, 500), before)
    live = [r for r in second.rows if r.live]
    np.testing.assert_array_equal(
        read_block(store, second, [r.row for r in live], 0, 500), np.stack([new[r.identity] for r in live])
    )
    verify_manifest(store, first)


@pytest.mark.parametrize("row", [-1, 40, 4000])
def test_read_block__a_row_in_no_shard_is_an_error_and_not_nan(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put, row: int
) -> None:
    manifest = put(store, spec, make_images(3, 3))
    with pytest.raises(CorruptStoreError, match=f"row {row} lies in no shard"):
        read_block(store, manifest, [0, row], 0, 120)


@pytest.mark.parametrize(("start", "stop"), [(0, 501), (-1, 5), (5, 5)])
def test_read_block__voxels_outside_are_refused(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put, start: int, stop: int
) -> None:
    manifest = put(store, spec, make_images(2, 2))
    with pytest.raises(StorageError, match="voxels within 0 to 500"):
        read_block(store, manifest, [0], start, stop)


def test_read_block__a_shard_cut_in_half_is_an_error(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    manifest = put(store, spec, make_images(3, 3))
    path = store.local_path(shard_path(spec, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptStoreError, match=r"values/c/1/0"):
        read_block(store, manifest, [0, 5], 0, 500)


@pytest.mark.parametrize("damage", ["lost", "half", "one byte"])
def test_verify_manifest__names_the_shard_and_what_to_do(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put, damage: str
) -> None:
    manifest = put(store, spec, make_images(3, 3))
    verify_manifest(store, manifest)
    path = store.local_path(shard_path(spec, 1))
    data = bytearray(path.read_bytes())
    if damage == "lost":
        path.unlink()
    elif damage == "half":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"values/c/1/0: expected shard 1 .*Run the study again"):
        verify_manifest(store, manifest)


def test_verify_manifest__a_shard_written_again_from_the_same_images_is_the_same(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    images = make_images(3, 3)
    manifest = put(store, spec, images)
    store.delete(shard_path(spec, 1))
    rows = [r for r in manifest.rows if r.row // 4 == 1]
    write_shard(store, spec, 1, ((r.row % 4, images[r.identity]) for r in rows))
    verify_manifest(store, manifest)


def test_build_manifest__a_missing_shard_is_named(store: FolderStore, spec: StackSpec) -> None:
    create_stack(store, spec)
    with pytest.raises(CorruptStoreError, match=r"values/c/0/0: expected shard 0"):
        build_manifest(store, spec, 1, _rows(2))


def test_write_manifest__makes_the_array_as_long_as_its_shards(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    manifest = put(store, spec, make_images(3, 3))
    assert _group(store, spec)["values"].shape == (12, 500)
    assert manifest_path(manifest) == f"{manifest_prefix(spec)}-1.json"
    inode = store.local_path(manifest_path(manifest)).stat().st_ino
    write_manifest(store, manifest)
    assert store.local_path(manifest_path(manifest)).stat().st_ino == inode


def test_write_manifest__metadata_cut_short_are_named(
    store: FolderStore, spec: StackSpec, make_images: Make, put: Put
) -> None:
    manifest = put(store, spec, make_images(2, 2))
    (store.root / stack_prefix(spec) / "stack.zarr/values/zarr.json").write_bytes(b"{")
    with pytest.raises(CorruptStoreError, match=r"values/zarr\.json"):
        write_manifest(store, manifest)
