"""Manifests of a stack: which row is whose, and which bytes the shards had; numbered, and never changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from voxcloud.errors import CorruptStoreError, NewerSchemaError, StorageError, TableError
from voxcloud.schema import MANIFEST_SCHEMA
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

# (participant_id, session_id, digest of the source image)
Identity = tuple[str, str, str]


@dataclass(frozen=True)
class StackRow:
    """One row: whose image, which bytes, whether it is still in the study, and if not, why."""

    row: int
    participant_id: str
    session_id: str
    digest: str
    live: bool
    reason: str = ""

    @property
    def identity(self) -> Identity:
        """What makes an image: participant, session and bytes."""
        return self.participant_id, self.session_id, self.digest


@dataclass(frozen=True)
class ShardRef:
    """One shard as it was when the manifest was written."""

    shard: int
    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Which row is whose, and which shards hold them."""

    number: int
    prefix: str
    rows: tuple[StackRow, ...]
    shards: tuple[ShardRef, ...]


@dataclass(frozen=True)
class Allocation:
    """Rows after the images of today are taken in, and the number of the manifest that will say so."""

    rows: tuple[StackRow, ...]
    manifest_number: int


def allocate_rows(manifest: Manifest | None, images: Iterable[Identity], shard_rows: int = 25) -> Allocation:
    """Give every image a row: those with one keep it, new ones start a new shard, sorted.

    Rows of the manifest never move, so that no shard that it names is ever written with other images. Rows that no
    manifest names yet may be given anew: their shards do not count as written.

    Parameters
    ----------
    manifest
        The newest manifest, or None for a new stack.
    images
        (participant_id, session_id, digest) of every image of today, in any order.
    shard_rows
        Images of a shard.

    Raises
    ------
    TableError
        If a participant's session has two different images.
    """
    wanted = sorted(set(images))
    twice = [name for name, count in Counter((p, s) for p, s, _ in wanted).items() if count > 1]
    if twice:
        raise TableError(
            f"sub-{twice[0][0]} ses-{twice[0][1]}: expected one image per participant, session, map and label, found "
            "two. Take one out of the images table."
        )
    today = set(wanted)
    before = manifest.rows if manifest is not None else ()
    have = {r.identity for r in before}
    first = (max(r.row for r in before) // shard_rows + 1) * shard_rows if before else 0
    rows = [replace(r, live=r.identity in today) for r in before]
    new = [identity for identity in wanted if identity not in have]
    rows += [StackRow(first + i, *identity, live=True) for i, identity in enumerate(new)]
    now = dead_reasons(rows)
    if manifest is None:
        return Allocation(now, 1)
    return Allocation(now, manifest.number if now == manifest.rows else manifest.number + 1)


def dead_reasons(rows: Sequence[StackRow]) -> tuple[StackRow, ...]:
    """Return the rows with the reason why each dead one is dead: it follows from the others."""
    living = {(r.participant_id, r.session_id): r.row for r in rows if r.live}

    def reason(row: StackRow) -> str:
        if row.live:
            return ""
        other = living.get((row.participant_id, row.session_id))
        return "no longer among the study's images" if other is None else f"replaced by row {other}"

    return tuple(replace(r, reason=reason(r)) for r in rows)


def manifest_path(manifest: Manifest) -> str:
    """Return where a manifest lies."""
    return f"{manifest.prefix}/manifest-{manifest.number}.json"


def write_rows(store: Store, manifest: Manifest) -> None:
    """Write a manifest under its number, created if absent.

    A manifest of the same rows is replaced where shards were written anew; one that cannot be read, too.

    Raises
    ------
    StorageError
        If that number holds a manifest of other rows.
    """
    path = manifest_path(manifest)
    tree = {"schema": MANIFEST_SCHEMA, **asdict(manifest)}
    data = json.dumps({**tree, "digest": _digest(tree)}, sort_keys=True).encode()
    if store.create_if_absent(path, data):
        return
    there = read_manifest(store, path)
    if there is not None and there.rows != manifest.rows:
        raise StorageError(
            f"{path}: expected no manifest of this number, found one of other rows. Run the study again."
        )
    if there != manifest:
        store.write_bytes(path, data)


def _digest(tree: Mapping[str, Any]) -> str:
    """Return the digest of everything in a manifest but its digest: a row number that is off by one is damage."""
    text = json.dumps({k: v for k, v in tree.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def latest_in(store: Store, prefix: str) -> Manifest | None:
    """Return the manifest with the highest number below a stack's folder that can be read, or None."""
    numbers = []
    for path in store.list(prefix):
        name = path.removeprefix(f"{prefix}/")
        number = name.removeprefix("manifest-").removesuffix(".json")
        if name == f"manifest-{number}.json" and number.isdecimal():
            numbers.append(int(number))
    for n in sorted(numbers, reverse=True):
        found = read_manifest(store, f"{prefix}/manifest-{n}.json")
        if found is not None:
            return found
    return None


def read_manifest(store: Store, path: str) -> Manifest | None:
    """Return a manifest, or None if it was cut short or damaged.

    Raises
    ------
    NewerSchemaError
        If a newer voxcloud wrote it.
    """
    try:
        tree: dict[str, Any] = json.loads(store.read_bytes(path))
        schema = int(tree["schema"])
        if schema > MANIFEST_SCHEMA:
            raise NewerSchemaError(
                f"{path}: expected manifest schema {MANIFEST_SCHEMA} or lower, found {schema}. Update voxcloud."
            )
        if tree["digest"] != _digest(tree):
            raise ValueError("its digest is another")
        rows = tuple(StackRow(**r) for r in tree["rows"])
        return Manifest(int(tree["number"]), str(tree["prefix"]), rows, tuple(ShardRef(**s) for s in tree["shards"]))
    except NewerSchemaError:
        raise
    except (ValueError, KeyError, TypeError, CorruptStoreError) as error:
        LOG.warning("%s: not a whole manifest (%s), taken as absent", path, error)
        return None


def verify_manifest(store: Store, manifest: Manifest) -> None:
    """Compare every shard with the manifest: a lost shard would read as NaN without an error.

    Raises
    ------
    CorruptStoreError
        If a shard is missing, cut short or holds other bytes; the message names it.
    """
    for shard in manifest.shards:
        size = store.size(shard.path)
        if size == shard.size and store.digest(shard.path) == shard.digest:
            continue
        found = "none" if size < 0 else f"{size} bytes" if size != shard.size else "other bytes of that number"
        raise CorruptStoreError(
            f"{shard.path}: expected shard {shard.shard} with the {shard.size} bytes that manifest {manifest.number} "
            f"names, found {found}. Run the study again, which writes it anew."
        )
