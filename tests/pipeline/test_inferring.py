"""Views of a fit: participants' coefficients at any voxels, and smoothness equal to that of the whole arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import voxcloud
from voxcloud.bids.images import load_mask
from voxcloud.errors import DesignError
from voxcloud.inference.smoothness import smoothness_of_array
from voxcloud.pipeline import inferring
from voxcloud.pipeline.execute import unit_path
from voxcloud.pipeline.inferring import FitView, smoothness
from voxcloud.pipeline.steps import STEPS
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.plan.unit import WorkUnit
from voxcloud.storage.regions import ArrayTemplate, create_template, open_array, write_region
from voxcloud.storage.store import Store, open_store
from voxcloud.testing import SimulatedStudy, tiny_study

PEOPLE, VOXELS, CHUNK = 6, 95, 20


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, np.ndarray]:
    store = open_store(tmp_path / "out")
    values = np.random.default_rng(0).standard_normal((PEOPLE, VOXELS)).astype(np.float32)
    template = ArrayTemplate("value_slope", ("participant", "voxel"), values.shape, (PEOPLE, CHUNK), "float32")
    create_template(store, "fits/model-m/R1map/fit.zarr", [template], {})
    for start in range(0, VOXELS, CHUNK):
        write_region(store, "fits/model-m/R1map/fit.zarr/value_slope", values[:, start : start + CHUNK], (0, start))
    return store, values


@pytest.mark.parametrize("kept_bytes", [0, PEOPLE * CHUNK * 4 * 2, 10**9])
def test_fit_view_values__are_those_of_the_voxels_asked_for(
    stored: tuple[Store, np.ndarray], kept_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inferring, "KEPT_BYTES", kept_bytes)
    store, values = stored
    view = FitView(store, {"model": "m", "stack": "R1map"}, "slope")
    rng = np.random.default_rng(1)
    for voxels in (np.array([94]), np.arange(VOXELS), rng.permutation(VOXELS)[:30], np.array([3, 3, 80])):
        np.testing.assert_array_equal(view.stored_values(voxels), values[:, voxels])
        assert view.values(voxels).dtype == np.float64
        assert sum(chunk.nbytes for chunk in view._kept.values()) <= max(kept_bytes, PEOPLE * CHUNK * 4)


def end_here(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    raise DesignError("what follows the smoothness is not looked at")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimulatedStudy:
    made = tiny_study(tmp_path_factory.mktemp("inferring") / "study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STEPS, "inference", end_here)
        failed = run_study(made.study_file, RunOptions(engine="serial")).failed
        assert {key.split("/")[0] for key in failed} == {"inference"}
    return made


def test_smoothness__slabs_read_from_the_store_equal_the_whole_array(study: SimulatedStudy):
    store = open_store(study.folder / "derivatives" / "voxcloud")
    unit = WorkUnit.from_json(store.read_bytes(unit_path("smoothness/training/R1map_label-GM/linear")))
    found = smoothness(unit, store)
    group = "fits/model-training/R1map_label-GM/fit.zarr"
    inside = np.flatnonzero(np.asarray(open_array(store, f"{group}/valid")[:]))
    residuals = np.asarray(open_array(store, f"{group}/residual_linear")[:])[:, inside]
    grid = load_mask(study.folder / "mask.nii.gz")
    expected = smoothness_of_array(residuals, grid.voxel_index[inside], grid.shape, found["df"])
    assert found["fwhm_voxels"] == list(expected.fwhm_voxels)
    assert found["n_voxels_used"] == expected.n_voxels_used
    written = json.loads(store.read_bytes(unit.outputs[0]))
    assert written["mask_voxels"] == inside.size
    assert min(written["fwhm_mm"]) > study.anatomy.voxel_mm


def test_smoothness__maps_of_images_and_resels_per_voxel_lie_beside_the_statistics(tmp_path: Path) -> None:
    made = tiny_study(tmp_path / "study")
    assert not run_study(made.study_file, RunOptions(engine="serial")).failed
    output = made.folder / "derivatives" / "voxcloud"
    folder = output / "stats/model-training/R1map_label-GM"
    fit = voxcloud.open_fit(output, "training", "R1map", "GM")
    inside = made.anatomy.mask
    n = nib.load(folder / "map-R1map_label-GM_coefficient-linear_stat-n_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(n[inside], fit["n"].to_numpy())
    assert (n[~inside] == 0).all()
    resels = nib.load(folder / "map-R1map_label-GM_coefficient-linear_stat-resels_statmap.nii.gz").get_fdata()
    smooth = json.loads((output / "fits/model-training/R1map_label-GM/smoothness-linear.json").read_text())
    known = resels[resels > 0]
    assert known.size <= fit["valid"].to_numpy().sum()
    assert known.mean() == pytest.approx(1 / np.prod(smooth["fwhm_voxels"]), rel=0.5)


@pytest.mark.parametrize("sizes", [(2, 1), (2, 2), (3, 2)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # expected Euler characteristics at so few degrees of freedom
def test_inference__of_a_strong_effect_at_one_two_and_three_df(tmp_path: Path, sizes: tuple[int, int]):
    model = {
        "name": "few",
        "maps": ["R1map"],
        "coefficients": ["linear"],
        "formula": "group",
        "contrasts": {"c": {"test": "group[sci_arm] - group[con_none]", "alternative": "greater"}},
        "inference": {"method": "permutation", "min_extent": 0, "cluster_forming_p": 0.05, "permutations": 99},
    }
    made = tiny_study(
        tmp_path / "study", group_sizes={"sci_arm": sizes[0], "con_none": sizes[1]}, changes={"models": [model]}
    )
    assert not run_study(made.study_file, RunOptions(engine="serial")).failed
    (path,) = made.study_file.parent.glob("derivatives/voxcloud/results/model-few/R1map_label-GM__linear__c.json")
    clusters = json.loads(path.read_text())["searches"][0]["clusters"]
    assert clusters
    for cluster in clusters:
        assert cluster["between"]["cohens_d"] == pytest.approx(
            cluster["between"]["t"] * np.sqrt(1 / sizes[0] + 1 / sizes[1])
        )
    influences = [cluster["influence"] for cluster in clusters if "influence" in cluster]
    assert influences
    unknown = sum(sizes) == 3
    assert all((i["loo_t_min"] is None) == (i["loo_p_max"] is None) == unknown for i in influences)
