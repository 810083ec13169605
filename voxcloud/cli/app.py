"""The commands and their options."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from voxcloud.cli.text import command_line
from voxcloud.errors import StudyFileError, VoxcloudError, nearest
from voxcloud.version import __version__

if TYPE_CHECKING:
    from voxcloud.config.load import LoadedStudy
    from voxcloud.pipeline.study import RunOptions

STATUS_UNEXPECTED = 70
UNEXPECTED = (
    "This should not happen: it is a fault of voxcloud {version} (Python {python}), not of your data. What is done is "
    "kept. Please report it with the lines above and the command; they hold file names, so look through them first."
)

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


EngineOption = Annotated[
    str | None,
    typer.Option(
        help="Where units run, in place of compute.engine: serial (one after the other, for finding faults), threads "
        "(of this process), local (worker processes on this machine) or address (a Dask scheduler that runs already)."
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Units at the same time, in place of compute.workers; default: one per core.")
]
BadImageOption = Annotated[
    str | None,
    typer.Option(
        help="What to do about an image that cannot be used, in place of the study's: stop (everything that does not "
        "need it goes on) or exclude (the models go on without it, and the report names it)."
    ),
]
RecomputeOption = Annotated[
    list[str] | None,
    typer.Option(help="Compute this step again although it is done (a name in plan's first column; repeatable)."),
]


ParticipantOption = Annotated[
    list[str] | None,
    typer.Option("--participant-label", help="Make maps of this participant only (without sub-; repeatable)."),
]
SessionOption = Annotated[
    list[str] | None,
    typer.Option("--session-label", help="Make maps of this session only (without ses-; repeatable)."),
]


@app.command()
def validate(study: StudyArgument, json_: JsonOption = False) -> None:
    """Find every problem that is cheap to find, in files, tables, images, designs and machine, and compute nothing.

    Ends with status 1 if there is one.
    """
    from voxcloud.cli.show import show_validation
    from voxcloud.pipeline.validating import validate_study

    if show_validation(validate_study(study), as_json=json_):
        raise typer.Exit(1)


@app.command()
def plan(
    study: StudyArgument,
    json_: JsonOption = False,
    units: Annotated[bool, typer.Option("--units", help="List every unit, not only the stages.")] = False,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    on_bad_image: BadImageOption = None,
    recompute: RecomputeOption = None,
    participant_label: ParticipantOption = None,
    session_label: SessionOption = None,
) -> None:
    """Show what a run would do and why: a dry run that writes nothing."""
    from voxcloud.cli.show import show_plan
    from voxcloud.pipeline.study import plan_study

    options = _options(engine, workers, on_bad_image, recompute, participant_label, session_label)
    show_plan(plan_study(study, options), as_json=json_, every_unit=units)


def _options(
    engine: str | None,
    workers: int | None,
    on_bad_image: str | None,
    recompute: list[str] | None,
    participants: list[str] | None = None,
    sessions: list[str] | None = None,
) -> RunOptions:
    """Gather the options of a run; a step that does not exist would otherwise be asked for without a word."""
    from voxcloud.pipeline.study import RunOptions
    from voxcloud.plan.modality import SessionChoice
    from voxcloud.plan.unit import STAGES

    unknown = [step for step in recompute or () if step not in STAGES]
    if unknown:
        raise StudyFileError(
            f"--recompute: expected a step, found {unknown[0]}.{nearest(unknown[0], STAGES)} "
            f"Steps: {', '.join(STAGES)}."
        )
    choice = SessionChoice(
        tuple(label.removeprefix("sub-") for label in participants or ()),
        tuple(label.removeprefix("ses-") for label in sessions or ()),
    )
    return RunOptions(engine, workers, on_bad_image, tuple(recompute or ()), choice)


@app.command()
def run(
    study: StudyArgument,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    on_bad_image: BadImageOption = None,
    recompute: RecomputeOption = None,
    log: Annotated[
        Path | None, typer.Option(help="Append what happens, one line of JSON per event, to this file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as plan.")] = False,
    participant_label: ParticipantOption = None,
    session_label: SessionOption = None,
) -> None:
    """Compute what is not done yet, then write tables, maps and the report. Interrupt it anywhere and run it again.

    Ends with status 1 if a unit failed or a model could not be fitted; everything else is computed all the same.
    """
    options = _options(engine, workers, on_bad_image, recompute, participant_label, session_label)
    if dry_run:
        from voxcloud.cli.show import show_plan
        from voxcloud.pipeline.study import plan_study

        show_plan(plan_study(study, options), as_json=False, every_unit=False)
        return
    chosen = {"--participant-label": participant_label, "--session-label": session_label}
    given = {"--engine": engine, "--workers": workers, "--on-bad-image": on_bad_image, **chosen}
    _compute(study, options, log, command_line(["run", study], given))


def _compute(source: Path | LoadedStudy, options: RunOptions, log: Path | None, again: str) -> None:
    """Run a study with progress and say what it did."""
    from voxcloud.cli.show import show_outcome
    from voxcloud.pipeline.events import JsonLog, Listener, progress_listener
    from voxcloud.pipeline.study import run_study

    listeners: list[Listener] = [progress_listener()]
    stream = _opened(log) if log else None
    if stream:
        listeners.append(JsonLog(stream))
    try:
        outcome = run_study(source, options, listeners=listeners)
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. What is done is kept; go on with: {again}", err=True)
        raise typer.Exit(130) from None
    finally:
        if stream:
            stream.close()
    if show_outcome(outcome, again):
        raise typer.Exit(1)


@app.command()
def maps(
    bids: Annotated[Path, typer.Argument(help="BIDS data set with the raw images.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Folder to write, a derivatives data set.", show_default=False)],
    level: Annotated[str, typer.Argument(help="participant: the only level of analysis here.")] = "participant",
    participant_label: ParticipantOption = None,
    session_label: SessionOption = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="mpm or dwi (repeatable); default: those that the data set has images of."),
    ] = None,
    preset: Annotated[str, typer.Option(help="mpm: hmri-1.0, or hmri-0.x as in older papers.")] = "hmri-1.0",
    b1: Annotated[str, typer.Option(help="mpm: auto, AFI, DAM, TFL, RFM, SESTE or TB1map.")] = "auto",
    missing_b1: Annotated[str, typer.Option(help="mpm: a session without B1: stop, or semi-quantitative.")] = "stop",
    missing_b0: Annotated[
        str, typer.Option(help="Diffusion, or SE/STE, without a field map or opposite phase encoding: stop, or skip.")
    ] = "stop",
    engine: EngineOption = None,
    workers: WorkersOption = None,
    log: Annotated[
        Path | None, typer.Option(help="Append what happens, one line of JSON per event, to this file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")] = False,
) -> None:
    """Make R1, MTsat, PD, R2*, FA, MD, AD and RD from the raw images of a BIDS data set (BIDS-App form).

    The same as a study file with `bids`, `mpm` and `dwi`, which has every setting.
    """
    from voxcloud.cli.mapping import maps_study

    mpm = {"preset": preset, "b1": b1, "missing_b1": missing_b1, "missing_b0": missing_b0}
    loaded = maps_study(bids, output, level, {"mpm": mpm, "dwi": {"missing_b0": missing_b0}}, modality or ())
    options = _options(engine, workers, None, None, participant_label, session_label)
    if dry_run:
        from voxcloud.cli.show import show_plan
        from voxcloud.pipeline.study import plan_study

        show_plan(plan_study(loaded, options), as_json=False, every_unit=False)
        return
    mpm_options = {f"--{key.replace('_', '-')}": value for key, value in mpm.items()}
    chosen = {"--modality": modality, "--participant-label": participant_label, "--session-label": session_label}
    given = {**mpm_options, "--engine": engine, "--workers": workers, **chosen}
    _compute(loaded, options, log, command_line(["maps", bids, output, level], given))


def _opened(log: Path) -> TextIO:
    try:
        return log.open("a", encoding="utf-8")
    except OSError as error:
        raise StudyFileError(f"--log {log}: expected a file to append to, found: {error.strerror}.") from None


@app.command()
def status(study: StudyArgument, json_: JsonOption = False) -> None:
    """Show the state of every stage: unavailable, waiting, running, done, failed or stale."""
    from voxcloud.cli.show import show_status
    from voxcloud.pipeline.study import study_status

    show_status(study_status(study), as_json=json_, study=study)


@app.command()
def report(study: StudyArgument) -> None:
    """Write the tables and the report again from the results that are there."""
    from voxcloud.pipeline.study import write_study_report

    typer.echo(write_study_report(study))


@app.command()
def share(
    study: StudyArgument,
    out: Annotated[Path, typer.Argument(help="New or empty folder to copy to.", show_default=False)],
) -> None:
    """Copy derivatives and results to a folder that can be given away: of every image only the brain is left."""
    from voxcloud.pipeline.sharing import share_study

    found = share_study(study, out)
    for key in found.left_out:
        typer.echo(f"left out: {key}, which is not done", err=True)
    typer.echo(f"{found.images} images without faces and {found.texts} other files in {found.folder}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write, which must not exist or be empty.", show_default=False)],
    resolution: Annotated[
        float | None, typer.Option(min=0.8, max=12.0, help="Voxel size in mm; default: 4, with --raw alone 2.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed makes the same bytes.")] = 0,
    maps: Annotated[
        list[str] | None, typer.Option("--map", help="Only these maps (repeat the option); default: all eight.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Raw data instead: multi-echo FLASH and B1+ as BIDS, of which maps are made.")
    ] = False,
    study: Annotated[
        bool,
        typer.Option(
            "--study",
            help="With --raw: a whole study, two groups of people of unlike anatomy with planted changes, from which "
            "one run goes to the report.",
        ),
    ] = False,
    participants: Annotated[
        int | None, typer.Option(min=1, max=99, help="With --raw: how many people; default: 2, with --study 12.")
    ] = None,
    visits: Annotated[
        int | None, typer.Option(min=1, max=99, help="With --raw: visits of each; default: 2, with --study 5.")
    ] = None,
    b1: Annotated[
        str | None,
        typer.Option(
            help="With --raw: how B1+ is measured: AFI (default), SESTE (distorted, with a field map), DAM, TFL, RFM, "
            "TB1map (default with --study) or none."
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            "--modality",
            help="With --raw: mpm or dwi (repeatable); default: mpm, with --study both. Diffusion takes 2 to 4 "
            "minutes a session, in a study seconds.",
        ),
    ] = None,
) -> None:
    """Simulate the model study on real anatomy: 49 people, five groups and visits, planted effects, truth beside it.

    With --raw: what the scanner gives, with known R1, PD, R2* and MTsat, or with known diffusion tensors; with --study
    too, of a cohort in which they change.
    """
    from voxcloud.cli.simulation import SimulationOptions, simulate_with_progress

    chosen = tuple(maps) if maps else None, tuple(modalities) if modalities else None
    options = SimulationOptions(resolution, seed, chosen[0], participants, visits, b1, chosen[1])
    simulate_with_progress(out, options, raw=raw, study=study)


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
    """Run the command line; an expected error is a sentence on standard error and exit status 1."""
    try:
        app(standalone_mode=True)
    except VoxcloudError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(1)
    except Exception:
        typer.echo(traceback.format_exc(), err=True)
        typer.echo(UNEXPECTED.format(version=__version__, python=sys.version.split()[0]), err=True)
        sys.exit(STATUS_UNEXPECTED)
