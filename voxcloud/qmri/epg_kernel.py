"""Extended phase graph of RF-spoiled FLASH, compiled: one simulation after another."""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.elementary import STRICT


@njit(**STRICT)
def simulate(  # type: ignore[no-untyped-def]
    angle, recovery, pulses, turn, longitudinal, rising, falling, found
):
    """Fill in |F0| right after the last pulse of each simulation.

    States are kept in the frame of the pulse, in which every rotation is the same; between pulses that frame turns by
    ``turn``. States of F+ rise by one order in each repetition and those of F- fall: their arrays are not moved, the
    place of order 0 in them is.

    Parameters
    ----------
    angle, recovery, pulses : (n,) rad, exp(-TR / T1) and number of pulses.
    turn : (most pulses,) by how much the phase of the next pulse is ahead of that of this one, in rad.
    longitudinal, rising, falling : (orders,) what is left of each state after a repetition, by relaxation (transverse
        only) and diffusion.
    found : (n,), filled.
    """
    orders = rising.size
    length = turn.size + orders + 2
    plus, minus = np.empty(length, np.complex128), np.empty(length, np.complex128)
    z = np.empty(orders, np.complex128)
    for n in range(angle.size):
        cos2, sin2 = np.cos(0.5 * angle[n]) ** 2, np.sin(0.5 * angle[n]) ** 2
        sin, cos = np.sin(angle[n]), np.cos(angle[n])
        plus[:], minus[:], z[:] = 0.0, 0.0, 0.0
        z[0] = 1.0
        up, down = turn.size + 1, 0  # where order 0 is
        for pulse in range(pulses[n]):
            back = np.exp(-1j * turn[pulse])
            last = pulse == pulses[n] - 1
            for k in range(min(pulse + 1, orders)):
                p, m, v = plus[up + k], minus[down + k], z[k]
                tipped = complex(-sin * v.imag, sin * v.real)  # i sin v
                turned, mirrored = cos2 * p + sin2 * m - tipped, sin2 * p + cos2 * m + tipped
                difference = p - m
                z[k] = complex(
                    cos * v.real + 0.5 * sin * difference.imag,
                    cos * v.imag - 0.5 * sin * difference.real,
                ) * (recovery[n] * longitudinal[k])
                if last and k == 0:
                    found[n] = abs(turned)
                plus[up + k] = turned * back * rising[k]
                minus[down + k] = mirrored * back.conjugate() * falling[k]
            z[0] += 1.0 - recovery[n]
            up, down = up - 1, down + 1
            plus[up] = minus[down].conjugate()
            minus[down + orders - 1] = 0.0
