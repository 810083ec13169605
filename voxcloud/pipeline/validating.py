"""Validation: everything that is cheap to find is found before a run, and all of it at once."""

from __future__ import annotations

from pathlib import Path

from voxcloud.bids.images import load_mask, read_header
from voxcloud.errors import VoxcloudError
from voxcloud.pipeline.engines import memory_per_worker, worker_count
from voxcloud.pipeline.study import load, open_output
from voxcloud.plan.build import build_plan, read_cohort


def validate_study(path: Path | str) -> list[str]:
    """Return every problem of a study: file, tables, image headers, designs; an empty list means that it can run."""
    loaded = load(path)
    problems: list[str] = []
    try:
        cohort = read_cohort(loaded)
        grid = load_mask(loaded.resolve(loaded.study.mask))
    except VoxcloudError as error:
        return [str(error)]
    for row in cohort.images.drop_duplicates("path").itertuples(index=False):
        try:
            read_header(str(row.path), None).check_grid(grid)
        except VoxcloudError as error:
            problems.append(f"sub-{row.participant_id} ses-{row.session_id} {row.map} {row.label}: {error}")
    try:
        plan = build_plan(loaded, open_output(loaded), {})
        problems += plan.problems
        largest = max((u.projected_mem for u in plan.units), default=0)
        workers = worker_count(loaded.study.compute)
        have = memory_per_worker(loaded.study.compute, workers)
        if largest > have:
            problems.append(
                f"compute: the largest unit needs {largest / 1e6:.0f} MB, a worker has {have / 1e6:.0f} MB. Use "
                "fewer workers."
            )
    except VoxcloudError as error:
        problems.append(str(error))
    return problems
