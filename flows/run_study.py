"""``run-study``: the whole study as a flow that a person can watch, retry and schedule."""

# Annotations are not postponed here: Prefect builds a deployment's form from them, where it knows no module.
import time
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from voxcloud.errors import UnitFailedError
from voxcloud.pipeline.events import Event
from voxcloud.pipeline.study import RunOptions, run_study

# Prefect's server is told of progress at most this often.
PROGRESS_EVERY_S = 5.0
# Failed units that a message names; the artifact and `voxcloud status` have them all.
MOST_NAMED = 10


class FlowOptions(BaseModel):
    """The same options as the flags of ``voxcloud run``."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["study", "serial", "threads", "local", "address"] = Field(
        "study", description="Where units run; study: what the study file says."
    )
    workers: int = Field(0, ge=0, description="Number of workers; 0: what the study file says.")
    on_bad_image: Literal["study", "stop", "exclude"] = Field(
        "study", description="What to do about an image that cannot be used; study: what the study file says."
    )

    def as_run_options(self) -> RunOptions:
        """Return them as the library takes them."""
        return RunOptions(
            engine=None if self.engine == "study" else self.engine,
            workers=self.workers or None,
            on_bad_image=None if self.on_bad_image == "study" else self.on_bad_image,
        )


class _Progress:
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


@task(name="run-units", persist_result=False, result_serializer="json", cache_policy=NO_CACHE)
def run_units_of_study(study: str, options: FlowOptions) -> dict[str, Any]:
    """Run the units of a study on its engine; every voxel block is Dask's work, not a Prefect task."""
    outcome = run_study(Path(study), options.as_run_options(), listeners=[_Progress()])
    return {
        "counts": dict(outcome.counts),
        "failed": {
            key: {"message": str(answer["message"]), "rerun": str(answer.get("rerun", ""))}
            for key, answer in outcome.failed.items()
        },
        "problems": list(outcome.problems),
        "report": str(outcome.report or ""),
    }


@flow(name="run-study", persist_result=False, result_serializer="json")
def run_study_flow(study: str, options: FlowOptions = FlowOptions()) -> dict[str, Any]:  # noqa: B008 - the form shows it
    """Run a study file from images to report.

    Args:
        study: Path of the study file, as the machine that runs the flow sees it.
        options: The same options as on the command line.

    Raises:
        UnitFailedError: If units failed or a model could not be planned; the message names them, and how to run each
            unit alone. The other units were computed and the report tells what is missing.
    """
    outcome = run_units_of_study(study, options)
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
    return {**outcome["counts"], "report": outcome["report"]}
