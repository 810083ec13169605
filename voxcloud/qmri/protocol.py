"""What was acquired: flip angle, repetition time and echo times of a FLASH series, with units checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError, VoxcloudError
from voxcloud.qmri.arrays import check_shapes

# Of FLASH for mapping R2*: below the least, dead times of the scanner; above the largest, milliseconds.
ECHO_TIME_RANGE_S = (1e-5, 0.2)
LONGEST_REPETITION_TIME_S = 10.0
FEWEST_ECHOES = 2
ADVISED_ECHOES = 6

FEW_ECHOES = "R2* from so few echoes is imprecise"
LARGE_ANGLE = "unusually large for FLASH"


class ProtocolError(VoxcloudError, ValueError):
    """A flip angle, repetition time or echo time is impossible, most often because of its unit."""


@dataclass(frozen=True)
class Excitation:
    """How the spins of one contrast are excited.

    Attributes
    ----------
    name : the contrast, e.g. ``PDw``; messages name it.
    flip_angle_rad : nominal flip angle in rad.
    repetition_time_s : time between excitations in s.

    Raises
    ------
    ProtocolError
        If the flip angle is not in (0, pi] or the repetition time not in (0, 10 s].

    Warns
    -----
    UserWarning
        If the flip angle is above pi / 2: degrees below pi would pass as rad.
    """

    name: str
    flip_angle_rad: float
    repetition_time_s: float

    def __post_init__(self) -> None:
        angle, repetition = self.flip_angle_rad, self.repetition_time_s
        if not 0 < angle <= math.pi:
            raise ProtocolError(
                f"{self.name}: expected a flip angle in rad, above 0 and at most pi, found {angle:g}. "
                f"{angle:g} where {math.radians(angle):.4g} is meant? Convert degrees with math.radians."
            )
        if angle > math.pi / 2:
            warnings.warn(
                f"{self.name}: flip angle of {angle:g} rad ({math.degrees(angle):.0f} degrees), {LARGE_ANGLE}. "
                "Check that it is not in degrees.",
                UserWarning,
                stacklevel=3,
            )
        if not 0 < repetition <= LONGEST_REPETITION_TIME_S:
            raise ProtocolError(
                f"{self.name}: expected a repetition time in s, above 0 and at most {LONGEST_REPETITION_TIME_S:g}, "
                f"found {repetition:g}. {repetition:g} where {repetition / 1000:g} is meant? Divide "
                f"milliseconds by 1000."
            )

    def describe(self) -> dict[str, Any]:
        """Return a plain record (JSON)."""
        return {"flip_angle_rad": self.flip_angle_rad, "repetition_time_s": self.repetition_time_s}


@dataclass(frozen=True)
class SeriesProtocol:
    """How one multi-echo FLASH series was acquired, without its images.

    Attributes
    ----------
    name : e.g. ``MTw``, ``PDw``, ``T1w``.
    echo_time_s : echo time of each image in s, in any order.
    flip_angle_rad, repetition_time_s : as in ``Excitation``.

    Raises
    ------
    ProtocolError
        If there are fewer than two echoes, an echo time is twice there or in another unit, or the repetition time ends
        before the last echo.

    Warns
    -----
    UserWarning
        If there are fewer than six echoes.
    """

    name: str
    echo_time_s: Sequence[float]
    flip_angle_rad: float
    repetition_time_s: float

    def __post_init__(self) -> None:
        check_echo_times(self.name, self.echo_time_s, len(self.echo_time_s))
        last = max(self.echo_time_s)
        if 0 < self.repetition_time_s <= last:
            raise ProtocolError(
                f"{self.name}: expected a repetition time longer than the last echo time ({last:g} s), found "
                f"{self.repetition_time_s:g} s. Check both; they are in seconds."
            )
        _ = self.excitation  # its own checks

    @cached_property  # made once: it warns
    def excitation(self) -> Excitation:
        """Flip angle and repetition time."""
        return Excitation(self.name, self.flip_angle_rad, self.repetition_time_s)

    def describe(self) -> dict[str, Any]:
        """Return a plain record (JSON)."""
        return self.excitation.describe() | {"echo_time_s": [float(t) for t in self.echo_time_s]}


@dataclass(frozen=True)
class Contrast:
    """One multi-echo FLASH series with its images.

    Attributes
    ----------
    name : e.g. ``MTw``, ``PDw``, ``T1w``.
    echoes : one magnitude image per echo, of one shape; an array with the echoes first will do. Arbitrary units.
    echo_time_s : echo time of each in s, in any order.
    flip_angle_rad, repetition_time_s : as in ``Excitation``.
    receive_sensitivity : sensitivity of the receiving coil during this series (``receive.receive_sensitivity``), of the
        shape of an echo; None for no correction.

    Raises
    ------
    ProtocolError
        If an echo time is missing, or the protocol is impossible (``SeriesProtocol``).
    ImageError
        If the images differ in shape.

    Warns
    -----
    UserWarning
        If there are fewer than six echoes.
    """

    name: str
    echoes: Sequence[npt.ArrayLike] = field(repr=False)
    echo_time_s: Sequence[float]
    flip_angle_rad: float
    repetition_time_s: float
    receive_sensitivity: npt.ArrayLike | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_number_of_echoes(self.name, self.echo_time_s, len(self.echoes))
        _ = self.protocol  # its own checks
        if np.ndim(self.echoes[0]) == 0:
            raise ImageError(f"{self.name}: expected one image per echo, found single numbers. Give arrays.")
        check_shapes(self.shape, ((f"{self.name} echo {i + 1}", echo) for i, echo in enumerate(self.echoes)))
        if self.receive_sensitivity is not None:
            check_shapes(self.shape, [(f"{self.name} receive sensitivity", self.receive_sensitivity)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return np.shape(self.echoes[0])

    @cached_property  # made once: it warns
    def protocol(self) -> SeriesProtocol:
        """The series without its images."""
        return SeriesProtocol(self.name, self.echo_time_s, self.flip_angle_rad, self.repetition_time_s)

    @property
    def excitation(self) -> Excitation:
        """Flip angle and repetition time."""
        return self.protocol.excitation


def check_number_of_echoes(name: str, echo_time_s: Sequence[float], n_echoes: int) -> None:
    """Check that there is an echo time for each image.

    Raises
    ------
    ProtocolError
        If there is not.
    """
    if len(echo_time_s) != n_echoes:
        raise ProtocolError(
            f"{name}: expected an echo time for each of {n_echoes} echoes, found {len(echo_time_s)}. "
            "Give one per image, in the order of the images."
        )


def check_echo_times(name: str, echo_time_s: Sequence[float], n_echoes: int) -> None:
    """Check the echo times of one contrast.

    Raises
    ------
    ProtocolError
        If there are too few, not one per echo, two equal ones, or one that cannot be in seconds.

    Warns
    -----
    UserWarning
        If there are fewer than six.
    """
    check_number_of_echoes(name, echo_time_s, n_echoes)
    if n_echoes < FEWEST_ECHOES:
        raise ProtocolError(
            f"{name}: R2* needs at least {FEWEST_ECHOES} echoes, found {n_echoes}. Add the others or leave it out."
        )
    low, high = ECHO_TIME_RANGE_S
    for t in echo_time_s:
        if not low <= t <= high:
            small = t < low
            instead = t * 1000 if small else t / 1000
            advice = "Echo times are in seconds." if small else "Divide milliseconds by 1000."
            raise ProtocolError(
                f"{name}: expected echo times in s, {low:g} to {high:g}, found {t:g}. "
                f"{t:g} where {instead:g} is meant? {advice}"
            )
    if len(set(echo_time_s)) < n_echoes:
        raise ProtocolError(
            f"{name}: expected different echo times, found {', '.join(f'{t:g}' for t in sorted(echo_time_s))} s. "
            "Is an echo there twice?"
        )
    if n_echoes < ADVISED_ECHOES:
        warnings.warn(
            f"{name}: {n_echoes} echoes; {FEW_ECHOES} (at least {ADVISED_ECHOES} are advised).",
            UserWarning,
            stacklevel=4,
        )


def check_pair(pdw: Excitation, t1w: Excitation) -> None:
    """Check that two excitations weight T1 differently.

    Raises
    ------
    ProtocolError
        If flip angle and repetition time of both are the same: R1 then cancels out.
    """
    if (pdw.flip_angle_rad, pdw.repetition_time_s) == (t1w.flip_angle_rad, t1w.repetition_time_s):
        raise ProtocolError(
            f"{pdw.name} and {t1w.name}: expected different flip angles or repetition times, found "
            f"{pdw.flip_angle_rad:g} rad and {pdw.repetition_time_s:g} s for both: they hold no information on R1. "
            "Check which series is which."
        )
