"""``run-study``: the whole study as a flow that a person can watch, retry and schedule."""

# Annotations are not postponed here: Prefect builds a deployment's form from them, where it knows no module.
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.options import FlowOptions
from flows.progress import Progress, close_flow, plain_outcome
from voxcloud.pipeline.study import run_study


@task(name="run-units", persist_result=False, result_serializer="json", cache_policy=NO_CACHE)
def run_units_of_study(study: str, options: FlowOptions) -> dict[str, Any]:
    """Run the units of a study on its engine; every voxel block is Dask's work, not a Prefect task."""
    return plain_outcome(run_study(Path(study), options.as_run_options(), listeners=[Progress()]))


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
    return close_flow(study, run_units_of_study(study, options))
