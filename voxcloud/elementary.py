"""Logarithm, exponential and tangent of float64 numbers, written so that a compiler can vectorise loops over them.

numba calls the C library for each number, which keeps a loop from being vectorised; these are branch-free polynomials.
Largest errors, measured against extended precision over the ranges given (tests): logarithm 1e-15 absolute or relative,
whichever is larger; exponential 2e-15 relative; tangent 4e-15 relative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# contract: a * b + c may be rounded once. For loops over tiles or lanes of one length, so that every voxel meets the
# same instructions, wherever in a block it is.
FUSED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
# For loops of any length, whose last voxels meet other instructions than the others: those must round alike.
STRICT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

LN2 = 0.6931471805599453
# ln 2 and pi / 2 in parts: products of the first with small whole numbers are exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
HALF_PI_HIGH, HALF_PI_LOW = 1.57079632673412561417e00, 6.07710050650619224932e-11
LOG2_E, TWO_OVER_PI = 1.4426950408889634, 0.6366197723675814
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


@njit(**STRICT)
def tan(x):  # type: ignore[no-untyped-def]
    """Return tan x for |x| up to 1e5 rad.

    ``x = k pi / 2 + r``; sine and cosine of r by their series to r^17 and r^16, whose quotient or, for odd k, its
    negative inverse is the tangent.
    """
    rounded = x * TWO_OVER_PI + ROUNDER
    k = rounded - ROUNDER
    r = (x - k * HALF_PI_HIGH) - k * HALF_PI_LOW
    z = r * r
    s = 1.0 / 355687428096000.0
    s = s * z - 1.0 / 1307674368000.0
    s = s * z + 1.0 / 6227020800.0
    s = s * z - 1.0 / 39916800.0
    s = s * z + 1.0 / 362880.0
    s = s * z - 1.0 / 5040.0
    s = s * z + 1.0 / 120.0
    s = s * z - 1.0 / 6.0
    s = r + r * (s * z)
    c = 1.0 / 20922789888000.0
    c = c * z - 1.0 / 87178291200.0
    c = c * z + 1.0 / 479001600.0
    c = c * z - 1.0 / 3628800.0
    c = c * z + 1.0 / 40320.0
    c = c * z - 1.0 / 720.0
    c = c * z + 1.0 / 24.0
    c = c * z - 0.5
    c = c * z + 1.0
    odd = (np.float64(rounded).view(np.int64) & ONE_BIT) == ONE_BIT
    top = -c if odd else s
    bottom = s if odd else c
    return top / bottom
