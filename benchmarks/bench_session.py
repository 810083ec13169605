"""A whole session of multi-parameter mapping: CPU seconds by phase and peak memory, from gzipped files to maps.

    python benchmarks/bench_session.py [--resolution 1.0] [--repeats 3] [--folder KEEP]

A head is simulated (``voxcloud simulate --raw``: 240 x 256 x 176 voxels of 1 mm, 22 echoes, AFI), then one work unit
makes its maps as a run does: reading, registration, cubic B-splines, B1, maps with errors, quality control, writing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import ONE_THREAD, cpu_seconds, forget_peak, in_child, peak_mb


def one_session(study: str) -> None:
    """Make the maps of the first session in this process, and print what it took (run as a child)."""
    from voxcloud.pipeline.execute import execute
    from voxcloud.pipeline.study import plan_study
    from voxcloud.storage.records import list_records, read_record
    from voxcloud.storage.store import open_store

    planned = plan_study(study)
    unit = next(u for u in planned.plan.units if u.step == "mpm-maps")
    store = open_store(str(unit.places["output"]))
    forget_peak()
    before = cpu_seconds()
    answer = execute(unit, store)
    if answer["state"] != "done":
        raise SystemExit(answer["message"])
    spent, peak = cpu_seconds() - before, peak_mb()
    mark, state = list_records(store)[unit.step, unit.name][-1]
    record = read_record(store, unit.step, unit.name, mark, state)
    assert record is not None
    costs = {name: [seconds, 0.0, 1] for name, seconds in record.result["phases_cpu_s"].items()}
    costs["whole unit"] = [spent, peak, 1]
    costs["projected"] = [0.0, unit.projected_mem / 1e6, 1]
    costs["voxels in the head"] = [float(record.result["voxels"]), 0.0, 1]
    print(json.dumps(costs))


def main() -> None:
    """Simulate, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the simulated data here, and use what lies there")
    parser.add_argument("--one-session", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_session:
        one_session(asked.one_session)
        return
    from voxcloud.testing.raw import simulate_raw

    with tempfile.TemporaryDirectory() as name:
        folder = (asked.folder or Path(name)) / "raw"
        if not (folder / "study.yaml").exists():
            simulate_raw(folder, resolution_mm=asked.resolution, participants=1, sessions=1)
        cache = Path(name) / "cache"
        runs = [
            in_child(__file__, "--one-session", str(folder / "study.yaml"), cache=cache) for _ in range(asked.repeats)
        ]
    whole = [run["whole unit"] for run in runs]
    print(
        f"{asked.resolution:g} mm, {runs[0]['voxels in the head'].cpu_s:,.0f} voxels in the head, "
        f"median of {asked.repeats} runs, one thread ({', '.join(ONE_THREAD)} = 1)"
    )
    print("| phase | CPU s |\n|---|---|")
    for phase in runs[0]:
        if phase not in ("projected", "voxels in the head"):
            print(f"| {phase} | {statistics.median(run[phase].cpu_s for run in runs):.2f} |")
    registrations = statistics.median(run["registrations"].cpu_s for run in runs)
    print(f"| without registrations | {statistics.median(w.cpu_s for w in whole) - registrations:.2f} |")
    print(f"Peak memory {max(w.peak_mb for w in whole):.0f} MB, projected {runs[0]['projected'].peak_mb:.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
