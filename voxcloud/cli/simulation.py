"""``voxcloud simulate``: progress while it writes, then what was made and how long a run of it will take."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from voxcloud.cli.show import say
from voxcloud.cli.text import number_of, seconds, size
from voxcloud.pipeline.engines import worker_count
from voxcloud.pipeline.study import plan_study
from voxcloud.testing.simulate import simulate_study


class _Progress:
    """One line that grows on a terminal, a line every tenth otherwise."""

    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, written: int, total: int) -> None:
        tenth = 10 * written // total
        if tenth > self._tenth or written == total:
            self._tenth = tenth
            if sys.stdout.isatty():
                end = "\n" if written == total else ""
                sys.stdout.write(f"\rImages  {written:,} of {total:,}{end}")
            else:
                sys.stdout.write(f"Images  {written:,} of {total:,}\n")
            sys.stdout.flush()


def simulate_with_progress(out: Path, resolution: float, seed: int, maps: tuple[str, ...] | None) -> None:
    """Simulate a study and say what was made."""
    start = time.monotonic()
    made = simulate_study(out, resolution_mm=resolution, seed=seed, maps=maps, progress=_Progress())
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    voxels, stored = int(made.anatomy.mask.sum()), sum(path.stat().st_size for path in files)
    say(
        f"Made    {number_of(len(made.images), 'image')} of {number_of(len(made.participants), 'participant')} at "
        f"{number_of(len(made.sessions), 'visit')}, {voxels:,} voxels each, {size(stored)}, "
        f"in {seconds(time.monotonic() - start)}"
    )
    say(f"Planted {number_of(len(made.truth['planted']), 'change')}, listed in {made.folder / 'truth' / 'truth.json'}")
    planned = plan_study(made.study_file)
    units = planned.plan.units
    workers = worker_count(planned.plan.loaded.study.compute)
    cpu = sum(unit.expected_s for unit in units)
    say(
        f"A run   {number_of(len(units), 'unit')}, about {seconds(cpu)} of CPU: {seconds(cpu / workers)} with "
        f"{number_of(workers, 'worker')}"
    )
    say(f"Study   {made.study_file}\nRun it with: voxcloud run {made.study_file}")
