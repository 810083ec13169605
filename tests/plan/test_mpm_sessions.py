"""Units of sessions: what they project, and how they say that maps are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from voxcloud.bids.signatures import KEYS
from voxcloud.pipeline.study import plan_study
from voxcloud.plan.mpm_sessions import how_made
from voxcloud.plan.unit import WorkUnit
from voxcloud.testing.raw import tiny_raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sessions") / "raw"
    tiny_raw(path, sessions=1, receive_pairs=True)
    return path


def planned(folder: Path, **mpm: Any) -> WorkUnit:
    tree = yaml.safe_load((folder / "study.yaml").read_text())
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree | {"mpm": mpm}))
    plan = plan_study(file)
    (unit,) = [unit for unit in plan.plan.units if unit.step == "mpm-maps"]
    return unit


def test_plan_sessions__projects_a_contrast_and_a_field_finer_than_pdw(tmp_path: Path) -> None:
    tiny_raw(tmp_path / "raw", sessions=1, b1="TB1map")
    before = planned(tmp_path / "raw")
    shape = (96, 96, 96)
    finer = 4 * int(np.prod(shape))
    (field,) = (tmp_path / "raw").rglob("fmap/*_TB1map.nii.gz")
    for pattern, least in (("*flip-2_mt-off*_MPM.nii.gz", 8 * 2 * finer), (f"fmap/{field.name}", 24 * finer)):
        for path in (tmp_path / "raw").rglob(pattern):
            image = nib.load(path)
            assert isinstance(image, nib.Nifti1Image)
            zoom = np.diag([*(n / m for n, m in zip(image.shape, shape, strict=True)), 1.0])
            nib.save(nib.Nifti1Image(np.ones(shape, np.int16), image.affine @ zoom), path)
        after = planned(tmp_path / "raw")
        assert after.projected_mem > before.projected_mem + 0.9 * least


def test_how_made__tells_what_changes_numbers(folder: Path) -> None:
    plain = how_made(planned(folder))
    assert plain == {
        "Preset": "hmri-1.0",
        "B1Method": "AFI",
        "B1Unwarped": False,
        "SpoilingCorrection": False,
        "ReceiveCorrection": True,
        "ChangedSettings": {},
    }
    assert set(plain) <= set(KEYS)
    other = how_made(planned(folder, receive="none", angles="small-angle", b1_smoothing_mm=4.0, missing_b0="skip"))
    assert other["ReceiveCorrection"] is False
    assert other["ChangedSettings"] == {"angles": "small-angle", "b1_smoothing_mm": 4.0}


def test_plan_sessions__a_visit_without_receive_pairs_is_named(tmp_path: Path) -> None:
    tiny_raw(tmp_path / "raw", sessions=2, receive_pairs=True)
    for path in (tmp_path / "raw").rglob("ses-2/fmap/*RB1COR*"):
        path.unlink()
    warnings = plan_study(tmp_path / "raw" / "study.yaml").plan.warnings
    assert any("sessions differ in ReceiveCorrection" in text for text in warnings)
