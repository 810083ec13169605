"""From maps to template space in the plan: units, what each waits for, and what a new scan changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from voxcloud.config.load import LoadedStudy, load_study
from voxcloud.errors import StudyFileError
from voxcloud.plan.build import StudyPlan, build_plan
from voxcloud.plan.space import with_tiv
from voxcloud.storage.store import open_store
from voxcloud.testing.raw import tiny_raw
from voxcloud.testing.raw_dwi_protocol import TINY_DWI

PEOPLE = 8


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with two visits; only the first has diffusion."""
    folder = tmp_path_factory.mktemp("space") / "raw"
    tiny_raw(folder, participants=PEOPLE, sessions=2, b1="TB1map", dwi=TINY_DWI)
    for person in range(2, PEOPLE + 1):
        for dwi in folder.glob(f"sub-{person:02d}/ses-*/dwi"):
            shutil.rmtree(dwi)
    return folder


def study(raw: Path, **changes: object) -> LoadedStudy:
    tree: dict[str, object] = {
        "schema": 1,
        "name": "whole",
        "bids": ".",
        "output": "derivatives/whole",
        "mpm": {},
        "dwi": {},
        "space": {"resolution_mm": 8},
        "participants": "participants.tsv",
        "sessions": ".",
        "time": {"basis": "polynomial", "reference_days": [0, 7], "terms": ["linear"]},
        "models": [
            {
                "name": "change",
                "maps": ["R1map", "volume"],
                "formula": "tiv",
                "contrasts": {"up": {"test": "intercept", "alternative": "greater"}},
            }
        ],
    }
    path = raw / "whole.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return load_study(path)


def plan(raw: Path, failed: dict[str, str] | None = None, **changes: object) -> StudyPlan:
    loaded = study(raw, **changes)
    return build_plan(loaded, open_store(loaded.resolve(loaded.study.output)), {}, failed=failed)


def fingerprints(found: StudyPlan, step: str) -> dict[str, str]:
    return {unit.name: unit.fingerprint for unit in found.units if unit.step == step}


def test_plan__one_anatomy_per_participant_and_maps_per_session_and_modality(raw: Path) -> None:
    found = plan(raw)
    assert sorted(fingerprints(found, "anatomy")) == [f"sub-{p:02d}" for p in range(1, PEOPLE + 1)]
    names = fingerprints(found, "template-maps")
    assert len(names) == 2 * PEOPLE + 2
    assert "sub-01_ses-2_dwi" in names
    unit = found.by_key["template-maps/sub-01_ses-2_dwi"]
    assert set(unit.upstream) == {"anatomy/sub-01", "dwi-maps/sub-01_ses-2"}
    assert unit.params["fwhm_mm"]["FA"] == {"GM": 5.0, "WM": 5.0}
    assert found.by_key["anatomy/sub-01"].upstream == ("mpm-maps/sub-01_ses-1", "mpm-maps/sub-01_ses-2")


def test_plan__stacks_of_both_tissues_wait_for_the_sessions_in_them(raw: Path) -> None:
    found = plan(raw)
    assert {"R1map_label-GM", "R1map_label-WM", "volume_label-GM", "probseg_label-WM"} <= set(found.stacks)
    shard = found.by_key["stack-shard/R1map_label-GM/shard-00000"]
    assert set(shard.upstream) == {
        f"template-maps/sub-{p:02d}_ses-{s}_mpm" for p in range(1, PEOPLE + 1) for s in (1, 2)
    }
    tissue = found.by_key["stack-shard/probseg_label-GM/shard-00000"]
    assert set(tissue.upstream) == {f"anatomy/sub-{p:02d}" for p in range(1, PEOPLE + 1)}
    assert {key.split("/")[0] for key in found.by_key} >= {"tissue-mask", "fit-block", "inference"}


def test_plan__a_missing_scan_changes_its_participant_and_nobody_else(raw: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "raw"
    shutil.copytree(raw, fewer)
    shutil.rmtree(fewer / "sub-08" / "ses-2")
    before, after = plan(fewer, on_bad_image="exclude"), plan(raw)
    for step in ("mpm-maps", "anatomy", "template-maps"):
        old, new = fingerprints(before, step), fingerprints(after, step)
        changed = {name for name in new if old.get(name) != new[name]}
        assert changed
        assert all(name.startswith("sub-08") for name in changed)


def test_plan__another_width_of_smoothing_leaves_the_anatomy_alone(raw: Path) -> None:
    space = {"resolution_mm": 8, "fwhm_mm": {"R1map": {"GM": 6, "WM": 6}}}
    before, after = plan(raw), plan(raw, space=space)
    assert fingerprints(before, "anatomy") == fingerprints(after, "anatomy")
    old, new = fingerprints(before, "template-maps"), fingerprints(after, "template-maps")
    assert {name for name in new if old[name] == new[name]} == {"sub-01_ses-1_dwi", "sub-01_ses-2_dwi"}


def test_plan__without_a_failed_session_the_participant_goes_on_by_the_others(raw: Path) -> None:
    failed = {"mpm-maps/sub-02_ses-1": "spoilt"}
    found = plan(raw, failed, on_bad_image="exclude")
    assert found.by_key["anatomy/sub-02"].params["sessions"] == ["2"]
    assert ("02", "1", "spoilt") in [(i.participant_id, i.session_id, i.reason) for i in found.left_out]
    assert "mpm-maps/sub-02_ses-1" in found.by_key  # it is tried again
    stopped = plan(raw, failed)
    assert not stopped.stacks
    assert any("sub-02_ses-1" in text and "on_bad_image" in text for text in stopped.problems)


def test_plan__a_failed_anatomy_takes_out_its_participant(raw: Path) -> None:
    found = plan(raw, {"anatomy/sub-03": "no head"}, on_bad_image="exclude")
    assert "anatomy/sub-03" in found.by_key
    assert not any(name.startswith("sub-03") for name in fingerprints(found, "template-maps"))
    assert {i.participant_id for stack in found.stacks.values() for i in stack.images} == {
        "01",
        "02",
        "04",
        "05",
        "06",
        "07",
        "08",
    }


def test_plan__leaves_out_whom_the_study_file_names_with_its_reason(raw: Path) -> None:
    found = plan(raw, leave_out={"sub-04": "withdrew", "sub-01_ses-2": "moved"})
    assert "mpm-maps/sub-04_ses-1" not in found.by_key
    assert "dwi-maps/sub-01_ses-2" not in found.by_key
    assert found.by_key["anatomy/sub-01"].params["sessions"] == ["1"]
    reasons = {(i.participant_id, i.session_id): i.reason for i in found.left_out if i.what != "model"}
    assert reasons["01", "2"] == "moved"
    with pytest.raises(StudyFileError, match=r"sub-44.*Did you mean 'sub-04'"):
        plan(raw, leave_out={"sub-44": "withdrew"})


def test_plan__too_few_people_for_a_model_stop_no_map(raw: Path) -> None:
    leave_out = {f"sub-{p:02d}": "not yet" for p in range(4, PEOPLE + 1)}
    found = plan(raw, leave_out=leave_out)
    assert len(fingerprints(found, "template-maps")) == 8
    assert not found.stacks
    assert any("degrees of freedom" in text for text in found.problems)


def test_with_tiv__known_volumes_and_stand_ins_of_full_rank() -> None:
    people = pd.DataFrame({"participant_id": ["01", "02", "03", "04"], "age": [20, 30, 40, 50]})
    found = with_tiv(people, {"02": 1450.5})
    assert found["tiv"][1] == 1450.5
    others = found["tiv"].drop(1)
    assert (others < 0).all()  # no head has such a volume
    assert others.nunique() == 3
    own = people.assign(tiv=[1.0, 2.0, 3.0, 4.0])
    assert with_tiv(own, {"02": 1450.5}) is own
