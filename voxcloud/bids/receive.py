"""Receive sensitivities: pairs of images by head and body coil (BIDS ``RB1COR``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from voxcloud.bids.acquisitions import CONTRASTS, CoilKind, ContrastName, Series
from voxcloud.bids.grids import check_grids
from voxcloud.bids.protocol import Findings, Scan, names
from voxcloud.bids.runs import choose_runs

SUFFIX = "RB1COR"
ALL = "all"

_ROLE = re.compile(r"(?P<coil>head|body)(?P<contrast>.*)", re.IGNORECASE)
_KEYS = {name.lower(): name for name in CONTRASTS} | {"": ALL}


def read_receive(
    scans: Sequence[Scan], series: Mapping[ContrastName, Series], run: str | None, findings: Findings
) -> dict[str, dict[CoilKind, str]]:
    """Return contrast (or ``all``) to coil to path.

    ``acq-headPDw`` and ``acq-bodyPDw`` belong to PDw, ``acq-head`` and ``acq-body`` to all contrasts. A pair that is
    not complete is refused: with it missing, PD and R1 of this session would differ from the others'.
    """
    pairs: dict[str, dict[CoilKind, list[Scan]]] = {}
    strange = []
    for scan in scans:
        match = _ROLE.fullmatch(scan.entity("acq"))
        key = _KEYS.get(match["contrast"].lower()) if match else None
        if match is None or key is None:
            strange.append(scan)
        else:
            coil: CoilKind = "head" if match["coil"].lower() == "head" else "body"
            pairs.setdefault(key, {}).setdefault(coil, []).append(scan)
    if strange:
        findings.warn(
            f"{names(strange)}: not used; expected acq-head or acq-body, followed by nothing or one of "
            f"{', '.join(CONTRASTS)} (RB1COR)."
        )
    found: dict[str, dict[CoilKind, str]] = {}
    for key, coils in sorted(pairs.items()):
        pair = _pair(key, coils, run, findings)
        if pair is not None:
            found[key] = pair
    _check_all_there(pairs, series, findings)
    return found


def _pair(
    key: str, coils: Mapping[CoilKind, Sequence[Scan]], run: str | None, findings: Findings
) -> dict[CoilKind, str] | None:
    chosen: dict[CoilKind, Scan] = {}
    for coil, scans in coils.items():
        one = choose_runs(
            scans,
            run,
            findings,
            family_of=lambda scan: scan.image.without("run"),
            run_of=lambda scan: scan.entity("run"),
            name_of=lambda scan: scan.name,
        )
        if len(one) > 1:
            findings.refuse(
                f"RB1COR {key}: expected one image by the {coil} coil, found {names(one)}. Keep one of them."
            )
        chosen[coil] = one[0]
    name = "RB1COR" if key == ALL else f"RB1COR {key}"
    if len(chosen) < 2:
        (coil, scan), *_ = chosen.items()
        other = "body" if coil == "head" else "head"
        findings.refuse(
            f"{name}: expected images by the head and the body coil, found only {scan.name}. Restore acq-{other}"
            f"{'' if key == ALL else key}, or set mpm.receive: none for the study."
        )
        return None
    check_grids(name, list(chosen.values()), findings, "Acquire or convert the two alike.")
    return {coil: scan.path for coil, scan in chosen.items()}


def _check_all_there(pairs: Mapping[str, object], series: Mapping[ContrastName, Series], findings: Findings) -> None:
    own = [name for name in CONTRASTS if name in pairs]
    if ALL in pairs and own:
        findings.refuse(
            f"RB1COR: expected one pair for all contrasts (acq-head, acq-body) or one for each, found both (all and "
            f"{', '.join(own)}). Remove what is not meant."
        )
    lacking = [name for name in series if name not in pairs]
    if own and ALL not in pairs and lacking:
        findings.refuse(
            f"RB1COR: expected a pair for every contrast, found {', '.join(own)} but not {', '.join(lacking)}. Restore "
            "it, or set mpm.receive: none for the study."
        )
