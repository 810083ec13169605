"""The commands and their options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from voxcloud import __version__
from voxcloud.errors import VoxcloudError

app = typer.Typer(
    name="voxcloud",
    help="Longitudinal quantitative brain MRI: from BIDS maps to publication-grade group statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
unit_app = typer.Typer(help="Work on single work units.", no_args_is_help=True)
app.add_typer(unit_app, name="unit")

StudyArgument = Annotated[Path, typer.Argument(help="The study file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"voxcloud {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def validate(study: StudyArgument) -> None:
    """Check the study file, the tables, every image header and every design; computes nothing."""
    from voxcloud.cli.show import show_validation
    from voxcloud.pipeline.validating import validate_study

    problems = show_validation(validate_study(study))
    if problems:
        raise typer.Exit(1)


@app.command()
def plan(
    study: StudyArgument,
    json_: JsonOption = False,
    units: Annotated[bool, typer.Option("--units", help="List every unit, not only the stages.")] = False,
) -> None:
    """Show what a run would do and why: a dry run that writes nothing."""
    from voxcloud.cli.show import show_plan
    from voxcloud.pipeline.study import plan_study

    show_plan(plan_study(study), as_json=json_, every_unit=units)


@app.command()
def run(
    study: StudyArgument,
    engine: Annotated[
        str | None, typer.Option(help="Engine in place of the study's: serial, threads, local, address.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers in place of the study's.")] = None,
    on_bad_image: Annotated[str | None, typer.Option(help="stop or exclude, in place of the study's.")] = None,
    recompute: Annotated[
        list[str] | None, typer.Option(help="Compute these steps again although they are done.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Write the events as lines of JSON to this file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as plan.")] = False,
) -> None:
    """Compute what is not done yet, then write tables, maps and the report. Interrupt it anywhere and run it again."""
    if dry_run:
        plan(study)
        return
    from voxcloud.cli.show import show_outcome
    from voxcloud.pipeline.events import JsonLog, Listener, progress_listener
    from voxcloud.pipeline.study import RunOptions, run_study

    options = RunOptions(engine=engine, workers=workers, on_bad_image=on_bad_image, recompute=tuple(recompute or ()))
    listeners: list[Listener] = [progress_listener()]
    stream = log.open("a", encoding="utf-8") if log else None
    if stream:
        listeners.append(JsonLog(stream))
    try:
        outcome = run_study(study, options, listeners=listeners)
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. What is done is kept; go on with: voxcloud run {study}", err=True)
        raise typer.Exit(130) from None
    finally:
        if stream:
            stream.close()
    if show_outcome(outcome):
        raise typer.Exit(1)


@app.command()
def status(study: StudyArgument, json_: JsonOption = False) -> None:
    """Show the state of every stage: unavailable, waiting, running, done, failed or stale."""
    from voxcloud.cli.show import show_status
    from voxcloud.pipeline.study import study_status

    show_status(study_status(study), as_json=json_)


@app.command()
def report(study: StudyArgument) -> None:
    """Write the tables and the report again from the results that are there."""
    from voxcloud.pipeline.study import write_study_report

    typer.echo(write_study_report(study))


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write, which must not exist or be empty.", show_default=False)],
    resolution: Annotated[float, typer.Option(min=1.0, max=12.0, help="Voxel size in mm.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed makes the same bytes.")] = 0,
    maps: Annotated[
        list[str] | None, typer.Option("--map", help="Only these maps (repeat the option); default: all eight.")
    ] = None,
) -> None:
    """Simulate the model study on real anatomy: 49 people, five groups and visits, planted effects, truth beside it."""
    from voxcloud.testing.simulate import simulate_study

    made = simulate_study(out, resolution_mm=resolution, seed=seed, maps=tuple(maps) if maps else None)
    typer.echo(f"Study file  {made.study_file}\nRun it with: voxcloud run {made.study_file}")


@unit_app.command("run")
def unit_run(
    key: Annotated[str, typer.Argument(help="Key of the unit, as plan and status print it.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Output folder of the study.")] = Path(),
) -> None:
    """Run one unit alone: the command that a failure prints."""
    from voxcloud.pipeline.study import run_one_unit

    answer = run_one_unit(key, output)
    typer.echo(f"{key}: {answer['state']} in {answer['seconds']:.1f} s")
    if answer["state"] != "done":
        typer.echo(answer.get("traceback") or answer["message"], err=True)
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; an expected error is one message on standard error and exit status 1."""
    try:
        app(standalone_mode=True)
    except VoxcloudError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
