"""Digests of files, cached: a file that was not touched is not read again.

The cache only saves time. Every fault of it (locked, full, damaged, no home folder) means that files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sqlite3
import time
from pathlib import Path

LOG = logging.getLogger(__name__)

HASH_BLOCK = 1 << 20
# A file that was changed within the clock's tick keeps its times: a digest is kept only of a file at rest for longer.
SETTLED_S = 0.05
CACHE_WAIT_S = 0.5
SHA256 = re.compile(r"[0-9a-f]{64}")

# All that is kept is loaded at once by the first question: asking for 10,000 digests one by one takes seconds.
LOADED_AT_ONCE = 200_000

_memory: dict[str, str] = {}
_loaded: set[Path] = set()


def file_digest(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, cached by path, size, times and inode.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    full = Path(path).resolve()
    _load()
    while True:
        key = _key(full)
        cached = _memory.get(key) or _read(key)
        if cached is not None:
            _memory[key] = cached
            return cached
        digest = _hash(full)
        if _key(full) == key:  # else it was changed while it was read
            break
    if time.time() - full.stat().st_ctime > SETTLED_S:
        _memory[key] = digest
        _write(key, digest)
    return digest


def _key(full: Path) -> str:
    stat = full.stat()
    return f"{full}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"


def _hash(full: Path) -> str:
    state = hashlib.sha256()
    with full.open("rb") as stream:
        while block := stream.read(HASH_BLOCK):
            state.update(block)
    return state.hexdigest()


def cache_file() -> Path:
    """Return where the digests of this user are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "voxcloud" / "digests.sqlite"


def _open() -> sqlite3.Connection:
    file = cache_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    # One connection per call: connections may cross neither threads nor forks. No WAL: home folders are often on NFS.
    connection = sqlite3.connect(file, timeout=CACHE_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _load() -> None:
    try:
        file = cache_file()
        if file in _loaded:
            return
        _loaded.add(file)
        with contextlib.closing(_open()) as connection:
            newest = "SELECT key, sha256 FROM digests ORDER BY rowid DESC LIMIT ?"
            rows = connection.execute(newest, (LOADED_AT_ONCE,)).fetchall()
    except (sqlite3.Error, OSError, RuntimeError) as error:
        _drop_damaged(error)
        return
    _memory.update((str(key), str(digest)) for key, digest in rows if SHA256.fullmatch(str(digest)))


def _read(key: str) -> str | None:
    try:
        with contextlib.closing(_open()) as connection:
            row = connection.execute("SELECT sha256 FROM digests WHERE key = ?", (key,)).fetchone()
    except (sqlite3.Error, OSError, RuntimeError) as error:
        _drop_damaged(error)
        return None
    return str(row[0]) if row is not None and SHA256.fullmatch(str(row[0])) else None


def _write(key: str, digest: str) -> None:
    try:
        with contextlib.closing(_open()) as connection:
            connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, digest))
    except (sqlite3.Error, OSError, RuntimeError) as error:
        _drop_damaged(error)


def _drop_damaged(error: Exception) -> None:
    # Its subclass OperationalError is a lock or a full disk, which pass; DatabaseError itself is a damaged file.
    if type(error) is sqlite3.DatabaseError:
        LOG.warning("%s is damaged (%s) and is made anew", cache_file(), error)
        with contextlib.suppress(OSError):
            cache_file().unlink()
