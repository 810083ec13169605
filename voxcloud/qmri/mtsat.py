"""Magnetisation transfer saturation, corrected for the transmit field, and its error."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Float64, Floats, as_float64, check_b1, result_dtype
from voxcloud.qmri.protocol import Excitation, check_pair
from voxcloud.qmri.relaxation import Angles, R1Estimate, solve_r1

Correction = Literal["helms", "lipp", "none"]
CORRECTIONS: tuple[Correction, ...] = ("helms", "lipp", "none")
# How strongly the saturation grows with B1; each constant belongs to its own formula.
CONSTANTS: dict[Correction, float] = {"helms": 0.4, "lipp": 1.2, "none": 0.0}


@dataclass(frozen=True)
class MTsatEstimate:
    """MTsat in p.u. and its derivatives in p.u. per unit of signal, all corrected."""

    mtsat: Float64
    by_pdw: Float64
    by_t1w: Float64
    by_mtw: Float64


def solve_mtsat(
    s_mtw: Float64,
    estimate: R1Estimate,
    mtw: Excitation,
    b1: Float64 | None,
    correction: Correction,
    constant: float,
) -> MTsatEstimate:
    """Solve for MTsat on float64 arrays, given R1 and A with the B1 that the correction wants (``b1_inside``)."""
    from voxcloud.qmri.relaxation_kernel import solve_mtsat_array

    arrays = np.broadcast_arrays(
        s_mtw, 1.0 if b1 is None else b1, *(getattr(estimate, f.name) for f in fields(R1Estimate))
    )
    flat = [np.array(x, dtype=np.float64).ravel() for x in arrays]
    found = np.empty((4, flat[0].size))
    solve_mtsat_array(
        flat[0],
        flat[1],
        np.array(flat[2:]),
        mtw.flip_angle_rad,
        mtw.repetition_time_s,
        *correction_switches(correction, constant),
        found,
    )
    return MTsatEstimate(*(row.reshape(arrays[0].shape) for row in found))


def b1_inside(b1: Float64 | None, correction: Correction) -> Float64 | None:
    """Return the B1 with which R1, A and the flip angle enter MTsat: the map for Lipp's correction, else 1 (None)."""
    return b1 if correction == "lipp" else None


def correction_switches(correction: Correction, constant: float) -> tuple[bool, float]:
    """Return whether the correction is Lipp's, and its constant: 0 for no correction."""
    return correction == "lipp", 0.0 if correction == "none" else float(constant)


def estimate_mtsat(
    s_mtw: npt.ArrayLike,
    s_pdw: npt.ArrayLike,
    s_t1w: npt.ArrayLike,
    mtw: Excitation,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
    correction: Correction = "helms",
    constant: float | None = None,
) -> Floats:
    """Return MTsat in percent units (p.u.): saturation of the observed water per repetition.

    ``MTsat = 100 [(A a / S_MT - 1) R1 TR_MT - a^2 / 2]`` with the flip angle a of the MT-weighted series in rad. With
    ``helms`` (default) R1, A and a are those of nominal flip angles (fT = 1) and the result is multiplied by ``(1 - C)
    / (1 - C fT)``, C = 0.4; with ``lipp`` all three are those of actual flip angles and it is multiplied by ``1 / (1 +
    C (fT - 1))``, C = 1.2; ``none`` is helms without the factor, as is a missing B1 map.

    Parameters
    ----------
    s_mtw, s_pdw, s_t1w : signals at TE = 0 of one shape, arbitrary units.
    mtw, pdw, t1w : excitations (rad, s).
    b1 : ratio of actual to nominal flip angle; None: no correction.
    angles : for R1 and A; the MT-weighted flip angle itself always enters linearly.
    correction, constant : see above; the constant belongs to the MT pulse.

    Returns
    -------
    p.u., not clipped; NaN where a signal is zero or NaN. float32 if all signals are.

    Raises
    ------
    ProtocolError
        If the PDw and T1w excitations are the same.
    ImageError
        If B1 is not a ratio.

    References
    ----------
    1. Helms et al. (2008), doi:10.1002/mrm.21732.
    2. Tabelow et al. (2019), doi:10.1016/j.neuroimage.2019.01.029.
    """
    found = _solve((s_mtw, s_pdw, s_t1w), (mtw, pdw, t1w), b1, angles, correction, constant)
    return found.mtsat.astype(result_dtype(s_mtw, s_pdw, s_t1w))


def mtsat_error(
    signals: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    errors: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    mtw: Excitation,
    pdw: Excitation,
    t1w: Excitation,
    b1: npt.ArrayLike | None = None,
    *,
    angles: Angles = "exact",
    correction: Correction = "helms",
    constant: float | None = None,
) -> Floats:
    """Return the error of MTsat in p.u.: root of the sum over contrasts c of ``(dMTsat/dS_c e_c)^2``.

    Parameters
    ----------
    signals, errors : of MTw, PDw and T1w, in this order, in units of the images.

    The others, and what is raised, as for ``estimate_mtsat``.

    References
    ----------
    Mohammadi et al. (2022), doi:10.1016/j.neuroimage.2022.119529.
    """
    found = _solve(signals, (mtw, pdw, t1w), b1, angles, correction, constant)
    return propagate(found, *(as_float64(e) for e in errors)).astype(result_dtype(*signals))


def propagate(found: MTsatEstimate, e_mtw: Float64, e_pdw: Float64, e_t1w: Float64) -> Float64:
    """Return the error of MTsat in p.u. from those of the signals."""
    return np.asarray(np.hypot(np.hypot(found.by_mtw * e_mtw, found.by_pdw * e_pdw), found.by_t1w * e_t1w))


def _solve(
    signals: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    excitations: tuple[Excitation, Excitation, Excitation],
    b1: npt.ArrayLike | None,
    angles: Angles,
    correction: Correction,
    constant: float | None,
) -> MTsatEstimate:
    mtw, pdw, t1w = excitations
    check_pair(pdw, t1w)
    if b1 is not None:
        check_b1(b1)
    field = None if b1 is None else as_float64(b1)
    s_mtw, s_pdw, s_t1w = (as_float64(s) for s in signals)
    estimate = solve_r1(s_pdw, s_t1w, pdw, t1w, b1_inside(field, correction), angles)
    return solve_mtsat(s_mtw, estimate, mtw, field, correction, CONSTANTS[correction] if constant is None else constant)
