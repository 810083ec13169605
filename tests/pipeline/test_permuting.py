"""Permutation in place of random fields, and beside them where their assumptions are doubtful."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

import voxcloud
from voxcloud.config.load import load_study
from voxcloud.errors import StudyFileError
from voxcloud.inference.permutation import permutation_test
from voxcloud.pipeline.study import RunOptions, plan_study, run_study
from voxcloud.plan import units
from voxcloud.plan.unit import WorkUnit
from voxcloud.testing import tiny_study

RESULT = "results/model-training/R1map_label-GM__linear__patients_minus_untrained.json"


def study(
    folder: Path,
    group_sizes: dict[str, int] | None = None,
    missing: dict[tuple[str, int], tuple[int, ...]] | None = None,
    **inference: Any,
) -> Path:
    """Write the tiny study with settings of the inference."""
    made = tiny_study(folder / "study", group_sizes=group_sizes, missing_visits=missing)
    tree = yaml.safe_load(made.study_file.read_text())
    tree["models"][0]["inference"] = {"min_extent": 0, **inference}
    made.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return made.study_file


def change(path: Path, **keys: Any) -> None:
    """Replace keys of a study file."""
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def result(path: Path) -> dict[str, Any]:
    outcome = run_study(path, RunOptions(engine="serial"))
    assert not outcome.failed
    tree: dict[str, Any] = json.loads((path.parent / "derivatives" / "voxcloud" / RESULT).read_text())
    return tree


def with_inference(path: Path, **settings: Any) -> dict[str, Any]:
    """Return the study's model with other settings of its inference."""
    model: dict[str, Any] = yaml.safe_load(path.read_text())["models"][0]
    return model | {"inference": model["inference"] | settings}


def inference_units(path: Path) -> list[WorkUnit]:
    return [s.unit for s in plan_study(path).status.values() if s.unit.step == "inference"]


def by_hand(path: Path, alternative: str, n_permutations: int) -> Any:
    """Permute the coefficients that the fit stored, read by the public door, without the pipeline."""
    output = path.parent / "derivatives" / "voxcloud"
    fit = voxcloud.open_fit(output, "training", "R1map", "GM")
    inside = fit["valid"].to_numpy() > 0
    (name,) = (output / ".voxcloud" / "designs").iterdir()
    entry = json.loads(name.read_text())["coefficients"]["linear"]
    return permutation_test(
        fit["value_linear"].to_numpy()[:, inside],
        entry["X"],
        entry["tests"]["patients_minus_untrained"]["weights"][0],
        n_permutations=n_permutations,
        seed=3,
        alternative=alternative,
        voxel_index=fit["voxel_index"].to_numpy()[inside],
        shape=fit.attrs["shape"],
        cluster_forming_p=0.001,
    )


def test_permute_search__beside_doubtful_random_fields_gives_both_p_values(tmp_path: Path) -> None:
    path = study(tmp_path, permutations=200, seed=3)
    tree = result(path)
    (search,) = [s for s in tree["searches"] if s["permutation"]]
    assert search["direction"] == "greater"
    assert search["permutation"]["relabellings"] == 200
    null = by_hand(path, "greater", 200)
    expected = {c.size_voxels: c.p_fwe_size for c in null.clusters}
    assert search["clusters"]
    for cluster in search["clusters"]:
        assert cluster["p_permutation"] == expected[cluster["size_voxels"]]
        assert cluster["p_fwe"] != cluster["p_permutation"]
        assert cluster["peaks"][0]["p_permutation"] >= 1 / 201


def test_permute_search__never_beside_when_the_study_says_so(tmp_path: Path) -> None:
    tree = result(study(tmp_path, permutation_beside="never"))
    assert [s["permutation"] for s in tree["searches"]] == [None, None]
    assert not any("p_permutation" in c for s in tree["searches"] for c in s["clusters"])


def test_permute_search__left_out_for_its_memory_is_said_with_the_setting_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "AUTO_PERMUTATION_BYTES", 1)
    path = study(tmp_path, permutations=99)
    (params,) = {json.dumps(u.params) for u in inference_units(path) if u.params["coefficient"] == "linear"}
    assert json.loads(params)["permute_beside"] == "too large"
    tree = result(path)
    assert [s["permutation"] for s in tree["searches"]] == [None, None]
    (sentence,) = [w for w in tree["warnings"] if "permutation_beside: always" in w]
    needed = json.loads(params)["permute_bytes"]
    assert f"would take {needed / 1e9:.2g} GB of memory" in sentence
    change(path, models=[with_inference(path, permutation_beside="always")])
    tree = result(path)
    assert any(s["permutation"] for s in tree["searches"])
    assert not any("permutation_beside" in w for w in tree["warnings"])


def test_plan__the_memory_of_relabelling_is_that_of_the_largest_search_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(tmp_path)
    mask = nib.load(path.parent / "mask.nii.gz")
    whole = int(np.count_nonzero(np.asarray(mask.dataobj)))
    for name, part in (("left", slice(None, 6)), ("right", slice(6, None)), ("few", slice(5, 6))):
        volume = np.zeros(mask.shape, dtype=np.uint8)
        volume[part] = 1  # beyond the mask too: only what lies inside is searched
        nib.save(nib.Nifti1Image(volume, mask.affine), path.parent / f"{name}.nii.gz")
    inside = max(int(np.count_nonzero(np.asarray(mask.dataobj)[part])) for part in (slice(None, 6), slice(6, None)))
    monkeypatch.setattr(units, "AUTO_PERMUTATION_BYTES", inside * (10 * 24 + 160))
    assert inside < whole
    assert {u.params["permute_beside"] for u in inference_units(path)} == {"too large"}
    before = inference_units(path)[0].projected_mem
    change(path, search_volumes={name: {"path": f"{name}.nii.gz"} for name in ("left", "right", "few")})
    (after,) = {(u.params["permute_beside"], u.projected_mem - before) for u in inference_units(path)}
    assert after == ("auto", inside * (10 * 24 + 160))


def test_permute_search__in_place_of_random_fields_decides(tmp_path: Path) -> None:
    path = study(tmp_path, method="permutation", permutations=150, seed=3)
    tree = result(path)
    for search in tree["searches"]:
        for cluster in search["clusters"]:
            assert cluster["p_fwe"] == cluster["p_permutation"] >= 1 / 151
            assert cluster["significant"] == (cluster["p_fwe"] <= 0.05)
    assert all("permutations (Freedman-Lane)" in text for text in tree["warnings"])
    found = {(c["size_voxels"], c["p_fwe"]) for s in tree["searches"] for c in s["clusters"]}
    expected = {
        (c.size_voxels, c.p_fwe_size) for side in ("greater", "less") for c in by_hand(path, side, 150).clusters
    }
    assert found == expected


def test_permute_search__whitened_models_compare_groups_by_permutations(tmp_path: Path) -> None:
    path = study(
        tmp_path, missing={("sci_arm", 1): (84,), ("con_none", 2): (28,)}, method="permutation", permutations=99
    )
    model = yaml.safe_load(path.read_text())["models"][0]
    change(path, models=[model | {"weights": "precision"}])
    tree = result(path)
    relabelled = [s for s in tree["searches"] if s["permutation"]]
    assert relabelled
    assert {s["permutation"]["kind"] for s in relabelled} == {"permutation"}
    assert all(c["p_fwe"] == c["p_permutation"] < 1 for s in relabelled for c in s["clusters"])


def test_describe_cluster__permutation_flags_the_people_that_random_fields_flag(tmp_path: Path) -> None:
    """Three against three: 19 relabellings, no p below .05; leaving one out is judged by random fields throughout."""
    found, warnings = {}, {}
    for method in ("permutation", "random-field"):
        path = study(tmp_path / method, {"sci_arm": 3, "con_none": 3}, method=method)
        model = yaml.safe_load(path.read_text())["models"][0]
        change(path, models=[model | {"formula": "group"}])
        tree = result(path)
        warnings[method] = " ".join(tree["warnings"])
        found[method] = {(c["size_voxels"], c["peaks"][0]["t"]): c for s in tree["searches"] for c in s["clusters"]}
    # A search without a cluster is not relabelled, and says nothing of random fields either.
    assert "under all 19 possible permutations" in warnings["permutation"]
    assert "andom field" in warnings["random-field"]
    assert "andom field" not in warnings["permutation"]
    assert found["permutation"].keys() == found["random-field"].keys()
    judged = 0
    for key, cluster in found["permutation"].items():
        theory = found["random-field"][key]
        assert cluster["p_random_field"] == theory["p_fwe"] == theory["p_random_field"]
        assert cluster["p_fwe"] == cluster["p_permutation"] >= 1 / 20
        if "influence" in cluster and "influence" in theory:
            assert cluster["influence"] == theory["influence"]
            judged += not cluster["influence"]["flagged"]
    assert judged


def test_permutation__of_an_f_test_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = study(tmp_path, method="permutation")
    tree = yaml.safe_load(path.read_text())
    tree["models"][0]["contrasts"] = {"any": {"test": ["age", "intercept"], "alternative": "two-sided"}}
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(StudyFileError, match=r"contrasts\.any: method permutation tests t contrasts"):
        load_study(path)


def test_plan__counts_the_memory_of_relabelling(tmp_path: Path) -> None:
    def largest(path: Path) -> int:
        return max(unit.projected_mem for unit in inference_units(path))

    with_it = largest(study(tmp_path / "a", method="permutation"))
    without = largest(study(tmp_path / "b", permutation_beside="never"))
    voxels = int(np.count_nonzero(tiny_study(tmp_path / "c").anatomy.mask))
    assert with_it - without >= 10 * voxels * 8 * 3
