"""The command line as a person meets it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voxcloud.cli import app as commands
from voxcloud.cli.show import show_outcome
from voxcloud.pipeline.study import RunOptions, StudyOutcome, plan_study, run_study
from voxcloud.plan.unit import STAGES
from voxcloud.storage.lease import LEASE_PATH

HEAVY = ("numpy", "pandas", "scipy", "zarr", "dask", "prefect", "nibabel", "nilearn", "matplotlib")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command in this process on a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voxcloud", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Return digest and time of every file and folder below a folder."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (hashlib.sha256(content).hexdigest(), path.stat().st_mtime_ns)
    return found


def test_help__imports_nothing_heavy() -> None:
    code = (
        "import sys; from voxcloud.cli.app import app\n"
        "import typer.testing as t; print(t.CliRunner().invoke(app, ['--help']).output)\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out
    for name in ("validate", "plan", "run", "status", "report", "simulate", "unit"):
        assert name in out


@pytest.mark.parametrize("made", ["nothing", "a run and a lease"])
def test_plan__writes_nothing_at_all(made: str, study: Any, run: Run) -> None:
    if made != "nothing":
        study.edit(masks={"GM": {"map": "probseg", "threshold": 0.9999}})  # ends after the stacks
        run_study(study.file, RunOptions(engine="serial"))
        content = {"run_id": "r", "host": "h", "pid": 1, "boot": "b", "started": time.time(), "running": []}
        (study.output / LEASE_PATH).parent.mkdir(parents=True, exist_ok=True)
        (study.output / LEASE_PATH).write_text(json.dumps(content))
    before = tree(study.folder)
    for words in (
        ("plan", study.file),
        ("plan", "--units", study.file),
        ("status", study.file),
        ("validate", study.file),
    ):
        assert run(*words)[0] == 0
    assert run("run", "--dry-run", study.file)[0] == 0
    assert tree(study.folder) == before


def test_plan__shows_every_stage_whole_on_a_narrow_terminal(study: Any, run: Run) -> None:
    status, out, _ = run("plan", study.file)
    assert status == 0
    lines = out.splitlines()
    header = lines[0].split()
    assert header == ["stage", "units", "to", "do", "read", "write", "objects", "memory", "CPU"]
    planned = {unit.step for unit in plan_study(study.file).plan.units}
    assert {line.split()[0] for line in lines[1:] if line} >= planned
    assert planned <= set(STAGES)
    assert max(map(len, lines[: len(planned) + 2])) <= 80
    assert "of memory at once" in out
    assert "not computed yet (" in out


def test_plan__says_which_part_changed(study: Any, run: Run) -> None:
    study.edit(masks={"GM": {"map": "probseg", "threshold": 0.9999}})
    run_study(study.file, RunOptions(engine="serial"))
    assert "failed: analysis mask" in run("plan", study.file)[1]
    study.edit(masks={"GM": {"map": "probseg", "threshold": 0.2}})
    out = run("plan", study.file)[1]
    assert "stale: setting threshold: 0.9999 -> 0.2 (1 tissue-mask)" in out
    found = json.loads(run("plan", "--json", "--units", study.file)[1])
    [unit] = [u for u in found["every_unit"] if u["key"].startswith("tissue-mask/")]
    assert unit["state"] == "stale"
    assert found["counts"]["stack-shard"]["done"] == 4


def test_plan__names_each_person_left_out_once(study: Any, run: Run) -> None:
    study.table(
        "images.tsv", lambda t: [x for x in t if not (x.startswith("sub-03") and "R1map" in x and "day0" not in x)]
    )
    study.more_models({"name": "second"}, {"name": "third", "formula": "group"})
    out = run("plan", study.file)[1]
    own = [line for line in out.splitlines() if line.startswith("  sub-03")]
    assert own == ["  sub-03: has 2 visits (day 0, 7), needs 3 (3 models, R1map_label-GM)"]
    everything = json.loads(run("plan", "--json", study.file)[1])["left_out"]
    assert [item["participant_id"] for item in everything] == ["03"] * 3


def test_run__takes_the_options_of_its_dry_run(study: Any, run: Run) -> None:
    status, out, err = run("run", "--dry-run", "--recompute", "repor", study.file)
    assert (status, out) == (1, "")
    assert "found repor. Did you mean 'report'?" in err
    status, out, _ = run("run", "--dry-run", "--workers", "3", study.file)
    assert "with 3 workers" in out


@pytest.mark.parametrize("command", ["plan", "run", "status", "report"])
def test_errors__are_sentences_without_a_traceback(command: str, study: Any, run: Run) -> None:
    study.edit(colour="red", famil="all")
    status, out, err = run(command, study.file)
    assert (status, out) == (1, "")
    assert err.count("error: ") == 2
    assert "Traceback" not in err


def test_errors__unexpected_ones_say_how_to_report(study: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, options: object = None) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("voxcloud.pipeline.study.plan_study", broken)
    status, _, err = run("plan", study.file)
    assert status == commands.STATUS_UNEXPECTED
    assert "Traceback" in err
    assert "ZeroDivisionError: planted" in err
    assert "Please report it" in err


def test_validate__ends_with_status_1_and_lists_problems(study: Any, run: Run) -> None:
    status, out, _ = run("validate", study.file)
    assert status == 0
    assert "The study can run." in out
    study.image("01", "00").unlink()
    status, out, _ = run("validate", study.file)
    assert status == 1
    assert "problem: sub-01_ses-day00" in out
    status, out, _ = run("validate", "--json", study.file)
    assert status == 1
    assert len(json.loads(out)["problems"]) == 1


def test_status__shows_warnings_and_errors_of_a_failed_unit_and_not_its_routine(study: Any, run: Run) -> None:
    image = study.image("01", "07")
    image.write_bytes(image.read_bytes()[:60])
    run("run", study.file, "--engine", "serial")
    _, out, _ = run("status", study.file)
    assert "failed  stack-shard/R1map_label-GM/shard-00000" in out
    assert " INFO " not in out
    (record,) = (study.output / ".voxcloud/records/stack-shard/R1map_label-GM/shard-00000").iterdir()
    tree = json.loads(record.read_text())
    assert [line for line in tree["log_tail"] if " INFO " in line]  # the record keeps them
    warning = tree["log_tail"][0].replace(" INFO ", " WARNING ")
    record.write_text(json.dumps(tree | {"log_tail": [*tree["log_tail"], warning]}))
    _, out, _ = run("status", study.file)
    assert f"  | {warning}" in out


def test_validate__says_that_a_missing_mask_is_named_in_the_study_file(study: Any, run: Run) -> None:
    study.edit(mask="msk.nii.gz")
    _, out, _ = run("validate", study.file)
    assert "msk.nii.gz. Correct the path in the study file." in out
    assert "images table" not in out


def test_validate__shows_two_sizes_of_a_disk_that_differ(study: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    status, out, _ = run("validate", study.file)
    found = re.search(r"expected room for (\S+) MB, found (\S+) MB free", out)
    assert status == 1
    assert found is not None
    assert found[1] != found[2] == "0.1"


def test_show_outcome__says_a_message_once_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    failed = {f"stack-shard/R1map/shard-0000{k}": {"message": "no room", "rerun": f"again {k}"} for k in range(3)}
    waits = {"fit-block/a": "waits", "fit-block/b": "waits"}
    outcome = StudyOutcome((), failed, waits, (), 4, 1.0, 1.0, "out", None, leftovers=("stats/model-old",))
    assert show_outcome(outcome, "voxcloud run study.yaml") == 5
    out = capsys.readouterr().out
    assert "does not ask for any more: stats/model-old" in out
    assert out.count("no room") == 1
    assert "not run: 2 units, e.g. fit-block/a: waits" in out
    assert "go on with: voxcloud run study.yaml" in out


@pytest.mark.slow
def test_simulate__shows_progress_and_says_what_it_made(tmp_path: Path, run: Run) -> None:
    status, out, _ = run("simulate", tmp_path / "new", "--resolution", 12, "--map", "R1map")
    assert status == 0
    assert "Images  " in out
    for word in ("Made ", "49 participants", "Planted ", "A run ", "of CPU", "voxcloud run "):
        assert word in out
    assert (tmp_path / "new" / "study.yaml").is_file()


def test_simulate__refuses_a_folder_with_files(tmp_path: Path, run: Run) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = run("simulate", tmp_path)
    assert status == 1
    assert "found files in it" in err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_images__a_derivatives_folder_gives_the_same_units(study: Any) -> None:
    first = {u.key: u.fingerprint for u in plan_study(study.file).plan.units if u.step != "report"}
    maps = study.folder / "maps"
    for line in (study.folder / "images.tsv").read_text().splitlines()[1:]:
        participant, session, _, _, path, _ = line.split("\t")
        place = maps / participant / session / "anat"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(study.folder / path, place)
    (maps / "dataset_description.json").write_text(json.dumps({"Name": "maps", "BIDSVersion": "1.10.0"}))
    study.edit(images="maps")
    plan = plan_study(study.file).plan
    # The report holds the study file as it was run.
    assert {u.key: u.fingerprint for u in plan.units if u.step != "report"} == first
    assert plan.problems == ()
