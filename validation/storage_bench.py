"""How fast stacks are written and read, against reading the compressed images themselves.

    python validation/storage_bench.py [--images 245] [--voxels 300000] [--folder /tmp]

Images are noise around a smooth field, as compressible as quantitative maps are; files are read from the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from voxcloud.storage.stack import (
    StackRow,
    StackSpec,
    allocate_rows,
    build_manifest,
    create_stack,
    latest_manifest,
    read_block,
    stack_prefix,
    verify_manifest,
    write_manifest,
    write_shard,
)
from voxcloud.storage.store import Store, open_store

MB = 1e6
# As many different images as a shard has rows: repeated rows would compress better than real ones.
FILES = 25


def make_images(folder: Path, voxels: int) -> tuple[list[Path], np.ndarray, tuple[int, ...]]:
    """Write compressed images of a grid of which about a third is in the mask, as in a brain."""
    side = round((3.0 * voxels) ** (1 / 3)) + 1
    shape = (side, side, side)
    index = np.sort(np.random.default_rng(0).choice(side**3, voxels, replace=False))
    paths = []
    for i in range(FILES):
        rng = np.random.default_rng([1, i])
        values = np.zeros(side**3, dtype=np.float32)
        values[index] = (1 + 0.2 * np.sin(index / 5000) + rng.normal(0, 0.05, voxels)).astype(np.float32)
        paths.append(folder / f"image-{i}.nii.gz")
        nib.save(nib.Nifti1Image(values.reshape(shape), np.eye(4)), paths[-1])
    return paths, index, shape


def read_image(path: Path, index: np.ndarray) -> np.ndarray:
    """Return the values of an image in the mask."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float32).reshape(-1)[index]


def timed(work: Callable[[], object]) -> float:
    """Return how long something takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_stack(store: Store, spec: StackSpec, rows: tuple[StackRow, ...], vectors: list[np.ndarray]) -> None:
    """Write every shard and the manifest."""
    create_stack(store, spec)
    for shard in range(-(-len(rows) // spec.shard_rows)):
        own = rows[shard * spec.shard_rows : (shard + 1) * spec.shard_rows]

        def given(own: tuple[StackRow, ...] = own) -> Iterator[tuple[int, np.ndarray]]:
            for row in own:
                yield row.row % spec.shard_rows, vectors[row.row % len(vectors)]

        write_shard(store, spec, shard, given())
    write_manifest(store, build_manifest(store, spec, 1, rows))


def main() -> None:
    """Time everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=245)
    parser.add_argument("--voxels", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        run(folder, asked.images, asked.voxels)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, images: int, voxels: int) -> None:
    """Time one size."""
    paths, index, shape = make_images(folder, voxels)
    store = open_store(folder / "store")
    spec = StackSpec("R1map", "GM", "0" * 64, shape, np.eye(4), index, "1/s")
    rows = allocate_rows(None, [(f"{i:04}", "1", f"d{i}") for i in range(images)]).rows
    vectors: list[np.ndarray] = []
    size = images * voxels * 4 / MB
    per_file = timed(lambda: vectors.extend(read_image(path, index) for path in paths)) / FILES
    write = timed(lambda: write_stack(store, spec, rows, vectors))
    stored = sum(store.size(path) for path in store.list(stack_prefix(spec))) / MB
    manifest = latest_manifest(store, spec)
    if manifest is None:
        raise SystemExit("no manifest was written")
    verify = timed(lambda: verify_manifest(store, manifest))
    order = np.random.default_rng(0).permutation(images).tolist()
    starts = range(0, voxels, spec.block_voxels)
    blocks = [
        timed(lambda s=s: read_block(store, manifest, order, s, min(s + spec.block_voxels, voxels))) for s in starts
    ]
    print(
        f"{images} images of {voxels:,} voxels: {size:.0f} MB of float32, {stored:.0f} MB stored "
        f"in {len(manifest.shards)} shards"
    )
    print(f"read the compressed images   {per_file * images:7.2f} s   {size / (per_file * images):7.0f} MB/s")
    print(f"write the stack              {write:7.2f} s   {size / write:7.0f} MB/s")
    print(f"check the manifest           {verify * 1e3:7.1f} ms   (digests cached)")
    print(f"read one block, all images   {statistics.median(blocks) * 1e3:7.1f} ms   worst {max(blocks) * 1e3:.1f} ms")
    print(f"read all blocks              {sum(blocks):7.2f} s   {size / sum(blocks):7.0f} MB/s")
    print(f"the same from the images     {per_file * images * len(blocks):7.2f} s   (all images once per block)")


if __name__ == "__main__":
    main()
