"""The step ``space-qc``: all participants in template space side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from voxcloud.pipeline.quality import what_the_run_told, write_look
from voxcloud.plan.unit import WorkUnit
from voxcloud.report.qc_space_cohort import cohort_page, cohort_table, find_cohort_outliers
from voxcloud.storage.store import Store


def space_qc(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the page on template space and its table; participants and sessions that failed are named first."""
    told = what_the_run_told(unit)
    anatomies, sessions = (
        [json.loads(store.read_bytes(path)) for path in unit.places[kind]] for kind in ("anatomies", "sessions")
    )
    other = unit.params.get("other_page", "")
    page = cohort_page(unit.params["study"], anatomies, sessions, told["failed"], told["warnings"], other=other)
    write_look(store, unit.outputs, page, *cohort_table(anatomies, sessions))
    return {
        "participants": len(anatomies),
        "sessions": len(sessions),
        "failed": len(told["failed"]),
        "outliers": len(find_cohort_outliers(anatomies, sessions)),
    }
