"""Maps of the static field that belong to an EPI acquisition, as BIDS links them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from voxcloud.bids.acquisitions import B0Acquisition
from voxcloud.bids.grids import check_grids
from voxcloud.bids.protocol import (
    ECHO_SPACING,
    MILLISECONDS,
    READOUT_TIME,
    SAME_VALUE,
    Findings,
    Quantity,
    Scan,
    is_number,
    names,
    read_number,
    read_scans,
    refuse_missing,
    shared_number,
    shown,
)
from voxcloud.bids.raw import RawImage, image_stem
from voxcloud.bids.sidecars import Metadata
from voxcloud.errors import nearest

IDENTIFIER, SOURCE, INTENDED = "B0FieldIdentifier", "B0FieldSource", "IntendedFor"
SUFFIXES = ("phasediff", "phase1", "phase2", "fieldmap", "epi")
MAGNITUDES = ("magnitude1", "magnitude")
DIRECTIONS = ("i", "i-", "j", "j-", "k", "k-")
UNITS = {"hz": "Hz", "rad/s": "rad/s", "t": "T"}
# Closer echoes give noise, further ones wrap too often: as voxcloud.qmri.fieldmap has them.
ECHO_DIFFERENCE_S = (0.0005, 0.010)

_TIMES = tuple(Quantity((key,), "s", 1e-4, 0.1, (MILLISECONDS,)) for key in ("EchoTime1", "EchoTime2"))
_TIME = Quantity(("EchoTime",), "s", 1e-4, 0.1, (MILLISECONDS,))


def find_b0(
    metadata: Metadata,
    fmaps: Sequence[RawImage],
    epis: Sequence[Scan],
    missing_b0: Literal["stop", "skip"],
    findings: Findings,
    *,
    setting: str = "mpm.missing_b0",
    read_epi: Callable[[Sequence[Scan], Findings], B0Acquisition | None] | None = None,
) -> B0Acquisition | None:
    """Return the field map of an EPI acquisition; None where there is none or something is wrong, which is told.

    ``B0FieldSource`` of the acquisition names the ``B0FieldIdentifier`` of its field map; without it ``IntendedFor`` of
    a field map names the acquisition's images. A field map that is merely there is not taken: the head may have moved,
    or the shim changed, between the two.

    Parameters
    ----------
    fmaps
        The images in ``fmap`` of the session.
    epis
        Images of the acquisition.
    missing_b0
        Whether to refuse an acquisition without field map, or to go on.
    setting
        What ``missing_b0`` is called in the study file.
    read_epi
        What makes a field map of the epi that are linked; by default they must be two of one volume each.
    """
    fields = read_scans(metadata, [i for i in fmaps if i.suffix in SUFFIXES], findings, headers=False)
    sources = {name for scan in epis for name in _labels(scan.metadata.get(SOURCE))}
    if sources:
        linked = [f for f in fields if sources & set(_labels(f.metadata.get(IDENTIFIER)))]
    else:
        targets = {_place(scan.image.path) for scan in epis}
        linked = [f for f in fields if targets & _intended(metadata.root, f)]
    if not linked:
        _missing(epis, fields, sources, missing_b0, setting, findings)
        return None
    known = len(findings.problems)
    linked = read_scans(metadata, [f.image for f in linked], findings)
    if len(findings.problems) > known:
        return None
    candidates = _candidates(linked, bool(sources))
    if len(candidates) > 1:
        listed = "; ".join(names(members) for members in candidates)
        findings.refuse(
            f"{names(epis)}: expected one field map, found {len(candidates)} that belong to it: {listed}. Keep the "
            f"link ({INTENDED}, or {IDENTIFIER} and {SOURCE}) of the one that was acquired with it."
        )
        return None
    if candidates[0][0].image.suffix == "epi":
        found = (read_epi or _epi)(candidates[0], findings)
    else:
        found = _acquisition(metadata, candidates[0], fmaps, findings)
    return found if len(findings.problems) == known else None


def _labels(value: Any) -> list[str]:
    """Return a value that may be one string or a list of them."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str)]


def _place(path: Path) -> tuple[Path, str]:
    """Return what identifies an image whether or not it was compressed later."""
    return path.parent, image_stem(path.name) or path.name


def _intended(root: Path, scan: Scan) -> set[tuple[Path, str]]:
    """Return the images that a field map is intended for: BIDS URIs, or paths relative to the participant's folder."""
    found = set()
    for entry in _labels(scan.metadata.get(INTENDED)):
        if entry.startswith("bids::"):
            found.add(_place(root / entry.removeprefix("bids::").lstrip("/")))
        elif not entry.startswith("bids:"):
            found.add(_place(root / f"sub-{scan.entity('sub')}" / entry.lstrip("/")))
    return found


def _missing(
    epis: Sequence[Scan],
    fields: Sequence[Scan],
    sources: set[str],
    missing_b0: Literal["stop", "skip"],
    setting: str,
    findings: Findings,
) -> None:
    hint = ""
    if sources and fields:
        there = sorted({name for f in fields for name in _labels(f.metadata.get(IDENTIFIER))})
        wanted = sorted(sources)[0]
        found = f"{IDENTIFIER} {', '.join(there) or 'in none'} for {SOURCE} '{wanted}'"
        hint = nearest(wanted, there)
    elif fields:
        found = f"{names(fields)}, which no sidecar links to it"
    else:
        found = "none in fmap"
    if missing_b0 == "skip":
        findings.warn(f"{names(epis)}: has no field map (found {found}); not unwarped ({setting}: skip).")
        return
    findings.refuse(
        f"{names(epis)}: expected a field map that belongs to it (phasediff, phase1 and phase2, fieldmap, or a pair of "
        f"epi), found {found}.{hint} Write the same name as {IDENTIFIER} into the field map's sidecar and as "
        f"{SOURCE} into this one's, or go on without unwarping: {setting}: skip."
    )


def _candidates(linked: Sequence[Scan], by_identifier: bool) -> list[list[Scan]]:
    """Put the images of each field map together."""
    groups: dict[tuple[Any, ...], list[Scan]] = {}
    for scan in linked:
        suffix = scan.image.suffix
        kind = "phase12" if suffix in ("phase1", "phase2") else suffix
        key: tuple[Any, ...] = (kind, scan.image.without("dir"))
        if by_identifier and suffix == "epi":
            key = (kind, tuple(_labels(scan.metadata.get(IDENTIFIER))), scan.entity("run"))
        groups.setdefault(key, []).append(scan)
    return list(groups.values())


def _acquisition(
    metadata: Metadata, members: Sequence[Scan], fmaps: Sequence[RawImage], findings: Findings
) -> B0Acquisition | None:
    first = members[0].image
    beside = [i for i in fmaps if i.suffix in MAGNITUDES and i.without() == first.without()]
    beside.sort(key=lambda i: MAGNITUDES.index(i.suffix))
    magnitude = read_scans(metadata, beside[:1], findings)
    check_grids(first.name, [*members, *magnitude], findings)
    images = {scan.image.suffix: scan.path for scan in members}
    if magnitude:
        images["magnitude"] = magnitude[0].path
    if first.suffix == "fieldmap":
        units = _units(members[0], findings)
        return None if units is None else B0Acquisition("fieldmap", images, {"units": units})
    if not magnitude:
        findings.refuse(
            f"{first.name}: expected magnitude1 beside it, which tells where there is signal, found none. Restore it."
        )
    if first.suffix == "phasediff":
        times = [read_number(first.name, members, quantity, findings)[0] for quantity in _TIMES]
    else:
        times = _two_phases(members, findings)
    if None in times or len(times) != 2:
        return None
    return _timed("phasediff" if first.suffix == "phasediff" else "phase12", images, times, members, findings)


def _two_phases(members: Sequence[Scan], findings: Findings) -> list[float | None]:
    ordered = sorted(members, key=lambda scan: scan.image.suffix)
    if [scan.image.suffix for scan in ordered] != ["phase1", "phase2"]:
        findings.refuse(f"{names(ordered)}: expected phase1 and phase2, found {len(ordered)} image. Restore the other.")
        return []
    return read_number(names(ordered), ordered, _TIME, findings)


def _timed(
    method: Literal["phasediff", "phase12"],
    images: Mapping[str, str],
    times: Sequence[float | None],
    members: Sequence[Scan],
    findings: Findings,
) -> B0Acquisition | None:
    first, second = (float(t) for t in times if t is not None)
    low, high = ECHO_DIFFERENCE_S
    if not low <= second - first <= high:
        findings.refuse(
            f"{names(members)}: expected a second echo time {1000 * low:g} to {1000 * high:g} ms after the first, "
            f"found {first:g} and {second:g} s. Check both in the sidecars."
        )
        return None
    units = members[0].metadata.get("Units")
    stated = {"units": units} if isinstance(units, str) else {}
    return B0Acquisition(method, images, {"echo_times_s": [first, second], **stated})


def _units(scan: Scan, findings: Findings) -> str | None:
    units = scan.metadata.get("Units")
    if units is None:
        refuse_missing(scan.name, [scan], (f"Units ({', '.join(UNITS.values())})",), findings)
        return None
    known = UNITS.get(units.strip().lower()) if isinstance(units, str) else None
    if known is None:
        findings.refuse(
            f"{scan.name}: expected Units of {', '.join(UNITS.values())}, found {shown(units)}. Correct the sidecar."
        )
    return known


def _epi(members: Sequence[Scan], findings: Findings) -> B0Acquisition | None:
    group = names(members)
    directions = [phase_encoding(scan.name, [scan], findings) for scan in members]
    if None in directions:
        return None
    signs = {str(d)[1:]: scan for d, scan in zip(directions, members, strict=True)}
    axes = {str(d)[0] for d in directions}
    if len(members) != 2 or len(signs) != 2 or len(axes) != 1:
        findings.refuse(
            f"{group}: expected two images of opposite PhaseEncodingDirection, found "
            f"{', '.join(f'{scan.name} ({d})' for scan, d in zip(members, directions, strict=True))}. Link one pair."
        )
        return None
    readout = readout_time(group, members, findings)
    check_grids(group, members, findings)
    if readout is None:
        return None
    images = {"positive": signs[""].path, "negative": signs["-"].path}
    return B0Acquisition("epi", images, {"readout_s": readout, "phase_encoding": axes.pop()})


def phase_encoding(group: str, scans: Sequence[Scan], findings: Findings) -> str | None:
    """Return the direction of phase encoding that images have in common; None where it is not, which is told."""
    stated = {scan.name: scan.metadata.get("PhaseEncodingDirection") for scan in scans}
    if any(value is None for value in stated.values()):
        lacking = [scan for scan in scans if stated[scan.name] is None]
        refuse_missing(group, lacking, ("PhaseEncodingDirection",), findings)
        return None
    wrong = [value for value in stated.values() if value not in DIRECTIONS]
    if wrong:
        findings.refuse(
            f"{group}: expected a PhaseEncodingDirection of {', '.join(DIRECTIONS)} (axis of the image's array), found "
            f"{shown(wrong[0])}. Take it from the converter; AP or y do not tell the axis."
        )
        return None
    if len(set(stated.values())) > 1:
        findings.refuse(
            f"{group}: expected one PhaseEncodingDirection, found {', '.join(sorted(set(map(str, stated.values()))))}. "
            "Check which images belong together."
        )
        return None
    return str(next(iter(stated.values())))


def readout_time(group: str, scans: Sequence[Scan], findings: Findings) -> float | None:
    """Return the total readout time in s that images have in common; None where it is not, which is told.

    ``TotalReadoutTime``, or else ``EffectiveEchoSpacing (N - 1)`` with N lines along phase encoding (``ReconMatrixPE``,
    or the image's size).
    """
    if any(scan.metadata.get("TotalReadoutTime") is not None for scan in scans):
        return shared_number(group, scans, READOUT_TIME, findings)
    if all(scan.metadata.get("EffectiveEchoSpacing") is None for scan in scans):
        refuse_missing(group, scans, ("TotalReadoutTime or EffectiveEchoSpacing",), findings)
        return None
    spacing = shared_number(group, scans, ECHO_SPACING, findings)
    direction = scans[0].metadata.get("PhaseEncodingDirection")
    header = scans[0].header
    lines = scans[0].metadata.get("ReconMatrixPE")
    if not is_number(lines) and header is not None and direction in DIRECTIONS:
        lines = header.shape["ijk".index(direction[0])]
    if spacing is None or not is_number(lines):
        return None
    readout = spacing * (float(lines) - 1.0)
    if not READOUT_TIME.fits(readout):
        findings.refuse(
            f"{group}: expected {READOUT_TIME.expectation}, found {readout:g} from EffectiveEchoSpacing {spacing:g} s "
            f"and {lines:g} lines. Correct the sidecar."
        )
        return None
    return round(readout, 9) if abs(readout) > SAME_VALUE else readout
