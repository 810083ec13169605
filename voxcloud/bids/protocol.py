"""Parameters of acquisitions from sidecars, with their units checked by range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxcloud.bids.nifti import NiftiFile, open_nifti
from voxcloud.bids.raw import RawImage, absent_content, image_stem
from voxcloud.bids.sidecars import ImageMetadata, Metadata
from voxcloud.errors import BidsError, VoxcloudError

# Two values of one parameter are the same within this relative difference: scanners round, converters divide.
SAME_VALUE = 1e-4


@dataclass
class Findings:
    """Everything that is wrong or odd about one session, so that it can be told at once.

    Attributes
    ----------
    who
        Participant and session; every sentence starts with it.
    """

    who: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, text: str) -> None:
        """Note a problem; the session cannot be used."""
        _once(self.problems, f"{self.who}: {text}")

    def warn(self, text: str) -> None:
        """Note what is usable and odd."""
        _once(self.warnings, f"{self.who}: {text}")

    def stop(self) -> None:
        """Raise what was found.

        Raises
        ------
        BidsError
            With every problem, if there is any.
        """
        if self.problems:
            raise BidsError(*self.problems)


def _once(sentences: list[str], text: str) -> None:
    if text not in sentences:
        sentences.append(text)


@dataclass(frozen=True)
class Scan:
    """An image with its metadata, and its header where that could be read.

    Attributes
    ----------
    readable
        False where the sidecars could not be read, which was told.
    """

    image: RawImage
    metadata: ImageMetadata
    header: NiftiFile | None
    readable: bool = True

    @property
    def name(self) -> str:
        """File name."""
        return self.image.name

    @property
    def path(self) -> str:
        """Path of the image."""
        return str(self.image.path)

    def entity(self, key: str) -> str:
        """Return an entity's label, empty where the name has none."""
        return self.image.entity(key)


@dataclass(frozen=True)
class Slip:
    """A unit that is mistaken for the right one: ``value * factor`` is what was meant."""

    factor: float
    advice: str


MILLISECONDS = Slip(1e-3, "divide milliseconds by 1000")
MICROSECONDS = Slip(1e-6, "divide microseconds by 1000000")
SECONDS_ONCE_TOO_OFTEN = Slip(1e3, "it is in seconds already; do not divide by 1000")
RADIANS = Slip(180.0 / math.pi, "convert rad to degrees (times 180 / pi)")
TENTHS = Slip(0.1, "divide tenths of a degree by 10")
SPIN_ECHO_PULSE = Slip(0.5, "FlipAngle of TB1EPI is that of the stimulated echo's pulse, half the spin echo's")
PREPARATION = (
    "It is the nominal angle of the preparation pulse (80 or 90 degrees), which the map is relative to, and not that "
    "of the readout: correct the sidecar."
)
_TIME_SLIPS = (MILLISECONDS, MICROSECONDS, SECONDS_ONCE_TOO_OFTEN)


@dataclass(frozen=True)
class Quantity:
    """A parameter in a sidecar: its keys in order of preference, its unit and what it can be."""

    keys: tuple[str, ...]
    unit: str
    low: float
    high: float
    slips: tuple[Slip, ...]
    otherwise: str = "Correct the sidecar."

    @property
    def name(self) -> str:
        """The keys in words."""
        return " or ".join(self.keys)

    @property
    def expectation(self) -> str:
        """What is expected, in words."""
        return f"{self.name} in {self.unit}, {self.low:g} to {self.high:g}"

    def fits(self, value: float) -> bool:
        """Say whether a value is possible."""
        return self.low <= value <= self.high

    def hint(self, value: float) -> str:
        """Return what was meant and what to do, as a sentence."""
        for slip in self.slips:
            meant = value * slip.factor
            if self.fits(meant):
                meant = round(meant, 2) if slip is RADIANS else meant  # nobody sets hundredths of a degree
                return f"{value:g} where {meant:.4g} is meant: {slip.advice}."
        return self.otherwise


# FLASH: below a degree nobody scans, and 4 to 30 degrees are .07 to .52 rad.
FLIP_ANGLE = Quantity(("FlipAngle",), "degrees", 1.0, 180.0, (RADIANS, TENTHS))
# B1 acquisitions use large angles: whatever is below pi is in rad.
B1_FLIP_ANGLE = Quantity(("FlipAngle",), "degrees", 4.0, 180.0, (RADIANS, TENTHS))
SESTE_FLIP_ANGLE = Quantity(("FlipAngle",), "degrees", 20.0, 180.0, (RADIANS, SPIN_ECHO_PULSE, TENTHS))
# The Siemens sequence has a preparation pulse of 80 or 90 degrees and reads out with some 8, which DICOM also calls
# flip angle.
TFL_FLIP_ANGLE = Quantity(("FlipAngle",), "degrees", 20.0, 180.0, (RADIANS, TENTHS), PREPARATION)
ECHO_TIME = Quantity(("EchoTime",), "s", 1e-4, 0.2, _TIME_SLIPS)
REPETITION_TIME = Quantity(("RepetitionTimeExcitation", "RepetitionTime"), "s", 0.002, 1.0, _TIME_SLIPS)
MIXING_TIME = Quantity(("MixingTime",), "s", 0.002, 0.5, _TIME_SLIPS)
READOUT_TIME = Quantity(("TotalReadoutTime",), "s", 0.001, 0.5, _TIME_SLIPS)
ECHO_SPACING = Quantity(("EffectiveEchoSpacing",), "s", 5e-5, 0.01, _TIME_SLIPS)


def read_scans(
    metadata: Metadata, images: Sequence[RawImage], findings: Findings, *, headers: bool = True
) -> list[Scan]:
    """Read sidecars and headers of images; what cannot be read is told.

    Parameters
    ----------
    headers
        False reads sidecars only, e.g. of images that may turn out to belong to something else.
    """
    scans = []
    unreadable: dict[str, list[RawImage]] = {}
    absent: dict[tuple[str, str, Path], list[RawImage]] = {}
    for image in images:
        try:
            about = metadata.of(image.path)
        except VoxcloudError as error:
            for text in error.problems:
                unreadable.setdefault(text.removeprefix(f"{image.name}: "), []).append(image)
            scans.append(Scan(image, ImageMetadata({}), None, readable=False))
            continue
        if not headers:
            scans.append(Scan(image, about, None))
            continue
        gone = absent_content(image.path)
        if gone is not None:
            absent.setdefault((gone.what, gone.advice, image.path.parent), []).append(image)
        scans.append(Scan(image, about, None if gone is not None else _header(image, findings)))
    for text, those in unreadable.items():
        findings.refuse(text if str(metadata.root) in text else f"{names(those)}: {text}")
    for (what, advice, folder), those in absent.items():
        place = those[0].path if len(those) == 1 else folder
        findings.refuse(
            f"{names(those)}: expected an image, found {what}. {advice.replace('%s', repr(metadata.relative(place)))}"
        )
    return scans


def _header(image: RawImage, findings: Findings) -> NiftiFile | None:
    try:
        return open_nifti(image.path)
    except VoxcloudError as error:
        for text in error.problems:
            findings.refuse(text)
        return None


def names(those: Iterable[RawImage | Scan]) -> str:
    """Return file names for a message: the first, and how many more."""
    found = [image.name for image in those]
    return found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more"


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: Any) -> str:
    """Return a value of a sidecar for a message, cut short."""
    text = f"{value:g}" if is_number(value) else f"the text {value!r}" if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_number(group: str, scans: Sequence[Scan], quantity: Quantity, findings: Findings) -> list[float | None]:
    """Read one quantity of several images; what is missing or impossible is told in one sentence for all.

    Returns
    -------
    list
        A value per image; None where there is none that can be used.
    """
    values: list[float | None] = []
    missing: list[Scan] = []
    wrong: list[tuple[Any, Path]] = []
    for scan in scans:
        stated = {key: scan.metadata.get(key) for key in quantity.keys if scan.metadata.get(key) is not None}
        faults = [(v, scan.metadata.sources[k]) for k, v in stated.items() if not is_number(v) or not quantity.fits(v)]
        values.append(None if faults or not stated else float(next(iter(stated.values()))))
        if not stated:
            missing.append(scan)
        elif faults:
            wrong.append(faults[0])
        elif max(stated.values()) - min(stated.values()) > SAME_VALUE * max(stated.values()):
            values[-1] = None
            found = " and ".join(f"{key} {v:g}" for key, v in stated.items())
            findings.refuse(
                f"{group}: expected {' and '.join(stated)} to agree, found {found} {quantity.unit} ({scan.name}). "
                "Keep the time between two excitations in both, or remove the other."
            )
    if wrong:
        findings.refuse(f"{group}: {_fault(quantity, wrong)}")
    if missing:
        refuse_missing(group, missing, (quantity.name,), findings)
    return values


def _fault(quantity: Quantity, wrong: Sequence[tuple[Any, Path]]) -> str:
    distinct = list(dict.fromkeys(shown(value) for value, _ in wrong))
    found = ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")
    files = list(dict.fromkeys(path.name for _, path in wrong))
    place = files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    first = wrong[0][0]
    if is_number(first):
        hint = quantity.hint(float(first))
    elif isinstance(first, str):
        hint = "Write the number without quotes."
    elif isinstance(first, list):
        hint = "Write one number per image (one file per echo or angle)."
    else:
        hint = "Correct the sidecar."
    return f"expected {quantity.expectation}, found {found} ({place}). {hint}"


def refuse_missing(group: str, scans: Sequence[Scan], keys: Sequence[str], findings: Findings) -> None:
    """Tell that sidecars lack something, naming the keys and the files that were looked for."""
    scans = [scan for scan in scans if scan.readable]  # of the others it is told that they cannot be read
    bare = [scan for scan in scans if not scan.metadata.files]
    for those, found in ((bare, "no sidecar"), ([s for s in scans if s not in bare], "a sidecar without it")):
        if those:
            first = those[0].image
            findings.refuse(
                f"{group}: expected {', '.join(keys)} in a sidecar ({image_stem(first.name)}.json, or "
                f"{first.suffix}.json in a folder above), found {found} for {names(those)}. Write it there, or convert "
                "the images again with sidecars."
            )


def shared_number(group: str, scans: Sequence[Scan], quantity: Quantity, findings: Findings) -> float | None:
    """Read a quantity that must be the same for all images of a group; None where it is not, which is told."""
    values = read_number(group, scans, quantity, findings)
    known = [(v, scan) for v, scan in zip(values, scans, strict=True) if v is not None]
    if not known or len(known) < len(values):
        return None
    (low, first), (high, last) = min(known, key=lambda k: k[0]), max(known, key=lambda k: k[0])
    if high - low > SAME_VALUE * high:
        findings.refuse(
            f"{group}: expected one {quantity.name} for all its images, found {low:g} ({first.name}) and {high:g} "
            f"{quantity.unit} ({last.name}). Check which image belongs to which series."
        )
        return None
    return low
