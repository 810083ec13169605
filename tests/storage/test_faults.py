"""Faults on purpose: whatever fails, what is said to be done is right, and trying again ends in the same bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxcloud.errors import CorruptStoreError, StorageError
from voxcloud.storage import folder
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.records import (
    OutputRef,
    Record,
    begin_unit,
    list_records,
    outputs_match,
    read_record,
    write_record,
)
from voxcloud.storage.stack import (
    StackSpec,
    allocate_rows,
    build_manifest,
    create_stack,
    read_block,
    shard_path,
    verify_manifest,
    write_manifest,
    write_shard,
)

Images = dict[tuple[str, str, str], np.ndarray]
FINGERPRINT = "f" * 64


def _stack_unit(store: FolderStore, spec: StackSpec, images: Images, shard: int) -> None:
    """Write one shard as a unit does: records away, bytes, record."""
    unit = f"shard-{shard}"
    begin_unit(store, "stack-shard", unit)
    create_stack(store, spec)
    rows = [r for r in allocate_rows(None, images, spec.shard_rows).rows if r.row // spec.shard_rows == shard]
    write_shard(store, spec, shard, ((r.row % spec.shard_rows, images[r.identity]) for r in rows))
    path = shard_path(spec, shard)
    outputs = (OutputRef(path, store.size(path), store.digest(path)),)
    write_record(store, Record("stack-shard", unit, FINGERPRINT, "done", outputs))


def _is_done(store: FolderStore, shard: int) -> bool:
    if (FINGERPRINT[:16], "done") not in list_records(store).get(("stack-shard", f"shard-{shard}"), []):
        return False
    record = read_record(store, "stack-shard", f"shard-{shard}", FINGERPRINT[:16], "done")
    return record is not None and outputs_match(store, record) == ""


def _run(store: FolderStore, spec: StackSpec, images: Images) -> int:
    """Stack everything, trying again until all is done; return the number of failures."""
    allocation = allocate_rows(None, images, spec.shard_rows)
    shards = {r.row // spec.shard_rows for r in allocation.rows}
    failures = 0
    while todo := [shard for shard in sorted(shards) if not _is_done(store, shard)]:
        try:
            _stack_unit(store, spec, images, todo[0])
        except StorageError:
            failures += 1
    while True:
        try:
            write_manifest(store, build_manifest(store, spec, allocation.manifest_number, allocation.rows))
            return failures
        except StorageError:
            failures += 1


def _bytes(store: FolderStore) -> dict[str, bytes]:
    return {p: store.read_bytes(p) for p in store.list("stacks")}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_faults__every_third_write_raises_and_the_end_is_the_same(
    tmp_path: Path,
    spec: StackSpec,
    make_images: Callable[..., Images],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
) -> None:
    images = make_images(4, 4)
    good, bad = FolderStore(tmp_path.resolve() / "good"), FolderStore(tmp_path.resolve() / "bad")
    assert _run(good, spec, images) == 0
    owner = Path if call == "replace" else folder.os
    real = getattr(owner, call)
    count = [0]

    def flaky(*args: object) -> object:
        count[0] += 1
        if count[0] % 3 == 0:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(owner, call, flaky)
    failures = _run(bad, spec, images)
    monkeypatch.undo()
    assert failures > 0
    assert _bytes(bad) == _bytes(good)
    assert not list(bad.root.rglob(".tmp-*"))


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_faults__a_half_record_is_done_again(
    store: FolderStore, spec: StackSpec, make_images: Callable[..., Images], kept: float
) -> None:
    images = make_images(2, 2)
    _run(store, spec, images)
    (path,) = store.list(".voxcloud/records")
    data = store.read_bytes(path)
    store.local_path(path).write_bytes(data[: int(kept * len(data))])
    assert not _is_done(store, 0)
    _run(store, spec, images)
    assert _is_done(store, 0)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_faults__a_torn_shard_is_found_and_written_again(
    store: FolderStore, spec: StackSpec, make_images: Callable[..., Images], kept: float
) -> None:
    images = make_images(3, 3)
    _run(store, spec, images)
    before = _bytes(store)
    path = shard_path(spec, 1)
    store.local_path(path).write_bytes(before[path][: int(kept * len(before[path]))])
    manifest = build_manifest(store, spec, 1, allocate_rows(None, images, 4).rows)
    assert [_is_done(store, shard) for shard in (0, 1, 2)] == [True, False, True]
    _run(store, spec, images)
    assert _bytes(store) == before
    with pytest.raises(CorruptStoreError, match=r"values/c/1/0"):
        verify_manifest(store, manifest)  # the manifest of the torn shard is not that of the whole one


def test_faults__a_kill_before_the_record_is_not_done(
    store: FolderStore, spec: StackSpec, make_images: Callable[..., Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(2, 2)
    _run(store, spec, images)
    write_bytes = FolderStore.write_bytes

    def killed(self: FolderStore, path: str, data: bytes) -> None:
        if "records" in path:
            raise KeyboardInterrupt
        write_bytes(self, path, data)

    monkeypatch.setattr(FolderStore, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        _stack_unit(store, spec, images, 0)
    assert store.exists(shard_path(spec, 0))
    assert not _is_done(store, 0)


def test_faults__everything_lost_but_the_records_is_seen(
    store: FolderStore, spec: StackSpec, make_images: Callable[..., Images]
) -> None:
    images = make_images(3, 3)
    _run(store, spec, images)
    store.delete_prefix("stacks")
    assert not any(_is_done(store, shard) for shard in (0, 1, 2))
    _run(store, spec, images)
    manifest = build_manifest(store, spec, 1, allocate_rows(None, images, 4).rows)
    rows = [r.row for r in manifest.rows]
    np.testing.assert_array_equal(
        read_block(store, manifest, rows, 0, 500), np.stack([images[r.identity] for r in manifest.rows])
    )
