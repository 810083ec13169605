"""Multi-echo FLASH series of one session: files put together by their entities, parameters read and checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from voxcloud.bids.acquisitions import CONTRASTS, ContrastName, EchoImage
from voxcloud.bids.grids import check_grids
from voxcloud.bids.nifti import NiftiFile
from voxcloud.bids.protocol import (
    ECHO_TIME,
    FLIP_ANGLE,
    REPETITION_TIME,
    Findings,
    Scan,
    is_number,
    names,
    read_number,
    refuse_missing,
    shared_number,
    shown,
)
from voxcloud.bids.raw import RawImage
from voxcloud.errors import nearest

FEWEST_ECHOES = 3
MOST_ECHOES = 12
R2STAR_ECHOES = 4
ADVISED_ECHOES = 6
PARTS = ("mag", "phase", "real", "imag")
KEYS = ("EchoTime", "FlipAngle", "RepetitionTimeExcitation or RepetitionTime", "MTState")

_ON = {True: True, False: False, "on": True, "off": False, "true": True, "false": False}
_STATED = re.compile("|".join(CONTRASTS), re.IGNORECASE)


@dataclass(frozen=True)
class FoundSeries:
    """A series before it is known which contrast it is.

    Attributes
    ----------
    label
        What its files have in common, e.g. ``acq-PDw_flip-1_mt-off``.
    run
        BIDS run label; empty where names have none.
    scans
        Its images.
    """

    label: str
    run: str
    scans: tuple[Scan, ...]

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"series {self.label}" if self.label else "the series"

    @property
    def family(self) -> tuple[tuple[str, str], ...]:
        """What it has in common with its other runs."""
        return self.scans[0].image.without("echo", "part", "run")

    @property
    def bare(self) -> bool:
        """Whether no sidecar says anything about any of its images."""
        return not any(scan.metadata.files or not scan.readable for scan in self.scans)

    @property
    def contrast_in_name(self) -> ContrastName | None:
        """The contrast that the ``acq`` label names (``acq-PDw``), if it names one."""
        found = {m.lower() for m in _STATED.findall(self.scans[0].entity("acq"))}
        return next((c for c in CONTRASTS if {c.lower()} == found), None)


@dataclass(frozen=True)
class ReadSeries:
    """A series with its parameters: degrees and seconds; ``mt`` says whether the MT pulse was on."""

    found: FoundSeries
    echoes: tuple[EchoImage, ...]
    flip_angle_deg: float
    repetition_time_s: float
    mt: bool


def magnitudes(images: Sequence[RawImage], findings: Findings) -> list[RawImage]:
    """Return the magnitude images: those with ``part-mag`` or without ``part``; phases are left aside.

    Real and imaginary parts without a magnitude are refused, and so are names that say no part of an image.
    """
    kept: dict[tuple[tuple[str, str], ...], RawImage] = {}
    complex_parts: dict[tuple[tuple[str, str], ...], RawImage] = {}
    for image in images:
        part = image.entity("part")
        key = (*image.without("part"), ("suffix", image.suffix))
        if part not in ("", *PARTS):
            findings.refuse(
                f"{image.name}: expected part-mag, part-phase or no part in the name, found part-{part}."
                f"{nearest(part, PARTS)} Rename the file."
            )
        elif part in ("real", "imag"):
            complex_parts[key] = image
        elif part != "phase" and key in kept:
            findings.refuse(
                f"{image.name}: expected one magnitude image of these entities, found {kept[key].name} too. "
                "Remove one of the two."
            )
        elif part != "phase":
            kept[key] = image
    lone = [image for key, image in complex_parts.items() if key not in kept]
    if lone:
        findings.refuse(
            f"{names(lone)}: expected magnitude images (part-mag, or no part), found real or imaginary parts. Write "
            "the magnitude, sqrt(real^2 + imag^2), as part-mag."
        )
    return list(kept.values())


def group_series(scans: Sequence[Scan]) -> list[FoundSeries]:
    """Put images together that have the same entities but for echo and part."""
    groups: dict[tuple[tuple[str, str], ...], list[Scan]] = {}
    for scan in scans:
        groups.setdefault(scan.image.without("echo", "part"), []).append(scan)
    return [
        FoundSeries(_label(members[0]), members[0].entity("run"), tuple(members))
        for _, members in sorted(groups.items())
    ]


def _label(scan: Scan) -> str:
    return "_".join(f"{k}-{v}" for k, v in scan.image.entities.items() if k not in {"sub", "ses", "echo", "part"})


def read_series(series: FoundSeries, findings: Findings) -> ReadSeries | None:
    """Read and check the parameters of a series; None where something is wrong, which is told."""
    known = len(findings.problems)
    if not all(scan.readable for scan in series.scans):
        return None
    if series.bare:
        refuse_missing(series.name, series.scans, KEYS, findings)
        return None
    angle = shared_number(series.name, series.scans, FLIP_ANGLE, findings)
    repetition = shared_number(series.name, series.scans, REPETITION_TIME, findings)
    mt = _mt_state(series, findings)
    stack = _stack(series, findings)
    if stack is None:
        check_grids(series.name, series.scans, findings)
        _check_numbering(series, findings)
        times = read_number(series.name, series.scans, ECHO_TIME, findings)
        echoes = [EchoImage(s.path, t) for s, t in zip(series.scans, times, strict=True) if t is not None]
        _check_order(series, times, findings)
    else:
        echoes = _volumes(series, stack, findings)
    if len(findings.problems) > known:
        return None
    echoes.sort(key=lambda echo: echo.echo_time_s)
    _check_train(series, echoes, repetition, findings)
    if len(findings.problems) > known or angle is None or repetition is None or mt is None:
        return None
    return ReadSeries(series, tuple(echoes), angle, repetition, mt)


def _mt_state(series: FoundSeries, findings: Findings) -> bool | None:
    """Return whether the MT pulse was on, by MTState, the ``mt`` entity and the ``acq`` label, which must agree."""
    said: dict[str, bool] = {}
    for scan in series.scans:
        value = scan.metadata.get("MTState")
        state = _ON.get(value.strip().casefold() if isinstance(value, str) else value) if _hashable(value) else None
        if value is not None and state is None:
            findings.refuse(
                f"{series.name}: expected MTState true or false, found {shown(value)} ({scan.name}). Correct "
                "the sidecar."
            )
            return None
        if state is not None:
            said.setdefault(f"MTState {str(state).lower()} in the sidecar of {scan.name}", state)
    entity = series.scans[0].entity("mt")
    if entity and entity.lower() not in ("on", "off"):
        findings.refuse(f"{series.name}: expected mt-on or mt-off in the name, found mt-{entity}. Rename the files.")
        return None
    if entity:
        said[f"mt-{entity} in the name"] = entity.lower() == "on"
    contrast = series.contrast_in_name
    if contrast is not None:
        said[f"acq-{series.scans[0].entity('acq')} in the name"] = contrast == "MTw"
    if len(set(said.values())) > 1:
        on, off = (next(text for text, state in said.items() if state is wanted) for wanted in (True, False))
        findings.refuse(
            f"{series.name}: expected name and sidecar to agree on the MT pulse, found {on}, but {off}. "
            "Find out whether the pulse was on, and correct the name or the sidecar."
        )
        return None
    if not said:
        refuse_missing(series.name, series.scans, ("MTState (or mt-on, mt-off in the name)",), findings)
        return None
    return next(iter(said.values()))


def _hashable(value: object) -> bool:
    return isinstance(value, bool | str) or value is None


def _stack(series: FoundSeries, findings: Findings) -> NiftiFile | None:
    """Return the header of a series that is one file with a volume per echo, or None."""
    first = series.scans[0]
    if len(series.scans) == 1 and first.header is not None and first.header.n_volumes > 1:
        return first.header
    listed = [scan for scan in series.scans if isinstance(scan.metadata.get("EchoTime"), list)]
    if listed and all(scan.header is None or scan.header.n_volumes == 1 for scan in series.scans):
        findings.refuse(
            f"{series.name}: expected one EchoTime per file, found a list in the sidecar of {names(listed)}. "
            "Write each file's own."
        )
    return None


def _volumes(series: FoundSeries, stack: NiftiFile, findings: Findings) -> list[EchoImage]:
    scan = series.scans[0]
    times = scan.metadata.get("EchoTime")
    if not isinstance(times, list) or len(times) != stack.n_volumes or not all(is_number(t) for t in times):
        found = f"a list of {len(times)}" if isinstance(times, list) else shown(times)
        findings.refuse(
            f"{series.name}: expected EchoTime as a list of {stack.n_volumes} numbers in s, one per volume of "
            f"{scan.name}, found {found}. Write it, or split the file into one per echo."
        )
        return []
    wrong = [t for t in times if not ECHO_TIME.fits(t)]
    if wrong:
        found = ", ".join(f"{t:g}" for t in wrong[:4])
        findings.refuse(f"{series.name}: expected {ECHO_TIME.expectation}, found {found}. {ECHO_TIME.hint(wrong[0])}")
        return []
    return [EchoImage(scan.path, float(t), volume) for volume, t in enumerate(times)]


def _check_numbering(series: FoundSeries, findings: Findings) -> None:
    """Refuse a series with a gap between its echo numbers, or files that are not told apart by them."""
    labels = [scan.entity("echo") for scan in series.scans]
    wrong = [s for s, label in zip(series.scans, labels, strict=True) if not label.isdecimal()]
    if wrong:
        if len(series.scans) > 1 or wrong[0].entity("echo"):
            findings.refuse(
                f"{series.name}: expected echo-1, echo-2, ... in the names, found {names(wrong)}. Rename the files."
            )
        return
    numbers = sorted(int(label) for label in labels)
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        findings.refuse(f"{series.name}: expected each echo once, found echo-{twice[0]} twice. Remove or rename one.")
    gaps = [n for n in range(1 if numbers[0] else 0, numbers[-1]) if n not in numbers]
    if gaps:
        there = ", ".join(str(n) for n in numbers)
        findings.refuse(
            f"{series.name}: expected echoes without a gap, found echo {there}; "
            f"{', '.join(f'echo-{n}' for n in gaps)} is missing. Restore the file, or leave the session out."
        )


def _check_order(series: FoundSeries, times: Sequence[float | None], findings: Findings) -> None:
    """Refuse echo times that are there twice or do not rise with the echo number: a sidecar is another file's."""
    numbered = sorted(
        (int(s.entity("echo")), t)
        for s, t in zip(series.scans, times, strict=True)
        if t is not None and s.entity("echo").isdecimal()
    )
    for (n, earlier), (m, later) in itertools.pairwise(numbered):
        if later == earlier:
            findings.refuse(
                f"{series.name}: expected different echo times, found {later:g} s for echo-{n} and echo-{m}. Is an "
                "echo there twice, or a sidecar copied?"
            )
        elif later < earlier:
            findings.refuse(
                f"{series.name}: expected echo times that rise with the echo number, found {earlier:g} s for echo-{n} "
                f"and {later:g} s for echo-{m}. Check whether sidecars or names were exchanged."
            )


def _check_train(
    series: FoundSeries, echoes: Sequence[EchoImage], repetition: float | None, findings: Findings
) -> None:
    count = len(echoes)
    times = [echo.echo_time_s for echo in echoes]
    if not FEWEST_ECHOES <= count <= MOST_ECHOES:
        where = names(series.scans)
        findings.refuse(
            f"{series.name}: expected {FEWEST_ECHOES} to {MOST_ECHOES} echoes, found {count} ({where}). "
            + ("Restore the others, or leave the session out." if count < FEWEST_ECHOES else "Are these one series?")
        )
        return
    if len(set(times)) < count:
        findings.refuse(
            f"{series.name}: expected different echo times, found {', '.join(f'{t:g}' for t in times)} s. "
            "Is an echo there twice?"
        )
    if repetition is not None and repetition <= times[-1]:
        findings.refuse(
            f"{series.name}: expected a repetition time longer than the last echo time, found {repetition:g} s and "
            f"{times[-1]:g} s. Check both in the sidecars."
        )
    if count < R2STAR_ECHOES:
        findings.warn(
            f"{series.name}: {count} echoes; R2* needs at least {R2STAR_ECHOES} per contrast to be trusted, and "
            "signals at TE = 0 suffer too."
        )
    elif count < ADVISED_ECHOES:
        findings.warn(f"{series.name}: {count} echoes; R2* is imprecise with fewer than {ADVISED_ECHOES}.")
