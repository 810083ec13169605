"""``preprocess-participants``: maps of every session, each a task that a person can watch."""

# Annotations are not postponed here: Prefect builds a deployment's form from them, where it knows no module.
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.options import FlowOptions
from flows.progress import Progress, close_flow, plain_outcome
from voxcloud.config.load import load_study
from voxcloud.errors import StudyFileError, UnitFailedError
from voxcloud.pipeline.engines import Engine, usable_share
from voxcloud.pipeline.study import run_study
from voxcloud.plan.sessions import modalities
from voxcloud.plan.space import SESSION_STEPS

# Sessions that are tasks of their own: Prefect's server and its pages are made for hundreds of tasks a run. Those
# beyond run all the same, and the artifacts count them.
MOST_TASKS = 400
# Tasks wait in threads for the engine, which runs as many units at a time as it has workers.
MOST_AT_ONCE = 32


@task(
    name="process-session",
    task_run_name="{dataset}/{unit}",
    persist_result=False,
    result_serializer="json",
    cache_policy=NO_CACHE,
)
def process_session(dataset: str, unit: str, work: Callable[[], dict[str, Any]]) -> None:
    """Make the maps of one session on the engine of the run."""
    answer = work()
    if answer["state"] != "done":
        raise UnitFailedError(f"{answer['message']}\nRun it alone: {answer.get('rerun', '')}")


class WatchedEngine:
    """An engine whose session units are Prefect tasks; all others go straight to the engine within."""

    def __init__(self, engine: Engine, dataset: str) -> None:
        self.engine, self.dataset, self.tasks = engine, dataset, 0
        self.workers, self.memory_per_worker = engine.workers, engine.memory_per_worker
        self.usable_share = usable_share(engine)

    def __enter__(self) -> "WatchedEngine":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        """Submit one unit; the future holds the engine's own answer, whatever Prefect makes of its task."""
        if key.partition("/")[0] not in SESSION_STEPS or self.tasks >= MOST_TASKS:
            return self.engine.submit(function, *args, key=key, memory=memory)
        self.tasks += 1
        found: Future[Any] = Future()

        def work() -> dict[str, Any]:
            try:
                answer: dict[str, Any] = self.engine.submit(function, *args, key=key, memory=memory).result()
            except BaseException as error:
                found.set_exception(error)
                raise
            found.set_result(answer)
            return answer

        process_session.submit(self.dataset, key.partition("#")[0], work)
        return found


@flow(
    name="preprocess-participants",
    persist_result=False,
    result_serializer="json",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_AT_ONCE),
)
def preprocess_participants(study: str, options: FlowOptions = FlowOptions()) -> dict[str, Any]:  # noqa: B008
    """Make the maps of every session of a study's raw images that are not done yet.

    Args:
        study: Path of the study file, as the machine that runs the flow sees it.
        options: The same options as on the command line.

    Raises:
        UnitFailedError: If sessions failed or could not be planned; the message names them, and how to run each alone.
            The other sessions were made, and the page on quality tells what is missing.
    """
    loaded = load_study(Path(study))
    if not modalities(loaded):
        raise StudyFileError(
            f"{study}: expected `bids` with `mpm` or `dwi`, from which maps are made, found neither. Add them."
        )
    # Group models are the work of other flows.
    loaded = replace(loaded, study=loaded.study.model_copy(update={"models": ()}))
    name = loaded.study.name
    outcome = run_study(
        loaded, options.as_run_options(), listeners=[Progress()], around=lambda engine: WatchedEngine(engine, name)
    )
    return close_flow(study, plain_outcome(outcome))
