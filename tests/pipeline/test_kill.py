"""A run that is killed, whenever and wherever: the next run goes on and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")

FIT = "fit-block/training/R1map_label-GM/block-00000"
SEARCH = "inference/training/R1map_label-GM/linear_patients_minus_untrained"
# Unit -> (part of the path of its first object, of one in the middle)
UNITS = {
    "stack-shard/R1map_label-GM/shard-00001": ("R1map_label-GM/mask-49d24ed6/stack.zarr/values/c/1",) * 2,
    "stack-manifest/R1map_label-GM": ("R1map_label-GM/mask-49d24ed6/manifest-1.json",) * 2,
    "fit-template/training/R1map_label-GM": ("fit.zarr/effect/zarr.json", "fit.zarr/zarr.json"),
    FIT: ("fit.zarr/valid/c/0", "fit.zarr/statistic/c/0/0"),
    "smoothness/training/R1map_label-GM/linear": ("resels-linear.npy", "smoothness-linear.json"),
    SEARCH: ("contrast-linearPatientsMinusUntrained_stat-t_statmap.nii.gz", "linearPatientsMinusUntrained_stat-z"),
    "summary/study": ("results/summary.json", "results/cohort.json"),
    "report/study": ("report.html",) * 2,
}


def killed(study: Any, when: str, text: str) -> None:
    """Run the command line until it is killed at a write."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "run", str(study.file), "--engine", "serial"],
        env={**os.environ, "VOXCLOUD_TEST_KILL": f"{when} {text}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def check_resume(study: Any, order: tuple[str, ...], expected: dict[str, str], unit: str, when: str) -> None:
    """Kill a run at a unit, run again, and compare."""
    first, middle = UNITS[unit]
    moments = {
        "before": ("before", first),
        "in": ("in", middle),
        "record": ("before", f".voxcloud/records/{unit}/"),
        "after": ("after", f".voxcloud/records/{unit}/"),
    }
    killed(study, *moments[when])
    again = order[order.index(unit) + (when == "after") :]
    assert set(study.to_compute()) == set(again)
    outcome = study.run()
    assert (outcome.computed, outcome.failed) == (again, {})
    assert study.numbers() == expected
    assert not [path for path in study.objects() if ".tmp-" in path and "lock" not in path]
    assert (study.output / "report.html").stat().st_size > 10_000
    assert study.run().computed == ()


def test_run__killed_in_the_middle_of_a_fit_goes_on(
    fresh: Any, order: tuple[str, ...], expected: dict[str, str]
) -> None:
    check_resume(fresh, order, expected, FIT, "in")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "in", "record", "after"])
@pytest.mark.parametrize("unit", UNITS)
def test_run__killed_at_any_write_goes_on(
    fresh: Any, order: tuple[str, ...], expected: dict[str, str], unit: str, when: str
) -> None:
    check_resume(fresh, order, expected, unit, when)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("fit.zarr/statistic/c/0/0", marks=pytest.mark.slow),
        pytest.param("fit.zarr/effect/zarr.json", marks=pytest.mark.slow),
        "fit.zarr/zarr.json",
        pytest.param("R1map_label-GM/linear_patients_minus_untrained/", marks=pytest.mark.slow),
    ],
)
def test_run__of_other_parameters_killed_in_a_write_leaves_the_first_ones_right(
    finished: Any, expected: dict[str, str], text: str
) -> None:
    first = finished.file.read_text()
    finished.change_model(min_visits=5, formula="group")
    killed(finished, "in", text)
    finished.file.write_text(first)
    outcome = finished.run()
    assert not outcome.failed
    assert "fit-template/training/R1map_label-GM" in outcome.computed
    assert finished.numbers() == expected
    assert finished.run().computed == ()
