"""Validation: everything that is cheap to find is found before a run, and all of it at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd

from voxcloud.bids.atlas import load_atlas
from voxcloud.bids.images import MaskGrid, read_header
from voxcloud.bids.nifti import check_complete, open_nifti
from voxcloud.bids.tables import Cohort
from voxcloud.config.load import LoadedStudy
from voxcloud.errors import ImageError, PlanError, VoxcloudError
from voxcloud.pipeline.engines import make_engine, usable_share
from voxcloud.pipeline.output import open_output, refuse_over_images
from voxcloud.pipeline.run import refuse_too_large
from voxcloud.pipeline.stacking import read_checked
from voxcloud.pipeline.study import load
from voxcloud.plan.build import StudyPlan, build_plan, check_volumes, read_cohort, read_study_mask
from voxcloud.plan.selection import LeftOut
from voxcloud.plan.status import derive_status
from voxcloud.schema import stack_name
from voxcloud.storage.store import Store

Found = TypeVar("Found")


@dataclass(frozen=True)
class Validation:
    """What a run would stumble over, what a reader should know, and who would be left out."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: tuple[LeftOut, ...] = ()

    def of(self, look: Callable[[], Found]) -> Found | None:
        """Return what a look finds, or keep the problems that it raises."""
        try:
            return look()
        except VoxcloudError as error:
            self.problems += error.problems
            return None


def validate_study(path: Path | str) -> Validation:
    """Look at everything that is cheap: study file, tables, headers, volumes, designs, engine, memory, disk.

    Of each stack the first image is read whole, because a wrong unit is usually that of all of them; the others are
    read by the run. With ``on_bad_image: exclude`` a bad image is a warning.
    """
    findings = _Findings()
    loaded = findings.of(lambda: load(path))
    if loaded is not None:
        # Images that the study makes itself are not there to be looked at.
        given = loaded.study.models and loaded.study.space is None
        usable = _look_at_tables(loaded, findings) if given else True
        store = findings.of(lambda: open_output(loaded))
        if store is not None and usable:
            plan = findings.of(lambda: build_plan(loaded, store, {}))
            if plan is not None:
                _look_at_plan(loaded, store, plan, findings)
    return Validation(
        tuple(dict.fromkeys(findings.problems)), tuple(dict.fromkeys(findings.warnings)), findings.left_out
    )


def _look_at_tables(loaded: LoadedStudy, findings: _Findings) -> bool:
    """Look at what the models need, and return whether a plan can be made of it."""
    cohort = findings.of(lambda: read_cohort(loaded))
    grid = findings.of(lambda: read_study_mask(loaded))
    if grid is not None:
        findings.problems += check_volumes(loaded, grid)
    if loaded.study.atlas is not None:
        atlas = {k: loaded.resolve(v) for k, v in loaded.study.atlas.model_dump().items()}
        findings.of(lambda: load_atlas(**atlas))
    if cohort is not None:
        findings.of(lambda: refuse_over_images(loaded, cohort))
    if cohort is None or grid is None:
        return False
    bad = list(_bad_images(cohort, grid))
    (findings.warnings if loaded.study.on_bad_image == "exclude" else findings.problems).extend(bad)
    return True


def _bad_images(cohort: Cohort, grid: MaskGrid) -> Iterator[str]:
    """Yield what is wrong with images: every header, every size, and the values of the first image of each stack."""
    read: set[str] = set()
    columns = cohort.images[["participant_id", "session_id", "map", "label", "path", "volume"]]
    for participant, session, map_name, label, path, cell in columns.itertuples(index=False, name=None):
        stack = stack_name(map_name, label)
        volume = None if pd.isna(cell) else int(cell)
        who = f"sub-{participant}" + (f"_ses-{session}" if session else "")
        try:
            header = read_header(path, volume)
            header.check_grid(grid)
            if volume is None and header.n_volumes > 1:
                raise ImageError(
                    f"{path}: expected one volume, found {header.n_volumes}. Name the volume (0 to "
                    f"{header.n_volumes - 1}) in the column `volume` of the images table."
                )
            check_complete(open_nifti(path))
            if stack not in read:
                read.add(stack)
                image = {"path": path, "volume": volume}
                read_checked(map_name, label, grid, participant, session, image)
        except ImageError as error:
            text = str(error)
            yield text if text.startswith(who) else f"{who}, {stack}: {text}"


def _look_at_plan(loaded: LoadedStudy, store: Store, plan: StudyPlan, findings: _Findings) -> None:
    findings.problems += plan.problems
    findings.warnings += plan.warnings
    findings.left_out = plan.left_out
    engine = findings.of(lambda: make_engine(loaded.study.compute))
    if engine is not None:
        findings.of(lambda: refuse_too_large(plan.units, engine.memory_per_worker, usable_share(engine)))
    findings.of(lambda: _check_room(store, plan))


def _check_room(store: Store, plan: StudyPlan) -> None:
    """Refuse an output folder that cannot be written to, or on a disk that is too full for what is to be computed."""
    folder = Path(store.local_path("."))
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise PlanError(
            f"output {store.url}: expected a folder that can be written to, found {folder} that cannot. "
            "Correct its permissions or name another folder."
        )
    todo = [s.unit for s in derive_status(plan.units, store, verify=False).values() if s.to_compute]
    need, have = sum(unit.bytes_written for unit in todo), shutil.disk_usage(folder).free
    if need > have:
        raise PlanError(
            f"output {store.url}: expected room for {_megabytes(need, have)}, found {_megabytes(have, need)} free on "
            "its disk. Make room or name another folder."
        )


def _megabytes(count: int, other: int) -> str:
    """Return a size with so many digits that it differs from the other one's."""
    digits = next((n for n in range(6) if f"{count / 1e6:.{n}f}" != f"{other / 1e6:.{n}f}"), 6)
    return f"{count / 1e6:,.{digits}f} MB"
