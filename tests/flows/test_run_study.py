"""The flow: the same results as the command line, few task runs, and a failure that says what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from voxcloud.errors import UnitFailedError
from voxcloud.pipeline.study import RunOptions, run_study
from voxcloud.testing.simulate import tiny_study

# Prefect and what it stands on warn of their own affairs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

NUMBERS = ("stacks/", "masks/", "fits/", "stats/", "results/model-")


def numbers(folder: Path) -> dict[str, str]:
    """Return path to sha256 of every object that holds numbers."""
    output = folder / "derivatives" / "voxcloud"
    found = {p.relative_to(output).as_posix(): p for p in output.rglob("*") if p.is_file()}
    return {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in found.items() if k.startswith(NUMBERS)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study before any run."""
    return tiny_study(tmp_path / "study").folder


def prefect_home_holds(home: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return task runs and artifacts by id, and stored files."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        # Prefect's own functions for this send null where the server wants nothing.
        tasks, artifacts = (
            client.request("POST", f"/{kind}/filter", json={"limit": 200}).json() for kind in ("task_runs", "artifacts")
        )
    stored = {str(path): None for path in home.rglob("storage/*") if path.is_file()}
    return {run["id"]: run["name"] for run in tasks}, {one["id"]: one["key"] for one in artifacts}, stored


def test_run_study_flow__gives_the_bytes_of_the_command_line(study: Path, tmp_path: Path, prefect_home: Path) -> None:
    from flows.options import FlowOptions
    from flows.run_study import run_study_flow

    # Other tests' tasks are in the same data base, and of flows that failed Prefect keeps the message.
    before = prefect_home_holds(prefect_home)
    other = tmp_path / "other"
    shutil.copytree(study, other)
    run_study(other / "study.yaml", RunOptions(engine="serial"))
    state = run_study_flow(str(study / "study.yaml"), FlowOptions(engine="threads", workers=2), return_state=True)
    answer = state.result()
    assert answer == {
        "planned": 15,
        "computed": 15,
        "failed": 0,
        "unavailable": 0,
        "report": str(study / "derivatives/voxcloud/report.html"),
    }
    assert json.loads(json.dumps(answer)) == answer
    assert numbers(study) == numbers(other)
    assert len(numbers(study)) > 50
    tasks, artifacts, stored = (
        {key: new[key] for key in new.keys() - old.keys()}
        for new, old in zip(prefect_home_holds(prefect_home), before, strict=True)
    )
    assert [name.rpartition("-")[0] for name in tasks.values()] == ["run-units"]
    assert set(artifacts.values()) == {"cohort-status", "run-progress"}
    # Nothing but Prefect's own data base: no result lies anywhere.
    assert not stored


def test_run_study_flow__a_failure_names_units_and_how_to_run_them(study: Path, prefect_home: Path) -> None:
    from flows.options import FlowOptions
    from flows.run_study import run_study_flow

    image = next((study / "sub-03").rglob("*R1map.nii*"))
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UnitFailedError) as caught:
        run_study_flow(str(study / "study.yaml"), FlowOptions(engine="serial"))
    text = str(caught.value)
    assert "stack-shard/R1map_label-GM/shard-00000" in text
    assert "sub-03" in text
    assert "Run it alone: voxcloud unit run stack-shard/R1map_label-GM/shard-00000 --output" in text


def test_run_study_flow__takes_what_a_deployments_form_sends(prefect_home: Path) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.options import FlowOptions
    from flows.run_study import run_study_flow

    found = run_study_flow.validate_parameters({"study": "a.yaml", "options": {"engine": "local", "workers": "2"}})
    assert found == {"study": "a.yaml", "options": FlowOptions(engine="local", workers=2)}
    with pytest.raises(ParameterTypeError, match="engine"):
        run_study_flow.validate_parameters({"study": "a.yaml", "options": {"engine": "cloud"}})
    with pytest.raises(ParameterTypeError, match="motor"):
        run_study_flow.validate_parameters({"study": "a.yaml", "options": {"motor": "local"}})
    form: dict[str, Any] = run_study_flow.parameters.model_dump()
    assert form["properties"]["study"]["description"].startswith("Path of the study file")
    fields = form["definitions"]["FlowOptions"]["properties"]
    assert all(field["description"] and "default" in field for field in fields.values())
    assert fields["engine"]["enum"] == ["study", "serial", "threads", "local", "address"]


def test_run_study_flow__runs_from_a_deployment(study: Path, prefect_home: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    from flows.run_study import run_study_flow

    runner = Runner(name="tests", limit=1)
    deployment = runner.add_flow(run_study_flow, name="tests")
    with get_client(sync_client=True) as client:
        parameters = {"study": str(study / "study.yaml"), "options": {"engine": "serial"}}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        import anyio

        anyio.run(runner.execute_flow_run, run.id)
        state = client.read_flow_run(run.id).state
    assert state is not None
    assert state.is_completed(), state.message
    assert (study / "derivatives/voxcloud/report.html").is_file()
