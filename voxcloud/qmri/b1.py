"""The transmit field B1+ as the ratio of actual to nominal flip angle, from each kind of acquisition but SE/STE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError
from voxcloud.qmri.arrays import Floats, as_float64, check_b1, result_dtype
from voxcloud.qmri.protocol import ProtocolError

# How scanners store what they computed themselves.
TFL_UNITS_PER_DEGREE = 10.0
RF_MAP_ZERO = 2048.0
RF_MAP_DEGREES_AT_FULL_SCALE = 180.0


def b1_from_afi(
    s_short: npt.ArrayLike,
    s_long: npt.ArrayLike,
    flip_angle_rad: float,
    repetition_times_s: tuple[float, float],
    *,
    t1_s: float | None = None,
) -> Floats:
    """Return B1 by actual flip-angle imaging (BIDS ``TB1AFI``).

    ``r = S2 / S1``, ``n = TR2 / TR1``, ``cos(a) = (r n - 1) / (n - r)``, B1 = a / nominal. To first order in TR / T1;
    at 3 T it underestimates B1 by .2 to .8 % (TR of 50 and 150 ms). With a T1 the steady state is solved as it is:
    ``cos(a) = (1 - E1 - r (1 - E2)) / (r (1 - E1) E2 - (1 - E2) E1)``, ``E = exp(-TR / T1)``.

    Parameters
    ----------
    s_short, s_long : signals after the shorter (TR1) and the longer (TR2) repetition time.
    flip_angle_rad : nominal flip angle in rad.
    repetition_times_s : TR1 and TR2 in s.
    t1_s : T1 in s to allow for relaxation, 1.2 for the brain at 3 T (a T1 off by a third leaves half of the error
        at most); None is the published first order.

    Returns
    -------
    ratio; NaN where no angle gives the signals.

    Raises
    ------
    ProtocolError
        If the flip angle is not in rad or TR2 is not longer than TR1.
    ImageError
        If the images differ in shape.

    References
    ----------
    Yarnykh (2007), doi:10.1002/mrm.21120.
    """
    _check_angle("AFI", flip_angle_rad)
    short, long = repetition_times_s
    if not 0 < short < long:
        raise ProtocolError(f"AFI: expected 0 < TR1 < TR2, found {short:g} and {long:g} s. Are the two in this order?")
    _check_pair("AFI", s_short, s_long)
    if t1_s is not None and not 0.05 <= t1_s <= 20.0:
        raise ProtocolError(f"AFI: expected a T1 in s, .05 to 20, found {t1_s:g}. Divide milliseconds by 1000.")
    n = long / short
    with np.errstate(all="ignore"):
        r = as_float64(s_long) / as_float64(s_short)
        if t1_s is None:
            angle = np.arccos((r * n - 1.0) / (n - r))
        else:
            e1, e2 = np.exp(-short / t1_s), np.exp(-long / t1_s)
            angle = np.arccos((1.0 - e1 - r * (1.0 - e2)) / (r * (1.0 - e1) * e2 - (1.0 - e2) * e1))
    return np.asarray(angle / flip_angle_rad, dtype=result_dtype(s_short, s_long))


def b1_from_double_angle(s_single: npt.ArrayLike, s_double: npt.ArrayLike, flip_angle_rad: float) -> Floats:
    """Return B1 by the double-angle method (BIDS ``TB1DAM``): ``a = acos(S_2a / (2 S_a))``, B1 = a / nominal.

    Holds for full relaxation between excitations.

    Parameters
    ----------
    s_single, s_double : signals of the flip angle and of its double.
    flip_angle_rad : the smaller nominal flip angle in rad.

    Returns
    -------
    ratio; NaN where no angle gives the signals.

    Raises
    ------
    ProtocolError
        If the flip angle is not in rad.
    ImageError
        If the images differ in shape.
    """
    _check_angle("DAM", flip_angle_rad)
    _check_pair("DAM", s_single, s_double)
    with np.errstate(all="ignore"):
        angle = np.arccos(0.5 * as_float64(s_double) / as_float64(s_single))
    return np.asarray(angle / flip_angle_rad, dtype=result_dtype(s_single, s_double))


def b1_from_tfl(famp: npt.ArrayLike, flip_angle_rad: float) -> Floats:
    """Return B1 from the flip-angle image of a turbo-FLASH sequence (BIDS ``TB1TFL``, ``acq-famp``).

    Its values are tenths of a degree: B1 = value / 10 / nominal.

    Parameters
    ----------
    famp : flip-angle image in tenths of a degree.
    flip_angle_rad : nominal flip angle in rad.

    Raises
    ------
    ProtocolError
        If the flip angle is not in rad.
    ImageError
        If the result cannot be a ratio, e.g. for values in degrees.
    """
    _check_angle("TFL", flip_angle_rad)
    ratio = np.deg2rad(as_float64(famp) / TFL_UNITS_PER_DEGREE) / flip_angle_rad
    check_b1(ratio, name="TFL, from tenths of a degree")
    return np.asarray(ratio, dtype=result_dtype(famp))


def b1_from_rf_map(values: npt.ArrayLike, flip_angle_rad: float) -> Floats:
    """Return B1 from a scanner's RF map (BIDS ``TB1RFM``): B1 = (value - 2048) 180 / 2048 / nominal (in degrees).

    Parameters
    ----------
    values : stored values, 0 to 4095.
    flip_angle_rad : nominal flip angle in rad.

    Raises
    ------
    ProtocolError
        If the flip angle is not in rad.
    ImageError
        If the result cannot be a ratio.
    """
    _check_angle("RF map", flip_angle_rad)
    degrees = (as_float64(values) - RF_MAP_ZERO) * RF_MAP_DEGREES_AT_FULL_SCALE / RF_MAP_ZERO
    ratio = np.deg2rad(degrees) / flip_angle_rad
    check_b1(ratio, name="RF map, from values of 0 to 4095")
    return np.asarray(ratio, dtype=result_dtype(values))


def b1_from_percent(values: npt.ArrayLike) -> Floats:
    """Return B1 from a ready-made map in percent of the nominal flip angle (BIDS ``TB1map``): value / 100.

    Raises
    ------
    ImageError
        If the median of its positive values is not between 10 and 1000: it may be a ratio already.
    """
    ratio = as_float64(values) / 100.0
    check_b1(ratio, name="TB1map, from percent")
    return np.asarray(ratio, dtype=result_dtype(values))


def _check_angle(method: str, flip_angle_rad: float) -> None:
    if not 0 < flip_angle_rad <= np.pi:
        raise ProtocolError(
            f"{method}: expected a flip angle in rad, above 0 and at most pi, found {flip_angle_rad:g}. "
            f"{flip_angle_rad:g} where {np.deg2rad(flip_angle_rad):.4g} is meant? Convert degrees with math.radians."
        )


def _check_pair(method: str, first: npt.ArrayLike, second: npt.ArrayLike) -> None:
    if np.shape(first) != np.shape(second):
        raise ImageError(
            f"{method}: expected two images of one shape, found {np.shape(first)} and {np.shape(second)}. "
            "Bring both onto one grid first."
        )
