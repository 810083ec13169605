"""Objects in a folder: whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from voxcloud.errors import CorruptStoreError, StorageError, StorageFullError
from voxcloud.storage import folder
from voxcloud.storage.folder import FolderStore


def _files(store: FolderStore) -> list[str]:
    return sorted(p.name for p in store.root.rglob("*") if p.is_file() and "lock" not in p.name)


def _raise(code: int) -> Callable[[int], None]:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_write_bytes__replaces_and_leaves_nothing_else(store: FolderStore) -> None:
    store.write_bytes("a/b/c.json", b"one")
    store.write_bytes("a/b/c.json", b"two")
    assert store.read_bytes("a/b/c.json") == b"two"
    assert _files(store) == ["c.json"]


def test_write_bytes__takes_names_as_long_as_the_file_system_does(store: FolderStore) -> None:
    store.write_bytes("n" * 255, b"x")
    assert store.size("n" * 255) == 1


def test_write_bytes__readers_see_old_or_new_bytes(store: FolderStore) -> None:
    sizes = [b"a" * 300_000, b"b" * 200_000]
    store.write_bytes("x", sizes[0])
    stop = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            data = store.read_bytes("x")
            if data not in sizes:
                torn.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        store.write_bytes("x", sizes[i % 2])
    stop.set()
    reader.join()
    assert not torn


def test_write_bytes__full_disk_is_named_and_nothing_remains(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("a/x", b"old")
    monkeypatch.setattr(folder.os, "fsync", _raise(errno.ENOSPC))
    with pytest.raises(
        StorageFullError, match=r"a/x: no space is left on the disk \([\d,]+ bytes free\). Make room"
    ) as caught:
        store.write_bytes("a/x", b"new")
    monkeypatch.undo()
    assert not caught.value.retryable
    assert store.read_bytes("a/x") == b"old"
    assert _files(store) == ["x"]


def test_write_bytes__quota_counts_as_full(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.os, "fsync", _raise(errno.EDQUOT))
    with pytest.raises(StorageFullError, match="quota"):
        store.write_bytes("x", b"new")


@pytest.mark.parametrize(("code", "retryable"), [(errno.EACCES, False), (errno.EROFS, False), (errno.EIO, True)])
def test_write_bytes__says_whether_trying_again_helps(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, code: int, retryable: bool
) -> None:
    monkeypatch.setattr(folder.os, "fsync", _raise(code))
    with pytest.raises(StorageError) as caught:
        store.write_bytes("x", b"new")
    assert not isinstance(caught.value, StorageFullError)
    assert caught.value.retryable is retryable
    assert str(store.root / "x") in str(caught.value)
    assert StorageError.retryable is True


@pytest.mark.parametrize("operation", ["write_bytes", "create_if_absent"])
def test_write_bytes__refuses_links_out_of_the_store(store: FolderStore, tmp_path: Path, operation: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store.root.mkdir()
    (store.root / "link").symlink_to(outside)
    with pytest.raises(StorageError, match="link"):
        getattr(store, operation)("link/x", b"data")
    assert list(outside.iterdir()) == []


def test_read_bytes__refuses_a_link_to_a_file_outside(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    store.root.mkdir()
    (store.root / "x").symlink_to(tmp_path / "secret")
    for operation in (store.read_bytes, store.exists, store.size, store.digest, store.delete):
        with pytest.raises(StorageError, match="link"):
            operation("x")


def test_read_bytes__links_in_a_circle_are_an_error(store: FolderStore) -> None:
    store.root.mkdir()
    (store.root / "a").symlink_to(store.root / "b")
    (store.root / "b").symlink_to(store.root / "a")
    with pytest.raises((StorageError, CorruptStoreError)):
        store.read_bytes("a")


def test_read_bytes__names_what_is_missing(store: FolderStore) -> None:
    with pytest.raises(CorruptStoreError, match=r"a/b: expected this object, found none"):
        store.read_bytes("a/b")


def test_create_if_absent__one_of_many_wins(store: FolderStore) -> None:
    barrier = threading.Barrier(8)
    won: list[bytes] = []

    def contend(name: bytes) -> None:
        barrier.wait()
        if store.create_if_absent("a/x", name * 1000):
            won.append(name)

    threads = [threading.Thread(target=contend, args=(bytes([65 + i]),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read_bytes("a/x") == won[0] * 1000
    assert _files(store) == ["x"]


def test_replace_if__only_where_the_bytes_are_as_expected(store: FolderStore) -> None:
    assert not store.replace_if("x", b"", b"new")
    store.write_bytes("x", b"old")
    assert not store.replace_if("x", b"other", b"new")
    assert store.replace_if("x", b"old", b"new")
    assert store.read_bytes("x") == b"new"
    assert store.replace_if("x", b"new", None)
    assert not store.exists("x")


def test_replace_if__one_of_many_wins(store: FolderStore) -> None:
    for turn in range(10):
        store.write_bytes("x", b"old")
        barrier = threading.Barrier(6)
        won: list[int] = []

        def contend(number: int, barrier: threading.Barrier = barrier, won: list[int] = won, turn: int = turn) -> None:
            barrier.wait()
            if store.replace_if("x", b"old", f"{turn} {number}".encode()):
                won.append(number)

        threads = [threading.Thread(target=contend, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read_bytes("x") == f"{turn} {won[0]}".encode()


def test_replace_if__a_lock_that_is_never_given_back_is_named(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LOCK_WAIT_S", 0.1)
    store.write_bytes("x", b"old")
    with folder._locked(store.root / "x"), pytest.raises(StorageError, match="another process has held this lock"):
        store.replace_if("x", b"old", b"new")
    assert store.replace_if("x", b"old", b"new")


def test_list__one_walk_sorted_without_links_and_unfinished_files(store: FolderStore, tmp_path: Path) -> None:
    for path in ("b/z", "b/a/x", "a", "bb"):
        store.write_bytes(path, b"1")
    (store.root / "b" / ".tmp-123").write_bytes(b"half")
    (store.root / "b" / "link").symlink_to(tmp_path)
    assert store.list("b") == ["b/a/x", "b/z"]
    assert store.list("") == ["a", "b/a/x", "b/z", "bb"]
    assert store.list("nothing") == store.list("a") == []


def test_delete__what_is_not_there_is_no_error(store: FolderStore) -> None:
    store.write_bytes("a/x", b"1")
    store.delete("a/x")
    store.delete("a/x")
    store.delete("a/x/y")
    store.delete_prefix("a")
    store.delete_prefix("a")
    assert store.list("") == []


def test_delete_prefix__never_the_store_itself(store: FolderStore) -> None:
    store.write_bytes("a", b"1")
    with pytest.raises(StorageError, match="the store itself"):
        store.delete_prefix("")
    assert store.exists("a")


def test_size__and_digest_of_what_is_not_there(store: FolderStore) -> None:
    store.write_bytes("a/x", b"abc")
    assert store.size("a/x") == 3
    assert (store.size("b"), store.digest("b"), store.modified("b"), store.digest("a")) == (-1, "", None, "")
    assert (store.size("a/x/y"), store.digest("a/x/y")) == (-1, "")


def test_now__is_the_time_that_a_file_gets(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.time, "time", lambda: 0.0)
    before = store.now()
    store.write_bytes("x", b"1")
    written = store.modified("x")
    assert written is not None
    assert before <= written <= store.now()
    assert store.list("") == ["x"]


def test_sweep__removes_what_killed_writers_left(store: FolderStore) -> None:
    store.write_bytes("a/x", b"1")
    (store.root / "a" / ".tmp-123").write_bytes(b"half")
    assert store.sweep() == 1
    assert _files(store) == ["x"]
