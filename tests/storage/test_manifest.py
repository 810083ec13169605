"""Rows and manifests."""

from __future__ import annotations

import json
import logging

import hypothesis.strategies as st
import pytest
from hypothesis import given

from voxcloud.errors import NewerSchemaError, StorageError, TableError
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.manifest import (
    Identity,
    Manifest,
    ShardRef,
    StackRow,
    allocate_rows,
    dead_reasons,
    latest_in,
    manifest_path,
    read_manifest,
    write_rows,
)

# A wave says of which images (participant, session) there are files, and which version of each.
WAVES = st.lists(
    st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from("012")), st.sampled_from("xyz"), max_size=12),
    min_size=1,
    max_size=5,
)
SHARD_ROWS = st.integers(1, 5)


def _identities(wave: dict[tuple[str, str], str]) -> list[Identity]:
    return [(p, s, f"{v}{p}{s}") for (p, s), v in wave.items()]


def _manifest(number: int, rows: tuple[StackRow, ...], shard_rows: int = 25) -> Manifest:
    shards = sorted({r.row // shard_rows for r in rows})
    return Manifest(number, "stacks/x", rows, tuple(ShardRef(s, f"c/{s}", 1, "d") for s in shards))


@given(WAVES, SHARD_ROWS)
def test_allocate_rows__is_append_only(waves: list[dict[tuple[str, str], str]], shard_rows: int) -> None:
    manifest: Manifest | None = None
    for wave in waves:
        images = _identities(wave)
        allocation = allocate_rows(manifest, images, shard_rows)
        numbers = [r.row for r in allocation.rows]
        assert len(set(numbers)) == len(numbers)
        # Exactly the images of today live, each in one row.
        assert sorted(r.identity for r in allocation.rows if r.live) == sorted(images)
        assert all(bool(r.reason) != r.live for r in allocation.rows)
        if manifest is not None:
            old = {r.row: r.identity for r in manifest.rows}
            assert {r.row: r.identity for r in allocation.rows if r.row in old} == old
            # No shard that is there gets a row.
            assert {n // shard_rows for n in set(numbers) - set(old)}.isdisjoint(n // shard_rows for n in old)
            same = allocation.rows == manifest.rows
            assert allocation.manifest_number == manifest.number + (0 if same else 1)
        manifest = _manifest(allocation.manifest_number, allocation.rows, shard_rows)


@given(WAVES, SHARD_ROWS, st.randoms(use_true_random=False))
def test_allocate_rows__the_order_of_images_never_matters(
    waves: list[dict[tuple[str, str], str]], shard_rows: int, random: object
) -> None:
    manifest: Manifest | None = None
    for wave in waves:
        images = _identities(wave)
        shuffled = list(images)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        allocation = allocate_rows(manifest, images, shard_rows)
        assert allocate_rows(manifest, shuffled, shard_rows) == allocation
        manifest = _manifest(allocation.manifest_number, allocation.rows, shard_rows)


@given(WAVES, SHARD_ROWS)
def test_allocate_rows__a_second_time_changes_nothing(waves: list[dict[tuple[str, str], str]], shard_rows: int) -> None:
    manifest: Manifest | None = None
    for wave in waves:
        allocation = allocate_rows(manifest, _identities(wave), shard_rows)
        manifest = _manifest(allocation.manifest_number, allocation.rows, shard_rows)
        again = allocate_rows(manifest, _identities(wave), shard_rows)
        assert (again.rows, again.manifest_number) == (manifest.rows, manifest.number)


def test_allocate_rows__a_replaced_image_takes_a_new_row_in_a_new_shard() -> None:
    first = allocate_rows(None, [("01", "0", "a"), ("02", "0", "b")])
    assert [r.row for r in first.rows] == [0, 1]
    second = allocate_rows(_manifest(1, first.rows), [("01", "0", "A"), ("02", "0", "b")])
    assert second.rows == (
        StackRow(0, "01", "0", "a", False, "replaced by row 25"),
        StackRow(1, "02", "0", "b", True),
        StackRow(25, "01", "0", "A", True),
    )


def test_allocate_rows__a_removed_image_is_dead_and_lives_again_when_it_returns() -> None:
    first = allocate_rows(None, [("01", "0", "a"), ("02", "0", "b")])
    second = allocate_rows(_manifest(1, first.rows), [("02", "0", "b")])
    assert second.rows[0] == StackRow(0, "01", "0", "a", False, "no longer among the study's images")
    third = allocate_rows(_manifest(2, second.rows), [("01", "0", "a"), ("02", "0", "b")])
    assert third.rows == first.rows
    assert third.manifest_number == 3


def test_allocate_rows__two_images_of_one_session_are_refused() -> None:
    with pytest.raises(TableError, match="sub-01 ses-0: expected one image"):
        allocate_rows(None, [("01", "0", "a"), ("01", "0", "b"), ("02", "0", "c")])


def test_write_rows__what_was_written_is_read(store: FolderStore) -> None:
    manifest = _manifest(1, dead_reasons([StackRow(0, "01", "0", "a", False), StackRow(1, "02", "", "b", True)]))
    write_rows(store, manifest)
    assert read_manifest(store, manifest_path(manifest)) == latest_in(store, "stacks/x") == manifest


def test_write_rows__never_changes_a_manifest_of_other_rows(store: FolderStore) -> None:
    first = _manifest(1, (StackRow(0, "01", "0", "a", True),))
    write_rows(store, first)
    with pytest.raises(StorageError, match="found one of other rows"):
        write_rows(store, _manifest(1, (StackRow(0, "02", "0", "b", True),)))
    assert latest_in(store, "stacks/x") == first


def test_latest_in__takes_the_highest_number_that_can_be_read(
    store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert latest_in(store, "stacks/x") is None
    manifests = [_manifest(n, (StackRow(0, "01", "0", f"{n}", True),)) for n in (2, 9, 10)]
    for manifest in manifests:
        write_rows(store, manifest)
    store.write_bytes("stacks/x/manifest-old.json", b"{}")
    assert latest_in(store, "stacks/x") == manifests[2]
    path = store.local_path("stacks/x/manifest-10.json")
    path.write_bytes(path.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert latest_in(store, "stacks/x") == manifests[1]
    assert "manifest-10.json: not a whole manifest" in caplog.text
    write_rows(store, manifests[2])
    assert latest_in(store, "stacks/x") == manifests[2]


def test_read_manifest__of_a_newer_version_is_refused(store: FolderStore) -> None:
    write_rows(store, _manifest(1, ()))
    tree = json.loads(store.read_bytes("stacks/x/manifest-1.json")) | {"schema": 99, "new": 1}
    store.write_bytes("stacks/x/manifest-1.json", json.dumps(tree).encode())
    with pytest.raises(NewerSchemaError, match="expected manifest schema 1 or lower, found 99"):
        latest_in(store, "stacks/x")
