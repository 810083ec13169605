"""Multi-parameter mapping in a raw BIDS data set: which sessions have it, and what was acquired in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from voxcloud.bids.acquisitions import B1Method, MpmSession
from voxcloud.bids.contrasts import read_contrasts
from voxcloud.bids.fieldmaps import B1_SUFFIXES, B1Choice, read_b1
from voxcloud.bids.protocol import Findings, read_scans
from voxcloud.bids.raw import (
    RawImage,
    SessionFiles,
    session_files,
    session_folder,
)
from voxcloud.bids.receive import SUFFIX as RECEIVE_SUFFIX
from voxcloud.bids.receive import read_receive
from voxcloud.bids.scanner import read_scanner
from voxcloud.bids.series import magnitudes
from voxcloud.bids.sidecars import Metadata
from voxcloud.bids.visits import Wanted, find_visits

SUFFIX = "MPM"
OURS = (SUFFIX, RECEIVE_SUFFIX, *B1_SUFFIXES.values())
"""Suffixes of images that belong to multi-parameter mapping and nothing else."""

_WANTED = Wanted("anat", SUFFIX, f"Multi-echo FLASH with PD, T1 and MT weighting has the suffix {SUFFIX} in BIDS.")


def find_sessions(
    root: str | Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return (participant, session) of every session with ``anat/*_MPM.nii[.gz]``; see ``visits.find_visits``."""
    return find_visits(root, _WANTED, participants, sessions)


def read_mpm(
    metadata: Metadata,
    participant_id: str,
    session_id: str,
    *,
    b1: Literal["auto"] | B1Method = "auto",
    missing_b1: Literal["stop", "semi-quantitative"] = "stop",
    missing_b0: Literal["stop", "skip"] = "stop",
    receive: Literal["auto", "none"] = "auto",
    run: str | None = None,
) -> MpmSession:
    """Read what was acquired in a session: series by contrast, B1 and receive fields, scanner; units checked.

    Files are put together by their entities and their sidecars, never by their order. Headers are read, voxels are not.

    Parameters
    ----------
    metadata
        Of the data set.
    participant_id, session_id
        Bare labels; the session's is empty where there are no session folders.
    b1
        Which B1+ acquisition to take; ``auto``: the one that is there.
    missing_b1
        Whether a session without B1+ is refused or read without it.
    missing_b0
        Whether SE/STE without a field map is refused or read without it.
    receive
        ``none``: receive sensitivities (RB1COR) are not looked at.
    run
        Which run to take where there are several.

    Raises
    ------
    BidsError
        With every problem of the session: each names it, the file, what was expected and found, and what to do.
    """
    findings = Findings(f"sub-{participant_id}" + (f"_ses-{session_id}" if session_id else ""))
    files = session_files(metadata.root, participant_id, session_id)
    images = [image for image in files.images if _belongs(image, participant_id, session_id, findings)]
    echoes = _with_suffix(images, "anat", (SUFFIX,))
    if not echoes:
        folder = session_folder(metadata.root, participant_id, session_id) / "anat"
        findings.refuse(
            f"expected images *_{SUFFIX}.nii[.gz] in {metadata.relative(folder)}, found none. Check the labels, or "
            "leave the session out."
        )
        findings.stop()
    scans = read_scans(metadata, magnitudes(echoes, findings), findings)
    series = read_contrasts(scans, run, findings)
    fmaps = [image for image in images if image.datatype == "fmap"]
    choice = B1Choice(b1, missing_b1, missing_b0, run)
    transmit = read_b1(metadata, fmaps, choice, findings)
    pairs = _with_suffix(fmaps, "fmap", (RECEIVE_SUFFIX,)) if receive == "auto" else []
    sensitivities = read_receive(read_scans(metadata, magnitudes(pairs, findings), findings), series, run, findings)
    taken = {echo.path for found in series.values() for echo in found.echoes}
    scanner = read_scanner([scan for scan in scans if scan.path in taken], findings)
    _warn_misnamed(files, findings)
    findings.stop()
    return MpmSession(participant_id, session_id, series, transmit, sensitivities, scanner, tuple(findings.warnings))


def _with_suffix(images: Sequence[RawImage], datatype: str, suffixes: Sequence[str]) -> list[RawImage]:
    return [image for image in images if image.datatype == datatype and image.suffix in suffixes]


def _belongs(image: RawImage, participant: str, session: str, findings: Findings) -> bool:
    """Say whether an image carries its session's labels; refuse one of ours that was put into another's folder."""
    if (image.entity("sub"), image.entity("ses")) == (participant, session):
        return True
    if image.suffix in OURS:
        findings.refuse(
            f"{image.name}: expected {findings.who} in the name, found another session's in its folder. "
            "Rename or move the file."
        )
    return False


def _warn_misnamed(files: SessionFiles, findings: Findings) -> None:
    """Tell of images that look like ours and cannot be: their names are not BIDS, or they lie in another folder."""
    for path in files.misnamed:
        stem = path.name.split(".")[0]
        if any(suffix.lower() in stem.lower() for suffix in OURS):
            findings.warn(
                f"{path.name} is not used: names are sub-<label>_[ses-<label>_][acq-<label>_]..._{SUFFIX}.nii.gz, with "
                "labels of letters and digits."
            )
    for image in files.images:
        place = "anat" if image.suffix == SUFFIX else "fmap"
        if image.suffix in OURS and image.datatype != place:
            findings.warn(f"{image.name} is not used: it is expected in {place}, found in {image.datatype}.")
