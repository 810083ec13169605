"""Diffusion images of one session: which runs are taken, and what sidecars and gradient tables say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxcloud.bids.b0 import DIRECTIONS, phase_encoding, readout_time
from voxcloud.bids.bvals import BVAL, GradientFiles, read_gradients
from voxcloud.bids.dwi_acquisitions import LARGEST_B0, DwiSeries, as_number, as_vector
from voxcloud.bids.epi_halves import EpiHalf
from voxcloud.bids.protocol import Findings, Quantity, Scan, Slip, is_number, names, shared_number, shown
from voxcloud.bids.raw import RawImage, image_stem
from voxcloud.bids.runs import same_run
from voxcloud.errors import BidsError

RUN_SETTING = "dwi.run"
ALL_RUNS = "all"
AXES = ("i", "j", "k")
DIRECTION, AXIS = "PhaseEncodingDirection", "PhaseEncodingAxis"
PARTIAL_FOURIER = Quantity(
    ("PartialFourier",),
    "parts of k-space",
    0.5,
    1.0,
    (Slip(0.01, "divide percent by 100"), Slip(0.125, "divide eighths by 8")),
    "Full is 1; correct the sidecar.",
)
# Six directions and one volume without weighting: fewer are no diffusion series of their own.
FEWEST_VOLUMES = 7
# Of the echo time: where T2 is as long, the signal then differs by 1 %.
SAME_ECHO_TIME = 0.01
READOUT_KEYS = ("TotalReadoutTime", "EffectiveEchoSpacing")


@dataclass(frozen=True)
class FoundDwi:
    """A diffusion image with what could be read of it.

    Attributes
    ----------
    direction
        PhaseEncodingDirection; None where it is missing or wrong.
    axis
        Axis of phase encoding (i, j, k); None where nothing tells it, which was told.
    table
        None where it cannot be read, which was told.
    partial_fourier
        None where it is not stated.
    """

    scan: Scan
    direction: str | None
    axis: str | None
    readout_s: float | None
    partial_fourier: float | None
    slice_axis: int
    table: GradientFiles | None

    @property
    def half(self) -> EpiHalf:
        """The series as one half of a pair of opposite phase encoding."""
        # Without a table the session is refused; its first volume stands for one that is not weighted, so that what is
        # wrong with the field map is told too.
        bvals = [0.0] if self.table is None else self.table.bvals.tolist()
        return EpiHalf(self.scan, self.direction, tuple(k for k, value in enumerate(bvals) if value <= LARGEST_B0))

    def series(self) -> DwiSeries:
        """Return the series of a session about which nothing was refused."""
        assert self.table is not None
        assert self.axis is not None
        assert self.scan.header is not None
        return DwiSeries(
            path=self.scan.path,
            bval_path=str(self.table.bval_path),
            bvec_path=str(self.table.bvec_path),
            bvals=tuple(as_number(value) for value in self.table.bvals.tolist()),
            bvecs=tuple(as_vector(vector) for vector in self.table.bvecs.T.tolist()),
            n_volumes=self.scan.header.n_volumes,
            phase_encoding=self.direction or self.axis,
            readout_s=self.readout_s,
            partial_fourier=1.0 if self.partial_fourier is None else self.partial_fourier,
            slice_axis=self.slice_axis,
            run=self.scan.entity("run"),
            direction=self.scan.entity("dir"),
        )


def choose_images(images: Sequence[RawImage], run: str | None, findings: Findings) -> list[RawImage]:
    """Return the images to take, in order of their entities and runs.

    Images that differ by more than their run are taken together. Of several runs of one acquisition the chosen one is
    taken, or all, as series of their own; without a choice they are refused.

    Parameters
    ----------
    run
        A run's label or ``all``; None where nobody chose.
    """
    families: dict[tuple[tuple[str, str], ...], list[RawImage]] = {}
    for image in sorted(images, key=_order):
        families.setdefault(image.without("run", "part"), []).append(image)
    kept: list[RawImage] = []
    for members in families.values():
        kept += members if run == ALL_RUNS else _one_run(members, run, findings)
    return kept


def _order(image: RawImage) -> tuple[tuple[tuple[str, str], ...], int, str]:
    run = image.entity("run")
    return image.without("run", "part"), int(run) if run.isdecimal() else 0, run


def _one_run(members: Sequence[RawImage], run: str | None, findings: Findings) -> Sequence[RawImage]:
    """Return one run of an acquisition; the first where that is not clear, so that what else is wrong is told too."""
    labels = [image.entity("run") for image in members]
    there = ", ".join(f"run-{label}" if label else "one without a run label" for label in labels)
    if len(members) == 1:
        if run is not None and labels[0] and not same_run(labels[0], run):
            findings.warn(f"{members[0].name} is taken although {RUN_SETTING} is {run}: there is no other run of it.")
        return members
    fitting = [m for m, label in zip(members, labels, strict=True) if run is not None and same_run(label, run)]
    if run is None or len(fitting) > 1:
        findings.refuse(
            f"{members[0].name}: expected one run, found {there}. Name the one to use in the study file, e.g. "
            f"{RUN_SETTING}: {next(filter(None, labels), '1')}, or take them together: {RUN_SETTING}: {ALL_RUNS}."
        )
    elif not fitting:
        findings.refuse(
            f"{members[0].name}: expected run-{run} ({RUN_SETTING}), found {there}. Name a run that is there, or "
            f"{ALL_RUNS}."
        )
    return fitting[:1] or members[:1]


def read_dwi_series(root: Path, scan: Scan, findings: Findings) -> FoundDwi:
    """Read what sidecars and gradient table say of a diffusion image; what is wrong is told."""
    direction, axis = _phase_encoding(scan, findings)
    return FoundDwi(
        scan,
        direction,
        axis,
        readout_time(scan.name, [scan], findings) if states_readout(scan) else None,
        _partial_fourier(scan, findings),
        _slice_axis(scan, axis, findings),
        _table(root, scan, findings),
    )


def states_readout(scan: Scan) -> bool:
    """Say whether a sidecar tells the readout time, right or wrong."""
    return any(scan.metadata.get(key) is not None for key in READOUT_KEYS)


def _phase_encoding(scan: Scan, findings: Findings) -> tuple[str | None, str | None]:
    """Return direction and axis; some scanners tell the axis only, which is enough for eddy currents."""
    if scan.metadata.get(DIRECTION) is None:
        axis = scan.metadata.get(AXIS)
        return None, axis if axis in AXES else None
    direction = phase_encoding(scan.name, [scan], findings)
    return direction, direction[0] if direction is not None else None


def check_phase_encoding(found: Sequence[FoundDwi], findings: Findings) -> None:
    """Refuse series without phase encoding, and those whose names say the opposite of each other and do not differ."""
    lacking = [one.scan for one in found if one.axis is None and one.scan.readable and not _states_direction(one.scan)]
    for those, what in (
        ([scan for scan in lacking if not scan.metadata.files], "no sidecar"),
        ([scan for scan in lacking if scan.metadata.files], "a sidecar without it"),
    ):
        if those:
            findings.refuse(
                f"{names(those)}: expected {DIRECTION} in a sidecar ({image_stem(those[0].name)}.json, or dwi.json in "
                f"a folder above), found {what}. Eddy currents distort along it. Convert the scanner's files again "
                "with dcm2niix, which writes it, or write it there."
            )
    known = [one for one in found if one.direction is not None]
    for k, one in enumerate(known):
        label = one.scan.entity("dir").upper()
        for other in known[k + 1 :]:
            opposite = label != label[::-1] and other.scan.entity("dir").upper() == label[::-1]
            if opposite and not one.half.opposes(other.half):
                findings.refuse(
                    f"{one.scan.name} and {other.scan.name}: expected opposite {DIRECTION} for dir-"
                    f"{one.scan.entity('dir')} and dir-{other.scan.entity('dir')}, found {one.direction} and "
                    f"{other.direction}. Correct the sidecar that is wrong, or the name."
                )


def _states_direction(scan: Scan) -> bool:
    return scan.metadata.get(DIRECTION) is not None


def _partial_fourier(scan: Scan, findings: Findings) -> float | None:
    if scan.metadata.get(PARTIAL_FOURIER.name) is None:
        return None
    return shared_number(scan.name, [scan], PARTIAL_FOURIER, findings)


def warn_partial_fourier(found: Sequence[FoundDwi], findings: Findings) -> None:
    """Tell once of all series that do not state it."""
    key = PARTIAL_FOURIER.name
    lacking = [one.scan for one in found if one.scan.readable and one.scan.metadata.get(key) is None]
    if lacking:
        findings.warn(
            f"{names(lacking)}: {key} is not in a sidecar and taken as 1 (all of k-space). If it was less, write it "
            "there: Gibbs ringing is not taken out the same way then."
        )


def _slice_axis(scan: Scan, phase_axis: str | None, findings: Findings) -> int:
    """Return the axis of slices, the third unless the sidecar says another."""
    stated = scan.metadata.get("SliceEncodingDirection", "k")
    if stated not in DIRECTIONS:
        findings.refuse(
            f"{scan.name}: expected a SliceEncodingDirection of {', '.join(DIRECTIONS)} (axis of the image's array), "
            f"found {shown(stated)}. Correct the sidecar."
        )
        return AXES.index("k")
    if stated[0] == phase_axis:
        findings.refuse(
            f"{scan.name}: expected slices along another axis than phase, found {phase_axis} for both "
            "(SliceEncodingDirection, which is k where it is not stated, and PhaseEncodingDirection). Correct the "
            "sidecar."
        )
    return AXES.index(stated[0])


def _table(root: Path, scan: Scan, findings: Findings) -> GradientFiles | None:
    """Return the gradient table of an image; refuse one of another number of volumes."""
    try:
        table = read_gradients(root, scan.image.path)
    except BidsError as error:
        for text in error.problems:
            findings.refuse(f"{text}{_without_table(scan)}")
        return None
    for note in table.notes:
        findings.warn(note)
    count = scan.header.n_volumes if scan.header is not None else None
    sizes = (table.bvals.size, table.bvecs.shape[1])
    if count is not None and sizes != (count, count):
        findings.refuse(
            f"{scan.name}: expected {count} b-values and b-vectors, one for each volume of the image, found {sizes[0]} "
            f"({table.bval_path.name}) and {sizes[1]} ({table.bvec_path.name}). Were volumes cut off or taken out, or "
            "do the files belong to another image? Give table and image the same volumes."
        )
    return table


def _without_table(scan: Scan) -> str:
    """Return what to do for an image that converters write no table for: a few volumes, none of them weighted."""
    few = scan.header is not None and scan.header.n_volumes < FEWEST_VOLUMES
    beside = scan.image.path.parent / f"{image_stem(scan.name)}{BVAL}"
    if not few or beside.exists():
        return ""
    return " If none of its volumes is diffusion-weighted, write zeros into both files, one for each volume."


def warn_echo_times(scans: Sequence[Scan], findings: Findings) -> None:
    """Tell of series with different echo times, whose signals differ by more than diffusion."""
    stated = [(scan.metadata.get("EchoTime"), scan.name) for scan in scans]
    known = sorted((float(time), name) for time, name in stated if is_number(time))
    if known and known[-1][0] - known[0][0] > SAME_ECHO_TIME * known[-1][0]:
        (low, first), (high, last) = known[0], known[-1]
        findings.warn(
            f"EchoTime differs between the series: {low:g} ({first}) and {high:g} s ({last}). Signals of different T2 "
            "weighting are taken together: if they are not meant to be, move one out of the data set."
        )
