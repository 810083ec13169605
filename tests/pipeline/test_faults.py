"""Faults of the machine during a run: disk full, writes that fail, a lease that is held, a run that is interrupted."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from voxcloud.errors import LeaseHeldError, PlanError
from voxcloud.pipeline import run as loop
from voxcloud.pipeline.study import run_one_unit
from voxcloud.storage.folder import FolderStore, explain
from voxcloud.storage.lease import acquire
from voxcloud.storage.store import open_store

FIT = "fit-block/training/R1map_label-GM/block-00000"
# A shell that starts the tests in the background lets its children ignore Ctrl-C: the run must not inherit that.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
VOXCLOUD = [sys.executable, "-c", HEARS_CTRL_C + "from voxcloud.cli.app import main; main()"]
PATIENCE_S = 240.0


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PUT_BACK_DELAY_S", 0.02)


def failing(monkeypatch: pytest.MonkeyPatch, code: int, when: Any) -> list[str]:
    """Let writes fail that ``when`` chooses by path and number; return the list of the paths that failed."""
    failed: list[str] = []
    write, count = FolderStore.write_bytes, iter(range(10**9))

    def flaky(self: FolderStore, path: str, data: bytes) -> None:
        if when(path, next(count)):
            failed.append(path)
            raise explain(OSError(code, os.strerror(code)), self.root / path)
        write(self, path, data)

    monkeypatch.setattr(FolderStore, "write_bytes", flaky)
    return failed


def is_output(path: str) -> bool:
    """Whether an object is a unit's; what the run itself writes is another matter."""
    return path.startswith(
        ("stacks/", "masks/", "fits/", "stats/", "results/model-training/R1map", ".voxcloud/records")
    )


def test_run__every_third_write_fails_once_is_tried_again(
    fresh: Any, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def every_third(path: str, _: int) -> bool:
        if not is_output(path) or path in seen:
            return False
        seen.add(path)
        return len(seen) % 18 == 3  # a unit has at most 17 outputs: none is hit three times

    failed = failing(monkeypatch, errno.EIO, every_third)
    outcome = fresh.run("threads", workers=2)
    assert len(failed) > 3
    assert outcome.failed == {}
    assert fresh.numbers() == expected


@pytest.mark.slow
def test_run__every_third_write_fails_always_names_the_units_and_the_next_run_goes_on(
    fresh: Any, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failed = failing(patch, errno.EIO, lambda path, count: is_output(path) and count % 3 == 0)
        outcome = fresh.run()
        assert failed
        assert outcome.failed
        for key, answer in outcome.failed.items():
            assert "Input/output error" in answer["message"]
            assert answer["rerun"] == f"voxcloud unit run {key} --output {fresh.output}"
        done = set(outcome.computed)
    again = fresh.run()
    assert again.failed == {}
    assert not done - {"summary/study", "report/study"} & set(again.computed)
    assert fresh.numbers() == expected


def test_run__on_a_full_disk_says_so_and_loses_nothing(fresh: Any, expected: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, errno.ENOSPC, lambda path, _: "fit.zarr/se/" in path)
        outcome = fresh.run()
    assert list(outcome.failed) == [FIT] or set(outcome.failed) == {"fit-template/training/R1map_label-GM"}
    (message,) = {answer["message"] for answer in outcome.failed.values()}
    assert "no space is left on the disk" in message
    assert "what is done is kept" in message
    again = fresh.run()
    assert not [key for key in again.computed if key.startswith("stack-")]
    assert fresh.numbers() == expected


def test_run__the_report_is_written_although_a_model_failed_and_names_it(finished: Any) -> None:
    other = finished.output / "results/model-training/R1map_label-GM__linear__patients_minus_untrained.json"
    before = other.read_bytes()
    finished.change_model(inference={"method": "random-field", "cluster_forming_p": 0.001, "alpha": 0.02})
    with pytest.MonkeyPatch.context() as patch:
        failing(
            patch, errno.ENOSPC, lambda path, _: path.endswith("R1map_label-GM__linear__patients_minus_untrained.json")
        )
        outcome = finished.run()
    key = "inference/training/R1map_label-GM/linear_patients_minus_untrained"
    assert list(outcome.failed) == [key]
    assert outcome.report is not None
    page = outcome.report.read_text()
    assert key in page
    assert "no space is left" in page
    # The result of the earlier run, with another alpha, is still there and none of this one's.
    assert other.read_bytes() == before
    summary = json.loads((finished.output / "results/summary.json").read_text())
    assert summary["results"] == ["results/model-training/R1map_label-GM__quadratic__patients_minus_untrained.json"]
    assert summary["failed"][0]["unit"] == key
    assert set(finished.run().computed) == {key, "summary/study", "report/study"}
    assert key not in outcome.report.read_text()


@pytest.fixture
def held(finished: Any) -> Iterator[str]:
    """A run of somebody else on the study."""
    with acquire(open_store(finished.output), "run-of-another") as lease:
        yield lease.run_id


def test_run__a_second_one_is_refused_with_the_name_of_the_first(finished: Any, held: str) -> None:
    with pytest.raises(LeaseHeldError, match=f"found run {held} on .* \\(process {os.getpid()}\\)"):
        finished.run()


def test_run_one_unit__is_refused_while_a_run_lives(finished: Any, held: str) -> None:
    with pytest.raises(LeaseHeldError, match=held):
        run_one_unit(FIT, finished.output)


def test_run_one_unit__waits_for_what_it_reads(finished: Any) -> None:
    (finished.output / "fits/model-training/R1map_label-GM/fit.zarr/n/c/0").unlink()
    with pytest.raises(PlanError, match=f"expected {FIT} to be done, found it stale .*voxcloud unit run {FIT}"):
        run_one_unit("inference/training/R1map_label-GM/linear_patients_minus_untrained", finished.output)


def wait_for(path: Path, seconds: float = PATIENCE_S) -> None:
    """Wait until a file exists."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["threads", "local"])
def test_run__interrupted_exits_with_130_and_goes_on(fresh: Any, expected: dict[str, str], engine: str) -> None:
    command = [*VOXCLOUD, "run", str(fresh.file), "--engine", engine, "--workers", "2"]
    # A group of its own, as a terminal's foreground job: Ctrl-C reaches the workers too.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    wait_for(fresh.output / ".voxcloud/records/stack-shard")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "go on with: voxcloud run" in errors
    assert "Traceback" not in errors
    assert not (fresh.output / ".voxcloud/lease.json").exists()
    outcome = fresh.run()
    assert outcome.failed == {}
    assert len(outcome.computed) < 15
    assert fresh.numbers() == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run__two_at_once_one_of_them_is_refused(fresh: Any, expected: dict[str, str]) -> None:
    command = [*VOXCLOUD, "run", str(fresh.file), "--engine", "serial"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=PATIENCE_S)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ends) == [0, 1]
    (refused,) = [errors for errors, code in ends if code == 1]
    (winner,) = [process.pid for process in processes if process.returncode == 0]
    assert f"(process {winner})" in refused
    assert fresh.numbers() == expected
