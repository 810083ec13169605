"""B1+ by spin and stimulated echoes of 3D-EPI (BIDS ``TB1EPI``) from files and sidecars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from voxcloud.bids.acquisitions import B1Acquisition
from voxcloud.bids.b0 import find_b0, phase_encoding, readout_time
from voxcloud.bids.grids import check_grids
from voxcloud.bids.protocol import (
    ECHO_TIME,
    MIXING_TIME,
    SAME_VALUE,
    SESTE_FLIP_ANGLE,
    Findings,
    Scan,
    names,
    read_number,
    shared_number,
)
from voxcloud.bids.raw import RawImage
from voxcloud.bids.sidecars import Metadata

# The fit takes the five pairs of highest spin echo in each voxel.
FEWEST_ANGLES = 5
SPIN_ECHO, STIMULATED_ECHO = "1", "2"


def read_seste(
    metadata: Metadata,
    name: str,
    scans: Sequence[Scan],
    fmaps: Sequence[RawImage],
    missing_b0: Literal["stop", "skip"],
    findings: Findings,
) -> B1Acquisition | None:
    """Read pairs of spin echo (``echo-1``) and stimulated echo (``echo-2``), one pair per flip angle.

    ``FlipAngle`` is the nominal angle of the stimulated echo's pulse; the spin echo's is twice that.
    """
    known = len(findings.problems)
    pairs = _pairs(name, scans, findings)
    angles = _angles(name, pairs, findings)
    mixing = shared_number(name, scans, MIXING_TIME, findings)
    check_grids(name, scans, findings)
    _check_echo_times(name, pairs, findings)
    b0 = find_b0(metadata, fmaps, scans, missing_b0, findings)
    parameters: dict[str, object] = {}
    if b0 is not None:  # without it the images are not unwarped, and nothing of this is needed
        parameters = {
            "readout_s": readout_time(name, scans, findings),
            "phase_encoding": phase_encoding(name, scans, findings),
        }
    if len(findings.problems) > known or mixing is None:
        return None
    order = sorted(range(len(pairs)), key=lambda k: -angles[k])
    images = {}
    for place, k in enumerate(order, start=1):
        images[f"se-{place:02d}"], images[f"ste-{place:02d}"] = (scan.path for scan in pairs[k])
    parameters |= {"flip_angle_deg": [angles[k] for k in order], "mixing_time_s": mixing}
    return B1Acquisition("SESTE", images, parameters, b0)


def _pairs(name: str, scans: Sequence[Scan], findings: Findings) -> list[tuple[Scan, Scan]]:
    flips: dict[str, dict[str, Scan]] = {}
    for scan in scans:
        flip, echo = scan.entity("flip"), scan.entity("echo").lstrip("0")
        if not flip or echo not in (SPIN_ECHO, STIMULATED_ECHO):
            findings.refuse(
                f"{scan.name}: expected flip-<n> and echo-1 (spin echo) or echo-2 (stimulated echo) in the name. "
                "Rename the file."
            )
        else:
            flips.setdefault(flip.lstrip("0") or "0", {})[echo] = scan
    pairs = []
    for pair in flips.values():
        if len(pair) == 2:
            pairs.append((pair[SPIN_ECHO], pair[STIMULATED_ECHO]))
        else:
            (echo, scan), *_ = pair.items()
            other = "echo-2 (stimulated echo)" if echo == SPIN_ECHO else "echo-1 (spin echo)"
            findings.refuse(
                f"{scan.name}: expected {other} of the same flip angle, found none. Restore it, or remove both."
            )
    if pairs and len(pairs) < FEWEST_ANGLES:
        findings.refuse(
            f"{name}: expected at least {FEWEST_ANGLES} flip angles, found {len(pairs)}. Restore the others."
        )
    return pairs


def _angles(name: str, pairs: Sequence[tuple[Scan, Scan]], findings: Findings) -> list[float]:
    flat = [scan for pair in pairs for scan in pair]
    values = read_number(name, flat, SESTE_FLIP_ANGLE, findings) if flat else []
    angles = []
    for k, pair in enumerate(pairs):
        first, second = values[2 * k], values[2 * k + 1]
        if first is None or second is None:
            continue
        if abs(first - second) > SAME_VALUE * first:
            findings.refuse(
                f"{names(pair)}: expected one FlipAngle for both echoes (that of the stimulated echo's pulse), found "
                f"{first:g} and {second:g} degrees. Correct the sidecars."
            )
        angles.append(first)
    if len(set(angles)) < len(angles):
        twice = next(a for a in angles if angles.count(a) > 1)
        findings.refuse(f"{name}: expected each flip angle once, found {twice:g} degrees twice. Correct the sidecars.")
    return angles


def _check_echo_times(name: str, pairs: Sequence[tuple[Scan, Scan]], findings: Findings) -> None:
    """Refuse pairs in which the spin echo comes after the stimulated echo: they were exchanged."""
    stated = [p for p in pairs if all(scan.metadata.get("EchoTime") is not None for scan in p)]
    for pair in stated:
        first, second = read_number(name, pair, ECHO_TIME, findings)
        if first is not None and second is not None and first >= second:
            findings.refuse(
                f"{names(pair)}: expected a shorter EchoTime for echo-1 (spin echo) than for echo-2 (stimulated echo), "
                f"found {first:g} and {second:g} s. Were the two exchanged?"
            )
            return
