"""The static field from EPI series of opposite phase encoding: which belong together, and which volumes compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxcloud.bids.acquisitions import B0Acquisition
from voxcloud.bids.b0 import phase_encoding, readout_time
from voxcloud.bids.bvals import BVAL, read_bvals
from voxcloud.bids.dwi_acquisitions import LARGEST_B0
from voxcloud.bids.grids import check_places
from voxcloud.bids.protocol import SAME_VALUE, Findings, Scan, names
from voxcloud.bids.raw import image_stem
from voxcloud.errors import BidsError

# Of the readout time, between the halves of a pair: the field is off by half of it.
SAME_READOUT = 0.02


@dataclass(frozen=True)
class EpiHalf:
    """An EPI series as one half of a pair of opposite phase encoding.

    Attributes
    ----------
    direction
        Its PhaseEncodingDirection; None where that is not known, which was told.
    volumes
        0-based volumes without diffusion weighting, which can be compared with the other half's.
    """

    scan: Scan
    direction: str | None
    volumes: tuple[int, ...]

    def opposes(self, other: EpiHalf) -> bool:
        """Say whether phase is encoded along one axis in opposite directions."""
        directions = {self.direction, other.direction}
        return any(directions == {axis, f"{axis}-"} for axis in "ijk")


def pair_in_fmap(own: Sequence[EpiHalf], members: Sequence[Scan], findings: Findings) -> B0Acquisition | None:
    """Return a field map from the epi of ``fmap`` that are linked to an acquisition; None where that fails (told).

    Two images of opposite phase encoding are a pair; a single one is paired with the first of the acquisition's own
    that opposes it. Images may have several volumes; b-values beside them tell which are not weighted.

    Parameters
    ----------
    own
        The acquisition's images, as halves of a pair.
    """
    known = len(findings.problems)
    halves = [
        EpiHalf(scan, phase_encoding(scan.name, [scan], findings), _unweighted(scan, findings)) for scan in members
    ]
    if len(findings.problems) > known:
        return None
    if len(halves) == 1:
        unsigned = [half.scan for half in own if half.direction is None]
        if unsigned:
            findings.refuse(
                f"{names(unsigned)}: expected a PhaseEncodingDirection with its sign (such as j or j-), which tells "
                f"whether {halves[0].scan.name} is its counterpart, found none. Convert the images again with "
                "dcm2niix, or write it into the sidecar."
            )
            return None
        opposite = [half for half in own if half.opposes(halves[0])]
        usable = [half for half in opposite if half.volumes]
        if opposite and not usable:
            findings.refuse(
                f"{names(half.scan for half in opposite)}: expected a volume with b at most {LARGEST_B0:g} s/mm2 to "
                f"compare with {halves[0].scan.name}, found none. Link a pair of epi, or another field map."
            )
            return None
        halves += usable[:1] or own[:1]
    check_places(names(members), [half.scan for half in halves], findings, "Link a pair that was acquired alike.")
    return pair_halves(names(members), halves, findings) if len(findings.problems) == known else None


def pair_halves(group: str, halves: Sequence[EpiHalf], findings: Findings) -> B0Acquisition | None:
    """Return a field map from two series of opposite phase encoding; None where they are no pair, which is told.

    ``parameters`` holds ``volumes`` beside what a pair of single images has: role to a list of 0-based volumes. Grids
    are not compared here.

    Parameters
    ----------
    group
        The pair, for messages.
    """
    signs = {str(half.direction)[1:]: half for half in halves}
    if len(halves) != 2 or not halves[0].opposes(halves[1]):
        listed = ", ".join(f"{half.scan.name} ({half.direction})" for half in halves)
        findings.refuse(
            f"{group}: expected two images of opposite PhaseEncodingDirection, found {listed}. Link one pair."
        )
        return None
    pair = (signs[""], signs["-"])
    first, second = (readout_time(half.scan.name, [half.scan], findings) for half in pair)
    if first is None or second is None:
        return None
    apart = abs(first - second) / max(first, second)
    if apart > SAME_READOUT:
        findings.refuse(
            f"{group}: expected one total readout time for both halves of a pair within {SAME_READOUT:.0%}, found "
            f"{first:g} s ({pair[0].scan.name}) and {second:g} s ({pair[1].scan.name}). Link a pair that was acquired "
            "alike, or correct the sidecars."
        )
        return None
    if apart > SAME_VALUE:
        findings.warn(
            f"{group}: total readout times of a pair differ: {first:g} s ({pair[0].scan.name}) and {second:g} s "
            f"({pair[1].scan.name}); the field is computed with their mean."
        )
    readout = round((first + second) / 2, 9) if apart > SAME_VALUE else min(first, second)
    roles = dict(zip(("positive", "negative"), pair, strict=True))
    return B0Acquisition(
        "epi",
        {role: half.scan.path for role, half in roles.items()},
        {
            "readout_s": readout,
            "phase_encoding": str(pair[0].direction),
            "volumes": {role: list(half.volumes) for role, half in roles.items()},
        },
    )


def _unweighted(scan: Scan, findings: Findings) -> tuple[int, ...]:
    """Return the volumes of an epi without diffusion weighting: all, unless b-values beside it say otherwise."""
    count = scan.header.n_volumes if scan.header is not None else 1
    beside = scan.image.path.parent / f"{image_stem(scan.name)}{BVAL}"
    if not beside.is_file():
        return tuple(range(count))
    try:
        bvals, _ = read_bvals(beside)
    except BidsError as error:
        for text in error.problems:
            findings.refuse(text)
        return ()
    if bvals.size != count:
        findings.refuse(
            f"{scan.name}: expected {count} b-values, one for each volume, found {bvals.size} in {beside.name}. Give "
            "table and image the same volumes, or remove the file if all volumes have b = 0."
        )
        return ()
    found = tuple(k for k, value in enumerate(bvals.tolist()) if value <= LARGEST_B0)
    if not found:
        findings.refuse(
            f"{scan.name}: expected a volume with b at most {LARGEST_B0:g} s/mm2, found none in {beside.name}. Link an "
            "image that has one."
        )
    return found
