"""Fixtures of the storage tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from voxcloud.storage import digests
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.stack import (
    Allocation,
    Manifest,
    StackSpec,
    allocate_rows,
    build_manifest,
    create_stack,
    latest_manifest,
    write_manifest,
    write_shard,
)
from voxcloud.storage.store import Store

VOXELS = 500
Images = Mapping[tuple[str, str, str], np.ndarray]


@pytest.fixture(autouse=True)
def _own_digest_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(digests, "_memory", {})
    monkeypatch.setattr(digests, "_loaded", set())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore((tmp_path / "store").resolve())


@pytest.fixture
def spec() -> StackSpec:
    """A stack of 500 voxels in five blocks, the last one shorter, with four rows in a shard."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    index = np.arange(0, 2 * VOXELS, 2)
    return StackSpec("R1map", "GM", "ab" * 32, (10, 10, 10), affine, index, "1/s", block_voxels=120, shard_rows=4)


@pytest.fixture
def make_images() -> Callable[..., Images]:
    """Make images of some participants at some sessions, each with its own values."""

    def make(participants: int, sessions: int, version: str = "a") -> Images:
        found = {}
        for p in range(participants):
            for s in range(sessions):
                rng = np.random.default_rng([p, s, ord(version)])
                found[(f"{p:02}", f"{s}", f"{version}{p}{s}")] = rng.normal(1.0, 0.1, VOXELS).astype(np.float32)
        return found

    return make


@pytest.fixture
def put() -> Callable[..., Manifest]:
    """Put images into a stack as a run does: allocate, write the new shards, write the manifest."""

    def run(store: Store, spec: StackSpec, images: Images) -> Manifest:
        create_stack(store, spec)
        before = latest_manifest(store, spec)
        allocation: Allocation = allocate_rows(before, list(images), spec.shard_rows)
        known = set() if before is None else {s.shard for s in before.shards}
        for shard in sorted({r.row // spec.shard_rows for r in allocation.rows} - known):
            rows = [r for r in allocation.rows if r.row // spec.shard_rows == shard]
            write_shard(store, spec, shard, ((r.row % spec.shard_rows, images[r.identity]) for r in rows))
        manifest = build_manifest(store, spec, allocation.manifest_number, allocation.rows)
        write_manifest(store, manifest)
        return manifest

    return run
