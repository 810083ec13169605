"""A search volume that cannot be searched is named; the others are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from voxcloud.pipeline.study import RunOptions, StudyOutcome, run_study
from voxcloud.testing import tiny_study


def run_with(tmp_path: Path, *names: str) -> tuple[StudyOutcome, dict[str, Any]]:
    """Run the tiny study with search volumes: ``half`` of the brain, ``nowhere`` outside of its grey matter."""
    made = tiny_study(tmp_path / "study")
    mask = nib.load(made.folder / "mask.nii.gz")
    half = np.asarray(mask.dataobj).copy()
    half[: half.shape[0] // 2] = 0
    nowhere = (made.anatomy.mask & (made.anatomy.gm < 0.02)).astype(half.dtype)  # in the mask, but no grey matter
    assert nowhere.any()
    for name, volume in (("half", half), ("nowhere", nowhere)):
        nib.save(nib.Nifti1Image(volume, mask.affine, mask.header), made.folder / f"{name}.nii.gz")
    tree = yaml.safe_load(made.study_file.read_text())
    tree["search_volumes"] = {name: {"path": f"{name}.nii.gz"} for name in names}
    made.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    outcome = run_study(made.study_file, RunOptions(engine="serial"))
    path = made.folder / "derivatives/voxcloud/results/model-training"
    results = sorted(path.glob("*__linear__*.json"))
    return outcome, json.loads(results[0].read_text()) if results else {}


def test_inference__an_empty_volume_is_named_and_the_others_are_searched(tmp_path: Path) -> None:
    outcome, result = run_with(tmp_path, "half", "nowhere")
    assert not outcome.failed
    assert {s["volume"] for s in result["searches"]} == {"half"}
    (sentence,) = [w for w in result["warnings"] if "nowhere" in w]
    assert "found none; it was not searched" in sentence


def test_inference__without_any_volume_to_search_fails_by_name(tmp_path: Path) -> None:
    outcome, _ = run_with(tmp_path, "nowhere")
    assert outcome.failed
    assert all("search_volumes.nowhere" in answer["message"] for answer in outcome.failed.values())
