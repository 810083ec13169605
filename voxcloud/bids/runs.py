"""Which run to take where something was acquired several times."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from voxcloud.bids.protocol import Findings

SETTING = "mpm.run"

T = TypeVar("T")


def same_run(one: str, other: str) -> bool:
    """Say whether two run labels are the same: ``1`` and ``01`` are."""
    return int(one) == int(other) if one.isdecimal() and other.isdecimal() else one == other


def choose_runs(
    found: Sequence[T],
    run: str | None,
    findings: Findings,
    *,
    family_of: Callable[[T], Hashable],
    run_of: Callable[[T], str],
    name_of: Callable[[T], str],
) -> list[T]:
    """Keep one run of everything that was acquired in several.

    What was acquired once is kept whatever its run's label. Several runs without a choice are refused; the first is
    then kept, so that what else is wrong can be told too.

    Parameters
    ----------
    run
        The choice; None where nobody chose.
    family_of
        What the runs of one acquisition have in common.
    run_of, name_of
        Run label, and name for messages.
    """
    families: dict[Hashable, list[T]] = {}
    for each in found:
        families.setdefault(family_of(each), []).append(each)
    kept: list[T] = []
    undecided: list[list[T]] = []
    for members in families.values():
        labels = [run_of(each) for each in members]
        fitting = members if run is None or len(members) == 1 else [m for m in members if same_run(run_of(m), run)]
        if len(members) == 1 and run is not None and labels[0] and not same_run(labels[0], run):
            findings.warn(f"{name_of(members[0])} is taken although {SETTING} is {run}: there is no other run of it.")
        if len(fitting) > 1:
            undecided.append(members)
        elif not fitting:
            findings.refuse(
                f"{name_of(members[0])}: expected run-{run} ({SETTING}), found {_runs(labels)}. Name a run that is "
                "there."
            )
        kept += fitting[:1] or members[:1]
    for members in undecided:
        findings.refuse(
            f"{name_of(members[0])}: expected one run, found {_runs([run_of(m) for m in members])}. Name the one to "
            f"use in the study file, e.g. {SETTING}: {next(filter(None, map(run_of, members)), '1')}."
        )
    return kept


def _runs(labels: Sequence[str]) -> str:
    return ", ".join(f"run-{label}" if label else "one without a run label" for label in labels)
