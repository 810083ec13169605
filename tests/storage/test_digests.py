"""Digests and their cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from voxcloud.storage import digests
from voxcloud.storage.digests import cache_file, file_digest


def _settled(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    time.sleep(2 * digests.SETTLED_S)
    return path


def _forget() -> None:
    """Go on as a new process would."""
    digests._memory.clear()
    digests._loaded.clear()


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    read = digests._hash

    def counted(full: Path) -> str:
        reads.append(full)
        return read(full)

    monkeypatch.setattr(digests, "_hash", counted)
    return reads


def test_file_digest__is_the_sha256(tmp_path: Path) -> None:
    data = os.urandom(3 * digests.HASH_BLOCK + 17)
    assert file_digest(_settled(tmp_path / "x", data)) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("new_process", [False, True])
def test_file_digest__reads_a_file_at_rest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_process: bool
) -> None:
    path = _settled(tmp_path / "x", b"abc")
    reads = _count_reads(monkeypatch)
    first = file_digest(path)
    if new_process:
        _forget()
    assert file_digest(path) == first
    assert len(reads) == 1


def test_file_digest__a_new_process_asks_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}" for i in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    time.sleep(2 * digests.SETTLED_S)
    before = [file_digest(path) for path in paths]
    _forget()
    monkeypatch.setattr(digests, "_read", None)
    monkeypatch.setattr(digests, "_hash", None)
    assert [file_digest(path) for path in paths] == before


def test_file_digest__sees_other_bytes_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = _settled(tmp_path / "x", b"abc")
    before = file_digest(path)
    times = path.stat()
    path.write_bytes(b"xyz")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(path) != before


def test_file_digest__sees_a_change_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for i in range(200):
        path.write_bytes(f"{i:05}".encode())
        assert file_digest(path) == hashlib.sha256(f"{i:05}".encode()).hexdigest()


def test_file_digest__touching_and_copying_keep_it(tmp_path: Path) -> None:
    path = _settled(tmp_path / "x", b"abc")
    before = file_digest(path)
    path.touch()
    shutil.copy(path, tmp_path / "y")
    assert file_digest(path) == file_digest(tmp_path / "y") == before


def test_file_digest__a_damaged_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _settled(tmp_path / "x", b"abc")
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(b"this is no database" * 1000)
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    _forget()
    file_digest(path)
    _forget()
    reads = _count_reads(monkeypatch)
    file_digest(path)
    assert reads == []


def test_file_digest__a_wrong_entry_is_not_believed(tmp_path: Path) -> None:
    path = _settled(tmp_path / "x", b"abc")
    file_digest(path)
    with sqlite3.connect(cache_file()) as connection:
        connection.execute("UPDATE digests SET sha256 = 'half'")
    connection.close()
    _forget()
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()


def test_file_digest__works_where_no_cache_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_digest(_settled(tmp_path / "x", b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_file_digest__a_locked_cache_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "CACHE_WAIT_S", 0.05)
    file_digest(_settled(tmp_path / "w", b"makes the table"))
    path = _settled(tmp_path / "x", b"abc")
    connection = sqlite3.connect(cache_file(), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    finally:
        connection.close()
    assert cache_file().exists()
