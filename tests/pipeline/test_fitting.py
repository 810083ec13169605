"""Fits of voxel blocks: the same bits wherever a voxel lies, in double precision, with every left-out voxel counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxcloud.errors import CorruptStoreError, DesignError
from voxcloud.pipeline import fitting
from voxcloud.pipeline.fitting import GroupBuffers, columns, count_finite, first_level, read_design, rows_of
from voxcloud.pipeline.steps import STEPS
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.plan.paths import DESIGNS_PREFIX
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.manifest import Manifest, StackRow
from voxcloud.storage.regions import open_array
from voxcloud.storage.store import Store, open_store
from voxcloud.testing import tiny_study

PEOPLE, VOXELS = 23, 700
TESTS = {
    "slope": {"kind": "t", "weights": [[0.0, 1.0, 0.0, 0.0]]},
    "any": {"kind": "F", "weights": [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]},
}


def entry(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(PEOPLE), rng.standard_normal((PEOPLE, 3))])
    people = [f"{i:02d}" for i in range(PEOPLE)]
    return {"participants": people, "X": X.tolist(), "tests": TESTS} | changes


def fitted(
    values: np.ndarray, cuts: list[int], coefficient: Mapping[str, Any], whitener: np.ndarray | None
) -> GroupBuffers:
    buffers = GroupBuffers({"coefficients": {"c": coefficient}}, values.shape[1])
    bounds = [0, *sorted(cuts), values.shape[1]]
    for first, last in pairwise(bounds):
        buffers.fit("c", coefficient, values[:, first:last], np.arange(first, last), whitener)
    return buffers


@pytest.mark.parametrize("kind", ["plain", "whitened"])
@given(
    cuts=st.lists(st.integers(1, VOXELS - 1), max_size=4, unique=True),
    kept=st.lists(st.integers(0, VOXELS - 1), min_size=1, max_size=400, unique=True),
)
@settings(max_examples=25, deadline=None)
def test_group_buffers_fit__bits_do_not_depend_on_where_a_voxel_lies(kind: str, cuts: list[int], kept: list[int]):
    rng = np.random.default_rng(5)
    values = rng.standard_normal((PEOPLE, VOXELS)) * np.exp(rng.uniform(-8, 8, VOXELS))
    whitener = rng.standard_normal((PEOPLE, PEOPLE)) if kind == "whitened" else None
    coefficient = entry()
    whole = fitted(values, [], coefficient, whitener)
    cut = fitted(values, cuts, coefficient, whitener)
    some = fitted(values[:, kept], [], coefficient, whitener)  # other voxels beside it, in another order
    for name, expected in whole.arrays.items():
        np.testing.assert_array_equal(cut.arrays[name], expected)
        np.testing.assert_array_equal(some.arrays[name], expected[:, kept])
    np.testing.assert_array_equal(cut.residuals["c"], whole.residuals["c"])
    np.testing.assert_array_equal(some.residuals["c"], whole.residuals["c"][:, kept])


def end_here(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    raise DesignError("what follows the fit is not looked at")


@pytest.fixture(scope="module")
def two_masks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Fit one set of images in two masks, cut into other panels; (voxel_index, arrays) of each."""
    found = []
    for dropped, panel in ((0, fitting.PANEL_VOXELS), (77, 100)):
        study = tiny_study(tmp_path_factory.mktemp("masks") / "study")
        path = study.folder / "mask.nii.gz"
        image = nib.load(path)
        mask = np.asarray(image.dataobj).copy()
        mask.ravel()[np.flatnonzero(mask)[:dropped]] = 0  # every other voxel moves by 77 places
        nib.save(nib.Nifti1Image(mask, image.affine, image.header), path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "PANEL_VOXELS", panel)
            patch.setitem(STEPS, "smoothness", end_here)
            failed = run_study(study.study_file, RunOptions(engine="serial")).failed
            assert {key.split("/")[0] for key in failed} == {"smoothness"}
        store = open_store(study.folder / "derivatives" / "voxcloud")
        group = "fits/model-training/R1map_label-GM/fit.zarr"
        names = ("valid", "effect", "se", "statistic", "resms", "value_linear", "residual_linear")
        arrays = {name: np.asarray(open_array(store, f"{group}/{name}")[:]) for name in names}
        found.append((np.flatnonzero(mask), arrays))
    return found


def test_fit_block__voxels_that_move_within_blocks_keep_their_bits(
    two_masks: list[tuple[np.ndarray, dict[str, np.ndarray]]],
):
    (index, whole), (fewer, cut) = two_masks
    shared = np.searchsorted(index, fewer)
    assert 0 < cut["valid"].sum() < len(fewer) < len(index)
    for name, expected in whole.items():
        np.testing.assert_array_equal(cut[name], expected[..., shared])


def test_first_level__products_and_sums_are_double_precision():
    block = np.random.default_rng(1).standard_normal((3, 50)).astype(np.float32)
    weights = [1 / 3, -0.7, 0.1]
    own = {"participants": ["01"], "first_level": {"01": {"images": [0, 1, 2], "weights": weights}}}
    wide = block.astype(np.float64)
    expected = weights[0] * wide[0] + weights[1] * wide[1] + weights[2] * wide[2]
    np.testing.assert_array_equal(first_level(block, own)[0], expected)


def test_first_level__images_of_one_participant_are_summed_in_the_order_given():
    block = np.array([[1e8], [1.0], [-1e8]], dtype=np.float32)
    own = {"participants": ["01", "02"], "first_level": {"01": {"images": [2, 1], "weights": [1.0, 2.0]},
                                                        "02": {"images": [0], "weights": [0.5]}}}  # fmt: skip
    np.testing.assert_array_equal(first_level(block, own), [[-1e8 + 2.0], [5e7]])


def test_columns__neighbours_are_a_view_and_others_a_copy():
    block = np.arange(20.0).reshape(2, 10)
    for chosen, shared in ((np.arange(3, 7), True), (np.array([1, 4, 5]), False), (np.array([9]), True)):
        found = columns(block, chosen)
        np.testing.assert_array_equal(found, block[:, chosen])
        assert np.shares_memory(found, block) is shared


def test_count_finite__counts_rows_per_voxel():
    block = np.ones((5, 3), dtype=np.float32)
    block[0, 0], block[1, 0], block[4, 2] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(count_finite(block), [3, 5, 4])


def test_rows_of__an_image_without_a_row_is_an_error():
    manifest = Manifest(1, "stacks/x", (StackRow(7, "01", "1", "a", True),), ())
    assert rows_of(manifest, [("01", "1", "a")]) == [7]
    with pytest.raises(CorruptStoreError, match="no row for the image"):
        rows_of(manifest, [("01", "1", "b")])


def test_read_design__a_changed_file_is_refused(tmp_path: Path):
    store = open_store(tmp_path / "out")
    design = {"schema": 1, "X": [[1.0]]}
    path = f"{DESIGNS_PREFIX}/{digest_json(design)}.json"
    store.write_bytes(path, json.dumps(design).encode())
    assert read_design(store, digest_json(design)) == design
    store.write_bytes(path, json.dumps(design | {"X": [[2.0]]}).encode())
    with pytest.raises(CorruptStoreError, match="was changed"):
        read_design(store, digest_json(design))
