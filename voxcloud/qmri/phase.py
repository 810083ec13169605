"""Phase images: their unit, told by the range of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError
from voxcloud.qmri.arrays import Float64, as_float64

# Rounding of stored values: a phase of pi in float32, or scaled from 16-bit integers, is a little above pi.
ROUNDING_RAD = 2e-3
FULL_SCALE = 4096.0
# An image in integer steps counts as such if its background noise fills its range; a field map in Hz does not.
LEAST_FILLED = 0.9


@dataclass(frozen=True)
class _Unit:
    """Lowest and highest possible value, and how to make rad of them."""

    lowest: float
    highest: float
    to_rad: Callable[[Float64], Float64]

    def holds(self, low: float, high: float) -> bool:
        return self.lowest <= low and high <= self.highest


UNITS = {
    "rad": _Unit(-2 * math.pi - ROUNDING_RAD, 2 * math.pi + ROUNDING_RAD, lambda v: v),
    "0-4095": _Unit(0.0, FULL_SCALE, lambda v: (v * 2.0 / FULL_SCALE - 1.0) * math.pi),
    "-4096-4095": _Unit(-FULL_SCALE, FULL_SCALE, lambda v: v / FULL_SCALE * math.pi),
}


def phase_in_rad(phase: npt.ArrayLike, units: str | None = None, *, name: str = "phase") -> tuple[Float64, str]:
    """Return a phase image in rad within [-pi, pi), and the unit it was in.

    Parameters
    ----------
    phase : 3-D phase, NaN where unknown: rad (-pi to pi, or 0 to 2 pi), 0 to 4095 (2048 is zero) or -4096 to 4095.
    units : one of ``UNITS`` if it is known; ``arbitrary`` (as in BIDS) or None let the range decide.
    name : what messages call the image.

    Raises
    ------
    ImageError
        If the range fits no unit, or not the one that was said.
    """
    values = as_float64(phase)
    check_grid(name, values)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ImageError(f"{name}: expected phase values, found none that are finite. Look at the image.")
    low, high = float(finite.min()), float(finite.max())
    unit = _unit_of_range(low, high) if units in (None, "arbitrary") else units
    if unit not in UNITS or not UNITS[unit].holds(low, high) or (unit == "rad" and high - low > _TURN):
        said = f" (said to be {units})" if units is not None else ""
        raise ImageError(
            f"{name}: expected a phase in rad (-pi to pi or 0 to 2 pi) or in steps that fill 0 to 4095 or -4096 to "
            f"4095, found values from {low:.4g} to {high:.4g}{said}. Is it a field map in Hz, or scaled otherwise? "
            "Convert it, or say its unit."
        )
    radians = UNITS[unit].to_rad(values)
    return np.mod(radians + math.pi, 2.0 * math.pi) - math.pi, unit


_TURN = 2.0 * math.pi + 2.0 * ROUNDING_RAD


def _unit_of_range(low: float, high: float) -> str:
    if high - low <= _TURN and UNITS["rad"].holds(low, high) and (low >= -ROUNDING_RAD or _within_pi(low, high)):
        return "rad"
    if low >= 0 and LEAST_FILLED * FULL_SCALE <= high <= FULL_SCALE:
        return "0-4095"
    filled = -low >= LEAST_FILLED * FULL_SCALE and high >= LEAST_FILLED * FULL_SCALE
    return "-4096-4095" if filled and UNITS["-4096-4095"].holds(low, high) else "none"


def _within_pi(low: float, high: float) -> bool:
    return -math.pi - ROUNDING_RAD <= low and high <= math.pi + ROUNDING_RAD


def check_grid(name: str, values: npt.ArrayLike, expected: tuple[int, ...] | None = None) -> None:
    """Refuse an image that is not three-dimensional, or not of the expected shape.

    Raises
    ------
    ImageError
        The message names the image.
    """
    found = np.shape(values)
    if len(found) != 3 or (expected is not None and found != expected):
        wanted = f"shape {expected}" if expected is not None else "three dimensions"
        raise ImageError(f"{name}: expected an image of {wanted}, found {found}. Give images on one grid.")
