"""What the commands print: tables for people, JSON for programs; both come from the same numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxcloud.cli.text import command_line, number_of, seconds, size, some, table
from voxcloud.pipeline.engines import worker_count
from voxcloud.pipeline.study import PlannedStudy, StudyOutcome
from voxcloud.pipeline.validating import Validation
from voxcloud.plan.status import STATES, UnitStatus

# Longer lists are for programs: --json has everything.
MOST_LINES = 40
MOST_REASONS = 20
# Lines of a record's log that tell of nothing wrong: "[unit] date time INFO ..."; the record keeps them.
_ROUTINE = re.compile(r"\[[^]]*\] \S+ \S+ (DEBUG|INFO) ")
_BLOCKS = re.compile(r"\S+/block-\d+")
_MODEL = re.compile(r"model (?P<model>[^,]+)(, (?P<stack>[^,]+))?(, (?P<term>.+))?")


def say(text: str = "") -> None:
    """Write a line to standard output as it is: names and messages are never read as markup nor cut."""
    sys.stdout.write(text + "\n")


def show_validation(found: Validation, *, as_json: bool) -> int:
    """Print what was found and return the number of problems."""
    if as_json:
        print_json(
            {
                "problems": list(found.problems),
                "warnings": list(found.warnings),
                "left_out": [vars(item) for item in found.left_out],
            }
        )
        return len(found.problems)
    _lines("problem: ", found.problems)
    _lines("warning: ", found.warnings)
    _left_out([vars(item) for item in found.left_out])
    say()
    if found.problems:
        say(f"{number_of(len(found.problems), 'problem')}. Mend them and validate again.")
    else:
        say("The study can run. What it would do: voxcloud plan")
    return len(found.problems)


def _lines(prefix: str, texts: Sequence[str]) -> None:
    for text in texts[:MOST_LINES]:
        say(f"{prefix}{text}")
    if len(texts) > MOST_LINES:
        say(f"{prefix}and {len(texts) - MOST_LINES} more (--json lists all)")


def plan_tree(planned: PlannedStudy, every_unit: bool) -> dict[str, Any]:
    """Return the plan as JSON."""
    todo = [s for s in planned.status.values() if s.to_compute]
    workers = worker_count(planned.plan.loaded.study.compute)
    largest = sorted((s.unit.projected_mem for s in todo), reverse=True)
    tree: dict[str, Any] = {
        "study": planned.plan.loaded.study.name,
        "units": len(planned.plan.units),
        "to_compute": len(todo),
        "counts": planned.counts,
        "bytes_read": sum(s.unit.bytes_read for s in todo),
        "bytes_written": sum(s.unit.bytes_written for s in todo),
        "objects_read": sum(s.unit.objects_read for s in todo),
        "objects_written": sum(len(s.unit.outputs) + 1 for s in todo),
        "workers": workers,
        "peak_memory_of_a_unit": max(largest, default=0),
        "peak_memory": sum(largest[:workers]),
        "expected_cpu_s": round(sum(s.unit.expected_s for s in todo), 1),
        "searches": planned.plan.searches,
        "expected_false_positives": _expected(planned),
        "reasons": [{"step": k, "reason": r, "units": n} for (k, r), n in _why(planned).items()],
        "left_out": [vars(item) for item in planned.plan.left_out],
        "warnings": list(planned.plan.warnings),
        "problems": [*planned.plan.problems, *planned.plan.missing_files],
    }
    if every_unit:
        tree["every_unit"] = [
            {
                "key": s.unit.key,
                "state": s.state,
                "reason": s.reason,
                "fingerprint": s.unit.fingerprint[:16],
                "projected_mem": s.unit.projected_mem,
                "bytes_read": s.unit.bytes_read,
                "bytes_written": s.unit.bytes_written,
                "outputs": list(s.unit.outputs),
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


def _why(planned: PlannedStudy) -> dict[tuple[str, str], int]:
    """Return the reasons for which units of a step are to be computed, with how often each occurs."""
    found: dict[tuple[str, str], int] = {}
    for s in planned.status.values():
        if s.to_compute:
            key = (s.unit.step, f"{s.state}: {_short(s)}" if s.state != "waiting" else _short(s))
            found[key] = found.get(key, 0) + 1
    return found


def _short(status: UnitStatus) -> str:
    """Return a reason with the many blocks of a fit as one, so that equal reasons are equal texts."""
    words = [_BLOCKS.sub("fitted blocks", part) for part in status.reason.split("; ")]
    return "; ".join(dict.fromkeys(words))


def show_plan(planned: PlannedStudy, *, as_json: bool, every_unit: bool) -> None:
    """Print what a run would do."""
    tree = plan_tree(planned, every_unit)
    if as_json:
        print_json(tree)
        return
    rows = []
    for step in planned.counts:
        own = [s for s in planned.status.values() if step in ("all", s.unit.step)]
        todo = [s.unit for s in own if s.to_compute]
        rows.append(
            [
                step,
                str(len(own)),
                str(len(todo)),
                size(sum(u.bytes_read for u in todo)),
                size(sum(u.bytes_written for u in todo)),
                f"{sum(u.objects_read for u in todo)}/{sum(len(u.outputs) + 1 for u in todo)}",
                size(max((u.projected_mem for u in todo), default=0)),
                seconds(sum(u.expected_s for u in todo)),
            ]
        )
    say(table(("stage", "units", "to do", "read", "write", "objects", "memory", "CPU"), rows))
    say("\nobjects: read/written; memory: largest unit of the stage; CPU: expected time on one core.")
    cpu = tree["expected_cpu_s"]
    say(
        f"{tree['to_compute']} of {number_of(tree['units'], 'unit')} to compute: about {seconds(cpu)} of CPU, "
        f"{seconds(cpu / tree['workers'])} with {number_of(tree['workers'], 'worker')}, at most "
        f"{size(tree['peak_memory'])} of memory at once."
    )
    if planned.plan.grid is not None:
        searches = "1 search" if tree["searches"] == 1 else f"{tree['searches']:,} searches"
        say(f"{searches}: {tree['expected_false_positives']:g} false positives expected if nothing is there.")
    _reasons(planned, every_unit)
    _left_out(tree["left_out"])
    _lines("warning: ", tree["warnings"])
    _lines("problem: ", tree["problems"])


def _reasons(planned: PlannedStudy, every_unit: bool) -> None:
    """Say why units are to be computed: each unit, or the reasons with how often each occurs."""
    if every_unit:
        say()
        for s in planned.status.values():
            say(f"  {s.state:<11} {s.unit.key}  {s.reason}".rstrip())
        return
    found: dict[str, list[str]] = {}
    for (step, reason), count in _why(planned).items():
        found.setdefault(reason, []).append(f"{count} {step}")
    if not found:
        say("\nEverything is done.")
        return
    say("\nWhy:")
    for reason, steps in list(found.items())[:MOST_REASONS]:
        say(f"  {reason} ({', '.join(steps)})")
    if len(found) > MOST_REASONS:
        say(f"  and {len(found) - MOST_REASONS} more reasons (--units lists every unit)")


def _left_out(items: Sequence[Mapping[str, Any]]) -> None:
    """Print who is left out, one line per participant and reason, with where it applies."""
    if not items:
        return
    found: dict[tuple[str, str], list[str]] = {}
    for item in sorted(items, key=lambda i: (i["participant_id"], i["session_id"] or "")):
        who = f"sub-{item['participant_id']}" + (f"_ses-{item['session_id']}" if item["session_id"] else "")
        found.setdefault((who, item["reason"]), []).append(item["what"])
    people = {item["participant_id"] for item in items}
    say(f"\nLeft out ({number_of(len(people), 'participant')}; --json lists every model and stack):")
    for (who, reason), places in list(found.items())[:MOST_LINES]:
        say(f"  {who}: {reason} ({_places(places)})")
    if len(found) > MOST_LINES:
        say(f"  and {len(found) - MOST_LINES} more (--json lists all)")


def _places(places: Sequence[str]) -> str:
    """Say in how many models and stacks somebody is left out; "model training, R1map, linear" is one of each."""
    parsed = [_MODEL.fullmatch(place) for place in places]
    models = list(dict.fromkeys(m["model"] for m in parsed if m))
    stacks = list(dict.fromkeys(m["stack"] for m in parsed if m and m["stack"]))
    others = list(dict.fromkeys(p for p, m in zip(places, parsed, strict=True) if m is None))
    words = [f"model {models[0]}" if len(models) == 1 else f"{len(models)} models"] if models else []
    words += [stacks[0] if len(stacks) == 1 else f"{len(stacks)} stacks"] if stacks else []
    return ", ".join([*words, *([some(others, 3)] if others else [])])


def show_status(planned: PlannedStudy, *, as_json: bool, study: Path) -> None:
    """Print the state of every stage; the counts add up to the plan."""
    if as_json:
        failures = {s.unit.key: dict(s.error or {}) for s in planned.status.values() if s.state == "failed"}
        print_json({"counts": planned.counts, "units": len(planned.plan.units), "failures": failures})
        return
    rows = [
        [step, *(str(row[state] or "-") for state in STATES), str(sum(row.values()))]
        for step, row in planned.counts.items()
    ]
    say(table(("stage", *STATES, "units"), rows))
    failed = [s for s in planned.status.values() if s.state == "failed"]
    for s in failed:
        say(f"\nfailed  {s.unit.key}\n  {s.reason}")
        for line in s.record.log_tail if s.record is not None else ():
            if not _ROUTINE.match(line):
                say(f"  | {line}")
        say(f"  run it alone: {(s.error or {}).get('rerun', '')}")
    total = planned.counts["all"]
    say(f"\nStudy {planned.plan.loaded.study.name}: {total['done']} of {sum(total.values())} units are done.")
    _lines("problem: ", [*planned.plan.problems, *planned.plan.missing_files])
    if total["running"]:
        say("A run works on it now.")
    elif total["done"] < sum(total.values()):
        say(f"Why the others are not: {command_line(['plan', study])}")
        say(f"Go on with:             {command_line(['run', study])}")


def show_outcome(outcome: StudyOutcome, again: str) -> int:
    """Print what a run did, with the paths that matter, and return the number of failures.

    ``again`` is the command that goes on with it.
    """
    if not (outcome.computed or outcome.failed or outcome.unavailable):
        say(f"\nEverything was done already: {number_of(outcome.already_done, 'unit')}.")
    else:
        say(
            f"\n{number_of(len(outcome.computed), 'unit')} computed, {outcome.already_done} were done before, "
            f"{len(outcome.failed)} failed, {len(outcome.unavailable)} could not start; "
            f"{seconds(outcome.seconds)} ({seconds(outcome.cpu_s)} of CPU in units)."
        )
    _lines("problem: ", outcome.problems)
    for message, keys in _by_message(outcome.failed).items():
        say(f"failed:  {some(keys, 3)}\n  {message}")
        say(f"  run it alone: {outcome.failed[keys[0]].get('rerun', '')}")
    for reason, keys in _grouped(outcome.unavailable).items():
        say(f"not run: {number_of(len(keys), 'unit')}, e.g. {keys[0]}: {reason}")
    if outcome.failed or outcome.unavailable:
        say(f"What is done is kept. When the cause is gone, go on with: {again}")
    if outcome.leftovers:
        say(
            f"Results that this study file does not ask for any more: {some(outcome.leftovers, 5)}\n"
            "  They are not in the report; delete them if you do not want them."
        )
    if outcome.quality is not None:
        say(f"Quality  {outcome.quality}\nMaps     {outcome.output}/sub-*")
    if outcome.report is not None:
        against = against_truth(outcome.report.parent)
        if against:
            say(f"Truth    {against}")
        say(f"Report   {outcome.report}\nTables   {outcome.output}/tables\nMaps     {outcome.output}/stats")
    return len(outcome.failed) + len(outcome.unavailable) + len(outcome.problems)


def against_truth(output: Path) -> str:
    """Say what a simulated study found of what was planted in it; nothing where a study is real."""
    from voxcloud.testing.truth import summarise_truth  # pandas: only when something was run

    place = output / "results" / "summary.json"
    truth = json.loads(place.read_text(encoding="utf-8")).get("truth") if place.is_file() else None
    return str(summarise_truth(truth)["sentence"]) if truth else ""


def _by_message(failed: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    return _grouped({key: str(answer["message"]).removeprefix(f"{key}: ") for key, answer in failed.items()})


def _grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the units of each reason."""
    found: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        found.setdefault(reason, []).append(key)
    return found


def print_json(tree: Any) -> None:
    """Print a tree as JSON, untouched by the width of the terminal."""
    sys.stdout.write(json.dumps(tree, indent=1, sort_keys=True) + "\n")
