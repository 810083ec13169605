"""What a flow tells Prefect while it runs and when it ends."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from voxcloud.errors import UnitFailedError
from voxcloud.pipeline.events import Event
from voxcloud.pipeline.study import StudyOutcome

# Prefect's server is told of progress at most this often.
PROGRESS_EVERY_S = 5.0
# Failed units that a message names; the artifact and `voxcloud status` have them all.
MOST_NAMED = 10


class Progress:
    """Tells Prefect what happens: a log line for a failure, an artifact with the part that is done."""

    def __init__(self) -> None:
        self.logger = get_run_logger()
        self.artifact: UUID | None = None
        self.total = self.ended = 0
        self.told = 0.0

    def __call__(self, event: Event) -> None:
        if event.kind == "planned":
            self.total = self.ended + sum(event.totals.values())
            self.logger.info("to compute: %s", event.totals or "nothing")
        elif event.kind in ("finished", "failed"):
            self.ended += 1
        if event.kind == "failed":
            self.logger.error("%s: %s", event.unit, event.message)
        if event.kind == "run-ended" or time.monotonic() - self.told > PROGRESS_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self.told = time.monotonic()
        part = 100.0 * self.ended / self.total if self.total else 100.0
        if self.artifact is None:
            found: Any = create_progress_artifact(progress=part, key="run-progress", description="Units that ended.")
            self.artifact = found
        else:
            update_progress_artifact(self.artifact, progress=part)


def plain_outcome(outcome: StudyOutcome) -> dict[str, Any]:
    """Return what became of a run as plain values."""
    return {
        "counts": dict(outcome.counts),
        "failed": {
            key: {"message": str(answer["message"]), "rerun": str(answer.get("rerun", ""))}
            for key, answer in outcome.failed.items()
        },
        "problems": list(outcome.problems),
        "report": str(outcome.report or ""),
        "quality": str(outcome.quality or ""),
    }


def close_flow(study: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Tell Prefect what became of the units, and return it.

    Raises
    ------
    UnitFailedError
        If units failed or something could not be planned; it names them, and how to run each unit alone.
    """
    rows = "\n".join(f"| {state} | {number} |" for state, number in outcome["counts"].items())
    create_markdown_artifact(
        key="cohort-status",
        markdown=f"| units | number |\n|---|---|\n{rows}\n",
        description="What became of the units of this run.",
    )
    wrong = list(outcome["problems"])
    wrong += [f"{key}: {found['message']}\nRun it alone: {found['rerun']}" for key, found in outcome["failed"].items()]
    if wrong:
        more = [f"and {len(wrong) - MOST_NAMED} more (voxcloud status {study})"] if len(wrong) > MOST_NAMED else []
        raise UnitFailedError("\n".join([*wrong[:MOST_NAMED], *more]))
    pages = {key: outcome[key] for key in ("report", "quality") if outcome[key]}
    return {**outcome["counts"], **pages}
