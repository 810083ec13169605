"""Whether images have one grid: size and place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxcloud.bids.nifti import SAME_PLACE_MM, corner_distance
from voxcloud.bids.protocol import Findings, Scan


def check_places(group: str, scans: Sequence[Scan], findings: Findings, advice: str) -> None:
    """Check that images have the size and the place of the first, however many volumes they have.

    Every image that has not is told by its name. Those whose header could not be read are passed over.

    Parameters
    ----------
    group
        What the images have in common, for messages.
    advice
        What to do, a sentence or more.
    """
    headers = [scan.header for scan in scans if scan.header is not None]
    for header in headers[1:]:
        first = headers[0]
        both = f"{Path(first.path).name} and {Path(header.path).name}"
        if header.shape != first.shape:
            sizes = [" x ".join(map(str, each.shape)) for each in (first, header)]
            findings.refuse(
                f"{group}: expected images of one size, found {sizes[0]} and {sizes[1]} voxels ({both}). {advice}"
            )
            continue
        apart = corner_distance(first.affine, header.affine, first.shape)
        if apart > SAME_PLACE_MM:
            findings.refuse(
                f"{group}: expected images in one place, found corners {apart:.3g} mm apart ({both}). {advice}"
            )


def check_grids(group: str, scans: Sequence[Scan], findings: Findings, advice: str = "Convert them again.") -> None:
    """Check that images have one volume each, one size and one place."""
    for scan in scans:
        if scan.header is not None and scan.header.n_volumes != 1:
            findings.refuse(
                f"{scan.name}: expected one volume, found {scan.header.n_volumes}. Split it into one file per volume."
            )
    check_places(group, scans, findings, advice)
