"""Extended phase graph of RF-spoiled FLASH: what is left of the transverse magnetisation when spoiling is imperfect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, as_float64
from voxcloud.qmri.protocol import ProtocolError

Complex128 = npt.NDArray[np.complex128]
Rephasing = Literal["as-dephasing", "exact"]

# Rounded as in the published coefficients, whose fourth decimal depends on it (exact: 42.5775).
GYROMAGNETIC_RATIO_RAD_PER_S_T = 2.0 * np.pi * 42.58e6
# States that cannot bring more than this share of the magnetisation back to an echo are left out.
NEGLIGIBLE = 1e-20


@dataclass(frozen=True)
class Spoiling:
    """How transverse magnetisation is spoiled, and how tissue itself helps.

    Attributes
    ----------
    rf_increment_rad : phase phi of RF spoiling; pulse n has phase phi n (n + 1) / 2.
    lobes : (amplitude T/m, duration s) of the spoiler's lobes, at the end of each repetition.
    t2_s : T2 in s.
    diffusion_m2_per_s : apparent diffusion coefficient in m^2/s.
    rephasing : how states that are being rephased diffuse. ``exact`` is the published theory: their order falls, from n
        to n - 1. ``as-dephasing`` treats it as rising, as the EPG code behind the published coefficients does; their
        fourth decimal needs it. R1 corrected by the one or the other differs by under .05 %.

    Raises
    ------
    ProtocolError
        If a value cannot be in its unit.
    """

    rf_increment_rad: float = float(np.deg2rad(137.0))
    lobes: tuple[tuple[float, float], ...] = ((26e-3, 3.3876e-3),)
    t2_s: float = 0.07
    diffusion_m2_per_s: float = 0.8e-9
    rephasing: Rephasing = "as-dephasing"

    def __post_init__(self) -> None:
        limits = [
            ("RF increment", abs(self.rf_increment_rad), 2 * np.pi, "rad; convert degrees with math.radians"),
            ("T2", self.t2_s, 5.0, "s; divide milliseconds by 1000"),
            ("diffusion coefficient", self.diffusion_m2_per_s, 1e-8, "m^2/s; 1 um^2/ms is 1e-9 m^2/s"),
        ]
        for amplitude, duration in self.lobes:
            limits.append(("gradient amplitude", abs(amplitude), 1.0, "T/m; divide mT/m by 1000"))
            limits.append(("gradient duration", duration, 1.0, "s; divide milliseconds by 1000"))
        for name, value, most, unit in limits:
            if not 0 <= value <= most or (name == "T2" and value == 0):
                raise ProtocolError(
                    f"spoiling: expected a {name} of at most {most:g}, found {value:g}. It is in {unit}."
                )
        if self.rephasing not in ("as-dephasing", "exact"):
            raise ProtocolError(f"spoiling: expected rephasing exact or as-dephasing, found '{self.rephasing}'.")

    @property
    def dephasing_rad_per_m(self) -> float:
        """Dephasing per repetition in rad/m."""
        return GYROMAGNETIC_RATIO_RAD_PER_S_T * sum(amplitude * duration for amplitude, duration in self.lobes)

    def describe(self) -> dict[str, Any]:
        """Return a plain record (JSON)."""
        return asdict(self) | {"lobes": [list(lobe) for lobe in self.lobes]}


def flash_epg(
    flip_angle_rad: npt.ArrayLike,
    t1_s: npt.ArrayLike,
    pulses: npt.ArrayLike,
    repetition_time_s: float,
    spoiling: Spoiling,
) -> Float64:
    """Return the signal |F0| right after the last pulse, as a fraction of equilibrium.

    Each repetition: rotation about an axis with the phase of RF spoiling; relaxation; diffusion; dephasing by one
    order.

    Parameters
    ----------
    flip_angle_rad : (n,) actual flip angles (B1 x nominal) in rad.
    t1_s : (n,) s.
    pulses : (n,) number of pulses of each; the steady state needs several T1.
    repetition_time_s : s.
    spoiling : how it is spoiled.

    Returns
    -------
    (n,)

    Raises
    ------
    ProtocolError
        If the spoiler is longer than the repetition time.

    References
    ----------
    1. Weigel et al. (2010), diffusion in phase graphs, doi:10.1016/j.jmr.2010.05.011.
    2. Weigel (2015), doi:10.1002/jmri.24619.
    """
    from voxcloud.qmri.epg_kernel import simulate  # numba takes half a second to import

    # Copies: what is broadcast cannot be written to, and would be compiled for anew.
    angle, t1, count = (
        np.array(x) for x in np.broadcast_arrays(as_float64(flip_angle_rad), as_float64(t1_s), np.asarray(pulses))
    )
    most = int(count.max())
    decay = float(np.exp(-repetition_time_s / spoiling.t2_s))
    longitudinal, rising, falling = _attenuation(_orders(decay, most), repetition_time_s, spoiling)
    # Pulse n has the phase phi n (n + 1) / 2; whole turns are taken off before they cost precision.
    turn = np.remainder(spoiling.rf_increment_rad * np.arange(1, most + 1), 2.0 * np.pi)
    signal = np.zeros(angle.size)
    simulate(
        angle.ravel(),
        np.exp(-repetition_time_s / t1.ravel()),
        count.ravel().astype(np.int64),
        turn,
        longitudinal,
        rising * decay,
        falling * decay,
        signal,
    )
    return signal.reshape(angle.shape)


def _orders(decay: float, pulses: int) -> int:
    """Return how many orders matter: order n decays as transverse magnetisation n times on its way there and back."""
    there_and_back = np.log(NEGLIGIBLE) / (2.0 * np.log(decay)) if decay > 0 else 1.0
    return max(2, min(pulses, int(np.ceil(there_and_back)) + 1))


def _attenuation(orders: int, repetition_time_s: float, spoiling: Spoiling) -> tuple[Float64, Float64, Float64]:
    """Return exp(-b D) per repetition for longitudinal states, rising F+ and falling F- states of each order.

    A state of wave number k adds ``k^2 t`` to b while nothing changes, and ``(k1^2 + k1 k2 + k2^2) t / 3`` while a
    gradient takes it from k1 to k2.
    """
    idle = repetition_time_s - sum(duration for _, duration in spoiling.lobes)
    if idle < 0:
        raise ProtocolError(
            f"spoiling: expected a spoiler that ends within the repetition time ({repetition_time_s:g} s), "
            f"found one that "
            f"is {-idle:g} s longer. Durations are in seconds."
        )
    d, step = spoiling.diffusion_m2_per_s, spoiling.dephasing_rad_per_m
    n = np.arange(orders, dtype=np.float64)

    def transverse(start: Float64) -> Float64:
        k = start
        b = k * k * idle
        for amplitude, duration in spoiling.lobes:
            end = k + GYROMAGNETIC_RATIO_RAD_PER_S_T * amplitude * duration
            b = b + (k * k + k * end + end * end) * duration / 3.0
            k = end
        return np.asarray(np.exp(-b * d))

    rising = transverse(n * step)
    falling = transverse(-n * step) if spoiling.rephasing == "exact" else rising
    return np.exp(-((n * step) ** 2) * repetition_time_s * d), rising, falling
