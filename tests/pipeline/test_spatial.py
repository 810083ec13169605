"""From raw images into template space, on simulated heads of two people who are not the template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from voxcloud.bids.templates import load_template
from voxcloud.pipeline.sharing import share_study
from voxcloud.pipeline.study import RunOptions, plan_study, run_study
from voxcloud.testing import RawChange, simulate_raw_study
from voxcloud.testing.raw_study import SimulatedRawStudy

pytestmark = pytest.mark.slow

SPACE = "space-MNI152NLin2009aSym"
# R1 rises by a fifth in the left cerebellum: the template is exactly symmetric, and only this tells left from right.
CHANGE = RawChange("r1", "R1map", "GM", "linear", (-24.0, -62.0, -40.0), 14.0, 0.2)
SERIAL = RunOptions(engine="serial")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRawStudy:
    """Two people with two visits each, with diffusion; run into template space."""
    folder = tmp_path_factory.mktemp("spatial") / "raw"
    made = simulate_raw_study(
        folder, people=2, days=(0, 84), changes=(CHANGE,), slopes=0.0, missing=False, resolution_mm=4.0
    )
    tree = yaml.safe_load(made.study_file.read_text())
    for key in ("models", "groups", "time"):
        tree.pop(key, None)
    made.study_file.write_text(yaml.safe_dump(tree))
    outcome = run_study(made.study_file, SERIAL)
    assert not outcome.failed, outcome.failed
    return made


def output(study: SimulatedRawStudy) -> Path:
    return study.folder / "derivatives" / "voxcloud"


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).get_fdata(dtype=np.float32))


def of_map(study: SimulatedRawStudy, person: str, session: str, ending: str, folder: str = "anat") -> np.ndarray:
    where = output(study) / f"sub-{person}" / f"ses-{session}" / folder
    return values(where / f"sub-{person}_ses-{session}_{SPACE}_{ending}.nii.gz")


def test_run__every_session_has_its_maps_in_template_space(study: SimulatedRawStudy) -> None:
    expected = (Path(__file__).parent / "spatial_outputs.txt").read_text().splitlines()
    there = sorted(str(p.relative_to(output(study))) for p in output(study).rglob(f"sub-01*{SPACE}*"))
    there += sorted(str(p.relative_to(output(study))) for p in output(study).rglob("sub-01*_space-midpoint_*"))
    assert there == expected


def test_run__a_second_run_computes_nothing(study: SimulatedRawStudy) -> None:
    assert run_study(study.study_file, SERIAL).computed == ()


def test_run__a_change_in_the_left_cerebellum_is_seen_there_and_not_on_the_right(study: SimulatedRawStudy) -> None:
    template = load_template(4.0)
    centre = np.linalg.inv(template.affine) @ [*CHANGE.centre_mm, 1]
    mirrored = np.linalg.inv(template.affine) @ [-CHANGE.centre_mm[0], *CHANGE.centre_mm[1:], 1]
    for person in ("01", "02"):
        first, last = (of_map(study, person, s, "label-GM_desc-smoothed_R1map") for s in ("day00", "day84"))
        rise = last / first - 1
        left, right = (rise[tuple(np.rint(place[:3]).astype(int))] for place in (centre, mirrored))
        assert left > 0.12
        assert abs(right) < 0.04


def test_run__volumes_of_heads_stand_in_the_ratio_of_the_simulation(study: SimulatedRawStudy) -> None:
    truth = json.loads((study.folder / "truth" / "truth.json").read_text())
    found = {}
    for entry in truth["participants"]:
        who = entry["participant_id"]
        qc = json.loads((output(study) / who / f"{who}_desc-space_qc.json").read_text())
        found[who] = qc["volumes_ml"]["TIV"], entry["tiv_ml"]
        assert min(qc["dice"].values()) > 0.8
        assert min(visit["agreement"] for visit in qc["midpoint"]["visits"]) > 0.95
    (own, true), (other, other_true) = found.values()
    assert own / other == pytest.approx(true / other_true, rel=0.02)
    # With voxels of 4 mm, those at the edge of the brain hold little of it and are lost.
    assert own == pytest.approx(true, rel=0.2)


def test_run__proton_density_of_white_matter_is_69(study: SimulatedRawStudy) -> None:
    white = load_template(4.0).priors["WM"] > 0.95
    found = of_map(study, "01", "day00", "PDmap")[white]
    assert np.nanmedian(found) == pytest.approx(69, abs=2)


def test_share__of_every_image_only_the_brain_is_left(study: SimulatedRawStudy, tmp_path: Path) -> None:
    shared = share_study(study.study_file, tmp_path / "out")
    assert shared.left_out == ()
    images = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(images) == shared.images
    native = tmp_path / "out" / "sub-01" / "ses-day00" / "anat" / "sub-01_ses-day00_R1map.nii.gz"
    ml = float(np.isfinite(values(native)).sum()) * 0.064
    assert 1200 < ml < 2600  # a brain; the head has twice as much
    whole = values(output(study) / native.relative_to(tmp_path / "out"))
    assert np.isfinite(whole).sum() * 0.064 > 1.4 * ml
    kept = np.isfinite(values(native))
    assert np.array_equal(values(native)[kept], whole[kept])
    names = {p.name for p in (tmp_path / "out").rglob("*")}
    assert not any(name.endswith("_qc.html") for name in names)
    assert not any("VFA" in name for name in names)


@pytest.fixture
def swapped(study: SimulatedRawStudy, tmp_path: Path) -> Path:
    """The study again, with the last visits of both people exchanged."""
    folder = tmp_path / "swapped"
    shutil.copytree(study.folder, folder)
    shutil.rmtree(folder / "derivatives")
    for kind in ("anat", "dwi", "fmap"):
        one, other = (folder / f"sub-{p}" / "ses-day84" / kind for p in ("01", "02"))
        for foreign, label in ((other, "01"), (one, "02")):
            aside = tmp_path / f"{label}-{kind}"
            aside.mkdir(exist_ok=True)
            for file in sorted(foreign.iterdir()):
                old = "02" if label == "01" else "01"
                shutil.copy(file, aside / file.name.replace(f"sub-{old}_", f"sub-{label}_"))
        for label, place in (("01", one), ("02", other)):
            shutil.rmtree(place)
            shutil.copytree(tmp_path / f"{label}-{kind}", place)
    return folder / "study.yaml"


def test_run__two_peoples_visits_exchanged_are_named(swapped: Path) -> None:
    outcome = run_study(swapped, SERIAL)
    assert set(outcome.failed) == {"anatomy/sub-01", "anatomy/sub-02"}
    assert "another person" in str(outcome.failed["anatomy/sub-01"]["message"])
    assert "sub-01_ses-day84" in str(outcome.failed["anatomy/sub-01"]["message"])
    page = (swapped.parent / "derivatives" / "voxcloud" / "qc_space.html").read_text()
    assert "another person" in page


def test_plan__one_more_scan_recomputes_its_participant_only(study: SimulatedRawStudy, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(study.folder, folder)
    shutil.copytree(folder / "sub-02" / "ses-day00", folder / "sub-02" / "ses-day99")
    for file in sorted((folder / "sub-02" / "ses-day99").rglob("*ses-day00*")):
        file.rename(file.with_name(file.name.replace("ses-day00", "ses-day99")))
    for sidecar in sorted((folder / "sub-02" / "ses-day99").rglob("*.json")):
        sidecar.write_text(sidecar.read_text().replace("ses-day00", "ses-day99"))
    status = plan_study(folder / "study.yaml").status
    todo = {key for key, s in status.items() if s.state != "done" and not key.endswith("-qc/cohort")}
    assert todo
    assert all("sub-02" in key for key in todo)
    assert "anatomy/sub-02" in todo
    assert "mpm-maps/sub-02_ses-day00" not in todo
