"""B1+ acquisitions of a session: which there are, which is taken, and its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from voxcloud.bids import b0
from voxcloud.bids.acquisitions import B1Acquisition, B1Method
from voxcloud.bids.grids import check_grids
from voxcloud.bids.protocol import (
    B1_FLIP_ANGLE,
    REPETITION_TIME,
    SAME_VALUE,
    TFL_FLIP_ANGLE,
    Findings,
    Quantity,
    Scan,
    is_number,
    names,
    read_number,
    read_scans,
    shared_number,
    shown,
)
from voxcloud.bids.raw import RawImage
from voxcloud.bids.runs import choose_runs
from voxcloud.bids.series import magnitudes
from voxcloud.bids.seste import read_seste
from voxcloud.bids.sidecars import Metadata

B1_SUFFIXES: Mapping[B1Method, str] = {
    "AFI": "TB1AFI",
    "DAM": "TB1DAM",
    "TFL": "TB1TFL",
    "RFM": "TB1RFM",
    "SESTE": "TB1EPI",
    "TB1map": "TB1map",
}
"""Method to BIDS suffix."""

OTHER_SUFFIXES = ("TB1SRGE",)
"""B1+ acquisitions of BIDS that no map is made from here."""

UNITS = {"percent": "percent", "%": "percent", "p.u.": "percent", "1": "1", "ratio": "ratio"}
DOUBLE_WITHIN = 0.01

_ROLES = {
    "AFI": re.compile(r"(?P<role>tr1|tr2)(?P<case>.*)", re.IGNORECASE),
    "TFL": re.compile(r"(?P<role>anat|famp)(?P<case>.*)", re.IGNORECASE),
}
_ROLES |= {"RFM": _ROLES["TFL"], "TB1map": _ROLES["TFL"]}


@dataclass(frozen=True)
class B1Choice:
    """Which B1+ acquisition to take, and what to do without; see ``read_mpm``."""

    b1: Literal["auto"] | B1Method = "auto"
    missing_b1: Literal["stop", "semi-quantitative"] = "stop"
    missing_b0: Literal["stop", "skip"] = "stop"
    run: str | None = None


@dataclass(frozen=True)
class FieldSet:
    """The images of one acquisition: (role, image); the role is empty where the name tells none."""

    name: str
    run: str
    family: tuple[object, ...]
    members: tuple[tuple[str, Scan], ...]

    @property
    def scans(self) -> tuple[Scan, ...]:
        """Its images."""
        return tuple(scan for _, scan in self.members)

    def role(self, role: str) -> Scan | None:
        """Return the image of a role."""
        return next((scan for name, scan in self.members if name == role), None)


def read_b1(
    metadata: Metadata, fmaps: Sequence[RawImage], choice: B1Choice, findings: Findings
) -> B1Acquisition | None:
    """Return a session's B1+ acquisition; None where there is none or something is wrong, which is told.

    Parameters
    ----------
    fmaps
        The images in ``fmap`` of the session.
    """
    there: list[B1Method] = [m for m, suffix in B1_SUFFIXES.items() if any(i.suffix == suffix for i in fmaps)]
    method = choice.b1 if choice.b1 != "auto" else there[0] if len(there) == 1 else None
    if method not in there:
        if method is None and there:
            findings.refuse(
                f"expected one kind of B1+ acquisition, found {len(there)}: "
                f"{', '.join(f'{m} ({B1_SUFFIXES[m]})' for m in there)}. Name the one to use in the study file, "
                f"mpm.b1: {' or '.join(there)}."
            )
        else:
            _missing(method, there, fmaps, choice, findings)
        return None
    images = [i for i in fmaps if i.suffix == B1_SUFFIXES[method]]
    scans = read_scans(metadata, magnitudes(images, findings), findings)
    sets = choose_runs(
        _sets(method, scans),
        choice.run,
        findings,
        family_of=lambda one: one.family,
        run_of=lambda one: one.run,
        name_of=lambda one: one.name,
    )
    if len(sets) > 1:
        findings.refuse(
            f"expected one {B1_SUFFIXES[method]} acquisition, found {len(sets)}: "
            f"{'; '.join(names(one.scans) for one in sets)}. Move those that are not meant out of the data set."
        )
    if len(sets) != 1:
        return None
    if method == "SESTE":
        return read_seste(metadata, sets[0].name, sets[0].scans, fmaps, choice.missing_b0, findings)
    known = len(findings.problems)
    if method == "TB1map":
        found = _ready_made(metadata, sets[0], fmaps, findings)
    else:
        found = _BUILDERS[method](sets[0], findings)
    return found if len(findings.problems) == known else None


def _missing(
    method: B1Method | None,
    there: Sequence[B1Method],
    fmaps: Sequence[RawImage],
    choice: B1Choice,
    findings: Findings,
) -> None:
    wanted = f"{B1_SUFFIXES[method]} (mpm.b1: {method})" if method else ", ".join(B1_SUFFIXES.values())
    others = [i for i in fmaps if i.suffix in OTHER_SUFFIXES]
    found = ", ".join(B1_SUFFIXES[m] for m in there) or "none"
    if others:
        found += f" but {names(others)}, which voxcloud cannot use"
    if choice.missing_b1 == "semi-quantitative":
        findings.warn(
            f"has no B1+ acquisition (expected {wanted} in fmap, found {found}): R1, PD and MTsat are not corrected "
            "for it and are semi-quantitative (mpm.missing_b1)."
        )
        return
    findings.refuse(
        f"expected a B1+ acquisition in fmap ({wanted}), found {found}. Restore it, or accept maps that are not "
        "corrected for B1+ with mpm.missing_b1: semi-quantitative."
    )


def _sets(method: B1Method, scans: Sequence[Scan]) -> list[FieldSet]:
    """Put images together that belong to one acquisition; the ``acq`` label begins with the role and may go on."""
    pattern = _ROLES.get(method)
    groups: dict[tuple[object, ...], list[tuple[str, Scan]]] = {}
    matches = [pattern.fullmatch(scan.entity("acq")) if pattern else None for scan in scans]
    named = any(matches)
    for scan, match in zip(scans, matches, strict=True):
        case = match["case"] if match else scan.entity("acq")
        if method == "AFI" and not named:
            case = ""  # no roles in the names: repetition times tell which is which
        rest = scan.image.without("acq", "echo", "flip", "part", "run")
        role = match["role"].lower() if match else ""
        groups.setdefault((case, rest, scan.entity("run")), []).append((role, scan))
    return [
        FieldSet(names(scan for _, scan in members), members[0][1].entity("run"), key[:2], tuple(members))
        for key, members in groups.items()
    ]


def _two(one: FieldSet, what: str, findings: Findings) -> bool:
    """Say whether an acquisition has its two images; tell if not."""
    if len(one.members) == 2:
        return True
    stacks = [scan for scan in one.scans if scan.header is not None and scan.header.n_volumes > 1]
    action = "Split the file into one per volume, with a sidecar each." if stacks else "Restore or rename the files."
    listed = ", ".join(scan.name for scan in one.scans)
    findings.refuse(f"{one.name}: expected two images ({what}), found {len(one.members)}: {listed}. {action}")
    return False


def _afi(one: FieldSet, findings: Findings) -> B1Acquisition | None:
    if not _two(one, "acq-tr1 with the shorter and acq-tr2 with the longer repetition time", findings):
        return None
    angle = shared_number(one.name, one.scans, B1_FLIP_ANGLE, findings)
    check_grids(one.name, one.scans, findings)
    times = read_number(one.name, one.scans, _afi_time(one.scans), findings)
    if angle is None or times[0] is None or times[1] is None:
        return None
    if abs(times[0] - times[1]) <= SAME_VALUE * times[0]:
        findings.refuse(
            f"{one.name}: expected two repetition times, a short and a long one, found {times[0]:g} s for both. Write "
            "each image's own as RepetitionTime into its sidecar."
        )
        return None
    (short_s, short), (long_s, long) = sorted(zip((times[0], times[1]), one.scans, strict=True), key=lambda k: k[0])
    roles = {scan.path: role for role, scan in one.members}
    if "tr2" in roles[short.path] or "tr1" in roles[long.path]:
        findings.refuse(
            f"{one.name}: expected the shorter repetition time for acq-tr1, found {long_s:g} s for {long.name} and "
            f"{short_s:g} s for {short.name}. Correct the names or the sidecars."
        )
        return None
    images = {"short": short.path, "long": long.path}
    return B1Acquisition("AFI", images, {"flip_angle_deg": angle, "repetition_times_s": [short_s, long_s]})


def _afi_time(scans: Sequence[Scan]) -> Quantity:
    """Return which key tells the two repetition times apart: BIDS asks for RepetitionTime, some write the other."""
    for key in ("RepetitionTime", "RepetitionTimeExcitation"):
        values = [scan.metadata.get(key) for scan in scans]
        if None not in values and values[0] != values[1]:
            return _with_keys(REPETITION_TIME, key)
    stated = [k for k in ("RepetitionTime", "RepetitionTimeExcitation") if scans[0].metadata.get(k) is not None]
    return _with_keys(REPETITION_TIME, *(stated[:1] or ("RepetitionTime", "RepetitionTimeExcitation")))


def _with_keys(quantity: Quantity, *keys: str) -> Quantity:
    return Quantity(keys, quantity.unit, quantity.low, quantity.high, quantity.slips)


def _dam(one: FieldSet, findings: Findings) -> B1Acquisition | None:
    if not _two(one, "flip-1 and flip-2 with twice its flip angle", findings):
        return None
    check_grids(one.name, one.scans, findings)
    angles = read_number(one.name, one.scans, B1_FLIP_ANGLE, findings)
    if angles[0] is None or angles[1] is None:
        return None
    (low, single), (high, double) = sorted(zip((angles[0], angles[1]), one.scans, strict=True), key=lambda k: k[0])
    if abs(high - 2 * low) > DOUBLE_WITHIN * 2 * low:
        findings.refuse(
            f"{one.name}: expected one flip angle twice the other within {DOUBLE_WITHIN:.0%}, found {low:g} degrees "
            f"({single.name}) and {high:g} degrees ({double.name}). Correct the sidecars."
        )
        return None
    return B1Acquisition("DAM", {"single": single.path, "double": double.path}, {"flip_angle_deg": low})


def _scaled(method: Literal["TFL", "RFM"], quantity: Quantity) -> Callable[[FieldSet, Findings], B1Acquisition | None]:
    def build(one: FieldSet, findings: Findings) -> B1Acquisition | None:
        famp, anat = one.role("famp"), one.role("anat")
        if famp is None or anat is None or len(one.members) != 2:
            listed = ", ".join(scan.name for scan in one.scans)
            findings.refuse(
                f"{one.name}: expected two images, acq-famp (flip angles) and acq-anat (to register with), found "
                f"{listed}. Restore or rename the files."
            )
            return None
        check_grids(one.name, one.scans, findings)
        angle = shared_number(one.name, [famp], quantity, findings)
        images = {"famp": famp.path, "anat": anat.path}
        return None if angle is None else B1Acquisition(method, images, {"flip_angle_deg": angle})

    return build


_BUILDERS: Mapping[str, Callable[[FieldSet, Findings], B1Acquisition | None]] = {
    "AFI": _afi,
    "DAM": _dam,
    "TFL": _scaled("TFL", TFL_FLIP_ANGLE),
    "RFM": _scaled("RFM", B1_FLIP_ANGLE),
}


def _ready_made(
    metadata: Metadata, one: FieldSet, fmaps: Sequence[RawImage], findings: Findings
) -> B1Acquisition | None:
    maps = [scan for role, scan in one.members if role != "anat"]
    if len(maps) != 1:
        findings.refuse(f"{one.name}: expected one B1+ map, found {len(maps)}. Restore or rename the files.")
        return None
    stated = maps[0].metadata.get("Units")
    text = f"{stated:g}" if is_number(stated) else str(stated or "").strip().lower()
    if text not in ("", "arbitrary", *UNITS):
        findings.refuse(
            f"{one.name}: expected Units of percent or 1 (actual over nominal flip angle), found {shown(stated)}. "
            "Convert the map to percent of the nominal angle."
        )
        return None
    anat = one.role("anat")
    beside = [anat] if anat is not None else read_scans(metadata, _magnitude_beside(maps[0].image, fmaps), findings)
    check_grids(one.name, [*maps, *beside], findings)
    images = {"map": maps[0].path}
    if beside:
        images["anat"] = beside[0].path
    return B1Acquisition("TB1map", images, {"units": UNITS[text]} if text in UNITS else {})


def _magnitude_beside(image: RawImage, fmaps: Sequence[RawImage]) -> list[RawImage]:
    """Return the magnitude of the same entities, unless it belongs to a B0 map of these entities."""
    same = [other for other in fmaps if other.without() == image.without()]
    if any(other.suffix in b0.SUFFIXES for other in same):
        return []
    found = [other for other in same if other.suffix in b0.MAGNITUDES]
    return sorted(found, key=lambda other: b0.MAGNITUDES.index(other.suffix))[:1]
