"""The same bytes from every engine, any order of the tables, and any orientation of the files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from voxcloud.config.study import Compute
from voxcloud.errors import PlanError
from voxcloud.pipeline import blas
from voxcloud.pipeline.engines import make_engine, parse_bytes

ENGINES = ["threads", pytest.param("local", marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", ENGINES)
def test_run__by_any_engine_gives_the_same_bytes(fresh: Any, expected: dict[str, str], engine: str) -> None:
    outcome = fresh.run(engine, workers=2)
    assert outcome.failed == {}
    assert fresh.numbers() == expected


def shuffle(path: Path, seed: int) -> None:
    """Put a table's rows into another order."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table.sample(frac=1.0, random_state=seed).to_csv(path, sep="\t", index=False)


def save_as_las(path: Path) -> None:
    """Store an image from right to left: the same values at the same places in the world."""
    image = nib.load(path)
    data = np.asarray(image.dataobj)[::-1]
    affine = image.affine @ np.array([[-1, 0, 0, data.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert nib.aff2axcodes(affine) != nib.aff2axcodes(image.affine)
    nib.save(nib.Nifti1Image(data, affine, dtype=data.dtype), path)


def results_of(numbers: dict[str, str]) -> dict[str, str]:
    """Return statistic maps and fits: digests of images enter neither."""
    return {
        path: digest
        for path, digest in numbers.items()
        # The group's attributes name the design file, which names the images' digests.
        if path.startswith(("stats/", "fits/")) and not path.endswith("fit.zarr/zarr.json")
    }


def test_run__of_shuffled_tables_and_a_flipped_image_gives_the_same_maps(fresh: Any, expected: dict[str, str]) -> None:
    for seed, name in enumerate(("images", "participants", "sessions"), 1):
        shuffle(fresh.folder / f"{name}.tsv", seed)
    images = pd.read_csv(fresh.folder / "images.tsv", sep="\t", dtype=str)
    save_as_las(fresh.folder / images[images["map"] == "R1map"].iloc[0]["path"])
    assert fresh.run().failed == {}
    assert results_of(fresh.numbers()) == results_of(expected)
    assert len(results_of(expected)) > 40


def test_one_blas_thread__holds_until_the_last_unit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [8]

    class Limits:
        """As threadpoolctl's: sets the number of threads of the process and knows what it was before."""

        def __init__(self, limit: int) -> None:
            self.before = threads[0]
            threads[0] = limit

        def restore_original_limits(self) -> None:
            threads[0] = self.before

    monkeypatch.setattr(blas, "threadpool_limits", Limits)
    entered, leave = threading.Event(), threading.Event()

    def long_unit() -> None:
        with blas.one_blas_thread():
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=long_unit)
    with blas.one_blas_thread():
        other.start()
        entered.wait(10)
    assert threads == [1]  # the unit that began first has ended, the other has not
    leave.set()
    other.join()
    assert threads == [8]


def test_threads_engine__runs_units_side_by_side() -> None:
    together = threading.Barrier(2, timeout=10)
    with make_engine(Compute(engine="threads", workers=2)) as engine:
        futures = [engine.submit(together.wait, key=str(k), memory=1) for k in range(2)]
        assert sorted(future.result() for future in futures) == [0, 1]


def test_make_engine__an_unknown_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match="Did you mean 'threads'"):
        make_engine(Compute.model_construct(engine="thread", workers=1, memory_per_worker="auto"))


@pytest.mark.parametrize(("text", "size"), [("4 GB", 4 * 10**9), ("512MiB", 512 * 2**20), ("1000", 1000)])
def test_parse_bytes__reads_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["4 gigs", "", "GB", "-"])
def test_parse_bytes__refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(PlanError, match="expected a size such as '4 GB'"):
        parse_bytes(text)


def test_serial_engine__takes_one_unit_after_the_other() -> None:
    started: list[int] = []

    def unit(number: int) -> int:
        started.append(number)
        time.sleep(0.01)
        return number

    run: Callable[..., Any] = unit
    with make_engine(Compute(engine="serial")) as engine:
        futures = [engine.submit(run, n, key=str(n), memory=1) for n in range(3)]
    assert [future.result() for future in futures] == started == [0, 1, 2]
