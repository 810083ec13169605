"""What units need, against what the plan says they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxcloud.config.study import Compute
from voxcloud.errors import PlanError
from voxcloud.pipeline.engines import make_engine, usable_memory
from voxcloud.pipeline.run import refuse_shared_outputs, refuse_too_large
from voxcloud.pipeline.study import RunOptions, plan_study, run_study
from voxcloud.plan.unit import WorkUnit
from voxcloud.plan.units import SLACK_BYTES
from voxcloud.testing.raw import simulate_raw
from voxcloud.testing.raw_dwi_protocol import DwiProtocol
from voxcloud.testing.simulate import tiny_study

SCRIPT = Path(__file__).with_name("measured_unit.py")
# A projection beyond this many times the truth would refuse work that fits; the slack is for what the tests do not
# have: a cache of 200,000 digests, libraries that load at the first use.
MOST = 4.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, WorkUnit]]:
    """One unit per step of a study of 60 images and 109,000 voxels that has run: step to (output, unit)."""
    folder = tmp_path_factory.mktemp("memory") / "study"
    study = tiny_study(folder, shape=(60, 68, 56), voxel_mm=2.0, group_sizes={"sci_arm": 6, "con_none": 6}, four_d=())
    tree = yaml.safe_load(study.study_file.read_text())
    tree["models"].append({**tree["models"][0], "name": "unequal", "variance": "unequal", "formula": "group"})
    study.study_file.write_text(yaml.safe_dump(tree, sort_keys=False))
    outcome = run_study(study.study_file, RunOptions(engine="serial"))
    assert (outcome.failed, outcome.problems) == ({}, ())
    planned = plan_study(study.study_file).plan
    assert len(planned.grid.voxel_index) > 100_000
    found: dict[str, tuple[str, WorkUnit]] = {}
    for unit in planned.units:
        found.setdefault(unit.step, (outcome.output, unit))
    protocol = DwiProtocol(voxel_mm=3.0, shells=((1000.0, 30),))
    raw = simulate_raw(folder.with_name("raw"), resolution_mm=2.5, participants=1, sessions=1, dwi=protocol)
    tree = yaml.safe_load(raw.study_file.read_text())
    raw.study_file.write_text(yaml.safe_dump({**tree, "space": {"resolution_mm": 1.5}}))
    made = run_study(raw.study_file, RunOptions(engine="serial"))
    assert (made.failed, made.problems) == ({}, ())
    for unit in plan_study(raw.study_file).plan.units:
        found.setdefault(unit.step, (made.output, unit))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure")
def test_projected_mem__bounds_what_every_step_needs(units: dict[str, tuple[str, WorkUnit]]) -> None:
    wrong = []
    for step, (output, unit) in units.items():
        done = subprocess.run(
            [sys.executable, str(SCRIPT), output, unit.key],
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        measured = int(done.stdout.splitlines()[-1])
        if not (measured <= unit.projected_mem and unit.projected_mem - SLACK_BYTES <= MOST * measured):
            wrong.append(f"{step}: {measured / 1e6:.0f} MB needed, {unit.projected_mem / 1e6:.0f} MB projected")
    assert not wrong
    expected = {"mpm-maps", "dwi-maps", "stack-shard", "tissue-mask", "fit-block", "fit-whitened", "smoothness"}
    assert expected | {"inference"} <= set(units)


def unit(name: str, *outputs: str, memory: int = 1) -> WorkUnit:
    """Return a unit of some size."""
    return WorkUnit("fit-block", name, {}, {}, outputs, projected_mem=memory)


def test_refuse_too_large__names_the_unit_and_both_sizes() -> None:
    units = [unit("small", memory=10**6), unit("large", memory=3 * 10**9)]
    with pytest.raises(PlanError, match=r"fit-block/large: needs 3000 MB, the largest worker has 2000 MB"):
        refuse_too_large(units, 2 * 10**9)


def test_refuse_too_large__says_that_a_part_of_a_worker_is_usable() -> None:
    with pytest.raises(PlanError, match=r"needs 3000 MB, the largest worker has 40 MB \(80% of its 50 MB"):
        refuse_too_large([unit("large", memory=3 * 10**9)], 40 * 10**6, 0.8)


def cgroups(root: Path, lines: str, **limits: str) -> Path:
    """Write what a system says about control groups: path below sys/fs/cgroup (with / as __) to limit."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, limit in limits.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("--", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit + "\n")
    return root


def test_usable_memory__is_the_least_limit_of_all_groups(tmp_path: Path) -> None:
    physical = usable_memory(tmp_path / "nowhere")
    assert physical > 10**8
    limits = {"slurm__memory--max": "90000000", "slurm__step__memory--max": "max"}
    assert usable_memory(cgroups(tmp_path / "v2", "0::/slurm/step\n", **limits)) == 90_000_000
    # In a container the path is the host's: what is mounted is the container's own group.
    inside = cgroups(tmp_path / "inside", "0::/../docker/abc\n", **{"memory--max": "80000000"})
    assert usable_memory(inside) == 80_000_000
    v1 = cgroups(
        tmp_path / "v1", "4:cpu:/\n5:memory:/job\n0::/\n", **{"memory__job__memory--limit_in_bytes": "70000000"}
    )
    assert usable_memory(v1) == 70_000_000
    free = cgroups(tmp_path / "free", "5:memory:/\n", **{"memory__memory--limit_in_bytes": "9223372036854771712"})
    assert usable_memory(free) == physical


def test_run_study__refuses_a_unit_that_no_worker_can_hold_before_the_first_byte(fresh: Any) -> None:
    fresh.change(compute={"memory_per_worker": "100 MB"})
    with pytest.raises(PlanError, match=r"needs \d+ MB, the largest worker has 100 MB"):
        fresh.run()
    # Not even the study file's copy: only what tells two runs apart was there for a moment.
    assert not [path for path in fresh.objects() if not path.startswith(".voxcloud/.tmp-lock")]


def test_make_engine__auto_memory_shares_the_machine() -> None:
    one, four = (make_engine(Compute(engine="threads", workers=n)).memory_per_worker for n in (1, 4))
    assert one == pytest.approx(4 * four, rel=1e-6)


def test_refuse_shared_outputs__names_both_writers() -> None:
    refuse_shared_outputs([unit("a", "stats/a.nii.gz"), unit("b", "stats/b.nii.gz")])
    with pytest.raises(PlanError, match=r"fit-block/b: .* found that fit-block/a writes stats/AB too"):
        refuse_shared_outputs([unit("a", "stats/aB"), unit("b", "stats/AB")])
