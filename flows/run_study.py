"""``run-study``: the whole study as a flow that a person can watch, retry and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, Field

from voxcloud.pipeline.events import Event
from voxcloud.pipeline.study import RunOptions, StudyOutcome, run_study


class FlowOptions(BaseModel):
    """The same options as the flags of ``voxcloud run``."""

    engine: Literal["study", "serial", "threads", "local", "address"] = Field(
        "study", description="Where units run; study: what the study file says."
    )
    on_bad_image: Literal["study", "stop", "exclude"] = Field(
        "study", description="What to do about an image that cannot be used; study: what the study file says."
    )


@task(name="run-units", persist_result=False)
def run_units_of_study(study: str, options: FlowOptions) -> StudyOutcome:
    """Run the units of a study on its engine; every voxel block is Dask's work, not a Prefect task."""
    logger = get_run_logger()

    def log(event: Event) -> None:
        if event.kind == "failed":
            logger.error("%s: %s", event.unit, event.message)
        elif event.kind in ("planned", "run-ended"):
            logger.info("%s %s", event.kind, event.totals)

    return run_study(
        Path(study),
        RunOptions(
            engine=None if options.engine == "study" else options.engine,
            on_bad_image=None if options.on_bad_image == "study" else options.on_bad_image,
        ),
        listeners=[log],
    )


@flow(name="run-study", persist_result=False)
def run_study_flow(study: str, options: FlowOptions = FlowOptions()) -> dict[str, int | str]:  # noqa: B008 - the form shows it
    """Run a study file from images to report.

    Parameters
    ----------
    study
        Path of the study file.
    options
        The same options as on the command line.
    """
    outcome = run_units_of_study(study, options)
    create_markdown_artifact(
        key="cohort-status",
        markdown="\n".join(["| units | number |", "|---|---|", *(f"| {k} | {v} |" for k, v in outcome.counts.items())]),
        description="What became of the units of this run.",
    )
    if outcome.failed:
        raise RuntimeError("; ".join(f"{key}: {answer['message']}" for key, answer in outcome.failed.items()))
    return {**outcome.counts, "report": str(outcome.report or "")}
