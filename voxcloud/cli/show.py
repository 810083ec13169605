"""What the commands print: tables for people, JSON for programs; both come from the same numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from voxcloud.pipeline.study import PlannedStudy, StudyOutcome
from voxcloud.plan.status import STATES

console = Console(highlight=False, soft_wrap=True)


def show_validation(problems: Sequence[str]) -> int:
    """Print the problems and return their number."""
    for problem in problems:
        console.print(f"error: {problem}", markup=False)
    console.print("The study can run." if not problems else f"{len(problems)} problem(s).")
    return len(problems)


def plan_tree(planned: PlannedStudy, every_unit: bool) -> dict[str, Any]:
    """Return the plan as JSON."""
    todo = [s for s in planned.status.values() if s.to_compute]
    tree: dict[str, Any] = {
        "study": planned.plan.loaded.study.name,
        "units": len(planned.plan.units),
        "to_compute": len(todo),
        "counts": planned.counts,
        "bytes_read": sum(s.unit.bytes_read for s in todo),
        "bytes_written": sum(s.unit.bytes_written for s in todo),
        "objects_read": sum(s.unit.objects_read for s in todo),
        "objects_written": sum(len(s.unit.outputs) + 1 for s in todo),
        "peak_memory_of_a_unit": max((s.unit.projected_mem for s in todo), default=0),
        "expected_cpu_s": round(sum(s.unit.expected_s for s in todo), 1),
        "searches": planned.plan.searches,
        "expected_false_positives": _expected(planned),
        "left_out": [vars(item) for item in planned.plan.left_out],
        "problems": list(planned.plan.problems),
    }
    if every_unit:
        tree["every_unit"] = [
            {
                "key": s.unit.key,
                "state": s.state,
                "reason": s.reason,
                "fingerprint": s.unit.fingerprint[:16],
                "projected_mem": s.unit.projected_mem,
            }
            for s in planned.status.values()
        ]
    return tree


def _expected(planned: PlannedStudy) -> float:
    total = 0.0
    for s in planned.status.values():
        if s.unit.step == "inference":
            params = s.unit.params
            directions = 2 if params["alternative"] == "two-sided" else 1
            total += params["inference"]["alpha"] * directions * max(1, len(params["volumes"]))
    return round(total, 3)


def show_plan(planned: PlannedStudy, *, as_json: bool, every_unit: bool) -> None:
    """Print what a run would do."""
    tree = plan_tree(planned, every_unit)
    if as_json:
        print_json(tree)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "units", "to do", "read", "write", "objects r/w", "peak of a unit", "expected"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for step in planned.counts:
        if step == "all":
            continue
        own = [s for s in planned.status.values() if s.unit.step == step]
        todo = [s.unit for s in own if s.to_compute]
        table.add_row(
            step,
            str(len(own)),
            str(len(todo)),
            size(sum(u.bytes_read for u in todo)),
            size(sum(u.bytes_written for u in todo)),
            f"{sum(u.objects_read for u in todo)}/{sum(len(u.outputs) + 1 for u in todo)}",
            size(max((u.projected_mem for u in todo), default=0)),
            seconds(sum(u.expected_s for u in todo)),
        )
    console.print(table)
    console.print(
        f"\n{tree['to_compute']} of {tree['units']} units to compute, about {seconds(tree['expected_cpu_s'])} of "
        "one core. "
        f"{tree['searches']} searches, {tree['expected_false_positives']} false positives expected if nothing is there."
    )
    _reasons(planned, every_unit)
    _left_out(tree["left_out"])
    for problem in tree["problems"]:
        console.print(f"problem: {problem}", markup=False)


def _reasons(planned: PlannedStudy, every_unit: bool) -> None:
    """Say why units are computed again: each unit, or the reasons with how often each occurs."""
    if every_unit:
        for s in planned.status.values():
            console.print(f"  {s.state:<11} {s.unit.key}  {s.reason}", markup=False)
        return
    stale: dict[tuple[str, str], int] = {}
    for s in planned.status.values():
        if s.state in ("stale", "failed"):
            stale[(s.unit.step, s.reason)] = stale.get((s.unit.step, s.reason), 0) + 1
    for (step, reason), number in list(stale.items())[:20]:
        console.print(f"  {number} {step} stale: {reason}", markup=False)
    if len(stale) > 20:
        console.print(f"  and {len(stale) - 20} more reasons (--units lists every unit)")


def _left_out(items: Sequence[dict[str, Any]]) -> None:
    if not items:
        return
    console.print(f"\nLeft out ({len(items)}):")
    for item in items[:30]:
        who = f"sub-{item['participant_id']}" + (f"_ses-{item['session_id']}" if item["session_id"] else "")
        console.print(f"  {who}, {item['what']}: {item['reason']}", markup=False)
    if len(items) > 30:
        console.print(f"  and {len(items) - 30} more (--json lists all)")


def show_status(planned: PlannedStudy, *, as_json: bool) -> None:
    """Print the state of every stage; the counts add up to the plan."""
    if as_json:
        failures = {s.unit.key: dict(s.error or {}) for s in planned.status.values() if s.state == "failed"}
        print_json({"counts": planned.counts, "units": len(planned.plan.units), "failures": failures})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for state in STATES:
        table.add_column(state, justify="right")
    table.add_column("units", justify="right")
    for step, row in planned.counts.items():
        table.add_row(step, *(str(row[state]) for state in STATES), str(sum(row.values())))
    console.print(table)
    for s in planned.status.values():
        if s.state == "failed":
            console.print(f"\nfailed  {s.unit.key}\n  {s.reason}", markup=False)
            for line in s.record.log_tail if s.record is not None else ():
                console.print(f"  | {line}", markup=False)
            console.print(f"  run it alone: {(s.error or {}).get('rerun', '')}", markup=False)


def show_outcome(outcome: StudyOutcome) -> int:
    """Print what a run did and return the number of failures."""
    console.print(
        f"\n{len(outcome.computed)} units computed, {outcome.already_done} were done, {len(outcome.failed)} failed, "
        f"{len(outcome.unavailable)} could not start; {seconds(outcome.seconds)} ({seconds(outcome.cpu_s)} of CPU "
        "in units)."
    )
    for problem in outcome.problems:
        console.print(f"problem: {problem}", markup=False)
    for key, answer in outcome.failed.items():
        console.print(f"failed   {key}\n  {answer['message']}\n  run it alone: {answer.get('rerun', '')}", markup=False)
    for key, reason in list(outcome.unavailable.items())[:10]:
        console.print(f"not run  {key}: {reason}", markup=False)
    if len(outcome.unavailable) > 10:
        console.print(f"not run  {len(outcome.unavailable) - 10} more (voxcloud status lists them)")
    if outcome.report is not None:
        console.print(
            f"Report   {outcome.report}\nTables   {outcome.output}/tables\nMaps     {outcome.output}/stats",
            markup=False,
        )
    return len(outcome.failed) + len(outcome.problems)


def print_json(tree: Any) -> None:
    """Print a tree as JSON, untouched by the width of the terminal."""
    console.file.write(json.dumps(tree, indent=1, sort_keys=True) + "\n")


def size(count: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def seconds(count: float) -> str:
    """Return seconds in words."""
    if count < 90:
        return f"{count:.0f} s" if count >= 10 else f"{count:.1f} s"
    return f"{count / 60:.0f} min" if count < 5400 else f"{count / 3600:.1f} h"
