"""The step ``mpm-qc``: the maps of all sessions side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from voxcloud.errors import CorruptStoreError
from voxcloud.plan.sessions import QC_PAGE, QC_TABLES, TOLD
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.report.qc_cohort import cohort_page, cohort_table, find_outliers
from voxcloud.report.tables import cell
from voxcloud.storage.store import Store


def mpm_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the cohort's page on quality and its table; sessions that failed are named first."""
    told = unit.places["told"]
    if digest_json(told) != unit.inputs[TOLD]:
        raise CorruptStoreError(f"{unit.key}: what the run told of failures was changed since. Run the study again.")
    sessions = [json.loads(store.read_bytes(path)) for path in unit.places["sessions"]]
    sessions.sort(key=lambda qc: (qc["participant_id"], qc["session_id"]))
    page = cohort_page(unit.params["study"], sessions, told["failed"], told["warnings"])
    store.write_bytes(QC_PAGE, page.encode())
    columns, rows, dictionary = cohort_table(sessions)
    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    table = "".join("\t".join(line) + "\n" for line in lines)
    store.write_bytes(QC_TABLES[0], table.encode())
    store.write_bytes(QC_TABLES[1], json.dumps(dictionary, indent=1).encode())
    outliers = find_outliers(sessions)
    return {"sessions": len(sessions), "failed": len(told["failed"]), "outliers": len(outliers)}
