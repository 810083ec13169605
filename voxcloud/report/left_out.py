"""Who was left out and why, one line per participant, session and reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

from voxcloud.report import words
from voxcloud.report.results import Results

WHAT = re.compile(r"model (?P<model>[^,]+?)(?:, (?P<stack>[^,\s]+))?(?:, (?P<coefficient>\w+))?\Z")
VARIANCE = re.compile(
    r"(?P<visits>visits on .*?): variance of the (?P<coefficient>\w+) coefficient (?P<ratio>\S+) times that of the "
    r"complete design \(standard deviation \S+ times\), above (?P<limit>\S+)\Z"
)


def left_out(results: Results) -> list[dict[str, str]]:
    """Return who was left out, of what and why.

    The results name every model, stack and coefficient apart; here lines that say the same are one.
    """
    gathered: dict[tuple[str, str, str], list[tuple[dict[str, str], str]]] = {}
    for item in results.cohort.get("left_out", []):
        what, reason = what_parts(str(item.get("what", ""))), str(item.get("reason", ""))
        person, session = str(item.get("participant_id", "")), str(item.get("session_id") or "")
        gathered.setdefault((person, session, _kind(what, reason)), []).append((what, reason))
    rows = [
        {
            "participant_id": person,
            "session_id": session or "all",
            "what": _what(results, [what for what, _ in entries]),
            "reason": _reason(kind, [reason for _, reason in entries]),
        }
        for (person, session, kind), entries in gathered.items()
    ]
    return sorted(rows, key=lambda row: (row["participant_id"], row["session_id"]))


def what_parts(what: str) -> dict[str, str]:
    """Return model, stack and coefficient that somebody was left out of; ``other`` where it is none of these."""
    found = WHAT.match(what)
    return {k: v or "" for k, v in found.groupdict().items()} if found else {"other": what}


def _kind(what: Mapping[str, str], reason: str) -> str:
    """Return what lines that say the same share: the reason without names of stacks and coefficients."""
    found = VARIANCE.match(reason)
    if found:
        return f"{found['visits']}|{found['limit']}"
    return reason.replace(what["stack"] + " ", "") if what.get("stack") else reason


def _what(results: Results, parts: Sequence[Mapping[str, str]]) -> str:
    """Return models, and maps and coefficients where they are not all of the models'."""
    models = _different(parts, "model")
    texts = [] if not models else [f"model{'s' if len(models) > 1 else ''} {words.listed(models)}"]
    stacks = _different(parts, "stack")
    every = {stack for model in models for stack in results.designs.get(model, {}).get("stacks") or {}}
    if stacks and set(stacks) != every:
        texts.append(words.listed(_maps(stacks, every), 16))
    coefficients = _different(parts, "coefficient")
    if coefficients:
        texts.append(f"{words.listed(coefficients)} coefficient{'s' if len(coefficients) > 1 else ''}")
    return "; ".join([*texts, *_different(parts, "other")])


def _maps(stacks: Sequence[str], every: Set[str]) -> list[str]:
    """Return maps by name; with the tissue where not every tissue of the map is meant."""
    found = []
    for stack in stacks:
        name, _, label = stack.partition("_label-")
        whole = {s for s in every if s.partition("_label-")[0] == name} <= set(stacks)
        found.append(words.map_name(name) if whole or not label else f"{words.map_name(name)} {label}")
    return list(dict.fromkeys(found))


def _different(parts: Sequence[Mapping[str, str]], name: str) -> list[str]:
    return list(dict.fromkeys(p[name] for p in parts if p.get(name)))


def _reason(kind: str, reasons: Sequence[str]) -> str:
    found = [m for m in (VARIANCE.match(r) for r in reasons) if m]
    if not found:
        return kind[:1].lower() + kind[1:]
    ratios = dict.fromkeys(f"{m['ratio']} ({m['coefficient']})" for m in found)
    return (
        f"{found[0]['visits']} only: variance {words.listed(list(ratios))} times that of the complete design, above "
        f"{found[0]['limit']}"
    )
