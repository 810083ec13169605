"""R1, A, MTsat and their errors compiled: formulas of one voxel, and loops over voxels.

The formulas are those that ``relaxation``, ``mtsat`` and ``spoiling`` document. Nothing is rounded differently by place
in a block, so that loops may have any length.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from voxcloud.elementary import STRICT, tan

PERCENT_UNITS = 100.0
PER_MS = 1e-3
# A tile of voxels lies in one buffer, row by row: a compiler then sees that rows do not overlap, and vectorises.
TILE = 256
PDW, T1W, MTW, PDW_ERROR, T1W_ERROR, MTW_ERROR, FIELD, LOSS = (i * TILE for i in range(8))
R1, R1_ERROR, A, A_ERROR, MT, MT_ERROR, RATE, RATE_ERROR = ((8 + i) * TILE for i in range(8))
MAPS = 8


@njit(**STRICT)
def effective(angle, exact):  # type: ignore[no-untyped-def]
    """Return t of an actual flip angle in rad."""
    return 2.0 * tan(0.5 * angle) if exact else angle


@njit(**STRICT)
def r1_and_amplitude(p, s, t_p, t_s, tr_p, tr_s):  # type: ignore[no-untyped-def]
    """Return R1, A and the derivatives of R1, then A, by the signals of PDw, then T1w."""
    # Zero is no signal: nothing can be known there. No excitation, t = 0, gives NaN by itself.
    p = np.nan if p == 0.0 else p
    s = np.nan if s == 0.0 else s
    by_p, by_s = 1.0 / t_p, 1.0 / t_s
    bottom = 1.0 / (s * by_s - p * by_p)
    r1 = 0.5 * (p * t_p / tr_p - s * t_s / tr_s) * bottom
    r1_by_p = (0.5 * t_p / tr_p + r1 * by_p) * bottom
    r1_by_s = -(0.5 * t_s / tr_s + r1 * by_s) * bottom
    numerator = tr_s * t_p * by_s - tr_p * t_s * by_p
    below = 1.0 / (p * tr_s * t_p - s * tr_p * t_s)
    a = s * p * numerator * below
    common = numerator * (below * below)
    return r1, a, r1_by_p, r1_by_s, -s * s * tr_p * t_s * common, p * p * tr_s * t_p * common


@njit(**STRICT)
def mtsat_and_derivatives(m, r1, a, r1_by_p, r1_by_s, a_by_p, a_by_s, angle, tr, factor):  # type: ignore[no-untyped-def]
    """Return MTsat in p.u. and its derivatives by the signals of PDw, T1w and MTw."""
    inverse = 1.0 / (np.nan if m == 0.0 else m)
    ratio = angle * inverse
    excess = a * ratio - 1.0
    scale = PERCENT_UNITS * factor
    mtsat = scale * (excess * r1 * tr - 0.5 * angle * angle)
    by_p = scale * tr * (a_by_p * ratio * r1 + excess * r1_by_p)
    by_s = scale * tr * (a_by_s * ratio * r1 + excess * r1_by_s)
    return mtsat, by_p, by_s, -scale * tr * a * r1 * ratio * inverse


@njit(**STRICT)
def transmit_factor(b1, lipp, constant):  # type: ignore[no-untyped-def]
    """Return what corrects MTsat for the transmit field: 1 where B1 is, or for a constant of 0."""
    return 1.0 / (1.0 + constant * (b1 - 1.0)) if lipp else (1.0 - constant) / (1.0 - constant * b1)


@njit(**STRICT)
def spoiling_factors(r1, b1, p_a, p_b, p_c):  # type: ignore[no-untyped-def]
    """Return by what R1 (1/s) is divided, and the derivative of the corrected by the apparent R1."""
    per_ms = r1 * PER_MS
    a = (p_a[0] * b1 + p_a[1]) * b1 + p_a[2]
    b = (p_b[0] * b1 + p_b[1]) * b1 + p_b[2]
    c = (p_c[0] * b1 + p_c[1]) * b1 + p_c[2]
    curve = c / per_ms if c != 0.0 else 0.0
    below = a * per_ms + b + curve
    return below, (b + 2.0 * curve) / (below * below)


@njit(**STRICT)
def solve_r1_array(s_pdw, s_t1w, t_pdw, t_t1w, tr_pdw, tr_t1w, found):  # type: ignore[no-untyped-def]
    """Fill ``found`` (6, v) with what ``r1_and_amplitude`` returns; t are (v,)."""
    for i in range(s_pdw.size):
        values = r1_and_amplitude(s_pdw[i], s_t1w[i], t_pdw[i], t_t1w[i], tr_pdw, tr_t1w)
        for k in range(6):
            found[k, i] = values[k]


@njit(**STRICT)
def effective_array(angle, exact, found):  # type: ignore[no-untyped-def]
    """Fill ``found`` with t of each angle."""
    for i in range(angle.size):
        found[i] = effective(angle[i], exact)


@njit(**STRICT)
def solve_mtsat_array(s_mtw, b1, estimate, angle, tr, lipp, constant, found):  # type: ignore[no-untyped-def]
    """Fill ``found`` (4, v) with MTsat and derivatives; ``estimate`` is (6, v) of R1 and A, b1 (v,)."""
    for i in range(s_mtw.size):
        r1, a, r1_by_p = estimate[0, i], estimate[1, i], estimate[2, i]
        r1_by_s, a_by_p, a_by_s = estimate[3, i], estimate[4, i], estimate[5, i]
        actual = angle * b1[i] if lipp else angle
        factor = transmit_factor(b1[i], lipp, constant)
        values = mtsat_and_derivatives(s_mtw[i], r1, a, r1_by_p, r1_by_s, a_by_p, a_by_s, actual, tr, factor)
        for k in range(4):
            found[k, i] = values[k]


@njit(**STRICT)
def _triples(polynomials):  # type: ignore[no-untyped-def]
    """Return the rows as tuples: loads from an array would keep a loop from being vectorised."""
    return (
        (polynomials[0, 0], polynomials[0, 1], polynomials[0, 2]),
        (polynomials[1, 0], polynomials[1, 1], polynomials[1, 2]),
        (polynomials[2, 0], polynomials[2, 1], polynomials[2, 2]),
    )


@njit(**STRICT)
def spoiling_array(r1, b1, polynomials, below, slope):  # type: ignore[no-untyped-def]
    """Fill in ``spoiling_factors`` of every voxel."""
    p_a, p_b, p_c = _triples(polynomials)
    for i in range(r1.size):
        below[i], slope[i] = spoiling_factors(r1[i], b1[i], p_a, p_b, p_c)


@njit(**STRICT)
def maps_tiles(  # type: ignore[no-untyped-def]
    fitted, loss, b1, excitations, exact, spoiled, polynomials, lipp, constant, limits, offset, found, counts
):
    """Make the maps of the voxels from ``offset`` on from signals at TE = 0, all corrected and within limits.

    Parameters
    ----------
    fitted : (2 + 2 trains, v) for these voxels only: R2*, its error, TE = 0 signals and residuals of PDw, T1w and, if
        there, MTw.
    loss : (v,) for these too: by what A is divided (1 for signals at TE = 0).
    b1 : (w,) of all voxels: ratio; 1 where there is no map.
    excitations : (trains, 2) flip angle in rad and repetition time in s.
    exact : whether t is 2 tan(a / 2).
    spoiled, polynomials : whether R1 is corrected for imperfect spoiling, and its (3, 3) coefficients.
    lipp, constant : MTsat correction; Lipp's has R1, A and the angle in it for actual angles.
    limits : (8, 2) of the maps.
    found : (8 or more, w) float32 or float64, filled: R1, A, MTsat, R2*, each with its error behind it.
    counts : (8 or more, 2) int64, added to: voxels beyond limits, and not finite after them.
    """
    n, trains = fitted.shape[1], excitations.shape[0]
    work = np.ones(16 * TILE)
    for start in range(0, n, TILE):
        size = min(TILE, n - start)
        for c in range(trains):
            _copy(fitted[2 + c], start, size, work, c * TILE)
            _copy(fitted[2 + trains + c], start, size, work, PDW_ERROR + c * TILE)
        _copy(b1, offset + start, size, work, FIELD)
        _copy(loss, start, size, work, LOSS)
        _copy(fitted[0], start, size, work, RATE)
        _copy(fitted[1], start, size, work, RATE_ERROR)
        _relaxation(work, excitations, exact, spoiled, polynomials)
        if trains > 2:
            _saturation(work, excitations, exact, lipp, constant)
        for k in range(MAPS):
            limit(work, R1 + k * TILE, limits[k, 0], limits[k, 1], offset + start, size, found, k, counts)


@njit(**STRICT)
def _copy(values, start, size, work, row):  # type: ignore[no-untyped-def]
    # Unsigned indices are not looked at for counting from the end, which keeps loops from being vectorised.
    source, target = np.uint64(start), np.uint64(row)
    for i in range(size):
        work[target + np.uint64(i)] = values[source + np.uint64(i)]


@njit(**STRICT)
def _relaxation(work, excitations, exact, spoiled, polynomials):  # type: ignore[no-untyped-def]
    angle_p, angle_s, tr_p, tr_s = excitations[0, 0], excitations[1, 0], excitations[0, 1], excitations[1, 1]
    p_a, p_b, p_c = _triples(polynomials)
    for i in range(TILE):
        b1, p, s = work[FIELD + i], work[PDW + i], work[T1W + i]
        t_p, t_s = effective(angle_p * b1, exact), effective(angle_s * b1, exact)
        r1, a, r1_by_p, r1_by_s, a_by_p, a_by_s = r1_and_amplitude(p, s, t_p, t_s, tr_p, tr_s)
        below, slope = spoiling_factors(r1, b1, p_a, p_b, p_c)
        e_p, e_s, loss = work[PDW_ERROR + i], work[T1W_ERROR + i], 1.0 / work[LOSS + i]
        error = np.sqrt((r1_by_p * e_p) ** 2 + (r1_by_s * e_s) ** 2)
        work[R1 + i] = r1 / below if spoiled else r1
        work[R1_ERROR + i] = error * abs(slope) if spoiled else error
        work[A + i] = a * loss
        work[A_ERROR + i] = np.sqrt((a_by_p * e_p) ** 2 + (a_by_s * e_s) ** 2) * loss


@njit(**STRICT)
def _saturation(work, excitations, exact, lipp, constant):  # type: ignore[no-untyped-def]
    angle_p, angle_s, angle_m = excitations[0, 0], excitations[1, 0], excitations[2, 0]
    tr_p, tr_s, tr_m = excitations[0, 1], excitations[1, 1], excitations[2, 1]
    for i in range(TILE):
        field, p, s, m = work[FIELD + i], work[PDW + i], work[T1W + i], work[MTW + i]
        b1 = field if lipp else 1.0
        t_p, t_s = effective(angle_p * b1, exact), effective(angle_s * b1, exact)
        r1, a, r1_by_p, r1_by_s, a_by_p, a_by_s = r1_and_amplitude(p, s, t_p, t_s, tr_p, tr_s)
        mtsat, by_p, by_s, by_m = mtsat_and_derivatives(
            m, r1, a, r1_by_p, r1_by_s, a_by_p, a_by_s, angle_m * b1, tr_m, transmit_factor(field, lipp, constant)
        )
        e_p, e_s, e_m = work[PDW_ERROR + i], work[T1W_ERROR + i], work[MTW_ERROR + i]
        work[MT + i] = mtsat
        work[MT_ERROR + i] = np.sqrt((by_m * e_m) ** 2 + (by_p * e_p) ** 2 + (by_s * e_s) ** 2)


@njit(**STRICT)
def limit(values, first, low, high, start, size, found, k, counts):  # type: ignore[no-untyped-def]
    """Bring ``values[first : first + size]`` within limits, store them as ``found[k, start:]`` and count."""
    beyond, unknown = 0, 0
    source, target = np.uint64(first), np.uint64(start)
    for i in range(size):
        value = values[source + np.uint64(i)]
        beyond += 1 if (value < low or value > high) else 0
        value = low if value < low else value
        value = high if value > high else value
        found[k, target + np.uint64(i)] = value
        unknown += 0 if abs(found[k, target + np.uint64(i)]) < np.inf else 1
    counts[k, 0] += beyond
    counts[k, 1] += unknown
