"""Protocols of the simulated raw data: multi-parameter mapping at 3 T and the B1+ acquisitions beside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from voxcloud.errors import PlanError

MOST_ECHOES = 32
B1_METHODS = ("AFI", "SESTE", "DAM", "TFL", "RFM", "TB1map", "none")
B0_METHODS = ("phasediff", "epi")


@dataclass(frozen=True)
class ContrastProtocol:
    """One multi-echo FLASH acquisition."""

    flip_angle_deg: float
    repetition_time_s: float
    echo_times_s: tuple[float, ...]
    mt: bool = False

    def to_tree(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"echo_times_s": list(self.echo_times_s)}


def echo_train(count: int, first_s: float = 0.0023, spacing_s: float = 0.0023) -> tuple[float, ...]:
    """Return echo times in s, rounded to the microsecond."""
    return tuple(round(first_s + spacing_s * k, 6) for k in range(count))


DEFAULT_PROTOCOL: Mapping[str, ContrastProtocol] = {
    "MTw": ContrastProtocol(6.0, 0.0245, echo_train(6), mt=True),
    "PDw": ContrastProtocol(6.0, 0.0245, echo_train(8)),
    "T1w": ContrastProtocol(21.0, 0.0245, echo_train(8)),
}
"""Angles and repetition time as in whole-brain protocols at 3 T (Weiskopf 2013, doi:10.3389/fnins.2013.00095)."""


@dataclass(frozen=True)
class B1Protocol:
    """How each kind of B1+ acquisition is done."""

    afi_angle_deg: float = 60.0
    afi_repetition_times_s: tuple[float, float] = (0.05, 0.15)
    dam_angle_deg: float = 60.0
    dam_repetition_time_s: float = 10.0
    tfl_angle_deg: float = 90.0
    rfm_angle_deg: float = 90.0
    seste_angles_deg: tuple[float, ...] = tuple(float(a) for a in range(115, 60, -5))
    mixing_time_s: float = 0.0338
    spin_echo_time_s: float = 0.0371
    readout_s: float = 0.0243
    phase_encoding: str = "j"
    b0_echo_times_s: tuple[float, float] = (0.00492, 0.00738)


def check_protocol(protocol: Mapping[str, ContrastProtocol]) -> None:
    """Refuse a protocol that is not one of multi-parameter mapping, or has times in ms or angles in rad.

    Raises
    ------
    PlanError
        With what was expected and found.
    """
    if not {"PDw", "T1w"} <= set(protocol) <= {"MTw", "PDw", "T1w"}:
        raise PlanError(
            f"simulation: protocol is expected to have PDw and T1w, and MTw if wanted, found "
            f"{', '.join(sorted(protocol)) or 'nothing'}. Name the contrasts so."
        )
    for name, contrast in protocol.items():
        times = contrast.echo_times_s
        rising = all(b > a for a, b in itertools.pairwise(times))
        if not 1 <= len(times) <= MOST_ECHOES or not rising or times[0] <= 0:
            raise PlanError(
                f"simulation: {name} is expected to have 1 to {MOST_ECHOES} rising echo times in s, found {times}."
            )
        if not times[-1] < contrast.repetition_time_s <= 10.0:
            raise PlanError(
                f"simulation: {name} is expected to have a repetition time in s after the last echo "
                f"({times[-1]:g} s) and at most 10, found {contrast.repetition_time_s:g}. Divide ms by 1000."
            )
        if not 1.0 <= contrast.flip_angle_deg <= 90.0:
            raise PlanError(
                f"simulation: {name} is expected to have a flip angle of 1 to 90 degrees, found "
                f"{contrast.flip_angle_deg:g}. Convert rad with numpy.rad2deg."
            )
        if contrast.mt != (name == "MTw"):
            raise PlanError(f"simulation: {name} is expected to have mt={name == 'MTw'}, found {contrast.mt}.")
