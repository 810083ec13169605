"""Signals of the sequences in their steady state, written down anew: what the maps are made with is not used here.

R1 in 1/s, angles in rad, times in s; every function takes arrays that broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

MT_PULSE_SATURATION = 0.763
"""Exponent w of ``mt_saturation``: the value whose slope at nominal power is that measured at 3 T (C = 0.4)."""


def flash_signal(
    r1: Floats, pd: Floats, flip_angle_rad: Floats | float, repetition_time_s: float, saturation: Floats | float = 0.0
) -> Floats:
    """Return the spoiled FLASH signal at TE = 0.

    Before each excitation a pulse takes the fraction d of the longitudinal magnetisation; transverse magnetisation is
    gone at the end of each repetition. With ``E = exp(-R1 TR)`` the state that repeats itself,
    ``M = 1 - E + E cos(a) (1 - d) M``, gives

        S = PD sin(a) (1 - d) (1 - E) / (1 - (1 - d) E cos(a))

    References
    ----------
    Helms et al. (2008), doi:10.1002/mrm.21732.
    """
    e1 = np.exp(-r1 * repetition_time_s)
    left = 1.0 - saturation
    return np.asarray(
        pd * np.sin(flip_angle_rad) * left * (1.0 - e1) / (1.0 - left * e1 * np.cos(flip_angle_rad)), dtype=pd.dtype
    )


def mt_saturation(mtsat: Floats, b1: Floats, pulse_saturation: float = MT_PULSE_SATURATION) -> Floats:
    """Return the saturation per repetition as a fraction, where B1 is ``b1`` times nominal.

    A pulse of power fT^2 leaves ``exp(-w fT^2)`` of the bound pool's magnetisation, and the free water loses in
    proportion to what the bound pool lost:

        d(fT) = MTsat / 100 (1 - exp(-w fT^2)) / (1 - exp(-w))

    w = 0 is the pure law of squares, d = MTsat fT^2 / 100, which holds for weak pulses. MTsat, the truth, is the value
    at nominal power in percent units. The calculation of MTsat from images divides by fT^2; what is left over is
    corrected there by ``(1 - C) / (1 - C fT)`` with C = 0.4, measured at 3 T by Helms et al. The slope of
    d / fT^2 at fT = 1 is -C / (1 - C) for w = 0.763: with this default the correction is right within 1 % for fT of
    0.7 to 1.3, and 11 to 15 % wrong at 0.8 and 1.2 if w = 0.

    Parameters
    ----------
    mtsat
        p.u. at nominal B1.
    pulse_saturation
        w, at least 0.

    References
    ----------
    Helms et al. (2021), arXiv:2104.14878; Lipp et al. (2023), doi:10.1002/mrm.29653.
    """
    power = b1 * b1
    if pulse_saturation > 0:
        power = np.expm1(-pulse_saturation * power) / np.expm1(-pulse_saturation)
    return np.asarray(0.01 * mtsat * power, dtype=np.asarray(mtsat).dtype)


def afi_signals(
    r1: Floats, pd: Floats, flip_angle_rad: Floats, repetition_times_s: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return both signals of actual flip-angle imaging: excitations in turn, TR1 after the first, TR2 after the second.

    ``S1 = PD sin(a) (1 - E2 + (1 - E1) E2 cos(a)) / (1 - E1 E2 cos(a)^2)``, S2 with E1 and E2 exchanged; no first-order
    approximation.

    References
    ----------
    Yarnykh (2007), doi:10.1002/mrm.21120.
    """
    e1, e2 = (np.exp(-r1 * tr) for tr in repetition_times_s)
    cosine = np.cos(flip_angle_rad)
    common = pd * np.sin(flip_angle_rad) / (1.0 - e1 * e2 * cosine * cosine)
    first = common * (1.0 - e2 + (1.0 - e1) * e2 * cosine)
    second = common * (1.0 - e1 + (1.0 - e2) * e1 * cosine)
    return np.asarray(first, dtype=pd.dtype), np.asarray(second, dtype=pd.dtype)


def seste_signals(r1: Floats, pd: Floats, angle_rad: Floats, mixing_time_s: float) -> tuple[Floats, Floats]:
    """Return spin and stimulated echo (magnitudes) of a - 2a - TM - a, fully relaxed before each train.

    ``SE = PD sin(a)^3`` and ``STE = PD |sin(a)^3 cos(a)| exp(-TM R1)``: of the magnetisation that would form the spin
    echo the third pulse tips the part that was stored. T2 decay is the same for both and left out.

    References
    ----------
    Jiru and Klose (2006), doi:10.1002/mrm.21083; Lutti et al. (2010), doi:10.1002/mrm.22421.
    """
    spin = pd * np.abs(np.sin(angle_rad)) ** 3
    stimulated = spin * np.abs(np.cos(angle_rad)) * np.exp(-r1 * mixing_time_s)
    return np.asarray(spin, dtype=pd.dtype), np.asarray(stimulated, dtype=pd.dtype)


def rician(signal: npt.NDArray[np.float32], sd: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the magnitude of the signal plus complex Gaussian noise with this SD in both channels."""
    if sd == 0:
        return np.abs(signal)
    real = rng.standard_normal(signal.shape, dtype=np.float32)
    real *= np.float32(sd)
    real += signal
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary *= np.float32(sd)
    return np.hypot(real, imaginary, out=real)
