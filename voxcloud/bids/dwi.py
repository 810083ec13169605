"""Diffusion in a raw BIDS data set: which sessions have it, and what was acquired in each."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from voxcloud.bids.acquisitions import B0Acquisition
from voxcloud.bids.b0 import find_b0
from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.bids.dwi_series import (
    AXIS,
    DIRECTION,
    FoundDwi,
    check_phase_encoding,
    choose_images,
    read_dwi_series,
    states_readout,
    warn_echo_times,
    warn_partial_fourier,
)
from voxcloud.bids.epi_halves import EpiHalf, pair_halves, pair_in_fmap
from voxcloud.bids.grids import check_places
from voxcloud.bids.protocol import Findings, names, read_scans, refuse_missing
from voxcloud.bids.raw import RawImage, image_stem, listed, parse_image_name, session_files, session_folder
from voxcloud.bids.scanner import read_scanner
from voxcloud.bids.series import magnitudes
from voxcloud.bids.sidecars import Metadata
from voxcloud.bids.visits import Wanted, find_visits

DATATYPE = SUFFIX = "dwi"
B0_SETTING = "dwi.missing_b0"
READOUT = "TotalReadoutTime or EffectiveEchoSpacing"

_WANTED = Wanted(DATATYPE, SUFFIX, f"Diffusion images have the suffix {SUFFIX} in BIDS.")


def find_dwi_sessions(
    root: str | Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return (participant, session) of every session with ``dwi/*_dwi.nii[.gz]``; see ``visits.find_visits``."""
    return find_visits(root, _WANTED, participants, sessions)


def read_dwi(
    metadata: Metadata,
    participant_id: str,
    session_id: str,
    *,
    missing_b0: Literal["stop", "skip"] = "stop",
    run: str | None = None,
) -> DwiSession:
    """Read what was acquired in a session: series with gradient tables, field map, scanner; units checked.

    All magnitude images of the session are taken together and must have one grid. Headers and tables are read, voxels
    are not; whether a table can be what was measured is checked elsewhere (``voxcloud.dwi.gradients``).

    The field map is a pair of the series themselves where two of opposite phase encoding have volumes without diffusion
    weighting; else the one in ``fmap`` that sidecars link to a series, which may be a single epi that opposes it.

    Parameters
    ----------
    metadata
        Of the data set.
    participant_id, session_id
        Bare labels; the session's is empty where there are no session folders.
    missing_b0
        Whether a session without a field map is refused or read without it.
    run
        Which run to take where there are several of one acquisition; ``all`` takes them together.

    Raises
    ------
    BidsError
        With every problem of the session: each names it, the file, what was expected and found, and what to do.
    """
    findings = Findings(f"sub-{participant_id}" + (f"_ses-{session_id}" if session_id else ""))
    folder = session_folder(metadata.root, participant_id, session_id) / DATATYPE
    others = session_files(metadata.root, participant_id, session_id)
    _warn_misplaced(folder, others.images, findings)
    images = _magnitudes(_images(folder, participant_id, session_id, findings), findings)
    if not images:
        if not findings.problems:
            findings.refuse(
                f"expected images *_{SUFFIX}.nii[.gz] with magnitudes in {metadata.relative(folder)}, found none. "
                "Check the labels, or leave the session out."
            )
        findings.stop()
    scans = read_scans(metadata, choose_images(images, run, findings), findings)
    found = [read_dwi_series(metadata.root, scan, findings) for scan in scans]
    check_phase_encoding(found, findings)
    check_places(
        "diffusion",
        scans,
        findings,
        "Images of a session are taken together on one grid: move those that are not meant out of the data set.",
    )
    fmaps = [i for i in others.images if i.datatype == "fmap" and _labels(i) == (participant_id, session_id)]
    b0 = _field_map(metadata, found, fmaps, missing_b0, findings)
    scanner = read_scanner(scans, findings)
    warn_partial_fourier(found, findings)
    warn_echo_times(scans, findings)
    findings.stop()
    series = tuple(one.series() for one in found)
    return DwiSession(participant_id, session_id, series, b0, scanner, tuple(findings.warnings))


def _labels(image: RawImage) -> tuple[str, str]:
    return image.entity("sub"), image.entity("ses")


def _images(folder: Path, participant: str, session: str, findings: Findings) -> list[RawImage]:
    """Return the diffusion images of a session's folder; refuse those of another session."""
    found = []
    for path in listed(folder):
        stem = image_stem(path.name)
        parsed = parse_image_name(path.name)
        if stem is not None and parsed is None and SUFFIX in stem.lower():
            findings.warn(
                f"{path.name} is not used: names are sub-<label>_[ses-<label>_][acq-<label>_][dir-<label>_]"
                f"[run-<label>_]{SUFFIX}.nii.gz, with labels of letters and digits."
            )
        if parsed is None or parsed[1] != SUFFIX:
            continue
        image = RawImage(path, DATATYPE, *parsed)
        if _labels(image) == (participant, session):
            found.append(image)
        else:
            findings.refuse(
                f"{image.name}: expected {findings.who} in the name, found another session's in its folder. Rename or "
                "move the file."
            )
    return found


def _warn_misplaced(folder: Path, others: Sequence[RawImage], findings: Findings) -> None:
    for image in others:
        if image.suffix == SUFFIX:
            findings.warn(f"{image.name} is not used: it is expected in {folder.name}, found in {image.datatype}.")


def _magnitudes(images: Sequence[RawImage], findings: Findings) -> list[RawImage]:
    phases = [image for image in images if image.entity("part") == "phase"]
    if phases:
        findings.warn(f"{names(phases)}: phase images are not used; diffusion is measured by magnitudes.")
    return magnitudes(images, findings)


def _field_map(
    metadata: Metadata,
    found: Sequence[FoundDwi],
    fmaps: Sequence[RawImage],
    missing_b0: Literal["stop", "skip"],
    findings: Findings,
) -> B0Acquisition | None:
    """Return the session's field map; None where there is none or something is wrong, which is told."""
    known = len(findings.problems)
    halves = [one.half for one in found]
    pair = _own_pair(halves)
    if pair is not None:
        b0 = pair_halves(" and ".join(half.scan.name for half in pair), pair, findings)
    else:
        epis = [one.scan for one in found]
        read_epi = functools.partial(pair_in_fmap, halves)
        b0 = find_b0(metadata, fmaps, epis, missing_b0, findings, setting=B0_SETTING, read_epi=read_epi)
    if len(findings.problems) > known:
        return None
    unsigned = [one.scan for one in found if one.direction is None and one.axis is not None]
    if b0 is None:
        _check_without(halves, findings)
        if unsigned:
            findings.warn(
                f"{names(unsigned)}: {AXIS} is known and {DIRECTION} is not: eddy currents are corrected along the "
                "axis."
            )
        return None
    if unsigned:
        refuse_missing(names(unsigned), unsigned, (DIRECTION,), findings)
    silent = [one.scan for one in found if one.readout_s is None and not states_readout(one.scan)]
    if silent:
        refuse_missing(names(silent), silent, (READOUT,), findings)
    return b0


def _own_pair(halves: Sequence[EpiHalf]) -> tuple[EpiHalf, EpiHalf] | None:
    """Return two series of opposite phase encoding, of one acquisition if possible, with volumes to compare."""
    usable = [half for half in halves if half.volumes]
    pairs = [pair for pair in itertools.combinations(usable, 2) if pair[0].opposes(pair[1])]
    alike = [(p, q) for p, q in pairs if p.scan.image.without("dir", "run") == q.scan.image.without("dir", "run")]
    return next(iter(alike or pairs), None)


def _check_without(halves: Sequence[EpiHalf], findings: Findings) -> None:
    """Refuse series of different phase encoding without a field map: they are distorted differently."""
    directions = sorted({half.direction for half in halves if half.direction is not None})
    if len(directions) > 1:
        findings.refuse(
            f"{names(half.scan for half in halves)}: expected a field map for series of different {DIRECTION} "
            f"({', '.join(directions)}), which are distorted differently, found none. Link one, or move the series of "
            "all but one direction out of the data set."
        )
