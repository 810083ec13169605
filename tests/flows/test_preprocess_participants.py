"""The flow that makes maps: a task per session, the command line's bytes, and one bad session beside good ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("prefect")

from voxcloud.errors import StudyFileError, UnitFailedError
from voxcloud.testing.raw import tiny_raw
from voxcloud.testing.raw_dwi_protocol import TINY_DWI
from voxcloud.testing.simulate import tiny_study

# Prefect and what it stands on warn of their own affairs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A raw data set of two people with one visit each."""
    made = tiny_raw(tmp_path / "raw", participants=2, sessions=1, dwi=TINY_DWI)
    tree = yaml.safe_load(made.study_file.read_text())
    tree["mpm"] = {"registration": "none"}
    tree["dwi"] = {"motion": "none", "denoise": "none"}
    made.study_file.write_text(yaml.safe_dump(tree))
    return made.study_file


def test_preprocess_participants__a_task_per_session_and_a_failure_by_name(study: Path, prefect_home: Path) -> None:
    from prefect.client.orchestration import get_client

    from flows.options import FlowOptions
    from flows.preprocess_participants import preprocess_participants

    image = next(study.parent.glob("sub-02/**/*echo-2_flip-1_mt-off*MPM.nii.gz"))
    image.write_bytes(image.read_bytes()[:-500])
    with pytest.raises(UnitFailedError, match=r"sub-02_ses-1.*cut short"):
        preprocess_participants(str(study), FlowOptions(engine="threads", workers=2))
    output = study.parent / "derivatives" / "voxcloud"
    assert (output / "sub-01/ses-1/anat/sub-01_ses-1_R1map.nii.gz").is_file()
    assert not (output / "sub-02/ses-1/anat/sub-02_ses-1_R1map.nii.gz").exists()
    assert "sub-02_ses-1" in (output / "qc.html").read_text()
    with get_client(sync_client=True) as client:
        runs = client.request("POST", "/task_runs/filter", json={"limit": 50}).json()
    states = {run["name"]: run["state"]["type"] for run in runs if "-maps/" in run["name"]}
    assert states == {
        "tiny-raw/dwi-maps/sub-01_ses-1": "COMPLETED",
        "tiny-raw/dwi-maps/sub-02_ses-1": "COMPLETED",
        "tiny-raw/mpm-maps/sub-01_ses-1": "COMPLETED",
        "tiny-raw/mpm-maps/sub-02_ses-1": "FAILED",
    }


def test_preprocess_participants__only_the_chosen_and_nothing_twice(study: Path, prefect_home: Path) -> None:
    from flows.options import FlowOptions
    from flows.preprocess_participants import preprocess_participants

    options = FlowOptions(engine="threads", participants=["01"])
    first = preprocess_participants(str(study), options)
    assert (first["computed"], first["failed"]) == (4, 0)
    assert first["quality"].endswith("qc.html")
    assert preprocess_participants(str(study), options)["computed"] == 0


def test_preprocess_participants__a_study_without_raw_images_is_refused(tmp_path: Path, prefect_home: Path) -> None:
    from flows.preprocess_participants import preprocess_participants

    ready = tiny_study(tmp_path / "study")
    with pytest.raises(StudyFileError, match="expected `bids` with `mpm` or `dwi`"):
        preprocess_participants(str(ready.study_file))
