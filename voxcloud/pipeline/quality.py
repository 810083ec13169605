"""The steps ``mpm-qc`` and ``dwi-qc``: the maps of all sessions side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.errors import CorruptStoreError
from voxcloud.plan.dwi_sessions import DWI
from voxcloud.plan.modality import TOLD, Modality
from voxcloud.plan.mpm_sessions import MPM
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.report import qc_cohort, qc_dwi_cohort
from voxcloud.report.qc_dwi_measures import find_dwi_outliers
from voxcloud.report.qc_outliers import Outlier, find_outliers
from voxcloud.report.tables import cell
from voxcloud.storage.store import Store


def mpm_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the page on the quality of R1, MTsat, PD and R2* and its table; sessions that failed are named first."""
    return _look(unit, store, MPM, qc_cohort, find_outliers)


def dwi_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the page on the quality of diffusion maps and its table; sessions that failed are named first."""
    return _look(unit, store, DWI, qc_dwi_cohort, find_dwi_outliers)


def _look(
    unit: WorkUnit, store: Store, modality: Modality, pages: Any, outliers: Callable[[Sequence[Any]], Sequence[Outlier]]
) -> Mapping[str, Any]:
    told = what_the_run_told(unit)
    sessions = [json.loads(store.read_bytes(path)) for path in unit.places["sessions"]]
    sessions.sort(key=lambda qc: (qc["participant_id"], qc["session_id"]))
    other = unit.params.get("other_page", "")
    page = pages.cohort_page(unit.params["study"], sessions, told["failed"], told["warnings"], other=other)
    write_look(store, (modality.page, *modality.tables), page, *pages.cohort_table(sessions))
    return {"sessions": len(sessions), "failed": len(told["failed"]), "outliers": len(outliers(sessions))}


def what_the_run_told(unit: WorkUnit) -> Mapping[str, Any]:
    """Return what the run tells a page of a cohort: who ``failed`` and why, and ``warnings``.

    Raises
    ------
    CorruptStoreError
        If it is not what the unit's fingerprint was made of.
    """
    told: Mapping[str, Any] = unit.places["told"]
    if digest_json(told) != unit.inputs[TOLD]:
        raise CorruptStoreError(f"{unit.key}: what the run told of failures was changed since. Run the study again.")
    return told


def write_look(
    store: Store,
    places: Sequence[str],
    page: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, object]],
    dictionary: Mapping[str, Any],
) -> None:
    """Write a page of a cohort, its table and what the table's columns mean, to three places."""
    store.write_bytes(places[0], page.encode())
    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    table = "".join("\t".join(line) + "\n" for line in lines)
    store.write_bytes(places[1], table.encode())
    store.write_bytes(places[2], json.dumps(dictionary, indent=1).encode())
