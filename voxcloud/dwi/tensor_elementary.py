"""Logarithm and exponential of float64 numbers, written so that a compiler can vectorise loops over them.

The same polynomials as those of ``voxcloud.qmri.elementary``, which a sibling package cannot be asked for: right within
1e-15 (logarithm, absolute or relative, whichever is larger) and 2e-15 (exponential, relative).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.dwi.lanes import FUSED

# ln 2 in parts: products of the first with small whole numbers are exact.
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Adding 1.5 x 2^52 rounds to a whole number, and leaves it in the lowest bits.
ROUNDER = 6755399441055744.0
ROOT_HALF_BITS = np.uint64(0x3FE6A09E667F3BCD)
ONE_LESS_ROOT_HALF_BITS = np.uint64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
MANTISSA_BITS = np.uint64(0xFFFFFFFFFFFFF)
TWO_TO_52_BITS = np.uint64(0x4330000000000000)
MANTISSA_LENGTH = np.uint64(52)
BIAS = 4503599627370496.0 + 1023.0
SIGNED_LENGTH, SIGNED_BIAS, ONE_BIT = np.int64(52), np.int64(1023), np.int64(1)
LARGEST, SMALLEST = 709.0, -708.0


@njit(**FUSED)
def log(x):  # type: ignore[no-untyped-def]
    """Return ln x of a positive, finite, normal number; anything else gives a number without meaning.

    ``x = 2^k m`` with m between the roots of 1/2 and 2; ``ln m = 2 artanh(s)``, ``s = (m - 1) / (m + 1)``, whose series
    is replaced by the polynomial in s^2 that interpolates it at Chebyshev nodes.
    """
    moved = np.float64(x).view(np.uint64) + ONE_LESS_ROOT_HALF_BITS
    k = np.uint64((moved >> MANTISSA_LENGTH) | TWO_TO_52_BITS).view(np.float64) - BIAS
    m = np.uint64((moved & MANTISSA_BITS) + ROOT_HALF_BITS).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 0.08310973545568069
    p = p * z + 0.09070092601200845
    p = p * z + 0.11111431238426316
    p = p * z + 0.14285712068258152
    p = p * z + 0.200000000056061
    p = p * z + 0.3333333333333104
    twice = s + s
    return k * LN2 + (twice * (p * z) + twice)


@njit(**FUSED)
def exp(x):  # type: ignore[no-untyped-def]
    """Return e^x; beyond -708 and 709 that of the limit. NaN stays NaN.

    ``x = k ln 2 + r``, and a polynomial for e^r that interpolates ``(e^r - 1 - r) / r^2`` at Chebyshev nodes.
    """
    x = LARGEST if x > LARGEST else x
    x = SMALLEST if x < SMALLEST else x
    rounded = x * LOG2_E + ROUNDER
    k = rounded - ROUNDER
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = 2.761380638547241e-07
    p = p * r + 2.7625115573872018e-06
    p = p * r + 2.4801536389742124e-05
    p = p * r + 0.00019841208732542773
    p = p * r + 0.001388888890588086
    p = p * r + 0.008333333353729397
    p = p * r + 0.04166666666665136
    p = p * r + 0.1666666666664829
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.int64((np.float64(rounded).view(np.int64) + SIGNED_BIAS) << SIGNED_LENGTH).view(np.float64)
    return p * power
